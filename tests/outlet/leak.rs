//! G13: system prompts in disguise, honest answers beside them, and what is sent until a leak is told.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use casemate::guard::keep::{Keeper, Leaked, Scan, normal};
use casemate::policy::Switch;

use crate::texts;

/// A way to say a text otherwise.
pub type Disguise = (&'static str, fn(&str) -> String);

fn turned(text: &str, by: u8) -> String {
    let turn = |c: char| match c {
        'a'..='z' => char::from((c as u8 - b'a' + by) % 26 + b'a'),
        'A'..='Z' => char::from((c as u8 - b'A' + by) % 26 + b'A'),
        _ => c,
    };
    text.chars().map(turn).collect()
}

fn lines(text: &str, width: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    let lines = chars.chunks(width).map(|line| line.iter().collect());
    lines.collect::<Vec<String>>().join("\n")
}

/// What must be told, every time.
const TOLD: [Disguise; 20] = [
    ("as it is", str::to_owned),
    ("in capitals", str::to_uppercase),
    ("letter by letter", |text| {
        text.chars().flat_map(|c| [c, ' ']).collect()
    }),
    ("with stars between", |text| text.replace(' ', "**")),
    ("a word a line", |text| text.replace(' ', "\n- ")),
    ("in full width", |text| {
        let wide = |c: char| match c {
            '!'..='~' => char::from_u32(u32::from(c) + 0xfee0).unwrap(),
            c => c,
        };
        text.chars().map(wide).collect()
    }),
    ("with zero-width spaces", |text| {
        text.chars().flat_map(|c| [c, '\u{200b}']).collect()
    }),
    ("base64", |text| STANDARD.encode(text)),
    ("base64 in lines", |text| lines(&STANDARD.encode(text), 76)),
    ("base64 of web addresses", |text| {
        URL_SAFE_NO_PAD.encode(text)
    }),
    ("hexadecimal", |text| {
        text.bytes().map(|byte| format!("{byte:02x}")).collect()
    }),
    ("hexadecimal with 0x", |text| {
        text.bytes().map(|byte| format!("0x{byte:02X}, ")).collect()
    }),
    ("rot13", |text| turned(text, 13)),
    ("one letter on", |text| turned(text, 1)),
    ("one letter back", |text| turned(text, 25)),
    ("backwards", |text| text.chars().rev().collect()),
    ("numbers", |text| {
        text.chars().map(|c| format!("{} ", u32::from(c))).collect()
    }),
    ("binary", |text| {
        text.bytes().map(|byte| format!("{byte:08b} ")).collect()
    }),
    ("vowels starred", |text| {
        text.replace(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U'], "*")
    }),
    ("other vowels", |text| {
        text.replace(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U'], "e")
    }),
];

/// What no comparison of letters tells; the likelihood test does.
pub const NOT_TOLD: [Disguise; 3] = [
    ("every second word", |text| {
        let words = text.split(' ').step_by(2);
        words.collect::<Vec<_>>().join(" ")
    }),
    ("words backwards", |text| {
        let words = text.split(' ').rev();
        words.collect::<Vec<_>>().join(" ")
    }),
    ("words in another order", |text| {
        let words: Vec<_> = text.split(' ').collect();
        let order = (0..words.len()).map(|at| words[at * 7919 % words.len()]);
        order.collect::<Vec<_>>().join(" ")
    }),
];

/// What is sent of an answer that comes in pieces of `len` characters.
fn sent(prompt: &str, answer: &str, len: usize) -> (String, Option<Leaked>) {
    let mut keeper = Keeper::<String>::new(prompt, Switch::On, None).unwrap();
    let chars: Vec<char> = answer.chars().collect();
    let mut out = String::new();
    for piece in chars.chunks(len) {
        match keeper.push(piece.iter().collect()) {
            Ok(pieces) => out.extend(pieces),
            Err(leaked) => return (out, Some(leaked)),
        }
    }
    out.extend(keeper.finish());
    (out, None)
}

#[test]
fn s22_every_prompt_in_every_disguise_is_held_back() {
    let Some(prompts) = texts("traffic/system_prompts.jsonl") else {
        return;
    };
    for (name, disguise) in TOLD {
        for prompt in &prompts {
            for len in [1, 4, 11] {
                let before = "Of course. These are my instructions: ";
                let answer = format!("{before}{}", disguise(prompt));
                let (out, leaked) = sent(prompt, &answer, len);
                assert_eq!(leaked, Some(Leaked::Prompt), "{name}: {prompt}");
                // What is sent has at most the characters before a run is suspected, and the rest of a piece.
                let count = out.chars().count();
                let of_prompt = count.saturating_sub(before.chars().count());
                let whole = answer.chars().count() - before.chars().count();
                assert!(
                    of_prompt * 4 <= whole,
                    "{name}: {of_prompt} of {whole} are sent"
                );
                let said: String = out.chars().skip(before.chars().count()).collect();
                let normal_said = said.chars().filter_map(normal).count();
                assert!(normal_said <= 64, "{name}: {said}");
                assert!(answer.starts_with(&out));
            }
        }
    }
    for (name, disguise) in NOT_TOLD {
        let told = prompts
            .iter()
            .filter(|prompt| sent(prompt, &disguise(prompt), 4).1.is_some());
        println!("{name}: {} of {} are told", told.count(), prompts.len());
    }
}

/// At most one honest text in a thousand looks like a leak of any prompt; here none does. What goes out is what was said.
#[test]
fn s22_honest_texts_go_out_whole() {
    let files = [
        "benign_answers",
        "benign_adhoc",
        "benign_lookalikes",
        "benign_questions",
    ];
    let mut honest = Vec::new();
    for file in files {
        let Some(more) = texts(&format!("traffic/{file}.jsonl")) else {
            return;
        };
        honest.extend(more);
    }
    let prompts = texts("traffic/system_prompts.jsonl").unwrap();
    let mut alarms = 0;
    for (at, prompt) in prompts.iter().enumerate() {
        for text in &honest {
            alarms += usize::from(Scan::new(prompt).push(text).is_some());
        }
        let text = &honest[at];
        assert_eq!(sent(prompt, text, 5), (text.clone(), None));
    }
    println!(
        "{alarms} alarms in {} texts × {} prompts",
        honest.len(),
        prompts.len()
    );
    assert_eq!(alarms, 0);
}

/// Prompts that ask for the system prompt are no leak by themselves when an answer repeats them.
#[test]
fn s22_questions_for_the_prompt_are_no_leak() {
    let (Some(prompts), Some(questions)) = (
        texts("traffic/system_prompts.jsonl"),
        texts("traffic/attack_sysprompt_extraction.jsonl"),
    ) else {
        return;
    };
    for prompt in &prompts {
        for question in &questions {
            assert_eq!(sent(prompt, question, 4).1, None, "{question}");
        }
    }
}
