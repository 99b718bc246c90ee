//! Recovery of the last layer (Carlini et al. 2024, arXiv 2403.06634; Finlayson et al. 2024, 2403.09539): probabilities of
//! the same tokens after many contexts span a space of as many dimensions as the model is wide, which is the layer up to a
//! linear map. Three ways: everything is told; a bias chooses what is told; only the likeliest are told.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::answer::Place;
use super::row::Row;
use super::spectrum::{fall_after, singular_values, steepest};
use super::told::{Plain, TOLD_MAX, beyond, one_token, plain};
use super::turn::{Halt, Turn};

/// More values than any vocabulary has.
const ALL: i64 = 1_000_000;
/// Contexts and tokens beyond the largest width, so that a fall can be seen.
const BEYOND: usize = 16;
/// The first token that is chosen: below are bytes and control tokens.
const TOKEN_FIRST: u64 = 300;
/// What lifts a token over all others.
const LIFT: i64 = 100;
/// Contexts of which only the likeliest are told, and tokens that are looked at.
const LIKELIEST_CONTEXTS: usize = 300;
const LIKELIEST_TOKENS: usize = 400;

pub(super) async fn run(turn: &mut Turn<'_>) -> Result<(), Halt> {
    everything(turn).await?;
    lifted(turn).await?;
    likeliest(turn).await
}

fn contexts(turn: &Turn<'_>, count: usize) -> Vec<String> {
    let all = &turn.range().corpora.contexts;
    // Spread over the whole file: neighbours are alike.
    let step = (all.len() / count.max(1)).max(1);
    all.iter().step_by(step).take(count).cloned().collect()
}

/// The ways to ask for every value there is.
fn forms(context: &str) -> [(&'static str, &'static str, Value); 5] {
    let text = |field: &str| {
        let mut body = json!({"prompt": context, "max_tokens": 1, "temperature": 0});
        body.as_object_mut()
            .map(|fields| fields.insert(field.to_owned(), ALL.into()));
        body
    };
    let mut chat = one_token(context, 5);
    chat.as_object_mut()
        .map(|fields| fields.insert("n_probs".to_owned(), ALL.into()));
    [
        ("top_logprobs", "/chat/completions", one_token(context, ALL)),
        (
            "top_logprobs -1",
            "/chat/completions",
            one_token(context, -1),
        ),
        ("logprobs", "/completions", text("logprobs")),
        ("n_probs", "/completions", text("n_probs")),
        ("n_probs in chat", "/chat/completions", chat),
    ]
}

/// The widest of the ways to ask, and how much it tells.
async fn widest(turn: &mut Turn<'_>) -> Result<(usize, usize), Halt> {
    let context = contexts(turn, 1).pop().unwrap_or_default();
    let mut best = (0, 0);
    for (at, (_, path, body)) in forms(&context).into_iter().enumerate() {
        let place = first_place(turn, path, body).await?;
        if place.len() > best.1 {
            best = (at, place.len());
        }
    }
    Ok(best)
}

async fn first_place(turn: &mut Turn<'_>, path: &str, body: Value) -> Result<Place, Halt> {
    let answer = turn.attack(path, body).await?;
    Ok(answer.places().into_iter().next().unwrap_or_default())
}

/// Everything is asked for.
async fn everything(turn: &mut Turn<'_>) -> Result<(), Halt> {
    const BAR: &str = "at most 20 values of a place, and no hidden size";
    let (form, values) = widest(turn).await?;
    if values <= TOLD_MAX {
        let obtained = format!("{values} values of a place at most, however many are asked for");
        turn.close(
            Row::judged("everything", true, obtained, BAR).figure("values_of_a_place", values),
        );
        return Ok(());
    }
    let size = turn.range().settings.width_max + BEYOND;
    let mut columns: Vec<String> = Vec::new();
    let mut rows: Vec<Vec<f64>> = Vec::new();
    let mut name = "";
    for context in contexts(turn, size) {
        let Some((word, path, body)) = forms(&context).into_iter().nth(form) else {
            break;
        };
        name = word;
        let place = first_place(turn, path, body).await?;
        if columns.is_empty() {
            let step = (place.len() / size).max(1);
            let mut names: Vec<String> = place.into_iter().map(|told| told.text).collect();
            names.sort_unstable();
            columns = names.into_iter().step_by(step).take(size).collect();
            continue;
        }
        let told: HashMap<String, f64> =
            place.into_iter().map(|it| (it.text, it.logprob)).collect();
        let row: Option<Vec<f64>> = columns.iter().map(|it| told.get(it).copied()).collect();
        rows.extend(row);
    }
    let told = format!("{values} values of a place by {name}");
    close_spectrum(turn, "everything", &told, &rows, BAR, true);
    Ok(())
}

