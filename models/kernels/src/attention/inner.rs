//! The two inner loops of attention: scores of a page's tokens, and the weighted sum of its values.
//!
//! F16 is widened and multiplied as `f32`. Eight-bit keys and values are multiplied as integers, four
//! at a time: queries in two parts of eight bits, weights in one ([`super::table`]).
//!
//! JUSTIFICATION of this file: [`Lanes`] is unsafe to call, and its loads take pointers. With them the loops run at eight
//! times the speed of the portable twin (NEON's is not known); lengths are checked once a page, before them.

use super::shares::{exponentials, round_shares};
use super::table::{HIGH, Queries, Shares};
#[cfg(target_arch = "aarch64")]
use crate::isa::neon::Neon;
use crate::isa::{Isa, Lanes, portable::Portable};
#[cfg(target_arch = "x86_64")]
use crate::isa::{
    avx2::{Avx2, Avx512Narrow, AvxVnni},
    avx512::Avx512,
};
use crate::kv::{KvKind, KvShape, PAGE};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Fours of a page's tokens.
const FOURS: usize = PAGE / 4;

/// Calls a generic function for `R` queries at a time, as [`super::table::blocks`] cuts them.
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

/// What both loops work on. `words` and `factors` are those of queries or of shares, `starts` of queries alone, `target`
/// scores or results; rows of it lie `stride` apart. Of what comes next `len` bytes are worth asking for.
#[derive(Clone, Copy)]
struct Job {
    shape: KvShape,
    count: usize,
    words: *const u32,
    factors: *const f32,
    starts: *const i32,
    page: *const u8,
    next: *const u8,
    len: usize,
    tokens: usize,
    scale: f32,
    target: *mut f32,
    stride: usize,
}

/// A page's keys, or its values, and those that will be asked for next.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    pub(super) now: &'a [u8],
    pub(super) next: &'a [u8],
}

/// Scores of all queries against one page's keys. Rows of `scores` are `place.0` long; the page's tokens stand from
/// column `place.1` on.
pub(super) fn score(
    isa: Isa,
    queries: &Queries,
    keys: Halves<'_>,
    scores: &mut [f32],
    place: (usize, usize),
) {
    let (shape, count) = (queries.shape(), queries.count());
    let (words, factors) = (queries.words(), queries.factors());
    assert!(keys.now.len() >= shape.key_bytes());
    assert!(scores.len() >= count * place.0, "a row for each query");
    assert!(
        place.1 + PAGE <= place.0,
        "the page's tokens lie inside a row"
    );
    let job = Job {
        shape,
        count,
        words: words.as_ptr(),
        factors: factors.as_ptr(),
        starts: queries.starts().as_ptr(),
        page: keys.now.as_ptr(),
        next: keys.next.as_ptr(),
        len: keys.next.len(),
        tokens: PAGE,
        scale: queries.scale(),
        target: scores.as_mut_ptr().wrapping_add(place.1),
        stride: place.0,
    };
    // SAFETY: lengths were checked above, those of `words`, `factors` and `starts` are `Queries`' invariant; who has an `Isa` has a
    // processor with the set.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => score_avx512(job),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => score_avx_vnni(job),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Narrow => score_avx512_narrow(job),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => score_avx2(job),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => score_neon(job),
            _ => score_any::<Portable>(job),
        }
    }
}

/// Adds the weighted values of a page's first `tokens` tokens to `out`: a head's columns for each query. Its scores stand
/// as [`score`] left them, and become `shares` first.
pub(super) fn weigh(
    isa: Isa,
    shares: &mut Shares,
    scores: &[f32],
    place: (usize, usize),
    values: Halves<'_>,
    tokens: usize,
    out: &mut [f32],
) {
    let (shape, count) = (shares.shape(), shares.count());
    assert!(scores.len() >= count * place.0, "a row for each query");
    assert!(
        place.1 + PAGE <= place.0,
        "the page's tokens lie inside a row"
    );
    assert!(values.now.len() >= shape.value_bytes());
    assert!(
        tokens <= PAGE && out.len() >= count * shape.head_width,
        "a page's tokens, and a row for each query"
    );
    let job = Job {
        shape,
        count,
        words: shares.words(),
        factors: shares.factors(),
        starts: std::ptr::null(),
        page: values.now.as_ptr(),
        next: values.next.as_ptr(),
        len: values.next.len(),
        tokens,
        scale: 1.0,
        target: out.as_mut_ptr(),
        stride: shape.head_width,
    };
    // SAFETY: lengths were checked above, those of `words` and `factors` are `Shares`' invariant; who has an `Isa` has a
    // processor with the set.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => weigh_avx512(job, shares, scores, place),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => weigh_avx_vnni(job, shares, scores, place),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Narrow => weigh_avx512_narrow(job, shares, scores, place),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => weigh_avx2(job, shares, scores, place),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => weigh_neon(job, shares, scores, place),
            _ => weigh_any::<Portable>(job, shares, scores, place),
        }
    }
}

