//! Our own kernels where candle's operations are many and small: a layer that generates takes half the launches, and keys
//! and values are read where they are instead of being gathered. They exist on CUDA only; the operations that they stand
//! for are what every other device runs, and what tests hold them against.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DeviceRepr};
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, DType, Device, Error, InplaceOp1, Layout, Result, Shape,
    Storage, StorageRef, Tensor,
};
use casemate_kernels::cuda::{
    Attended, Decode, Found, HalfView, Heads, PRODUCT_ROWS_MAX, PackedKernels, Rows, Turning, View,
};
use casemate_kernels::planes::{PlaneKind, UNIT, rounded_bytes};
use half::f16;
use zeroize::Zeroizing;

pub(super) use casemate_kernels::cuda::PackedMatrix;

use super::attention::{Look, Turn};
use super::input::Input;
use crate::decoder::config::RopePairs;
use crate::gguf::TensorType;

/// The kernels of a device.
pub(super) struct Kernels {
    device: CudaDevice,
    decode: Decode,
    packed: PackedKernels,
}

/// A tensor's numbers on the device, for as long as they are looked at.
struct Held<'a> {
    storage: StorageRef<'a>,
    at: (usize, usize),
    /// From row to row, of rows.
    stride: usize,
}

fn wrapped(error: casemate_kernels::cuda::CudaError) -> Error {
    Error::wrap(error)
}

impl<'a> Held<'a> {
    fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let at = layout.contiguous_offsets();
        let at = at.ok_or_else(|| Error::msg("numbers for a kernel do not lie together"))?;
        Ok(Self {
            storage,
            at,
            stride: 0,
        })
    }

    /// Rows that may be parts of longer ones.
    fn rows(tensor: &'a Tensor) -> Result<Self> {
        let (rows, columns) = tensor.dims2()?;
        let (storage, layout) = tensor.storage_and_layout();
        let (stride, start) = match *layout.stride() {
            [_, 1] if rows < 2 => (columns, layout.start_offset()),
            [stride, 1] => (stride, layout.start_offset()),
            _ => candle_core::bail!("numbers of a row for a kernel do not lie together"),
        };
        let end = start + rows.saturating_sub(1) * stride + columns;
        Ok(Self {
            storage,
            at: (start, end),
            stride,
        })
    }

    fn kind(&self) -> DType {
        self.storage.dtype()
    }

    fn as_rows(&self) -> Result<Rows<'_>> {
        Ok(Rows {
            numbers: self.view()?,
            stride: self.stride,
        })
    }

    fn view<T: candle_core::cuda_backend::CudaDType + DeviceRepr>(
        &self,
    ) -> Result<CudaView<'_, T>> {
        match &*self.storage {
            Storage::Cuda(storage) => Ok(storage.as_cuda_slice::<T>()?.slice(self.at.0..self.at.1)),
            _ => candle_core::bail!("numbers for a kernel are elsewhere"),
        }
    }
}

impl Kernels {
    /// Those of a device, if it has some.
    pub(super) fn of(device: &Device) -> Result<Option<Self>> {
        let Device::Cuda(device) = device else {
            return Ok(None);
        };
        let stream = device.cuda_stream();
        Ok(Some(Self {
            device: device.clone(),
            decode: Decode::load(&stream).map_err(wrapped)?,
            packed: PackedKernels::load(&stream).map_err(wrapped)?,
        }))
    }

    /// Whether they attend with heads of so many columns, where so many queries share a head of keys.
    pub(super) fn attend_with(columns: usize, share: usize) -> bool {
        Decode::serves(columns, share)
    }

    fn tensor<T: candle_core::cuda_backend::CudaDType + DeviceRepr>(
        &self,
        slice: CudaSlice<T>,
        shape: impl Into<Shape>,
    ) -> Tensor {
        let storage = CudaStorage::wrap_cuda_slice(slice, self.device.clone());
        Tensor::from_storage(
            Storage::Cuda(storage),
            shape.into(),
            BackpropOp::none(),
            false,
        )
    }

