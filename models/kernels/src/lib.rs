//! Arithmetic on packed weights for processors. The only home of unsafe code; knows no model.
//!
//! [`Packed`] holds a matrix as kernels read it, [`Activations`] rows of inputs rounded for it, [`multiply`] puts them
//! together on the threads of a [`Pool`]. What the machine can do is an [`Isa`]; every set gives the same sums up to the
//! order of additions, and [`Isa::Portable`] is the twin that the others are tested against.

mod activations;
mod attention;
mod block;
mod buffer;
pub mod elementwise;
mod format;
pub mod heap;
mod isa;
mod kv;
mod matmul;
mod pack;
mod packed;
mod pool;
mod product;

pub use activations::Activations;
pub use attention::{Attention, Scoring};
pub use buffer::{Buffer, OutOfMemory};
pub use format::{Kind, Precision};
pub use isa::{Isa, TILE};
pub use kv::{KvKind, KvPages, KvShape, PAGE, Span};
pub use matmul::{Product, ShapeError, multiply};
pub use packed::{PackError, Packed};
pub use pool::Pool;