/// Asks for what will be read later, line by line, since the processor's own prefetcher does not run far enough. A burst
/// of requests would hold up what is computed, so that each turn of a loop makes some.
struct Asking {
    next: *const u8,
    at: usize,
    len: usize,
    each: usize,
}

impl Asking {
    /// For the first queries alone, whose loops take `turns` turns: for the others all was asked for already.
    #[inline(always)]
    fn new(job: &Job, first: usize, turns: usize) -> Self {
        let len = if first == 0 { job.len } else { 0 };
        Self {
            next: job.next,
            at: 0,
            len,
            each: len.div_ceil(turns * LINE),
        }
    }

    /// A turn.
    #[inline(always)]
    unsafe fn turn<S: Lanes>(&mut self) {
        for _ in 0..self.each {
            // SAFETY: a prefetch may name any address.
            // JUSTIFICATION: see the head of this file.
            unsafe { S::prefetch_later(self.next.wrapping_add(self.at.min(self.len))) }
            self.at = self.at.wrapping_add(LINE);
        }
    }
}

/// # Safety
/// The job's pointers must have their lengths for its queries, and the processor the set.
#[inline(always)]
unsafe fn score_any<S: Lanes>(job: Job) {
    // As many registers of tokens at once as leave room for the sums, so that enough of them are under way.
    // SAFETY: handed on.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        match job.shape.kind {
            KvKind::F16 => {
                by_rows!(job.count, |first, R| match S::LANES {
                    16 => score_halves::<S, R, 2>(&job, first),
                    _ if R <= 4 => score_halves::<S, R, 2>(&job, first),
                    _ => score_halves::<S, R, 1>(&job, first),
                });
            }
            KvKind::Q8 => {
                by_rows!(job.count, |first, R| match S::LANES {
                    16 => score_bytes::<S, R, 2>(&job, first),
                    _ if R <= 4 => score_bytes::<S, R, 2>(&job, first),
                    _ => score_bytes::<S, R, 1>(&job, first),
                });
            }
        }
    }
}

/// # Safety
/// As [`score_any`].
#[inline(always)]
unsafe fn weigh_any<S: Lanes>(
    job: Job,
    shares: &mut Shares,
    scores: &[f32],
    place: (usize, usize),
) {
    let registers = job.shape.head_width / S::LANES;
    // SAFETY: handed on; a head is a multiple of the registers that are named, and so are the columns of a scale.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        exponentials::<S>(shares, scores, place);
        match job.shape.kind {
            KvKind::F16 => {
                by_rows!(job.count, |first, R| match S::LANES {
                    16 if R <= 4 && registers.is_multiple_of(4) =>
                        weigh_halves::<S, R, 4>(&job, first),
                    16 if registers.is_multiple_of(2) => weigh_halves::<S, R, 2>(&job, first),
                    8 if R <= 4 => weigh_halves::<S, R, 2>(&job, first),
                    _ => weigh_halves::<S, R, 1>(&job, first),
                });
            }
            KvKind::Q8 => {
                round_shares::<S>(shares, job.page);
                let registers = job.shape.value_scaled() / S::LANES;
                by_rows!(job.count, |first, R| match S::LANES {
                    16 if R <= 4 && registers.is_multiple_of(4) =>
                        weigh_bytes::<S, R, 4>(&job, first),
                    16 if registers.is_multiple_of(2) => weigh_bytes::<S, R, 2>(&job, first),
                    8 if R <= 4 => weigh_bytes::<S, R, 2>(&job, first),
                    _ => weigh_bytes::<S, R, 1>(&job, first),
                });
            }
        }
    }
}

/// Compiles both loops for a set's features.
macro_rules! instance {
    ($arch:literal, $score:ident, $weigh:ident, $set:ty, $features:literal) => {
        #[cfg(target_arch = $arch)]
        #[target_feature(enable = $features)]
        unsafe fn $score(job: Job) {
            // SAFETY: handed on.
            // JUSTIFICATION: see the head of this file.
            unsafe { score_any::<$set>(job) }
        }

        #[cfg(target_arch = $arch)]
        #[target_feature(enable = $features)]
        unsafe fn $weigh(job: Job, shares: &mut Shares, scores: &[f32], place: (usize, usize)) {
            // SAFETY: handed on.
            // JUSTIFICATION: see the head of this file.
            unsafe { weigh_any::<$set>(job, shares, scores, place) }
        }
    };
}

