//! The devices that models are computed on: which there are in this binary, and how much memory they have left.

#[cfg(any(feature = "cuda", test))]
pub(crate) mod gate;

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use candle_core::Device;

use crate::engine::DeviceChoice;

/// Whether this binary has code for GPUs.
pub const HAS_CUDA: bool = cfg!(feature = "cuda");

/// GPUs of one machine.
const NUMBER_MAX: usize = 255;

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(name: &str) -> Result<Self, UnknownDevice> {
        let number = match name {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => "0",
            name => name.strip_prefix("cuda:").ok_or(UnknownDevice)?,
        };
        let plain = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().map_err(|_| UnknownDevice)?;
        match plain && number <= NUMBER_MAX {
            true => Ok(Self::Cuda(number)),
            false => Err(UnknownDevice),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// A name that no device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a device is \"cpu\", \"cuda\" or \"cuda:N\" with the number of a GPU from 0 to {NUMBER_MAX}"
)]
pub struct UnknownDevice;

/// Why a device does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The binary has no code for GPUs.
    #[error(
        "this binary was built without CUDA: use device \"cpu\", or the binary that scripts/build-cuda makes"
    )]
    WithoutCuda,
    /// There is no such GPU, or its driver refuses.
    #[error("device \"cuda:{number}\" cannot be used: {reason}")]
    Unusable {
        /// Which GPU.
        number: usize,
        /// What the driver said.
        reason: String,
    },
    /// Keys and values in 8 bits are for processors.
    #[error("a CUDA device keeps keys and values as 16-bit floats: use cache \"f16\"")]
    CacheKind,
    /// There are no kernels for such weights.
    #[error("a CUDA device has no kernels for tensor {tensor:?}, which is of kind {kind}")]
    Kind {
        /// The tensor.
        tensor: String,
        /// How it is stored.
        kind: String,
    },
}

/// A device that is open. Whoever works on it keeps this until all else of it is gone.
#[derive(Debug)]
pub struct Opened(Option<Device>);

impl Deref for Opened {
    type Target = Device;

    fn deref(&self) -> &Device {
        self.0.as_ref().unwrap_or(&Device::Cpu)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        #[cfg(feature = "cuda")]
        let _settling = self.is_cuda().then(gate::settling);
        self.0 = None;
    }
}

/// Opens a device.
///
/// # Errors
/// [`DeviceError::WithoutCuda`] or [`DeviceError::Unusable`].
pub fn open(choice: DeviceChoice) -> Result<Opened, DeviceError> {
    match choice {
        DeviceChoice::Cpu => Ok(Opened(Some(Device::Cpu))),
        DeviceChoice::Cuda(_) if !HAS_CUDA => Err(DeviceError::WithoutCuda),
        DeviceChoice::Cuda(number) => match opened(number) {
            Ok(device) => Ok(Opened(Some(device))),
            Err(said) => Err(unusable(number, &said)),
        },
    }
}

/// A GPU with a stream that waits for no other, so that work can be recorded while other threads open devices.
#[cfg(feature = "cuda")]
fn opened(number: usize) -> Result<Device, String> {
    let _settling = gate::settling();
    let device = Device::new_cuda_with_stream(number).map_err(|error| error.to_string())?;
    let cuda = device.as_cuda_device().map_err(|error| error.to_string())?;
    casemate_kernels::cuda::settle(&cuda.cuda_stream()).map_err(|error| error.to_string())?;
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn opened(number: usize) -> Result<Device, String> {
    Device::new_cuda(number).map_err(|error| error.to_string())
}

fn unusable(number: usize, said: &str) -> DeviceError {
    let reason = said.lines().next().unwrap_or_default().to_owned();
    DeviceError::Unusable { number, reason }
}

/// Bytes of a device's memory that can be had; of the processor's its owner decides.
///
/// # Errors
/// [`DeviceError::Unusable`].
#[cfg(feature = "cuda")]
pub(crate) fn bytes_free(device: &Device) -> Result<u64, DeviceError> {
    use candle_core::DeviceLocation;

    let DeviceLocation::Cuda { gpu_id } = device.location() else {
        return Ok(u64::MAX);
    };
    let asked = device
        .as_cuda_device()
        .map(|device| -> Result<u64, String> {
            let stream = device.cuda_stream();
            let free = stream.context().mem_get_info();
            let (free, _) = free.map_err(|error| error.to_string())?;
            let idle = casemate_kernels::cuda::idle_bytes(&stream);
            Ok(free as u64 + idle.map_err(|error| error.to_string())?)
        });
    match asked {
        Ok(Ok(free)) => Ok(free),
        Ok(Err(said)) => Err(unusable(gpu_id, &said)),
        Err(error) => Err(unusable(gpu_id, &error.to_string())),
    }
}

/// Bytes of a device's memory that can be had; of the processor's its owner decides.
///
/// # Errors
/// None without CUDA.
#[cfg(not(feature = "cuda"))]
pub(crate) fn bytes_free(_: &Device) -> Result<u64, DeviceError> {
    Ok(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for choice in [
            DeviceChoice::Cpu,
            DeviceChoice::Cuda(0),
            DeviceChoice::Cuda(7),
        ] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for name in [
            "", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:+1", "cuda:256", "cuda:0 ",
        ] {
            assert_eq!(name.parse::<DeviceChoice>(), Err(UnknownDevice), "{name:?}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_binary_without_cuda_says_so() {
        let said = open(DeviceChoice::Cuda(0))
            .map(|_| ())
            .map_err(|error| error.to_string());
        let said = said.err().unwrap_or_default();
        assert!(
            said.starts_with("this binary was built without CUDA"),
            "{said}"
        );
        assert!(open(DeviceChoice::Cpu).is_ok());
    }
}
