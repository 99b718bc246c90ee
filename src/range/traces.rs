//! What sizes and times of an encrypted answer tell: a small classifier of topics, cross-validated with the answers to one
//! prompt never in both parts, and how many answers look like no other.
//!
//! The classifier is a logistic regression on totals, spreads and the first records, as in Whisper Leak (2511.03675), smaller.
//! It finds less than a forest or a network would: what it finds is there, and what it does not find may be there all the same.

use std::collections::BTreeMap;

/// Halves of a cross-validation are fifths.
const FOLDS: usize = 5;
/// Records at the beginning whose sizes and gaps stand for themselves.
const FIRST: usize = 12;
/// Steps of the descent, their width, and how much large weights cost.
const STEPS: usize = 300;
const RATE: f64 = 0.3;
const WEIGHT_COST: f64 = 0.02;

/// One answer as it crossed the network.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Bytes of its request.
    pub request_bytes: usize,
    /// Of each record of the answer: bytes, and seconds since the one before or since the request.
    pub records: Vec<(usize, f64)>,
}

/// An answer of known topic.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// Answers to one prompt, and answers that were asked for together: those of a group are not learned from and judged. A group
    /// that has both kinds keeps what changes with time from being taken for the topic.
    pub group: usize,
    /// Whether it is of the topic.
    pub on_topic: bool,
    /// How it crossed the network.
    pub trace: Trace,
}

/// What the traces of all answers tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Findings {
    /// Answers.
    pub answers: usize,
    /// Probability that an answer of the topic is ranked above another; 0.5 is chance.
    pub auc: f64,
    /// Its standard error under chance.
    pub error: f64,
    /// Different sequences of sizes.
    pub distinct: usize,
    /// Their entropy, bits.
    pub bits: f64,
    /// Part of the answers whose sequence no other has.
    pub unique: f64,
    /// Bytes of all answers.
    pub bytes: usize,
}

impl Trace {
    /// Numbers that a classifier looks at. Of each kind there are as many, whatever the answer.
    fn features(&self) -> Vec<f64> {
        let sizes: Vec<f64> = self
            .records
            .iter()
            .map(|(bytes, _)| *bytes as f64)
            .collect();
        let gaps: Vec<f64> = self.records.iter().map(|(_, gap)| *gap).collect();
        let total = |of: &[f64]| of.iter().sum::<f64>();
        let mut features = vec![
            self.request_bytes as f64,
            sizes.len() as f64,
            total(&sizes).ln_1p(),
            total(&gaps).ln_1p(),
        ];
        for of in [&sizes, &gaps] {
            let (mean, spread) = moments(of);
            features.extend([mean, spread]);
            let largest = of.iter().copied().fold(0.0, f64::max);
            features.push(largest);
            features.extend((0..FIRST).map(|at| of.get(at).copied().unwrap_or_default()));
        }
        features
    }
}

impl Findings {
    /// Looks at all answers; nothing where there are not enough of both kinds.
    #[must_use]
    pub fn of(all: &[Labelled]) -> Option<Self> {
        let scored = cross_validated(all)?;
        let mut same: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        for one in all {
            let sizes = one.trace.records.iter().map(|(bytes, _)| *bytes);
            *same.entry(sizes.collect()).or_default() += 1;
        }
        let answers = all.len() as f64;
        let entropy = |count: &usize| {
            let part = *count as f64 / answers;
            -part * part.log2()
        };
        let (auc, error) = area(&scored);
        Some(Self {
            answers: all.len(),
            auc,
            error,
            distinct: same.len(),
            bits: same.values().map(entropy).sum::<f64>().max(0.0),
            unique: same.values().filter(|count| **count == 1).count() as f64 / answers,
            bytes: same
                .iter()
                .map(|(sizes, count)| sizes.iter().sum::<usize>() * count)
                .sum(),
        })
    }
}

/// Scores of answers by a classifier that has seen none of their groups: whether each is of the topic, and its score.
type Scored = Vec<(bool, f64)>;

