//! Plain Rust: the twin that the other sets are compared with, and what runs where there is none of them.
//!
//! SAFETY of this file: nothing here needs a feature; pointers are the kernel's to vouch for.
//!
//! JUSTIFICATION of this file: a twin is compared with the other sets in the same kernels, which hand pointers to it.

use half::{bf16, f16};

use super::Lanes;

/// No set at all.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const N: usize = 16;

#[inline(always)]
fn each<T: Copy, U: Copy + Default>(a: [T; N], f: impl Fn(T) -> U) -> [U; N] {
    let mut out = [U::default(); N];
    for (out, a) in out.iter_mut().zip(a) {
        *out = f(a);
    }
    out
}

#[inline(always)]
fn products(sum: i32, weights: [i32; 4], activations: i32) -> i32 {
    let activations = activations.to_le_bytes();
    let mut sum = sum;
    for (weight, activation) in weights.into_iter().zip(activations) {
        sum = sum.wrapping_add(weight * i32::from(activation as i8));
    }
    sum
}

/// Reads `N` values of `SIZE` bytes.
///
/// # Safety
/// They must be there.
#[inline(always)]
unsafe fn read<T: Copy + Default, const SIZE: usize>(
    from: *const u8,
    value: impl Fn([u8; SIZE]) -> T,
) -> [T; N] {
    let mut out = [T::default(); N];
    for (lane, out) in out.iter_mut().enumerate() {
        // SAFETY: the caller says that they are there; arrays of bytes have no alignment.
        // JUSTIFICATION: see the head of this file.
        *out = value(unsafe { from.add(lane * SIZE).cast::<[u8; SIZE]>().read() });
    }
    out
}

impl Lanes for Portable {
    type I = [i32; N];
    type F = [f32; N];
    const LANES: usize = N;

