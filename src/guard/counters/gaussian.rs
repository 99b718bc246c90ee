//! The discrete Gaussian, exactly: Algorithms 1 to 3 of Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential
//! Privacy" (NeurIPS 2020, arXiv 2004.00010). Whole numbers only: a sampler in floating point has gaps in its last bits by which
//! what was added can be told (Mironov 2012).

/// Random numbers ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no randomness")]
pub struct Exhausted;

/// Where random numbers come from: 64 uniform bits at a call.
pub type Bits<'a> = dyn FnMut() -> Result<u64, Exhausted> + 'a;

/// A number drawn from the discrete Gaussian around zero of which `variance`, at least 1, is the parameter.
///
/// # Errors
/// [`Exhausted`].
pub fn gaussian(variance: u32, bits: &mut Bits<'_>) -> Result<i64, Exhausted> {
    let variance = u128::from(variance.max(1));
    let scale = variance.isqrt() + 1;
    loop {
        let drawn = laplace(scale, bits)?;
        // Accepted with e^-((|drawn| - variance/scale)² / (2·variance)), as one fraction.
        let far = drawn
            .unsigned_abs()
            .saturating_mul(scale)
            .abs_diff(variance);
        let square = far.saturating_mul(far);
        let whole = (variance * scale * scale).saturating_mul(2);
        if happens_exp(square, whole, bits)? {
            // A scale is below 2^17, so that numbers beyond 64 bits have no chance of coming here.
            return Ok(i64::try_from(drawn).unwrap_or(0));
        }
    }
}

/// The discrete Laplace distribution of a whole scale (Algorithm 2, with s = 1).
fn laplace(scale: u128, bits: &mut Bits<'_>) -> Result<i128, Exhausted> {
    loop {
        let part = below(scale, bits)?;
        if !happens_exp(part, scale, bits)? {
            continue;
        }
        let mut whole = 0_u128;
        while happens_exp(1, 1, bits)? {
            whole = whole.saturating_add(1);
        }
        let size = part.saturating_add(scale.saturating_mul(whole));
        let size = i128::try_from(size).unwrap_or(i128::MAX);
        match below(2, bits)? == 1 {
            // Zero has one sign.
            true if size == 0 => {}
            true => return Ok(-size),
            false => return Ok(size),
        }
    }
}

/// True with probability e^-(number/of) (Algorithm 1).
fn happens_exp(number: u128, of: u128, bits: &mut Bits<'_>) -> Result<bool, Exhausted> {
    let whole = number / of;
    for _ in 0..whole {
        if !happens_exp_below_one(1, 1, bits)? {
            return Ok(false);
        }
    }
    happens_exp_below_one(number % of, of, bits)
}

/// The same for a number that is at most `of`.
fn happens_exp_below_one(number: u128, of: u128, bits: &mut Bits<'_>) -> Result<bool, Exhausted> {
    let mut turn = 1_u128;
    loop {
        // With probability number / (of · turn): twice, so that no product leaves 128 bits.
        let goes_on = below(of, bits)? < number && below(turn, bits)? == 0;
        if !goes_on {
            return Ok(turn % 2 == 1);
        }
        turn = turn.saturating_add(1);
    }
}

/// A uniform number below `bound`, at least 1.
fn below(bound: u128, bits: &mut Bits<'_>) -> Result<u128, Exhausted> {
    let spare = bound.saturating_sub(1).leading_zeros();
    loop {
        let drawn = match u128::BITS - spare {
            0 => return Ok(0),
            1..=64 => u128::from(bits()?) >> spare.saturating_sub(64),
            _ => ((u128::from(bits()?) << 64) | u128::from(bits()?)) >> spare,
        };
        if drawn < bound {
            return Ok(drawn);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Repeatable bits: SplitMix64.
    pub fn seeded(mut state: u64) -> impl FnMut() -> Result<u64, Exhausted> {
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            Ok(mixed ^ (mixed >> 31))
        }
    }

    /// The probabilities of -`reach` to `reach`.
    fn exact(variance: u32, reach: i64) -> Vec<f64> {
        let share = |x: i64| (-(x * x) as f64 / (2.0 * f64::from(variance))).exp();
        let all: f64 = (-2000..=2000).map(share).sum();
        (-reach..=reach).map(|x| share(x) / all).collect()
    }

    #[test]
    fn numbers_fall_as_the_discrete_gaussian_says() {
        const DRAWS: u32 = 60_000;
        for (variance, reach) in [(1, 3), (2, 4), (84, 25), (168, 35)] {
            let mut bits = seeded(5);
            let mut counts = vec![0_u32; usize::try_from(2 * reach + 1).unwrap()];
            for _ in 0..DRAWS {
                let drawn = gaussian(variance, &mut bits).unwrap();
                if let Ok(at) = usize::try_from(drawn + reach)
                    && let Some(count) = counts.get_mut(at)
                {
                    *count += 1;
                }
            }
            let exact = exact(variance, reach);
            let square = |(count, p): (&u32, &f64)| {
                let expected = p * f64::from(DRAWS);
                (f64::from(*count) - expected).powi(2) / expected
            };
            let chi: f64 = counts.iter().zip(&exact).map(square).sum();
            let freedom = (counts.len() - 1) as f64;
            let deviations = (chi - freedom) / (2.0 * freedom).sqrt();
            assert!(
                deviations.abs() < 4.0,
                "{variance}: {deviations} deviations"
            );
        }
    }

    #[test]
    fn chances_are_exact_fractions_of_e() {
        let mut bits = seeded(9);
        for (number, of) in [(0, 1), (1, 3), (1, 1), (5, 2)] {
            let hits = (0..40_000)
                .filter(|_| happens_exp(number, of, &mut bits).unwrap())
                .count();
            let p = (-(number as f64) / of as f64).exp();
            let off = (hits as f64 - 40_000.0 * p).abs();
            let deviation = (40_000.0 * p * (1.0 - p)).sqrt().max(0.01);
            assert!(off / deviation < 4.0, "{number}/{of}: {hits}");
        }
        let thirds = (0..30_000)
            .filter(|_| below(3, &mut bits).unwrap() == 2)
            .count();
        assert!((9_600..10_400).contains(&thirds), "{thirds}");
        let wide = 1_u128 << 100;
        assert!((0..100).all(|_| below(wide, &mut bits).unwrap() < wide));
    }

    #[test]
    fn where_there_is_no_randomness_there_is_no_number() {
        assert_eq!(gaussian(84, &mut || Err(Exhausted)), Err(Exhausted));
    }
}
