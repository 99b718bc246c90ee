//! Recovering a model's last layer from log-probabilities (Carlini et al. 2024; Finlayson et al. 2024): logits of many contexts
//! lie in a space of as many dimensions as the model is wide, and that space is the last layer up to a linear map.
//!
//! Shared by a test and by the long run of `examples/last_layer`. The model is a random head with a falling spectrum, or a real one.

#![allow(
    dead_code,
    clippy::indexing_slicing,
    reason = "the test and the long run each use a part of it; plain arithmetic on matrices of its own making"
)]

use casemate_models::engine::sampler::Draws;
use casemate_models::engine::{Reveal, TokenLogprobs};

/// A matrix by rows.
pub type Matrix = Vec<Vec<f64>>;

/// A head of `vocabulary` rows and `width` columns, and contexts for it.
pub struct Head {
    pub weights: Matrix,
    draws: Draws,
}

impl Head {
    pub fn new(vocabulary: usize, width: usize, seed: u64) -> Self {
        let mut draws = Draws::new(seed);
        // Columns that matter less and less, as in trained heads, and logits of a variance that leaves some 6.5 bits of
        // entropy in a vocabulary of 1,024. A steeper fall shows its first columns sooner; the width stays hidden.
        let fall = |column: usize| 1.0 / (1.0 + column as f64).sqrt();
        let scale = 4.85 / (0..width).map(fall).sum::<f64>();
        let spread = |column: usize| (scale * fall(column)).sqrt();
        let mut row = || {
            (0..width)
                .map(|column| spread(column) * normal(&mut draws))
                .collect()
        };
        let weights = (0..vocabulary).map(|_| row()).collect();
        Self { weights, draws }
    }

    /// A head that is known.
    pub fn of(weights: Matrix) -> Self {
        Self {
            weights,
            draws: Draws::new(1),
        }
    }

    /// The logits of another context.
    pub fn logits(&mut self) -> Vec<f32> {
        let width = self.weights[0].len();
        let hidden: Vec<f64> = (0..width).map(|_| normal(&mut self.draws)).collect();
        let logit = |row: &Vec<f64>| dot(row, &hidden) as f32;
        self.weights.iter().map(logit).collect()
    }
}

