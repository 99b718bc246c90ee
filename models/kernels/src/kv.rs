//! Keys and values in pages.
//!
//! A page holds [`PAGE`] tokens of a sequence, all layers: for each layer and head the keys, column by column (the
//! tokens of a column side by side, so that one register scores sixteen tokens), and the values, token by token. As F16,
//! or as 8-bit numbers with an F16 scale for each token and [`KvShape::scaled`] columns of a key, or
//! [`KvShape::value_scaled`] of a value: then four columns of a token's key stand beside each other, and four tokens of a
//! value's column, since kernels multiply fours; and the scales follow the keys and the values, those of all tokens for the
//! first columns first. Numbers of keys are kept with 128 added, as the kernels' unsigned factor. Which pages are a
//! sequence's, and in which order, the caller says.
//!
//! Neighbouring pages, [`EXTENT`] at a time, lie interleaved: a head's keys of all of them stand together, and then its
//! values. A sequence that has them one after the other is read in long runs, which the processor fetches by itself.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::buffer::{Buffer, OutOfMemory};
use crate::matmul::ShapeError;
use crate::pool::{Pool, Start};

/// Tokens of a page.
pub const PAGE: usize = 32;
/// Pages that lie interleaved, where there are so many.
const EXTENT: usize = 16;
/// Columns of the widest head.
pub(crate) const HEAD_MAX: usize = 512;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvKind {
    /// 16-bit floats.
    F16,
    /// 8-bit numbers with scales: little more than half the memory.
    Q8,
}

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// How.
    pub kind: KvKind,
    /// Layers.
    pub layers: usize,
    /// Heads of keys and values.
    pub heads: usize,
    /// Columns of a head: a multiple of 16, at most 512.
    pub head_width: usize,
}

impl KvShape {
    /// Whether heads of this width can be kept.
    pub const fn supports(head_width: usize) -> bool {
        head_width > 0 && head_width.is_multiple_of(16) && head_width <= HEAD_MAX
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.layers * self.heads * self.head_bytes()
    }

    /// Columns of a key that share a scale.
    pub(crate) fn scaled(&self) -> usize {
        if self.head_width.is_multiple_of(32) {
            32
        } else {
            16
        }
    }

    /// Columns of a value that share a scale: values have no columns that stand out as those of keys do, and each scale
    /// costs kernels a page's shares once more. The largest part of a head that is a multiple of 16, at most 128.
    pub(crate) fn value_scaled(&self) -> usize {
        const MOST: usize = 128;
        if self.head_width <= MOST {
            return self.head_width;
        }
        let parts = (2..=HEAD_MAX / 16).filter(|parts| self.head_width.is_multiple_of(16 * parts));
        let mut columns = parts.map(|parts| self.head_width / parts);
        columns.find(|columns| *columns <= MOST).unwrap_or(16)
    }

    /// Bytes of a head's keys in a page.
    pub(crate) fn key_bytes(&self) -> usize {
        self.half_bytes(self.scaled())
    }

    /// Bytes of a head's values in a page.
    pub(crate) fn value_bytes(&self) -> usize {
        self.half_bytes(self.value_scaled())
    }

    fn half_bytes(&self, scaled: usize) -> usize {
        match self.kind {
            KvKind::F16 => PAGE * self.head_width * size_of::<f16>(),
            KvKind::Q8 => PAGE * (self.head_width + self.head_width / scaled * size_of::<f16>()),
        }
    }

    /// Bytes of a head in a page.
    pub(crate) fn head_bytes(&self) -> usize {
        self.key_bytes() + self.value_bytes()
    }
}

/// Where keys and values stand in the buffer.
#[derive(Debug, Clone, Copy)]
struct Places {
    /// Pages that lie interleaved.
    extent: usize,
    layers: usize,
    heads: usize,
    /// Bytes of a head's keys in a page, and of its values.
    keys: usize,
    values: usize,
}

impl Places {
    fn of(shape: &KvShape, pages: usize) -> Self {
        Self {
            extent: EXTENT.min(pages.max(1)),
            layers: shape.layers,
            heads: shape.heads,
            keys: shape.key_bytes(),
            values: shape.value_bytes(),
        }
    }

