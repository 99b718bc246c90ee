//! The layout of packed matrices on GPUs: a matrix's numbers sorted into *planes*, so that neighbouring threads read
//! neighbouring words of sixteen bytes.
//!
//! Columns lie in *units* of 32; units are counted row by row. A unit's word of weights has in byte `i` the low four bits of
//! column `i` and, above them, of column `16 + i`. Every plane is as long as the file's numbers that it holds: a matrix takes
//! the bytes that it takes in the file.
//!
//! | kind | planes, bytes of a unit (or of a superblock of 8 units) |
//! |---|---|
//! | Q4_K | weights 16; heads 16 of a superblock |
//! | Q5_K | weights 16; heads 16 of a superblock; fifth bits 4: bit `8·b + k` is column `4·k + b`'s |
//! | Q6_K | weights 16; upper bits 8: bits `2·(k % 4)` of byte `4·(k / 4) + b` are column `4·k + b`'s; scales 2; scale F16 of a superblock |
//! | Q8_0 | columns 0 to 15; columns 16 to 31; scale F16 |
//! | Q4_0 | weights 16; scale F16 |
//!
//! A head is the superblock's scale and minimum (F16 each), for each unit a byte with the low four bits of its scale and, above
//! them, of its minimum, and for each unit four bits with the upper two of both.

use crate::block::scales_and_minima;
use crate::format::Kind;

/// Columns of a unit, which are rounded together.
pub const UNIT: usize = 32;
/// Units of a superblock.
const UNITS: usize = 8;

/// The kinds that have such a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "the names are ggml's and say all there is to say"
)]
pub enum PlaneKind {
    Q4_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl PlaneKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Q4_0, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// The layout of a kind, if it has one.
    pub const fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Q4_0 => Some(Self::Q4_0),
            Kind::Q8_0 => Some(Self::Q8_0),
            Kind::Q4K => Some(Self::Q4K),
            Kind::Q5K => Some(Self::Q5K),
            Kind::Q6K => Some(Self::Q6K),
            _ => None,
        }
    }

    /// The file's kind.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Q4_0 => Kind::Q4_0,
            Self::Q8_0 => Kind::Q8_0,
            Self::Q4K => Kind::Q4K,
            Self::Q5K => Kind::Q5K,
            Self::Q6K => Kind::Q6K,
        }
    }

    /// What its kernels are named by.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4k",
            Self::Q5K => "q5k",
            Self::Q6K => "q6k",
        }
    }

    /// Bytes that a block of the file has in each plane, in the planes' order. Their sum is the block.
    pub const fn widths(self) -> &'static [usize] {
        match self {
            Self::Q4_0 => &[16, 2],
            Self::Q8_0 => &[16, 16, 2],
            Self::Q4K => &[16 * UNITS, 16],
            Self::Q5K => &[16 * UNITS, 16, 4 * UNITS],
            Self::Q6K => &[16 * UNITS, 8 * UNITS, 2 * UNITS, 2],
        }
    }

    /// Sorts the blocks of a matrix into planes. Bytes behind the last whole block are left out.
    pub fn sort(self, file: &[u8]) -> Vec<u8> {
        let size = self.kind().file_bytes();
        let count = file.len() / size;
        let mut sorted = vec![0; count * size];
        let mut planes = Planes::split(&mut sorted, self.widths(), count);
        for block in file.chunks_exact(size) {
            match self {
                Self::Q4_0 => {
                    planes.put(0, block.get(2..).unwrap_or_default());
                    planes.put(1, block.get(..2).unwrap_or_default());
                }
                Self::Q8_0 => {
                    planes.put(0, block.get(2..18).unwrap_or_default());
                    planes.put(1, block.get(18..).unwrap_or_default());
                    planes.put(2, block.get(..2).unwrap_or_default());
                }
                Self::Q4K | Self::Q5K => self.sort_k(block, &mut planes),
                Self::Q6K => sort_six(block, &mut planes),
            }
        }
        sorted
    }

    /// Q4_K and Q5_K: scale, minimum, 12 bytes of scales and minima, 32 of fifth bits, 128 of low bits.
    fn sort_k(self, block: &[u8], planes: &mut Planes<'_>) {
        let Some((head, rest)) = block.split_first_chunk::<16>() else {
            return;
        };
        let fifth_len = match self {
            Self::Q5K => UNIT,
            _ => 0,
        };
        let (fifth, low) = rest.split_at_checked(fifth_len).unwrap_or_default();
        let mut weights = [0; 16 * UNITS];
        for (units, pair) in weights.chunks_exact_mut(32).zip(low.chunks_exact(UNIT)) {
            let (first, second) = units.split_at_mut(16);
            let (left, right) = pair.split_at(16);
            for (((first, second), left), right) in
                first.iter_mut().zip(second).zip(left).zip(right)
            {
                *first = left & 15 | right << 4;
                *second = left >> 4 | right & 0xf0;
            }
        }
        planes.put(0, &weights);
        planes.put(1, &sorted_head(head));
        if self == Self::Q5K {
            let mut words = [0_u32; UNITS];
            for (column, byte) in fifth.iter().enumerate() {
                let place = column % 4 * 8 + column / 4;
                for (unit, word) in words.iter_mut().enumerate() {
                    *word |= u32::from(byte >> unit & 1) << place;
                }
            }
            planes.put(2, words.map(u32::to_le_bytes).as_flattened());
        }
    }
}

