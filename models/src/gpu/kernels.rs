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
    Attended, Decode, HalfView, Heads, PRODUCT_ROWS_MAX, Rows, Turning, View,
};
use half::f16;

use super::attention::{Look, Turn};
use crate::decoder::config::RopePairs;

/// The kernels of a device.
pub(super) struct Kernels {
    device: CudaDevice,
    decode: Decode,
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
        let decode = Decode::load(&device.cuda_stream()).map_err(wrapped)?;
        Ok(Some(Self {
            device: device.clone(),
            decode,
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

    /// What queries find in `layer`: rows × columns of all heads.
    pub(super) fn attend(
        &self,
        queries: &Tensor,
        heads: usize,
        layer: &Tensor,
        look: &Look<'_>,
    ) -> Result<Tensor> {
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
        let found = self
            .decode
            .attend(&queries.view()?, sizes, &attended, &view);
        Ok(self.tensor(found.map_err(wrapped)?, (rows, all)))
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

    /// `x + y`, and its norm by factors and epsilon.
    pub(super) fn add_norm(
        &self,
        (x, y): (&Tensor, &Tensor),
        (factors, epsilon): (&Tensor, f32),
    ) -> Result<(Tensor, Tensor)> {
        let shape = x.shape();
        let (x, y, factors) = (Held::new(x)?, Held::new(y)?, Held::new(factors)?);
        let (x, y) = (x.view()?, y.view()?);
        let made = self.decode.add_norm((&x, &y), (&factors.view()?, epsilon));
        let (sum, normed) = made.map_err(wrapped)?;
        Ok((self.tensor(sum, shape), self.tensor(normed, shape)))
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
