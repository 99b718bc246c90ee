//! Walks through grammars over a vocabulary of bytes and a few longer tokens, and schemas that mean harm.

use std::time::{Duration, Instant};

use serde::de::IgnoredAny;

use super::*;

/// The control token that ends an answer.
const END: u32 = 256;
/// Another control token: it never follows.
const CONTROL: u32 = 257;
const LONGER: [&str; 8] = ["{\"", "\":", "\",\"", "true", " [", "12", "}}", "\\u00"];

fn words() -> Vec<Vec<u8>> {
    let bytes = (0..=255_u8).map(|byte| vec![byte]);
    let controls = [b"</s>".to_vec(), Vec::new()];
    let longer = LONGER.iter().map(|text| text.as_bytes().to_vec());
    bytes.chain(controls).chain(longer).collect()
}

fn grammars() -> Grammars {
    Grammars::new(words(), vec![END]).unwrap()
}

/// SplitMix64.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 27;
    (mixed >> 16) as usize
}

/// A random answer: its text, and whether it is complete within so many tokens.
fn walk(mut grammar: Grammar, seed: u64, tokens_max: usize) -> (Vec<u8>, bool) {
    let words = words();
    let (mut state, mut text) = (seed, Vec::new());
    for _ in 0..tokens_max {
        let follows = grammar.follows().unwrap();
        let allowed: Vec<u32> = follows.ids().collect();
        assert_eq!(allowed.len(), follows.count());
        assert!(allowed.iter().all(|id| (*id as usize) < words.len()));
        assert!(!allowed.contains(&CONTROL));
        // Where the answer may end, it reads as JSON; where it does not read as JSON, it may not end.
        let reads = serde_json::from_slice::<IgnoredAny>(&text).is_ok();
        assert!(
            !allowed.contains(&END) || reads,
            "{:?}",
            String::from_utf8_lossy(&text)
        );
        let token = allowed[next(&mut state) % allowed.len()];
        if token == END {
            return (text, true);
        }
        text.extend(&words[token as usize]);
        if grammar.accept(token).unwrap() {
            return (text, true);
        }
    }
    (text, false)
}

#[test]
fn every_complete_answer_is_of_its_schema() {
    let grammars = grammars();
    let person = json!({"type": "object", "additionalProperties": false, "required": ["name", "age"], "properties": {
        "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "bc", "é\""]}, "maxItems": 3}}});
    let is_person = |value: &Value| {
        let name = value["name"].as_str().unwrap().chars().count();
        let age = value["age"].as_u64().unwrap();
        let tags = value
            .get("tags")
            .map_or(&[][..], |tags| tags.as_array().unwrap());
        let known = tags
            .iter()
            .all(|tag| ["a", "bc", "é\""].contains(&tag.as_str().unwrap()));
        name <= 12
            && age <= 120
            && known
            && tags.len() <= 3
            && value.as_object().unwrap().len() <= 3
    };
    let tree = json!({"$defs": {"node": {"type": "object", "additionalProperties": false, "required": ["v"],
        "properties": {"l": {"$ref": "#/$defs/node"},
        "v": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 0, "maximum": 9999}]}}}},
        "$ref": "#/$defs/node"});
    fn is_tree(value: &Value) -> bool {
        let below = value.get("l").is_none_or(is_tree);
        below && (value["v"].is_null() || value["v"].as_u64().is_some_and(|v| v <= 9999))
    }
    let date = json!({"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "pattern": "^x[0-9]{2}$"},
        {"const": {"k": [1, null]}}, {"type": "number", "multipleOf": 0.5, "minimum": 1, "maximum": 4}]});
    let is_date = |value: &Value| match value {
        Value::String(text) => text.len() == 10 || (text.len() == 3 && text.starts_with('x')),
        Value::Number(number) => (1.0..=4.0).contains(&number.as_f64().unwrap()),
        other => *other == json!({"k": [1, null]}),
    };
    type Check<'a> = &'a dyn Fn(&Value) -> bool;
    let shapes: [(Shape, Check<'_>); 4] = [
        (Shape::Object, &Value::is_object),
        (Shape::Schema(person), &is_person),
        (Shape::Schema(tree), &is_tree),
        (Shape::Schema(date), &is_date),
    ];
    for (shape, holds) in shapes {
        let mut complete = 0;
        for seed in 0..40 {
            let grammar = grammars.compile(&shape).unwrap();
            let (text, ended) = walk(grammar, seed, 1500);
            let text = String::from_utf8_lossy(&text).into_owned();
            if ended {
                complete += 1;
                // JSON, by its grammar; as a value it may have numbers beyond what 64 bits hold.
                assert!(serde_json::from_str::<IgnoredAny>(&text).is_ok(), "{text}");
                match serde_json::from_str(&text) {
                    Ok(value) => assert!(holds(&value), "{text}"),
                    Err(error) => assert!(error.to_string().contains("out of range"), "{text}"),
                }
            }
        }
        assert!(complete > 20, "{complete} of 40 answers were complete");
    }
}

#[test]
fn a_wrong_token_is_an_error_and_so_is_what_follows() {
    let mut grammar = grammars().compile(&Shape::Object).unwrap();
    assert_eq!(grammar.accept(u32::from(b'[')), Err(Stuck));
    assert_eq!(grammar.follows(), Err(Stuck));
}

