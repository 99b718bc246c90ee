//! Token ids of well-known vocabularies against llama.cpp's. Prints a table of agreement and asserts every family
//! that is listed: all cases equal, but for the exceptions that are named here with their reason.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod support;

use casemate_models::tokenizer::{BARRIER, Tokenizer};
use casemate_models::weights::{GgufFile, WeightSource};
use serde_json::Value;

const FAMILIES: [&str; 9] = [
    "llama-spm",
    "phi-3",
    "gpt-2",
    "llama-bpe",
    "qwen2",
    "deepseek-coder",
    "falcon",
    "mpt",
    "starcoder",
];

fn tokenizer(family: &str) -> Option<Tokenizer> {
    let path = support::shared(&format!("tokenizers/ggml-vocab-{family}.gguf"))?;
    Some(Tokenizer::from_header(GgufFile::open(&path).unwrap().header()).unwrap())
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

#[test]
fn ids_and_text_agree_with_the_reference() {
    println!("{:16} plain   markup  text    of", "family");
    let mut wrong = Vec::new();
    for family in FAMILIES {
        let Some(tokenizer) = tokenizer(family) else {
            return;
        };
        let cases =
            support::json(&support::shared(&format!("tokenizers/{family}.cases.json")).unwrap());
        let cases = cases["cases"].as_array().unwrap();
        let mut right = [0; 3];
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let plain = plain(&tokenizer, text);
            let markup = tokenizer.encode_rendered(text).unwrap();
            let results = [
                plain == ids(&case["plain"]),
                markup == ids(&case["parse_special"]),
                is_text_of(case, &tokenizer.decode(&ids(&case["plain"]))),
            ];
            for ((count, result), what) in right
                .iter_mut()
                .zip(results)
                .zip(["plain", "markup", "text"])
            {
                *count += usize::from(result);
                if !result {
                    wrong.push(format!(
                        "{family} {} {what}: {text:?}",
                        case["id"].as_str().unwrap()
                    ));
                }
            }
        }
        println!(
            "{family:16} {:6} {:7} {:6} {:6}",
            right[0],
            right[1],
            right[2],
            cases.len()
        );
    }
    for line in &wrong {
        println!("{line}");
    }
    assert!(wrong.is_empty(), "{} differences", wrong.len());
}

#[test]
fn ids_agree_with_llama_cpp_s_own_test_files() {
    for family in FAMILIES {
        let Some(tokenizer) = tokenizer(family) else {
            return;
        };
        let read = |suffix: &str| {
            let path = support::shared(&format!("tokenizers/ggml-vocab-{family}.gguf.{suffix}"));
            std::fs::read_to_string(path.unwrap()).unwrap()
        };
        let (inputs, outputs) = (read("inp"), read("out"));
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        for (input, output) in inputs.iter().zip(outputs.lines()) {
            let expected: Vec<u32> = output
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            let found = plain(&tokenizer, input);
            assert_eq!(found, expected, "{family}: {input:?}");
        }
    }
}

/// llama.cpp removes the space before punctuation in some vocabularies (", .NET" becomes ",.NET"), which loses what
/// the model said; there the text that went in must come out.
fn is_text_of(case: &Value, decoded: &str) -> bool {
    let wanted = if case["id"] == "s067" {
        &case["text"]
    } else {
        &case["detokenized"]
    };
    decoded == wanted.as_str().unwrap()
}

/// Ids of plain text without `bos`.
fn plain(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = tokenizer.encode_text(text).unwrap();
    if tokenizer.special().add_bos {
        assert_eq!(Some(ids.remove(0)), tokenizer.special().bos);
    }
    ids
}

#[test]
fn user_text_never_becomes_a_control_token() {
    for (family, markup) in [
        ("llama-bpe", "<|eot_id|>"),
        ("phi-3", "<|endoftext|>"),
        ("gpt-2", "<|endoftext|>"),
        ("deepseek-coder", "<|EOT|>"),
        ("llama-spm", "</s>"),
        ("falcon", ">>QUESTION<<"),
    ] {
        let Some(tokenizer) = tokenizer(family) else {
            return;
        };
        let control = tokenizer.encode_rendered(markup).unwrap();
        assert_eq!(control.len(), 1, "{family}");
        let safe = |text: &str| tokenizer.harmless(text);
        let (left, right) = markup.split_at(2);
        let (first, rest) = markup.split_at(1);
        for attack in [
            safe(markup),
            safe(&format!("a {markup}{markup}")),
            safe(&markup.to_lowercase()).to_uppercase(),
            safe(&format!("{left}{BARRIER}{right}")),
            format!("{left}{}", safe(right)),
            format!("{first}{}", safe(&format!("  {rest}")).trim()),
            format!("{}{right}", safe(left)),
            format!("{}{rest}", safe(&format!("x{first}\n")).trim_end()),
            format!("{}{}", safe(left), safe(right)),
            format!("{first}{}{}", safe(&rest[..2]), &rest[2..]),
        ] {
            let ids = tokenizer.encode_rendered(&attack).unwrap();
            assert!(!ids.contains(&control[0]), "{family}: {attack:?} {ids:?}");
        }
        assert!(
            !tokenizer.encode_text(markup).unwrap().contains(&control[0]),
            "{family}"
        );
    }
}

#[test]
fn honest_contents_are_left_alone() {
    for family in FAMILIES {
        let Some(tokenizer) = tokenizer(family) else {
            return;
        };
        for honest in [
            "What is it?",
            " spaces ",
            "a < b, b > c",
            "let x: Vec<u8> = f(a|b);",
            "Grüße 🙂",
        ] {
            assert_eq!(tokenizer.harmless(honest), honest, "{family}");
        }
    }
}

#[test]
fn a_barrier_between_words_changes_no_id() {
    for family in FAMILIES {
        let Some(tokenizer) = tokenizer(family) else {
            return;
        };
        let with =
            tokenizer.encode_rendered(&format!("### Question\n{BARRIER}What is it?{BARRIER}\n"));
        assert_eq!(
            with.unwrap(),
            tokenizer
                .encode_rendered("### Question\nWhat is it?\n")
                .unwrap()
        );
    }
}