instance!(
    "x86_64",
    score_avx512,
    weigh_avx512,
    Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
);
instance!(
    "x86_64",
    score_avx512_narrow,
    weigh_avx512_narrow,
    Avx512Narrow,
    "avx2,fma,f16c,avx512f,avx512vl,avx512vnni"
);
instance!(
    "x86_64",
    score_avx_vnni,
    weigh_avx_vnni,
    AvxVnni,
    "avx2,fma,f16c,avxvnni"
);
instance!("x86_64", score_avx2, weigh_avx2, Avx2, "avx2,fma,f16c");
instance!("aarch64", score_neon, weigh_neon, Neon<false>, "neon");

/// `R` queries against a page of halves: `U` registers of tokens at a time.
#[inline(always)]
unsafe fn score_halves<S: Lanes, const R: usize, const U: usize>(job: &Job, first: usize) {
    // SAFETY: handed on; tokens are taken by whole registers, of which a page is a multiple.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let width = job.shape.head_width;
        let queries = job.words.add(first * width);
        let scores = job.target.add(first * job.stride);
        let scale = S::float(job.scale);
        let mut asking = Asking::new(job, first, PAGE / (U * S::LANES) * width);
        for part in 0..PAGE / (U * S::LANES) {
            let token = part * U * S::LANES;
            let mut sums = [[S::float(0.0); U]; R];
            let (mut from, mut words) = (job.page.add(2 * token), queries);
            for _ in 0..width {
                asking.turn::<S>();
                let mut keys = [S::float(0.0); U];
                for (at, keys) in keys.iter_mut().enumerate() {
                    *keys = S::load_f16(from.add(2 * at * S::LANES));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let query = S::float(f32::from_bits(words.add(row).read()));
                    for (sum, keys) in sums.iter_mut().zip(keys) {
                        *sum = S::fma(keys, query, *sum);
                    }
                }
                (from, words) = (from.wrapping_add(2 * PAGE), words.wrapping_add(R));
            }
            for (row, sums) in sums.into_iter().enumerate() {
                let to = scores.add(row * job.stride + token);
                for (at, sum) in sums.into_iter().enumerate() {
                    S::store(S::mul(sum, scale), to.add(at * S::LANES));
                }
            }
        }
    }
}

/// The same of a page of bytes. Sums over the columns of a scale are exact integers.
#[inline(always)]
unsafe fn score_bytes<S: Lanes, const R: usize, const U: usize>(job: &Job, first: usize) {
    // SAFETY: as above; a scale's columns are whole fours.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let (width, scaled) = (job.shape.head_width, job.shape.scaled());
        let queries = job.words.add(first * (width / 2));
        let of_groups = first * (width / scaled);
        let (factors, starts) = (job.factors.add(of_groups), job.starts.add(2 * of_groups));
        let high = S::int(HIGH.into());
        let scores = job.target.add(first * job.stride);
        let mut asking = Asking::new(job, first, PAGE / (U * S::LANES) * (width / 4));
        for part in 0..PAGE / (U * S::LANES) {
            let token = part * U * S::LANES;
            let mut sums = [[S::float(0.0); U]; R];
            let (mut from, mut words) = (job.page.add(4 * token), queries);
            let mut scales = job.page.add(PAGE * width + 2 * token);
            for group in 0..width / scaled {
                // Of high parts and of low ones.
                let mut dots = [[[S::int(0); U]; R]; 2];
                for (part, dots) in dots.iter_mut().enumerate() {
                    for (row, dots) in dots.iter_mut().enumerate() {
                        let start = starts.add(2 * (group * R + row) + part).read();
                        *dots = [S::dot_wide_start(start); U];
                    }
                }
                for _ in 0..scaled / 4 {
                    asking.turn::<S>();
                    let mut keys = [S::int(0); U];
                    for (at, keys) in keys.iter_mut().enumerate() {
                        *keys = S::load(from.add(4 * at * S::LANES));
                    }
                    for (part, dots) in dots.iter_mut().enumerate() {
                        for (row, dots) in dots.iter_mut().enumerate() {
                            let query = words.add(part * R + row).read() as i32;
                            for (dot, keys) in dots.iter_mut().zip(keys) {
                                *dot = S::dot_wide(*dot, keys, query);
                            }
                        }
                    }
                    (from, words) = (from.wrapping_add(4 * PAGE), words.wrapping_add(2 * R));
                }
                for at in 0..U {
                    let own = S::load_f16(scales.add(2 * at * S::LANES));
                    for row in 0..R {
                        let both = S::mul(own, S::float(factors.add(group * R + row).read()));
                        let dot = S::mul_add(dots[0][row][at], high, dots[1][row][at]);
                        sums[row][at] = S::fma(S::to_float(dot), both, sums[row][at]);
                    }
                }
                scales = scales.wrapping_add(2 * PAGE);
            }
            for (row, sums) in sums.into_iter().enumerate() {
                let to = scores.add(row * job.stride + token);
                for (at, sum) in sums.into_iter().enumerate() {
                    S::store(sum, to.add(at * S::LANES));
                }
            }
        }
    }
}

