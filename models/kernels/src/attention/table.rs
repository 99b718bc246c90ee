//! What the inner loops multiply with: queries and shares (softmax's weights), as they read them.
//!
//! For F16 both are `f32`. For eight bits they are 8-bit integers in fours, with a factor: of a query for the columns of
//! each scale, of shares for a page's tokens, the scales of their values multiplied in beforehand. Queries have a high and a
//! low part: with the high one alone results are up to 1.7 times as far off, and memory is slower than both.
//! Shares are positive and have all eight bits.

use crate::elementwise::{LANES, add_lanes, largest_of};
use crate::isa::Isa;
use crate::kv::{KvKind, KvShape, PAGE};

/// The largest integer of queries, which have a sign and two parts.
const QUERY: f32 = 127.0 * HIGH as f32;
/// What a query's high part is worth.
pub(super) const HIGH: i16 = 128;
/// The largest integer of shares, which have none.
pub(super) const SHARE: f32 = 255.0;
/// Adding it leaves an integer in the low bits of the sum: 1.5 · 2²³.
const MAGIC: f32 = 12_582_912.0;
/// What is smaller than this counts as nothing: what is divided by it is still finite.
const TINY: f32 = 1e-30;

/// By what numbers are multiplied to become integers up to `most`, and what one step is then worth.
#[inline(always)]
pub(super) fn steps(largest: f32, most: f32) -> (f32, f32) {
    let inverse = if largest > TINY { most / largest } else { 0.0 };
    (inverse, largest / most)
}

/// A high and a low part, neither of them -128.
fn in_two(x: i16) -> [i8; 2] {
    let high = (x + HIGH / 2) >> 7;
    [high as i8, (x - HIGH * high) as i8]
}

/// How many queries the inner loops take at once, beginning with the first: eight as often as there are, then fewer.
fn blocks(count: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let size = match count - first {
            0 => return None,
            left => [8, 4, 2, 1].into_iter().find(|size| *size <= left)?,
        };
        first += size;
        Some((first - size, size))
    })
}

/// Queries of a part of the work. Those of a block stand beside each other, column by column (or four by four).
pub(super) struct Queries {
    shape: KvShape,
    count: usize,
    scale: f32,
    words: Vec<u32>,
    factors: Vec<f32>,
    starts: Vec<i32>,
}

impl Queries {
    /// None.
    pub(super) const fn none(shape: KvShape) -> Self {
        Self {
            shape,
            count: 0,
            scale: 1.0,
            words: Vec::new(),
            factors: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Takes `exact` queries, a head's columns each; `scale` multiplies their products. Memory is kept.
    pub(super) fn fill(&mut self, shape: KvShape, scale: f32, exact: &[f32]) {
        let (width, scaled) = (shape.head_width, shape.scaled());
        self.shape = shape;
        self.count = exact.len() / width;
        self.scale = scale;
        self.words.clear();
        self.factors.clear();
        self.starts.clear();
        for (first, size) in blocks(self.count) {
            let block = &exact[first * width..(first + size) * width];
            match shape.kind {
                KvKind::F16 => {
                    for column in 0..width {
                        let rows = block.chunks_exact(width);
                        self.words.extend(rows.map(|row| row[column].to_bits()));
                    }
                }
                KvKind::Q8 => {
                    for group in 0..width / scaled {
                        let rows = block.chunks_exact(width);
                        let rows = rows.map(|row| &row[group * scaled..(group + 1) * scaled]);
                        self.round_group(scale, rows);
                    }
                }
            }
        }
    }

    /// The same columns of a block's queries: for four columns first the high parts of all of them, then the low ones.
    fn round_group<'a>(&mut self, scale: f32, rows: impl Iterator<Item = &'a [f32]> + Clone) {
        let mut halves = [Vec::new(), Vec::new()];
        for row in rows.clone() {
            let largest = row.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let (inverse, factor) = steps(largest, QUERY);
            let mut sums = [0, 0];
            for four in row.as_chunks::<4>().0 {
                let four = four.map(|x| in_two((x * inverse + MAGIC).to_bits() as i16));
                for (part, (half, sum)) in halves.iter_mut().zip(&mut sums).enumerate() {
                    let four = four.map(|parts| parts[part]);
                    *sum += four.iter().map(|x| i32::from(*x)).sum::<i32>();
                    half.push(u32::from_le_bytes(four.map(|x| x as u8)));
                }
            }
            self.factors.push(factor * scale);
            self.starts.extend(sums.map(|sum| -128 * sum));
        }
        let (count, size) = (rows.count().max(1), halves[0].len());
        let each = size / count;
        for four in 0..each {
            for half in &halves {
                self.words
                    .extend((0..count).map(|row| half[row * each + four]));
            }
        }
    }

    pub(super) fn shape(&self) -> KvShape {
        self.shape
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn scale(&self) -> f32 {
        self.scale
    }

    /// A word for each query and column, or two for each query and four columns.
    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }

    /// With eight bits a factor for each query and scale of a key, the products' scale in it.
    pub(super) fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// And for each part of them what takes the keys' offset of 128 away again.
    pub(super) fn starts(&self) -> &[i32] {
        &self.starts
    }
}

/// What a query sees of its sequence.
pub(super) struct Sight {
    /// The first score that counts, and the one behind the last.
    start: usize,
    end: usize,
    /// The largest of them.
    pub(super) largest: f32,
    /// The sum of all exponentials so far, lane by lane.
    pub(super) sums: [f32; LANES],
}

impl Sight {
    /// Which of a page's tokens it sees: the page's first score stands in column `column`.
    #[inline(always)]
    pub(super) fn of_page(&self, column: usize) -> (usize, usize) {
        let inside = |at: usize| at.saturating_sub(column).min(PAGE);
        let start = inside(self.start);
        (start, inside(self.end).max(start))
    }
}

/// The shares of a page's tokens in the results of some queries.
pub(super) struct Shares {
    shape: KvShape,
    sights: Vec<Sight>,
    /// For each query a page's tokens.
    exact: Vec<f32>,
    /// For each scale of a value and each query the page's tokens, and what a step is worth.
    rounded: Vec<u8>,
    factors: Vec<f32>,
}

impl Shares {
    /// None.
    pub(super) const fn none(shape: KvShape) -> Self {
        Self {
            shape,
            sights: Vec::new(),
            exact: Vec::new(),
            rounded: Vec::new(),
            factors: Vec::new(),
        }
    }

