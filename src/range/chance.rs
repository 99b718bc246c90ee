//! Whether what was seen could be chance: exact for counts, asymptotic for times.

/// One-sided p-value of Fisher's exact test: that `hits` of `of` is not more often than `other_hits` of `other_of`.
pub(super) fn fisher(hits: usize, of: usize, other_hits: usize, other_of: usize) -> f64 {
    let (all, all_hits) = (of + other_of, hits + other_hits);
    let logs = log_factorials(all);
    let log = |n: usize| logs.get(n).copied().unwrap_or_default();
    let choose = |n: usize, k: usize| log(n) - log(k) - log(n.saturating_sub(k));
    let possible = (hits..=of.min(all_hits)).filter(|k| all_hits - k <= other_of);
    let point = |k: usize| choose(of, k) + choose(other_of, all_hits - k) - choose(all, all_hits);
    possible.map(|k| point(k).exp()).sum::<f64>().min(1.0)
}

fn log_factorials(max: usize) -> Vec<f64> {
    let logs = (1..=max).scan(0.0, |sum, n| {
        *sum += (n as f64).ln();
        Some(*sum)
    });
    std::iter::once(0.0).chain(logs).collect()
}

/// Two-sample test of Kolmogorov and Smirnov, as Gu et al. (2025, arXiv 2502.07776) use it: the p-value of "both are alike".
/// Fewer than eight on a side say nothing: 1.
pub(super) fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> f64 {
    if a.len().min(b.len()) < 8 {
        return 1.0;
    }
    let (a, b) = (sorted(a), sorted(b));
    let part = |of: &[f64], value: f64| {
        of.partition_point(|other| *other <= value) as f64 / of.len() as f64
    };
    let apart = |value: &f64| (part(&a, *value) - part(&b, *value)).abs();
    let distance = a.iter().chain(&b).map(apart).fold(0.0, f64::max);
    let (n, m) = (a.len() as f64, b.len() as f64);
    let size = (n * m / (n + m)).sqrt();
    let lambda = (size + 0.12 + 0.11 / size) * distance;
    if lambda < 0.3 {
        return 1.0;
    }
    let term = |k: i32| {
        let sign = if k % 2 == 0 { -1.0 } else { 1.0 };
        2.0 * sign * (-2.0 * f64::from(k * k) * lambda * lambda).exp()
    };
    (1..=50).map(term).sum::<f64>().clamp(0.0, 1.0)
}

/// The middle value; 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let values = sorted(values);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fishers_test_has_the_values_of_its_tables() {
        // Fisher's tea: 3 of 4 against 1 of 4 is 0.243, 4 of 4 against 0 of 4 is 1/70.
        assert!((fisher(3, 4, 1, 4) - 0.242_857).abs() < 1e-5);
        assert!((fisher(4, 4, 0, 4) - 1.0 / 70.0).abs() < 1e-12);
        assert!((fisher(0, 10, 5, 10) - 1.0).abs() < 1e-9);
        assert!(fisher(60, 60, 2, 60) < 1e-20);
    }

    #[test]
    fn times_that_differ_are_told_apart_and_others_are_not() {
        let same: Vec<f64> = (0..60).map(f64::from).collect();
        let other: Vec<f64> = (0..60).map(|n| f64::from(n) + 0.5).collect();
        let late: Vec<f64> = (0..60).map(|n| f64::from(n) + 45.0).collect();
        assert!(kolmogorov_smirnov(&same, &other) > 0.99);
        assert!(kolmogorov_smirnov(&same, &late) < 1e-10);
        // D = 0.3 with 50 and 50: scipy's asymptotic value with this correction is 0.018.
        let a: Vec<f64> = (0..50).map(f64::from).collect();
        let b: Vec<f64> = (15..65).map(f64::from).collect();
        let p = kolmogorov_smirnov(&a, &b);
        assert!((0.014..0.022).contains(&p), "{p}");
        assert!((kolmogorov_smirnov(&a[..4], &b) - 1.0).abs() < 1e-12);
    }
}