    /// Queries, rows × columns of all heads: normalised, turned and multiplied by `scale` and their place's growth.
    pub(super) fn turn(
        &self,
        queries: &Tensor,
        turn: &Turn<'_>,
        scale: f32,
        growth: Option<&Tensor>,
    ) -> Result<Tensor> {
        let heads = turn.heads(queries)?;
        let (held, places) = (Held::rows(queries)?, Held::new(turn.places)?);
        let growth = growth.map(Held::new).transpose()?;
        let growth = growth.as_ref().map(Held::view).transpose()?;
        let tables = turn.tables()?;
        let turned = self.decode.turn(
            &held.as_rows()?,
            heads,
            &places.view()?,
            &tables.turning(turn)?,
            (scale, growth.as_ref()),
        );
        Ok(self.tensor(turned.map_err(wrapped)?, queries.shape()))
    }

    /// Keys and values, rows × columns of all heads, to their rows' slots in `layer`: keys × slots × columns, and values
    /// behind them.
    pub(super) fn store(
        &self,
        (keys, values): (&Tensor, &Tensor),
        layer: &Tensor,
        slots: &Tensor,
        turn: &Turn<'_>,
    ) -> Result<()> {
        let store = Store {
            kernels: self,
            keys,
            values,
            slots,
            turn,
        };
        layer.inplace_op1(&store)
    }

    /// What was found, rows × columns, as an input.
    fn input(&self, found: Found, (rows, columns): (usize, usize)) -> Input {
        match found {
            Found::Numbers(numbers) => Input::Numbers(self.tensor(numbers, (rows, columns))),
            Found::Rounded(bytes) => {
                Input::Rounded(self.tensor(bytes, (rows, rounded_bytes(columns))))
            }
        }
    }

    /// What queries find in `layer`: rows × columns of all heads; rounded if that is wanted and a head of keys has whole units.
    pub(super) fn attend(
        &self,
        queries: &Tensor,
        heads: usize,
        layer: &Tensor,
        look: &Look<'_>,
        rounded: bool,
    ) -> Result<Input> {
        let (rows, all) = queries.dims2()?;
        let sizes = Heads {
            rows,
            count: heads,
            columns: all / heads,
        };
        let (queries, layer) = (Held::new(queries)?, Held::new(layer)?);
        let (rows_of, lags, pages) = (
            Held::new(look.rows_of)?,
            Held::new(look.lags)?,
            Held::new(look.pages)?,
        );
        let attended = Attended {
            memory: layer.view::<f16>()?,
            key_value_heads: look.key_value_heads,
            cap: look.cap,
        };
        let view = View {
            rows_of: rows_of.view()?,
            lags: lags.view()?,
            pages: pages.view()?,
            sequences: look.sequences,
            sight: look.sight,
        };
        let whole = (all / look.key_value_heads.max(1)).is_multiple_of(UNIT);
        let queries = queries.view()?;
        let found = self
            .decode
            .attend(&queries, sizes, &attended, &view, rounded && whole);
        Ok(self.input(found.map_err(wrapped)?, (rows, all)))
    }

    /// The softmax of `scores`, key-value heads × sequences × queries × slots, over what each query sees.
    pub(super) fn soften(
        &self,
        scores: &Tensor,
        lags: &Tensor,
        heads: usize,
        (sight, cap): (usize, Option<f32>),
    ) -> Result<Tensor> {
        let shape = scores.shape();
        let (scores, lags) = (Held::new(scores)?, Held::new(lags)?);
        let (scores, lags) = (scores.view()?, lags.view()?);
        let made = self.decode.soften(&scores, &lags, heads, (sight, cap));
        Ok(self.tensor(made.map_err(wrapped)?, shape))
    }

    /// `x + y`, rows × columns, and its norm by factors and epsilon, rounded if that is wanted and columns are whole units.
    pub(super) fn add_norm(
        &self,
        (x, y): (&Tensor, &Tensor),
        (factors, epsilon): (&Tensor, f32),
        rounded: bool,
    ) -> Result<(Tensor, Input)> {
        let (shape, sizes) = (x.shape(), x.dims2()?);
        let rounded = rounded && sizes.1.is_multiple_of(UNIT);
        let (x, y, factors) = (Held::new(x)?, Held::new(y)?, Held::new(factors)?);
        let (x, y) = (x.view()?, y.view()?);
        let factors = factors.view()?;
        let made = self.decode.add_norm((&x, &y), (&factors, epsilon), rounded);
        let (sum, normed) = made.map_err(wrapped)?;
        Ok((self.tensor(sum, shape), self.input(normed, sizes)))
    }

