//! The only way between host and device. What crosses is counted: on a confidential GPU each crossing is encrypted and
//! waits.

use std::cell::Cell;

use candle_core::{Device, Result, Shape, Tensor};

use crate::engine::Crossings;

/// A device, and how often it was crossed to and from.
pub(super) struct Link {
    device: Device,
    crossed: Cell<Crossings>,
}

impl Link {
    pub(super) fn new(device: Device) -> Self {
        Self {
            device,
            crossed: Cell::default(),
        }
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// How often it was crossed.
    pub(super) fn crossed(&self) -> Crossings {
        self.crossed.get()
    }

    /// Numbers, row by row, to the device.
    pub(super) fn up<T: candle_core::WithDType>(
        &self,
        numbers: Vec<T>,
        shape: impl Into<Shape>,
    ) -> Result<Tensor> {
        let mut crossed = self.crossed.get();
        crossed.uploads += 1;
        crossed.bytes += size_of_val(numbers.as_slice()) as u64;
        self.crossed.set(crossed);
        Tensor::from_vec(numbers, shape.into(), &self.device)
    }

    /// All numbers of a tensor to the host.
    pub(super) fn down<T: candle_core::WithDType>(&self, tensor: &Tensor) -> Result<Vec<T>> {
        let found = tensor.flatten_all()?.to_vec1::<T>()?;
        let mut crossed = self.crossed.get();
        crossed.downloads += 1;
        crossed.bytes += size_of_val(found.as_slice()) as u64;
        self.crossed.set(crossed);
        Ok(found)
    }

    /// While what this returns lives, candle keeps the shapes and strides that its kernels are told on the device, and
    /// sends each once in the life of the process. Without it nearly every kernel would have a crossing of its own.
    ///
    /// Nothing may be sent up meanwhile: candle would keep that as well.
    #[cfg(feature = "cuda")]
    pub(super) fn parameters_kept(&self) -> impl Sized + use<> {
        let device = self.device.as_cuda_device().ok();
        device.map(candle_core::CudaDevice::enable_cuda_graph_htod_cache)
    }

    /// Without CUDA nothing is sent.
    #[cfg(not(feature = "cuda"))]
    pub(super) fn parameters_kept(&self) -> impl Sized + use<> {
        let _ = &self.device;
    }
}
