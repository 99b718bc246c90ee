//! Topics from sizes and times (Whisper Leak 2511.03675; Weiss et al. 2024): somebody on the way between client and server, who
//! has no key, tells answers to one sensitive question from answers to others.

use serde_json::json;

use super::row::Row;
use super::traces::{Findings, Labelled};
use super::turn::{Halt, Turn};
use super::wire::Wire;

/// Tokens of an answer that are asked for.
const TOKENS: u64 = 200;
/// More different traces than this tell more than three bits.
const DISTINCT_MAX: usize = 8;
/// The part of the answers that may look like no other.
const UNIQUE_MAX: f64 = 0.05;
/// Answers of each kind below which nothing is learned.
const ANSWERS_MIN: usize = 10;

pub(super) async fn run(turn: &mut Turn<'_>) -> Result<(), Halt> {
    let endpoint = turn.endpoint(0)?;
    let own;
    let (asked, wire) = match endpoint.wire() {
        Some(wire) => (endpoint.clone(), wire),
        // Nobody sits between connect and server: between this program and the server, then.
        None => {
            let wire = Wire::to(endpoint.address()).await;
            own = wire.map_err(|error| Halt::Gone(error.to_string()))?;
            let through = endpoint.through(own.address());
            let through = through.map_err(|error| Halt::Gone(error.to_string()))?;
            (through, &own)
        }
    };
    let corpora = &turn.range().corpora;
    let count = turn.range().settings.samples;
    let mut answers = Vec::new();
    for (pair, on_topic, text) in mixed(&corpora.topic, &corpora.honest, count) {
        wire.forget();
        let body = json!({"messages": [{"role": "user", "content": text}], "stream": true,
            "max_tokens": TOKENS});
        let answered = turn.ask_at(&asked, "/chat/completions", body).await?;
        let trace = wire.trace();
        if answered.status == 200 {
            answers.push(Labelled {
                group: pair,
                on_topic,
                trace,
            });
        }
    }
    let on_topic = answers.iter().filter(|one| one.on_topic).count();
    let found =
        Findings::of(&answers).filter(|_| on_topic.min(answers.len() - on_topic) >= ANSWERS_MIN);
    match found {
        Some(found) => told(turn, &found),
        None => turn.close(Row::skipped(
            "topic",
            format!(
                "{} answers, {on_topic} of the topic: too few",
                answers.len()
            ),
        )),
    }
    Ok(())
}

/// The two kinds in pairs, at most `count` of them, with their number; every other pair has the other kind first, so that a
/// machine that grows slower meanwhile tells nothing of the topic.
fn mixed<'a>(
    topic: &'a [String],
    others: &'a [String],
    count: usize,
) -> impl Iterator<Item = (usize, bool, &'a str)> {
    let pairs = topic.iter().zip(others).take(count).enumerate();
    pairs.flat_map(|(pair, (topic, other))| {
        let both = [(pair, true, topic.as_str()), (pair, false, other.as_str())];
        let [first, second] = both;
        match pair % 2 {
            0 => both,
            _ => [second, first],
        }
    })
}

fn told(turn: &mut Turn<'_>, found: &Findings) {
    let Findings {
        answers,
        auc,
        error,
        distinct,
        bits,
        unique,
        bytes,
    } = *found;
    let row = Row::told(
        "topic",
        format!(
            "one topic is told from others with an area under the curve of {auc:.2}, where chance has 0.50 ± {error:.2}"
        ),
    );
    turn.close(
        row.figure("answers", answers)
            .figure("auc", auc)
            .figure("standard_error", error),
    );
    let row = Row::judged(
        "traces",
        distinct <= DISTINCT_MAX && unique <= UNIQUE_MAX,
        format!(
            "{answers} answers have {distinct} different sequences of sizes ({bits:.1} bits); {:.0} % have one of their own",
            unique * 100.0
        ),
        "at most 8 sequences, at most 5 % of answers with one of their own",
    );
    turn.close(
        row.figure("answers", answers)
            .figure("distinct", distinct)
            .figure("bits", bits)
            .figure("unique", unique)
            .figure("bytes", bytes),
    );
}
