//! Singular values, and where they fall: logits of many contexts lie in a space of as many dimensions as the model is wide
//! (Carlini et al. 2024, arXiv 2403.06634), so that the values of chosen tokens tell the width.

/// A fall by less than this is none: values that fill in for what was not seen fall as well, a little everywhere.
const FALL_MIN: f64 = 10.0;
/// Directions of which a fall says nothing: the first of any matrix are much larger than the next ones.
const FIRST: usize = 4;
/// What is left by rounding, as a part of the largest value.
const FLOOR: f64 = 1e-12;
/// Rounds of rotations; some ten are enough.
const SWEEPS_MAX: usize = 40;

/// Where singular values fall most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fall {
    /// After so many.
    pub after: usize,
    /// By this factor.
    pub by: f64,
}

impl Fall {
    /// Whether it tells a width.
    pub(super) fn is_a_width(&self) -> bool {
        self.by >= FALL_MIN
    }
}

/// The singular values of a matrix by rows of equal length, the largest first.
///
/// Each row loses its mean first, and with it the normaliser of its probabilities.
pub(super) fn singular_values(rows: &[Vec<f64>]) -> Vec<f64> {
    let centred: Vec<Vec<f64>> = rows.iter().map(|row| centred(row)).collect();
    let columns = centred.first().map_or(0, Vec::len);
    // One-sided Jacobi makes the vectors of one side orthogonal; the shorter side is less work.
    let mut vectors = match centred.len() <= columns {
        true => centred,
        false => (0..columns)
            .map(|at| {
                centred
                    .iter()
                    .filter_map(|row| row.get(at).copied())
                    .collect()
            })
            .collect(),
    };
    for _ in 0..SWEEPS_MAX {
        if !sweep(&mut vectors) {
            break;
        }
    }
    let mut values: Vec<f64> = vectors.iter().map(|it| dot(it, it).sqrt()).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}

fn centred(row: &[f64]) -> Vec<f64> {
    let mean = row.iter().sum::<f64>() / row.len().max(1) as f64;
    row.iter().map(|value| value - mean).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Rotates every pair of vectors until it is orthogonal. Answers whether any was not.
fn sweep(vectors: &mut [Vec<f64>]) -> bool {
    let mut turned = false;
    for at in 1..vectors.len() {
        let (before, rest) = vectors.split_at_mut(at);
        let Some(second) = rest.first_mut() else {
            continue;
        };
        for first in before {
            let (a, b, both) = (dot(first, first), dot(second, second), dot(first, second));
            if both.abs() <= 1e-15 * (a * b).sqrt() || both == 0.0 {
                continue;
            }
            turned = true;
            let zeta = (b - a) / (2.0 * both);
            let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
            let cosine = 1.0 / tangent.hypot(1.0);
            let sine = cosine * tangent;
            for (x, y) in first.iter_mut().zip(second.iter_mut()) {
                (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
            }
        }
    }
    turned
}

/// By which factor the values fall after the first `at`.
pub(super) fn fall_after(values: &[f64], at: usize) -> Option<f64> {
    let floor = values.first()? * FLOOR;
    let before = at.checked_sub(1).and_then(|it| values.get(it))?;
    Some(before.max(floor) / values.get(at)?.max(floor))
}

/// The steepest fall. The last two values are left out: rows without their means have one direction less than columns.
pub(super) fn steepest(values: &[f64]) -> Option<Fall> {
    let end = values.len().checked_sub(2)?;
    let falls = (FIRST..end).filter_map(|after| {
        let by = fall_after(values, after)?;
        Some(Fall { after, by })
    });
    falls.max_by(|a, b| a.by.total_cmp(&b.by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_models::engine::sampler::Draws;

    fn normal(draws: &mut Draws) -> f64 {
        let radius = (-2.0 * (1.0 - draws.next_point()).ln()).sqrt();
        radius * (std::f64::consts::TAU * draws.next_point()).cos()
    }

    /// `rows` contexts of a head of `columns` tokens and `width`.
    fn logits(rows: usize, columns: usize, width: usize) -> Vec<Vec<f64>> {
        let mut draws = Draws::new(5);
        let mut matrix = |rows: usize, columns: usize| -> Vec<Vec<f64>> {
            let row = |draws: &mut Draws| (0..columns).map(|_| normal(draws)).collect();
            (0..rows).map(|_| row(&mut draws)).collect()
        };
        let (head, states) = (matrix(columns, width), matrix(rows, width));
        let row = |state: &Vec<f64>| head.iter().map(|token| dot(token, state)).collect();
        states.iter().map(row).collect()
    }

    #[test]
    fn the_width_stands_out_of_chosen_values_and_rounding_does_not_hide_it() {
        for (rows, columns) in [(48, 60), (60, 48)] {
            let exact = logits(rows, columns, 24);
            let fall = steepest(&singular_values(&exact));
            assert!(
                fall.is_some_and(|fall| fall.after == 24 && fall.by > 1e6),
                "{fall:?}"
            );
            let round = |value: &f64| (value * 10.0).round() / 10.0;
            let rounded: Vec<Vec<f64>> = exact
                .iter()
                .map(|row| row.iter().map(round).collect())
                .collect();
            let fall = steepest(&singular_values(&rounded));
            assert!(fall.is_some_and(|fall| fall.after == 24), "{fall:?}");
        }
    }

    #[test]
    fn what_has_no_rank_has_no_width() {
        let full = logits(40, 44, 200);
        let fall = steepest(&singular_values(&full));
        assert!(fall.is_some_and(|fall| !fall.is_a_width()), "{fall:?}");
        assert_eq!(steepest(&singular_values(&[])), None);
        assert_eq!(steepest(&singular_values(&[vec![1.0], vec![2.0]])), None);
    }

    #[test]
    fn singular_values_are_those_of_the_matrix() {
        // Rows without a mean, orthogonal, of length sqrt(2) and 2.
        let values = singular_values(&[vec![1.0, -1.0, 0.0, 0.0], vec![1.0, 1.0, -1.0, -1.0]]);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(
            near(values[0], 2.0) && near(values[1], 2.0_f64.sqrt()),
            "{values:?}"
        );
    }
}