    #[inline(always)]
    unsafe fn int(value: i32) -> [i32; N] {
        [value; N]
    }
    #[inline(always)]
    unsafe fn float(value: f32) -> [f32; N] {
        [value; N]
    }
    #[inline(always)]
    unsafe fn load(from: *const u8) -> [i32; N] {
        // SAFETY: see the head of this file, which has the JUSTIFICATION too.
        unsafe { read(from, i32::from_le_bytes) }
    }
    #[inline(always)]
    unsafe fn keep(value: [i32; N], to: *mut u8) {
        // SAFETY: see the head of this file, which has the JUSTIFICATION too.
        unsafe { to.cast::<[i32; N]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> [i32; N] {
        // SAFETY: see the head of this file, which has the JUSTIFICATION too.
        unsafe { read(from, |[byte]: [u8; 1]| i32::from(byte)) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> [i32; N] {
        // SAFETY: see the head of this file, which has the JUSTIFICATION too.
        unsafe { read(from, |[byte]: [u8; 1]| i32::from(byte as i8)) }
    }
    #[inline(always)]
    unsafe fn load_u8_pairs(from: *const u8) -> [i32; N] {
        // SAFETY: see the head of this file, which has the JUSTIFICATION too.
        unsafe {
            read(from, |[low, high]: [u8; 2]| {
                i32::from(low) | i32::from(high) << 16
            })
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> [f32; N] {
        // SAFETY: see the head of this file, which has the JUSTIFICATION too.
        unsafe { read(from, |bytes| f16::from_le_bytes(bytes).to_f32()) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> [f32; N] {
        // SAFETY: see the head of this file, which has the JUSTIFICATION too.
        unsafe { read(from, |bytes| bf16::from_le_bytes(bytes).to_f32()) }
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> [f32; N] {
        // SAFETY: see the head of this file, which has the JUSTIFICATION too.
        unsafe { read(from, f32::from_le_bytes) }
    }
    #[inline(always)]
    unsafe fn store(value: [f32; N], to: *mut f32) {
        // SAFETY: see the head of this file, which has the JUSTIFICATION too.
        unsafe { to.cast::<[f32; N]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn and(a: [i32; N], mask: u8) -> [i32; N] {
        let mask = i32::from_le_bytes([mask; 4]);
        each(a, |a| a & mask)
    }
    #[inline(always)]
    unsafe fn or_and(mut a: [i32; N], b: [i32; N], mask: u8) -> [i32; N] {
        let mask = i32::from_le_bytes([mask; 4]);
        for (a, b) in a.iter_mut().zip(b) {
            *a |= b & mask;
        }
        a
    }
    #[inline(always)]
    unsafe fn left<const BITS: u32>(a: [i32; N]) -> [i32; N] {
        let kept = 0xffff_u32 << BITS & 0xffff;
        each(a, |a| ((a as u32) << BITS & (kept | kept << 16)) as i32)
    }
    #[inline(always)]
    unsafe fn right<const BITS: u32>(a: [i32; N]) -> [i32; N] {
        let kept = 0xffff_u32 >> BITS;
        each(a, |a| ((a as u32) >> BITS & (kept | kept << 16)) as i32)
    }
    #[inline(always)]
    unsafe fn dot(mut sum: [i32; N], weights: [i32; N], activations: i32) -> [i32; N] {
        for (sum, weights) in sum.iter_mut().zip(weights) {
            *sum = products(*sum, weights.to_le_bytes().map(i32::from), activations);
        }
        sum
    }
    #[inline(always)]
    unsafe fn dot_wide(sum: [i32; N], weights: [i32; N], activations: i32) -> [i32; N] {
        // SAFETY: needs nothing.
        // JUSTIFICATION: see the head of this file.
        unsafe { Self::dot(sum, weights, activations) }
    }
    #[inline(always)]
    unsafe fn dot_wide_start(start: i32) -> [i32; N] {
        [start; N]
    }
    #[inline(always)]
    unsafe fn dot_shares(mut sum: [i32; N], values: [i32; N], shares: i32) -> [i32; N] {
        for (sum, values) in sum.iter_mut().zip(values) {
            for (value, share) in values.to_le_bytes().into_iter().zip(shares.to_le_bytes()) {
                *sum = sum.wrapping_add(i32::from(value as i8) * i32::from(share));
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn dot_pairs(mut sum: [i32; N], weights: [i32; N], activations: i32) -> [i32; N] {
        let high = activations >> 16;
        let low = i32::from(activations as i16);
        for (sum, pair) in sum.iter_mut().zip(weights) {
            let products = i32::from(pair as i16) * low + (pair >> 16) * high;
            *sum = sum.wrapping_add(products);
        }
        sum
    }
    #[inline(always)]
    unsafe fn mul_add(a: [i32; N], b: [i32; N], mut sum: [i32; N]) -> [i32; N] {
        for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
            *sum = sum.wrapping_add(a.wrapping_mul(b));
        }
        sum
    }
    #[inline(always)]
    unsafe fn to_float(a: [i32; N]) -> [f32; N] {
        each(a, |a| a as f32)
    }
    #[inline(always)]
    unsafe fn mul(mut a: [f32; N], b: [f32; N]) -> [f32; N] {
        for (a, b) in a.iter_mut().zip(b) {
            *a *= b;
        }
        a
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; N], b: [f32; N], mut c: [f32; N]) -> [f32; N] {
        for ((c, a), b) in c.iter_mut().zip(a).zip(b) {
            *c = a.mul_add(b, *c);
        }
        c
    }
    #[inline(always)]
    unsafe fn fnma(a: [f32; N], b: [f32; N], mut c: [f32; N]) -> [f32; N] {
        for ((c, a), b) in c.iter_mut().zip(a).zip(b) {
            *c = (-a).mul_add(b, *c);
        }
        c
    }
    #[inline(always)]
    unsafe fn max(mut a: [f32; N], b: [f32; N]) -> [f32; N] {
        for (a, b) in a.iter_mut().zip(b) {
            *a = if *a > b { *a } else { b };
        }
        a
    }
    #[inline(always)]
    unsafe fn largest(a: [f32; N]) -> f32 {
        a.into_iter()
            .fold(f32::NEG_INFINITY, |max, a| if a > max { a } else { max })
    }
    #[inline(always)]
    unsafe fn store_u8(value: [f32; N], to: *mut u8) {
        // Adding 1.5 · 2²³ leaves the nearest integer in the low bits of the sum.
        let rounded = each(value, |value| (value + 12_582_912.0).to_bits() as u8);
        // SAFETY: see the head of this file, which has the JUSTIFICATION too.
        unsafe { to.cast::<[u8; N]>().write(rounded) }
    }
    #[inline(always)]
    unsafe fn power(shifted: [f32; N]) -> [f32; N] {
        each(shifted, |shifted| {
            let exponent = shifted.to_bits().wrapping_shl(23);
            f32::from_bits(exponent.wrapping_add(0x3f80_0000))
        })
    }
    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_later(_from: *const u8) {}
}
