//! One row's block, taken apart: from a file's bytes, from a packed tile, and what its weights are worth.

use half::f16;

use crate::format::{Kind, UNIT, VECTOR};
use crate::isa::TILE;

/// Weights of the largest block.
const WEIGHTS_MAX: usize = 256;
/// Sub-blocks of the largest block.
const SCALES_MAX: usize = 16;

/// A block's numbers. What a kind does not have is zero.
pub(crate) struct Block {
    /// Bits of the F16 that scales the block.
    scale: u16,
    /// Bits of the F16 that scales the minima; in kinds without a superblock, the minimum.
    minimum: u16,
    /// Scales of sub-blocks, signed in Q3_K and Q6_K.
    scales: [u8; SCALES_MAX],
    /// Minima of sub-blocks.
    minima: [u8; SCALES_MAX],
    /// Weights, their offset added.
    weights: [u8; WEIGHTS_MAX],
}

/// Bytes of a file's block, read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> &'a [u8; N] {
        match self.0.split_first_chunk() {
            Some((found, rest)) => {
                self.0 = rest;
                found
            }
            None => &[0; N],
        }
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(*self.take())
    }
}

impl Block {
    /// Nothing yet.
    pub(crate) const EMPTY: Self = Self {
        scale: 0,
        minimum: 0,
        scales: [0; SCALES_MAX],
        minima: [0; SCALES_MAX],
        weights: [0; WEIGHTS_MAX],
    };

    /// Takes a file's block apart (ggml's `ggml-common.h`). Floats are not blocks and stay out of here.
    pub(crate) fn read_file(&mut self, kind: Kind, bytes: &[u8]) {
        let mut bytes = Bytes(bytes);
        match kind {
            Kind::Q4_0 | Kind::Q4_1 | Kind::Q5_0 | Kind::Q5_1 => {
                self.scale = bytes.half();
                if matches!(kind, Kind::Q4_1 | Kind::Q5_1) {
                    self.minimum = bytes.half();
                }
                let fifth = match kind.bits() {
                    5 => u32::from_le_bytes(*bytes.take()),
                    _ => 0,
                };
                for (at, byte) in bytes.take::<16>().iter().enumerate() {
                    let bit = |at: usize| ((fifth >> at & 1) << 4) as u8;
                    self.weights[at] = byte & 15 | bit(at);
                    self.weights[at + 16] = byte >> 4 | bit(at + 16);
                }
            }
            Kind::Q8_0 => {
                self.scale = bytes.half();
                for (weight, byte) in self.weights.iter_mut().zip(bytes.take::<32>()) {
                    *weight = byte ^ 0x80;
                }
            }
            Kind::Q2K => {
                for (at, both) in bytes.take::<16>().iter().enumerate() {
                    (self.scales[at], self.minima[at]) = (both & 15, both >> 4);
                }
                self.two_bits(bytes.take());
                (self.scale, self.minimum) = (bytes.half(), bytes.half());
            }
            Kind::Q3K => {
                let high = bytes.take::<32>();
                self.two_bits(bytes.take());
                for (part, weights) in self.weights.chunks_exact_mut(32).enumerate() {
                    for (weight, high) in weights.iter_mut().zip(high) {
                        *weight |= (high >> part & 1) << 2;
                    }
                }
                self.six_bit_scales(bytes.take());
                self.scale = bytes.half();
            }
            Kind::Q4K | Kind::Q5K => {
                (self.scale, self.minimum) = (bytes.half(), bytes.half());
                let (scales, minima) = scales_and_minima(bytes.take());
                self.scales[..8].copy_from_slice(&scales);
                self.minima[..8].copy_from_slice(&minima);
                let fifth = match kind {
                    Kind::Q5K => bytes.take::<32>(),
                    _ => &[0; 32],
                };
                let low = bytes.take::<128>();
                let both = self.weights.chunks_exact_mut(64).zip(low.chunks_exact(32));
                for (part, (weights, low)) in both.enumerate() {
                    let (first, second) = weights.split_at_mut(32);
                    for (((first, second), low), fifth) in
                        first.iter_mut().zip(second).zip(low).zip(fifth)
                    {
                        *first = low & 15 | (fifth >> (2 * part) & 1) << 4;
                        *second = low >> 4 | (fifth >> (2 * part + 1) & 1) << 4;
                    }
                }
            }
            Kind::Q6K => {
                let (low, high) = (bytes.take::<128>(), bytes.take::<64>());
                self.scales = *bytes.take();
                self.scale = bytes.half();
                for half in 0..2 {
                    for at in 0..32 {
                        let (a, b) = (low[64 * half + at], low[64 * half + 32 + at]);
                        let high = high[32 * half + at];
                        let to = 128 * half + at;
                        self.weights[to] = a & 15 | (high & 3) << 4;
                        self.weights[to + 32] = b & 15 | (high >> 2 & 3) << 4;
                        self.weights[to + 64] = a >> 4 | (high >> 4 & 3) << 4;
                        self.weights[to + 96] = b >> 4 | (high >> 6) << 4;
                    }
                }
            }
            Kind::F32 | Kind::F16 | Kind::BF16 => {}
        }
    }

