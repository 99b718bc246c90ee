//! Attention's rotation and scores in ggml's order.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{LANES, PARALLEL_MIN, by_row, columns, contiguous, fused};

/// Rotates neighbouring pairs of columns of `x`, heads × rows × columns; columns beyond the rotated ones stay.
/// `turns` holds cosine and sine of each pair, row by row.
///
/// Of the two products in a rotated value the first one is fused with the sum: found by comparison with llama.cpp, whose
/// source leaves it to the compiler.
///
/// # Errors
/// When `x` is not F32 or not on the processor.
pub fn rotate(x: &Tensor, turns: &[(f32, f32)], pairs: usize) -> Result<Tensor> {
    rotate_rows(x, turns, pairs, |out, turns| {
        let (out, _) = out.as_chunks_mut::<2>();
        for ([first, second], turn) in out.iter_mut().zip(turns) {
            turn_pair(first, second, *turn);
        }
    })
}

/// As [`rotate`], but each of the first `pairs` columns turns with the one that is `pairs` further.
///
/// # Errors
/// As [`rotate`].
pub fn rotate_halves(x: &Tensor, turns: &[(f32, f32)], pairs: usize) -> Result<Tensor> {
    rotate_rows(x, turns, pairs, |out, turns| {
        let (first, second) = out.split_at_mut(pairs);
        for ((first, second), turn) in first.iter_mut().zip(second).zip(turns) {
            turn_pair(first, second, *turn);
        }
    })
}

fn turn_pair(first: &mut f32, second: &mut f32, (cos, sin): (f32, f32)) {
    let (a, b) = (*first, *second);
    *first = fused(a, cos, -(b * sin));
    *second = fused(a, sin, b * cos);
}

fn rotate_rows(
    x: &Tensor,
    turns: &[(f32, f32)],
    pairs: usize,
    rotate: impl Fn(&mut [f32], &[(f32, f32)]) + Send + Sync,
) -> Result<Tensor> {
    let (rows, columns) = (x.dim(1)?, x.dim(2)?);
    if rows == 0 || pairs == 0 || 2 * pairs > columns || turns.len() != rows * pairs {
        candle_core::bail!("a rotation has another size than its input");
    }
    by_row(x, |at, row, out| {
        out.copy_from_slice(row);
        rotate(out, turns.chunks(pairs).nth(at % rows).unwrap_or_default());
    })
}

/// Columns of a head from which on ggml keeps scores in registers. Wider heads are left to the library's products,
/// which are much faster and no further from the exact sums; in what order they add is then the library's business.
const WIDE: usize = 64;

/// Queries (groups × rows × columns) times keys (groups × tokens × columns), transposed: groups × rows × tokens.
/// One column after the other and nothing fused, which was found by comparison too.
///
/// # Errors
/// When shapes do not fit.
pub fn scores(queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
    if queries.device().is_cpu() && keys.dim(2)? < WIDE {
        let tokens = keys.dim(1)?;
        let product = ByGroup(tokens, |query: &[f32], keys: Rows<'_>, out: &mut [f32]| {
            for (out, key) in out.iter_mut().zip(keys) {
                *out = query.iter().zip(key).fold(0.0, |sum, (a, b)| sum + a * b);
            }
        });
        queries.contiguous()?.apply_op2_no_bwd(keys, &product)
    } else {
        queries.matmul(&keys.t()?)
    }
}

/// Weights (groups × rows × tokens) times values (groups × tokens × columns): groups × rows × columns.
/// `together` says whether several tokens of a sequence are looked at: ggml keeps one register of sums then, else four.
///
/// # Errors
/// When shapes do not fit.
pub fn weigh(weights: &Tensor, values: &Tensor, together: bool) -> Result<Tensor> {
    let columns = values.dim(2)?;
    if weights.device().is_cpu() && columns < WIDE {
        let lanes = if together { LANES } else { 4 * LANES };
        let product = ByGroup(
            columns,
            |weights: &[f32], values: Rows<'_>, out: &mut [f32]| {
                weighted_sum(weights, values, lanes, out);
            },
        );
        weights.contiguous()?.apply_op2_no_bwd(values, &product)
    } else {
        weights.matmul(values)
    }
}

/// Each column's sum over the tokens, in ggml's registers: token `t` is added up in lane `t` modulo their number.
fn weighted_sum(weights: &[f32], values: Rows<'_>, lanes: usize, out: &mut [f32]) {
    let columns = out.len();
    let mut sums = vec![0.0_f32; lanes * columns];
    for (token, (weight, value)) in weights.iter().zip(values).enumerate() {
        let lane = token % lanes;
        let sums = sums.get_mut(lane * columns..).unwrap_or_default();
        for (sum, value) in sums.iter_mut().zip(value) {
            *sum = fused(*weight, *value, *sum);
        }
    }
    let mut half = lanes / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half * columns);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        half /= 2;
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = sum;
    }
}

/// Rows of keys or values.
type Rows<'a> = std::slice::Chunks<'a, f32>;

/// A product of each row of a tensor with the matrix of its group; answers rows of so many columns.
struct ByGroup<F>(usize, F);

impl<F: Fn(&[f32], Rows<'_>, &mut [f32]) + Send + Sync> CustomOp2 for ByGroup<F> {
    fn name(&self) -> &'static str {
        "by-group"
    }

    fn cpu_fwd(
        &self,
        left: &CpuStorage,
        left_layout: &Layout,
        right: &CpuStorage,
        right_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Self(out_columns, product) = self;
        let width = columns(left_layout)?;
        let (groups, rows, _) = left_layout.shape().dims3()?;
        let (right_groups, right_rows, right_width) = right_layout.shape().dims3()?;
        let [stride, row_stride, 1] = right_layout.stride() else {
            candle_core::bail!("keys and values must lie in rows");
        };
        let fits = *row_stride == right_width && right_groups == groups && *out_columns > 0;
        // Whichever of the two sides of the matrix is not the answer's is the row's.
        let fits = fits
            && [(right_rows, right_width), (right_width, right_rows)]
                .contains(&(width, *out_columns));
        if !fits || right_width == 0 {
            candle_core::bail!("attention's shapes do not fit");
        }
        let left = contiguous(left, left_layout)?;
        let right = right.as_slice::<f32>()?;
        let mut out = vec![0.0; groups * rows * out_columns];
        let run = |(at, (row, out)): (usize, (&[f32], &mut [f32]))| {
            let start = right_layout.start_offset() + at / rows * stride;
            let matrix = right.get(start..start + right_rows * right_width);
            product(row, matrix.unwrap_or_default().chunks(right_width), out);
        };
        if out.len() * width < PARALLEL_MIN {
            let rows = left.chunks(width).zip(out.chunks_mut(*out_columns));
            rows.enumerate().for_each(run);
        } else {
            let rows = left.par_chunks(width).zip(out.par_chunks_mut(*out_columns));
            rows.enumerate().for_each(run);
        }
        let shape = Shape::from((groups, rows, *out_columns));
        Ok((CpuStorage::F32(out), shape))
    }
}