    /// `x · matrixᵀ`, where `matrix` has 16-bit floats.
    pub(super) fn product(&self, x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
        let ((rows, columns), heights) = (x.dims2()?, matrix.dim(0)?);
        if rows <= PRODUCT_ROWS_MAX && columns % 8 == 0 {
            let (x, matrix) = (Held::new(x)?, Held::new(matrix)?);
            let view = match matrix.kind() {
                DType::F16 => HalfView::F16(matrix.view()?),
                _ => HalfView::Bf16(matrix.view()?),
            };
            let made = self
                .decode
                .product(&x.view()?, &view, (rows, heights, columns));
            return Ok(self.tensor(made.map_err(wrapped)?, (rows, heights)));
        }
        if matrix.dtype() == DType::BF16 {
            let x = x.to_dtype(DType::BF16)?;
            return x.matmul(&matrix.t()?)?.to_dtype(DType::F32);
        }
        let (halves, factors) = {
            let x = Held::new(x)?;
            self.decode
                .shrink(&x.view()?, (rows, columns))
                .map_err(wrapped)?
        };
        let (halves, factors) = (
            self.tensor(halves, (rows, columns)),
            self.tensor(factors, rows),
        );
        let product = halves.matmul(&matrix.t()?)?;
        let (product, factors) = (Held::new(&product)?, Held::new(&factors)?);
        let made = self.decode.widen(&product.view()?, &factors.view()?);
        Ok(self.tensor(made.map_err(wrapped)?, (rows, heights)))
    }

    /// `silu(gate) · up`, rows × columns.
    pub(super) fn gated(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let (rows, columns) = gate.dims2()?;
        let (gate, up) = (Held::rows(gate)?, Held::rows(up)?);
        let sides = (&gate.as_rows()?, &up.as_rows()?);
        let made = self.decode.gated(sides, rows, columns);
        Ok(self.tensor(made.map_err(wrapped)?, (rows, columns)))
    }
}

impl Kernels {
    /// A matrix on the device, if there are kernels for its kind.
    pub(super) fn pack(
        &self,
        kind: TensorType,
        shape: (usize, usize),
        bytes: &[u8],
    ) -> Result<Option<PackedMatrix>> {
        let kind = match kind {
            TensorType::Q4_0 => PlaneKind::Q4_0,
            TensorType::Q8_0 => PlaneKind::Q8_0,
            TensorType::Q4K => PlaneKind::Q4K,
            TensorType::Q5K => PlaneKind::Q5K,
            TensorType::Q6K => PlaneKind::Q6K,
            _ => return Ok(None),
        };
        let sorted = Zeroizing::new(kind.sort(bytes));
        let matrix = self.packed.matrix(kind, shape, &sorted).map_err(wrapped)?;
        // What was sent is read until then.
        self.packed.wait().map_err(wrapped)?;
        Ok(Some(matrix))
    }

    /// Weights of a matrix.
    pub(super) fn weights(matrix: &PackedMatrix) -> usize {
        matrix.heights().saturating_mul(matrix.columns())
    }

    /// Whether [`Self::multiply_gated`] takes it.
    pub(super) fn gates(matrix: &PackedMatrix) -> bool {
        PackedKernels::gates(matrix)
    }

    /// The rows of one and, behind them, of another, if both are alike.
    pub(super) fn stacked(
        &self,
        above: &PackedMatrix,
        below: &PackedMatrix,
    ) -> Result<Option<PackedMatrix>> {
        let alike = |one: &PackedMatrix| (one.kind(), one.columns());
        if alike(above) != alike(below) {
            return Ok(None);
        }
        self.packed.stacked(above, below).map(Some).map_err(wrapped)
    }