/// The scores of each fifth. Those of one are not compared with another's: they come from different classifiers.
fn cross_validated(all: &[Labelled]) -> Option<Vec<Scored>> {
    let features: Vec<Vec<f64>> = all.iter().map(|one| one.trace.features()).collect();
    let mut folds = Vec::with_capacity(FOLDS);
    for fold in 0..FOLDS {
        let held = |one: &Labelled| one.group % FOLDS == fold;
        let rows = || all.iter().zip(&features);
        let learned: Vec<(&[f64], bool)> = rows()
            .filter(|(one, _)| !held(one))
            .map(|(one, features)| (features.as_slice(), one.on_topic))
            .collect();
        let model = Regression::learned(&learned)?;
        let judged = rows().filter(|(one, _)| held(one));
        folds.push(
            judged
                .map(|(one, features)| (one.on_topic, model.score(features)))
                .collect(),
        );
    }
    Some(folds)
}

/// A logistic regression over features of mean 0 and spread 1.
struct Regression {
    scale: Vec<(f64, f64)>,
    weights: Vec<f64>,
}

impl Regression {
    /// Learns from rows of both kinds; each kind counts as much as the other.
    fn learned(rows: &[(&[f64], bool)]) -> Option<Self> {
        let of_topic = rows.iter().filter(|(_, on_topic)| *on_topic).count();
        let others = rows.len() - of_topic;
        if of_topic < 2 || others < 2 {
            return None;
        }
        let width = rows.first()?.0.len();
        let column = |at: usize| -> Vec<f64> {
            let column = rows.iter().filter_map(|(row, _)| row.get(at));
            column.copied().collect()
        };
        let scale: Vec<_> = (0..width).map(|at| moments(&column(at))).collect();
        let mut model = Self {
            scale,
            weights: vec![0.0; width + 1],
        };
        let scaled: Vec<(Vec<f64>, bool)> = rows
            .iter()
            .map(|(row, on_topic)| (model.scaled(row), *on_topic))
            .collect();
        let share = |on_topic: bool| 0.5 / if on_topic { of_topic } else { others } as f64;
        for _ in 0..STEPS {
            let mut gradient: Vec<f64> = model.weights.iter().map(|w| w * WEIGHT_COST).collect();
            for (row, on_topic) in &scaled {
                let odds = model
                    .weights
                    .iter()
                    .zip(row)
                    .map(|(w, x)| w * x)
                    .sum::<f64>();
                let wrong = 1.0 / (1.0 + (-odds).exp()) - f64::from(u8::from(*on_topic));
                for (slope, x) in gradient.iter_mut().zip(row) {
                    *slope += share(*on_topic) * wrong * x;
                }
            }
            for (weight, slope) in model.weights.iter_mut().zip(&gradient) {
                *weight -= RATE * slope;
            }
        }
        Some(model)
    }

    /// The features, scaled, and a one.
    fn scaled(&self, row: &[f64]) -> Vec<f64> {
        let scaled = row.iter().zip(&self.scale).map(|(x, (mean, spread))| {
            if *spread > 0.0 {
                (x - mean) / spread
            } else {
                0.0
            }
        });
        scaled.chain([1.0]).collect()
    }

    fn score(&self, row: &[f64]) -> f64 {
        let row = self.scaled(row);
        self.weights.iter().zip(&row).map(|(w, x)| w * x).sum()
    }
}

fn moments(of: &[f64]) -> (f64, f64) {
    let count = (of.len() as f64).max(1.0);
    let mean = of.iter().sum::<f64>() / count;
    let spread = of.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    (mean, spread.sqrt())
}

