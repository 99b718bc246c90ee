//! Options that let the caller choose of which token something is told (GUARD section 1.1): echo, masks, seeds as frozen
//! noise, hot draws, biases without probabilities, and fields that other servers have.

mod frozen;
mod search;
mod shapes;

use serde_json::{Value, json};

use super::row::Row;
use super::told::{Plain, beyond, one_token, plain};
use super::turn::{Halt, Turn};

const CHAT: &str = "/chat/completions";
const COMPLETIONS: &str = "/completions";
/// Hot requests.
const HOT: usize = 12;

pub(super) async fn run(turn: &mut Turn<'_>) -> Result<(), Halt> {
    echo(turn).await?;
    mask(turn).await?;
    hot(turn).await?;
    fields(turn).await?;
    frozen::run(turn).await?;
    search::run(turn).await?;
    shapes::run(turn).await
}

/// The first context, and others at a distance.
fn context(turn: &Turn<'_>, at: usize) -> String {
    let all = &turn.range().corpora.contexts;
    let context = all.iter().cycle().nth(at * 37);
    context.cloned().unwrap_or_default()
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body.as_object_mut()
        .map(|fields| fields.insert(name.to_owned(), value));
    body
}

fn refused_or(answered: bool, text: &str) -> String {
    match answered {
        true => format!("answered, and {text}"),
        false => "refused".to_owned(),
    }
}

