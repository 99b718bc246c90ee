//! Kernels for NVIDIA GPUs: what rows that generate need besides products of matrices. And what has to be settled with the
//! driver before a device is worked on.
//!
//! What is told by numbers on the device (places, slots, pages, rows) is held within bounds by the kernels themselves;
//! what is told here is checked here.

mod decode;
mod halves;
mod packed;
mod settle;
mod told;

pub use decode::{Decode, Found};
pub use halves::{HalfView, PRODUCT_ROWS_MAX};
pub use packed::{PackedKernels, PackedMatrix};
pub use settle::{idle_bytes, settle};
pub use told::{Attended, Heads, Rows, Turning, View};

/// Why nothing was computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver refused.
    #[error("{0:?}")]
    Driver(#[from] cudarc::driver::DriverError),
    /// The kernels were compiled for another GPU, or the driver is too old for them.
    #[error(
        "the kernels of this binary do not load on this GPU ({0:?}): build it for this GPU with scripts/build-cuda --compute-cap, or take a newer driver"
    )]
    Module(cudarc::driver::DriverError),
    /// Sizes do not fit each other.
    #[error("sizes that do not fit each other: {0}")]
    Shape(&'static str),
}
