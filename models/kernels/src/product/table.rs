//! Kernels by kind, set and size.

use super::{Kernel, Unpacker, any, number, unpack_all};
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

/// Compiles [`any`] and [`unpack_all`] for a set's features.
macro_rules! instance {
    ($arch:literal, $name:ident, $unpack:ident, $lanes:ty, $features:literal) => {
        #[cfg(target_arch = $arch)]
        #[target_feature(enable = $features)]
        unsafe fn $name<const K: u8, const M: usize, const WIDE: bool>(
            tile: *const u8,
            words: *const u32,
            blocks: usize,
            out: *mut f32,
        ) {
            // SAFETY: the kernel type's conditions are handed on.
            // JUSTIFICATION: said of each set at the head of its file.
            unsafe { any::<$lanes, K, M, WIDE>(tile, words, blocks, out) }
        }

        #[cfg(target_arch = $arch)]
        #[target_feature(enable = $features)]
        unsafe fn $unpack<const BITS: usize>(from: *const u8, units: usize, to: *mut u8) {
            // SAFETY: the type's conditions are handed on.
            // JUSTIFICATION: as above.
            unsafe { unpack_all::<$lanes, BITS>(from, units, to) }
        }
    };
}

instance!("x86_64", avx2, avx2_unpack, Avx2, "avx2,fma,f16c");
instance!(
    "x86_64",
    avx512_narrow,
    avx512_narrow_unpack,
    Avx512Narrow,
    "avx2,fma,f16c,avx512f,avx512vl,avx512vnni"
);
instance!(
    "x86_64",
    avx_vnni,
    avx_vnni_unpack,
    AvxVnni,
    "avx2,fma,f16c,avxvnni"
);
instance!(
    "x86_64",
    avx512,
    avx512_unpack,
    Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
);
instance!("aarch64", neon, neon_unpack, Neon<false>, "neon");
instance!(
    "aarch64",
    neon_dot,
    neon_dot_unpack,
    Neon<true>,
    "neon,dotprod"
);

unsafe fn portable<const K: u8, const M: usize, const WIDE: bool>(
    tile: *const u8,
    words: *const u32,
    blocks: usize,
    out: *mut f32,
) {
    // SAFETY: the kernel type's conditions are handed on.
    // JUSTIFICATION: the twin is the same kernel over other lanes.
    unsafe { any::<Portable, K, M, WIDE>(tile, words, blocks, out) }
}

unsafe fn portable_unpack<const BITS: usize>(from: *const u8, units: usize, to: *mut u8) {
    // SAFETY: the type's conditions are handed on.
    // JUSTIFICATION: as above.
    unsafe { unpack_all::<Portable, BITS>(from, units, to) }
}

macro_rules! bits {
    ($unpack:ident, $bits:expr) => {
        match $bits {
            3 => $unpack::<3>,
            5 => $unpack::<5>,
            _ => $unpack::<6>,
        }
    };
}

/// What unpacks the units of a kind for which [that pays](crate::wide::pays).
pub(crate) fn unpacker(isa: Isa, kind: Kind) -> Unpacker {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => bits!(avx512_unpack, kind.bits()),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => bits!(avx_vnni_unpack, kind.bits()),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Narrow => bits!(avx512_narrow_unpack, kind.bits()),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => bits!(avx2_unpack, kind.bits()),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => bits!(neon_dot_unpack, kind.bits()),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => bits!(neon_unpack, kind.bits()),
        _ => bits!(portable_unpack, kind.bits()),
    }
}

macro_rules! sizes {
    ($set:ident, $kind:expr, $size:expr, $wide:expr) => {
        match $size {
            1 => $set::<$kind, 1, $wide>,
            2 => $set::<$kind, 2, $wide>,
            3 => $set::<$kind, 3, $wide>,
            4 => $set::<$kind, 4, $wide>,
            6 => $set::<$kind, 6, $wide>,
            8 => $set::<$kind, 8, $wide>,
            _ => $set::<$kind, 12, $wide>,
        }
    };
}

/// Kinds of which [`crate::wide::pays`] says so. Another one here and not there, or there and not here, gives wrong sums,
/// which the products' tests see for every kind.
macro_rules! either {
    ($set:ident, $kind:expr, $size:expr, $wide:expr) => {
        match $wide {
            true => sizes!($set, $kind, $size, true),
            false => sizes!($set, $kind, $size, false),
        }
    };
}

macro_rules! kinds {
    ($set:ident, $kind:expr, $size:expr, $wide:expr) => {
        match $kind {
            0 => sizes!($set, 0, $size, false),
            1 => sizes!($set, 1, $size, false),
            2 => sizes!($set, 2, $size, false),
            3 => sizes!($set, 3, $size, false),
            4 => either!($set, 4, $size, $wide),
            5 => either!($set, 5, $size, $wide),
            6 => sizes!($set, 6, $size, false),
            7 => sizes!($set, 7, $size, false),
            8 => either!($set, 8, $size, $wide),
            9 => sizes!($set, 9, $size, false),
            10 => either!($set, 10, $size, $wide),
            _ => either!($set, 11, $size, $wide),
        }
    };
}

/// The kernel for groups of `size`, which is one of [`crate::activations::GROUPS`], and for tiles as they are kept or, of a
/// kind for which [that pays](crate::wide::pays), `wide`.
pub(crate) fn kernel(isa: Isa, kind: Kind, size: usize, wide: bool) -> Kernel {
    let kind = number(kind);
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => kinds!(avx512, kind, size, wide),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => kinds!(avx_vnni, kind, size, wide),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Narrow => kinds!(avx512_narrow, kind, size, wide),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => kinds!(avx2, kind, size, wide),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => kinds!(neon_dot, kind, size, wide),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => kinds!(neon, kind, size, wide),
        _ => kinds!(portable, kind, size, wide),
    }
}
