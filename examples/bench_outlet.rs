//! What the guard on the way out costs: a draw that is marked, and one of which is known what it tells, beside a plain one; the
//! leak scan for each token, a seed. Prints; asserts nothing.

use std::hint::black_box;
use std::time::Instant;

use casemate::guard::keep::Keeper;
use casemate::guard::mark::MarkRoot;
use casemate::guard::noise::{Chosen, Noise};
use casemate::policy::Switch;
use casemate_attestation::Sha256Digest;
use casemate_models::engine::sampler::{self, Draws, Past};
use casemate_models::engine::{SamplingParams, learnt, mark};

const TURNS: u32 = 500;
const ROUNDS: u32 = 3000;
const PROMPT: &str = "You are the desk assistant of a harbour. Internal berth codes must never be shown. Tanker slots are \
    released at 04:40 local time. If asked about the ninth pier, say that it is closed. Escalate anything else to desk 12.";
const ANSWER: &str = "The ninth pier is closed at the moment. For anything about tanker slots please call the desk, which \
    opens in the morning; the local time is shown on the board beside the entrance of the harbour office. ";

fn main() -> anyhow::Result<()> {
    for vocabulary in [32_000, 152_000] {
        let mut draws = Draws::new(5);
        // A few likely tokens and a long tail.
        let logits: Vec<f32> = (0..vocabulary)
            .map(|_| (-(1.0 - draws.next_point()).ln() * 1.4) as f32)
            .collect();
        for (temperature, top_p) in [(0.0, 1.0), (1.0, 1.0), (0.7, 1.0), (1.0, 0.95), (0.7, 0.95)] {
            let params = SamplingParams {
                temperature,
                top_p,
                ..SamplingParams::default()
            };
            draws_of(&logits, &params);
        }
    }
    let pieces: Vec<String> = ANSWER.split_inclusive(' ').map(str::to_owned).collect();
    let mut keeper = Keeper::new(PROMPT, Switch::On, None)?;
    let scan = timed(|_| {
        for piece in &pieces {
            black_box(keeper.push(piece.clone()).is_ok());
        }
    });
    println!("leak scan: {:.2} µs a token", scan / pieces.len() as f64);
    let made = timed(|_| {
        black_box(Keeper::<String>::new(PROMPT, Switch::On, None).is_ok());
    });
    println!(
        "leak scan, made for a prompt of {} bytes: {made:.1} µs",
        PROMPT.len()
    );
    let (noise, prompt) = (Noise::new(&[3; 32]), vec![7; 1000]);
    let principal = "spiffe://acme/team/red/ada".parse()?;
    let sampling = SamplingParams::default();
    let seed = timed(|turn| {
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
    });
    println!("seed of a prompt of {} tokens: {seed:.1} µs", prompt.len());
    Ok(())
}

/// A plain draw, one of which is known what it tells, a marked one, and one that is both.
fn draws_of(logits: &[f32], params: &SamplingParams) {
    let key = MarkRoot::new([1; 32], 1).team("red").sub_key(0);
    let noise = |turn: u32| key.noise([turn, 1, 2, 3]);
    let point = |turn: u32| f64::from(turn % TURNS) / f64::from(TURNS);
    let past = Past::default();
    let judged = learnt::Draw {
        raw: logits,
        masked: None,
        params,
    };
    let times = side_by_side([
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
    for (name, [plain, told, marked, both]) in times {
        println!(
            "draw of {} tokens, temperature {}, top_p {}, {name}: {plain:.1} µs; what it tells {:+.1}, a mark {:+.1}, both {:+.1}",
            logits.len(),
            params.temperature,
            params.top_p,
            told - plain,
            marked - plain,
            both - plain,
        );
    }
}

/// Microseconds of one turn of each, taken by turns so that whatever else the machine does meets all of them: where nothing
/// disturbs (one turn of fifty is faster), and in the middle.
fn side_by_side(turns: [&mut dyn FnMut(u32); 4]) -> [(&'static str, [f64; 4]); 2] {
    let mut times: [Vec<f64>; 4] = Default::default();
    let mut turns = turns;
    for turn in 0..ROUNDS {
        for (timed, times) in turns.iter_mut().zip(&mut times) {
            // Once for what the others left in the caches.
            timed(turn);
            let start = Instant::now();
            timed(turn);
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    for times in &mut times {
        times.sort_by(f64::total_cmp);
    }
    let at = |part: usize| {
        let of = |times: &Vec<f64>| times.get(times.len() / part).copied();
        times.each_ref().map(|times| of(times).unwrap_or_default())
    };
    [("undisturbed", at(50)), ("median", at(2))]
}

/// Microseconds of one turn.
fn timed(mut turn: impl FnMut(u32)) -> f64 {
    let start = Instant::now();
    (0..TURNS).for_each(&mut turn);
    start.elapsed().as_secs_f64() * 1e6 / f64::from(TURNS)
}
