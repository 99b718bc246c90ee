//! Attention over keys and values in pages ([`crate::kv`]).
//!
//! A token's result is computed in the same order whatever is computed beside it: results do not depend on the batch.

mod inner;
mod shares;
mod table;

use std::cell::RefCell;

use crate::elementwise::soft_cap;
use crate::isa::Isa;
use crate::kv::{KvPages, KvShape, PAGE, Span};
use crate::matmul::ShapeError;
use crate::pool::{Pool, Start};
use inner::Halves;
use table::{Queries, Shares};

/// Queries (tokens times heads that share keys) that one part of the work takes.
const QUERIES: usize = 32;

/// Pages that are asked for before they are read: one takes less time than memory does to answer.
const AHEAD: usize = 4;

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

/// What is attended to.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// With which set.
    pub isa: Isa,
    /// In which layer.
    pub layer: usize,
    /// By which rows.
    pub spans: &'a [Span<'a>],
    /// How scores are made.
    pub scoring: Scoring,
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

/// What a thread computes a part in; kept, since a long context's scores are megabytes.
struct Scratch {
    scores: Vec<f32>,
    queries: Queries,
    shares: Shares,
}

impl Scratch {
    const fn new(shape: KvShape) -> Self {
        Self {
            scores: Vec::new(),
            queries: Queries::none(shape),
            shares: Shares::none(shape),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

impl KvPages {
    /// Attention of a batch's rows over all that their sequences have, their own keys and values included (store them
    /// first). `queries` and `out` have `query_heads · head_width` columns.
    ///
    /// # Errors
    /// [`ShapeError`] when lengths differ or a page is missing.
    pub fn attend(
        &self,
        attention: &Attention<'_>,
        queries: &[f32],
        out: &mut [f32],
        pool: &Pool,
    ) -> Result<(), ShapeError> {
        let Attention { layer, spans, .. } = *attention;
        let KvShape {
            heads, head_width, ..
        } = self.shape();
        let rows = self.check(layer, spans)?;
        let width = queries.len() / rows.max(1);
        let group = width / (heads * head_width).max(1);
        if rows == 0
            || group == 0
            || width != group * heads * head_width
            || queries.len() != rows * width
            || out.len() != queries.len()
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
            self.attend_part(attention, span, part, own_queries, own_out);
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

    /// All queries of a part: scores, then page by page their exponentials and the weighted values.
    fn attend_part(
        &self,
        attention: &Attention<'_>,
        span: &Span<'_>,
        part: &Part,
        queries: &[f32],
        out: &mut [f32],
    ) {
        let Attention {
            isa,
            layer,
            scoring,
            ..
        } = *attention;
        let shape = self.shape();
        let count = queries.len() / shape.head_width;
        let group = count / part.rows;
        let position = span.before + part.first;
        let end = position + part.rows;
        let start_of = |position: usize| (position + 1).saturating_sub(scoring.sight);
        let first_page = start_of(position) / PAGE;
        let base = first_page * PAGE;
        let stride = end.next_multiple_of(PAGE) - base;
        let pages = &span.pages[first_page..end.div_ceil(PAGE)];
        let keys = |index: usize| self.head(pages[index], layer, part.head).0;
        let values = |index: usize| self.head(pages[index], layer, part.head).1;
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch {
                scores,
                queries: table,
                shares,
            } = scratch.get_or_insert_with(|| Scratch::new(shape));
            if scores.len() < count * stride {
                scores.resize(count * stride, 0.0);
            }
            let scores = &mut scores[..count * stride];
            table.fill(shape, scoring.scale, queries);
            for index in 0..pages.len() {
                // Behind the last keys the first values are read.
                let next = match (index + AHEAD).checked_sub(pages.len()) {
                    None => keys(index + AHEAD),
                    Some(behind) => values(behind.min(pages.len() - 1)),
                };
                let now = keys(index);
                inner::score(
                    isa,
                    table,
                    Halves { now, next },
                    scores,
                    (stride, index * PAGE),
                );
            }
            if let Some(cap) = scoring.cap {
                soft_cap(isa, scores, cap);
            }
            let sights = (0..count).map(|query| {
                let position = position + query / group;
                (start_of(position) - base, position + 1 - base)
            });
            shares.begin(isa, shape, scores, stride, sights);
            out.fill(0.0);
            for index in 0..pages.len() {
                let next = values((index + AHEAD).min(pages.len() - 1));
                let values = Halves {
                    now: values(index),
                    next,
                };
                let place = (stride, index * PAGE);
                let tokens = PAGE.min(end - base - index * PAGE);
                inner::weigh(isa, shares, scores, place, values, tokens, out);
            }
            for (out, inverse) in out
                .chunks_exact_mut(shape.head_width)
                .zip(shares.inverses())
            {
                out.iter_mut().for_each(|out| *out *= inverse);
            }
        });
    }
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