    /// Begins with other scores: a row of `stride` for each query, of which those within its `sights` count.
    pub(super) fn begin(
        &mut self,
        isa: Isa,
        shape: KvShape,
        scores: &[f32],
        stride: usize,
        sights: impl Iterator<Item = (usize, usize)>,
    ) {
        self.shape = shape;
        self.sights.clear();
        let rows = scores.chunks_exact(stride).zip(sights);
        self.sights.extend(rows.map(|(row, (start, end))| Sight {
            start,
            end,
            largest: largest_of(isa, &row[start..end]),
            sums: [0.0; LANES],
        }));
        let (count, groups) = (self.sights.len(), shape.head_width / shape.value_scaled());
        self.exact.resize(count * PAGE, 0.0);
        if shape.kind == KvKind::Q8 {
            self.rounded.resize(count * groups * PAGE, 0);
            self.factors.resize(count * groups, 0.0);
        }
    }

    /// What each query sees, and where its exponentials go.
    pub(super) fn rows(&mut self) -> impl Iterator<Item = (&mut Sight, &mut [f32; PAGE])> {
        self.sights.iter_mut().zip(self.exact.as_chunks_mut().0)
    }

    /// Where exponentials stand, where their rounded products with scales do, and the factors of those.
    pub(super) fn parts(&mut self) -> (*const f32, *mut u8, *mut f32) {
        (
            self.exact.as_ptr(),
            self.rounded.as_mut_ptr(),
            self.factors.as_mut_ptr(),
        )
    }

    /// For each query one divided by the sum of its exponentials.
    pub(super) fn inverses(&self) -> impl Iterator<Item = f32> {
        let sums = self.sights.iter().map(|sight| sight.sums);
        sums.map(|sums| 1.0 / add_lanes(sums))
    }

    pub(super) fn shape(&self) -> KvShape {
        self.shape
    }

    pub(super) fn count(&self) -> usize {
        self.sights.len()
    }

    /// A word for each query and token, or for each scale of a value, query and four tokens (not aligned).
    pub(super) fn words(&self) -> *const u32 {
        match self.shape.kind {
            KvKind::F16 => self.exact.as_ptr().cast(),
            KvKind::Q8 => self.rounded.as_ptr().cast(),
        }
    }

    /// With eight bits a factor for each scale of a value and each query.
    pub(super) fn factors(&self) -> *const f32 {
        self.factors.as_ptr()
    }
}
