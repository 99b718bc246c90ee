//! Keys and values in pages, and attention over them.
//!
//! A page holds [`PAGE`] tokens of a sequence, all layers: for each layer and head first the keys, column by column (the
//! tokens of a column side by side, so that one register scores sixteen tokens), then the values, token by token. Both as
//! F16. Which pages are a sequence's, and in which order, the caller says.
//!
//! A token's result is computed in the same order whatever is computed beside it: results do not depend on the batch.

use std::cell::RefCell;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::buffer::{Buffer, OutOfMemory};
use crate::elementwise::{soft_cap, softmax};
use crate::isa::Isa;
use crate::isa::{Lanes, portable::Portable};
#[cfg(target_arch = "x86_64")]
use crate::isa::{avx2::Avx2, avx512::Avx512};
use crate::matmul::ShapeError;
use crate::pool::{Pool, Start};

/// Tokens of a page.
pub const PAGE: usize = 32;
/// Queries (tokens times heads that share keys) that one part of the work takes.
const QUERIES: usize = 32;

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// Heads of keys and values.
    pub heads: usize,
    /// Columns of a head: a multiple of 16.
    pub head_width: usize,
}

impl KvShape {
    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.layers * self.layer_bytes()
    }

    fn layer_bytes(&self) -> usize {
        self.heads * self.head_bytes()
    }

    fn head_bytes(&self) -> usize {
        2 * PAGE * self.head_width * size_of::<f16>()
    }
}

