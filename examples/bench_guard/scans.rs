//! What the leak scan costs: a token, and a request with a system prompt, which nearly always came with others before.

use std::hint::black_box;
use std::time::Instant;

use casemate::guard::keep::{Keeper, Secrets};
use casemate::policy::Switch;

use crate::row::{Bar, Row};
use crate::spent;
use crate::tokens::{MICROSECONDS_MAX, ROUNDS, alone, row};

/// The goal for all that the guard does for a prompt.
pub const PROMPT_MICROSECONDS_MAX: f64 = 100.0;
const ANSWERS: usize = 100;
/// Words of system prompts.
const WORDS: [usize; 3] = [40, 400, 2_000];
const SENTENCES: [&str; 4] = [
    "You are the desk assistant of harbour",
    "Internal codes of berth must never be shown",
    "Tanker slots are released at 04:40 local time on pier",
    "If asked about the ninth pier say that it is closed, and escalate to desk",
];
const ANSWER: &str = "The ninth pier is closed at the moment. For anything about tanker slots please call the desk, which \
    opens in the morning; the local time is shown on the board beside the entrance of the harbour office. ";
/// Says much of the secret, and never enough of it at once.
const NEARLY: &str = "Escalate to desk, released at 04:40 they are. Never be shown, that berth! Tanker slots, tanker slots: local \
    time on pier. If asked about piers, the ninth pier says that it is of harbour. ";

/// What a token takes in each round where nothing is suspicious, and rows.
pub fn rows() -> anyhow::Result<(Vec<f64>, Vec<Row>)> {
    let rounds = |round: &dyn Fn() -> anyhow::Result<f64>| -> anyhow::Result<Vec<f64>> {
        (0..ROUNDS).map(|_| round()).collect()
    };
    let plain = rounds(&|| token(&system_prompt(40), ANSWER))?;
    let mut rows = vec![row("leak scan, a token", alone(&plain), None)];
    let long = system_prompt(2_000);
    for (name, answer) in [("", ANSWER), (", which may be a leak", NEARLY)] {
        let name = format!("leak scan, a token beside 2,000 words{name}");
        let figures = rounds(&|| token(&long, answer))?;
        rows.push(row(
            &name,
            alone(&figures),
            Some(Bar::AtMost(MICROSECONDS_MAX)),
        ));
    }
    for words in WORDS {
        let prompt = system_prompt(words);
        let secrets = Secrets::default();
        let again = |text: &str, letters_max| secrets.of("red", text, letters_max, Instant::now());
        Keeper::<String>::with(&prompt, Switch::On, None, again)?;
        let figures = rounds(&|| {
            timed(|| black_box(Keeper::<String>::with(&prompt, Switch::On, None, again).is_ok()))
        })?;
        rows.push(row(
            &format!("leak scan, a system prompt of {words} words that came before"),
            alone(&figures),
            Some(Bar::AtMost(PROMPT_MICROSECONDS_MAX)),
        ));
        let figures = rounds(&|| {
            timed(|| black_box(Keeper::<String>::new(&prompt, Switch::On, None).is_ok()))
        })?;
        rows.push(row(
            &format!("leak scan, the first of a system prompt of {words} words"),
            alone(&figures),
            Some(Bar::AtMost(PROMPT_MICROSECONDS_MAX)),
        ));
    }
    Ok((plain, rows))
}

fn system_prompt(words: usize) -> String {
    let sentences = (0..).zip(SENTENCES.iter().cycle());
    let numbered = sentences.map(|(at, sentence)| format!("{sentence} {}.", at * at % 9_973));
    let all = numbered.flat_map(|sentence| {
        let words = sentence.split(' ').map(str::to_owned);
        words.collect::<Vec<String>>()
    });
    all.take(words).collect::<Vec<String>>().join(" ")
}

/// Microseconds of a piece of an answer.
#[expect(clippy::cast_precision_loss, reason = "some dozens of pieces")]
fn token(prompt: &str, answer: &str) -> anyhow::Result<f64> {
    let pieces: Vec<String> = answer.split_inclusive(' ').map(str::to_owned).collect();
    let mut keeper = Keeper::new(prompt, Switch::On, None)?;
    // What an answer may ask for the first time is asked for.
    for piece in &pieces {
        keeper
            .push(piece.clone())
            .map_err(|_| anyhow::anyhow!("an answer that leaks"))?;
    }
    let answer = timed(|| {
        for piece in &pieces {
            black_box(keeper.push(piece.clone()).is_ok());
        }
        true
    })?;
    Ok(answer / pieces.len() as f64)
}

/// Microseconds of one call, which must not fail.
#[expect(clippy::cast_precision_loss, reason = "a hundred answers")]
fn timed(mut call: impl FnMut() -> bool) -> anyhow::Result<f64> {
    let begin = spent();
    for _ in 0..ANSWERS {
        anyhow::ensure!(call(), "a scan that could not be made");
    }
    Ok((spent() - begin) / ANSWERS as f64)
}
