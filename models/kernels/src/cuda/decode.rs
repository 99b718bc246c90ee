//! Launches of the kernels in `decode.cu`.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr,
    DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use half::f16;

use super::CudaError;
use super::halves::{HalfView, Halves};
use super::told::{Attended, Heads, Rows, Turning, View, check, int};
use crate::PAGE;
use crate::planes::rounded_bytes;

const FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/decode.fatbin"));

const WARPS: usize = 4;
const WARP: usize = 32;
const ATTEND_WARPS: usize = 8;
/// Columns and shares for which there is a kernel that attends; others use the next larger one.
const KERNELS: [(usize, usize); 15] = [
    (32, 1),
    (32, 2),
    (32, 4),
    (32, 8),
    (64, 1),
    (64, 2),
    (64, 4),
    (64, 8),
    (128, 1),
    (128, 2),
    (128, 4),
    (128, 8),
    (256, 1),
    (256, 2),
    (256, 4),
];
/// Blocks that keep all of a GPU's processors busy, and pages that are worth one.
const BLOCKS: usize = 264;
const PAGES_WORTH: usize = 8;
const SPLITS_MAX: usize = 64;

/// The kernels of a device.
#[derive(Debug)]
pub struct Decode {
    stream: Arc<CudaStream>,
    turn: CudaFunction,
    store: CudaFunction,
    gated: CudaFunction,
    soften: CudaFunction,
    add_norm: CudaFunction,
    join: CudaFunction,
    attend: Vec<((usize, usize), CudaFunction)>,
    halves: Halves,
}

/// What a kernel leaves for a product.
#[derive(Debug)]
pub enum Found {
    /// 32-bit floats.
    Numbers(CudaSlice<f32>),
    /// The same, rounded for packed matrices.
    Rounded(CudaSlice<u8>),
}

#[repr(C)]
struct AttendPart {
    queries: CUdeviceptr,
    memory: CUdeviceptr,
    rows_of: CUdeviceptr,
    lags: CUdeviceptr,
    pages: CUdeviceptr,
    out: CUdeviceptr,
    rounded: CUdeviceptr,
    parts: CUdeviceptr,
    cap: f32,
    rows: i32,
    rows_each: i32,
    pages_each: i32,
    slots: i32,
    heads_of_keys: i32,
    share: i32,
    columns: i32,
    splits: i32,
    sight: u32,
}

// SAFETY: plain numbers in C's layout, as the kernels' own structure has them.
// JUSTIFICATION: kernels take more than can be read one by one.
unsafe impl DeviceRepr for AttendPart {}

/// Threads for so many pieces of work of a warp each.
fn warps(count: usize) -> Result<LaunchConfig, CudaError> {
    Ok(LaunchConfig {
        grid_dim: (int(count.div_ceil(WARPS))?.cast_unsigned(), 1, 1),
        block_dim: ((WARPS * WARP) as u32, 1, 1),
        shared_mem_bytes: 0,
    })
}

/// The kernel that does for so many columns and queries of a head of keys.
fn kernel_for(columns: usize, share: usize) -> Option<(usize, usize)> {
    let fits = |kernel: &&(usize, usize)| kernel.0 >= columns && kernel.1 >= share;
    let aligned = columns.is_multiple_of(8) && columns > 0 && share > 0;
    KERNELS.iter().find(fits).copied().filter(|_| aligned)
}

impl Decode {
    /// Whether there are kernels for heads of so many columns, where so many queries share a head of keys.
    pub fn serves(columns: usize, share: usize) -> bool {
        kernel_for(columns, share).is_some()
    }

