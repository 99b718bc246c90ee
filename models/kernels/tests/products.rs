//! Every kind, set and number of rows against sums in double precision, and against each other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should stop"
)]

use casemate_kernels::{
    Activations, Isa, Kind, PackError, Packed, Pool, Precision, Product, ShapeError, multiply,
};
use proptest::prelude::*;

/// Numbers that only a seed decides.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// From -1 to 1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1_u64 << 30) as f32 - 1.0
    }
}

/// Where a block's F16 numbers stand, as offsets.
fn halves(kind: Kind) -> &'static [usize] {
    match kind {
        Kind::F32 | Kind::BF16 => &[],
        Kind::Q4_1 | Kind::Q5_1 | Kind::Q4K | Kind::Q5K => &[0, 2],
        Kind::Q2K => &[80, 82],
        Kind::Q3K => &[108],
        Kind::Q6K => &[208],
        _ => &[0],
    }
}

/// A file's bytes: any weights, and scales that are sensible numbers.
fn file(kind: Kind, rows: usize, columns: usize, numbers: &mut Numbers) -> Vec<u8> {
    let blocks = rows * columns / kind.file_block();
    let mut bytes = Vec::new();
    for _ in 0..blocks {
        let mut block: Vec<u8> = (0..kind.file_bytes())
            .map(|_| numbers.next() as u8)
            .collect();
        match kind {
            Kind::F32 => block = numbers.float().to_le_bytes().to_vec(),
            Kind::BF16 => block = half::bf16::from_f32(numbers.float()).to_le_bytes().to_vec(),
            _ => {
                for at in halves(kind) {
                    let scale = half::f16::from_f32(numbers.float() * 0.1).to_le_bytes();
                    block[*at..at + 2].copy_from_slice(&scale);
                }
            }
        }
        bytes.extend(block);
    }
    bytes
}

fn pool() -> Pool {
    Pool::new(2).unwrap()
}

fn activations(precision: Precision, rows: &[Vec<f32>], pool: &Pool) -> Activations {
    let mut rounded = Activations::new(precision);
    let columns = rows.first().map_or(0, Vec::len);
    assert!(rounded.fill(rows.len(), columns, pool, |row, out| {
        out.copy_from_slice(&rows[row])
    }));
    rounded
}

fn product(isa: Isa, weights: &Packed, rows: &[Vec<f32>], pool: &Pool) -> Vec<f32> {
    let rounded = activations(weights.kind().precision(), rows, pool);
    let mut out = vec![f32::NAN; rows.len() * weights.rows()];
    let products = &mut [Product {
        weights,
        out: &mut out,
    }];
    multiply(isa, &rounded, products, pool).unwrap();
    out
}

/// What 8 bits leave of a row: ggml's rounding, said in another way.
fn rounded(precision: Precision, row: &[f32]) -> Vec<f64> {
    let round = |block: &[f32]| -> Vec<f64> {
        let largest = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        if largest == 0.0 {
            return vec![0.0; block.len()];
        }
        match precision {
            Precision::Fixed32 => {
                let (scale, inverse) = (f64::from(largest / 8191.0), 8191.0 / largest);
                block
                    .iter()
                    .map(|x| f64::from((x * inverse).round_ties_even()) * scale)
                    .collect()
            }
            Precision::Bytes32 => {
                let scale = half::f16::from_f32(largest / 127.0).to_f64();
                let inverse = 127.0 / largest;
                block
                    .iter()
                    .map(|x| f64::from((x * inverse).round_ties_even()) * scale)
                    .collect()
            }
            _ => {
                let max = block.iter().find(|x| x.abs() == largest).unwrap();
                let inverse = -127.0 / max;
                let scale = f64::from(1.0 / inverse);
                block
                    .iter()
                    .map(|x| f64::from((x * inverse).round_ties_even().min(127.0)) * scale)
                    .collect()
            }
        }
    };
    match precision {
        Precision::Float => row.iter().map(|x| f64::from(*x)).collect(),
        _ => row.chunks(precision.block()).flat_map(round).collect(),
    }
}

