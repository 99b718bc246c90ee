//! How unlikely a score is without a mark: the upper tail of a Gamma distribution of whole shape, exact.

/// Natural logarithm of the probability that `count` independent exponential numbers of mean 1 add up to `sum` or more: the sum
/// of the first `count` terms of a Poisson distribution of mean `sum`. Exact to rounding, for all counts that fit in memory.
#[must_use]
pub fn ln_tail(count: usize, sum: f64) -> f64 {
    if count == 0 || sum.is_nan() || sum <= 0.0 {
        return 0.0;
    }
    let ln_sum = sum.ln();
    // Terms relative to the largest, which is the one at the mean or the last one.
    let mut term = -sum;
    let mut terms = Vec::with_capacity(count);
    for at in 0..count {
        if at > 0 {
            term += ln_sum - (at as f64).ln();
        }
        terms.push(term);
    }
    let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = terms.iter().map(|term| (term - largest).exp()).sum();
    (largest + total.ln()).min(0.0)
}

/// How likely numbers that are uniform from 0 to 1 lie as unevenly as these (Kolmogorov and Smirnov, with Stephens' correction
/// for small counts).
#[must_use]
pub fn uniform_p(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let places = sorted.iter().enumerate();
    let distance = places
        .map(|(at, number)| (number - at as f64 / count).max((at + 1) as f64 / count - number))
        .fold(0.0, f64::max);
    let root = count.sqrt();
    let scaled = distance * (root + 0.12 + 0.11 / root.max(1.0));
    // Below this the series does not converge, and its sum is 1.
    if scaled < 0.3 {
        return 1.0;
    }
    let term = |at: i32| {
        let sign = if at % 2 == 1 { 1.0 } else { -1.0 };
        sign * (-2.0 * f64::from(at * at) * scaled * scaled).exp()
    };
    (2.0 * (1..100).map(term).sum::<f64>()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_regularised_gamma_function() {
        // Q(n, x), computed with another program to twelve digits.
        for (count, sum, expected) in [
            (1, 1.0, 0.367_879_441_171_f64),
            (2, 1.0, 0.735_758_882_343),
            (5, 10.0, 0.029_252_688_077),
            (10, 5.0, 0.968_171_942_694),
        ] {
            let found = ln_tail(count, sum).exp();
            assert!((found - expected).abs() < 1e-11, "{count} {sum}: {found}");
        }
        // exp(-700) and less does not vanish.
        assert!((ln_tail(1, 1000.0) + 1000.0).abs() < 1e-9);
        assert_eq!(ln_tail(0, 3.0), 0.0);
        assert_eq!(ln_tail(3, f64::NAN), 0.0);
    }

    #[test]
    fn even_numbers_are_likely_and_uneven_ones_are_not() {
        let even: Vec<f64> = (0..200).map(|at| (f64::from(at) + 0.5) / 200.0).collect();
        assert!(uniform_p(&even) > 0.999);
        let low: Vec<f64> = even.iter().map(|number| number * number).collect();
        assert!(uniform_p(&low) < 1e-9);
        // Known point of the distribution: a scaled distance of 1.358 is passed by one in twenty.
        let count = 10_000.0_f64;
        let shift = 1.358 / count.sqrt();
        let shifted: Vec<f64> = (0..10_000)
            .map(|at| ((f64::from(at) + 0.5) / count * (1.0 - shift)).min(1.0))
            .collect();
        assert!(
            (uniform_p(&shifted) - 0.05).abs() < 0.005,
            "{}",
            uniform_p(&shifted)
        );
        assert_eq!(uniform_p(&[]), 1.0);
    }

    #[test]
    fn it_falls_with_the_sum_and_meets_the_normal_limit() {
        let mut before = 0.0;
        for sum in (1..200).map(|sum| f64::from(sum) * 20.0) {
            let tail = ln_tail(1000, sum);
            // Near 1 only rounding is left.
            assert!(tail <= before + 1e-9, "{sum}: {tail} after {before}");
            before = tail;
        }
        // One deviation above the mean of 100,000: near 0.1587.
        let count = 100_000;
        let sum = count as f64 + (count as f64).sqrt();
        assert!((ln_tail(count, sum).exp() - 0.1587).abs() < 0.001);
    }
}
