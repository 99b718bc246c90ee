//! NEON: 8 rows at once, in two registers; with the dot products of Armv8.2, if the processor has them.
//!
//! Two registers fill half a cache line of a packed vector and leave room for eight rows of sums. `usdot` (I8MM) would
//! save `dot_wide` one exclusive-or for each vector of weights, which rows of activations share: no set for that.
//!
//! SAFETY of this file: every function is called only from kernels compiled for these features, which run only where
//! [`super::Isa::available`] found them; pointers are the kernel's to vouch for. Loads and stores of these instructions
//! need no alignment.
//!
//! JUSTIFICATION of this file: safe code cannot ask for a product of bytes that is added up in fours, nor can the
//! compiler be relied on to find it: without it a processor multiplies 32-bit numbers one by one. Compiled and tested under
//! emulation; its speed on a processor is not known.
//!
//! Known of the machine code: sums of up to eight rows stay in registers. From two to eight rows on, depending on the
//! kind, the compiler keeps the loop over a unit's vectors and chooses in each turn how bits are moved: `sdot` written out
//! counts for more than its intrinsic would, which is not stable yet.

use std::arch::{aarch64::*, asm};

use super::Lanes;

/// The set; `DOT` with dot products.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>;

/// Rows 0 to 3 and rows 4 to 7.
#[derive(Clone, Copy)]
pub(crate) struct Pair<T>(T, T);

impl<T: Copy> Pair<T> {
    #[inline(always)]
    fn of(both: T) -> Self {
        Self(both, both)
    }

    #[inline(always)]
    fn map<U>(self, f: impl Fn(T) -> U) -> Pair<U> {
        Pair(f(self.0), f(self.1))
    }

    #[inline(always)]
    fn with<U: Copy, V>(self, other: Pair<U>, f: impl Fn(T, U) -> V) -> Pair<V> {
        Pair(f(self.0, other.0), f(self.1, other.1))
    }
}

/// Adds to each sum four products of signed bytes.
///
/// Without dot products two neighbouring products must fit 16 bits together: they do, since no activation is -128.
///
/// # Safety
/// With `DOT` the processor must have the dot products.
#[inline(always)]
unsafe fn add_fours<const DOT: bool>(
    sum: int32x4_t,
    weights: int32x4_t,
    activations: int32x4_t,
) -> int32x4_t {
    // SAFETY: see the head of this file; the instruction touches registers alone.
    // JUSTIFICATION: see the head of this file. It is written out, since its intrinsic is not stable.
    unsafe {
        if DOT {
            let mut sum = sum;
            asm!(
                "sdot {sum:v}.4s, {weights:v}.16b, {activations:v}.16b",
                sum = inout(vreg) sum,
                weights = in(vreg) weights,
                activations = in(vreg) activations,
                options(pure, nomem, nostack, preserves_flags),
            );
            return sum;
        }
        let (weights, activations) = (
            vreinterpretq_s8_s32(weights),
            vreinterpretq_s8_s32(activations),
        );
        let low = vmull_s8(vget_low_s8(weights), vget_low_s8(activations));
        let high = vmull_high_s8(weights, activations);
        vpadalq_s16(sum, vpaddq_s16(low, high))
    }
}

impl<const DOT: bool> Lanes for Neon<DOT> {
    type I = Pair<int32x4_t>;
    type F = Pair<float32x4_t>;
    const LANES: usize = 8;

