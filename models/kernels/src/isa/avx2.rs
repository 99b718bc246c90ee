//! AVX2 with FMA and F16C: 8 rows at once; with VNNI, if the processor has that for registers of this width.
//!
//! SAFETY of this file: every function is called only from kernels compiled for these features, which run only where
//! [`super::Isa::available`] found them; pointers are the kernel's to vouch for.
//!
//! JUSTIFICATION of this file: kernels over these instructions run at six to ten times the speed of the portable twin.
//! VNNI makes one instruction of three; the 256-bit kernels with it were not timed.

use std::arch::x86_64::*;

use super::Lanes;

/// What does not depend on VNNI.
macro_rules! common {
    () => {
        type I = __m256i;
        type F = __m256;
        const LANES: usize = 8;

        lanes! {
            fn int(value: i32) -> __m256i { _mm256_set1_epi32(value) }
            fn float(value: f32) -> __m256 { _mm256_set1_ps(value) }
            fn load(from: *const u8) -> __m256i { _mm256_loadu_si256(from.cast()) }
            fn keep(value: __m256i, to: *mut u8) -> () { _mm256_storeu_si256(to.cast(), value) }
            fn load_u8(from: *const u8) -> __m256i { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
            fn load_i8(from: *const u8) -> __m256i { _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())) }
            fn load_u8_pairs(from: *const u8) -> __m256i { _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast())) }
            fn load_f16(from: *const u8) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
            fn load_bf16(from: *const u8) -> __m256 {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
            fn load_f32(from: *const u8) -> __m256 { _mm256_loadu_ps(from.cast()) }
            fn store(value: __m256, to: *mut f32) -> () { _mm256_storeu_ps(to, value) }
            fn and(a: __m256i, mask: u8) -> __m256i { _mm256_and_si256(a, _mm256_set1_epi8(mask as i8)) }
            fn or_and(a: __m256i, b: __m256i, mask: u8) -> __m256i {
                _mm256_or_si256(a, _mm256_and_si256(b, _mm256_set1_epi8(mask as i8)))
            }
            fn left<const BITS: u32>(a: __m256i) -> __m256i {
                _mm256_sll_epi16(a, _mm_cvtsi32_si128(BITS as i32))
            }
            fn right<const BITS: u32>(a: __m256i) -> __m256i {
                _mm256_srl_epi16(a, _mm_cvtsi32_si128(BITS as i32))
            }
            fn mul_add(a: __m256i, b: __m256i, sum: __m256i) -> __m256i { _mm256_add_epi32(sum, _mm256_mullo_epi32(a, b)) }
            fn to_float(a: __m256i) -> __m256 { _mm256_cvtepi32_ps(a) }
            fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
            fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
            fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fnmadd_ps(a, b, c) }
            fn max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
            fn largest(a: __m256) -> f32 {
                let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
            }
            fn store_u8(value: __m256, to: *mut u8) -> () {
                let wide = _mm256_cvtps_epi32(value);
                let (low, high) = (_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
                let halves = _mm_packs_epi32(low, high);
                _mm_storel_epi64(to.cast(), _mm_packus_epi16(halves, halves));
            }
            fn power(shifted: __m256) -> __m256 {
                let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
                _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f80_0000)))
            }
            fn prefetch(from: *const u8) -> () { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
            fn prefetch_later(from: *const u8) -> () { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
        }
    };
}

/// The set.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

impl Lanes for Avx2 {
    common!();

    lanes! {
        fn dot(sum: __m256i, weights: __m256i, activations: i32) -> __m256i {
            let pairs = _mm256_maddubs_epi16(weights, _mm256_set1_epi32(activations));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
        fn dot_wide(sum: __m256i, weights: __m256i, activations: i32) -> __m256i {
            // Pairs of products would not fit 16 bits: the sign moves from the weight to the activation.
            let signed = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
            let moved = _mm256_sign_epi8(_mm256_set1_epi32(activations), signed);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), moved);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
        fn dot_wide_start(_start: i32) -> __m256i { _mm256_setzero_si256() }
        fn dot_shares(sum: __m256i, values: __m256i, shares: i32) -> __m256i {
            // Pairs of products would not fit 16 bits: even and odd bytes are multiplied apart, as 16-bit numbers.
            let shares = _mm256_set1_epi32(shares);
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(values));
            let even = _mm256_madd_epi16(even, _mm256_and_si256(shares, _mm256_set1_epi16(0xff)));
            let odd = _mm256_madd_epi16(_mm256_srai_epi16::<8>(values), _mm256_srli_epi16::<8>(shares));
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        }
        fn dot_pairs(sum: __m256i, weights: __m256i, activations: i32) -> __m256i {
            _mm256_add_epi32(sum, _mm256_madd_epi16(weights, _mm256_set1_epi32(activations)))
        }
    }
}

/// A set with VNNI: two encodings of the same instructions, each with a feature of its own.
macro_rules! with_vnni {
    ($(#[$doc:meta])* $set:ident: $dot:ident, $dot_pairs:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $set;

        impl Lanes for $set {
            common!();

            lanes! {
                fn dot(sum: __m256i, weights: __m256i, activations: i32) -> __m256i {
                    $dot(sum, weights, _mm256_set1_epi32(activations))
                }
                fn dot_wide(sum: __m256i, weights: __m256i, activations: i32) -> __m256i {
                    $dot(sum, weights, _mm256_set1_epi32(activations))
                }
                fn dot_wide_start(start: i32) -> __m256i { _mm256_set1_epi32(start) }
                fn dot_shares(sum: __m256i, values: __m256i, shares: i32) -> __m256i {
                    $dot(sum, _mm256_set1_epi32(shares), values)
                }
                fn dot_pairs(sum: __m256i, weights: __m256i, activations: i32) -> __m256i {
                    $dot_pairs(sum, weights, _mm256_set1_epi32(activations))
                }
            }
        }
    };
}

with_vnni! {
    /// AVX-VNNI: processors without AVX-512.
    AvxVnni: _mm256_dpbusd_avx_epi32, _mm256_dpwssd_avx_epi32
}

with_vnni! {
    /// AVX-512's VNNI. Runs what [`AvxVnni`] runs where that cannot be tested.
    Avx512Narrow: _mm256_dpbusd_epi32, _mm256_dpwssd_epi32
}
