//! Instruction sets: what a kernel needs of a processor, as one trait that every set implements.
//!
//! A kernel is written once, over [`Lanes`]; each lane is one row of the weights. The functions here are `unsafe` for one
//! reason: they may be called only where the processor has the set. [`Isa::available`] finds that out, and is with
//! [`Isa::detect`] the only way to get a set other than [`Isa::Portable`].
//!
//! NEON is compiled and tested by `scripts/check-aarch64`, which says what that takes.

use std::sync::OnceLock;

/// Implements functions of [`Lanes`]: each is inlined into a kernel compiled for the set.
macro_rules! lanes {
    ($($(#[$doc:meta])* fn $name:ident $(<const $g:ident: u32>)? ($($arg:ident: $ty:ty),*) -> $out:ty $body:block)*) => {
        $(
            #[inline(always)]
            unsafe fn $name $(<const $g: u32>)? ($($arg: $ty),*) -> $out {
                // SAFETY: see the head of the file that names the instructions, which has the JUSTIFICATION too.
                unsafe { $body }
            }
        )*
    };
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;

/// Rows of weights that lie interleaved: a tile.
pub const TILE: usize = 16;

/// An instruction set that kernels exist for. One that the processor may lack comes out of [`Self::available`] and
/// [`Self::detect`] alone: whoever has it may use it.
///
/// ```
/// use casemate_kernels::Isa;
/// let twin = Isa::Portable;
/// assert!(Isa::available().contains(&twin) && Isa::available().contains(&Isa::detect()));
/// ```
///
/// ```compile_fail,E0603
/// let unchecked = casemate_kernels::Isa::Avx512;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust.
    Portable,
    /// x86-64: AVX2 with FMA and F16C.
    #[non_exhaustive]
    Avx2,
    /// x86-64: the same, and AVX-512's VNNI on 256 bits, where there are none of 512.
    #[non_exhaustive]
    Avx512Narrow,
    /// x86-64: AVX2 with FMA, F16C and AVX-VNNI.
    #[non_exhaustive]
    AvxVnni,
    /// x86-64: AVX-512 with VNNI.
    #[non_exhaustive]
    Avx512,
    /// AArch64: NEON as every such processor has it.
    #[non_exhaustive]
    Neon,
    /// AArch64: NEON with the dot products of Armv8.2.
    #[non_exhaustive]
    NeonDot,
}

impl Isa {
    /// The best set that this processor has. Found once.
    pub fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::Portable))
    }

    /// Every set that this processor has, the best one last.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Portable];
        Self::find(&mut found);
        found
    }

    #[cfg(target_arch = "x86_64")]
    fn find(found: &mut Vec<Self>) {
        use std::arch::is_x86_feature_detected as has;
        if !(has!("avx2") && has!("fma") && has!("f16c")) {
            return;
        }
        found.push(Self::Avx2);
        let narrow = has!("avx512f") && has!("avx512vl") && has!("avx512vnni");
        if narrow {
            found.push(Self::Avx512Narrow);
        }
        if has!("avxvnni") {
            found.push(Self::AvxVnni);
        }
        if narrow && has!("avx512bw") && has!("avx512dq") {
            found.push(Self::Avx512);
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn find(found: &mut Vec<Self>) {
        use std::arch::is_aarch64_feature_detected as has;
        if !has!("neon") {
            return;
        }
        found.push(Self::Neon);
        if has!("dotprod") {
            found.push(Self::NeonDot);
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn find(_found: &mut Vec<Self>) {}
}

/// A vector register's worth of rows.
///
/// Bytes of a packed vector lie as four neighbouring columns of row 0, the same of row 1, and so on: lane `i` is row `i`.
pub(crate) trait Lanes: Copy {
    /// Integers: one 32-bit sum, or four bytes, or two 16-bit numbers, per lane.
    type I: Copy;
    /// One `f32` per lane.
    type F: Copy;
    /// Rows at once.
    const LANES: usize;

    /// All lanes `value`.
    unsafe fn int(value: i32) -> Self::I;
    /// All lanes `value`.
    unsafe fn float(value: f32) -> Self::F;
    /// Four bytes per lane.
    unsafe fn load(from: *const u8) -> Self::I;
    /// Stores four bytes per lane.
    unsafe fn keep(value: Self::I, to: *mut u8);
    /// One byte per lane, widened.
    unsafe fn load_u8(from: *const u8) -> Self::I;
    /// One signed byte per lane, widened.
    unsafe fn load_i8(from: *const u8) -> Self::I;
    /// Two bytes per lane, each widened to 16 bits.
    unsafe fn load_u8_pairs(from: *const u8) -> Self::I;
    /// One F16 per lane, widened.
    unsafe fn load_f16(from: *const u8) -> Self::F;
    /// One BF16 per lane, widened.
    unsafe fn load_bf16(from: *const u8) -> Self::F;
    /// One `f32` per lane.
    unsafe fn load_f32(from: *const u8) -> Self::F;
    /// Stores one `f32` per lane.
    unsafe fn store(value: Self::F, to: *mut f32);
    /// `a & mask`, byte by byte.
    unsafe fn and(a: Self::I, mask: u8) -> Self::I;
    /// `a | (b & mask)`, byte by byte.
    unsafe fn or_and(a: Self::I, b: Self::I, mask: u8) -> Self::I;
    /// Bits to the left within 16-bit halves.
    unsafe fn left<const BITS: u32>(a: Self::I) -> Self::I;
    /// Bits to the right within 16-bit halves.
    unsafe fn right<const BITS: u32>(a: Self::I) -> Self::I;
    /// `sum` and the four products of unsigned bytes below 64 with the signed bytes in `activations`.
    unsafe fn dot(sum: Self::I, weights: Self::I, activations: i32) -> Self::I;
    /// The same for unsigned bytes of any size: 128 more than the weight that is meant. Begins with
    /// [`Self::dot_wide_start`].
    unsafe fn dot_wide(sum: Self::I, weights: Self::I, activations: i32) -> Self::I;
    /// What takes the offset of 128 away again, if it is not taken away otherwise: `start` is -128 times the activations'
    /// sum.
    unsafe fn dot_wide_start(start: i32) -> Self::I;
    /// `sum` and the four products of signed bytes with the unsigned ones in `shares`.
    unsafe fn dot_shares(sum: Self::I, values: Self::I, shares: i32) -> Self::I;
    /// `sum` and the two products of 16-bit numbers.
    unsafe fn dot_pairs(sum: Self::I, weights: Self::I, activations: i32) -> Self::I;
    /// `sum + a · b`, of integers; all of them fit 32 bits.
    unsafe fn mul_add(a: Self::I, b: Self::I, sum: Self::I) -> Self::I;
    /// As `f32`.
    unsafe fn to_float(a: Self::I) -> Self::F;
    /// `a · b`.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a · b`, rounded once.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of each two.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The largest of all lanes.
    unsafe fn largest(a: Self::F) -> f32;
    /// Stores one 8-bit integer per lane: the nearest one, halves to even. All of them are from 0 to 255.
    unsafe fn store_u8(value: Self::F, to: *mut u8);
    /// Two to the power of the integer `n` of each lane, given as `n + 1.5 · 2²³`.
    unsafe fn power(shifted: Self::F) -> Self::F;
    /// Asks for a cache line that will be read soon.
    unsafe fn prefetch(from: *const u8);
    /// Asks for a cache line that will be read later, into the second cache: it takes more requests at a time.
    unsafe fn prefetch_later(from: *const u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scripts/check-aarch64` reads what this prints, to know what the other tests ran on.
    #[test]
    fn sets_are_in_order_and_the_best_is_found() {
        let sets = Isa::available();
        println!("sets of this processor: {sets:?}");
        assert_eq!(sets.first(), Some(&Isa::Portable));
        assert!(sets.is_sorted_by(|a, b| a < b));
        assert_eq!(sets.last(), Some(&Isa::detect()));
        let ours = |isa: &Isa| match isa {
            Isa::Portable => true,
            Isa::Neon | Isa::NeonDot => cfg!(target_arch = "aarch64"),
            Isa::Avx2 | Isa::Avx512Narrow | Isa::AvxVnni | Isa::Avx512 => {
                cfg!(target_arch = "x86_64")
            }
        };
        assert!(sets.iter().all(ours));
    }
}