    lanes! {
        fn int(value: i32) -> Pair<int32x4_t> { Pair::of(vdupq_n_s32(value)) }
        fn float(value: f32) -> Pair<float32x4_t> { Pair::of(vdupq_n_f32(value)) }
        fn load(from: *const u8) -> Pair<int32x4_t> {
            Pair(vld1q_u8(from), vld1q_u8(from.add(16))).map(|bytes| vreinterpretq_s32_u8(bytes))
        }
        fn keep(value: Pair<int32x4_t>, to: *mut u8) -> () {
            vst1q_u8(to, vreinterpretq_u8_s32(value.0));
            vst1q_u8(to.add(16), vreinterpretq_u8_s32(value.1));
        }
        fn load_u8(from: *const u8) -> Pair<int32x4_t> {
            let wide = vmovl_u8(vld1_u8(from));
            Pair(vmovl_u16(vget_low_u16(wide)), vmovl_high_u16(wide)).map(|wide| vreinterpretq_s32_u32(wide))
        }
        fn load_i8(from: *const u8) -> Pair<int32x4_t> {
            let wide = vmovl_s8(vreinterpret_s8_u8(vld1_u8(from)));
            Pair(vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide))
        }
        fn load_u8_pairs(from: *const u8) -> Pair<int32x4_t> {
            let bytes = vld1q_u8(from);
            Pair(vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes)).map(|wide| vreinterpretq_s32_u16(wide))
        }
        fn load_f16(from: *const u8) -> Pair<float32x4_t> {
            let halves = vreinterpretq_f16_u8(vld1q_u8(from));
            Pair(vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves))
        }
        fn load_bf16(from: *const u8) -> Pair<float32x4_t> {
            let halves = vreinterpretq_u16_u8(vld1q_u8(from));
            let wide = Pair(vshll_n_u16::<16>(vget_low_u16(halves)), vshll_high_n_u16::<16>(halves));
            wide.map(|wide| vreinterpretq_f32_u32(wide))
        }
        fn load_f32(from: *const u8) -> Pair<float32x4_t> {
            Pair(vld1q_u8(from), vld1q_u8(from.add(16))).map(|bytes| vreinterpretq_f32_u8(bytes))
        }
        fn store(value: Pair<float32x4_t>, to: *mut f32) -> () {
            vst1q_f32(to, value.0);
            vst1q_f32(to.add(4), value.1);
        }
        fn and(a: Pair<int32x4_t>, mask: u8) -> Pair<int32x4_t> {
            let mask = vreinterpretq_s32_u8(vdupq_n_u8(mask));
            a.map(|a| vandq_s32(a, mask))
        }
        fn or_and(a: Pair<int32x4_t>, b: Pair<int32x4_t>, mask: u8) -> Pair<int32x4_t> {
            let mask = vreinterpretq_s32_u8(vdupq_n_u8(mask));
            a.with(b, |a, b| vorrq_s32(a, vandq_s32(b, mask)))
        }
        fn left<const BITS: u32>(a: Pair<int32x4_t>) -> Pair<int32x4_t> {
            let bits = vdupq_n_s16(BITS as i16);
            a.map(|a| vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), bits)))
        }
        fn right<const BITS: u32>(a: Pair<int32x4_t>) -> Pair<int32x4_t> {
            // To the left by less than nothing.
            let bits = vdupq_n_s16(-(BITS as i16));
            a.map(|a| vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), bits)))
        }
        fn dot(sum: Pair<int32x4_t>, weights: Pair<int32x4_t>, activations: i32) -> Pair<int32x4_t> {
            let activations = vdupq_n_s32(activations);
            // No closure: it would not be compiled for the kernel's features.
            Pair(
                add_fours::<DOT>(sum.0, weights.0, activations),
                add_fours::<DOT>(sum.1, weights.1, activations),
            )
        }
        fn dot_wide(sum: Pair<int32x4_t>, weights: Pair<int32x4_t>, activations: i32) -> Pair<int32x4_t> {
            // Without the offset they are signed bytes.
            let offset = vreinterpretq_s32_u8(vdupq_n_u8(128));
            Self::dot(sum, weights.map(|weights| veorq_s32(weights, offset)), activations)
        }
        fn dot_wide_start(_start: i32) -> Pair<int32x4_t> { Self::int(0) }
        fn dot_shares(sum: Pair<int32x4_t>, values: Pair<int32x4_t>, shares: i32) -> Pair<int32x4_t> {
            // Even and odd bytes apart, as 16-bit numbers: products of bytes with and without a sign are a set of their own.
            let shares = vdupq_n_s32(shares);
            let even = vreinterpretq_s32_s16(vandq_s16(vreinterpretq_s16_s32(shares), vdupq_n_s16(0xff)));
            let odd = vreinterpretq_s32_u16(vshrq_n_u16::<8>(vreinterpretq_u16_s32(shares)));
            let wide = values.map(|values| vreinterpretq_s16_s32(values));
            let low = wide.map(|wide| vreinterpretq_s32_s16(vshrq_n_s16::<8>(vshlq_n_s16::<8>(wide))));
            let high = wide.map(|wide| vreinterpretq_s32_s16(vshrq_n_s16::<8>(wide)));
            let pairs = |sum: Pair<int32x4_t>, weights: Pair<int32x4_t>, activations: int32x4_t| {
                let activations = vreinterpretq_s16_s32(activations);
                sum.with(weights, |sum, weights| {
                    let weights = vreinterpretq_s16_s32(weights);
                    let low = vmull_s16(vget_low_s16(weights), vget_low_s16(activations));
                    vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(weights, activations)))
                })
            };
            pairs(pairs(sum, low, even), high, odd)
        }
        fn dot_pairs(sum: Pair<int32x4_t>, weights: Pair<int32x4_t>, activations: i32) -> Pair<int32x4_t> {
            let activations = vreinterpretq_s16_s32(vdupq_n_s32(activations));
            sum.with(weights, |sum, weights| {
                let weights = vreinterpretq_s16_s32(weights);
                let low = vmull_s16(vget_low_s16(weights), vget_low_s16(activations));
                vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(weights, activations)))
            })
        }
        fn mul_add(a: Pair<int32x4_t>, b: Pair<int32x4_t>, sum: Pair<int32x4_t>) -> Pair<int32x4_t> {
            Pair(vmlaq_s32(sum.0, a.0, b.0), vmlaq_s32(sum.1, a.1, b.1))
        }
        fn to_float(a: Pair<int32x4_t>) -> Pair<float32x4_t> { a.map(|a| vcvtq_f32_s32(a)) }
        fn mul(a: Pair<float32x4_t>, b: Pair<float32x4_t>) -> Pair<float32x4_t> {
            a.with(b, |a, b| vmulq_f32(a, b))
        }
        fn fma(a: Pair<float32x4_t>, b: Pair<float32x4_t>, c: Pair<float32x4_t>) -> Pair<float32x4_t> {
            Pair(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1))
        }
        fn fnma(a: Pair<float32x4_t>, b: Pair<float32x4_t>, c: Pair<float32x4_t>) -> Pair<float32x4_t> {
            Pair(vfmsq_f32(c.0, a.0, b.0), vfmsq_f32(c.1, a.1, b.1))
        }
        fn max(a: Pair<float32x4_t>, b: Pair<float32x4_t>) -> Pair<float32x4_t> { a.with(b, |a, b| vmaxq_f32(a, b)) }
        fn largest(a: Pair<float32x4_t>) -> f32 { vmaxvq_f32(vmaxq_f32(a.0, a.1)) }
        fn store_u8(value: Pair<float32x4_t>, to: *mut u8) -> () {
            let wide = value.map(|value| vcvtnq_s32_f32(value));
            let halves = vcombine_s16(vmovn_s32(wide.0), vmovn_s32(wide.1));
            vst1_u8(to, vreinterpret_u8_s8(vmovn_s16(halves)));
        }
        fn power(shifted: Pair<float32x4_t>) -> Pair<float32x4_t> {
            let one = vdupq_n_s32(0x3f80_0000);
            shifted.map(|shifted| {
                vreinterpretq_f32_s32(vaddq_s32(vshlq_n_s32::<23>(vreinterpretq_s32_f32(shifted)), one))
            })
        }
        fn prefetch(from: *const u8) -> () {
            // Whatever the address is: asking for a line never fails.
            asm!("prfm pldl1keep, [{from}]", from = in(reg) from, options(nomem, nostack, preserves_flags));
        }
        fn prefetch_later(from: *const u8) -> () {
            asm!("prfm pldl2keep, [{from}]", from = in(reg) from, options(nomem, nostack, preserves_flags));
        }
    }
}
