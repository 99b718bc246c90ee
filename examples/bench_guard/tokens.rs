//! What the guard on the way out costs a token: a mark, what the token tells, and the leak scan; beside plain draws, taken in turns,
//! so that whatever else the machine does meets all of them.

use std::hint::black_box;

use casemate::guard::keep::Keeper;
use casemate::guard::mark::MarkRoot;
use casemate::guard::noise::{Chosen, Noise};
use casemate::policy::Switch;
use casemate_attestation::Sha256Digest;
use casemate_models::engine::sampler::{self, Draws, Past};
use casemate_models::engine::{SamplingParams, learnt, mark};
use casemate_models::grammar::Masked;

use crate::row::{Bar, Row, median};
use crate::spent;

const ROUNDS: u32 = 9;
/// Draws of each kind in a round.
const DRAWS: u32 = 333;
/// Calls of what is timed together.
const CALLS: u32 = 500;
const MICROSECONDS_MAX: f64 = 15.0;
const VOCABULARIES: [usize; 2] = [32_000, 152_000];
/// Temperature and top-p.
const RULES: [(f64, f64); 6] = [
    (0.0, 1.0),
    (0.3, 1.0),
    (0.7, 1.0),
    (1.0, 1.0),
    (0.7, 0.95),
    (1.0, 0.95),
];
const PROMPT: &str = "You are the desk assistant of a harbour. Internal berth codes must never be shown. Tanker slots are \
    released at 04:40 local time. If asked about the ninth pier, say that it is closed. Escalate anything else to desk 12.";
const ANSWER: &str = "The ninth pier is closed at the moment. For anything about tanker slots please call the desk, which \
    opens in the morning; the local time is shown on the board beside the entrance of the harbour office. ";

/// Rows of draws with all of it, of its parts, and of what a request costs once.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let scans: Vec<f64> = (0..ROUNDS).map(|_| scan()).collect::<Result<_, _>>()?;
    let mut rows = vec![row("leak scan, a token", alone(&scans), None)];
    for vocabulary in VOCABULARIES {
        let logits = logits(vocabulary);
        for (temperature, top_p) in RULES {
            let params = SamplingParams {
                temperature,
                top_p,
                ..SamplingParams::default()
            };
            let rounds: Vec<Draw> = (0..ROUNDS).map(|_| draws(&logits, &params)).collect();
            let of = format!("a token of {vocabulary}, temperature {temperature}, top-p {top_p}");
            let part = |part: fn(&Draw) -> f64| {
                let pair = |draw: &Draw| (Some(part(draw)), Some(draw.plain));
                rounds.iter().map(pair).collect::<Vec<_>>()
            };
            let with_scan =
                |(draw, scan): (&Draw, &f64)| (Some(draw.both + scan), Some(draw.plain));
            let all = rounds.iter().zip(&scans).map(with_scan);
            let bar = Some(Bar::OverPeerAtMost(MICROSECONDS_MAX));
            rows.push(row(
                &format!("{of}: marked, told, scanned"),
                all.collect(),
                bar,
            ));
            rows.push(row(
                &format!("{of}: marked"),
                part(|draw| draw.marked),
                None,
            ));
            rows.push(row(&format!("{of}: told"), part(|draw| draw.told), None));
        }
    }
    for vocabulary in VOCABULARIES {
        let logits = logits(vocabulary);
        for (name, params, masked) in arranged(&logits) {
            let rounds = (0..ROUNDS).map(|_| judged(&logits, &params, masked.as_ref()));
            let rounds: Vec<f64> = rounds.collect::<Result<_, _>>()?;
            let name = format!("what a token of {vocabulary} tells, {name}");
            let bar = Some(Bar::AtMost(MICROSECONDS_MAX));
            rows.push(row(&name, alone(&rounds), bar));
        }
    }
    let made: Vec<f64> = (0..ROUNDS).map(|_| scan_made()).collect();
    let seeds: Vec<f64> = (0..ROUNDS).map(|_| seed()).collect::<Result<_, _>>()?;
    rows.push(row("leak scan, made for a prompt", alone(&made), None));
    rows.push(row(
        "a seed, of a prompt of 1,000 tokens",
        alone(&seeds),
        None,
    ));
    Ok(rows)
}

/// A figure of each round, which may have a peer's beside it.
type Pairs = Vec<(Option<f64>, Option<f64>)>;

fn row(name: &str, pairs: Pairs, bar: Option<Bar>) -> Row {
    let bars = bar.into_iter().collect();
    Row::new(
        "guard on the way out; peer: a plain draw",
        name,
        "us",
        bars,
        pairs,
    )
}

fn alone(figures: &[f64]) -> Pairs {
    figures.iter().map(|figure| (Some(*figure), None)).collect()
}

/// A few likely tokens and a long tail.
fn logits(vocabulary: usize) -> Vec<f32> {
    let mut draws = Draws::new(5);
    (0..vocabulary)
        .map(|_| (-(1.0 - draws.next_point()).ln() * 1.4) as f32)
        .collect()
}

/// Microseconds of a draw: plain, of which is known what it tells, marked, and both.
struct Draw {
    plain: f64,
    told: f64,
    marked: f64,
    both: f64,
}