/// The sums in double precision, and how large their terms are.
fn exact(weights: &Packed, rows: &[Vec<f32>]) -> Vec<(f64, f64)> {
    let mut values = vec![0.0; weights.columns()];
    let mut all = vec![(0.0, 0.0); rows.len() * weights.rows()];
    let rounded: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| rounded(weights.kind().precision(), row))
        .collect();
    for output in 0..weights.rows() {
        assert!(weights.row(output, &mut values));
        for (at, row) in rounded.iter().enumerate() {
            let terms = values
                .iter()
                .zip(row)
                .map(|(weight, x)| f64::from(*weight) * x);
            let sum: f64 = terms.clone().sum();
            all[at * weights.rows() + output] = (sum, terms.map(f64::abs).sum());
        }
    }
    all
}

fn input(rows: usize, columns: usize, numbers: &mut Numbers) -> Vec<Vec<f32>> {
    let row = |numbers: &mut Numbers| (0..columns).map(|_| numbers.float()).collect();
    (0..rows).map(|_| row(numbers)).collect()
}

#[test]
fn every_kernel_gives_the_exact_sum() {
    let pool = pool();
    for kind in Kind::ALL {
        let mut numbers = Numbers(kind.file_bytes() as u64);
        // ggml keeps the sum that multiplies these kinds' minima as F16.
        let coarse = matches!(kind, Kind::Q4_1 | Kind::Q5_1);
        let bar = if coarse { 1e-3 } else { 2e-6 };
        for (outputs, columns) in [(16, 256), (40, 1024), (7, 512)] {
            let bytes = file(kind, outputs, columns, &mut numbers);
            let weights = Packed::new(kind, outputs, columns, &bytes, &pool).unwrap();
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16, 25, 38] {
                let rows = input(rows, columns, &mut numbers);
                let exact = exact(&weights, &rows);
                for isa in Isa::available() {
                    let found = product(isa, &weights, &rows, &pool);
                    for (found, (exact, size)) in found.iter().zip(&exact) {
                        let error = (f64::from(*found) - exact).abs();
                        assert!(
                            error <= bar * size,
                            "{kind:?} {isa:?}: {found} is not {exact}"
                        );
                    }
                }
            }
        }
    }
}

/// Sets add products up in 16 bits where they fit: here they are as large as they become, of one sign and of both.
#[test]
fn the_largest_numbers_fit() {
    let pool = pool();
    let (outputs, columns) = (18, 256);
    let signs: [fn(usize) -> f32; 4] = [
        |_| 1.0,
        |_| -1.0,
        |column| if column % 2 == 0 { 1.0 } else { -1.0 },
        |column| if column % 4 < 2 { -1.0 } else { 1.0 },
    ];
    let rows: Vec<Vec<f32>> = signs
        .iter()
        .map(|sign| (0..columns).map(sign).collect())
        .collect();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.block() > 1) {
        for byte in [0x00, 0x01, 0x7f, 0x80, 0x81, 0xff] {
            let mut block = vec![byte; kind.file_bytes()];
            for at in halves(kind) {
                block[*at..at + 2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
            }
            if kind == Kind::BF16 {
                // A number of some size below two: the sum of many must be one.
                block = vec![byte, 0x3f];
            }
            let bytes = block.repeat(outputs * columns / kind.file_block());
            let weights = Packed::new(kind, outputs, columns, &bytes, &pool).unwrap();
            let exact = exact(&weights, &rows);
            let coarse = matches!(kind, Kind::Q4_1 | Kind::Q5_1);
            let bar = if coarse { 1e-3 } else { 2e-6 };
            for isa in Isa::available() {
                let found = product(isa, &weights, &rows, &pool);
                for (found, (exact, size)) in found.iter().zip(&exact) {
                    assert!(
                        (f64::from(*found) - exact).abs() <= bar * size,
                        "{kind:?} of {byte:#04x}, {isa:?}: {found} is not {exact}"
                    );
                }
            }
        }
    }
}

