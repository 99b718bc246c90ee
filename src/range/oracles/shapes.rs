//! Request shapes out of a folder of traffic: all of them, of several contexts, and everything that is known of one place
//! afterwards.

use std::collections::BTreeMap;

use serde_json::Value;

use super::context;
use crate::range::row::Row;
use crate::range::told::{Plain, beyond, plain};
use crate::range::turn::{Halt, Turn};

/// Contexts of which every shape asks.
const CONTEXTS: usize = 4;

#[derive(Default)]
struct Seen {
    requests: usize,
    answered: usize,
    /// Shapes that must be refused and were answered.
    wrongly: usize,
    most: usize,
    beyond: usize,
}

pub(super) async fn run(turn: &mut Turn<'_>) -> Result<(), Halt> {
    const BAR: &str = "what must be refused is, and nothing is told that a plain question is not";
    let shapes = &turn.range().corpora.shapes;
    if shapes.is_empty() {
        let why = "the shapes are in a folder of traffic (--traffic)".to_owned();
        turn.close(Row::skipped("shapes", why));
        return Ok(());
    }
    let mut seen = Seen::default();
    for at in 0..CONTEXTS {
        let context = context(turn, at);
        let told = plain(turn, &context).await?;
        let mut known: BTreeMap<String, f64> = BTreeMap::new();
        for shape in shapes {
            one(
                turn,
                shape,
                &context,
                at,
                told.as_ref(),
                (&mut seen, &mut known),
            )
            .await?;
        }
        seen.most = seen.most.max(known.len());
    }
    let Seen {
        requests,
        answered,
        wrongly,
        most,
        beyond,
    } = seen;
    let obtained = format!(
        "{answered} of {requests} requests are answered, {wrongly} of them must not be; {most} values of one place are known, \
         {beyond} were chosen"
    );
    let row = Row::judged("shapes", wrongly == 0 && beyond == 0, obtained, BAR);
    turn.close(
        row.figure("answered", answered)
            .figure("wrongly_answered", wrongly)
            .figure("values_of_a_place", most)
            .figure("chosen_values", beyond),
    );
    Ok(())
}

async fn one(
    turn: &mut Turn<'_>,
    shape: &Value,
    context: &str,
    at: usize,
    told: Option<&Plain>,
    (seen, known): (&mut Seen, &mut BTreeMap<String, f64>),
) -> Result<(), Halt> {
    let must = shape.get("must").and_then(Value::as_str).unwrap_or("");
    let strict = must.starts_with("refused") && must != "refused_or_charged";
    let requests = shape.get("requests").and_then(Value::as_array);
    for request in requests.into_iter().flatten() {
        let Some((path, body)) = filled(turn, request, context, at, told) else {
            continue;
        };
        let answer = turn.attack(&path, body).await?;
        seen.requests += 1;
        if !answer.is_ok() {
            continue;
        }
        seen.answered += 1;
        seen.wrongly += usize::from(strict);
        // A plain completion has another context: no chat stands around it.
        let (Some(told), true) = (told, path.ends_with("/chat/completions")) else {
            continue;
        };
        if let Some(place) = answer.places().into_iter().next() {
            seen.beyond += beyond(&told.place, &place);
            known.extend(place.into_iter().map(|told| (told.text, told.logprob)));
        }
    }
    Ok(())
}

/// A request with its placeholders filled: context, four tokens, two texts, the likeliest token, the model.
fn filled(
    turn: &Turn<'_>,
    request: &Value,
    context: &str,
    at: usize,
    told: Option<&Plain>,
) -> Option<(String, Value)> {
    let text_of = |rank: usize| {
        let told = told.and_then(|told| told.place.get(rank));
        told.map_or_else(|| "a".to_owned(), |told| told.text.clone())
    };
    let quoted = |text: &str| {
        let quoted = Value::from(text).to_string();
        let inner = quoted.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
        inner.unwrap_or_default().to_owned()
    };
    let first = 300 + at * 40;
    // Longer names first: `$TA` begins as `$T` does.
    let values = [
        ("$TOP", "50".to_owned()),
        ("$TA", quoted(&text_of(0))),
        ("$TB", quoted(&text_of(2))),
        ("$M", quoted(turn.range().target.model())),
        ("$C", quoted(context)),
        ("$A", first.to_string()),
        ("$B", (first + 7).to_string()),
        ("$D", (first + 19).to_string()),
        ("$E", (first + 31).to_string()),
    ];
    let mut text = request.to_string();
    for (name, value) in values {
        text = text.replace(name, &value);
    }
    let request: Value = serde_json::from_str(&text).ok()?;
    let path = request.get("path")?.as_str()?;
    let path = path.strip_prefix("/v1").unwrap_or(path).to_owned();
    Some((path, request.get("body")?.clone()))
}
