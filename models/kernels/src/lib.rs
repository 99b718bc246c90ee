//! Arithmetic on packed weights for processors, and with the feature `cuda` kernels for GPUs. The only home of unsafe code;
//! knows no model.
//!
//! [`Packed`] holds a matrix as kernels read it, [`Activations`] rows of inputs rounded for it, [`multiply`] puts them
//! together on the threads of a [`Pool`]. What the machine can do is an [`Isa`]; every set gives the same sums up to the
//! order of additions, and [`Isa::Portable`] is the twin that the others are tested against.
//!
//! # Checking what `scripts/check` cannot
//!
//! The tests run over every set that the processor has, and so over none of another architecture's. Where the toolchain
//! has no standard library for that, it can be compiled from its sources, which must be of the compiler's own version:
//! cargo's `-Z build-std` with `RUSTC_BOOTSTRAP=1`, a C cross-compiler as linker, and an emulator of user programs as
//! runner. `scripts/check-aarch64` does that on Debian, for a processor with dot products and for one without.
//!
//! `scripts/check-memory` runs the tests with AddressSanitizer, with ThreadSanitizer and in valgrind. Miri was not run: no
//! toolchain at hand has it.
//!
//! No emulator at hand knows AVX-VNNI. [`Isa::AvxVnni`] is the same code as [`Isa::Avx512Narrow`], which is tested, but for
//! the two instructions' encoding.

mod activations;
mod attention;
mod block;
mod buffer;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod elementwise;
#[cfg(test)]
mod emulated;
mod fixed;
mod format;
pub mod heap;
mod isa;
mod kv;
pub mod logits;
mod matmul;
mod pack;
mod packed;
pub mod planes;
mod pool;
mod product;
pub mod siphash;
mod wide;

pub use activations::Activations;
pub use attention::{Attention, Scoring};
pub use buffer::{Buffer, OutOfMemory};
pub use format::{Kind, Precision};
pub use isa::{Isa, TILE};
pub use kv::{KvKind, KvPages, KvShape, PAGE, Span};
pub use matmul::{Product, ShapeError, multiply};
pub use packed::{PackError, Packed};
pub use pool::Pool;