/// Halves become fixed-point numbers, and so do their inputs: no further from the exact product of what the file says and of
/// unrounded inputs than F16 inputs would be (each off by up to 1/2,048 of itself), for rows that end inside a block too.
#[test]
fn halves_are_as_exact_as_with_inputs_of_f16() {
    let pool = pool();
    for (kind, columns) in [
        (Kind::F16, 512),
        (Kind::BF16, 512),
        (Kind::F16, 529),
        (Kind::BF16, 7),
    ] {
        let (outputs, mut numbers) = (40, Numbers(11));
        // Sums of a few uniform numbers: sizes differ, as in a matrix.
        let bell = |numbers: &mut Numbers| (0..6).map(|_| numbers.float()).sum::<f32>();
        let wanted: Vec<f32> = (0..outputs * columns)
            .map(|_| bell(&mut numbers) * 0.02)
            .collect();
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for x in wanted {
            let (raw, value) = match kind {
                Kind::BF16 => (
                    half::bf16::from_f32(x).to_le_bytes(),
                    half::bf16::from_f32(x).to_f64(),
                ),
                _ => (
                    half::f16::from_f32(x).to_le_bytes(),
                    half::f16::from_f32(x).to_f64(),
                ),
            };
            bytes.extend(raw);
            values.push(value);
        }
        let weights = Packed::new(kind, outputs, columns, &bytes, &pool).unwrap();
        let rows: Vec<Vec<f32>> = (0..9)
            .map(|_| (0..columns).map(|_| bell(&mut numbers)).collect())
            .collect();
        let (mut ours, mut halves) = (0.0, 0.0);
        for isa in Isa::available() {
            let found = product(isa, &weights, &rows, &pool);
            for (row, found) in rows.iter().zip(found.chunks(outputs)) {
                for (values, found) in values.chunks(columns).zip(found) {
                    let sum = |input: &dyn Fn(f32) -> f64| -> f64 {
                        values
                            .iter()
                            .zip(row)
                            .map(|(weight, x)| weight * input(*x))
                            .sum()
                    };
                    let exact = sum(&|x| f64::from(x));
                    ours += (f64::from(*found) - exact).powi(2);
                    halves += (sum(&|x| half::f16::from_f32(x).to_f64()) - exact).powi(2);
                }
            }
        }
        let ratio = (ours / halves).sqrt();
        println!(
            "{kind:?}, {columns} columns: {ratio:.2} times the error of inputs rounded to F16"
        );
        assert!(ratio <= 1.0, "{kind:?}, {columns} columns: {ratio}");
    }
}

#[test]
fn a_row_is_the_same_whatever_stands_beside_it() {
    let pool = pool();
    let mut numbers = Numbers(7);
    for kind in Kind::ALL {
        // Prompts go through long rows slice by slice, one row at once.
        let columns = 2048 + 512;
        let bytes = file(kind, 32, columns, &mut numbers);
        let weights = Packed::new(kind, 32, columns, &bytes, &pool).unwrap();
        let rows = input(29, columns, &mut numbers);
        for isa in Isa::available() {
            let together = product(isa, &weights, &rows, &pool);
            for (at, row) in rows.iter().enumerate() {
                let alone = product(isa, &weights, std::slice::from_ref(row), &pool);
                let beside = &together[at * 32..][..32];
                assert!(
                    alone
                        .iter()
                        .zip(beside)
                        .all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{kind:?} {isa:?}"
                );
            }
        }
    }
}

