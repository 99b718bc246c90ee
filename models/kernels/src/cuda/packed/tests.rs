//! Kernels on the first GPU, held against the file's blocks read one by one. Without a GPU: SKIP.

use cudarc::driver::CudaContext;

use super::super::{Decode, Found};
use super::*;
use crate::planes::tests::{assert_gated, assert_near, blocks, numbers, product, values, widened};

/// The first GPU's stream and kernels.
fn device() -> Option<(Arc<CudaStream>, PackedKernels)> {
    // The driver's library may be missing or a stub.
    let context = std::panic::catch_unwind(|| CudaContext::new(0).ok());
    let Some(context) = context.ok().flatten() else {
        println!("SKIP: there is no GPU");
        return None;
    };
    let stream = context.new_stream().unwrap();
    let kernels = PackedKernels::load(&stream).unwrap();
    Some((stream, kernels))
}

#[test]
fn rows_are_rounded_to_a_part_in_254_of_a_units_largest() {
    let Some((stream, kernels)) = device() else {
        return;
    };
    let (rows, columns) = (3, 320);
    let x = numbers(rows * columns);
    let sent = stream.clone_htod(&x).unwrap();
    let rounded = kernels.round(&sent.as_view(), (rows, columns)).unwrap();
    let found = widened(&stream.clone_dtoh(&rounded).unwrap(), columns);
    for (unit, found) in x.chunks_exact(UNIT).zip(found.chunks_exact(UNIT)) {
        let largest = unit.iter().fold(0.0_f32, |most, one| most.max(one.abs()));
        for (expected, found) in unit.iter().zip(found) {
            assert!((expected - found).abs() <= largest / 253.0);
        }
    }
}

#[test]
fn every_kind_is_multiplied_unpacked_and_looked_up() {
    let Some((stream, kernels)) = device() else {
        return;
    };
    for (kind, columns, heights) in PlaneKind::ALL.into_iter().flat_map(|kind| {
        let sizes = [(256, 64), (1024, 33), (2048, 192), (4608, 70), (14336, 64)];
        sizes.map(|(columns, heights)| (kind, columns, heights))
    }) {
        let what = format!("{kind:?}, {heights} × {columns}");
        let file = blocks(kind, heights * columns / kind.kind().file_block());
        let expected = values(kind, &file);
        let matrix = kernels
            .matrix(kind, (heights, columns), &kind.sort(&file))
            .unwrap();

        let halves = stream
            .clone_dtoh(&kernels.halves(&matrix).unwrap())
            .unwrap();
        for (found, expected) in halves.iter().zip(&expected) {
            let off = (found.to_f32() - expected).abs();
            assert!(
                off <= expected.abs() / 1000.0 + 1e-3,
                "{what}: {found} {expected}"
            );
        }
        let ids = [2_u32, 0, u32::MAX, 31];
        let sent = stream.clone_htod(&ids).unwrap();
        let found = kernels.rows(&matrix, &sent.as_view()).unwrap();
        let found = stream.clone_dtoh(&found).unwrap();
        let named = ids.map(|id| (id as usize).min(heights - 1));
        let rows = named.map(|row| &expected[row * columns..][..columns]);
        for (found, expected) in found.iter().zip(rows.concat()) {
            assert!(
                (found - expected).abs() <= 1e-4 * expected.abs() + 1e-4,
                "{what}"
            );
        }

        let mut alone = Vec::new();
        for rows in [1, 2, 3, 5, 8, 9, 20] {
            let x = numbers(rows * columns);
            let sent = stream.clone_htod(&x).unwrap();
            let rounded = kernels.round(&sent.as_view(), (rows, columns)).unwrap();
            let seen = widened(&stream.clone_dtoh(&rounded).unwrap(), columns);
            let made = kernels.multiply(&rounded.as_view(), rows, &matrix).unwrap();
            let made = stream.clone_dtoh(&made).unwrap();
            assert_near(&made, &product(&seen, &expected, columns), &what);
            // The first rows are the same in all.
            let first = &made[..heights];
            alone.extend((rows == 1).then(|| first.to_vec()).into_iter().flatten());
            assert_eq!(first, alone, "{what}: beside {rows} rows");
        }
    }
}

