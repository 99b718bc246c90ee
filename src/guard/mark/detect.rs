//! The search for marks in a text: a score and an exact p-value for each key, what the many keys cost, and no verdict where
//! there is too little text for one.

use std::collections::HashSet;

use casemate_models::engine::MarkKey;
use casemate_models::engine::mark::CONTEXT;

use ring::rand::{SecureRandom, SystemRandom};

use super::tail::{ln_tail, uniform_p};
use super::{SUB_KEYS, TeamMark};

/// The chance of naming any team for a text of nobody's: over all keys together.
pub const FALSE_POSITIVES: f64 = 1e-6;

/// A context and what followed it.
type Pair = ([u32; CONTEXT], u32);

/// What was found under a team's likeliest key.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The team.
    pub team: String,
    /// The epoch of its keys.
    pub epoch: u32,
    /// Which of its sub-keys.
    pub sub_key: u8,
    /// Mean score of a pair: 1 where there is no mark.
    pub score: f64,
    /// Decimal logarithm of the p-value under this key alone.
    pub log10_p: f64,
    /// The same over all keys that were tried (Bonferroni).
    pub log10_p_family: f64,
}

/// What the text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It carries the mark of this team.
    Marked {
        /// The team.
        team: String,
        /// The epoch of its keys.
        epoch: u32,
    },
    /// It has enough text, and no team's mark.
    NotMarked,
    /// It has too little text to say so or so.
    TooShort,
}

/// The answer for one text, or for several as one.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Tokens in all.
    pub tokens: usize,
    /// Distinct pairs of a context and the token after it: what counts.
    pub pairs: usize,
    /// Pairs that a verdict needs.
    pub pairs_needed: usize,
    /// Keys that were tried.
    pub keys: usize,
    /// For each team and epoch its likeliest key, the likeliest team first.
    pub findings: Vec<Finding>,
    /// The verdict.
    pub verdict: Verdict,
}

/// Looks for the marks of `teams` in texts of tokens, whose tokens have `bits` of entropy on average.
#[must_use]
pub fn look(texts: &[Vec<u32>], teams: &[TeamMark], bits: f64) -> Report {
    let pairs = distinct(texts);
    let keys = teams.len() * usize::from(SUB_KEYS);
    let pairs_needed = pairs_needed(bits, keys);
    let mut findings: Vec<Finding> = teams
        .iter()
        .filter_map(|team| likeliest(team, &pairs, keys))
        .collect();
    findings.sort_by(|a, b| a.log10_p.total_cmp(&b.log10_p));
    let verdict = match findings.first() {
        _ if pairs.len() < pairs_needed => Verdict::TooShort,
        Some(best) if best.log10_p_family <= FALSE_POSITIVES.log10() => Verdict::Marked {
            team: best.team.clone(),
            epoch: best.epoch,
        },
        _ => Verdict::NotMarked,
    };
    Report {
        tokens: texts.iter().map(Vec::len).sum(),
        pairs: pairs.len(),
        pairs_needed,
        keys,
        findings,
        verdict,
    }
}

/// How a text scores under keys of nobody.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    /// How many keys.
    pub decoys: usize,
    /// How likely uniform p-values lie as these do: a small number says that p-values of this text mean nothing.
    pub uniform_p: f64,
}

/// Scores texts under `decoys` random keys, under which they cannot be marked.
///
/// # Errors
/// When the system gives no randomness.
pub fn calibrate(texts: &[Vec<u32>], decoys: usize) -> Result<Calibration, std::io::Error> {
    let random = SystemRandom::new();
    let key = |_| {
        let mut bytes = [0; 16];
        let filled = random.fill(&mut bytes);
        filled.map_err(|_| std::io::Error::other("no randomness from the operating system"))?;
        Ok::<_, std::io::Error>(MarkKey::from_bytes(bytes))
    };
    let keys = (0..decoys).map(key).collect::<Result<Vec<_>, _>>()?;
    Ok(Calibration {
        decoys,
        uniform_p: uniform_p(&p_values(texts, &keys)),
    })
}

/// The p-value of texts, as one, under each key by itself.
#[must_use]
pub fn p_values(texts: &[Vec<u32>], keys: &[MarkKey]) -> Vec<f64> {
    let pairs = distinct(texts);
    let under = |key: &MarkKey| ln_tail(pairs.len(), score(key, &pairs)).exp();
    keys.iter().map(under).collect()
}

