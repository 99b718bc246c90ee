//! Sorted planes say what the file's blocks say.

use half::f16;

use super::*;
use crate::block::Block;

/// Blocks of any bytes, with scales that are finite.
pub(crate) fn blocks(kind: PlaneKind, count: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut bytes = Vec::new();
    for _ in 0..count {
        let mut block: Vec<u8> = (0..kind.kind().file_bytes())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let scale = f16::from_f32(0.01 + f32::from(block[0]) / 1000.0).to_le_bytes();
        let at = match kind {
            PlaneKind::Q6K => vec![208],
            PlaneKind::Q4K | PlaneKind::Q5K => vec![0, 2],
            _ => vec![0],
        };
        for at in at {
            block[at..at + 2].copy_from_slice(&scale);
        }
        bytes.extend(block);
    }
    bytes
}

/// Numbers between -1 and 1, one in eight of them ten times as large.
pub(crate) fn numbers(len: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len)
        .map(|_| {
            let number = next(&mut state);
            if state.is_multiple_of(8) {
                number * 10.0
            } else {
                number
            }
        })
        .collect()
}

/// What the file's blocks say: heights × columns.
pub(crate) fn values(kind: PlaneKind, file: &[u8]) -> Vec<f32> {
    let kind = kind.kind();
    let mut block = Block::EMPTY;
    let mut all = Vec::new();
    for bytes in file.chunks_exact(kind.file_bytes()) {
        let mut values = vec![0.0; kind.file_block()];
        block.read_file(kind, bytes);
        block.values(kind, &mut values);
        all.extend(values);
    }
    all
}

/// Numbers of rounded rows, and the scales of their units.
pub(crate) fn widened(rounded: &[u8], columns: usize) -> Vec<f32> {
    let units = columns / UNIT;
    let mut out = Vec::new();
    for row in rounded.chunks_exact(rounded_bytes(columns)) {
        let float = |at: usize| f32::from_le_bytes(row[at..at + 4].try_into().unwrap());
        for unit in 0..units {
            let told = 32 * units + 16 * unit;
            let scale = float(told);
            let mut sums = [0.0; 2];
            for column in 0..UNIT {
                let byte = row[(column / 16 * units + unit) * 16 + column % 16].cast_signed();
                sums[column / 16] += f32::from(byte);
                out.push(scale * f32::from(byte));
            }
            let near = |a: f32, b: f32| (a - b).abs() <= 1e-4 * b.abs() + 1e-6;
            assert!(near(float(told + 4), scale * sums[0]));
            assert!(near(float(told + 8), scale * sums[1]));
            assert!(near(float(told + 12), scale * (sums[0] + sums[1])));
        }
    }
    out
}

/// `x · matrixᵀ`.
pub(crate) fn product(x: &[f32], matrix: &[f32], columns: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let rows = x.chunks_exact(columns);
    rows.flat_map(|x| matrix.chunks_exact(columns).map(move |m| dot(x, m)))
        .collect()
}

/// Everything within a part in ten thousand of the largest.
pub(crate) fn assert_near(found: &[f32], expected: &[f64], what: &str) {
    let largest = expected
        .iter()
        .fold(0.0_f64, |most, one| most.max(one.abs()));
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(
            off <= 1e-4 * largest,
            "{what} {at}: {found} instead of {expected}, of {largest} at most"
        );
    }
}