    /// Loads the kernels for the work of a stream.
    ///
    /// # Errors
    /// [`CudaError::Module`] where they were compiled for another GPU, [`CudaError::Driver`].
    pub fn load(stream: &Arc<CudaStream>) -> Result<Self, CudaError> {
        let module: Arc<CudaModule> = stream
            .context()
            .load_module(Ptx::from_binary(FATBIN.to_vec()))
            .map_err(CudaError::Module)?;
        let function = |name: &str| module.load_function(name);
        let attend = KERNELS.map(|(columns, share)| {
            let name = format!("casemate_attend_{columns}_{share}");
            function(&name).map(|found| ((columns, share), found))
        });
        Ok(Self {
            stream: stream.clone(),
            turn: function("casemate_turn")?,
            store: function("casemate_store")?,
            gated: function("casemate_gated")?,
            soften: function("casemate_soften")?,
            add_norm: function("casemate_add_norm")?,
            join: function("casemate_join")?,
            attend: attend.into_iter().collect::<Result<_, _>>()?,
            halves: Halves::load(&module)?,
        })
    }

    /// Queries, normalised, rotated and multiplied by `scale` and the factor in `growth` of their place.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn turn(
        &self,
        queries: &Rows<'_>,
        heads: Heads,
        places: &CudaView<'_, u32>,
        turning: &Turning<'_>,
        (scale, growth): (f32, Option<&CudaView<'_, f32>>),
    ) -> Result<CudaSlice<f32>, CudaError> {
        check(places.len() == heads.rows, "queries to rotate")?;
        let stride = queries.of(heads.rows, heads.count * heads.columns)?;
        let part = turning.part(heads, &self.stream)?;
        let enough = growth.is_none_or(|growth| growth.len() == part.places as usize);
        check(enough, "growth of queries")?;
        let (rows, count, columns) = (int(heads.rows)?, int(heads.count)?, int(heads.columns)?);
        let nothing: CUdeviceptr = 0;
        // SAFETY: the kernel writes every number of `out` before anybody reads it.
        // JUSTIFICATION: filling it first would be another kernel.
        let mut out = unsafe { self.stream.alloc::<f32>(heads.len()) }?;
        let config = warps(heads.rows * heads.count)?;
        let mut launch = self.stream.launch_builder(&self.turn);
        launch
            .arg(&queries.numbers)
            .arg(&mut out)
            .arg(places)
            .arg(&part);
        match growth {
            Some(growth) => launch.arg(growth),
            None => launch.arg(&nothing),
        };
        launch.arg(&scale).arg(&rows).arg(&count).arg(&columns);
        launch.arg(&stride);
        // SAFETY: the arguments are those of `casemate_turn`, and all lengths were checked: rows × heads × columns numbers
        // in and out, rows places, and `part` by itself. Places are held within bounds by the kernel.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok(out)
    }