    /// Two low bits of each weight, as Q2_K and Q3_K have them.
    fn two_bits(&mut self, low: &[u8; 64]) {
        for (part, weights) in self.weights.chunks_exact_mut(32).enumerate() {
            let low = &low[32 * (part / 4)..][..32];
            for (weight, low) in weights.iter_mut().zip(low) {
                *weight = low >> (2 * (part % 4)) & 3;
            }
        }
    }

    /// Q3_K's sixteen scales of 6 bits, 32 more than they mean.
    fn six_bit_scales(&mut self, packed: &[u8; 12]) {
        for (at, scale) in self.scales.iter_mut().enumerate() {
            let low = packed[at % 8] >> (4 * (at / 8)) & 15;
            let high = packed[8 + at % 4] >> (2 * (at / 4)) & 3;
            *scale = (low | high << 4).wrapping_sub(32);
        }
    }

    /// Writes the block as row `row` of a packed block.
    pub(crate) fn write_packed(&self, kind: Kind, row: usize, packed: &mut [u8]) {
        let (head, units) = packed.split_at_mut(kind.head_bytes());
        let (scale, rest) = head.split_at_mut(2 * TILE);
        scale[2 * row..][..2].copy_from_slice(&self.scale.to_le_bytes());
        if has_minimum(kind) {
            rest[2 * row..][..2].copy_from_slice(&self.minimum.to_le_bytes());
        }
        let (scales, minima) = sub_blocks(kind);
        let rest = &mut rest[if has_minimum(kind) { 2 * TILE } else { 0 }..];
        let (to_scales, to_minima) = rest.split_at_mut(scales * TILE);
        for (to, from) in to_scales.chunks_exact_mut(TILE).zip(self.scales) {
            to[row] = from;
        }
        let pairs = to_minima.chunks_exact_mut(2 * TILE);
        for (to, from) in pairs.zip(self.minima[..minima].chunks_exact(2)) {
            to[2 * row..][..2].copy_from_slice(from);
        }
        let unit_len = kind.bits() * VECTOR;
        for (unit, weights) in units
            .chunks_exact_mut(unit_len)
            .zip(self.weights.chunks_exact(UNIT))
        {
            write_unit(kind.bits(), row, weights, unit);
        }
    }

    /// The block that is row `row` of a packed block.
    pub(crate) fn read_packed(&mut self, kind: Kind, row: usize, packed: &[u8]) {
        let (head, units) = packed.split_at(kind.head_bytes());
        let half = |from: &[u8]| u16::from_le_bytes([from[2 * row], from[2 * row + 1]]);
        let (scale, rest) = head.split_at(2 * TILE);
        self.scale = half(scale);
        let rest = if has_minimum(kind) {
            self.minimum = half(rest);
            &rest[2 * TILE..]
        } else {
            rest
        };
        let (scales, minima) = sub_blocks(kind);
        let (from_scales, from_minima) = rest.split_at(scales * TILE);
        for (to, from) in self.scales.iter_mut().zip(from_scales.chunks_exact(TILE)) {
            *to = from[row];
        }
        let pairs = from_minima.chunks_exact(2 * TILE);
        for (to, from) in self.minima[..minima].chunks_exact_mut(2).zip(pairs) {
            to.copy_from_slice(&from[2 * row..][..2]);
        }
        let unit_len = kind.bits() * VECTOR;
        for (unit, weights) in units
            .chunks_exact(unit_len)
            .zip(self.weights.chunks_exact_mut(UNIT))
        {
            read_unit(kind.bits(), row, unit, weights);
        }
    }

