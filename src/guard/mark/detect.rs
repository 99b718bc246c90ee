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
    /// Which of its sub-keys, where the text is one answer.
    pub sub_key: Option<u8>,
    /// Mean score of a pair, or of an answer where there are several: 1 where there is no mark.
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

/// Looks for the marks of `teams` in texts of tokens, whose tokens have `bits` of entropy on average. One text is taken for one
/// answer, several for an answer each, in whatever sub-keys they are marked.
#[must_use]
pub fn look(texts: &[Vec<u32>], teams: &[TeamMark], bits: f64) -> Report {
    let pairs = distinct(texts);
    let count = pairs.iter().map(Vec::len).sum();
    let (keys, room) = match pairs.len() {
        0 | 1 => (teams.len() * usize::from(SUB_KEYS), 1),
        // Each answer is tried under all sub-keys by itself, which takes more text.
        _ => (teams.len(), 2),
    };
    let pairs_needed = room * pairs_needed(bits, teams.len() * usize::from(SUB_KEYS));
    let mut findings: Vec<Finding> = teams
        .iter()
        .filter_map(|team| match &*pairs {
            [] => None,
            [pairs] => likeliest(team, pairs, keys),
            several => Some(over_all(team, several, keys)),
        })
        .collect();
    findings.sort_by(|a, b| a.log10_p.total_cmp(&b.log10_p));
    let verdict = match findings.first() {
        _ if count < pairs_needed => Verdict::TooShort,
        Some(best) if best.log10_p_family <= FALSE_POSITIVES.log10() => Verdict::Marked {
            team: best.team.clone(),
            epoch: best.epoch,
        },
        _ => Verdict::NotMarked,
    };
    Report {
        tokens: texts.iter().map(Vec::len).sum(),
        pairs: count,
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
    let pairs: Vec<Pair> = distinct(texts).concat();
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

/// Each pair once, in the first text that has it: one that comes again has the same noise and says nothing new. Texts without
/// any are left out.
fn distinct(texts: &[Vec<u32>]) -> Vec<Vec<Pair>> {
    let mut seen = HashSet::new();
    let of_text = |text: &Vec<u32>| {
        let pair = |window: &[u32]| {
            let (token, context) = window.split_last()?;
            Some((context.try_into().ok()?, *token))
        };
        let pairs = text.windows(CONTEXT + 1).filter_map(pair);
        pairs
            .filter(|pair| seen.insert(*pair))
            .collect::<Vec<Pair>>()
    };
    let pairs: Vec<Vec<Pair>> = texts.iter().map(of_text).collect();
    pairs
        .into_iter()
        .filter(|pairs| !pairs.is_empty())
        .collect()
}

/// The sum of scores under a key: exponential numbers of mean 1 without a mark.
fn score(key: &MarkKey, pairs: &[Pair]) -> f64 {
    let one = |(context, token): &Pair| -(1.0 - key.noise(*context).of(*token)).ln();
    pairs.iter().map(one).sum()
}

/// One answer under the sub-key that fits it best.
fn likeliest(team: &TeamMark, pairs: &[Pair], keys: usize) -> Option<Finding> {
    let under = |sub_key: u8| {
        let sum = score(&team.sub_key(sub_key), pairs);
        let ln_p = ln_tail(pairs.len(), sum);
        finding(
            team,
            Some(sub_key),
            sum / pairs.len().max(1) as f64,
            ln_p,
            keys,
        )
    };
    let all = (0..SUB_KEYS).map(under);
    all.min_by(|a, b| a.log10_p.total_cmp(&b.log10_p))
}

/// Several answers: each under the sub-key that fits it best, corrected for the choice (Sidak), and all of them together
/// (Fisher). P-values of independent keys are uniform, so the logarithms add up to a Gamma number again.
fn over_all(team: &TeamMark, answers: &[Vec<Pair>], keys: usize) -> Finding {
    let sub_keys: Vec<MarkKey> = (0..SUB_KEYS).map(|number| team.sub_key(number)).collect();
    let of_answer = |pairs: &Vec<Pair>| {
        let under = |key| ln_tail(pairs.len(), score(key, pairs));
        let least = sub_keys.iter().map(under).fold(0.0, f64::min);
        // 1 - (1 - p)^16, without losing the small ones.
        let corrected = -(f64::from(SUB_KEYS) * (-least.exp()).ln_1p()).exp_m1();
        -match least < -30.0 {
            true => least + f64::from(SUB_KEYS).ln(),
            false => corrected.ln(),
        }
    };
    let sum: f64 = answers.iter().map(of_answer).sum();
    let ln_p = ln_tail(answers.len(), sum);
    finding(team, None, sum / answers.len().max(1) as f64, ln_p, keys)
}

fn finding(team: &TeamMark, sub_key: Option<u8>, score: f64, ln_p: f64, keys: usize) -> Finding {
    let log10_p = ln_p / std::f64::consts::LN_10;
    Finding {
        team: team.team().to_owned(),
        epoch: team.epoch(),
        sub_key,
        score,
        log10_p,
        log10_p_family: (log10_p + (keys as f64).log10()).min(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::mark::MarkRoot;

    #[test]
    fn pairs_count_once_and_short_texts_have_none() {
        assert!(distinct(&[vec![1, 2, 3, 4]]).is_empty());
        assert_eq!(distinct(&[vec![1, 2, 3, 4, 5]]), [[([1, 2, 3, 4], 5)]]);
        let again = [
            vec![1, 2, 3, 4, 5],
            vec![1, 2, 3, 4, 5],
            vec![1, 2, 3, 4, 6],
        ];
        let found = distinct(&again);
        assert_eq!(found, [[([1, 2, 3, 4], 5)], [([1, 2, 3, 4], 6)]]);
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
        let two = look(&[(0..600).collect(), (600..1200).collect()], &teams, 1.0);
        assert_eq!((two.keys, two.verdict), (1, Verdict::NotMarked));
        assert_eq!(two.pairs_needed, 2 * report.pairs_needed);
        let nobody = look(&[(0..400).collect()], &[], 1.0);
        assert_eq!(nobody.verdict, Verdict::NotMarked);
    }
}
