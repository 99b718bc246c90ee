//! Halves (F16, BF16) as fixed-point numbers: blocks of 32 that share a scale, 13 bits and a sign each.
//!
//! A product of two such numbers, and of 32 pairs of them the sum, fits 32 bits: one instruction multiplies and adds up two
//! columns where a product of floats takes one, so that prompts run at up to twice the speed that a processor has in F32.
//!
//! What it costs: a number is off by at most half a step, 1/16,382 of the largest magnitude in its block. F16 rounds a number
//! by up to 1/2,048 of itself. Of 32 weights or inputs of one size, as they are in matrices, the step is the finer one;
//! beside one that is much larger, small ones lose bits. llama.cpp rounds inputs to F16 here, and 8 bits, a 64th of these
//! steps, are what every quantised kind of weights gets.

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

use crate::format::{Kind, VECTOR};
use crate::isa::TILE;

/// The largest magnitude: 32 products of two of these, added up, are below 2³¹.
pub(crate) const LARGEST: f32 = 8191.0;
/// Columns of a block.
const BLOCK: usize = 32;

/// Packs one row's block of a file, of 32 columns or less, as row `row`; what is missing is zero.
pub(crate) fn pack(kind: Kind, row: usize, file: &[u8], packed: &mut [u8]) {
    let mut values = [0.0_f32; BLOCK];
    read_halves(kind, file, &mut values);
    let largest = values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    // One number that is none makes the block none: what is multiplied with it must not look sound.
    let finite = values.iter().all(|x| x.is_finite());
    let scale = if finite {
        up(largest / LARGEST)
    } else {
        bf16::NAN
    };
    let inverse = match scale.to_f32() {
        scale if scale > 0.0 => scale.recip(),
        _ => 0.0,
    };
    let (head, unit) = packed.split_at_mut(2 * TILE);
    head[2 * row..][..2].copy_from_slice(&scale.to_le_bytes());
    let vectors = unit.chunks_exact_mut(VECTOR);
    for (vector, pair) in vectors.zip(values.as_chunks::<2>().0) {
        let [first, second] = pair.map(|x| (x * inverse).round_ties_even() as i16);
        vector[4 * row..][..2].copy_from_slice(&first.to_le_bytes());
        vector[4 * row + 2..][..2].copy_from_slice(&second.to_le_bytes());
    }
}

/// What row `row` of a packed block is worth: 32 columns or less.
pub(crate) fn values(row: usize, packed: &[u8], out: &mut [f32]) {
    let (head, unit) = packed.split_at(2 * TILE);
    let scale = bf16::from_le_bytes([head[2 * row], head[2 * row + 1]]).to_f32();
    for (vector, out) in unit.chunks_exact(VECTOR).zip(out.chunks_mut(2)) {
        for (bytes, out) in vector[4 * row..][..4].chunks_exact(2).zip(out) {
            *out = scale * f32::from(i16::from_le_bytes([bytes[0], bytes[1]]));
        }
    }
}

/// The least BF16 that is no less, for what is not below zero. Below what F32 holds with all its bits it is zero: weights of
/// less than 10⁻³⁴ are none.
fn up(x: f32) -> bf16 {
    if x < f32::MIN_POSITIVE {
        return bf16::ZERO;
    }
    let bits = x.to_bits();
    let high = (bits >> 16) as u16;
    bf16::from_bits(if bits & 0xffff == 0 { high } else { high + 1 })
}

fn read_halves(kind: Kind, file: &[u8], values: &mut [f32; BLOCK]) {
    let mut bits = [0_u16; BLOCK];
    for (bits, bytes) in bits.iter_mut().zip(file.as_chunks().0) {
        *bits = u16::from_le_bytes(*bytes);
    }
    match kind {
        Kind::BF16 => bits.map(bf16::from_bits).convert_to_f32_slice(values),
        _ => bits.map(f16::from_bits).convert_to_f32_slice(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_rounded_up() {
        for x in [
            1.0_f32,
            1.003,
            1.007,
            0.3,
            1e-30,
            f32::MIN_POSITIVE,
            8.0,
            1e38 / LARGEST,
        ] {
            let scale = up(x).to_f32();
            assert!(scale >= x && scale <= x * 1.008, "{x}: {scale}");
        }
        assert_eq!(up(0.0), bf16::ZERO);
        assert_eq!(up(1e-39), bf16::ZERO);
    }

    #[test]
    fn a_block_is_off_by_half_a_step_at_most() {
        for kind in [Kind::F16, Kind::BF16] {
            for size in [1e-30_f32, 6e-8, 1e-3, 1.0, 6e4, 3e38] {
                let wanted: Vec<f32> = (0..27)
                    .map(|at| size * ((at * 7 % 27) as f32 - 13.0) / 14.0)
                    .collect();
                let bytes = |x: &f32| match kind {
                    Kind::BF16 => bf16::from_f32(*x).to_le_bytes(),
                    _ => f16::from_f32(*x).to_le_bytes(),
                };
                let file: Vec<u8> = wanted.iter().flat_map(bytes).collect();
                let mut exact = [0.0; BLOCK];
                read_halves(kind, &file, &mut exact);
                let largest = exact.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                if !largest.is_finite() {
                    continue;
                }
                let mut packed = vec![0xaa; kind.packed_bytes()];
                pack(kind, 5, &file, &mut packed);
                let mut found = [f32::NAN; 27];
                values(5, &packed, &mut found);
                for (found, exact) in found.iter().zip(exact) {
                    assert!(
                        (found - exact).abs() <= largest * 1.01 / (2.0 * LARGEST),
                        "{kind:?} {size}: {found} is not {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_number_that_is_none_makes_a_block_none() {
        for (kind, bad) in [
            (Kind::F16, [0, 0x7c]),
            (Kind::F16, [1, 0xfe]),
            (Kind::BF16, [0x80, 0xff]),
        ] {
            let mut packed = vec![0; kind.packed_bytes()];
            pack(kind, 0, &[&[0; 40][..], &bad].concat(), &mut packed);
            let mut found = [0.0; BLOCK];
            values(0, &packed, &mut found);
            assert!(found.iter().all(|x| x.is_nan()));
        }
    }
}
