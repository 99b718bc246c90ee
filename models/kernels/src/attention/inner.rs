//! The two inner loops of attention: scores of a page's tokens, and the weighted sum of its values.
//!
//! JUSTIFICATION of this file: [`Lanes`] is unsafe to call, and its loads take pointers. With them the loops run at eight
//! times the speed of the portable twin (NEON's is not known); lengths are checked once a page, before them.

#[cfg(target_arch = "aarch64")]
use crate::isa::neon::Neon;
use crate::isa::{Isa, Lanes, portable::Portable};
#[cfg(target_arch = "x86_64")]
use crate::isa::{avx2::Avx2, avx512::Avx512};
use crate::kv::{KvKind, KvShape, PAGE};

/// Calls a generic function for `R` queries at a time, as many as there are.
macro_rules! by_rows {
    ($count:expr, |$first:ident, $r:ident| $call:expr) => {
        let mut $first = 0;
        while $first < $count {
            match $count - $first {
                8.. => {
                    const $r: usize = 8;
                    $call;
                    $first += $r;
                }
                4.. => {
                    const $r: usize = 4;
                    $call;
                    $first += $r;
                }
                2.. => {
                    const $r: usize = 2;
                    $call;
                    $first += $r;
                }
                _ => {
                    const $r: usize = 1;
                    $call;
                    $first += $r;
                }
            }
        }
    };
}

/// What both loops work on. `table` is queries or weights, `target` scores or results; rows of it lie `stride` apart.
#[derive(Clone, Copy)]
struct Job {
    shape: KvShape,
    table: *const f32,
    table_stride: usize,
    page: *const u8,
    tokens: usize,
    scale: f32,
    target: *mut f32,
    target_stride: usize,
}

/// Scores of all queries against one page's keys. Rows of `scores` are `place.0` long; the page's tokens stand from
/// column `place.1` on.
pub(super) fn score(
    isa: Isa,
    shape: KvShape,
    queries: &[f32],
    keys: &[u8],
    scale: f32,
    scores: &mut [f32],
    place: (usize, usize),
) {
    let count = queries.len() / shape.head_width;
    assert!(keys.len() >= shape.half_bytes() && scores.len() >= count * place.0);
    assert!(
        place.1 + PAGE <= place.0,
        "the page's tokens lie inside a row"
    );
    let job = Job {
        shape,
        table: queries.as_ptr(),
        table_stride: shape.head_width,
        page: keys.as_ptr(),
        tokens: PAGE,
        scale,
        target: scores.as_mut_ptr().wrapping_add(place.1),
        target_stride: place.0,
    };
    // SAFETY: lengths were checked above; who has an `Isa` has a processor with the set.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => score_avx512(job, count),
            // Nothing here multiplies bytes: VNNI changes nothing.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512Narrow | Isa::AvxVnni => score_avx2(job, count),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => score_neon(job, count),
            _ => score_any::<Portable>(job, count),
        }
    }
}

/// Adds the weighted values of a page's first `tokens` tokens to `out`. Weights stand as scores do.
pub(super) fn weigh(
    isa: Isa,
    shape: KvShape,
    weights: &[f32],
    place: (usize, usize),
    values: &[u8],
    tokens: usize,
    out: &mut [f32],
) {
    let count = out.len() / shape.head_width;
    assert!(values.len() >= shape.half_bytes() && weights.len() >= count * place.0);
    assert!(
        tokens <= PAGE && place.1 + PAGE <= place.0,
        "the page's tokens lie inside a row"
    );
    let job = Job {
        shape,
        table: weights.as_ptr().wrapping_add(place.1),
        table_stride: place.0,
        page: values.as_ptr(),
        tokens,
        scale: 1.0,
        target: out.as_mut_ptr(),
        target_stride: shape.head_width,
    };
    // SAFETY: lengths were checked above; who has an `Isa` has a processor with the set.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => weigh_avx512(job, count),
            // Nothing here multiplies bytes: VNNI changes nothing.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512Narrow | Isa::AvxVnni => weigh_avx2(job, count),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => weigh_neon(job, count),
            _ => weigh_any::<Portable>(job, count),
        }
    }
}

/// # Safety
/// The job's pointers must have their lengths for `count` queries, and the processor the set.
#[inline(always)]
unsafe fn score_any<S: Lanes>(job: Job, count: usize) {
    // As many registers of tokens at once as leave room for the sums, so that enough of them are under way.
    // SAFETY: handed on.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        match job.shape.kind {
            KvKind::F16 => {
                by_rows!(count, |first, R| match S::LANES {
                    16 => score_rows::<S, R, 2, false>(job, first),
                    _ if R <= 4 => score_rows::<S, R, 2, false>(job, first),
                    _ => score_rows::<S, R, 1, false>(job, first),
                });
            }
            KvKind::Q8 => {
                by_rows!(count, |first, R| match S::LANES {
                    16 => score_rows::<S, R, 2, true>(job, first),
                    _ if R <= 4 => score_rows::<S, R, 2, true>(job, first),
                    _ => score_rows::<S, R, 1, true>(job, first),
                });
            }
        }
    }
}