    /// What the weights are worth.
    pub(crate) fn values(&self, kind: Kind, out: &mut [f32]) {
        let scale = f16::from_bits(self.scale).to_f32();
        let minimum = f16::from_bits(self.minimum).to_f32();
        let sub = match kind {
            Kind::Q4K | Kind::Q5K => 32,
            Kind::Q2K | Kind::Q3K | Kind::Q6K => 16,
            _ => 0,
        };
        for (at, (out, weight)) in out
            .iter_mut()
            .zip(&self.weights[..kind.block()])
            .enumerate()
        {
            let weight = (i32::from(*weight) - kind.offset()) as f32;
            *out = match at.checked_div(sub) {
                None => scale * weight + minimum,
                Some(sub) if has_minimum(kind) => {
                    let own = scale * f32::from(self.scales[sub]);
                    own * weight - minimum * f32::from(self.minima[sub])
                }
                Some(sub) => scale * f32::from(self.scales[sub] as i8) * weight,
            };
        }
    }
}

/// Q4_K's and Q5_K's eight scales and eight minima of 6 bits.
pub(crate) fn scales_and_minima(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for at in 0..4 {
        scales[at] = packed[at] & 63;
        minima[at] = packed[at + 4] & 63;
        scales[at + 4] = packed[at + 8] & 15 | packed[at] >> 6 << 4;
        minima[at + 4] = packed[at + 8] >> 4 | packed[at + 4] >> 6 << 4;
    }
    (scales, minima)
}

const fn has_minimum(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Q4_1 | Kind::Q5_1 | Kind::Q2K | Kind::Q4K | Kind::Q5K
    )
}

/// How many scales and minima of sub-blocks a kind has.
const fn sub_blocks(kind: Kind) -> (usize, usize) {
    match kind {
        Kind::Q4K | Kind::Q5K => (8, 8),
        Kind::Q2K => (16, 16),
        Kind::Q3K | Kind::Q6K => (16, 0),
        _ => (0, 0),
    }
}

/// Four columns of a row as one word.
fn word(weights: &[u8], at: usize) -> u32 {
    match weights.get(4 * at..4 * at + 4) {
        Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    }
}

/// A mask in each byte.
const fn bytes(mask: u8) -> u32 {
    u32::from_le_bytes([mask; 4])
}

/// The same bits of some neighbouring words, packed beside each other: `width` bits from bit `from` on.
fn gather(weights: &[u8], first: usize, count: usize, from: usize, width: usize) -> u32 {
    let mask = bytes((1 << width) - 1);
    (0..count).fold(0, |all, at| {
        all | (word(weights, first + at) >> from & mask) << (width * at)
    })
}

fn write_unit(bits: usize, row: usize, weights: &[u8], unit: &mut [u8]) {
    let packed = |vector: usize| match (bits, vector) {
        (8, _) => word(weights, vector),
        (4..=6, 0..4) => gather(weights, 2 * vector, 2, 0, 4),
        (5, _) => gather(weights, 0, 8, 4, 1),
        (6, _) => gather(weights, 4 * (vector - 4), 4, 4, 2),
        (_, 0..2) => gather(weights, 4 * vector, 4, 0, 2),
        _ => gather(weights, 0, 8, 2, 1),
    };
    for (vector, to) in unit.chunks_exact_mut(VECTOR).enumerate() {
        to[4 * row..][..4].copy_from_slice(&packed(vector).to_le_bytes());
    }
}

fn read_unit(bits: usize, row: usize, unit: &[u8], weights: &mut [u8]) {
    let packed = |vector: usize| word(&unit[vector * VECTOR..], row);
    for (at, to) in weights.chunks_exact_mut(4).enumerate() {
        let four = |vector: usize| packed(vector) >> (4 * (at % 2)) & bytes(15);
        let two = |vector: usize| packed(vector) >> (2 * (at % 4)) & bytes(3);
        let one = |vector: usize| packed(vector) >> at & bytes(1);
        let word = match bits {
            8 => packed(at),
            6 => four(at / 2) | two(4 + at / 4) << 4,
            5 => four(at / 2) | one(4) << 4,
            4 => four(at / 2),
            3 => two(at / 4) | one(2) << 2,
            _ => two(at / 4),
        };
        to.copy_from_slice(&word.to_le_bytes());
    }
}
