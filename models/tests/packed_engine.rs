//! The engine on packed weights: it agrees with the reference, keeps tenants apart, and gives the same text whatever
//! else happens: other sequences, guesses, memory that runs out.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/bench.rs"]
mod bench;
#[path = "support/exactness.rs"]
mod exactness;
#[path = "support/tiny_model.rs"]
mod tiny_model;

use bench::{Bench, engine, limits, request, tenant, text};
use casemate_models::engine::{
    Engine, EngineLimits, Executor, GenerateRequest, KvKind, Opening, PAGE, SequenceId, Work,
};
use exactness::{KINDS, errors};
use tiny_model::{Family, TinyModel, VOCABULARY};

/// Opens a sequence; answers how many of its tokens were known.
fn open(engine: &mut dyn Engine, id: u64, name: u8, tokens: &[u32]) -> usize {
    let opening = Opening {
        tenant: tenant(name),
        tokens,
        capacity: tokens.len() + 100,
    };
    engine.open(SequenceId::new(id), opening).unwrap()
}

/// Logits after the last of `tokens`.
fn step(engine: &mut dyn Engine, id: u64, tokens: &[u32]) -> Vec<f32> {
    let work = Work {
        sequence: SequenceId::new(id),
        tokens,
        logits: 1,
    };
    let mut logits = Vec::new();
    engine.step(&[work], &mut logits).unwrap();
    assert_eq!(logits.len(), VOCABULARY);
    logits
}

/// The largest difference, as a part of the largest logit.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0_f32, f32::max) / largest
}

fn after(model: &TinyModel, limits: EngineLimits, tokens: &[u32]) -> Vec<f32> {
    let mut engine = engine(model, limits);
    open(&mut *engine, 0, 1, &[]);
    step(&mut *engine, 0, tokens)
}

#[test]
fn it_agrees_with_the_reference_for_every_family() {
    for family in Family::ALL {
        let model = TinyModel::new(family, 1);
        let tokens = text(1, 70);
        let exact = after(&model, limits(Executor::Reference), &tokens);
        let found = after(&model, limits(Executor::Packed), &tokens);
        // Keys and values are kept as F16.
        let difference = apart(&exact, &found);
        assert!(difference < 2e-3, "{family:?}: {difference}");
        let q8 = EngineLimits {
            cache: KvKind::Q8,
            ..limits(Executor::Packed)
        };
        let difference = apart(&exact, &after(&model, q8, &tokens));
        assert!(
            difference < 5e-2,
            "{family:?} with keys and values in 8 bits: {difference}"
        );
    }
}

#[test]
fn it_is_as_exact_as_the_reference_for_every_quantisation() {
    let tokens = text(2, 40);
    let by = |executor| {
        let tokens = &tokens;
        move |model: &TinyModel| after(model, limits(executor), tokens)
    };
    for kind in KINDS {
        let (ours, theirs) = errors(kind, 3, by(Executor::Packed), by(Executor::Reference));
        println!("{kind:?}: packed is {ours:.4} from exact, the reference {theirs:.4}");
        // F16 keys and values are all that is rounded beside F16 weights, of which the reference rounds activations too.
        assert!(
            ours < 1.5 * theirs + 0.05,
            "{kind:?}: {ours} where the reference has {theirs}"
        );
    }
}

#[test]
fn a_beginning_is_computed_once_for_its_tenant() {
    let mut engine = engine(&TinyModel::new(Family::Llama, 3), limits(Executor::Packed));
    let engine = &mut *engine;
    let all = engine.pages_free();
    let tokens = text(3, 3 * PAGE + 7);
    assert_eq!(open(engine, 0, 1, &tokens), 0);
    let first = step(engine, 0, &tokens);
    // While it still runs: what it has computed by its next step is found.
    step(engine, 0, &[9]);
    assert_eq!(open(engine, 1, 1, &tokens), 3 * PAGE);
    assert_eq!(
        step(engine, 1, &tokens[3 * PAGE..]),
        first,
        "to the last bit"
    );
    engine.close(SequenceId::new(0));
    engine.close(SequenceId::new(1));
    assert_eq!(engine.pages_free(), all, "what is only kept can be had");
    // The last token is computed in any case.
    assert_eq!(open(engine, 2, 1, &tokens[..2 * PAGE]), PAGE);
    let mut other = tokens.clone();
    other[PAGE + 3] += 1;
    assert_eq!(
        open(engine, 3, 1, &other),
        PAGE,
        "up to the page that differs"
    );
    engine.close(SequenceId::new(2));
    engine.close(SequenceId::new(3));
    engine.forget();
    assert_eq!(open(engine, 4, 1, &tokens), 0, "nothing is kept");
    engine.close(SequenceId::new(4));
    assert_eq!(engine.pages_free(), all);
}

#[test]
fn s03_what_one_tenant_computed_is_computed_again_for_another() {
    let mut engine = engine(&TinyModel::new(Family::Llama, 4), limits(Executor::Packed));
    let engine = &mut *engine;
    let tokens = text(4, 5 * PAGE);
    open(engine, 0, 1, &tokens);
    let first = step(engine, 0, &tokens);
    step(engine, 0, &[9]);
    let steps_of = |engine: &mut dyn Engine, id, name| {
        let known = open(engine, id, name, &tokens);
        (known, step(engine, id, &tokens[known..]))
    };
    // Running, closed, and closed after the other tenant computed the same: a stranger always computes everything, so
    // neither time nor the number of steps tells what others asked.
    assert_eq!(steps_of(engine, 1, 2), (0, first.clone()));
    engine.close(SequenceId::new(0));
    assert_eq!(steps_of(engine, 2, 3), (0, first.clone()));
    assert_eq!(steps_of(engine, 3, 1).0, 4 * PAGE, "its own is found");
}

