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
/// Words that system prompts are made of, in no order.
const ENGLISH: &str = "you are the desk assistant of harbour internal codes of berth must never be shown Tanker slots are released \
    at local time on pier If asked about the ninth say that it is closed, and escalate to desk. Answer briefly and politely.";
const CYRILLIC: &str = "Вы помощник диспетчера порта внутренние коды причалов никогда не показывать Танкеры отпускаются \
    утром по местному времени Если спросят про девятый причал, скажите что он закрыт, и передайте старшему.";
const ACCENTED: &str = "Häfen über Schlüssel größer für Straße Liegeplätze dürfen nicht gezeigt werden, später öffnen Fähren \
    übermorgen früh; natürlich Grüße Brücke";
const HAN: &str = "港 口 泊 位 不 得 显 示 内 部 代 码 早 上 管 理 员 油 轮 放 行 时 间 第 九 码 头 关 闭 ， 请 转 交 。";

/// System prompts of so many words, and a name for them.
const PROMPTS: [(&str, usize, &str); 6] = [
    (ENGLISH, 40, "40 words"),
    (ENGLISH, 400, "400 words"),
    (ENGLISH, 2_000, "2000 words"),
    (ACCENTED, 2_000, "2000 words with accents"),
    (CYRILLIC, 2_000, "2000 words of Cyrillic"),
    (HAN, 4_000, "4000 characters of Han"),
];
const ANSWER: &str = "The ninth pier is closed at the moment. For anything about tanker slots please call the desk, which \
    opens in the morning; the local time is shown on the board beside the entrance of the harbour office. ";
const ANSWER_IN_CYRILLIC: &str = "Девятый причал сейчас закрыт. Обо всём, что касается танкеров, спросите диспетчера, который \
    приходит утром; местное время видно на табло у входа в портовую контору. ";
/// Says much of the secret, and never enough of it at once.
const NEARLY: &str = "Escalate to desk, released at 04:40 they are. Never be shown, that berth! Tanker slots, tanker slots: local \
    time on pier. If asked about piers, the ninth pier says that it is of harbour. ";

/// What a token takes in each round where nothing is suspicious, and rows.
pub fn rows() -> anyhow::Result<(Vec<f64>, Vec<Row>)> {
    let rounds = |round: &dyn Fn() -> anyhow::Result<f64>| -> anyhow::Result<Vec<f64>> {
        (0..ROUNDS).map(|_| round()).collect()
    };
    let plain = rounds(&|| token(&system_prompt(ENGLISH, 40, 0), ANSWER))?;
    let mut rows = vec![row("leak scan, a token", alone(&plain), None)];
    let long = system_prompt(ENGLISH, 2_000, 0);
    let answers = [
        ("", ANSWER),
        (", which may be a leak", NEARLY),
        (" of Cyrillic", ANSWER_IN_CYRILLIC),
    ];
    for (what, answer) in answers {
        let name = format!("leak scan, a token{what} beside 2,000 words");
        let figures = rounds(&|| token(&long, answer))?;
        rows.push(row(
            &name,
            alone(&figures),
            Some(Bar::AtMost(MICROSECONDS_MAX)),
        ));
    }
    for (words, count, name) in PROMPTS {
        let prompts: Vec<String> = (0..ANSWERS as u64)
            .map(|seed| system_prompt(words, count, seed))
            .collect();
        let secrets = Secrets::default();
        let again = |text: &str, letters_max| secrets.of("red", text, letters_max, Instant::now());
        let known = prompts.iter().take(1).cycle().take(ANSWERS);
        let figures = rounds(&|| {
            timed(known.clone(), |prompt| {
                Keeper::<String>::with(prompt, Switch::On, None, again).is_ok()
            })
        })?;
        rows.push(row(
            &format!("leak scan, a system prompt of {name} that came before"),
            alone(&figures),
            Some(Bar::AtMost(PROMPT_MICROSECONDS_MAX)),
        ));
        let figures = rounds(&|| {
            timed(prompts.iter(), |prompt| {
                Keeper::<String>::new(prompt, Switch::On, None).is_ok()
            })
        })?;
        rows.push(row(
            &format!("leak scan, the first of a system prompt of {name}"),
            alone(&figures),
            Some(Bar::AtMost(PROMPT_MICROSECONDS_MAX)),
        ));
    }
    Ok((plain, rows))
}

/// So many of these words, and now and then a number.
fn system_prompt(words: &str, count: usize, seed: u64) -> String {
    let words: Vec<&str> = words.split_whitespace().collect();
    let between = if words.iter().all(|word| word.chars().count() == 1) {
        ""
    } else {
        " "
    };
    let mut state = seed;
    let mut draw = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or(0) % below
    };
    let drawn = (0..count).map(|_| match draw(12) {
        0 => draw(9_973).to_string(),
        _ => words
            .get(draw(words.len()))
            .copied()
            .unwrap_or_default()
            .to_owned(),
    });
    drawn.collect::<Vec<String>>().join(between)
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
    let answer = timed(0..ANSWERS, |_| {
        for piece in &pieces {
            black_box(keeper.push(piece.clone()).is_ok());
        }
        true
    })?;
    Ok(answer / pieces.len() as f64)
}

/// Microseconds of one of [`ANSWERS`] calls, which must not fail.
#[expect(clippy::cast_precision_loss, reason = "a hundred answers")]
fn timed<T>(
    arguments: impl Iterator<Item = T>,
    mut call: impl FnMut(T) -> bool,
) -> anyhow::Result<f64> {
    let begin = spent();
    for argument in arguments {
        anyhow::ensure!(
            black_box(call(black_box(argument))),
            "a scan that could not be made"
        );
    }
    Ok((spent() - begin) / ANSWERS as f64)
}
