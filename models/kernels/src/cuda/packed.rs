//! Launches of the kernels in `packed.cu`: products of few rows with packed matrices, and such matrices as floats.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, CudaView, DevicePtr, DeviceRepr, LaunchConfig,
    PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use half::f16;

use super::CudaError;
use super::told::{check, int};
use crate::planes::plan::{Plan, ROWS};
use crate::planes::{PlaneKind, UNIT, rounded_bytes};

const FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/packed.fatbin"));

const WARP: usize = 32;
const THREADS: usize = 128;

/// A packed matrix on a device: heights × columns, in the layout of [`crate::planes`].
#[derive(Debug)]
pub struct PackedMatrix {
    planes: CudaSlice<u8>,
    kind: PlaneKind,
    heights: usize,
    columns: usize,
}

impl PackedMatrix {
    /// How its weights are stored.
    pub const fn kind(&self) -> PlaneKind {
        self.kind
    }

    /// Its rows.
    pub const fn heights(&self) -> usize {
        self.heights
    }

    /// Numbers of each row.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    fn part(&self, stream: &Arc<CudaStream>) -> Result<PackedPart, CudaError> {
        Ok(PackedPart {
            // It lives until the kernel is launched, and what is freed afterwards is freed in the stream's order.
            planes: self.planes.device_ptr(stream).0,
            heights: int(self.heights)?,
            units: int(self.columns / UNIT)?,
        })
    }
}

#[repr(C)]
struct PackedPart {
    planes: CUdeviceptr,
    heights: i32,
    units: i32,
}

// SAFETY: plain numbers in C's layout, as the kernels' own structure has them.
// JUSTIFICATION: kernels take more than can be read one by one.
unsafe impl DeviceRepr for PackedPart {}

/// Kernels of a kind of weights, by the rows that they have at once.
#[derive(Debug)]
struct OfKind {
    multiply: [CudaFunction; 4],
    gated: [CudaFunction; 4],
    halves: CudaFunction,
    floats: CudaFunction,
}

/// The kernels of a device.
#[derive(Debug)]
pub struct PackedKernels {
    stream: Arc<CudaStream>,
    kinds: [OfKind; PlaneKind::ALL.len()],
    round: CudaFunction,
}

impl PackedKernels {
    /// Loads the kernels for the work of a stream.
    ///
    /// # Errors
    /// [`CudaError::Module`] where they were compiled for another GPU, [`CudaError::Driver`].
    pub fn load(stream: &Arc<CudaStream>) -> Result<Self, CudaError> {
        let module: Arc<CudaModule> = stream
            .context()
            .load_module(Ptx::from_binary(FATBIN.to_vec()))
            .map_err(CudaError::Module)?;
        let function = |name: String| module.load_function(&name);
        let of = |kind: PlaneKind| -> Result<OfKind, CudaError> {
            let name = kind.name();
            let all = |what: &str| -> Result<[CudaFunction; 4], CudaError> {
                let one = |rows| function(format!("casemate_{what}_{name}_{rows}"));
                let [a, b, c, d] = ROWS.map(one);
                Ok([a?, b?, c?, d?])
            };
            Ok(OfKind {
                multiply: all("multiply")?,
                gated: all("multiply_gated")?,
                halves: function(format!("casemate_halves_{name}"))?,
                floats: function(format!("casemate_floats_{name}"))?,
            })
        };
        let [a, b, c, d, e] = PlaneKind::ALL.map(of);
        Ok(Self {
            stream: stream.clone(),
            kinds: [a?, b?, c?, d?, e?],
            round: function("casemate_round".to_owned())?,
        })
    }

