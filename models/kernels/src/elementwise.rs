//! What happens to rows between matrix products: norms, gates, rotation. Plain loops, compiled once for each
//! instruction set; sums are made in sixteen lanes, so that every set gives the same.

use crate::isa::Isa;

/// Lanes of every sum.
pub(crate) const LANES: usize = 16;
/// Numbers that are compared at once.
pub(crate) const BLOCK: usize = 64;

/// Compiles a function for each set and picks one at run time. A second one is for where there is no set to pick.
macro_rules! for_each_set {
    ($(#[$doc:meta])* $public:vis fn $name:ident($($args:tt)*) $(-> $out:ty)? = $body:path;) => {
        $crate::elementwise::for_each_set! {
            $(#[$doc])* $public fn $name($($args)*) $(-> $out)? = $body, $body;
        }
    };
    ($(#[$doc:meta])* $public:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? = $body:path, $plain:path;) => {
        $(#[$doc])*
        $public fn $name(isa: Isa, $($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $ty),*) $(-> $out)? {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
                fn avx512($($arg: $ty),*) $(-> $out)? {
                    $body($($arg),*)
                }
                match isa {
                    // SAFETY: only `Isa::detect` and `Isa::available` make this value, where the set is there.
                    // JUSTIFICATION: four to eight times the baseline's speed.
                    Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above, and the JUSTIFICATION too.
                    Isa::Avx2 | Isa::Avx512Narrow | Isa::AvxVnni => return unsafe { avx2($($arg),*) },
                    Isa::Portable | Isa::Neon | Isa::NeonDot => {}
                }
            }
            // NEON is what every AArch64 processor has, and what the compiler uses there anyway.
            let _ = isa;
            $plain($($arg),*)
        }
    };
}

pub(crate) use for_each_set;

for_each_set! {
    /// Root-mean-square normalisation of a row: `out = x / √(mean(x²) + epsilon) · weight`.
    pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) = norm_row;
}

for_each_set! {
    /// `x / √(mean(x²) + epsilon) · weight`, in place.
    pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], epsilon: f32) = norm_in_place;
}

for_each_set! {
    /// `out = gate / (1 + e^-gate) · up`.
    pub fn silu_product(gate: &[f32], up: &[f32], out: &mut [f32]) = silu_row;
}

for_each_set! {
    /// `out = gelu(gate) · up`, with the hyperbolic tangent's approximation of GELU.
    pub fn gelu_product(gate: &[f32], up: &[f32], out: &mut [f32]) = gelu_row;
}

for_each_set! {
    /// `x += y`.
    pub fn add(x: &mut [f32], y: &[f32]) = add_row;
}

for_each_set! {
    /// `x += factor · y`.
    pub fn add_scaled(x: &mut [f32], y: &[f32], factor: f32) = add_scaled_row;
}

for_each_set! {
    /// `x = cap · tanh(x / cap)`.
    pub fn soft_cap(x: &mut [f32], cap: f32) = cap_row;
}

for_each_set! {
    /// The largest value; below all numbers where nothing is one.
    pub fn largest_of(x: &[f32]) -> f32 = largest_value;
}

for_each_set! {
    /// The index of the largest value, of equals the first; none where nothing is a number.
    pub fn largest(x: &[f32]) -> Option<usize> = largest_index;
}

#[inline(always)]
fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(*x);
    }
    add_lanes(lanes)
}

#[inline(always)]
pub(crate) fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for at in 0..half {
            lanes[at] += lanes[at + half];
        }
    }
    lanes[0]
}

#[inline(always)]
fn norm_scale(x: &[f32], epsilon: f32) -> f32 {
    let mean = sum_of(x, |x| x * x) / x.len() as f32;
    1.0 / (mean + epsilon).sqrt()
}

