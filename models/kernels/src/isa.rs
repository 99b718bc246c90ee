//! Instruction sets: what a kernel needs of a processor, as one trait that every set implements.
//!
//! A kernel is written once, over [`Lanes`]; each lane is one row of the weights. The functions here are `unsafe` for one
//! reason: they may be called only where the processor has the set. [`Isa::detect`] finds that out once.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

/// Rows of weights that lie interleaved: a tile.
pub const TILE: usize = 16;

/// An instruction set that kernels exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 with VNNI.
    Avx512,
}

impl Isa {
    /// The best set that this processor has.
    pub fn detect() -> Self {
        *Self::available().last().unwrap_or(&Self::Portable)
    }

    /// Every set that this processor has, the best one last.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                found.push(Self::Avx2);
                let wide = has!("avx512f") && has!("avx512bw") && has!("avx512vl");
                if wide && has!("avx512dq") && has!("avx512vnni") {
                    found.push(Self::Avx512);
                }
            }
        }
        found
    }
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
    /// Asks for a cache line that will be read soon.
    unsafe fn prefetch(from: *const u8);
}