    /// Keys and values to their slots: keys normalised and rotated, both as 16-bit floats.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn store(
        &self,
        (keys, values): (&Rows<'_>, &Rows<'_>),
        heads: Heads,
        memory: &mut CudaViewMut<'_, f16>,
        (places, slots_of): (&CudaView<'_, u32>, &CudaView<'_, u32>),
        turning: &Turning<'_>,
    ) -> Result<(), CudaError> {
        let slots = memory.len() / (2 * heads.count * heads.columns).max(1);
        check(
            places.len() == heads.rows
                && slots_of.len() == heads.rows
                && memory.len() == 2 * heads.count * heads.columns * slots,
            "keys and values to store",
        )?;
        let part = turning.part(heads, &self.stream)?;
        let (rows, count, columns) = (int(heads.rows)?, int(heads.count)?, int(heads.columns)?);
        let slots = int(slots)?;
        let keys_stride = keys.of(heads.rows, heads.count * heads.columns)?;
        let values_stride = values.of(heads.rows, heads.count * heads.columns)?;
        let (keys, values) = (&keys.numbers, &values.numbers);
        let config = warps(heads.rows * heads.count)?;
        let mut launch = self.stream.launch_builder(&self.store);
        launch.arg(keys).arg(values).arg(memory).arg(places);
        launch.arg(slots_of).arg(&part).arg(&rows).arg(&count);
        launch.arg(&columns).arg(&slots);
        launch.arg(&keys_stride).arg(&values_stride);
        // SAFETY: the arguments are those of `casemate_store`, and all lengths were checked; places and slots are held
        // within bounds by the kernel. Rows that share a slot leave either's numbers there, nothing else.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok(())
    }

    /// What queries find in what their sequences have stored: rows × heads × columns; `rounded`, if a head of keys' columns
    /// are whole units.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn attend(
        &self,
        queries: &CudaView<'_, f32>,
        heads: Heads,
        attended: &Attended<'_>,
        view: &View<'_>,
        rounded: bool,
    ) -> Result<Found, CudaError> {
        let key_value_heads = attended.key_value_heads.max(1);
        let (share, sequences) = (heads.count / key_value_heads, view.sequences.max(1));
        let cells = view.rows_of.len();
        let (rows_each, pages_each) = (cells / sequences, view.pages.len() / sequences);
        let slots = attended.memory.len() / (2 * key_value_heads * heads.columns).max(1);
        check(
            queries.len() == heads.len()
                && heads.count == share * key_value_heads
                && cells == rows_each * sequences
                && rows_each > 0
                && view.lags.len() == cells * share
                && view.pages.len() == pages_each * sequences
                && attended.memory.len() == 2 * key_value_heads * heads.columns * slots
                && slots.is_multiple_of(PAGE)
                && (!rounded || (share * heads.columns).is_multiple_of(WARP)),
            "queries that attend",
        )?;
        let kernel = kernel_for(heads.columns, share);
        let kernel = kernel.and_then(|wanted| self.attend.iter().find(|one| one.0 == wanted));
        let Some((_, kernel)) = kernel else {
            return Err(CudaError::Shape("no kernel attends with such heads"));
        };
        let splits = splits(cells * key_value_heads, pages_each);
        // What no cell belongs to is read by nobody: it is zero all the same.
        let mut out = match rounded {
            true => {
                let bytes = heads.rows * rounded_bytes(heads.count * heads.columns);
                Found::Rounded(self.stream.alloc_zeros(bytes)?)
            }
            false => Found::Numbers(self.stream.alloc_zeros(heads.len())?),
        };
        let parts = match splits {
            1 => 1,
            _ => cells * key_value_heads * splits * share * (heads.columns + 2),
        };
        // SAFETY: where there are splits each writes its part before they are joined; else nobody reads it.
        // JUSTIFICATION: filling it first would be another kernel.
        let mut parts = unsafe { self.stream.alloc::<f32>(parts) }?;
        let stream = &self.stream;
        let ((queries, _read), (memory, _memory)) = (
            queries.device_ptr(stream),
            attended.memory.device_ptr(stream),
        );
        let ((rows_of, _rows), (lags, _lags)) = (
            view.rows_of.device_ptr(stream),
            view.lags.device_ptr(stream),
        );
        let (pages, _pages) = view.pages.device_ptr(stream);
        let (grid, grid_heads) = (int(cells)?.cast_unsigned(), key_value_heads as u32);
        {
            let (parts, _parts) = parts.device_ptr_mut(stream);
            let (numbers, bytes, _written) = match &mut out {
                Found::Numbers(numbers) => {
                    let (place, written) = numbers.device_ptr_mut(stream);
                    (place, 0, written)
                }
                Found::Rounded(bytes) => {
                    let (place, written) = bytes.device_ptr_mut(stream);
                    (0, place, written)
                }
            };
            let part = AttendPart {
                queries,
                memory,
                rows_of,
                lags,
                pages,
                out: numbers,
                rounded: bytes,
                parts,
                cap: attended.cap.unwrap_or_default(),
                rows: int(heads.rows)?,
                rows_each: int(rows_each)?,
                pages_each: int(pages_each)?,
                slots: int(slots)?,
                heads_of_keys: int(key_value_heads)?,
                share: int(share)?,
                columns: int(heads.columns)?,
                splits: int(splits)?,
                sight: u32::try_from(view.sight).unwrap_or(u32::MAX),
            };
            let config = LaunchConfig {
                grid_dim: (grid, grid_heads, splits as u32),
                block_dim: ((ATTEND_WARPS * WARP) as u32, 1, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: `part` is what `casemate_attend` takes, and all lengths were checked; rows, lags and pages are held
            // within bounds by the kernel. The views and slices live until it is launched, and what is freed afterwards
            // is freed in the stream's order.
            // JUSTIFICATION: nobody but the driver knows what a kernel takes.
            unsafe { stream.launch_builder(kernel).arg(&part).launch(config) }?;
            if splits > 1 {
                let config = LaunchConfig {
                    grid_dim: (grid, grid_heads, 1),
                    ..config
                };
                // SAFETY: the same structure; every cell's parts were written by the kernel before.
                // JUSTIFICATION: the same.
                unsafe { stream.launch_builder(&self.join).arg(&part).launch(config) }?;
            }
        }
        Ok(out)
    }

    /// `x + y`, rows × columns, and its root-mean-square norm of the factors and epsilon given; the norm `rounded`, if its
    /// columns are whole units.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn add_norm(
        &self,
        (x, y): (&CudaView<'_, f32>, &CudaView<'_, f32>),
        (factors, epsilon): (&CudaView<'_, f32>, f32),
        rounded: bool,
    ) -> Result<(CudaSlice<f32>, Found), CudaError> {
        const THREADS: u32 = 512;
        let columns = factors.len();
        let rows = x.len() / columns.max(1);
        check(
            rows > 0
                && x.len() == rows * columns
                && y.len() == x.len()
                && (!rounded || columns.is_multiple_of(WARP)),
            "rows to add",
        )?;
        // SAFETY: the kernel writes every number of both.
        // JUSTIFICATION: filling them first would be other kernels.
        let (mut sum, mut normed) = unsafe {
            let normed = match rounded {
                true => Found::Rounded(self.stream.alloc(rows * rounded_bytes(columns))?),
                false => Found::Numbers(self.stream.alloc(x.len())?),
            };
            (self.stream.alloc::<f32>(x.len())?, normed)
        };
        let config = LaunchConfig {
            grid_dim: (int(rows)?.cast_unsigned(), 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        let columns = int(columns)?;
        let mut launch = self.stream.launch_builder(&self.add_norm);
        let nobody = 0_u64;
        launch.arg(x).arg(y).arg(factors).arg(&epsilon);
        launch.arg(&mut sum);
        match &mut normed {
            Found::Numbers(numbers) => launch.arg(numbers).arg(&nobody),
            Found::Rounded(bytes) => launch.arg(&nobody).arg(bytes),
        };
        launch.arg(&columns);
        // SAFETY: the arguments are those of `casemate_add_norm`, a block for each row, and all lengths were checked. A null
        // pointer has as many bytes as the address of a slice.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok((sum, normed))
    }

    /// The softmax of scores, heads of keys × sequences × queries × slots, over what each query sees: its own slot, which
    /// stands as many behind the first as `lags` say (sequences × queries), and those before it as far as `sight`. Zero
    /// elsewhere.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn soften(
        &self,
        scores: &CudaView<'_, f32>,
        lags: &CudaView<'_, u32>,
        heads: usize,
        (sight, cap): (usize, Option<f32>),
    ) -> Result<CudaSlice<f32>, CudaError> {
        let rows = heads * lags.len();
        let slots = scores.len() / rows.max(1);
        check(
            rows > 0 && scores.len() == rows * slots && slots > 0,
            "scores",
        )?;
        let (queries, slots) = (int(lags.len())?, int(slots)?);
        let (grid, sight) = (
            int(rows)?.cast_unsigned(),
            u32::try_from(sight).unwrap_or(u32::MAX),
        );
        let cap = cap.unwrap_or_default();
        // SAFETY: the kernel writes every number.
        // JUSTIFICATION: filling it first would be another kernel.
        let mut out = unsafe { self.stream.alloc::<f32>(scores.len()) }?;
        let config = LaunchConfig {
            grid_dim: (grid, 1, 1),
            block_dim: (128, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = self.stream.launch_builder(&self.soften);
        launch.arg(scores).arg(&mut out).arg(lags).arg(&queries);
        launch.arg(&slots).arg(&sight).arg(&cap);
        // SAFETY: the arguments are those of `casemate_soften`; a block has a row of `slots` numbers, and there are as many
        // rows as was checked. Lags are held within bounds by the kernel.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok(out)
    }

    /// `silu(gate) · up`, number by number: rows × columns.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn gated(
        &self,
        (gate, up): (&Rows<'_>, &Rows<'_>),
        rows: usize,
        columns: usize,
    ) -> Result<CudaSlice<f32>, CudaError> {
        const THREADS: usize = 256;
        let (gate_stride, up_stride) = (gate.of(rows, columns)?, up.of(rows, columns)?);
        let (gate, up) = (&gate.numbers, &up.numbers);
        check(rows <= u16::MAX as usize, "too many rows for a gate")?;
        // SAFETY: the kernel writes every number.
        // JUSTIFICATION: filling it first would be another kernel.
        let mut out = unsafe { self.stream.alloc::<f32>(rows * columns) }?;
        let blocks = int(columns.div_ceil(THREADS))?.cast_unsigned();
        let config = LaunchConfig {
            grid_dim: (blocks, rows as u32, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        let (rows, columns) = (int(rows)?, int(columns)?);
        let mut launch = self.stream.launch_builder(&self.gated);
        launch.arg(gate).arg(up).arg(&mut out).arg(&rows);
        launch.arg(&columns).arg(&gate_stride).arg(&up_stride);
        // SAFETY: the arguments are those of `casemate_gated`, and both sides have as many numbers as was checked.
        // JUSTIFICATION: nobody but the driver knows what a kernel takes.
        unsafe { launch.launch(config) }?;
        Ok(out)
    }
}

impl Decode {
    /// `x · matrixᵀ` for at most [`PRODUCT_ROWS_MAX`](super::PRODUCT_ROWS_MAX) rows: `x` is rows × columns, `matrix` heights
    /// × columns, what comes of it rows × heights. Sums are of 32 bits.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn product(
        &self,
        x: &CudaView<'_, f32>,
        matrix: &HalfView<'_>,
        sizes: (usize, usize, usize),
    ) -> Result<CudaSlice<f32>, CudaError> {
        self.halves.product(&self.stream, x, matrix, sizes)
    }

    /// Rows as 16-bit floats, each multiplied by a power of two so that products with it stay finite; and the factors that
    /// undo it.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn shrink(
        &self,
        x: &CudaView<'_, f32>,
        sizes: (usize, usize),
    ) -> Result<(CudaSlice<f16>, CudaSlice<f32>), CudaError> {
        self.halves.shrink(&self.stream, x, sizes)
    }

    /// Undoes [`Self::shrink`] for products of its rows: rows × heights.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn widen(
        &self,
        x: &CudaView<'_, f16>,
        factors: &CudaView<'_, f32>,
    ) -> Result<CudaSlice<f32>, CudaError> {
        self.halves.widen(&self.stream, x, factors)
    }
}

/// Into how many parts the pages of each cell and head are split, so that few cells keep a GPU busy.
fn splits(blocks: usize, pages: usize) -> usize {
    let wanted = BLOCKS.div_ceil(blocks.max(1));
    wanted.min(pages.div_ceil(PAGES_WORTH)).clamp(1, SPLITS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_the_smallest_kernel_that_does() {
        for (columns, share, expected) in [
            (16, 1, Some((32, 1))),
            (64, 4, Some((64, 4))),
            (80, 3, Some((128, 4))),
            (96, 5, Some((128, 8))),
            (256, 4, Some((256, 4))),
            (256, 8, None),
            (64, 9, None),
            (20, 1, None),
        ] {
            assert_eq!(kernel_for(columns, share), expected, "{columns} {share}");
        }
    }

    #[test]
    fn few_cells_are_split_and_many_are_not() {
        assert_eq!(splits(8, 8), 1);
        assert_eq!(splits(8, 12), 2);
        assert_eq!(splits(8, 256), 32);
        assert_eq!(splits(1, 4096), SPLITS_MAX);
        assert_eq!(splits(264, 256), 1);
        assert_eq!(splits(8, 1), 1);
    }
}