/// The area under the curve of rankings, and its standard error where they are chance (Mann and Whitney). Equal scores count
/// half.
fn area(folds: &[Scored]) -> (f64, f64) {
    let (mut above, mut variance, mut pairs) = (0.0, 0.0, 0.0);
    for scored in folds {
        let of = |kind: bool| -> Vec<f64> {
            let scores = scored.iter().filter(|(on_topic, _)| *on_topic == kind);
            scores.map(|(_, score)| *score).collect()
        };
        let (topic, others) = (of(true), of(false));
        for score in &topic {
            let half = |other: &f64| match score.total_cmp(other) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
            above += others.iter().map(half).sum::<f64>();
        }
        let (n, m) = (topic.len() as f64, others.len() as f64);
        pairs += n * m;
        variance += n * m * (n + m + 1.0) / 12.0;
    }
    match pairs > 0.0 {
        true => (above / pairs, variance.sqrt() / pairs),
        false => (0.5, 0.5),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    fn answers(trace: impl Fn(usize, bool) -> Trace) -> Vec<Labelled> {
        (0..80)
            .map(|prompt| Labelled {
                group: prompt,
                on_topic: prompt % 3 == 0,
                trace: trace(prompt, prompt % 3 == 0),
            })
            .collect()
    }

    fn records(sizes: impl IntoIterator<Item = usize>) -> Trace {
        Trace {
            request_bytes: 100,
            records: sizes.into_iter().map(|bytes| (bytes, 0.1)).collect(),
        }
    }

    #[test]
    fn what_tells_topics_apart_is_found_and_what_is_the_same_is_not() {
        let apart = answers(|prompt, on_topic| {
            records((0..20 + prompt % 7).map(|at| 300 + at % 5 + usize::from(on_topic) * 9))
        });
        let found = Findings::of(&apart).unwrap();
        assert!(found.auc > 0.99, "{found:?}");
        assert!(found.distinct > 7 && found.bits > 3.0, "{found:?}");

        let same = answers(|_, _| records(vec![550; 30]));
        let found = Findings::of(&same).unwrap();
        assert_eq!((found.auc, found.distinct, found.bits), (0.5, 1, 0.0));
        assert_eq!((found.unique, found.bytes), (0.0, 80 * 30 * 550));
    }

    #[test]
    fn the_length_alone_is_found_where_it_tells() {
        let longer = answers(|prompt, on_topic| {
            records(vec![550; 14 + prompt % 7 + 6 * usize::from(on_topic)])
        });
        let found = Findings::of(&longer).unwrap();
        assert!(found.auc > 0.9, "{found:?}");
    }

    #[test]
    fn chance_is_chance_and_answers_of_one_kind_say_nothing() {
        // A size that has nothing to do with the topic.
        let noise = answers(|prompt, _| records(vec![200 + (prompt * 7919 + 13) % 101; 12]));
        let found = Findings::of(&noise).unwrap();
        assert!((found.auc - 0.5).abs() < 3.0 * found.error, "{found:?}");
        let mut one_kind = noise;
        one_kind.retain(|one| one.on_topic);
        assert_eq!(Findings::of(&one_kind), None);
        assert_eq!(Findings::of(&[]), None);
    }

    /// Pairs of both kinds, and each answer slower than the one before.
    #[test]
    fn a_machine_that_grows_slower_tells_no_topic() {
        let slower: Vec<Labelled> = (0..80)
            .map(|at| {
                let (group, second) = (at / 2, at % 2 == 1);
                let mut trace = records(vec![550; 30]);
                for (_, gap) in &mut trace.records {
                    *gap *= 1.0 + at as f64 / 80.0;
                }
                Labelled {
                    group,
                    on_topic: second == (group % 2 == 0),
                    trace,
                }
            })
            .collect();
        let found = Findings::of(&slower).unwrap();
        assert!((found.auc - 0.5).abs() < 2.0 * found.error, "{found:?}");
    }

    #[test]
    fn an_answer_of_its_own_length_is_unique() {
        let mut all = answers(|_, _| records(vec![550; 30]));
        all[0].trace = records(vec![550; 31]);
        let found = Findings::of(&all).unwrap();
        assert_eq!((found.distinct, found.unique), (2, 1.0 / 80.0));
    }
}
