//! Matrices of 16-bit floats, multiplied in ggml's order: inputs are rounded to 16 bits and sums kept in 32.

use candle_core::quantized::QTensor;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{LANES, columns, contiguous, sum_lanes};

/// Columns that ggml takes at a time: four registers.
const STEP: usize = 4 * LANES;
/// Rows of the matrix that one thread takes at a time.
const TILE: usize = 16;

/// A matrix of F16, rows first. It stays as it is in the file, not widened.
pub struct HalfMatrix {
    bits: Vec<u16>,
    rows: usize,
    columns: usize,
}

impl HalfMatrix {
    /// Takes the matrix out of a tensor of F16.
    ///
    /// # Errors
    /// When the tensor is no matrix, or not on the processor.
    pub fn new(tensor: &QTensor) -> Result<Self> {
        let (rows, columns) = tensor.shape().dims2()?;
        let data = tensor.data()?;
        let (pairs, _) = data.as_chunks::<2>();
        let bits: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        if columns == 0 || bits.len() != rows * columns {
            candle_core::bail!("a matrix of 16-bit floats has another size than its shape");
        }
        Ok(Self {
            bits,
            rows,
            columns,
        })
    }

    /// `x · selfᵀ` for each row of `x`.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rounded = x.to_dtype(DType::F16)?.to_dtype(DType::F32)?;
        rounded.contiguous()?.apply_op1_no_bwd(&Product(self))
    }

    /// Rows of the matrix.
    ///
    /// # Errors
    /// When an id is out of range.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        let ids = ids.to_vec1::<u32>()?;
        let mut out = Vec::with_capacity(ids.len() * self.columns);
        for id in &ids {
            let start = *id as usize * self.columns;
            match self.bits.get(start..start + self.columns) {
                Some(row) => out.extend(row.iter().map(|bits| widen(*bits))),
                None => candle_core::bail!("row {id} is outside the matrix"),
            }
        }
        Tensor::from_vec(out, (ids.len(), self.columns), &candle_core::Device::Cpu)
    }
}

struct Product<'a>(&'a HalfMatrix);

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "half-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self(matrix) = self;
        if columns(layout)? != matrix.columns {
            candle_core::bail!("a matrix has another width than its input");
        }
        let x = contiguous(x, layout)?;
        let inputs = x.len() / matrix.columns;
        // By rows of the matrix first, so that each is widened once for all inputs.
        let mut across = vec![0.0; matrix.rows * inputs];
        if inputs > 0 {
            across
                .par_chunks_mut(TILE * inputs)
                .zip(matrix.bits.par_chunks(TILE * matrix.columns))
                .for_each(|(out, rows)| tile(rows, x, matrix.columns, out));
        }
        let mut out = Vec::with_capacity(across.len());
        for input in 0..inputs {
            out.extend(across.iter().skip(input).step_by(inputs).copied());
        }
        let shape = match layout.dims() {
            [before @ .., _] => [before, &[matrix.rows]].concat(),
            [] => Vec::new(),
        };
        Ok((CpuStorage::F32(out), Shape::from(shape)))
    }
}

/// Some rows of the matrix against all inputs.
fn tile(rows: &[u16], x: &[f32], columns: usize, out: &mut [f32]) {
    let inputs = x.len() / columns;
    let mut wide = vec![0.0_f32; columns];
    for (row, out) in rows.chunks(columns).zip(out.chunks_mut(inputs)) {
        for (wide, bits) in wide.iter_mut().zip(row) {
            *wide = widen(*bits);
        }
        for (x, out) in x.chunks(columns).zip(out) {
            *out = dot(&wide, x);
        }
    }
}

/// The product of two rows of 16-bit floats in ggml's order. Products of two such floats are exact in `f32`, so that
/// it does not matter whether multiplication and addition are fused.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_steps, a_rest) = a.as_chunks::<STEP>();
    let (b_steps, b_rest) = b.as_chunks::<STEP>();
    let mut sums = [0.0_f32; STEP];
    for (a, b) in a_steps.iter().zip(b_steps) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    for half in [2 * LANES, LANES] {
        let (low, high) = sums.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
    }
    let mut lanes = [0.0; LANES];
    for (lane, sum) in lanes.iter_mut().zip(sums) {
        *lane = sum;
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(a * b));
    rest.fold(f64::from(sum_lanes(lanes)), |sum, product| sum + product) as f32
}

/// An F16 as F32: exact, without a branch, so that compilers vectorise it.
fn widen(bits: u16) -> f32 {
    const EXPONENT_SHIFT: f32 = f32::from_bits(0x7780_0000);
    const INFINITE: u32 = 0x7c00;
    let bits = u32::from(bits);
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * EXPONENT_SHIFT;
    let special = if bits & INFINITE == INFINITE {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_core::quantized::GgmlDType;

    use super::*;

    #[test]
    fn every_half_widens_to_what_the_library_says() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for bits in all {
            let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let expected = match exponent {
                0 => sign * fraction * 2_f64.powi(-24),
                31 if fraction == 0.0 => sign * f64::INFINITY,
                31 => f64::NAN,
                _ => sign * (1024.0 + fraction) * 2_f64.powi(exponent - 25),
            };
            let found = f64::from(widen(bits));
            assert!(
                found == expected || found.is_nan() && expected.is_nan(),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn products_and_rows_are_those_of_the_widened_matrix() {
        let device = Device::Cpu;
        let weight = Tensor::randn(0_f32, 1.0, (37, 172), &device).unwrap();
        let half = QTensor::quantize(&weight, GgmlDType::F16).unwrap();
        let matrix = HalfMatrix::new(&half).unwrap();
        let wide = half.dequantize(&device).unwrap();
        let ids = Tensor::new(&[36_u32, 0], &device).unwrap();
        let rows = matrix.rows(&ids).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(
            rows,
            wide.index_select(&ids, 0)
                .unwrap()
                .to_vec2::<f32>()
                .unwrap()
        );
        for inputs in [1, 3] {
            let x = Tensor::randn(0_f32, 1.0, (inputs, 172), &device).unwrap();
            let x = x
                .to_dtype(DType::F16)
                .unwrap()
                .to_dtype(DType::F32)
                .unwrap();
            let found = matrix.forward(&x).unwrap();
            let expected = x.matmul(&wide.t().unwrap()).unwrap();
            let off = (found - expected)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap();
            assert!(off.to_scalar::<f32>().unwrap() < 1e-4);
        }
        assert!(
            matrix
                .rows(&Tensor::new(&[37_u32], &device).unwrap())
                .is_err()
        );
    }
}