/// Judges what the spectrum of `rows` tells. `open`: that so much is told misses the bar by itself.
fn close_spectrum(
    turn: &mut Turn<'_>,
    name: &str,
    told: &str,
    rows: &[Vec<f64>],
    bar: &str,
    open: bool,
) {
    let values = singular_values(rows);
    let Some(fall) = steepest(&values) else {
        let text = format!("{told}, of too few contexts alike for a look at their space");
        turn.close(Row::judged(name, !open, text, bar));
        return;
    };
    let width = turn.range().settings.width;
    let found = fall.is_a_width() && width.is_none_or(|width| width == fall.after);
    let verdict = match (found, fall.is_a_width()) {
        (true, _) => format!("hidden size {} found", fall.after),
        (false, true) => format!("a wrong hidden size, {}", fall.after),
        (false, false) => "hidden size not found".to_owned(),
    };
    let obtained = format!(
        "{told}; {verdict} (singular values fall by {:.3e} after {})",
        fall.by, fall.after
    );
    let at_width = width.and_then(|width| fall_after(&values, width));
    let row = Row::judged(name, !(open || found), obtained, bar)
        .figure("hidden_size", found.then_some(fall.after))
        .figure("gap", fall.by)
        .figure("gap_at_width", at_width)
        .figure("contexts", rows.len())
        .figure("tokens", rows.first().map_or(0, Vec::len));
    turn.close(row);
}

fn lift(context: &str, top: usize, ids: &[u64]) -> Value {
    let mut body = one_token(context, i64::try_from(top).unwrap_or(5));
    let biases: serde_json::Map<String, Value> =
        ids.iter().map(|id| (id.to_string(), LIFT.into())).collect();
    body.as_object_mut()
        .map(|fields| fields.insert("logit_bias".to_owned(), biases.into()));
    body
}

/// A bias lifts the tokens of the attacker's choice among those that are told.
async fn lifted(turn: &mut Turn<'_>) -> Result<(), Halt> {
    const BAR: &str = "a bias changes nothing that is told";
    let context = contexts(turn, 1).pop().unwrap_or_default();
    let Some(Plain { top, place }) = plain(turn, &context).await? else {
        let obtained = "no probability is told at all".to_owned();
        turn.close(Row::judged("bias", true, obtained, BAR));
        return Ok(());
    };
    let each = top.saturating_sub(1).max(1);
    let ids: Vec<u64> = (TOKEN_FIRST..).take(each.min(4)).collect();
    let body = lift(&context, top, &ids);
    let answer = turn.attack("/chat/completions", body).await?;
    let seen = answer.places().into_iter().next().unwrap_or_default();
    if !answer.is_ok() || beyond(&place, &seen) < ids.len().min(2) {
        let obtained = match answer.is_ok() {
            true => "answered, and what is told does not follow the bias",
            false => "refused",
        };
        turn.close(Row::judged("bias", true, obtained.to_owned(), BAR));
        return Ok(());
    }
    let rows = chosen_values(turn, top).await?;
    let told = format!("{each} values of chosen tokens with each request");
    close_spectrum(turn, "bias", &told, &rows, BAR, true);
    Ok(())
}