/// What comes of gates and what goes through them, as far as rounding by units tells: rows × `width`, of rows that have both.
pub(crate) fn assert_gated(found: &[f32], both: &[f64], width: usize, what: &str) {
    assert_eq!(2 * found.len(), both.len(), "{what}");
    for (row, found) in both.chunks_exact(2 * width).zip(found.chunks_exact(width)) {
        let (gate, up) = row.split_at(width);
        let through = gate.iter().zip(up);
        let through = through.map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up);
        let through: Vec<f64> = through.collect();
        for (unit, found) in through.chunks_exact(UNIT).zip(found.chunks_exact(UNIT)) {
            let largest = unit.iter().fold(0.0_f64, |most, one| most.max(one.abs()));
            for (expected, found) in unit.iter().zip(found) {
                let off = (expected - f64::from(*found)).abs();
                assert!(off <= largest / 250.0 + 1e-6, "{what}: {found} {expected}");
            }
        }
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// What a column of sorted planes is worth, read as `cuda/packed.cu` reads it.
fn worth(kind: PlaneKind, sorted: &[u8], blocks: usize, unit: usize, column: usize) -> f32 {
    let mut starts = vec![0];
    for width in kind.widths() {
        starts.push(starts.last().unwrap() + width * blocks);
    }
    let plane = |plane: usize| &sorted[starts[plane]..starts[plane + 1]];
    let four = || plane(0)[16 * unit + column % 16] >> (column / 16 * 4) & 15;
    let (k, b, superblock) = (column / 4, column % 4, unit / UNITS);
    let head = |extra: u8| {
        let head = &plane(1)[16 * superblock..][..16];
        let (byte, own) = (head[4 + unit % 8], unit % 8);
        let nibble = head[12 + own / 2] >> (own % 2 * 4) & 15;
        let scale = byte & 15 | (nibble & 3) << 4;
        let minimum = byte >> 4 | nibble >> 2 << 4;
        half(head, 0) * f32::from(scale) * f32::from(four() | extra << 4)
            - half(head, 2) * f32::from(minimum)
    };
    match kind {
        PlaneKind::Q4_0 => half(plane(1), 2 * unit) * (f32::from(four()) - 8.0),
        PlaneKind::Q8_0 => {
            let byte = plane(column / 16)[16 * unit + column % 16];
            half(plane(2), 2 * unit) * f32::from(byte.cast_signed())
        }
        PlaneKind::Q4K => head(0),
        PlaneKind::Q5K => {
            let word = u32::from_le_bytes(plane(2)[4 * unit..][..4].try_into().unwrap());
            head((word >> (8 * b + k) & 1) as u8)
        }
        PlaneKind::Q6K => {
            let upper = plane(1)[8 * unit + k / 4 * 4 + b] >> (k % 4 * 2) & 3;
            let scale = plane(2)[2 * unit + column / 16].cast_signed();
            half(plane(3), 2 * superblock)
                * f32::from(scale)
                * (f32::from(four() | upper << 4) - 32.0)
        }
    }
}

#[test]
fn every_column_of_every_kind_is_worth_what_the_file_says() {
    for kind in PlaneKind::ALL {
        let count = 3;
        let file = blocks(kind, count);
        let sorted = kind.sort(&file);
        assert_eq!(sorted.len(), file.len(), "{kind:?}");
        assert_eq!(
            kind.widths().iter().sum::<usize>(),
            kind.kind().file_bytes(),
            "{kind:?}"
        );
        let columns = kind.kind().file_block();
        let mut block = Block::EMPTY;
        let mut values = vec![0.0; columns];
        for (at, bytes) in file.chunks_exact(kind.kind().file_bytes()).enumerate() {
            block.read_file(kind.kind(), bytes);
            block.values(kind.kind(), &mut values);
            for (column, expected) in values.iter().enumerate() {
                let unit = at * columns / UNIT + column / UNIT;
                let found = worth(kind, &sorted, count, unit, column % UNIT);
                let near = (found - expected).abs() <= expected.abs() * 1e-5 + 1e-5;
                assert!(
                    near,
                    "{kind:?} {at} {column}: {found} instead of {expected}"
                );
            }
        }
    }
}

#[test]
fn a_block_that_is_cut_off_is_left_out() {
    for kind in PlaneKind::ALL {
        let file = blocks(kind, 2);
        assert_eq!(
            kind.sort(&file[..file.len() - 1]),
            kind.sort(&file[..file.len() / 2])
        );
        assert!(kind.sort(&[]).is_empty());
    }
}
