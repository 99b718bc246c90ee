//! Answers of a given shape through the engine's thread, by models of random weights that would say anything.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "support/answers.rs"]
mod answers;
#[path = "support/executors.rs"]
mod executors;
#[path = "support/tiny_model.rs"]
mod tiny_model;

use answers::{Answer, ask, ask_all, request};
use casemate_models::engine::{
    EngineLimits, Executor, Failure, FinishReason, GenerateRequest, PAGE, Reveal,
};
use casemate_models::grammar::{GrammarError, Grammars, Shape};
use casemate_models::model::RunningModel;
use executors::load_for;
use serde_json::{Value, json};
use tiny_model::{Family, TinyModel, VOCABULARY};

fn start(seed: u64, limits: EngineLimits) -> RunningModel {
    let model = TinyModel::new(Family::Llama, seed);
    let loaded = load_for(&model, limits.executor, limits.clone());
    loaded.unwrap().spawn().unwrap()
}

fn limits() -> EngineLimits {
    EngineLimits {
        executor: Executor::Packed,
        threads: 1,
        cache_tokens_max: 4096,
        ..EngineLimits::default()
    }
}

/// A word, a small number, a list of colours: short enough for models that never want to end.
fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["word", "count"], "properties": {
        "word": {"type": "string", "maxLength": 8}, "count": {"type": "integer", "minimum": -3, "maximum": 300},
        "colours": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2}}})
}

fn holds(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap();
    let word = value["word"].as_str().unwrap().chars().count();
    // -0 is a whole number, too.
    let count = value["count"].as_f64().unwrap();
    let fields = value.as_object().unwrap();
    let colours = fields
        .get("colours")
        .map_or(0, |list| list.as_array().unwrap().len());
    let known = fields
        .keys()
        .all(|key| ["word", "count", "colours"].contains(&key.as_str()));
    word <= 8 && (-3.0..=300.0).contains(&count) && count.fract() == 0.0 && colours <= 2 && known
}

fn shaped(running: &RunningModel, seed: u32, shape: &Shape) -> GenerateRequest {
    GenerateRequest {
        grammar: Some(Box::new(running.grammar(shape).unwrap())),
        ..request(seed, executors::text(12), 220)
    }
}

fn texts(answers: &[Answer]) -> Vec<(&str, Option<FinishReason>)> {
    let each = answers.iter().map(|one| (one.text.as_str(), one.reason));
    each.collect()
}

#[test]
fn what_a_random_model_says_is_of_the_schema_at_every_seed_and_temperature() {
    let running = start(31, limits());
    let shape = Shape::Schema(schema());
    for (temperature, top_k, min_p) in [(1.0, 0, 0.0), (2.0, 3, 0.0), (0.7, 0, 0.3)] {
        let requests = (0..16).map(|seed| {
            let mut request = shaped(&running, seed, &shape);
            request.sampling.temperature = temperature;
            request.sampling.top_k = top_k;
            request.sampling.min_p = min_p;
            // A random model likes white space as much as anything.
            let space = |byte: u8| (u32::from(byte) + 4, -100.0);
            request.sampling.logit_bias = b" \n\r\t".map(space).to_vec();
            request
        });
        let answers = ask_all(&running, requests.collect());
        for answer in &answers {
            assert_eq!(answer.failed, None);
            assert_eq!(answer.reason, Some(FinishReason::Stop), "{}", answer.text);
            assert!(holds(&answer.text), "{}", answer.text);
        }
    }
    // The likeliest of what is allowed is taken, too, and the answer ends with its document.
    let mut greedy = shaped(&running, 0, &Shape::Schema(json!({"enum": ["abc", 12]})));
    greedy.sampling.temperature = 0.0;
    let answer = ask(&running, greedy);
    assert_eq!(answer.reason, Some(FinishReason::Stop));
    assert!(
        ["\"abc\"", "12"].contains(&answer.text.trim()),
        "{}",
        answer.text
    );
}