/// # Safety
/// As [`score_any`].
#[inline(always)]
unsafe fn weigh_any<S: Lanes>(job: Job, count: usize) {
    let registers = job.shape.head_width / S::LANES;
    // SAFETY: handed on; a scale's columns are whole registers' worth, up to two of the widest.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        match job.shape.kind {
            KvKind::F16 => {
                by_rows!(count, |first, R| match S::LANES {
                    16 if R <= 4 && registers.is_multiple_of(4) =>
                        weigh_rows::<S, R, 4, false>(job, first),
                    16 if registers.is_multiple_of(2) => weigh_rows::<S, R, 2, false>(job, first),
                    8 if R <= 4 => weigh_rows::<S, R, 2, false>(job, first),
                    _ => weigh_rows::<S, R, 1, false>(job, first),
                });
            }
            KvKind::Q8 => {
                by_rows!(count, |first, R| match S::LANES {
                    16 if registers.is_multiple_of(2) => weigh_rows::<S, R, 2, true>(job, first),
                    8 if R <= 4 => weigh_rows::<S, R, 2, true>(job, first),
                    _ => weigh_rows::<S, R, 1, true>(job, first),
                });
            }
        }
    }
}

/// Compiles a loop for a set's features.
macro_rules! instance {
    ($arch:literal, $name:ident, $any:ident, $set:ty, $features:literal) => {
        #[cfg(target_arch = $arch)]
        #[target_feature(enable = $features)]
        unsafe fn $name(job: Job, count: usize) {
            // SAFETY: handed on.
            // JUSTIFICATION: see the head of this file.
            unsafe { $any::<$set>(job, count) }
        }
    };
}

instance!(
    "x86_64",
    score_avx512,
    score_any,
    Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
);
instance!(
    "x86_64",
    weigh_avx512,
    weigh_any,
    Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
);
instance!("x86_64", score_avx2, score_any, Avx2, "avx2,fma,f16c");
instance!("x86_64", weigh_avx2, weigh_any, Avx2, "avx2,fma,f16c");
instance!("aarch64", score_neon, score_any, Neon<false>, "neon");
instance!("aarch64", weigh_neon, weigh_any, Neon<false>, "neon");

/// `R` queries against a page: `U` registers of tokens at a time.
#[inline(always)]
unsafe fn score_rows<S: Lanes, const R: usize, const U: usize, const Q8: bool>(
    job: Job,
    first: usize,
) {
    // SAFETY: handed on; tokens are taken by whole registers, of which a page is a multiple.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let queries = job.table.add(first * job.table_stride);
        let scores = job.target.add(first * job.target_stride);
        let (scale, scaled) = (S::float(job.scale), job.shape.scaled());
        let scales = job.page.add(PAGE * job.shape.head_width);
        let mut token = 0;
        while token < PAGE {
            let mut sums = [[S::float(0.0); U]; R];
            let mut own = [S::float(1.0); U];
            for column in 0..job.shape.head_width {
                if Q8 && column % scaled == 0 {
                    let from = scales.add((column / scaled * PAGE + token) * 4);
                    for (at, own) in own.iter_mut().enumerate() {
                        *own = S::load_f32(from.add(at * S::LANES * 4));
                    }
                }
                let place = column * PAGE + token;
                let mut keys = [S::float(0.0); U];
                for (at, keys) in keys.iter_mut().enumerate() {
                    let place = place + at * S::LANES;
                    *keys = match Q8 {
                        true => S::mul(S::to_float(S::load_i8(job.page.add(place))), own[at]),
                        false => S::load_f16(job.page.add(2 * place)),
                    };
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let query = S::float(queries.add(row * job.table_stride + column).read());
                    for (sum, keys) in sums.iter_mut().zip(keys) {
                        *sum = S::fma(keys, query, *sum);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (at, sum) in sums.into_iter().enumerate() {
                    let to = scores.add(row * job.target_stride + token + at * S::LANES);
                    S::store(S::mul(sum, scale), to);
                }
            }
            token += U * S::LANES;
        }
    }
}

/// `R` queries' weighted values of a page, added to what is there: `U` registers of columns at a time.
#[inline(always)]
unsafe fn weigh_rows<S: Lanes, const R: usize, const U: usize, const Q8: bool>(
    job: Job,
    first: usize,
) {
    // SAFETY: handed on; columns are taken by `U` whole registers, of which the caller knows a head to be a multiple.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let weights = job.table.add(first * job.table_stride);
        let out = job.target.add(first * job.target_stride);
        let (width, scaled) = (job.shape.head_width, job.shape.scaled());
        let scales = job.page.add(PAGE * width).cast::<f32>();
        let mut column = 0;
        while column < width {
            let place =
                |row: usize, at: usize| out.add(row * job.target_stride + column + at * S::LANES);
            let mut sums = [[S::float(0.0); U]; R];
            for (row, sums) in sums.iter_mut().enumerate() {
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load_f32(place(row, at).cast());
                }
            }
            for token in 0..job.tokens {
                let from = token * width + column;
                let mut values = [S::float(0.0); U];
                for (at, values) in values.iter_mut().enumerate() {
                    let from = from + at * S::LANES;
                    *values = match Q8 {
                        true => {
                            let own = scales.add(from / scaled).read_unaligned();
                            S::mul(S::to_float(S::load_i8(job.page.add(from))), S::float(own))
                        }
                        false => S::load_f16(job.page.add(2 * from)),
                    };
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let weight = S::float(weights.add(row * job.table_stride + token).read());
                    for (sum, values) in sums.iter_mut().zip(values) {
                        *sum = S::fma(values, weight, *sum);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (at, sum) in sums.into_iter().enumerate() {
                    S::store(sum, place(row, at));
                }
            }
            column += U * S::LANES;
        }
    }
}