/// `R` queries' weighted values of a page of halves, added to what is there: `U` registers of columns at a time.
#[inline(always)]
unsafe fn weigh_halves<S: Lanes, const R: usize, const U: usize>(job: &Job, first: usize) {
    // SAFETY: handed on; columns are taken by `U` whole registers, of which the caller knows a head to be a multiple.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let width = job.shape.head_width;
        let shares = job.words.add(first * PAGE);
        let out = job.target.add(first * job.stride);
        let mut asking = Asking::new(job, first, width / (U * S::LANES) * job.tokens);
        for part in 0..width / (U * S::LANES) {
            let column = part * U * S::LANES;
            let mut sums = [[S::float(0.0); U]; R];
            for (row, sums) in sums.iter_mut().enumerate() {
                let place = out.add(row * job.stride + column);
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load_f32(place.add(at * S::LANES).cast());
                }
            }
            let (mut from, mut words) = (job.page.add(2 * column), shares);
            for _ in 0..job.tokens {
                asking.turn::<S>();
                let mut values = [S::float(0.0); U];
                for (at, values) in values.iter_mut().enumerate() {
                    *values = S::load_f16(from.add(2 * at * S::LANES));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let share = S::float(f32::from_bits(words.add(row * PAGE).read()));
                    for (sum, values) in sums.iter_mut().zip(values) {
                        *sum = S::fma(values, share, *sum);
                    }
                }
                (from, words) = (from.wrapping_add(2 * width), words.wrapping_add(1));
            }
            for (row, sums) in sums.into_iter().enumerate() {
                let place = out.add(row * job.stride + column);
                for (at, sum) in sums.into_iter().enumerate() {
                    S::store(sum, place.add(at * S::LANES));
                }
            }
        }
    }
}

/// The same of a page of bytes. A page's sums are exact integers; shares of what is not to be seen are zero.
#[inline(always)]
unsafe fn weigh_bytes<S: Lanes, const R: usize, const U: usize>(job: &Job, first: usize) {
    // SAFETY: as above; a scale's columns are a multiple of `U` whole registers.
    // JUSTIFICATION: see the head of this file.
    unsafe {
        let (width, scaled) = (job.shape.head_width, job.shape.value_scaled());
        let out = job.target.add(first * job.stride);
        // Known only when it runs: of a loop that is unrolled as a whole, the compiler spills half the numbers.
        let fours = job.tokens.div_ceil(4);
        let mut asking = Asking::new(job, first, width / (U * S::LANES) * fours.max(1));
        for part in 0..width / (U * S::LANES) {
            let column = part * U * S::LANES;
            let group = column / scaled * job.count + first;
            let mut dots = [[S::int(0); U]; R];
            let mut from = job.page.add(4 * column);
            let mut words = job.words.add(group * FOURS);
            for _ in 0..fours {
                asking.turn::<S>();
                let mut values = [S::int(0); U];
                for (at, values) in values.iter_mut().enumerate() {
                    *values = S::load(from.add(4 * at * S::LANES));
                }
                for (row, dots) in dots.iter_mut().enumerate() {
                    let share = words.add(row * FOURS).read_unaligned() as i32;
                    for (dot, values) in dots.iter_mut().zip(values) {
                        *dot = S::dot_shares(*dot, values, share);
                    }
                }
                (from, words) = (from.wrapping_add(4 * width), words.wrapping_add(1));
            }
            for (row, dots) in dots.into_iter().enumerate() {
                let factor = S::float(job.factors.add(group + row).read());
                let place = out.add(row * job.stride + column);
                for (at, dot) in dots.into_iter().enumerate() {
                    let place = place.add(at * S::LANES);
                    let before = S::load_f32(place.cast());
                    S::store(S::fma(S::to_float(dot), factor, before), place);
                }
            }
        }
    }
}
