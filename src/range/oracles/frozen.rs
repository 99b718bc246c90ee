//! A seed as frozen noise: where the same seed gives the same random numbers although the request differs, a bias that turns
//! one answer into another compares two logits.

use serde_json::json;

use super::{CHAT, context, refused_or, with};
use crate::range::chance::fisher;
use crate::range::row::Row;
use crate::range::turn::{Halt, Turn};

/// Pairs of each kind.
const PAIRS: usize = 40;
/// Tokens of an answer: alike by chance only where the model has no choice.
const TOKENS: u64 = 6;
/// Below this the agreement is none of chance.
const CHANCE: f64 = 0.01;

pub(super) async fn run(turn: &mut Turn<'_>) -> Result<(), Halt> {
    const BAR: &str = "agreement across changed options is that of chance (p > 0.01)";
    let (mut same, mut other, mut repeated, mut pairs) = (0, 0, 0, 0);
    for at in 0..PAIRS {
        let context = context(turn, at);
        let seed = 1000 + at as u64;
        // Changes that move no probability by anything that could be seen.
        let changed = match at % 3 {
            0 => ("top_p", json!(0.9999)),
            1 => ("temperature", json!(1.4999)),
            _ => ("presence_penalty", json!(0.0001)),
        };
        let plain = draw(turn, &context, seed, None).await?;
        let Some(plain) = plain else {
            let text = "the same request is not repeated";
            let row = Row::judged("seed", true, refused_or(false, text), BAR);
            turn.close(row);
            return Ok(());
        };
        let again = draw(turn, &context, seed, None).await?;
        let moved = draw(turn, &context, seed, Some(changed)).await?;
        let fresh = draw(turn, &context, seed + 500_000, None).await?;
        let is = |text: &Option<String>| usize::from(text.as_ref() == Some(&plain));
        pairs += 1;
        repeated += is(&again);
        same += is(&moved);
        other += is(&fresh);
    }
    let p = fisher(same, pairs, other, pairs);
    let obtained = format!(
        "{same} of {pairs} answers stay the same when an option changes, {other} with another seed (p = {p:.2e}); \
         {repeated} of {pairs} requests repeat"
    );
    let row = Row::judged("seed", p > CHANCE, obtained, BAR);
    turn.close(
        row.figure("pairs", pairs)
            .figure("agree_changed", same)
            .figure("agree_other_seed", other)
            .figure("repeat", repeated)
            .figure("p", p),
    );
    Ok(())
}

async fn draw(
    turn: &mut Turn<'_>,
    context: &str,
    seed: u64,
    changed: Option<(&str, serde_json::Value)>,
) -> Result<Option<String>, Halt> {
    let mut body = json!({"messages": [{"role": "user", "content": context}], "max_tokens": TOKENS,
        "temperature": 1.5, "seed": seed});
    if let Some((name, value)) = changed {
        body = with(body, name, value);
    }
    let answer = turn.attack(CHAT, body).await?;
    Ok(answer.is_ok().then(|| answer.text().to_owned()))
}