#[inline(always)]
fn norm_row(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let scale = norm_scale(x, epsilon);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

#[inline(always)]
fn norm_in_place(x: &mut [f32], weight: &[f32], epsilon: f32) {
    let scale = norm_scale(x, epsilon);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

/// Adding it rounds to the nearest integer and leaves that in the low bits of the sum.
pub(crate) const MAGIC: f32 = 12_582_912.0;
/// ln 2 in two parts, so that the reduced argument is exact.
pub(crate) const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
/// Cephes' polynomial for `(e^r - 1 - r) / r²` on [-ln 2 / 2, ln 2 / 2], the highest power first.
pub(crate) const EXP: [f32; 6] = [
    1.987_569_1e-4,
    1.398_199_9e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    5.000_000_3e-1,
];

/// The exponential, to some 2 units in the last place; that of -87 below -87.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * LN_2.0 - n * LN_2.1;
    let [highest, lower @ ..] = EXP;
    let p = lower.iter().fold(highest, |p, factor| p * r + factor);
    let e = p * (r * r) + r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_shl(23).wrapping_add(0x3f80_0000));
    e * power
}

#[inline(always)]
fn silu_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

#[inline(always)]
fn gelu_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // √(2/π), of Hendrycks and Gimpel (arXiv:1606.08415).
    const ROOT: f32 = 0.797_884_6;
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        let inner = ROOT * gate * (1.0 + 0.044_715 * gate * gate);
        *out = 0.5 * gate * (1.0 + tanh(inner)) * up;
    }
}

#[inline(always)]
fn add_row(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[inline(always)]
fn add_scaled_row(x: &mut [f32], y: &[f32], factor: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += factor * y;
    }
}

#[inline(always)]
fn cap_row(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * tanh(*x / cap);
    }
}

#[inline(always)]
fn largest_value(x: &[f32]) -> f32 {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (max, x) in maxima.iter_mut().zip(chunk) {
            *max = if *x > *max { *x } else { *max };
        }
    }
    for (max, x) in maxima.iter_mut().zip(rest) {
        *max = if *x > *max { *x } else { *max };
    }
    maxima.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn largest_index(x: &[f32]) -> Option<usize> {
    let max = largest_value(x);
    let mut blocks = (0..).step_by(BLOCK).zip(x.chunks(BLOCK));
    blocks.find_map(|(first, block)| {
        let here = block.iter().fold(false, |any, x| any | (*x == max));
        let at = here.then(|| block.iter().position(|x| *x == max));
        Some(first + at.flatten()?)
    })
}

/// Turns pairs of columns of one head: `turns` are cosine and sine of each pair.
pub fn rotate(head: &mut [f32], turns: &[(f32, f32)], halves: bool) {
    let pairs = turns.len();
    if halves {
        let Some((first, rest)) = head.split_at_mut_checked(pairs) else {
            return;
        };
        for ((a, b), (cos, sin)) in first.iter_mut().zip(rest).zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    } else {
        for ([a, b], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_close() {
        for step in -8_600..8_700 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "{x}: {error}");
        }
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn sets_agree() {
        let x: Vec<f32> = (0..133).map(|at| (at as f32 * 0.77).sin() * 4.0).collect();
        let y: Vec<f32> = (0..133).map(|at| (at as f32 * 0.31).cos()).collect();
        let all = |isa| {
            let (mut a, mut b, mut c, mut d) = (x.clone(), x.clone(), x.clone(), x.clone());
            rms_norm(isa, &x, &y, 1e-5, &mut a);
            silu_product(isa, &x, &y, &mut b);
            gelu_product(isa, &x, &y, &mut c);
            soft_cap(isa, &mut d, 3.0);
            [a, b, c, d].concat()
        };
        let twin = all(Isa::Portable);
        for isa in Isa::available() {
            for (a, b) in all(isa).iter().zip(&twin) {
                assert!((a - b).abs() < 1e-6 * b.abs().max(1.0), "{isa:?}: {a} {b}");
            }
        }
        let silu = |x: f32, y: f32| x / (1.0 + (-x).exp()) * y;
        assert!((twin[133] - silu(x[0], y[0])).abs() < 1e-6);
    }

    #[test]
    fn the_first_of_the_largest_is_found() {
        let mut x = vec![-1.0; 100];
        (x[41], x[70]) = (3.0, 3.0);
        assert_eq!(largest(Isa::detect(), &x), Some(41));
        assert_eq!(largest(Isa::detect(), &[f32::NAN; 40]), None);
    }
}
