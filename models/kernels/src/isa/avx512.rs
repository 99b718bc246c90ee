//! AVX-512 with VNNI: 16 rows at once.
//!
//! SAFETY of this file: every function is called only from kernels compiled for these features, which run only where
//! [`super::Isa::available`] found them; pointers are the kernel's to vouch for.
//!
//! JUSTIFICATION of this file: kernels over these instructions run at twice the speed of those over AVX2's.

use std::arch::x86_64::*;

use super::Lanes;

/// The set.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

impl Lanes for Avx512 {
    type I = __m512i;
    type F = __m512;
    const LANES: usize = 16;

    lanes! {
        fn int(value: i32) -> __m512i { _mm512_set1_epi32(value) }
        fn float(value: f32) -> __m512 { _mm512_set1_ps(value) }
        fn load(from: *const u8) -> __m512i { _mm512_loadu_si512(from.cast()) }
        fn keep(value: __m512i, to: *mut u8) -> () { _mm512_storeu_si512(to.cast(), value) }
        fn load_u8(from: *const u8) -> __m512i { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
        fn load_i8(from: *const u8) -> __m512i { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())) }
        fn load_u8_pairs(from: *const u8) -> __m512i { _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.cast())) }
        fn load_f16(from: *const u8) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        fn load_bf16(from: *const u8) -> __m512 {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
        fn load_f32(from: *const u8) -> __m512 { _mm512_loadu_ps(from.cast()) }
        fn store(value: __m512, to: *mut f32) -> () { _mm512_storeu_ps(to, value) }
        fn and(a: __m512i, mask: u8) -> __m512i { _mm512_and_si512(a, _mm512_set1_epi8(mask as i8)) }
        fn or_and(a: __m512i, b: __m512i, mask: u8) -> __m512i {
            _mm512_ternarylogic_epi32::<0xf8>(a, b, _mm512_set1_epi8(mask as i8))
        }
        fn left<const BITS: u32>(a: __m512i) -> __m512i { _mm512_slli_epi16::<BITS>(a) }
        fn right<const BITS: u32>(a: __m512i) -> __m512i { _mm512_srli_epi16::<BITS>(a) }
        fn dot(sum: __m512i, weights: __m512i, activations: i32) -> __m512i {
            _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(activations))
        }
        fn dot_wide(sum: __m512i, weights: __m512i, activations: i32) -> __m512i {
            _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(activations))
        }
        fn dot_wide_start(start: i32) -> __m512i { _mm512_set1_epi32(start) }
        fn dot_shares(sum: __m512i, values: __m512i, shares: i32) -> __m512i {
            _mm512_dpbusd_epi32(sum, _mm512_set1_epi32(shares), values)
        }
        fn dot_pairs(sum: __m512i, weights: __m512i, activations: i32) -> __m512i {
            _mm512_dpwssd_epi32(sum, weights, _mm512_set1_epi32(activations))
        }
        fn mul_add(a: __m512i, b: __m512i, sum: __m512i) -> __m512i { _mm512_add_epi32(sum, _mm512_mullo_epi32(a, b)) }
        fn to_float(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fnmadd_ps(a, b, c) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn largest(a: __m512) -> f32 { _mm512_reduce_max_ps(a) }
        fn store_u8(value: __m512, to: *mut u8) -> () {
            _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value)))
        }
        fn power(shifted: __m512) -> __m512 {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f80_0000)))
        }
        fn prefetch(from: *const u8) -> () { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        fn prefetch_later(from: *const u8) -> () { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
}