#[test]
fn what_is_taken_back_leaves_no_trace() {
    let mut engine = engine(&TinyModel::new(Family::Qwen3, 5), limits(Executor::Packed));
    let engine = &mut *engine;
    let tokens = text(5, 2 * PAGE + 5);
    open(engine, 0, 1, &tokens);
    let usual = step(engine, 0, &tokens);
    open(engine, 1, 2, &tokens);
    step(engine, 1, &tokens[..PAGE - 2]);
    // Guesses across the end of a page, all of them wrong.
    step(engine, 1, &[7, 8, 9, 10, 11]);
    engine.truncate(SequenceId::new(1), PAGE - 2);
    assert_eq!(
        step(engine, 1, &tokens[PAGE - 2..]),
        usual,
        "to the last bit"
    );
}

#[test]
fn memory_that_runs_out_is_an_error_and_not_the_end() {
    let small = EngineLimits {
        cache_tokens_max: 2 * PAGE,
        sequences_max: 1,
        ..limits(Executor::Packed)
    };
    let mut engine = engine(&TinyModel::new(Family::Llama, 6), small);
    let engine = &mut *engine;
    open(engine, 0, 1, &[]);
    let tokens = text(6, 4 * PAGE);
    let work = Work {
        sequence: SequenceId::new(0),
        tokens: &tokens,
        logits: 1,
    };
    let failed = engine.step(&[work], &mut Vec::new());
    assert!(failed.is_err_and(|error| error.to_string().contains("no page is left")));
    step(engine, 0, &tokens[..PAGE]);
    engine.close(SequenceId::new(0));
    assert_eq!(engine.pages_free(), 3);
}

fn requests() -> Vec<GenerateRequest> {
    (0..7)
        .map(|seed| request(seed, text(seed, 20 + 9 * seed as usize), 40))
        .collect()
}

#[test]
fn a_text_is_the_same_alone_beside_others_and_after_giving_way() {
    let model = TinyModel::new(Family::Qwen3, 7);
    let alone: Vec<String> = requests()
        .into_iter()
        .map(|request| {
            Bench::new(&model, limits(Executor::Packed))
                .all(vec![request])
                .remove(0)
        })
        .collect();
    let together = Bench::new(&model, limits(Executor::Packed)).all(requests());
    assert_eq!(together, alone);
    // Room for two or three of the seven: the others give way and are computed again.
    let tight = EngineLimits {
        cache_tokens_max: 8 * PAGE,
        sequences_max: 7,
        ..limits(Executor::Packed)
    };
    assert_eq!(Bench::new(&model, tight).all(requests()), alone);
}

#[test]
fn giving_way_frees_no_page_that_others_share() {
    let model = TinyModel::new(Family::Llama, 10);
    // One tenant, one long beginning: most pages of a sequence are also the others'. All need their next page at once.
    let of = |seed| GenerateRequest {
        tenant: tenant(1),
        ..request(seed, [text(10, 3 * PAGE), text(seed, 5)].concat(), 70)
    };
    let requests = || (1..9).map(of).collect::<Vec<_>>();
    let quiet = |limits: EngineLimits| {
        let bench = Bench::new(
            &model,
            EngineLimits {
                speculate: false,
                ..limits
            },
        );
        // The first leaves the beginning for the others.
        bench.all(vec![of(0)]);
        bench.all(requests())
    };
    let expected = quiet(limits(Executor::Packed));
    for pages in 12..18 {
        let tight = EngineLimits {
            cache_tokens_max: pages * PAGE,
            sequences_max: 8,
            ..limits(Executor::Packed)
        };
        assert_eq!(quiet(tight), expected, "{pages} pages");
    }
}

#[test]
fn guesses_change_no_text_and_save_steps() {
    let model = TinyModel::new(Family::Llama, 8);
    // A text that repeats itself, and draws that are sure enough to go on with it.
    let repeating = || {
        let prompt = text(8, 12).repeat(6);
        let mut request = request(8, prompt, 60);
        request.sampling.temperature = 0.0;
        request
    };
    let run = |speculate, requests: Vec<GenerateRequest>| {
        let bench = Bench::new(
            &model,
            EngineLimits {
                speculate,
                ..limits(Executor::Packed)
            },
        );
        let said = bench.all(requests);
        (said, bench.steps())
    };
    let (plain, steps) = run(false, vec![repeating()]);
    let (guessed, fewer) = run(true, vec![repeating()]);
    assert_eq!(guessed, plain);
    assert!(fewer < steps, "{fewer} steps of {steps}");
    // Drawn with a temperature, the same random numbers decide.
    assert_eq!(run(true, requests()).0, run(false, requests()).0);
}

#[test]
fn after_cancelled_and_broken_requests_every_page_is_back() {
    let model = TinyModel::new(Family::Llama, 9);
    let bench = Bench::new(&model, limits(Executor::Packed));
    let all = bench.pages_free();
    for round in 0..20 {
        let runs: Vec<_> = (0..6)
            .map(|seed| bench.submit(request(round * 6 + seed, text(seed, 50), 100)))
            .collect();
        for (at, (events, ticket)) in runs.into_iter().enumerate() {
            let first = events.recv();
            match at % 3 {
                0 => drop(ticket),
                1 => drop(events),
                _ => {
                    assert!(first.is_ok());
                    let _ = events.recv();
                }
            }
        }
    }
    // A last one by itself: the engine has seen the ends of all others by then.
    let mut last = request(1, text(77, 10), 3);
    last.deadline = None;
    bench.all(vec![last]);
    assert_eq!(bench.pages_free(), all);
}
