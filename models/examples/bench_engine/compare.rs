//! Compares our logits with another program's for the same token ids, in the three ways in which tokens go through an
//! engine: one after the other, as one prompt, and beside other sequences.
//!
//! The file of logits: positions and vocabulary as `u32`, then a row of `f32` for each position, all little endian.

use std::fs;
use std::path::Path;

use casemate_models::engine::Work;
use casemate_models::weights::GgufFile;
use serde_json::{Value, json};

use crate::Anyhow;
use crate::options::Comparison;
use crate::ours::Bench;

/// Sequences that run side by side in the third way.
const BESIDE: usize = 8;

/// Compares and prints. Judging is left to the reader: what is close depends on the quantisation.
pub fn run(wanted: &Comparison) -> Anyhow<()> {
    let theirs = Logits::parse(&fs::read(&wanted.logits)?)?;
    let tokens = read_tokens(&wanted.tokens)?;
    if tokens.len() != theirs.rows.len() {
        let (ours, theirs) = (tokens.len(), theirs.rows.len());
        return Err(format!("there are {ours} tokens and {theirs} rows of logits").into());
    }
    let source = GgufFile::open(&wanted.model)?;
    let room = tokens.len() * BESIDE;
    let mut bench = Bench::with_cache(&source, room, wanted.place, wanted.cache)?;
    let ways = [
        (
            "one by one",
            compare(&one_by_one(&mut bench, &tokens, 1)?, &theirs)?,
        ),
        (
            "as a prompt",
            compare(&as_prompts(&mut bench, &tokens)?, &theirs)?,
        ),
        (
            "beside seven others",
            compare(&one_by_one(&mut bench, &tokens, BESIDE)?, &theirs)?,
        ),
    ];
    if wanted.json {
        let rows: Vec<Value> = ways.iter().map(|(way, agreed)| agreed.json(way)).collect();
        println!("{:#}", json!({"rows": rows}));
    } else {
        ways.iter().for_each(|(way, agreed)| agreed.print(way));
    }
    Ok(())
}

fn read_tokens(path: &Path) -> Anyhow<Vec<u32>> {
    let text = fs::read_to_string(path)?;
    let tokens: Vec<u32> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    match tokens.is_empty() {
        true => Err("there are no tokens".into()),
        false => Ok(tokens),
    }
}

/// Logits of positions, of which there may be fewer than tokens.
type Positions = Vec<(usize, Vec<f32>)>;

/// Every position's, `beside` equal sequences at a time, each a token behind the one before it: rows of one step are of
/// different positions. The last sequence's logits count.
fn one_by_one(bench: &mut Bench, tokens: &[u32], beside: usize) -> Anyhow<Positions> {
    let sequences = (0..beside).map(|_| bench.open(tokens.len()));
    let sequences = sequences.collect::<Anyhow<Vec<_>>>()?;
    let mut found = Vec::new();
    for step in 0..tokens.len() + beside - 1 {
        let running = sequences.iter().enumerate().filter_map(|(behind, id)| {
            let position = step.checked_sub(behind)?;
            Some((behind, *id, position, tokens.get(position..=position)?))
        });
        let running: Vec<_> = running.collect();
        let work = running.iter().map(|(_, sequence, _, tokens)| Work {
            sequence: *sequence,
            tokens,
            logits: 1,
        });
        let logits = bench.step(&work.collect::<Vec<_>>())?;
        let rows = running.iter().zip(logits);
        let of_last = rows.filter(|((behind, ..), _)| *behind + 1 == beside);
        found.extend(of_last.map(|((_, _, position, _), row)| (*position, row.to_vec())));
    }
    sequences.iter().for_each(|sequence| bench.close(*sequence));
    Ok(found)
}

/// The logits after prompts of 2, 3, 4, 6, 8, 12, ... tokens and of all, each taken in one step.
fn as_prompts(bench: &mut Bench, tokens: &[u32]) -> Anyhow<Positions> {
    let lengths = (1..usize::BITS).flat_map(|bits| [1_usize << bits, 3 << (bits - 1)]);
    let mut lengths: Vec<usize> = lengths.take_while(|len| *len < tokens.len()).collect();
    lengths.push(tokens.len());
    let mut found = Vec::new();
    for len in lengths {
        let prompt = tokens.get(..len).unwrap_or_default();
        let sequence = bench.open(len)?;
        let logits = bench.step(&[Work {
            sequence,
            tokens: prompt,
            logits: 1,
        }])?;
        found.extend(logits.into_iter().map(|row| (len - 1, row.to_vec())));
        bench.close(sequence);
    }
    Ok(found)
}

/// Another program's logits.
struct Logits {
    rows: Vec<Vec<f32>>,
}

