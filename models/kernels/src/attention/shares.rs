//! From a page's scores to its shares: exponentials, and with eight bits their products with the scales of values.
//!
//! JUSTIFICATION of this file: as of [`super::inner`], into whose loops these are inlined. Of plain loops over the same arrays
//! the compiler made gathers of single numbers: all of attention took 27.7 ms then, and 21.6 with this.

use super::table::{SHARE, Shares, steps};
use crate::elementwise::{EXP, LANES, LN_2, MAGIC};
use crate::isa::Lanes;
use crate::kv::PAGE;

/// A page's scores as exponentials, zero where nothing is to be seen, and their sums.
///
/// # Safety
/// The processor must have the set.
#[inline(always)]
pub(super) unsafe fn exponentials<S: Lanes>(
    shares: &mut Shares,
    scores: &[f32],
    place: (usize, usize),
) {
    // Sums are made in sixteen lanes whatever the set is.
    const MOST: usize = LANES / 8;
    let (stride, column) = place;
    let (registers, of_sums) = (PAGE / S::LANES, LANES / S::LANES);
    for ((sight, out), row) in shares.rows().zip(scores.chunks_exact(stride)) {
        let Some(scores) = row.get(column..).and_then(|row| row.first_chunk::<PAGE>()) else {
            return;
        };
        let (start, end) = sight.of_page(column);
        // SAFETY: scores and exponentials are a page's tokens, which are whole registers' worth; sums are `LANES` numbers.
        // JUSTIFICATION: see the head of this file.
        unsafe {
            let largest = S::float(sight.largest);
            let mut all = [S::float(0.0); PAGE / 8];
            for (at, x) in all[..registers].iter_mut().enumerate() {
                let score = S::load_f32(scores.as_ptr().add(at * S::LANES).cast());
                *x = exp::<S>(S::fnma(largest, S::float(1.0), score));
                S::store(*x, out.as_mut_ptr().add(at * S::LANES));
            }
            if start > 0 || end < PAGE {
                out[..start].fill(0.0);
                out[end..].fill(0.0);
                for (at, x) in all[..registers].iter_mut().enumerate() {
                    *x = S::load_f32(out.as_ptr().add(at * S::LANES).cast());
                }
            }
            let to = sight.sums.as_mut_ptr();
            let mut sums = [S::float(0.0); MOST];
            for (at, sum) in sums[..of_sums].iter_mut().enumerate() {
                *sum = S::load_f32(to.add(at * S::LANES).cast());
            }
            for (at, x) in all[..registers].iter().enumerate() {
                sums[at % of_sums] = S::fma(*x, S::float(1.0), sums[at % of_sums]);
            }
            for (at, sum) in sums[..of_sums].iter().enumerate() {
                S::store(*sum, to.add(at * S::LANES));
            }
        }
    }
}

/// The exponential of what is not above zero, to some 2 units in the last place: `elementwise::exp` with fused sums.
#[inline(always)]
unsafe fn exp<S: Lanes>(x: S::F) -> S::F {
    // SAFETY: no memory is touched.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let one = S::float(1.0);
        // The second of both where one is no number.
        let x = S::max(S::float(-87.0), x);
        let shifted = S::fma(x, S::float(std::f32::consts::LOG2_E), S::float(MAGIC));
        let n = S::fnma(S::float(MAGIC), one, shifted);
        let r = S::fnma(n, S::float(LN_2.0), x);
        let r = S::fnma(n, S::float(LN_2.1), r);
        let mut p = S::float(EXP[0]);
        for factor in &EXP[1..] {
            p = S::fma(p, r, S::float(*factor));
        }
        let p = S::fma(p, r, one);
        S::mul(S::fma(p, r, one), S::power(shifted))
    }
}

/// Shares multiplied with the scales of their values, as integers.
///
/// # Safety
/// `page` must hold a page's values of the shares' shape, and the processor must have the set.
#[inline(always)]
pub(super) unsafe fn round_shares<S: Lanes>(shares: &mut Shares, page: *const u8) {
    // Registers of the narrowest set that a page's tokens fill.
    const MOST: usize = PAGE / 8;
    let registers = PAGE / S::LANES;
    let (shape, count) = (shares.shape(), shares.count());
    let (exact, rounded, factors) = shares.parts();
    // SAFETY: exponentials are a page's for each query; products and factors are there for each scale of a value and each
    // query; scales follow the page's numbers.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        for group in 0..shape.head_width / shape.value_scaled() {
            let place = PAGE * (shape.head_width + 2 * group);
            let mut scales = [S::float(0.0); MOST];
            for (at, scales) in scales[..registers].iter_mut().enumerate() {
                *scales = S::load_f16(page.add(place + 2 * at * S::LANES));
            }
            for query in 0..count {
                let from = exact.add(query * PAGE);
                let mut both = [S::float(0.0); MOST];
                let mut most = S::float(0.0);
                for at in 0..registers {
                    let share = S::load_f32(from.add(at * S::LANES).cast());
                    both[at] = S::mul(share, scales[at]);
                    most = S::max(both[at], most);
                }
                let (inverse, factor) = steps(S::largest(most), SHARE);
                let index = group * count + query;
                let to = rounded.add(index * PAGE);
                for (at, both) in both[..registers].iter().enumerate() {
                    S::store_u8(S::mul(*both, S::float(inverse)), to.add(at * S::LANES));
                }
                factors.add(index).write(factor);
            }
        }
    }
}
