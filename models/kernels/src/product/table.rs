//! Kernels by kind, set and size.

use super::{Kernel, any, number};
use crate::format::Kind;
use crate::isa::Isa;
#[cfg(target_arch = "aarch64")]
use crate::isa::neon::Neon;
use crate::isa::portable::Portable;
#[cfg(target_arch = "x86_64")]
use crate::isa::{
    avx2::{Avx2, Avx512Narrow, AvxVnni},
    avx512::Avx512,
};

/// Compiles [`any`] for a set's features.
macro_rules! instance {
    ($arch:literal, $name:ident, $lanes:ty, $features:literal) => {
        #[cfg(target_arch = $arch)]
        #[target_feature(enable = $features)]
        unsafe fn $name<const K: u8, const M: usize>(
            tile: *const u8,
            words: *const u32,
            blocks: usize,
            out: *mut f32,
        ) {
            // SAFETY: the kernel type's conditions are handed on.
            // JUSTIFICATION: said of each set at the head of its file.
            unsafe { any::<$lanes, K, M>(tile, words, blocks, out) }
        }
    };
}

instance!("x86_64", avx2, Avx2, "avx2,fma,f16c");
instance!(
    "x86_64",
    avx512_narrow,
    Avx512Narrow,
    "avx2,fma,f16c,avx512f,avx512vl,avx512vnni"
);
instance!("x86_64", avx_vnni, AvxVnni, "avx2,fma,f16c,avxvnni");
instance!(
    "x86_64",
    avx512,
    Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
);
instance!("aarch64", neon, Neon<false>, "neon");
instance!("aarch64", neon_dot, Neon<true>, "neon,dotprod");

unsafe fn portable<const K: u8, const M: usize>(
    tile: *const u8,
    words: *const u32,
    blocks: usize,
    out: *mut f32,
) {
    // SAFETY: the kernel type's conditions are handed on.
    // JUSTIFICATION: the twin is the same kernel over other lanes.
    unsafe { any::<Portable, K, M>(tile, words, blocks, out) }
}

macro_rules! sizes {
    ($set:ident, $kind:expr, $size:expr) => {
        match $size {
            1 => $set::<$kind, 1>,
            2 => $set::<$kind, 2>,
            3 => $set::<$kind, 3>,
            4 => $set::<$kind, 4>,
            6 => $set::<$kind, 6>,
            _ => $set::<$kind, 8>,
        }
    };
}

macro_rules! kinds {
    ($set:ident, $kind:expr, $size:expr) => {
        match $kind {
            0 => sizes!($set, 0, $size),
            1 => sizes!($set, 1, $size),
            2 => sizes!($set, 2, $size),
            3 => sizes!($set, 3, $size),
            4 => sizes!($set, 4, $size),
            5 => sizes!($set, 5, $size),
            6 => sizes!($set, 6, $size),
            7 => sizes!($set, 7, $size),
            8 => sizes!($set, 8, $size),
            9 => sizes!($set, 9, $size),
            10 => sizes!($set, 10, $size),
            _ => sizes!($set, 11, $size),
        }
    };
}

/// The kernel for groups of `size`, which is one of [`crate::activations::GROUPS`].
pub(crate) fn kernel(isa: Isa, kind: Kind, size: usize) -> Kernel {
    let kind = number(kind);
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => kinds!(avx512, kind, size),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => kinds!(avx_vnni, kind, size),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Narrow => kinds!(avx512_narrow, kind, size),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => kinds!(avx2, kind, size),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => kinds!(neon_dot, kind, size),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => kinds!(neon, kind, size),
        _ => kinds!(portable, kind, size),
    }
}