    /// A head's keys of a page, and its values.
    fn of_head(&self, page: u32, layer: usize, head: usize) -> (Range<usize>, Range<usize>) {
        let (extent, at) = (page as usize / self.extent, page as usize % self.extent);
        let heads_before = (extent * self.layers + layer) * self.heads + head;
        let keys = heads_before * self.extent * (self.keys + self.values) + at * self.keys;
        let values = keys + (self.extent - at) * self.keys + at * self.values;
        (keys..keys + self.keys, values..values + self.values)
    }
}

/// Keys and values of all sequences.
pub struct KvPages {
    shape: KvShape,
    places: Places,
    pages: usize,
    buffer: Buffer,
}

/// Rows of a batch that belong to one sequence, in order.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// The sequence's pages, for its tokens so far and these rows.
    pub pages: &'a [u32],
    /// The sequence's tokens before these rows.
    pub before: usize,
    /// How many rows.
    pub rows: usize,
}

impl KvPages {
    /// `pages` empty pages. Memory is taken from the system as pages are written.
    ///
    /// # Errors
    /// [`OutOfMemory`], or the same when heads have a width that is not supported.
    pub fn new(shape: KvShape, pages: usize) -> Result<Self, OutOfMemory> {
        let places = Places::of(&shape, pages);
        let whole = pages.next_multiple_of(places.extent);
        let len = shape.page_bytes().saturating_mul(whole);
        if !KvShape::supports(shape.head_width) {
            return Err(OutOfMemory::of(usize::MAX));
        }
        Ok(Self {
            shape,
            places,
            pages,
            buffer: Buffer::zeroed(len)?,
        })
    }

    /// What a page holds.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.pages
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// A head's keys of one of some pages, and its values.
    pub(crate) fn head(&self, page: u32, layer: usize, head: usize) -> (&[u8], &[u8]) {
        let (keys, values) = self.places.of_head(page, layer, head);
        let buffer = self.buffer.as_slice();
        (&buffer[keys], &buffer[values])
    }

    /// Overwrites a page with zeros.
    pub fn wipe(&mut self, page: u32) {
        if page as usize >= self.pages {
            return;
        }
        let buffer = self.buffer.as_mut_slice();
        for layer in 0..self.shape.layers {
            for head in 0..self.shape.heads {
                let (keys, values) = self.places.of_head(page, layer, head);
                buffer[keys].fill(0);
                buffer[values].fill(0);
            }
        }
    }

