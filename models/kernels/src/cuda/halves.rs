//! Products with matrices of 16-bit floats, which stay what they are.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, CudaView, DevicePtr, LaunchConfig,
    PushKernelArg,
};
use half::f16;

use super::CudaError;
use super::told::{check, int};

/// Rows that a kernel of ours multiplies; more are for matrix units.
pub const PRODUCT_ROWS_MAX: usize = 8;

/// Threads of a block, and a matrix's rows that it has.
const PRODUCT_THREADS: u32 = 256;
const PRODUCT_HEIGHTS: usize = 4;
const THREADS: u32 = 128;
const ROWS: [usize; 4] = [1, 2, 4, 8];

/// The kernels of a device.
#[derive(Debug)]
pub(super) struct Halves {
    f16: [CudaFunction; 4],
    bf16: [CudaFunction; 4],
    shrink: CudaFunction,
    widen: CudaFunction,
}

/// A matrix's numbers, by what they are.
pub enum HalfView<'a> {
    /// IEEE 754 binary16.
    F16(CudaView<'a, f16>),
    /// The upper half of a 32-bit float.
    Bf16(CudaView<'a, half::bf16>),
}

impl Halves {
    pub(super) fn load(module: &Arc<CudaModule>) -> Result<Self, CudaError> {
        let of = |kind: &str| -> Result<[CudaFunction; 4], CudaError> {
            let one = |rows| module.load_function(&format!("casemate_product_{kind}_{rows}"));
            let [a, b, c, d] = ROWS.map(one);
            Ok([a?, b?, c?, d?])
        };
        Ok(Self {
            f16: of("f16")?,
            bf16: of("bf16")?,
            shrink: module.load_function("casemate_shrink")?,
            widen: module.load_function("casemate_widen")?,
        })
    }

    /// `x · matrixᵀ`: `x` is rows × columns, `matrix` heights × columns, what comes of it rows × heights.
    pub(super) fn product(
        &self,
        stream: &Arc<CudaStream>,
        x: &CudaView<'_, f32>,
        matrix: &HalfView<'_>,
        (rows, heights, columns): (usize, usize, usize),
    ) -> Result<CudaSlice<f32>, CudaError> {
        let aligned = |address: CUdeviceptr| address.is_multiple_of(16);
        let (held, lies) = match matrix {
            HalfView::F16(view) => (view.len(), aligned(view.device_ptr(stream).0)),
            HalfView::Bf16(view) => (view.len(), aligned(view.device_ptr(stream).0)),
        };
        check(
            (1..=PRODUCT_ROWS_MAX).contains(&rows)
                && columns.is_multiple_of(8)
                && x.len() == rows * columns
                && held == heights * columns
                && lies
                && aligned(x.device_ptr(stream).0),
            "a product of few rows",
        )?;
        let kernel = ROWS.iter().position(|most| rows <= *most).unwrap_or(3);
        let kernels = match matrix {
            HalfView::F16(_) => &self.f16,
            HalfView::Bf16(_) => &self.bf16,
        };
        let Some(kernel) = kernels.get(kernel) else {
            return Err(CudaError::Shape("no kernel multiplies so many rows"));
        };
        // SAFETY: the kernel writes every number.
        // JUSTIFICATION: filling it first would be another kernel.
        let mut out = unsafe { stream.alloc::<f32>(rows * heights) }?;
        let config = LaunchConfig {
            grid_dim: (
                int(heights.div_ceil(PRODUCT_HEIGHTS))?.cast_unsigned(),
                1,
                1,
            ),
            block_dim: (PRODUCT_THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        let (rows, heights, columns) = (int(rows)?, int(heights)?, int(columns)?);
        let mut launch = stream.launch_builder(kernel);
        launch.arg(x);
        match matrix {
            HalfView::F16(view) => launch.arg(view),
            HalfView::Bf16(view) => launch.arg(view),
        };
        launch.arg(&mut out).arg(&rows).arg(&heights).arg(&columns);
        // SAFETY: the arguments are those of `casemate_product_*`, all lengths were checked, and eight numbers at a time lie
        // at multiples of 16 bytes.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok(out)
    }

    /// Rows as 16-bit floats, multiplied so that none overflows, and what undoes that for each row.
    pub(super) fn shrink(
        &self,
        stream: &Arc<CudaStream>,
        x: &CudaView<'_, f32>,
        (rows, columns): (usize, usize),
    ) -> Result<(CudaSlice<f16>, CudaSlice<f32>), CudaError> {
        check(rows > 0 && x.len() == rows * columns, "rows to shrink")?;
        // SAFETY: the kernel writes every number of both.
        // JUSTIFICATION: filling them first would be other kernels.
        let (mut out, mut factors) = unsafe {
            (
                stream.alloc::<f16>(rows * columns)?,
                stream.alloc::<f32>(rows)?,
            )
        };
        let config = LaunchConfig {
            grid_dim: (int(rows)?.cast_unsigned(), 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        let columns = int(columns)?;
        let mut launch = stream.launch_builder(&self.shrink);
        launch.arg(x).arg(&mut out).arg(&mut factors).arg(&columns);
        // SAFETY: the arguments are those of `casemate_shrink`, a block for each row, and all lengths were checked.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok((out, factors))
    }

    /// Undoes [`Self::shrink`] for a product of its rows.
    pub(super) fn widen(
        &self,
        stream: &Arc<CudaStream>,
        x: &CudaView<'_, f16>,
        factors: &CudaView<'_, f32>,
    ) -> Result<CudaSlice<f32>, CudaError> {
        let columns = x.len() / factors.len().max(1);
        check(
            columns > 0 && x.len() == factors.len() * columns,
            "rows to widen",
        )?;
        // SAFETY: the kernel writes every number.
        // JUSTIFICATION: filling it first would be another kernel.
        let mut out = unsafe { stream.alloc::<f32>(x.len()) }?;
        let blocks = columns.div_ceil(THREADS as usize);
        check(
            blocks <= u16::MAX as usize,
            "rows that are too long to widen",
        )?;
        let config = LaunchConfig {
            grid_dim: (int(factors.len())?.cast_unsigned(), blocks as u32, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        let columns = int(columns)?;
        let mut launch = stream.launch_builder(&self.widen);
        launch.arg(x).arg(factors).arg(&mut out).arg(&columns);
        // SAFETY: the arguments are those of `casemate_widen`, and all lengths were checked.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok(out)
    }
}