    /// Rows rounded for packed matrices: rows × bytes.
    pub(super) fn round(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, columns) = x.dims2()?;
        let x = Held::new(x)?;
        let made = self.packed.round(&x.view()?, (rows, columns));
        Ok(self.tensor(made.map_err(wrapped)?, (rows, rounded_bytes(columns))))
    }

    /// `x · matrixᵀ` of rounded rows: rows × heights.
    pub(super) fn multiply(&self, x: &Tensor, matrix: &PackedMatrix) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let x = Held::new(x)?;
        let made = self.packed.multiply(&x.view()?, rows, matrix);
        Ok(self.tensor(made.map_err(wrapped)?, (rows, matrix.heights())))
    }

    /// `silu(x · gateᵀ) · (x · upᵀ)` of rounded rows, rounded, where the matrix has the rows of both.
    pub(super) fn multiply_gated(&self, x: &Tensor, matrix: &PackedMatrix) -> Result<Tensor> {
        let (rows, width) = (x.dim(0)?, matrix.heights() / 2);
        let x = Held::new(x)?;
        let made = self.packed.multiply_gated(&x.view()?, rows, matrix);
        Ok(self.tensor(made.map_err(wrapped)?, (rows, rounded_bytes(width))))
    }

    /// A matrix as 16-bit floats: heights × columns.
    pub(super) fn unpacked(&self, matrix: &PackedMatrix) -> Result<Tensor> {
        let made = self.packed.halves(matrix).map_err(wrapped)?;
        Ok(self.tensor(made, (matrix.heights(), matrix.columns())))
    }

    /// Rows of a matrix, as many as `ids`.
    pub(super) fn lookup(&self, matrix: &PackedMatrix, ids: &Tensor) -> Result<Tensor> {
        let count = ids.elem_count();
        let ids = Held::new(ids)?;
        let made = self.packed.rows(matrix, &ids.view()?).map_err(wrapped)?;
        Ok(self.tensor(made, (count, matrix.columns())))
    }
}

/// A turn's tables on the device.
struct Tables<'a> {
    cosines: Held<'a>,
    sines: Held<'a>,
    norm: Option<(Held<'a>, f32)>,
}

impl<'a> Turn<'a> {
    fn heads(&self, x: &Tensor) -> Result<Heads> {
        let (rows, all) = x.dims2()?;
        Ok(Heads {
            rows,
            count: self.heads,
            columns: all / self.heads,
        })
    }

    fn tables(&self) -> Result<Tables<'a>> {
        let norm = self.norm;
        let norm = norm.map(|(factors, epsilon)| Ok::<_, Error>((Held::new(factors)?, epsilon)));
        Ok(Tables {
            cosines: Held::new(&self.rotation.cosines)?,
            sines: Held::new(&self.rotation.sines)?,
            norm: norm.transpose()?,
        })
    }
}

impl Tables<'_> {
    fn turning(&self, turn: &Turn<'_>) -> Result<Turning<'_>> {
        let norm = self.norm.as_ref();
        let norm = norm.map(|(factors, epsilon)| Ok::<_, Error>((factors.view()?, *epsilon)));
        Ok(Turning {
            cosines: self.cosines.view()?,
            sines: self.sines.view()?,
            turned: turn.rotation.cosines.dim(1)? * 2,
            neighbours: matches!(turn.rotation.pairs, RopePairs::Neighbours),
            norm: norm.transpose()?,
        })
    }
}

/// See [`Kernels::store`].
struct Store<'a> {
    kernels: &'a Kernels,
    keys: &'a Tensor,
    values: &'a Tensor,
    slots: &'a Tensor,
    turn: &'a Turn<'a>,
}

impl InplaceOp1 for Store<'_> {
    fn name(&self) -> &'static str {
        "store keys and values"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        candle_core::bail!("keys and values are stored by a kernel on CUDA only")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a layer's keys and values do not lie together")
        };
        let heads = self.turn.heads(self.keys)?;
        let (keys, values) = (Held::rows(self.keys)?, Held::rows(self.values)?);
        let (places, slots) = (Held::new(self.turn.places)?, Held::new(self.slots)?);
        let tables = self.turn.tables()?;
        let memory = storage.as_cuda_slice_mut::<f16>()?;
        let stored = self.kernels.decode.store(
            (&keys.as_rows()?, &values.as_rows()?),
            heads,
            &mut memory.slice_mut(start..end),
            (&places.view()?, &slots.view()?),
            &tables.turning(self.turn)?,
        );
        stored.map_err(wrapped)
    }
}