    /// Writes the keys and values of a batch's rows: row by row, `heads · head_width` columns each.
    ///
    /// # Errors
    /// [`ShapeError`] when lengths differ or a page is missing; nothing is written then.
    pub fn store(
        &mut self,
        layer: usize,
        spans: &[Span<'_>],
        keys: &[f32],
        values: &[f32],
        pool: &Pool,
    ) -> Result<(), ShapeError> {
        let (shape, places) = (self.shape, self.places);
        let KvShape {
            heads, head_width, ..
        } = shape;
        let width = heads * head_width;
        let rows = self.check(layer, spans)?;
        if keys.len() != rows * width || values.len() != rows * width {
            return Err(ShapeError);
        }
        let start = Start(self.buffer.as_mut_slice().as_mut_ptr());
        let store_head = |head: usize| {
            let mut from = head * head_width;
            for span in spans {
                for at in span.before..span.before + span.rows {
                    let (keys_at, values_at) = places.of_head(span.pages[at / PAGE], layer, head);
                    // SAFETY: `check` saw that the page exists, so the head's parts of it lie in the buffer. Each head
                    // is one part's alone, and the buffer is borrowed mutably until `run` returns.
                    // JUSTIFICATION: heads lie interleaved in pages, which no safe split can express.
                    let [to_keys, to_values] = [keys_at, values_at].map(|place| unsafe {
                        let from = start.get().add(place.start);
                        std::slice::from_raw_parts_mut(from, place.len())
                    });
                    let (keys, values) =
                        (&keys[from..][..head_width], &values[from..][..head_width]);
                    match shape.kind {
                        KvKind::F16 => {
                            store_halves(keys, to_keys, |column| column * PAGE + at % PAGE);
                            store_halves(values, to_values, |column| {
                                at % PAGE * head_width + column
                            });
                        }
                        KvKind::Q8 => {
                            let token = at % PAGE;
                            let key = |column| column / 4 * (4 * PAGE) + token * 4 + column % 4;
                            let value =
                                |column| token / 4 * (4 * head_width) + 4 * column + token % 4;
                            let (ours, theirs) = (shape.scaled(), shape.value_scaled());
                            store_bytes::<128>(ours, token, keys, to_keys, key);
                            store_bytes::<0>(theirs, token, values, to_values, value);
                        }
                    }
                    from += width;
                }
            }
        };
        match rows {
            // Not worth waking anybody.
            1 => (0..heads).for_each(store_head),
            _ => pool.run(heads, &store_head),
        }
        Ok(())
    }

    /// Whether the layer and every page exist; answers the rows of all spans.
    pub(crate) fn check(&self, layer: usize, spans: &[Span<'_>]) -> Result<usize, ShapeError> {
        let good = |span: &Span<'_>| {
            span.rows > 0
                && (span.before + span.rows).div_ceil(PAGE) <= span.pages.len()
                && span.pages.iter().all(|page| (*page as usize) < self.pages)
        };
        if layer >= self.shape.layers || !spans.iter().all(good) {
            return Err(ShapeError);
        }
        Ok(spans.iter().map(|span| span.rows).sum())
    }
}

/// A head of one token as F16, each column where `place` says. What is beyond F16's range becomes its largest number, so
/// that nothing becomes infinite.
fn store_halves(exact: &[f32], bytes: &mut [u8], place: impl Fn(usize) -> usize) {
    let mut bounded = [0.0_f32; HEAD_MAX];
    let mut halves = [f16::ZERO; HEAD_MAX];
    let (bounded, halves) = (&mut bounded[..exact.len()], &mut halves[..exact.len()]);
    for (bounded, x) in bounded.iter_mut().zip(exact) {
        *bounded = x.clamp(-65_504.0, 65_504.0);
    }
    halves.convert_from_f32_slice(bounded);
    for (column, half) in halves.iter().enumerate() {
        bytes[2 * place(column)..][..2].copy_from_slice(&half.to_le_bytes());
    }
}

/// A head of one token as 8-bit numbers with `OFFSET` added, each column where `place` says; the scales of each `scaled`
/// columns stand behind all of the page's numbers. What is beyond the largest scale becomes the largest number.
fn store_bytes<const OFFSET: u8>(
    scaled: usize,
    token: usize,
    exact: &[f32],
    bytes: &mut [u8],
    place: impl Fn(usize) -> usize,
) {
    let (numbers, scales) = bytes.split_at_mut(PAGE * exact.len());
    let scales = scales.chunks_exact_mut(2 * PAGE);
    for ((group, exact), scales) in exact.chunks_exact(scaled).enumerate().zip(scales) {
        let largest = exact.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let half = f16::from_f32((largest / 127.0).min(65_504.0)).to_le_bytes();
        scales[2 * token..][..2].copy_from_slice(&half);
        let scale = scale_of(half);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (column, x) in exact.iter().enumerate() {
            // Adding 1.5 · 2²³ rounds to the nearest integer, halves to even.
            let step = (x * inverse).clamp(-127.0, 127.0) + 12_582_912.0;
            numbers[place(group * scaled + column)] = (step.to_bits() as u8).wrapping_add(OFFSET);
        }
    }
}

/// What a stored scale is worth: an F16 that is neither negative nor infinite.
#[inline(always)]
pub(crate) fn scale_of(half: [u8; 2]) -> f32 {
    // The bits of an F16 are those of an F32 with another offset of the exponent, 13 places to the right.
    const OFFSET: f32 = f32::from_bits((127 + 112) << 23);
    f32::from_bits(u32::from(u16::from_le_bytes(half)) << 13) * OFFSET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_is_worth_its_half() {
        for bits in 0..0x7c00_u16 {
            let half = f16::from_bits(bits);
            assert_eq!(scale_of(half.to_le_bytes()), half.to_f32());
        }
    }
}