/// Values of the same chosen tokens after many contexts. All are lifted alike, so that their differences stay; one of them
/// is in every request and joins them.
async fn chosen_values(turn: &mut Turn<'_>, top: usize) -> Result<Vec<Vec<f64>>, Halt> {
    let each = top.saturating_sub(1).max(1);
    let most = turn.range().settings.width_max + BEYOND;
    // As many contexts as tokens, within half of what may be asked.
    let requests = turn.range().settings.limits.requests as usize / 2;
    let size = (8..=most)
        .rev()
        .find(|size| size * size.div_ceil(each) <= requests);
    let size = size.unwrap_or(8);
    let contexts = contexts(turn, size);
    let first = contexts.first().cloned().unwrap_or_default();
    let answer = turn
        .attack("/chat/completions", lift(&first, top, &[TOKEN_FIRST]))
        .await?;
    let joint = answer.places().into_iter().next().unwrap_or_default();
    let joint = joint
        .into_iter()
        .max_by(|a, b| a.logprob.total_cmp(&b.logprob));
    let joint = joint.map(|told| told.text).unwrap_or_default();
    let ids: Vec<u64> = (TOKEN_FIRST + 1..).take(size).collect();
    let mut columns: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for context in contexts {
        let mut values: BTreeMap<String, f64> = BTreeMap::new();
        for chosen in ids.chunks(each) {
            let lifted: Vec<u64> = [TOKEN_FIRST].iter().chain(chosen).copied().collect();
            let body = lift(&context, top, &lifted);
            let place = first_place(turn, "/chat/completions", body).await?;
            let Some(base) = place.iter().find(|told| told.text == joint) else {
                continue;
            };
            let base = base.logprob;
            // What was not lifted lies far below.
            let near = place
                .iter()
                .filter(|told| told.logprob > base - LIFT as f64 / 2.0);
            values.extend(near.map(|told| (told.text.clone(), told.logprob - base)));
        }
        if columns.is_empty() {
            columns = values.keys().cloned().collect();
        }
        let row: Option<Vec<f64>> = columns.iter().map(|it| values.get(it).copied()).collect();
        rows.extend(row.filter(|row| !row.is_empty()));
    }
    Ok(rows)
}

/// Nothing is chosen: the likeliest of many contexts, and a guess for all others.
async fn likeliest(turn: &mut Turn<'_>) -> Result<(), Halt> {
    const BAR: &str = "no hidden size";
    let mut places: Vec<Place> = Vec::new();
    let mut top = 0;
    for context in contexts(turn, LIKELIEST_CONTEXTS) {
        let place = if top == 0 {
            let told = plain(turn, &context).await?;
            let Some(Plain { top: most, place }) = told else {
                let obtained = "no probability is told at all".to_owned();
                turn.close(Row::judged("likeliest", true, obtained, BAR));
                return Ok(());
            };
            top = most;
            place
        } else {
            let body = one_token(&context, i64::try_from(top).unwrap_or(5));
            first_place(turn, "/chat/completions", body).await?
        };
        if !place.is_empty() {
            places.push(place);
        }
    }
    let rows = filled(&places);
    let told = format!("the {top} likeliest of {} contexts", places.len());
    close_spectrum(turn, "likeliest", &told, &rows, BAR, false);
    Ok(())
}

/// Rows over the tokens that were told most often; what was not told is taken to be a little less than the least that was.
fn filled(places: &[Place]) -> Vec<Vec<f64>> {
    let mut often: HashMap<&str, usize> = HashMap::new();
    for told in places.iter().flatten() {
        *often.entry(told.text.as_str()).or_default() += 1;
    }
    let mut tokens: Vec<(&str, usize)> = often.into_iter().collect();
    tokens.sort_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
    tokens.truncate(LIKELIEST_TOKENS);
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for place in places {
        let told: HashMap<&str, f64> = place
            .iter()
            .map(|it| (it.text.as_str(), it.logprob))
            .collect();
        let least = told.values().copied().fold(0.0, f64::min) - 1.0;
        let row: Vec<f64> = tokens
            .iter()
            .map(|(token, _)| told.get(token).copied().unwrap_or(least))
            .collect();
        // A context that is told as another one was adds nothing, and would look like an end of the space.
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows
}