fn chain(len: usize, link: impl Fn(Value) -> Value) -> Value {
    let mut defs: serde_json::Map<String, Value> = (0..len)
        .map(|at| {
            (
                format!("d{at}"),
                link(json!({"$ref": format!("#/$defs/d{}", at + 1)})),
            )
        })
        .collect();
    defs.insert(format!("d{len}"), json!({"type": "string"}));
    json!({"$defs": defs, "$ref": "#/$defs/d0"})
}

#[test]
fn a_schema_that_cannot_be_served_is_refused_with_its_reason() {
    use GrammarError::*;
    let grammars = grammars();
    for (schema, expected) in [
        (json!([]), NotAnObject),
        (json!({"not": {"type": "string"}}), Keyword("not")),
        (
            json!({"if": {"type": "string"}, "then": {"minLength": 2}}),
            Keyword("if"),
        ),
        (
            json!({"type": "array", "uniqueItems": true}),
            Keyword("uniqueItems"),
        ),
        (json!({"type": "string", "format": "nonsense"}), Format),
        (json!({"type": "string", "pattern": "(("}), Pattern),
        (json!({"type": "string", "pattern": "(?=a)b"}), Pattern),
        (json!({"$ref": "#/$defs/none"}), Reference),
        (json!({"$ref": "http://example.com/x"}), Reference),
        (json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}), Reference),
        (json!({"$ref": "#"}), Impossible),
        (
            json!({"oneOf": [{"type": "number"}, {"type": "integer"}]}),
            Alternatives,
        ),
        (
            json!({"type": "integer", "minimum": 5, "maximum": 4}),
            Impossible,
        ),
        (
            json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
            Impossible,
        ),
        (json!({"type": "quark"}), Unsupported),
        (
            json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX}),
            Unsupported,
        ),
        (json!({"type": "object", "x-guidance": {}}), UnknownKeyword),
    ] {
        let found = grammars.compile(&Shape::Schema(schema.clone())).err();
        assert_eq!(found, Some(expected), "{schema}");
    }
}

/// Schemas that ask for work without end.
fn hostile_schemas() -> Vec<Value> {
    let pattern = |pattern: &str| json!({"type": "string", "pattern": pattern});
    let all = |patterns: &[&str]| {
        let each = patterns.iter().map(|one| json!({"pattern": one}));
        json!({"type": "string", "allOf": each.collect::<Vec<_>>()})
    };
    let properties = |count: usize| {
        let each = (0..count).map(|at| (format!("p{at}"), json!({"type": "string"})));
        json!({"type": "object", "properties": each.collect::<serde_json::Map<_, _>>()})
    };
    let doubling = chain(300, |next| json!({"allOf": [next, next]}));
    let either = |name: &str| {
        let each =
            (0..12).map(|at| json!({"properties": {format!("{name}{at}"): {"type": "string"}}}));
        json!({"anyOf": each.collect::<Vec<_>>()})
    };
    let product: Vec<Value> = ["a", "b", "c", "d", "e", "f"].map(either).to_vec();
    let ranges = (0..400_i64)
        .map(|at| json!({"type": "integer", "minimum": at * 7919, "maximum": at * 1_234_567_891}));
    vec![
        json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000_000}),
        json!({"type": "string", "minLength": 1_000_000_000}),
        json!({"type": "string", "maxLength": 4_000_000_000_u64}),
        json!({"type": "integer", "multipleOf": 9973}),
        json!({"type": "integer", "multipleOf": 1_000_003}),
        pattern("((((a{1,30}){1,30}){1,30}){1,30}){1,30}"),
        pattern("^(.*[a-m].{40}|.*[n-z].{45})$"),
        pattern(&"(a{0,1000}b{0,1000}){0,1000}".repeat(9)),
        pattern("\\p{L}{1,5000}x"),
        pattern("a{999999999}"),
        all(&["a", "b", "c", "d", "e", "f", "g", "h"]),
        all(&[
            "^(.{2})*$",
            "^(.{3})*$",
            "^(.{5})*$",
            "^(.{7})*$",
            "^(.{11})*$",
            "^(.{13})*$",
            "^(.{17})*$",
        ]),
        all(&[".*0.*[a-z]{1,20}$"; 8]),
        chain(600, |next| next),
        chain(300, |next| json!({"type": "array", "items": next})),
        chain(300, |next| json!({"anyOf": [next, {"type": "null"}]})),
        chain(
            300,
            |next| json!({"type": "object", "properties": {"a": next}, "required": ["a"]}),
        ),
        doubling,
        json!({"allOf": product}),
        json!({"anyOf": ranges.collect::<Vec<_>>()}),
        properties(900),
        json!({"enum": (0..3000).map(|at| format!("v{at}")).collect::<Vec<_>>()}),
    ]
}

#[test]
fn hostile_schemas_end_in_time_with_an_error_or_a_grammar_that_does() {
    let grammars = grammars();
    for schema in hostile_schemas() {
        let shown: String = schema.to_string().chars().take(60).collect();
        let started = Instant::now();
        let compiled = grammars.compile(&Shape::Schema(schema));
        assert!(started.elapsed() < COMPILE_MAX, "{shown}");
        let Ok(mut grammar) = compiled else { continue };
        let mut state = 1;
        for _ in 0..60 {
            let started = Instant::now();
            let Ok(follows) = grammar.follows() else {
                break;
            };
            let took = started.elapsed();
            assert!(
                took < Duration::from_secs(2),
                "a mask took {took:?}: {shown}"
            );
            let allowed: Vec<u32> = follows.ids().collect();
            let token = allowed[next(&mut state) % allowed.len()];
            if token == END || !matches!(grammar.accept(token), Ok(false)) {
                break;
            }
        }
    }
}
