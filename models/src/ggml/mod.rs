//! Arithmetic in ggml's order of operations, so that a quantised model says what llama.cpp says.
//!
//! Before a matrix of 8-bit or smaller blocks is multiplied the activations are rounded to 8 bits. That step turns a
//! difference in the last bit of an activation, now and then, into one of 1/254 of the block's largest value. So here
//! sums are accumulated, exponentials approximated and halves rounded exactly as ggml does on x86-64. For processors
//! only: other devices have their own kernels and their own last bits.

mod attention;
mod half;

use ::half::f16;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

pub use attention::{rotate, rotate_halves, scores, weigh};
pub use half::HalfMatrix;

/// Values that share a scale in ggml's Q8_0 and Q8_1.
pub const BLOCK: usize = 32;
/// Lanes of the vector registers whose sums are imitated.
const LANES: usize = 16;
/// Elements that are worth a second thread.
const PARALLEL_MIN: usize = 1 << 15;

/// `a · b + c`, rounded once: the product of two `f32` is exact in `f64`.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    (f64::from(a) * f64::from(b) + f64::from(c)) as f32
}

/// ggml's vectorised exponential.
fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b);
    const LN_2_HIGH: f32 = f32::from_bits(0x3f31_7200);
    const LN_2_LOW: f32 = f32::from_bits(0x35bf_be8e);
    const P5: f32 = f32::from_bits(0x3c07_2010);
    const P4: f32 = f32::from_bits(0x3d2b_9f17);
    const P3: f32 = f32::from_bits(0x3e2a_af33);
    const P2: f32 = f32::from_bits(0x3eff_fedb);
    const P1: f32 = f32::from_bits(0x3f7f_fff6);
    if x.is_nan() {
        return x;
    }
    let n = fused(x, LOG2_E, MAGIC) - MAGIC;
    if n.abs() > 192.0 || x.is_infinite() {
        return if n <= 0.0 || x < 0.0 {
            0.0
        } else {
            f32::INFINITY
        };
    }
    let b = fused(-n, LN_2_LOW, fused(-n, LN_2_HIGH, x));
    let u = b * b;
    let high = fused(fused(P5, b, P4), u, fused(P3, b, P2));
    let j = fused(high, u, fused(P1, b, 1.0));
    // Two to the n, put together from its exponent. The product is exact and rounded once, also to a subnormal.
    let power = f64::from_bits(((n as i64 + 1023) as u64) << 52);
    (f64::from(j) * power) as f32
}

/// The sum of one register, in the order of `_mm512_reduce_add_ps`.
fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
    }
    lanes[0]
}

/// Root-mean-square normalisation of one row.
fn norm_row(row: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let sum: f64 = row.iter().map(|x| f64::from(x * x)).sum();
    let mean = (sum / row.len() as f64) as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(row).zip(weight) {
        *out = x * scale * weight;
    }
}

/// Softmax of `scale · row`.
fn softmax_row(row: &[f32], scale: f32, out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(row) {
        *out = x * scale;
    }
    let max = out.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0_f64;
    for chunk in out.chunks_mut(LANES) {
        let mut lanes = [0.0; LANES];
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp(*x - max);
            *lane = *x;
        }
        sum += f64::from(sum_lanes(lanes));
    }
    let inverse = (1.0 / sum) as f32;
    for x in out {
        *x *= inverse;
    }
}

/// `silu(gate) · up`, of one row: whole registers with ggml's exponential, what is left over with the C library's.
fn swiglu_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let whole = gate.len() - gate.len() % LANES;
    for (column, ((out, x), up)) in out.iter_mut().zip(gate).zip(up).enumerate() {
        let exp = if column < whole { exp(-x) } else { (-x).exp() };
        *out = x / (1.0 + exp) * up;
    }
}

/// `gelu(gate) · up`, of one row: ggml looks the former up in a table of 16-bit floats.
fn geglu_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, x), up) in out.iter_mut().zip(gate).zip(up) {
        let gelu = match *x {
            x if x <= -10.0 => 0.0,
            x if x >= 10.0 => x,
            x => f16::from_f32(gelu(f16::from_f32(x).to_f32())).to_f32(),
        };
        *out = gelu * up;
    }
}

/// The approximation with the hyperbolic tangent.
fn gelu(x: f32) -> f32 {
    const CUBE: f32 = 0.044_715;
    const SLOPE: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (SLOPE * x * (1.0 + CUBE * x * x)).tanh())
}