#[test]
fn gates_are_multiplied_and_rounded_at_once_whatever_stands_beside_a_row() {
    let Some((stream, kernels)) = device() else {
        return;
    };
    for (kind, columns, width) in PlaneKind::ALL.into_iter().flat_map(|kind| {
        [(256, 32), (2048, 96), (4096, 64)].map(|(columns, width)| (kind, columns, width))
    }) {
        let what = format!("{kind:?}, {width} × {columns}");
        let each = width * columns / kind.kind().file_block();
        let file = blocks(kind, 2 * each);
        let (above, below) = file.split_at(file.len() / 2);
        let of = |file: &[u8]| {
            kernels
                .matrix(kind, (width, columns), &kind.sort(file))
                .unwrap()
        };
        let matrix = kernels.stacked(&of(above), &of(below)).unwrap();
        assert_eq!((matrix.heights(), matrix.columns()), (2 * width, columns));
        let expected = values(kind, &file);
        let mut alone = Vec::new();
        for rows in [1, 2, 4, 7, 19] {
            // Gates that neither vanish nor saturate.
            let x: Vec<f32> = numbers(rows * columns).iter().map(|x| x / 50.0).collect();
            let sent = stream.clone_htod(&x).unwrap();
            let rounded = kernels.round(&sent.as_view(), (rows, columns)).unwrap();
            let seen = widened(&stream.clone_dtoh(&rounded).unwrap(), columns);
            let made = kernels
                .multiply_gated(&rounded.as_view(), rows, &matrix)
                .unwrap();
            let made = stream.clone_dtoh(&made).unwrap();
            let first = &made[..rounded_bytes(width)];
            alone.extend((rows == 1).then(|| first.to_vec()).into_iter().flatten());
            assert_eq!(first, alone, "{what}: beside {rows} rows");
            let found = widened(&made, width);
            let both = product(&seen, &expected, columns);
            assert_gated(&found, &both, width, &what);
        }
    }
}

#[test]
fn a_norm_that_is_rounded_is_the_norm() {
    let Some((stream, _)) = device() else {
        return;
    };
    let decode = Decode::load(&stream).unwrap();
    let (rows, columns) = (3, 2112);
    let send = |numbers: &[f32]| stream.clone_htod(numbers).unwrap();
    let (x, y) = (
        send(&numbers(rows * columns)),
        send(&vec![0.25; rows * columns]),
    );
    let factors = send(&numbers(columns));
    let run = |rounded| {
        let factors = (&factors.as_view(), 1e-5);
        let (sum, normed) = decode
            .add_norm((&x.as_view(), &y.as_view()), factors, rounded)
            .unwrap();
        let normed = match normed {
            Found::Numbers(numbers) => stream.clone_dtoh(&numbers).unwrap(),
            Found::Rounded(bytes) => widened(&stream.clone_dtoh(&bytes).unwrap(), columns),
        };
        (stream.clone_dtoh(&sum).unwrap(), normed)
    };
    let ((sum, normed), (same, rounded)) = (run(false), run(true));
    assert_eq!(sum, same);
    for (exact, found) in normed.chunks_exact(UNIT).zip(rounded.chunks_exact(UNIT)) {
        let largest = exact.iter().fold(0.0_f32, |most, one| most.max(one.abs()));
        for (exact, found) in exact.iter().zip(found) {
            assert!((exact - found).abs() <= largest / 253.0);
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let Some((stream, kernels)) = device() else {
        return;
    };
    let file = blocks(PlaneKind::Q4K, 64);
    let sorted = PlaneKind::Q4K.sort(&file);
    for shape in [(64, 512), (63, 256), (0, 256), (64, 0), (128, 128)] {
        assert!(kernels.matrix(PlaneKind::Q4K, shape, &sorted).is_err());
    }
    let matrix = kernels.matrix(PlaneKind::Q4K, (64, 256), &sorted).unwrap();
    let x = stream.alloc_zeros::<u8>(rounded_bytes(256) * 2).unwrap();
    assert!(kernels.multiply(&x.as_view(), 3, &matrix).is_err());
    assert!(kernels.multiply(&x.as_view(), 0, &matrix).is_err());
    let other = kernels.matrix(PlaneKind::Q4K, (32, 512), &sorted).unwrap();
    assert!(kernels.stacked(&matrix, &other).is_err());
    let numbers = stream.alloc_zeros::<f32>(100).unwrap();
    assert!(kernels.round(&numbers.as_view(), (2, 50)).is_err());
}