impl Logits {
    fn parse(bytes: &[u8]) -> Anyhow<Self> {
        let (head, body) = bytes
            .split_first_chunk::<8>()
            .ok_or("the file of logits has no head")?;
        let [a, b, c, d, e, f, g, h] = *head;
        let positions = u32::from_le_bytes([a, b, c, d]) as usize;
        let vocabulary = u32::from_le_bytes([e, f, g, h]) as usize;
        let expected = positions
            .checked_mul(vocabulary)
            .and_then(|n| n.checked_mul(4));
        if vocabulary == 0 || expected != Some(body.len()) {
            return Err("the file of logits is not as long as its head says".into());
        }
        let (numbers, _) = body.as_chunks::<4>();
        let numbers: Vec<f32> = numbers
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let rows = numbers.chunks(vocabulary).map(<[f32]>::to_vec).collect();
        Ok(Self { rows })
    }
}

/// How far two programs agree.
#[derive(Debug, PartialEq)]
struct Agreement {
    positions: usize,
    first_equal: usize,
    largest: f64,
    mean: f64,
    /// The standard deviation of the other program's logits, to judge differences by.
    spread: f64,
}

impl Agreement {
    fn json(&self, way: &str) -> Value {
        json!({"name": way, "positions": self.positions, "top1_equal": self.first_equal,
            "difference_max": self.largest, "difference_mean": self.mean, "logits_deviation": self.spread})
    }

    fn print(&self, way: &str) {
        println!(
            "{way:<20} largest difference {:.6}, mean {:.6} (logits' deviation {:.4}); likeliest token equal at {} of {}",
            self.largest, self.mean, self.spread, self.first_equal, self.positions
        );
    }
}

fn compare(ours: &Positions, theirs: &Logits) -> Anyhow<Agreement> {
    let mut agreed = Agreement {
        positions: ours.len(),
        first_equal: 0,
        largest: 0.0,
        mean: 0.0,
        spread: 0.0,
    };
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for (position, row) in ours {
        let other = theirs.rows.get(*position).ok_or("a row is missing")?;
        if row.len() != other.len() {
            let (ours, theirs) = (row.len(), other.len());
            return Err(format!("a row has {ours} logits here and {theirs} there").into());
        }
        if first(row) == first(other) {
            agreed.first_equal += 1;
        }
        for (one, other) in row.iter().zip(other) {
            let (one, other) = (f64::from(*one), f64::from(*other));
            let difference = (one - other).abs();
            // A number that is none is as far away as can be.
            agreed.largest = match difference.is_nan() {
                true => f64::INFINITY,
                false => agreed.largest.max(difference),
            };
            agreed.mean += difference;
            (count, sum, squares) = (count + 1.0, sum + other, squares + other * other);
        }
    }
    agreed.mean /= count;
    agreed.spread = (squares / count - (sum / count).powi(2)).max(0.0).sqrt();
    Ok(agreed)
}

fn first(row: &[f32]) -> Option<usize> {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(positions: u32, vocabulary: u32, numbers: &[f32]) -> Vec<u8> {
        let mut bytes = [positions.to_le_bytes(), vocabulary.to_le_bytes()].concat();
        numbers
            .iter()
            .for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes
    }

    #[test]
    fn a_file_of_logits_is_read_and_a_wrong_length_refused() {
        let logits = Logits::parse(&file(2, 2, &[1.0, 2.0, 3.0, 4.0])).unwrap();
        assert_eq!(logits.rows, [[1.0, 2.0], [3.0, 4.0]]);
        assert!(Logits::parse(&file(2, 2, &[1.0, 2.0, 3.0])).is_err());
        assert!(Logits::parse(&file(u32::MAX, u32::MAX, &[])).is_err());
        assert!(Logits::parse(&file(0, 0, &[])).is_err());
        assert!(Logits::parse(&[1, 0, 0]).is_err());
    }

    #[test]
    fn differences_and_agreement_are_those_of_the_rows_compared() {
        let theirs = Logits {
            rows: vec![vec![0.0, 1.0], vec![2.0, 0.0]],
        };
        let ours = vec![(1, vec![2.5, 0.0]), (0, vec![1.0, 0.5])];
        let agreed = compare(&ours, &theirs).unwrap();
        assert_eq!((agreed.positions, agreed.first_equal), (2, 1));
        assert_eq!((agreed.largest, agreed.mean), (1.0, 0.5));
    }

    #[test]
    fn a_row_of_another_vocabulary_or_that_is_no_number_does_not_agree() {
        let theirs = Logits {
            rows: vec![vec![0.0, 1.0]],
        };
        assert!(compare(&vec![(0, vec![0.0])], &theirs).is_err());
        let broken = compare(&vec![(0, vec![f32::NAN, 1.0])], &theirs).unwrap();
        assert_eq!(broken.largest, f64::INFINITY);
    }
}