#[test]
fn a_shaped_text_is_the_same_beside_others_with_guesses_and_after_giving_way() {
    let shape = Shape::Schema(schema());
    let mut expected: Option<Vec<String>> = None;
    let plain: Vec<Answer> = {
        let running = start(32, limits());
        (0..3)
            .map(|seed| ask(&running, request(seed, executors::text(12), 60)))
            .collect()
    };
    let unguessed = EngineLimits {
        speculate: false,
        ..limits()
    };
    let tight = EngineLimits {
        cache_tokens_max: 16 * PAGE,
        ..limits()
    };
    for (name, limits) in [
        ("guessed", limits()),
        ("unguessed", unguessed),
        ("tight", tight),
    ] {
        let running = start(32, limits);
        let mut requests: Vec<GenerateRequest> =
            (0..5).map(|seed| shaped(&running, seed, &shape)).collect();
        requests.extend((0..3).map(|seed| request(seed, executors::text(12), 60)));
        let mut answers = ask_all(&running, requests);
        let others = answers.split_off(5);
        assert_eq!(
            texts(&others),
            texts(&plain),
            "{name}: those without a grammar"
        );
        let said: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
        let alone: Vec<String> = (0..5)
            .map(|seed| ask(&running, shaped(&running, seed, &shape)).text)
            .collect();
        assert_eq!(said, alone, "{name}");
        assert_eq!(*expected.get_or_insert(said.clone()), said, "{name}");
    }
}

#[test]
fn guesses_inside_a_grammar_are_right_now_and_then_and_never_wrong() {
    // A prompt that holds what the grammar forces: it is guessed, and the mask agrees.
    let running = start(33, limits());
    let forced =
        json!({"const": {"alpha": "one two three one two three", "beta": "one two three"}});
    let prompt = r#"{"alpha":"one two three one two three","beta":"one two three"}"#;
    let prompt: Vec<u32> = prompt.bytes().map(|byte| u32::from(byte) + 4).collect();
    for seed in 0..8 {
        let mut request = shaped(&running, seed, &Shape::Schema(forced.clone()));
        request.prompt.clone_from(&prompt);
        let answer = ask(&running, request);
        if answer.reason == Some(FinishReason::Stop) {
            let value: Value = serde_json::from_str(&answer.text).unwrap();
            assert_eq!(value, forced["const"]);
        }
        assert_eq!(answer.failed, None);
    }
}

#[test]
fn a_grammar_that_gets_stuck_ends_its_own_request_and_no_other() {
    let running = start(34, limits());
    // A grammar over a larger vocabulary: after the brace it allows only tokens that this model does not have.
    let mut words = vec![Vec::new(); VOCABULARY + 256];
    words[usize::from(b'{') + 4] = b"{".to_vec();
    for byte in (0..=255_u8).filter(|byte| *byte != b'{') {
        words[VOCABULARY + usize::from(byte)] = vec![byte];
    }
    let foreign = Grammars::new(words, Vec::new()).unwrap();
    let mut requests = vec![request(1, executors::text(12), 60)];
    requests.extend((0..4).map(|seed| GenerateRequest {
        grammar: Some(Box::new(foreign.compile(&Shape::Object).unwrap())),
        ..request(seed, executors::text(12), 60)
    }));
    let answers = ask_all(&running, requests);
    let alone = ask(&running, request(1, executors::text(12), 60));
    assert_eq!(texts(&answers[..1]), texts(&[alone]));
    for answer in &answers[1..] {
        assert_eq!(answer.text, "{", "what was said before stays said");
        let (failure, reason) = answer.failed.as_ref().unwrap();
        assert_eq!(*failure, Failure::Grammar);
        assert!(reason.contains("grammar"), "{reason}");
    }
    // What a schema forbids altogether is known before.
    let never = Shape::Schema(json!({"type": "integer", "minimum": 2, "maximum": 1}));
    assert_eq!(
        running.grammar(&never).err(),
        Some(GrammarError::Impossible)
    );
}

#[test]
fn s17_probabilities_under_a_grammar_are_those_without_it() {
    let running = start(35, limits());
    let mut shaped = shaped(&running, 3, &Shape::Object);
    shaped.logprobs = Some(Reveal { top: 5, known: 5 });
    let answer = ask(&running, shaped);
    let brace = u32::from(b'{') + 4;
    assert_eq!(answer.tokens[0], brace, "{}", answer.text);
    // Without a grammar, the same place: a bias draws the same token and is not seen in what is told.
    let mut plain = request(3, executors::text(12), 2);
    plain.logprobs = Some(Reveal { top: 5, known: 5 });
    plain.sampling.logit_bias = vec![(brace, 100.0)];
    let plain = ask(&running, plain);
    assert_eq!(plain.tokens[0], brace);
    assert_eq!(answer.logprobs[0], plain.logprobs[0]);
    let likeliest = answer.logprobs[0].top[0].0;
    assert_ne!(
        likeliest, brace,
        "the grammar did not allow what was likeliest"
    );
}