/// A number of a normal distribution.
fn normal(draws: &mut Draws) -> f64 {
    let radius = (-2.0 * (1.0 - draws.next_point()).ln()).sqrt();
    radius * (std::f64::consts::TAU * draws.next_point()).cos()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What one context tells an attacker: the value of some tokens.
pub type Seen = Vec<(usize, f64)>;

/// Everything, as a server without a bound would tell it.
pub fn unbounded(logits: &[f32]) -> Seen {
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let told = |logit: &f32| f64::from(*logit) - sum.ln();
    logits.iter().map(told).enumerate().collect()
}

/// What this product tells of the `known` likeliest tokens.
pub fn bounded(logits: &[f32], known: usize) -> Seen {
    let reveal = Reveal { top: known, known };
    let told = TokenLogprobs::new(logits, 0, reveal);
    let each = told.top.iter();
    each.map(|(id, logprob)| (*id as usize, *logprob)).collect()
}

/// What an attack came to.
#[derive(Debug)]
pub struct Found {
    /// Where the singular values fall most, and by which factor: the width, if it was found.
    pub width: usize,
    pub gap: f64,
    /// By which factor they fall at the true width.
    pub gap_at_width: f64,
    /// What is left of the head after the best linear map from what was found, as a part of the head: 0 is all of it found.
    pub error: f64,
}

/// The attack: unseen values are guessed, the space of all rows is computed, and where not everything was seen it is then
/// fitted to what was (alternating least squares), with the true width as a present.
pub fn attack(head: &Head, contexts: &[Seen], sweeps: usize) -> Found {
    let (vocabulary, width) = (head.weights.len(), head.weights[0].len());
    let (values, basis) = row_space(contexts, vocabulary, width + 8);
    let fall = |at: usize| values[at - 1].sqrt() / values[at].max(f64::MIN_POSITIVE).sqrt();
    let steepest = (1..values.len()).max_by(|a, b| fall(*a).total_cmp(&fall(*b)));
    let steepest = steepest.unwrap_or(1);
    let filled = distance(head, basis[..width].to_vec());
    let complete = contexts.iter().all(|seen| seen.len() == vocabulary);
    let error = match complete {
        true => filled,
        false => filled.min(distance(
            head,
            fitted(contexts, &values, &basis, width, sweeps),
        )),
    };
    Found {
        width: steepest,
        gap: fall(steepest),
        gap_at_width: fall(width),
        error,
    }
}

/// The largest eigenvalues of the contexts' covariance, and their vectors: what was not seen of a context is taken to be a
/// little less than the least of what was, and the mean of each row, which holds the normaliser, is taken off.
fn row_space(contexts: &[Seen], vocabulary: usize, count: usize) -> (Vec<f64>, Matrix) {
    let mut covariance = vec![vec![0.0; vocabulary]; vocabulary];
    for seen in contexts {
        let least = seen.iter().map(|(_, value)| *value).fold(0.0, f64::min);
        let mut row = vec![least - 1.0; vocabulary];
        for (token, value) in seen {
            row[*token] = *value;
        }
        let mean = row.iter().sum::<f64>() / vocabulary as f64;
        row.iter_mut().for_each(|value| *value -= mean);
        for (line, a) in covariance.iter_mut().zip(&row) {
            for (sum, b) in line.iter_mut().zip(&row) {
                *sum += a * b;
            }
        }
    }
    largest(&covariance, count)
}

/// The largest eigenvalues of a symmetric matrix by orthogonal iteration.
fn largest(matrix: &Matrix, count: usize) -> (Vec<f64>, Matrix) {
    let mut draws = Draws::new(11);
    let mut vectors: Matrix = (0..count)
        .map(|_| matrix.iter().map(|_| normal(&mut draws)).collect())
        .collect();
    let mut values = Vec::new();
    for _ in 0..60 {
        let times = |vector: &Vec<f64>| matrix.iter().map(|row| dot(row, vector)).collect();
        vectors = vectors.iter().map(times).collect();
        values = orthogonalise(&mut vectors);
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    let sorted = order.iter().map(|at| values[*at]).collect();
    (
        sorted,
        order.iter().map(|at| vectors[*at].clone()).collect(),
    )
}

/// Makes vectors orthogonal and of length one; answers how long each was beside those before it.
fn orthogonalise(vectors: &mut Matrix) -> Vec<f64> {
    let mut lengths = Vec::new();
    for at in 0..vectors.len() {
        // Twice: what the first pass leaves by rounding is as large as the smallest values.
        for _ in 0..2 {
            let (before, rest) = vectors.split_at_mut(at);
            for other in before.iter() {
                let part = dot(&rest[0], other);
                let pairs = rest[0].iter_mut().zip(other);
                pairs.for_each(|(value, other)| *value -= part * other);
            }
        }
        let length = dot(&vectors[at], &vectors[at]).sqrt();
        lengths.push(length);
        let scale = length.max(f64::MIN_POSITIVE);
        vectors[at].iter_mut().for_each(|value| *value /= scale);
    }
    lengths
}

/// How much of the head lies outside the space of these vectors.
fn distance(head: &Head, mut vectors: Matrix) -> f64 {
    orthogonalise(&mut vectors);
    let vocabulary = head.weights.len() as f64;
    let (mut outside, mut all) = (0.0, 0.0);
    for column in 0..head.weights[0].len() {
        let mut line: Vec<f64> = head.weights.iter().map(|row| row[column]).collect();
        let mean = line.iter().sum::<f64>() / vocabulary;
        line.iter_mut().for_each(|value| *value -= mean);
        let whole = dot(&line, &line);
        let inside: f64 = vectors
            .iter()
            .map(|vector| dot(vector, &line).powi(2))
            .sum();
        all += whole;
        outside += (whole - inside).max(0.0);
    }
    (outside / all).sqrt()
}

/// A space fitted to the values that were seen: of every context `width` numbers and an offset, of every token as many, by
/// turns, each the best for the others.
fn fitted(
    contexts: &[Seen],
    values: &[f64],
    basis: &Matrix,
    width: usize,
    sweeps: usize,
) -> Matrix {
    const RIDGE: f64 = 0.1;
    let vocabulary = basis[0].len();
    let scale = |at: usize| (values[at] / contexts.len() as f64).sqrt().sqrt();
    let mut tokens: Matrix = (0..vocabulary)
        .map(|token| {
            let own =
                (0..width).map(|at| basis[at][token] * scale(at) * (vocabulary as f64).sqrt());
            own.chain([1.0]).collect()
        })
        .collect();
    for _ in 0..sweeps {
        let mut seen_of: Vec<Vec<(Vec<f64>, f64)>> = vec![Vec::new(); vocabulary];
        for seen in contexts {
            let rows = seen
                .iter()
                .map(|(token, value)| (tokens[*token].clone(), *value));
            let context = ridge(&rows.collect::<Vec<_>>(), width + 1, RIDGE);
            for (token, value) in seen {
                seen_of[*token].push((context.clone(), *value));
            }
        }
        for (token, rows) in tokens.iter_mut().zip(&seen_of) {
            if !rows.is_empty() {
                *token = ridge(rows, width + 1, RIDGE);
            }
        }
    }
    let column = |at: usize| tokens.iter().map(|token| token[at]).collect();
    (0..width).map(column).collect()
}

/// The numbers that fit `rows` best, kept small. With fewer rows than numbers the smaller system is solved.
fn ridge(rows: &[(Vec<f64>, f64)], len: usize, weight: f64) -> Vec<f64> {
    if rows.len() < len {
        let mut system: Matrix = rows
            .iter()
            .map(|(a, _)| rows.iter().map(|(b, _)| dot(a, b)).collect())
            .collect();
        (0..rows.len()).for_each(|at| system[at][at] += weight);
        let dual = solved(system, rows.iter().map(|(_, value)| *value).collect());
        let entry = |at: usize| {
            rows.iter()
                .zip(&dual)
                .map(|((row, _), d)| row[at] * d)
                .sum()
        };
        return (0..len).map(entry).collect();
    }
    let mut system = vec![vec![0.0; len]; len];
    let mut right = vec![0.0; len];
    for (row, value) in rows {
        for (at, a) in row.iter().enumerate() {
            right[at] += a * value;
            system[at]
                .iter_mut()
                .zip(row)
                .for_each(|(sum, b)| *sum += a * b);
        }
    }
    (0..len).for_each(|at| system[at][at] += weight);
    solved(system, right)
}

/// Solves a positive definite system.
fn solved(mut system: Matrix, mut right: Vec<f64>) -> Vec<f64> {
    let len = right.len();
    for pivot in 0..len {
        let (above, below) = system.split_at_mut(pivot + 1);
        let lead = &above[pivot];
        for (at, line) in (pivot + 1..).zip(below) {
            let factor = line[pivot] / lead[pivot];
            line.iter_mut()
                .zip(lead)
                .for_each(|(value, lead)| *value -= factor * lead);
            right[at] -= factor * right[pivot];
        }
    }
    for pivot in (0..len).rev() {
        let known: f64 = (pivot + 1..len)
            .map(|at| system[pivot][at] * right[at])
            .sum();
        right[pivot] = (right[pivot] - known) / system[pivot][pivot];
    }
    right
}
