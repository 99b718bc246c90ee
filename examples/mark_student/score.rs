//! How a student's answers score under the team's key and under keys of nobody: as `casemate mark verify --jsonl` judges them,
//! which tells passages that were learnt by heart; and all pairs under all of the team's sub-keys at once, which asks whether
//! the choice of words is the team's where no passage is.
//!
//! Every view of the answers chooses pairs without any key, so p-values of those who marked nothing are exact and uniform.

use std::collections::{HashMap, HashSet};
use std::f64::consts::LN_10;

use anyhow::{Context, Result};
use casemate::guard::mark::{SUB_KEYS, TeamMark, ln_tail, look, uniform_p};
use casemate_models::engine::MarkKey;
use casemate_models::engine::mark::CONTEXT;
use casemate_models::tokenizer::Tokenizer;
use casemate_models::weights::{GgufFile, WeightSource};
use serde_json::{Value, json};

use super::{Answer, Options, answers, team};

type Place = [u32; CONTEXT];
type Pair = (Place, u32);

/// Prints what is found as JSON.
pub fn score(options: &Options) -> Result<()> {
    let source = GgufFile::open(&options.model)?;
    let tokenizer = Tokenizer::from_header(source.header())?;
    let own = team(options.team.as_deref().context("--team is missing")?);
    let others: Vec<TeamMark> = (0..options.decoys)
        .map(|number| team(&format!("nobody-{number}")))
        .collect();
    let texts = tokens(&tokenizer, options.file.as_deref())?;
    let plain = tokens(&tokenizer, options.plain.as_deref())?;
    let found = counted(&texts);
    let known = contexts(&plain);
    let commonness = |pair: &Pair| known.get(&pair.0).copied().unwrap_or(0);
    let view = |name: &str, keep: &dyn Fn(&Pair, u32) -> bool| {
        let kept = found.iter().filter(|(pair, count)| keep(pair, **count));
        let pairs: Vec<Pair> = kept.map(|(pair, _)| *pair).collect();
        let under = |team: &TeamMark| log10_p(team, &pairs);
        row(name, pairs.len(), under(&own), others.iter().map(under))
    };
    let mut views = vec![verify(&texts, &own, &others), view("words", &|_, _| true)];
    for least in [1, 4, 16] {
        let name = format!("words after {least} and more");
        views.push(view(&name, &|pair, _| commonness(pair) >= least));
    }
    for least in [2, 3, 5] {
        let name = format!("words {least} times and more");
        views.push(view(&name, &|_, count| count >= least));
    }
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let document = json!({"tokens": tokens, "answers": texts.len(), "views": views});
    println!("{document:#}");
    Ok(())
}

/// The answers of a file, cut as `casemate mark verify` does.
fn tokens(tokenizer: &Tokenizer, path: Option<&std::path::Path>) -> Result<Vec<Vec<u32>>> {
    let answers = answers(path.context("a file of answers is missing")?)?;
    let bos = tokenizer.special().bos;
    let one = |answer: &Answer| {
        let mut ids = tokenizer.encode_text(&answer.text)?;
        if bos.is_some() && ids.first().copied() == bos {
            ids.remove(0);
        }
        Ok(ids)
    };
    answers.iter().map(one).collect()
}

/// Each pair of the texts once, and how often it stands there.
fn counted(texts: &[Vec<u32>]) -> HashMap<Pair, u32> {
    let mut found = HashMap::new();
    for window in texts.iter().flat_map(|text| text.windows(CONTEXT + 1)) {
        if let Some((token, context)) = window.split_last()
            && let Ok(context) = context.try_into()
        {
            *found.entry((context, *token)).or_insert(0) += 1;
        }
    }
    found
}

/// In how many texts each context stands.
fn contexts(texts: &[Vec<u32>]) -> HashMap<Place, u32> {
    let mut found = HashMap::new();
    for text in texts {
        let places = text.windows(CONTEXT);
        let places: HashSet<Place> = places.filter_map(|place| place.try_into().ok()).collect();
        for place in places {
            *found.entry(place).or_insert(0) += 1;
        }
    }
    found
}

/// The decimal logarithm of the p-value under all keys of a team together. Scores under several keys are independent without a
/// mark, so their sum is a Gamma number of as many times the pairs.
fn log10_p(team: &TeamMark, pairs: &[Pair]) -> f64 {
    let keys: Vec<MarkKey> = (0..SUB_KEYS).map(|number| team.sub_key(number)).collect();
    let one = |(context, token): &Pair| -> f64 {
        let under = |key: &MarkKey| -(1.0 - key.noise(*context).of(*token)).ln();
        keys.iter().map(under).sum()
    };
    let sum: f64 = pairs.iter().map(one).sum();
    ln_tail(pairs.len() * keys.len(), sum) / LN_10
}

/// As the command would say if each team were the only one.
fn verify(texts: &[Vec<u32>], own: &TeamMark, others: &[TeamMark]) -> Value {
    let under = |team: &TeamMark| {
        let report = look(texts, std::slice::from_ref(team), 1.0);
        let found = report.findings.first();
        let log10 = found.map_or(0.0, |finding| finding.log10_p_family);
        (report.pairs, log10)
    };
    let (pairs, log10) = under(own);
    row(
        "verify",
        pairs,
        log10,
        others.iter().map(|team| under(team).1),
    )
}

fn row(name: &str, pairs: usize, own: f64, others: impl Iterator<Item = f64>) -> Value {
    let mut wrong: Vec<f64> = others.map(|log10| 10_f64.powf(log10)).collect();
    wrong.sort_by(f64::total_cmp);
    json!({
        "view": name, "pairs": pairs, "log10_p": own, "wrong_p_least": wrong.first(),
        "wrong_p_median": wrong.get(wrong.len() / 2), "wrong_uniform_p": uniform_p(&wrong),
    })
}