#[test]
fn several_products_share_a_region() {
    let pool = pool();
    let mut numbers = Numbers(3);
    let first = Packed::new(
        Kind::Q4K,
        48,
        256,
        &file(Kind::Q4K, 48, 256, &mut numbers),
        &pool,
    )
    .unwrap();
    let second = Packed::new(
        Kind::Q6K,
        20,
        256,
        &file(Kind::Q6K, 20, 256, &mut numbers),
        &pool,
    )
    .unwrap();
    let rows = input(5, 256, &mut numbers);
    let rounded = activations(Precision::Bytes256, &rows, &pool);
    let (mut a, mut b) = (vec![0.0; 5 * 48], vec![0.0; 5 * 20]);
    let products = &mut [
        Product {
            weights: &first,
            out: &mut a,
        },
        Product {
            weights: &second,
            out: &mut b,
        },
    ];
    multiply(Isa::detect(), &rounded, products, &pool).unwrap();
    assert_eq!(a, product(Isa::detect(), &first, &rows, &pool));
    assert_eq!(b, product(Isa::detect(), &second, &rows, &pool));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let pool = pool();
    let bytes = vec![0; 144 * 16];
    let refused = |rows, columns| Packed::new(Kind::Q4K, rows, columns, &bytes, &pool).unwrap_err();
    assert!(matches!(
        refused(16, 128),
        PackError::Shape { block: 256, .. }
    ));
    assert!(matches!(refused(0, 256), PackError::Shape { .. }));
    assert!(matches!(
        refused(17, 256),
        PackError::Length {
            expected: 2448,
            found: 2304
        }
    ));
    let weights = Packed::new(Kind::Q4K, 16, 256, &bytes, &pool).unwrap();
    let wrong = activations(Precision::Bytes32, &[vec![0.0; 256]], &pool);
    let mut out = vec![0.0; 16];
    let mut products = [Product {
        weights: &weights,
        out: &mut out,
    }];
    assert_eq!(
        multiply(Isa::detect(), &wrong, &mut products, &pool),
        Err(ShapeError)
    );
    let right = activations(Precision::Bytes256, &[vec![0.0; 256]], &pool);
    let mut products = [Product {
        weights: &weights,
        out: &mut out[..15],
    }];
    assert_eq!(
        multiply(Isa::detect(), &right, &mut products, &pool),
        Err(ShapeError)
    );
    assert!(!weights.row(16, &mut [0.0; 256]));
    assert!(!weights.row(0, &mut [0.0; 255]));
    assert!(!Activations::new(Precision::Bytes32).fill(1, 31, &pool, |_, _| {}));
}

#[test]
fn a_matrix_is_read_once_and_in_pieces_and_an_error_ends_it() {
    let pool = pool();
    let (rows, columns) = (3_000, 4096);
    let bytes = file(Kind::Q8_0, rows, columns, &mut Numbers(5));
    let read = std::sync::Mutex::new(vec![0_u8; bytes.len()]);
    let largest = std::sync::atomic::AtomicUsize::new(0);
    let packed = Packed::read::<PackError>(Kind::Q8_0, rows, columns, &pool, |offset, into| {
        read.lock().unwrap()[offset..offset + into.len()]
            .iter_mut()
            .for_each(|times| *times += 1);
        largest.fetch_max(into.len(), std::sync::atomic::Ordering::Relaxed);
        into.copy_from_slice(&bytes[offset..offset + into.len()]);
        Ok(())
    });
    assert!(read.lock().unwrap().iter().all(|times| *times == 1));
    assert!(largest.into_inner() <= 5 << 20);
    let whole = Packed::new(Kind::Q8_0, rows, columns, &bytes, &pool).unwrap();
    let (mut a, mut b) = (vec![0.0; columns], vec![0.0; columns]);
    for row in [0, 15, 16, 1_234, rows - 1] {
        assert!(packed.as_ref().unwrap().row(row, &mut a) && whole.row(row, &mut b));
        assert_eq!(a, b);
    }
    let refused = Packed::read(Kind::Q8_0, rows, columns, &pool, |offset, _| match offset {
        0 => Ok(()),
        _ => Err(PackError::Length {
            found: 1,
            expected: 2,
        }),
    });
    assert!(matches!(refused, Err(PackError::Length { found: 1, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes a file has, sets agree (also on infinities and on what is no number) and nothing panics.
    #[test]
    fn sets_agree_on_any_bytes(kind in 0..Kind::ALL.len(), seed in any::<u64>(), rows in 1..14_usize) {
        let (kind, mut numbers, pool) = (Kind::ALL[kind], Numbers(seed), pool());
        let bytes: Vec<u8> = (0..18 * 256 / kind.file_block() * kind.file_bytes()).map(|_| numbers.next() as u8).collect();
        let weights = Packed::new(kind, 18, 256, &bytes, &pool).unwrap();
        let rows = input(rows, 256, &mut numbers);
        let twin = product(Isa::Portable, &weights, &rows, &pool);
        for isa in Isa::available() {
            let found = product(isa, &weights, &rows, &pool);
            for (a, b) in found.iter().zip(&twin) {
                let size = a.abs().max(b.abs());
                prop_assert!(a == b || !size.is_finite() || size.is_nan() || (a - b).abs() <= 1e-3 * size + 1e3 || a.is_nan() == b.is_nan() && a.is_nan());
            }
        }
    }
}