/// Keys and values of all sequences.
pub struct KvPages {
    shape: KvShape,
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

/// How scores are made.
#[derive(Debug, Clone, Copy)]
pub struct Scoring {
    /// Multiplies the products of queries and keys.
    pub scale: f32,
    /// Bends scores: `cap · tanh(score / cap)`.
    pub cap: Option<f32>,
    /// Tokens that a token sees, itself included.
    pub sight: usize,
}

/// A part of the work: some rows of a span, one head of keys and values.
struct Part {
    span: usize,
    head: usize,
    /// The first of the rows, within the span.
    first: usize,
    rows: usize,
    /// The first of the rows, within the batch.
    batch_row: usize,
}

thread_local! {
    /// Scores of a part; kept, since a long context's are megabytes.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl KvPages {
    /// `pages` empty pages. Memory is taken from the system as pages are written.
    ///
    /// # Errors
    /// [`OutOfMemory`], or the same when heads are not a multiple of 16 wide.
    pub fn new(shape: KvShape, pages: usize) -> Result<Self, OutOfMemory> {
        let len = shape.page_bytes().saturating_mul(pages);
        if !shape.head_width.is_multiple_of(16) || shape.head_width == 0 {
            return Err(OutOfMemory::of(usize::MAX));
        }
        Ok(Self {
            shape,
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

    /// Overwrites a page with zeros.
    pub fn wipe(&mut self, page: u32) {
        let len = self.shape.page_bytes();
        let start = page as usize * len;
        if let Some(page) = self.buffer.as_mut_slice().get_mut(start..start + len) {
            page.fill(0);
        }
    }

    /// Copies what a page holds to another one.
    pub fn copy(&mut self, from: u32, to: u32) {
        let len = self.shape.page_bytes();
        let (from, to) = (from as usize * len, to as usize * len);
        let bytes = self.buffer.as_mut_slice();
        if from.max(to) + len <= bytes.len() {
            bytes.copy_within(from..from + len, to);
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
        let KvShape {
            heads, head_width, ..
        } = self.shape;
        let width = heads * head_width;
        let rows = self.check(layer, spans)?;
        if keys.len() != rows * width || values.len() != rows * width {
            return Err(ShapeError);
        }
        let shape = self.shape;
        let start = Start(self.buffer.as_mut_slice().as_mut_ptr());
        pool.run(if rows == 1 { 1 } else { heads }, &|part| {
            let own = if rows == 1 { 0..heads } else { part..part + 1 };
            for head in own {
                let mut halves = [f16::ZERO; 512];
                let mut row = 0;
                for span in spans {
                    for at in span.before..span.before + span.rows {
                        let from = row * width + head * head_width;
                        let place = place(shape, span, layer, head, at);
                        // SAFETY: `check` saw that the page exists, so the head's part of it lies in the buffer. Each
                        // head is one part's alone, and the buffer is borrowed mutably until `run` returns.
                        // JUSTIFICATION: heads lie interleaved in pages, which no safe split can express.
                        let head = unsafe {
                            std::slice::from_raw_parts_mut(
                                start.get().add(place).cast::<f16>(),
                                2 * PAGE * head_width,
                            )
                        };
                        let slot = at % PAGE;
                        let (to_keys, to_values) = head.split_at_mut(PAGE * head_width);
                        let (keys, values) = (&keys[from..], &values[from..]);
                        for first in (0..head_width).step_by(halves.len()) {
                            let columns = halves.len().min(head_width - first);
                            round(&keys[first..first + columns], &mut halves[..columns]);
                            for (column, half) in halves[..columns].iter().enumerate() {
                                to_keys[(first + column) * PAGE + slot] = *half;
                            }
                        }
                        let to_values = &mut to_values[slot * head_width..][..head_width];
                        round(&values[..head_width], to_values);
                        row += 1;
                    }
                }
            }
        });
        Ok(())
    }

    /// Attention of a batch's rows over all that their sequences have, their own keys and values included (store them
    /// first). `queries` and `out` have `query_heads · head_width` columns.
    ///
    /// # Errors
    /// [`ShapeError`] when lengths differ or a page is missing.
    pub fn attend(
        &self,
        isa: Isa,
        layer: usize,
        spans: &[Span<'_>],
        queries: &[f32],
        out: &mut [f32],
        scoring: Scoring,
        pool: &Pool,
    ) -> Result<(), ShapeError> {
        let KvShape {
            heads, head_width, ..
        } = self.shape;
        let rows = self.check(layer, spans)?;
        let width = queries.len() / rows.max(1);
        let group = width / (heads * head_width).max(1);
        if rows == 0
            || group == 0
            || width != group * heads * head_width
            || queries.len() != rows * width
            || out.len() != queries.len()
            || !Isa::available().contains(&isa)
        {
            return Err(ShapeError);
        }
        let parts = cut(spans, heads, group);
        let target = Start(out.as_mut_ptr());
        pool.run(parts.len(), &|part| {
            let Some(part) = parts.get(part) else { return };
            let Some(span) = spans.get(part.span) else {
                return;
            };
            // Queries of the part, head beside head: row by row, `group` heads each.
            let offset = |query: usize| {
                let (row, head) = (query / group, query % group);
                (part.batch_row + row) * width + (part.head * group + head) * head_width
            };
            let count = part.rows * group;
            let mut own = vec![0.0; 2 * count * head_width];
            let (own_queries, own_out) = own.split_at_mut(count * head_width);
            for (query, own) in own_queries.chunks_exact_mut(head_width).enumerate() {
                own.copy_from_slice(&queries[offset(query)..][..head_width]);
            }
            self.attend_part(isa, layer, span, part, group, own_queries, own_out, scoring);
            for (query, own) in own_out.chunks_exact(head_width).enumerate() {
                // SAFETY: the row and the heads lie inside `out` (its length was checked), and are this part's alone.
                // JUSTIFICATION: parts own columns of a row-major matrix, which no safe split can express.
                unsafe {
                    target
                        .get()
                        .add(offset(query))
                        .copy_from_nonoverlapping(own.as_ptr(), head_width);
                }
            }
        });
        Ok(())
    }

    /// All queries of a part: scores, softmax, weighted values.
    fn attend_part(
        &self,
        isa: Isa,
        layer: usize,
        span: &Span<'_>,
        part: &Part,
        group: usize,
        queries: &[f32],
        out: &mut [f32],
        scoring: Scoring,
    ) {
        let head_width = self.shape.head_width;
        let count = part.rows * group;
        let position = span.before + part.first;
        let end = position + part.rows;
        let start_of = |position: usize| (position + 1).saturating_sub(scoring.sight);
        let first_page = start_of(position) / PAGE;
        let base = first_page * PAGE;
        let stride = end.next_multiple_of(PAGE) - base;
        let pages = end.div_ceil(PAGE) - first_page;
        let bytes = self.buffer.as_slice();
        let page = |index: usize| {
            let at = place(
                self.shape,
                span,
                layer,
                part.head,
                (first_page + index) * PAGE,
            );
            &bytes[at..][..self.shape.head_bytes()]
        };
        SCORES.with_borrow_mut(|scores| {
            if scores.len() < count * stride {
                scores.resize(count * stride, 0.0);
            }
            let scores = &mut scores[..count * stride];
            for index in 0..pages {
                let keys = &page(index)[..PAGE * head_width * 2];
                score(
                    isa,
                    queries,
                    keys,
                    head_width,
                    scoring.scale,
                    scores,
                    stride,
                    index * PAGE,
                );
            }
            for (query, scores) in scores.chunks_exact_mut(stride).enumerate() {
                let position = position + query / group;
                if let Some(cap) = scoring.cap {
                    soft_cap(isa, scores, cap);
                }
                softmax(isa, scores, start_of(position) - base, position + 1 - base);
            }
            let values = |index: usize| &page(index)[PAGE * head_width * 2..];
            weigh(
                isa,
                scores,
                stride,
                &values,
                pages,
                end - base,
                head_width,
                out,
            );
        });
    }

    /// Whether the layer and every page exist; answers the rows of all spans.
    fn check(&self, layer: usize, spans: &[Span<'_>]) -> Result<usize, ShapeError> {
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

/// Where a head's part of the page of token `at` begins.
fn place(shape: KvShape, span: &Span<'_>, layer: usize, head: usize, at: usize) -> usize {
    let page = span.pages[at / PAGE] as usize;
    page * shape.page_bytes() + layer * shape.layer_bytes() + head * shape.head_bytes()
}

fn cut(spans: &[Span<'_>], heads: usize, group: usize) -> Vec<Part> {
    let rows_each = (QUERIES / group).max(1);
    let mut parts = Vec::new();
    let mut batch_row = 0;
    for (index, span) in spans.iter().enumerate() {
        // The last rows see most and are begun first.
        for first in (0..span.rows).step_by(rows_each).rev() {
            parts.extend((0..heads).map(|head| Part {
                span: index,
                head,
                first,
                rows: rows_each.min(span.rows - first),
                batch_row: batch_row + first,
            }));
        }
        batch_row += span.rows;
    }
    parts
}

/// To F16; what is beyond its range becomes its largest number, so that nothing becomes infinite.
fn round(exact: &[f32], halves: &mut [f16]) {
    let mut bounded = [0.0_f32; 64];
    for (exact, halves) in exact.chunks(64).zip(halves.chunks_mut(64)) {
        let bounded = &mut bounded[..exact.len()];
        for (bounded, x) in bounded.iter_mut().zip(exact) {
            *bounded = x.clamp(-65_504.0, 65_504.0);
        }
        halves.convert_from_f32_slice(bounded);
    }
}

/// Calls a generic function for `R` queries at a time, as many as there are.
macro_rules! by_rows {
    ($count:expr, |$first:ident, $r:ident| $call:expr) => {
        let mut $first = 0;
        while $first < $count {
            match $count - $first {
                8.. => {
                    const $r: usize = 8;
                    $call;
                    $first += $r;
                }
                4.. => {
                    const $r: usize = 4;
                    $call;
                    $first += $r;
                }
                2.. => {
                    const $r: usize = 2;
                    $call;
                    $first += $r;
                }
                _ => {
                    const $r: usize = 1;
                    $call;
                    $first += $r;
                }
            }
        }
    };
}

/// Scores of all queries against one page's keys, written from column `column` of each row of `scores` on.
fn score(
    isa: Isa,
    queries: &[f32],
    keys: &[u8],
    head_width: usize,
    scale: f32,
    scores: &mut [f32],
    stride: usize,
    column: usize,
) {
    let count = queries.len() / head_width;
    assert!(keys.len() >= PAGE * head_width * 2 && scores.len() >= count * stride);
    assert!(column + PAGE <= stride);
    let job = ScoreJob {
        queries: queries.as_ptr(),
        keys: keys.as_ptr(),
        head_width,
        scale,
        scores: scores.as_mut_ptr().wrapping_add(column),
        stride,
    };
    // SAFETY: lengths were checked above; the callers of this file saw that the processor has the set.
    // JUSTIFICATION: eight times the portable twin's speed.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => sets::score_avx512(job, count),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => sets::score_avx2(job, count),
            _ => sets::score_any::<Portable>(job, count),
        }
    }
}

/// Weighted values of all queries, over `tokens` tokens of `pages` pages.
fn weigh<'a>(
    isa: Isa,
    weights: &[f32],
    stride: usize,
    values: &dyn Fn(usize) -> &'a [u8],
    pages: usize,
    tokens: usize,
    head_width: usize,
    out: &mut [f32],
) {
    let count = out.len() / head_width;
    assert!(weights.len() >= count * stride && tokens <= stride && head_width.is_multiple_of(16));
    out.fill(0.0);
    for page in 0..pages {
        let values = values(page);
        let tokens = PAGE.min(tokens - (page * PAGE).min(tokens));
        assert!(values.len() >= PAGE * head_width * 2);
        let job = WeighJob {
            weights: weights.as_ptr().wrapping_add(page * PAGE),
            stride,
            values: values.as_ptr(),
            tokens,
            head_width,
            out: out.as_mut_ptr(),
        };
        // SAFETY: lengths were checked above; the callers of this file saw that the processor has the set.
        // JUSTIFICATION: eight times the portable twin's speed.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => sets::weigh_avx512(job, count),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => sets::weigh_avx2(job, count),
                _ => sets::weigh_any::<Portable>(job, count),
            }
        }
    }
}

#[derive(Clone, Copy)]
struct ScoreJob {
    queries: *const f32,
    keys: *const u8,
    head_width: usize,
    scale: f32,
    scores: *mut f32,
    stride: usize,
}

#[derive(Clone, Copy)]
struct WeighJob {
    weights: *const f32,
    stride: usize,
    values: *const u8,
    tokens: usize,
    head_width: usize,
    out: *mut f32,
}

mod sets {
    //! The two inner loops, over [`Lanes`], and their instances.

    use super::*;

    /// # Safety
    /// The job's pointers must have their lengths for `count` queries, and the processor the set.
    #[inline(always)]
    pub(super) unsafe fn score_any<S: Lanes>(job: ScoreJob, count: usize) {
        // SAFETY: handed on.
        unsafe {
            by_rows!(count, |first, R| match S::LANES {
                16 => score_rows::<S, R, 2>(job, first),
                _ if R <= 4 => score_rows::<S, R, 2>(job, first),
                _ => score_rows::<S, R, 1>(job, first),
            });
        }
    }

    /// # Safety
    /// As [`score_any`].
    #[inline(always)]
    pub(super) unsafe fn weigh_any<S: Lanes>(job: WeighJob, count: usize) {
        // SAFETY: handed on.
        unsafe {
            let registers = job.head_width / S::LANES;
            by_rows!(count, |first, R| match S::LANES {
                16 if R <= 4 && registers.is_multiple_of(4) => weigh_rows::<S, R, 4>(job, first),
                16 if registers.is_multiple_of(2) => weigh_rows::<S, R, 2>(job, first),
                8 if R <= 4 => weigh_rows::<S, R, 2>(job, first),
                _ => weigh_rows::<S, R, 1>(job, first),
            });
        }
    }

    macro_rules! instance {
        ($name:ident, $any:ident, $set:ty, $job:ty, $features:literal) => {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(job: $job, count: usize) {
                // SAFETY: handed on.
                unsafe { $any::<$set>(job, count) }
            }
        };
    }

    instance!(
        score_avx512,
        score_any,
        Avx512,
        ScoreJob,
        "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
    );
    instance!(
        weigh_avx512,
        weigh_any,
        Avx512,
        WeighJob,
        "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
    );
    instance!(score_avx2, score_any, Avx2, ScoreJob, "avx2,fma,f16c");
    instance!(weigh_avx2, weigh_any, Avx2, WeighJob, "avx2,fma,f16c");

    /// `R` queries against a page: `U` registers of tokens at a time, so that enough sums are under way.
    #[inline(always)]
    unsafe fn score_rows<S: Lanes, const R: usize, const U: usize>(job: ScoreJob, first: usize) {
        // SAFETY: handed on; tokens are taken by whole registers, of which a page is a multiple.
        unsafe {
            let queries = job.queries.add(first * job.head_width);
            let scores = job.scores.add(first * job.stride);
            let scale = S::float(job.scale);
            let mut token = 0;
            while token < PAGE {
                let mut sums = [[S::float(0.0); U]; R];
                for column in 0..job.head_width {
                    let from = job.keys.add((column * PAGE + token) * 2);
                    let mut keys = [S::float(0.0); U];
                    for (at, keys) in keys.iter_mut().enumerate() {
                        *keys = S::load_f16(from.add(at * S::LANES * 2));
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let query = S::float(queries.add(row * job.head_width + column).read());
                        for (sum, keys) in sums.iter_mut().zip(keys) {
                            *sum = S::fma(keys, query, *sum);
                        }
                    }
                }
                for (row, sums) in sums.into_iter().enumerate() {
                    for (at, sum) in sums.into_iter().enumerate() {
                        let to = scores.add(row * job.stride + token + at * S::LANES);
                        S::store(S::mul(sum, scale), to);
                    }
                }
                token += U * S::LANES;
            }
        }
    }

    /// `R` queries' weighted values of a page, added to what is there: `U` registers of columns at a time.
    #[inline(always)]
    unsafe fn weigh_rows<S: Lanes, const R: usize, const U: usize>(job: WeighJob, first: usize) {
        // SAFETY: handed on; columns are taken by `U` whole registers, of which the caller knows a head to be a multiple.
        unsafe {
            let weights = job.weights.add(first * job.stride);
            let out = job.out.add(first * job.head_width);
            let mut column = 0;
            while column < job.head_width {
                let place =
                    |row: usize, at: usize| out.add(row * job.head_width + column + at * S::LANES);
                let mut sums = [[S::float(0.0); U]; R];
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (at, sum) in sums.iter_mut().enumerate() {
                        *sum = S::load_f32(place(row, at).cast());
                    }
                }
                for token in 0..job.tokens {
                    let from = job.values.add((token * job.head_width + column) * 2);
                    let mut values = [S::float(0.0); U];
                    for (at, values) in values.iter_mut().enumerate() {
                        *values = S::load_f16(from.add(at * S::LANES * 2));
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let weight = S::float(weights.add(row * job.stride + token).read());
                        for (sum, values) in sums.iter_mut().zip(values) {
                            *sum = S::fma(values, weight, *sum);
                        }
                    }
                }
                for (row, sums) in sums.into_iter().enumerate() {
                    for (at, sum) in sums.into_iter().enumerate() {
                        S::store(sum, place(row, at));
                    }
                }
                column += U * S::LANES;
            }
        }
    }
}