/// The values that ggml's rounding to 8 bits leaves of a row: candle's rounding then finds the same 8 bits.
///
/// ggml divides 127 by the largest value and rounds halves to even; candle inverts a rounded quotient and rounds halves
/// away from zero. A value that is a multiple of the scale already is the same to both.
fn snap_row(row: &[f32], out: &mut [f32]) {
    for (row, out) in row.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
        let max = row.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let (scale, inverse) = match max > 0.0 {
            true => (max / 127.0, 127.0 / max),
            false => (0.0, 0.0),
        };
        for (out, x) in out.iter_mut().zip(row) {
            let steps = (x * inverse).round_ties_even();
            *out = match steps.abs() >= 127.0 {
                true => max.copysign(*x),
                false => steps * scale,
            };
        }
    }
}

/// An operation on each row by itself. It is told which one it is.
struct ByRow<F>(F);

impl<F: Fn(usize, &[f32], &mut [f32]) + Send + Sync> CustomOp1 for ByRow<F> {
    fn name(&self) -> &'static str {
        "by-row"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, columns) = (contiguous(x, layout)?, columns(layout)?);
        let mut out = vec![0.0; x.len()];
        let run = |(at, (row, out)): (usize, (&[f32], &mut [f32]))| self.0(at, row, out);
        if x.len() < PARALLEL_MIN {
            let rows = x.chunks(columns).zip(out.chunks_mut(columns));
            rows.enumerate().for_each(run);
        } else {
            let rows = x.par_chunks(columns).zip(out.par_chunks_mut(columns));
            rows.enumerate().for_each(run);
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// What makes a row of a gate's and another one.
struct Glu(fn(&[f32], &[f32], &mut [f32]));

impl CustomOp2 for Glu {
    fn name(&self) -> &'static str {
        "glu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let columns = columns(gate_layout)?;
        let (gate, up) = (contiguous(gate, gate_layout)?, contiguous(up, up_layout)?);
        if gate.len() != up.len() {
            candle_core::bail!("gate and up differ in shape");
        }
        let mut out = vec![0.0; gate.len()];
        let rows = |((gate, up), out): ((&[f32], &[f32]), &mut [f32])| self.0(gate, up, out);
        if gate.len() < PARALLEL_MIN {
            let inputs = gate.chunks(columns).zip(up.chunks(columns));
            inputs.zip(out.chunks_mut(columns)).for_each(rows);
        } else {
            let inputs = gate.par_chunks(columns).zip(up.par_chunks(columns));
            inputs.zip(out.par_chunks_mut(columns)).for_each(rows);
        }
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    let offsets = layout.contiguous_offsets();
    match offsets.and_then(|(start, end)| all.get(start..end)) {
        Some(values) => Ok(values),
        None => candle_core::bail!("rows must be contiguous"),
    }
}

fn columns(layout: &Layout) -> Result<usize> {
    match layout.dims().last() {
        Some(columns) if *columns > 0 => Ok(*columns),
        _ => candle_core::bail!("rows must have columns"),
    }
}

fn by_row(x: &Tensor, row: impl Fn(usize, &[f32], &mut [f32]) + Send + Sync) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&ByRow(row))
}

/// Root-mean-square normalisation of each row.
///
/// # Errors
/// When `x` is not F32, not on the processor or has rows of another length than `weight`.
pub fn rms_norm(x: &Tensor, weight: &[f32], epsilon: f32) -> Result<Tensor> {
    if x.dims().last() != Some(&weight.len()) {
        candle_core::bail!("a norm has another width than its input");
    }
    by_row(x, |_, row, out| norm_row(row, weight, epsilon, out))
}

/// Softmax of `scale · x`, row by row.
///
/// # Errors
/// When `x` is not F32 or not on the processor.
pub fn softmax(x: &Tensor, scale: f32) -> Result<Tensor> {
    by_row(x, |_, row, out| softmax_row(row, scale, out))
}

/// `silu(gate) · up`.
///
/// # Errors
/// When the two are not F32, not on the processor or differ in shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?
        .apply_op2_no_bwd(&up.contiguous()?, &Glu(swiglu_row))
}

/// `gelu(gate) · up`.
///
/// # Errors
/// As [`swiglu`].
pub fn geglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?
        .apply_op2_no_bwd(&up.contiguous()?, &Glu(geglu_row))
}

/// Activations as ggml's rounding to 8 bits leaves them.
///
/// # Errors
/// When `x` is not F32 or not on the processor.
pub fn snap(x: &Tensor) -> Result<Tensor> {
    by_row(x, |_, row, out| snap_row(row, out))
}

#[cfg(test)]
mod tests;