/// A head of Q4_K or Q5_K.
fn sorted_head(head: &[u8; 16]) -> [u8; 16] {
    let mut packed = [0; 12];
    packed.copy_from_slice(&head[4..]);
    let (scales, minima) = scales_and_minima(&packed);
    let mut sorted = [0; 16];
    sorted[..4].copy_from_slice(&head[..4]);
    for (unit, (scale, minimum)) in scales.into_iter().zip(minima).enumerate() {
        sorted[4 + unit] = scale & 15 | minimum << 4;
        sorted[12 + unit / 2] |= (scale >> 4 & 3 | minimum >> 4 << 2) << (unit % 2 * 4);
    }
    sorted
}

/// Q6_K: 128 bytes of low bits, 64 of upper ones, 16 scales, the superblock's scale.
fn sort_six(block: &[u8], planes: &mut Planes<'_>) {
    let (low, rest) = block.split_at_checked(128).unwrap_or_default();
    let (upper, rest) = rest.split_at_checked(64).unwrap_or_default();
    let (scales, scale) = rest.split_at_checked(16).unwrap_or_default();
    let (mut weights, mut uppers) = ([0_u8; 16 * UNITS], [0_u8; 8 * UNITS]);
    // A half of 128 columns has its units' low bits side by side (two below, two above) and four units' upper bits in a byte.
    for (unit, (word, bits)) in weights
        .chunks_exact_mut(16)
        .zip(uppers.chunks_exact_mut(8))
        .enumerate()
    {
        let (half, own) = (unit / 4, unit % 4);
        let low = low.iter().skip(64 * half + own % 2 * UNIT);
        for (column, byte) in low.take(UNIT).enumerate() {
            let four = byte >> (own / 2 * 4) & 15;
            if let Some(place) = word.get_mut(column % 16) {
                *place |= four << (column / 16 * 4);
            }
        }
        let upper = upper.iter().skip(UNIT * half);
        for (column, byte) in upper.take(UNIT).enumerate() {
            let k = column / 4;
            if let Some(place) = bits.get_mut(k / 4 * 4 + column % 4) {
                *place |= (byte >> (2 * own) & 3) << (k % 4 * 2);
            }
        }
    }
    planes.put(0, &weights);
    planes.put(1, &uppers);
    planes.put(2, scales);
    planes.put(3, scale);
}

/// Planes that are being filled, block by block.
struct Planes<'a>(Vec<&'a mut [u8]>);

impl<'a> Planes<'a> {
    fn split(mut all: &'a mut [u8], widths: &[usize], blocks: usize) -> Self {
        let planes = widths.iter().map(|width| {
            let (plane, rest) = std::mem::take(&mut all)
                .split_at_mut_checked(width * blocks)
                .unwrap_or_default();
            all = rest;
            plane
        });
        Self(planes.collect())
    }

    /// Appends a block's bytes to a plane.
    fn put(&mut self, plane: usize, bytes: &[u8]) {
        let Some(plane) = self.0.get_mut(plane) else {
            return;
        };
        if let Some((place, rest)) = std::mem::take(plane).split_at_mut_checked(bytes.len()) {
            place.copy_from_slice(bytes);
            *plane = rest;
        }
    }
}

#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "launches are made with the feature `cuda`")
)]
pub(crate) mod plan;
#[cfg(test)]
pub(crate) mod tests;

pub use plan::rounded_bytes;