/// The prompt comes back with the probability of each of its tokens: any token can be put there.
async fn echo(turn: &mut Turn<'_>) -> Result<(), Halt> {
    const BAR: &str = "no probability of a token of the prompt";
    let prompt = context(turn, 0);
    let ask = |field: &str, value: Value| {
        let body = json!({"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1});
        with(body, field, value)
    };
    let answer = turn.attack(COMPLETIONS, ask("echo", true.into())).await?;
    let told = answer
        .places()
        .iter()
        .filter(|place| !place.is_empty())
        .count();
    let text = format!(
        "{} tokens of the prompt are told of",
        told.saturating_sub(1)
    );
    let row = Row::judged("echo", told <= 1, refused_or(answer.is_ok(), &text), BAR);
    turn.close(row.figure("told", told.saturating_sub(1)));
    let answer = turn
        .attack(COMPLETIONS, ask("prompt_logprobs", 5.into()))
        .await?;
    let found = ["/prompt_logprobs", "/choices/0/prompt_logprobs"]
        .iter()
        .find_map(|at| {
            let told = answer.document.pointer(at)?.as_array()?;
            Some(told.iter().filter(|one| !one.is_null()).count())
        });
    let told = found.unwrap_or(0);
    let text = match told {
        0 => "nothing more is told: the field is ignored".to_owned(),
        told => format!("{told} tokens of the prompt are told of"),
    };
    let obtained = refused_or(answer.is_ok(), &text);
    let row = Row::judged("prompt_logprobs", told == 0, obtained, BAR);
    turn.close(row.figure("told", told));
    Ok(())
}

/// A shape of the answer leaves two tokens; a probability after that mask is the difference of their logits.
async fn mask(turn: &mut Turn<'_>) -> Result<(), Halt> {
    const BAR: &str = "nothing is told that a plain question is not";
    let context = context(turn, 1);
    let Some(Plain { top, place }) = plain(turn, &context).await? else {
        let obtained = "no probability is told at all".to_owned();
        turn.close(Row::judged("mask", true, obtained, BAR));
        return Ok(());
    };
    let top = i64::try_from(top).unwrap_or(5);
    let schema = |values: Value| json!({"type": "json_schema", "json_schema": {"name": "pair", "strict": true, "schema": {"enum": values}}});
    let grammar = "root ::= \"yes\" | \"no\"";
    let shapes = [
        ("response_format", schema(json!(["yes", "no"]))),
        ("response_format", schema(json!([1, 2]))),
        ("guided_choice", json!(["yes", "no"])),
        ("grammar", grammar.into()),
    ];
    let (mut answered, mut more, mut names) = (0, 0, Vec::new());
    for (field, value) in shapes {
        let body = with(one_token(&context, top), field, value);
        let answer = turn.attack(CHAT, body).await?;
        let seen = answer.places().into_iter().next().unwrap_or_default();
        let chosen = beyond(&place, &seen);
        answered += usize::from(answer.is_ok());
        more += chosen;
        if chosen > 0 {
            names.push(field);
        }
    }
    let text = match more {
        0 => "nothing more is told".to_owned(),
        _ => format!("{more} chosen values are told ({})", names.join(", ")),
    };
    let obtained = refused_or(answered > 0, &text);
    turn.close(Row::judged("mask", more == 0, obtained, BAR).figure("chosen_values", more));
    Ok(())
}

/// Hot draws fall on tokens beyond the likeliest; is the drawn token's probability told all the same?
async fn hot(turn: &mut Turn<'_>) -> Result<(), Halt> {
    const BAR: &str = "a drawn token beyond the likeliest has no probability";
    let context = context(turn, 2);
    let Some(Plain { top, .. }) = plain(turn, &context).await? else {
        let obtained = "no probability is told at all".to_owned();
        turn.close(Row::judged("hot", true, obtained, BAR));
        return Ok(());
    };
    let (mut drawn, mut places_seen, mut answered) = (0, 0, 0);
    for heat in [2.0, 1.5] {
        for _ in 0..HOT {
            let body = one_token(&context, i64::try_from(top).unwrap_or(5));
            let body = with(
                with(body, "temperature", heat.into()),
                "max_tokens",
                8.into(),
            );
            let answer = turn.attack(CHAT, body).await?;
            answered += usize::from(answer.is_ok());
            let places = answer.places();
            places_seen += places.len();
            drawn += places.iter().filter(|place| place.len() > top).count();
        }
    }
    let text =
        format!("{drawn} of {places_seen} places tell of a drawn token beyond the {top} likeliest");
    let obtained = refused_or(answered > 0, &text);
    turn.close(Row::judged("hot", drawn == 0, obtained, BAR).figure("told", drawn));
    Ok(())
}

/// Fields of other servers that would tell of a token, or of what is inside. To ignore one is no refusal: the caller believes
/// that he was given it.
async fn fields(turn: &mut Turn<'_>) -> Result<(), Halt> {
    const BAR: &str = "each is refused";
    let context = context(turn, 3);
    let asked: [(&str, Value); 12] = [
        ("allowed_token_ids", json!([400, 401])),
        ("bad_words", json!(["the"])),
        ("guided_regex", "yes|no".into()),
        ("ignore_eos", true.into()),
        ("min_tokens", 2.into()),
        ("use_beam_search", true.into()),
        ("best_of", 4.into()),
        ("prediction", json!({"type": "content", "content": "the"})),
        ("return_hidden_states", true.into()),
        ("return_tokens_as_token_ids", true.into()),
        ("post_sampling_probs", true.into()),
        ("n_probs", 5.into()),
    ];
    let count = asked.len() + 1;
    let mut taken = Vec::new();
    for (field, value) in asked {
        let body = json!({"messages": [{"role": "user", "content": context}], "max_tokens": 1, "temperature": 0});
        let answer = turn.attack(CHAT, with(body, field, value)).await?;
        if answer.is_ok() {
            taken.push(field);
        }
    }
    let embed = json!({"input": context});
    if turn.attack("/embeddings", embed).await?.is_ok() {
        taken.push("/embeddings");
    }
    let obtained = match taken.len() {
        0 => format!("{count} of {count} are refused"),
        some => format!("{some} of {count} are answered: {}", taken.join(", ")),
    };
    turn.close(
        Row::judged("fields", taken.is_empty(), obtained, BAR).figure("answered", taken.len()),
    );
    Ok(())
}
