//! What the guard on the way out costs: a marked draw beside a plain one, the leak scan for each token, a seed. Prints; asserts
//! nothing.

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
        let greedy = SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        };
        weighed(&logits, "temperature 0", &greedy);
        for (name, params) in [
            ("temperature 1", SamplingParams::default()),
            (
                "temperature 0.7",
                SamplingParams {
                    temperature: 0.7,
                    ..SamplingParams::default()
                },
            ),
            (
                "top_p 0.95",
                SamplingParams {
                    top_p: 0.95,
                    ..SamplingParams::default()
                },
            ),
        ] {
            weighed(&logits, name, &params);
            let key = MarkRoot::new([1; 32], 1).team("red").sub_key(0);
            let plain = timed(|turn| {
                let point = f64::from(turn) / f64::from(TURNS);
                black_box(sampler::draw(&logits, &params, Past::default(), point).is_ok());
            });
            let marked = timed(|turn| {
                let noise = key.noise([turn, 1, 2, 3]);
                black_box(mark::draw(&logits, &params, Past::default(), &noise, 0.5).is_ok());
            });
            println!(
                "draw of {vocabulary} tokens, {name}: {plain:.1} µs plain, {marked:.1} µs marked"
            );
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

/// What it costs to know what a drawn token tells.
fn weighed(logits: &[f32], name: &str, params: &SamplingParams) {
    let draw = |turn: u32| {
        let point = f64::from(turn) / f64::from(TURNS);
        sampler::draw_outcome(logits, params, Past::default(), point)
    };
    let plain = timed(|turn| {
        black_box(draw(turn).is_ok());
    });
    let judged = learnt::Draw {
        raw: logits,
        masked: None,
        params,
    };
    let weighed = timed(|turn| {
        black_box(draw(turn).map(|outcome| judged.learnt(&outcome)).is_ok());
    });
    println!(
        "draw of {} tokens, {name}: {plain:.1} µs, with what it tells {weighed:.1} µs",
        logits.len()
    );
}

/// Microseconds of one turn.
fn timed(mut turn: impl FnMut(u32)) -> f64 {
    let start = Instant::now();
    (0..TURNS).for_each(&mut turn);
    start.elapsed().as_secs_f64() * 1e6 / f64::from(TURNS)
}
