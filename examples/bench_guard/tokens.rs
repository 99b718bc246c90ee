//! What the guard on the way out costs a token: a mark, what the token tells and is charged, and the leak scan; beside plain draws,
//! taken in turns, so that whatever else the machine does meets all of them.

use std::hint::black_box;

use casemate::guard::mark::MarkRoot;
use casemate::guard::noise::{Chosen, Noise};
use casemate_attestation::Sha256Digest;
use casemate_models::engine::masked::Masked;
use casemate_models::engine::sampler::{self, Past, SamplingError};
use casemate_models::engine::{MarkKey, SamplingParams, learnt, mark};

use crate::kinds::{self, Kind};
use crate::row::{Bar, Row, median};
use crate::{charges, scans, spent};

pub const ROUNDS: u32 = 9;
/// Draws of each kind in a round.
const DRAWS: u32 = 151;
/// Calls of what is timed together.
const CALLS: u32 = 500;
pub const MICROSECONDS_MAX: f64 = 15.0;
const VOCABULARIES: [usize; 2] = [32_000, 152_000];
/// Rows of draws with all of it, of its parts, and of what a request costs once.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let (scans, mut rows) = scans::rows()?;
    let (charges, more) = charges::rows()?;
    rows.extend(more);
    for vocabulary in VOCABULARIES {
        let logits = kinds::logits(vocabulary);
        for kind in kinds::all(&logits) {
            let timed = Timed::of(&logits, &kind)?;
            let of = format!("a token of {vocabulary}, {}", kind.name);
            // With all that a token meets on its way out; marks alone to see what they take.
            let with_all = |times: &[f64]| {
                let others = scans.iter().zip(&charges);
                let all = times.iter().zip(others);
                all.map(|(time, (scan, charge))| time + scan + charge)
                    .collect()
            };
            let bar = Some(Bar::OverPeerAtMost(MICROSECONDS_MAX));
            let parts = [
                ("told, scanned, charged", with_all(&timed.told), bar),
                ("marked, told, scanned, charged", with_all(&timed.both), bar),
                ("marked", timed.marked, None),
            ];
            for (part, times, bar) in parts {
                let pairs = times.iter().zip(&timed.plain);
                let pairs: Pairs = pairs
                    .map(|(time, plain)| (Some(*time), Some(*plain)))
                    .collect();
                if !pairs.is_empty() {
                    rows.push(row(&format!("{of}: {part}"), pairs, bar));
                }
            }
        }
    }
    let seeds: Vec<f64> = (0..ROUNDS).map(|_| seed()).collect::<Result<_, _>>()?;
    rows.push(row(
        "a seed, of a prompt of 16,000 tokens",
        alone(&seeds),
        Some(Bar::AtMost(scans::PROMPT_MICROSECONDS_MAX)),
    ));
    Ok(rows)
}

/// A figure of each round, which may have a peer's beside it.
pub type Pairs = Vec<(Option<f64>, Option<f64>)>;

pub fn row(name: &str, pairs: Pairs, bar: Option<Bar>) -> Row {
    let bars = bar.into_iter().collect();
    Row::new(
        "guard on the way out; peer: a plain draw",
        name,
        "us",
        bars,
        pairs,
    )
}

pub fn alone(figures: &[f64]) -> Pairs {
    figures.iter().map(|figure| (Some(*figure), None)).collect()
}

/// Microseconds of a draw in each round: plain, of which is known what it tells, marked, and both. Nothing of marks where a kind has
/// none.
#[derive(Default)]
struct Timed {
    plain: Vec<f64>,
    told: Vec<f64>,
    marked: Vec<f64>,
    both: Vec<f64>,
}

impl Timed {
    fn of(logits: &[f32], kind: &Kind) -> anyhow::Result<Self> {
        let tokens = kinds::past();
        let breaks = &[];
        let past = Past {
            tokens: &tokens,
            breaks,
        };
        let root = MarkRoot::new([1; 32], 1);
        let drawn = Drawn {
            logits,
            kind,
            past,
            key: &root.team("red").sub_key(0),
        };
        drawn.draw(0, true, kind.marked)?;
        let mut timed = Self::default();
        for _ in 0..ROUNDS {
            let turn = |told, marked| {
                move |turn: u32| {
                    black_box(drawn.draw(turn, told, marked).is_ok());
                }
            };
            let [plain, told, marked, both] = in_turns([
                &mut turn(false, false),
                &mut turn(true, false),
                &mut turn(false, kind.marked),
                &mut turn(true, kind.marked),
            ]);
            timed.plain.push(plain);
            timed.told.push(told);
            if kind.marked {
                timed.marked.push(marked);
                timed.both.push(both);
            }
        }
        Ok(timed)
    }
}

/// Draws of one kind.
#[derive(Clone, Copy)]
struct Drawn<'a> {
    logits: &'a [f32],
    kind: &'a Kind,
    past: Past<'a>,
    key: &'a MarkKey,
}

impl Drawn<'_> {
    /// As the engine draws, where the guard wants to know what tokens tell, and where it marks them.
    fn draw(&self, turn: u32, told: bool, marked: bool) -> Result<u64, SamplingError> {
        let Self {
            logits, kind, past, ..
        } = *self;
        let params = &kind.params;
        let point = f64::from(turn % DRAWS) / f64::from(DRAWS);
        let follows = kind.follows.as_ref();
        let masked = follows.map(|follows| Masked::of(logits, follows, told));
        let masked = masked
            .transpose()
            .map_err(|_| SamplingError::NoFiniteLogit)?;
        let outcome = match &masked {
            Some(masked) => masked.draw(params, past, point)?,
            None if marked => {
                let noise = self.key.noise([turn, 1, 2, 3]);
                mark::draw_outcome(logits, params, past, &noise, point, told)?
            }
            None => sampler::draw_outcome(logits, params, past, point, told)?,
        };
        if !told {
            return Ok(outcome.token.into());
        }
        let judged = learnt::Draw {
            raw: logits,
            masked: masked.as_ref(),
            params,
        };
        Ok(judged.learnt(&outcome).millibits)
    }
}

/// Microseconds of one turn of each, in the middle of all turns.
fn in_turns(mut turns: [&mut dyn FnMut(u32); 4]) -> [f64; 4] {
    let mut times: [Vec<f64>; 4] = Default::default();
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
pub fn timed(mut call: impl FnMut(u32)) -> f64 {
    let begin = spent();
    (0..CALLS).for_each(&mut call);
    (spent() - begin) / f64::from(CALLS)
}

fn seed() -> anyhow::Result<f64> {
    let (noise, prompt) = (Noise::new(&[3; 32]), vec![7; 16_000]);
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