/// Pairs at which 95 of 100 marked texts are told, of `bits` of entropy per token, when `keys` are tried. Fitted to simulated
/// answers (GUARD section 3): 176, 200 and 257 pairs for 1, 16 and 1,024 keys at one bit, nine times as many at 0.3.
#[must_use]
pub fn pairs_needed(bits: f64, keys: usize) -> usize {
    let at_one_bit = 176.0 + 8.1 * (keys.max(1) as f64).log2();
    // Beyond two bits tokens bring hardly more, and below a hundredth nothing is brought at all.
    let bits = if bits.is_nan() {
        0.01
    } else {
        bits.clamp(0.01, 2.0)
    };
    (at_one_bit * bits.powf(-1.83)).ceil() as usize
}

/// Each pair once, in the order of contexts: one that comes again has the same noise and says nothing new.
fn distinct(texts: &[Vec<u32>]) -> Vec<Pair> {
    let windows = texts.iter().flat_map(|text| text.windows(CONTEXT + 1));
    let pair = |window: &[u32]| {
        let (token, context) = window.split_last()?;
        Some((context.try_into().ok()?, *token))
    };
    let pairs: HashSet<Pair> = windows.filter_map(pair).collect();
    let mut pairs: Vec<Pair> = pairs.into_iter().collect();
    pairs.sort_unstable();
    pairs
}

/// The sum of scores under a key: exponential numbers of mean 1 without a mark.
fn score(key: &MarkKey, pairs: &[Pair]) -> f64 {
    let one = |(context, token): &Pair| -(1.0 - key.noise(*context).of(*token)).ln();
    pairs.iter().map(one).sum()
}

fn likeliest(team: &TeamMark, pairs: &[Pair], keys: usize) -> Option<Finding> {
    let under = |sub_key: u8| {
        let sum = score(&team.sub_key(sub_key), pairs);
        let log10_p = ln_tail(pairs.len(), sum) / std::f64::consts::LN_10;
        Finding {
            team: team.team().to_owned(),
            epoch: team.epoch(),
            sub_key,
            score: sum / pairs.len().max(1) as f64,
            log10_p,
            log10_p_family: (log10_p + (keys as f64).log10()).min(0.0),
        }
    };
    let all = (0..SUB_KEYS).map(under);
    all.min_by(|a, b| a.log10_p.total_cmp(&b.log10_p))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::mark::MarkRoot;

    #[test]
    fn pairs_count_once_and_short_texts_have_none() {
        assert!(distinct(&[vec![1, 2, 3, 4]]).is_empty());
        assert_eq!(distinct(&[vec![1, 2, 3, 4, 5]]), [([1, 2, 3, 4], 5)]);
        let again = [
            vec![1, 2, 3, 4, 5],
            vec![1, 2, 3, 4, 5],
            vec![1, 2, 3, 4, 6],
        ];
        assert_eq!(distinct(&again).len(), 2);
    }

    #[test]
    fn more_keys_and_less_entropy_need_more_text() {
        assert!((170..185).contains(&pairs_needed(1.0, 1)));
        assert!((250..265).contains(&pairs_needed(1.0, 1024)));
        assert!((2200..2450).contains(&pairs_needed(0.3, 1024)));
        assert!(pairs_needed(0.0, 16) > 100_000);
        assert!(pairs_needed(f64::NAN, 1) > 0);
    }

    #[test]
    fn no_verdict_below_the_length_that_is_needed() {
        let teams = [MarkRoot::new([1; 32], 1).team("red")];
        let report = look(&[(0..100).collect()], &teams, 1.0);
        assert_eq!(report.verdict, Verdict::TooShort);
        assert_eq!((report.tokens, report.pairs, report.keys), (100, 96, 16));
        let report = look(&[(0..400).collect()], &teams, 1.0);
        assert_eq!(report.verdict, Verdict::NotMarked);
        assert_eq!(report.findings.len(), 1);
        let nobody = look(&[(0..400).collect()], &[], 1.0);
        assert_eq!(nobody.verdict, Verdict::NotMarked);
    }
}