    /// A matrix on the device, of what [`PlaneKind::sort`] made of its blocks.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn matrix(
        &self,
        kind: PlaneKind,
        (heights, columns): (usize, usize),
        planes: &[u8],
    ) -> Result<PackedMatrix, CudaError> {
        let block = kind.kind().file_block();
        check(
            heights > 0
                && columns > 0
                && columns.is_multiple_of(block)
                && planes.len() == heights * (columns / block) * kind.kind().file_bytes(),
            "a packed matrix",
        )?;
        let planes = self.stream.clone_htod(planes)?;
        Ok(PackedMatrix {
            planes,
            kind,
            heights,
            columns,
        })
    }

    /// Waits until the device has done what it was given.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn wait(&self) -> Result<(), CudaError> {
        Ok(self.stream.synchronize()?)
    }

    /// The rows of one matrix and, behind them, of another of its kind and columns.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn stacked(
        &self,
        above: &PackedMatrix,
        below: &PackedMatrix,
    ) -> Result<PackedMatrix, CudaError> {
        check(
            above.kind == below.kind && above.columns == below.columns,
            "matrices to stack",
        )?;
        let blocks = |matrix: &PackedMatrix| {
            matrix.heights * (matrix.columns / matrix.kind.kind().file_block())
        };
        // SAFETY: all of it is written: the planes of both fill it, width by width.
        // JUSTIFICATION: filling it first would be a kernel for each matrix.
        let mut planes = unsafe {
            self.stream
                .alloc::<u8>(above.planes.len() + below.planes.len())
        }?;
        let mut place = 0;
        let mut starts = [0; 2];
        for width in above.kind.widths() {
            for (matrix, start) in [above, below].into_iter().zip(&mut starts) {
                let len = width * blocks(matrix);
                let from = matrix.planes.slice(*start..*start + len);
                let mut to = planes.slice_mut(place..place + len);
                self.stream.memcpy_dtod(&from, &mut to)?;
                *start += len;
                place += len;
            }
        }
        Ok(PackedMatrix {
            planes,
            kind: above.kind,
            heights: above.heights + below.heights,
            columns: above.columns,
        })
    }

    /// Rows of 32-bit floats, rounded: rows × [`rounded_bytes`].
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn round(
        &self,
        x: &CudaView<'_, f32>,
        (rows, columns): (usize, usize),
    ) -> Result<CudaSlice<u8>, CudaError> {
        check(
            rows > 0 && columns > 0 && columns.is_multiple_of(UNIT) && x.len() == rows * columns,
            "rows to round",
        )?;
        // SAFETY: the kernel writes every byte.
        // JUSTIFICATION: filling it first would be another kernel.
        let mut out = unsafe { self.stream.alloc::<u8>(rows * rounded_bytes(columns)) }?;
        let units = columns / UNIT;
        let config = config((rows * units).div_ceil(THREADS / WARP), THREADS)?;
        let (rows, units) = (int(rows)?, int(units)?);
        let mut launch = self.stream.launch_builder(&self.round);
        launch.arg(x).arg(&mut out).arg(&rows).arg(&units);
        // SAFETY: the arguments are those of `casemate_round`, a warp for each unit, and all lengths were checked.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok(out)
    }

    /// `x · matrixᵀ` of [rounded](Self::round) rows: rows × heights. A row's sums are the same whatever stands beside it.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn multiply(
        &self,
        x: &CudaView<'_, u8>,
        rows: usize,
        matrix: &PackedMatrix,
    ) -> Result<CudaSlice<f32>, CudaError> {
        self.check(x, rows, matrix)?;
        let plan = Plan::multiply(rows, matrix.heights, matrix.columns);
        // SAFETY: the kernel writes every number.
        // JUSTIFICATION: filling it first would be another kernel.
        let mut out = unsafe { self.stream.alloc::<f32>(rows * matrix.heights) }?;
        let config = config(plan.blocks, plan.threads)?;
        let part = matrix.part(&self.stream)?;
        let (rows, chunks, share) = (int(rows)?, int(plan.chunks)?, int(plan.share)?);
        let kernel = &self.of(matrix.kind).multiply[plan.which];
        let mut launch = self.stream.launch_builder(kernel);
        launch.arg(x).arg(&part).arg(&mut out).arg(&rows);
        launch.arg(&chunks).arg(&share);
        // SAFETY: the arguments are those of `casemate_multiply_*`, whose blocks have all of the matrix's rows for each chunk
        // of rows, and all lengths were checked.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok(out)
    }

    /// Whether [`Self::multiply_gated`] takes a matrix of gates and, behind them, of as many rows that go through.
    pub const fn gates(matrix: &PackedMatrix) -> bool {
        Plan::gates(matrix.heights)
    }

    /// `silu(x · gateᵀ) · (x · upᵀ)` of rounded rows, rounded again: rows × [`rounded_bytes`] of half of the heights. `matrix`
    /// has the rows of `gate` and, behind them, of `up`.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn multiply_gated(
        &self,
        x: &CudaView<'_, u8>,
        rows: usize,
        matrix: &PackedMatrix,
    ) -> Result<CudaSlice<u8>, CudaError> {
        check(Self::gates(matrix), "a matrix of gates")?;
        self.check(x, rows, matrix)?;
        let plan = Plan::gated(rows, matrix.heights);
        let width = matrix.heights / 2;
        // SAFETY: the kernel writes every byte.
        // JUSTIFICATION: filling it first would be another kernel.
        let mut out = unsafe { self.stream.alloc::<u8>(rows * rounded_bytes(width)) }?;
        let config = config(plan.blocks, plan.threads)?;
        let part = matrix.part(&self.stream)?;
        let (rows, chunks) = (int(rows)?, int(plan.chunks)?);
        let kernel = &self.of(matrix.kind).gated[plan.which];
        let mut launch = self.stream.launch_builder(kernel);
        launch.arg(x).arg(&part).arg(&mut out).arg(&rows);
        launch.arg(&chunks);
        // SAFETY: the arguments are those of `casemate_multiply_gated_*`, a block for each unit of what comes of each chunk of
        // rows, and all lengths were checked.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok(out)
    }

    /// The whole matrix as 16-bit floats: heights × columns. What is too large for them is the largest that is not.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn halves(&self, matrix: &PackedMatrix) -> Result<CudaSlice<f16>, CudaError> {
        let kernel = &self.of(matrix.kind).halves;
        self.unpack(kernel, matrix, None, matrix.heights)
    }

    /// The rows of a matrix that `ids` names: as many rows × columns. What names none is taken for the last.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn rows(
        &self,
        matrix: &PackedMatrix,
        ids: &CudaView<'_, u32>,
    ) -> Result<CudaSlice<f32>, CudaError> {
        let kernel = &self.of(matrix.kind).floats;
        self.unpack(kernel, matrix, Some(ids), ids.len())
    }

    fn unpack<T: DeviceRepr>(
        &self,
        kernel: &CudaFunction,
        matrix: &PackedMatrix,
        ids: Option<&CudaView<'_, u32>>,
        rows: usize,
    ) -> Result<CudaSlice<T>, CudaError> {
        check(rows > 0, "rows to unpack")?;
        // SAFETY: the kernel writes every number.
        // JUSTIFICATION: filling it first would be another kernel.
        let mut out = unsafe { self.stream.alloc::<T>(rows * matrix.columns) }?;
        let threads = rows * (matrix.columns / UNIT);
        let config = config(threads.div_ceil(THREADS), THREADS)?;
        let part = matrix.part(&self.stream)?;
        let (count, nobody) = (int(rows)?, 0_u64);
        let mut launch = self.stream.launch_builder(kernel);
        launch.arg(&part);
        match ids {
            Some(ids) => launch.arg(ids),
            None => launch.arg(&nobody),
        };
        launch.arg(&mut out).arg(&count);
        // SAFETY: the arguments are those of `casemate_halves_*` and `casemate_floats_*`, whose numbers are as large as `T`; a
        // thread for each unit of the rows. A null pointer has as many bytes as the address of a slice. Ids are held within
        // bounds by the kernel.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok(out)
    }

    fn check(
        &self,
        x: &CudaView<'_, u8>,
        rows: usize,
        matrix: &PackedMatrix,
    ) -> Result<(), CudaError> {
        check(
            rows > 0
                && x.len() == rows * rounded_bytes(matrix.columns)
                && x.device_ptr(&self.stream).0.is_multiple_of(16),
            "rounded rows",
        )
    }

    fn of(&self, kind: PlaneKind) -> &OfKind {
        &self.kinds[match kind {
            PlaneKind::Q4_0 => 0,
            PlaneKind::Q8_0 => 1,
            PlaneKind::Q4K => 2,
            PlaneKind::Q5K => 3,
            PlaneKind::Q6K => 4,
        }]
    }
}

fn config(blocks: usize, threads: usize) -> Result<LaunchConfig, CudaError> {
    Ok(LaunchConfig {
        grid_dim: (int(blocks)?.cast_unsigned(), 1, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    })
}

#[cfg(test)]
mod tests;
