//! From a file's rows to packed tiles. Loading a model is mostly this, so the common kinds go from word to word, and only
//! the others are taken apart weight by weight ([`Block`]).

use crate::block::{Block, scales_and_minima};
use crate::fixed;
use crate::format::{Kind, VECTOR};
use crate::isa::TILE;

/// Packs up to sixteen rows of a file into a tile.
pub(crate) fn pack_tile<'a>(kind: Kind, rows: impl Iterator<Item = &'a [u8]>, packed: &mut [u8]) {
    let mut block = Block::EMPTY;
    for (row, file) in rows.enumerate() {
        let blocks = packed.chunks_exact_mut(kind.packed_bytes());
        let file_bytes = kind.block() / kind.file_block() * kind.file_bytes();
        for (packed, file) in blocks.zip(file.chunks(file_bytes)) {
            let (head, units) = packed.split_at_mut(kind.head_bytes());
            match kind {
                Kind::F32 => units[row * 4..][..4].copy_from_slice(file),
                Kind::F16 | Kind::BF16 => fixed::pack(kind, row, file, packed),
                Kind::Q4_0 => pack_q4_0(row, file, head, units),
                Kind::Q8_0 => pack_q8_0(row, file, head, units),
                Kind::Q4K => pack_q4_k(row, file, head, units),
                Kind::Q6K => pack_q6_k(row, file, head, units),
                _ => {
                    block.read_file(kind, file);
                    block.write_packed(kind, row, packed);
                }
            }
        }
    }
}

/// Writes a row's word of a unit's vector.
fn put(unit: &mut [u8], vector: usize, row: usize, word: u32) {
    unit[vector * VECTOR + 4 * row..][..4].copy_from_slice(&word.to_le_bytes());
}

/// A row's two bytes of an array of halves.
fn put_half(halves: &mut [u8], row: usize, half: &[u8]) {
    halves[2 * row..][..2].copy_from_slice(&half[..2]);
}

/// Eight bytes' low halves, four columns beside the next four: a word of a vector of 4-bit weights.
fn nibbles(bytes: u64) -> u32 {
    let low = bytes & 0x0f0f_0f0f_0f0f_0f0f;
    low as u32 | ((low >> 32) as u32) << 4
}

fn words64(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().copied().map(u64::from_le_bytes)
}

fn words32(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().copied().map(u32::from_le_bytes)
}

/// Bytes: a scale, sixteen pairs of weights `l` and `l + 16`.
fn pack_q4_0(row: usize, file: &[u8], head: &mut [u8], unit: &mut [u8]) {
    put_half(head, row, file);
    for (at, pairs) in words64(&file[2..18]).enumerate() {
        put(unit, at, row, nibbles(pairs));
        put(unit, 2 + at, row, nibbles(pairs >> 4));
    }
}

/// Bytes: a scale, 32 signed weights.
fn pack_q8_0(row: usize, file: &[u8], head: &mut [u8], unit: &mut [u8]) {
    put_half(head, row, file);
    for (at, weights) in words32(&file[2..34]).enumerate() {
        put(unit, at, row, weights ^ 0x8080_8080);
    }
}

/// Bytes: a scale, a scale of minima, scales and minima in 12, then for each 64 weights 32 pairs `l` and `l + 32`.
fn pack_q4_k(row: usize, file: &[u8], head: &mut [u8], units: &mut [u8]) {
    let (halves, rest) = head.split_at_mut(4 * TILE);
    put_half(halves, row, file);
    put_half(&mut halves[2 * TILE..], row, &file[2..]);
    let (scales, minima) = file[4..]
        .first_chunk()
        .map(scales_and_minima)
        .unwrap_or_default();
    let (to_scales, to_minima) = rest.split_at_mut(8 * TILE);
    for (at, (scale, minimum)) in scales.into_iter().zip(minima).enumerate() {
        to_scales[at * TILE + row] = scale;
        to_minima[at / 2 * 2 * TILE + 2 * row + at % 2] = minimum;
    }
    let parts = units.chunks_exact_mut(2 * 4 * VECTOR);
    for (both, pairs) in parts.zip(file[16..].chunks_exact(32)) {
        let (first, second) = both.split_at_mut(4 * VECTOR);
        for (at, pairs) in words64(pairs).enumerate() {
            put(first, at, row, nibbles(pairs));
            put(second, at, row, nibbles(pairs >> 4));
        }
    }
}

/// Bytes: 128 of low halves, 64 of high quarters, sixteen scales, a scale. Of each 128 weights the `q`-th 32 have their
/// low halves in the bytes `32 · (q mod 2)` on, below if `q < 2`, and their high quarters in the bits `2q` on.
fn pack_q6_k(row: usize, file: &[u8], head: &mut [u8], units: &mut [u8]) {
    let (low, rest) = file.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, scale) = rest.split_at(16);
    put_half(head, row, scale);
    for (to, scale) in head[2 * TILE..].chunks_exact_mut(TILE).zip(scales) {
        to[row] = *scale;
    }
    for (at, unit) in units.chunks_exact_mut(6 * VECTOR).enumerate() {
        let (half, quarter) = (at / 4, at % 4);
        let low = &low[64 * half + 32 * (quarter % 2)..][..32];
        for (vector, bytes) in words64(low).enumerate() {
            put(unit, vector, row, nibbles(bytes >> (4 * (quarter / 2))));
        }
        for (vector, bytes) in high[32 * half..][..32].chunks_exact(16).enumerate() {
            let bits = words32(bytes).enumerate().fold(0, |all, (at, word)| {
                all | (word >> (2 * quarter) & 0x0303_0303) << (2 * at)
            });
            put(unit, 4 + vector, row, bits);
        }
    }
}
