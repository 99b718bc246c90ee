//! A bias without probabilities: the bias at which a token becomes the answer is its distance from the likeliest one, found by
//! halving (Carlini et al. 2024, section 5).

use serde_json::json;

use super::{CHAT, context, refused_or};
use crate::range::row::Row;
use crate::range::turn::{Halt, Turn};

/// Tokens whose logits are searched, and the first of them.
const TOKENS: u64 = 6;
const TOKEN_FIRST: u64 = 320;
/// The largest bias there is.
const BIAS_MAX: f64 = 100.0;
/// How near the distance is found.
const NEAR: f64 = 0.1;

pub(super) async fn run(turn: &mut Turn<'_>) -> Result<(), Halt> {
    const BAR: &str = "refused, or ended by a budget";
    let context = context(turn, 4);
    let Some(likeliest) = greedy(turn, &context, None).await? else {
        turn.close(Row::skipped(
            "bias-search",
            "nothing was answered".to_owned(),
        ));
        return Ok(());
    };
    let mut found = 0;
    let mut ended = false;
    for token in TOKEN_FIRST..TOKEN_FIRST + TOKENS {
        match distance(turn, &context, token, &likeliest).await? {
            Some(_) => found += 1,
            None => {
                ended = true;
                break;
            }
        }
    }
    let each = turn.asked() / TOKENS as u32;
    let text = format!(
        "the logits of {found} chosen tokens are known to {NEAR}, with {each} requests each"
    );
    let obtained = match (ended, found) {
        (true, 0) => refused_or(false, ""),
        (true, _) => format!("{text}, until it was refused"),
        (false, _) => text,
    };
    let row = Row::judged("bias-search", ended, obtained, BAR);
    turn.close(row.figure("logits", found).figure("requests_of_each", each));
    Ok(())
}

/// How far below the likeliest token `token` is; nothing where it is refused.
async fn distance(
    turn: &mut Turn<'_>,
    context: &str,
    token: u64,
    likeliest: &str,
) -> Result<Option<f64>, Halt> {
    let (mut low, mut high) = (0.0, BIAS_MAX);
    while high - low > NEAR {
        let middle = (low + high) / 2.0;
        let Some(text) = greedy(turn, context, Some((token, middle))).await? else {
            return Ok(None);
        };
        match text == likeliest {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok(Some(high))
}

async fn greedy(
    turn: &mut Turn<'_>,
    context: &str,
    bias: Option<(u64, f64)>,
) -> Result<Option<String>, Halt> {
    let biases: serde_json::Map<String, serde_json::Value> = bias
        .iter()
        .map(|(token, bias)| (token.to_string(), (*bias).into()))
        .collect();
    let mut body = json!({"messages": [{"role": "user", "content": context}], "max_tokens": 1, "temperature": 0});
    if !biases.is_empty() {
        body = super::with(body, "logit_bias", biases.into());
    }
    let answer = turn.attack(CHAT, body).await?;
    Ok(answer.is_ok().then(|| answer.text().to_owned()))
}