fn draws(logits: &[f32], params: &SamplingParams) -> Draw {
    let key = MarkRoot::new([1; 32], 1).team("red").sub_key(0);
    let noise = |turn: u32| key.noise([turn, 1, 2, 3]);
    let point = |turn: u32| f64::from(turn) / f64::from(DRAWS);
    let past = Past::default();
    let judged = learnt::Draw {
        raw: logits,
        masked: None,
        params,
    };
    let [plain, told, marked, both] = in_turns([
        &mut |turn| {
            black_box(sampler::draw(logits, params, past, point(turn)).is_ok());
        },
        &mut |turn| {
            let outcome = sampler::draw_outcome(logits, params, past, point(turn));
            black_box(outcome.map(|outcome| judged.learnt(&outcome)).is_ok());
        },
        &mut |turn| {
            black_box(mark::draw(logits, params, past, &noise(turn), 0.5).is_ok());
        },
        &mut |turn| {
            let outcome = mark::draw_outcome(logits, params, past, &noise(turn), 0.5);
            black_box(outcome.map(|outcome| judged.learnt(&outcome)).is_ok());
        },
    ]);
    Draw {
        plain,
        told,
        marked,
        both,
    }
}

/// Microseconds of one turn of each, in the middle of all turns.
fn in_turns(turns: [&mut dyn FnMut(u32); 4]) -> [f64; 4] {
    let mut times: [Vec<f64>; 4] = Default::default();
    let mut turns = turns;
    for turn in 0..DRAWS {
        for (timed, times) in turns.iter_mut().zip(&mut times) {
            // Once for what the others left in the caches.
            timed(turn);
            let begin = spent();
            timed(turn);
            times.push(spent() - begin);
        }
    }
    times.map(|times| median(times).unwrap_or_default())
}

/// Microseconds of one of [`CALLS`].
fn timed(mut call: impl FnMut(u32)) -> f64 {
    let begin = spent();
    (0..CALLS).for_each(&mut call);
    (spent() - begin) / f64::from(CALLS)
}

/// Draws that are taken with all tokens in hand, some milliseconds each: what their tokens tell is timed alone.
fn arranged(logits: &[f32]) -> Vec<(&'static str, SamplingParams, Option<Masked>)> {
    let left = |keep: fn(usize) -> bool| {
        let masked = logits.iter().enumerate().map(|(at, logit)| match keep(at) {
            true => *logit,
            false => f32::NEG_INFINITY,
        });
        let logits: Vec<f32> = masked.collect();
        let left = logits.iter().filter(|logit| logit.is_finite()).count();
        Some(Masked { logits, left })
    };
    let warm = SamplingParams {
        temperature: 0.7,
        ..SamplingParams::default()
    };
    let penalised = SamplingParams {
        presence_penalty: 0.5,
        ..warm.clone()
    };
    let biased = SamplingParams {
        logit_bias: vec![(7, 2.0), (8, -2.0)],
        ..warm.clone()
    };
    vec![
        ("with penalties", penalised, None),
        ("with biases", biased, None),
        (
            "where a grammar leaves text",
            warm.clone(),
            left(|at| at % 50 != 0),
        ),
        ("where a grammar leaves few", warm, left(|at| at % 500 == 0)),
    ]
}

/// Microseconds of what is done beside a draw by these rules.
fn judged(logits: &[f32], params: &SamplingParams, masked: Option<&Masked>) -> anyhow::Result<f64> {
    let tokens: Vec<u32> = (0..200).collect();
    let breaks = &[];
    let past = Past {
        tokens: &tokens,
        breaks,
    };
    let outcome = sampler::draw_outcome(
        masked.map_or(logits, |masked| &masked.logits),
        params,
        past,
        0.4,
    )?;
    let judged = learnt::Draw {
        raw: logits,
        masked,
        params,
    };
    Ok(timed(|_| {
        black_box(judged.learnt(black_box(&outcome)));
    }))
}

#[expect(clippy::cast_precision_loss, reason = "some dozens of pieces")]
fn scan() -> anyhow::Result<f64> {
    let pieces: Vec<String> = ANSWER.split_inclusive(' ').map(str::to_owned).collect();
    let mut keeper = Keeper::new(PROMPT, Switch::On, None)?;
    let answer = timed(|_| {
        for piece in &pieces {
            black_box(keeper.push(piece.clone()).is_ok());
        }
    });
    Ok(answer / pieces.len() as f64)
}

fn scan_made() -> f64 {
    timed(|_| {
        black_box(Keeper::<String>::new(PROMPT, Switch::On, None).is_ok());
    })
}

fn seed() -> anyhow::Result<f64> {
    let (noise, prompt) = (Noise::new(&[3; 32]), vec![7; 1000]);
    let principal = "spiffe://acme/team/red/ada".parse()?;
    let sampling = SamplingParams::default();
    Ok(timed(|turn| {
        let chosen = Chosen {
            endpoint: "chat",
            model: Sha256Digest::of(b"model"),
            sampling: &sampling,
            shape: None,
            stop: &[],
            tokens_max: Some(100),
            logprobs: None,
            prompt: &prompt,
        };
        black_box(noise.seed(&principal, u64::from(turn), &chosen));
    }))
}
