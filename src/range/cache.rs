//! The time of a shared cache (Gu et al. 2025, arXiv 2502.07776): one identity has a long beginning computed, another one asks
//! for the same and for a new one. Where the two times differ, he learns what the first one asked.

use serde_json::json;

use super::answer::Answer;
use super::chance::{kolmogorov_smirnov, median};
use super::row::Row;
use super::turn::{Halt, Turn};
use super::words::NOUNS;

/// Words of a beginning.
const WORDS: usize = 90;
/// Below this, times are not alike.
const ALIKE: f64 = 0.01;
/// Below this the test sees an identity's own cache, and its silence about others means something.
const SEES: f64 = 1e-6;

#[derive(Default)]
struct Times {
    own_first: Vec<f64>,
    own_again: Vec<f64>,
    foreign: Vec<f64>,
    fresh: Vec<f64>,
    cached: u64,
}

pub(super) async fn run(turn: &mut Turn<'_>) -> Result<(), Halt> {
    let target = &turn.range().target;
    let (two, victim, listener) = (target.identities() > 1, target.honest(), target.attacker());
    let mut times = Times::default();
    // Nobody has used these words in this order before.
    let mut state = unused();
    for at in 0..turn.range().settings.samples {
        let (known, new) = (beginning(&mut state), beginning(&mut state));
        push(
            &mut times.own_first,
            &ask(turn, victim, &known, "one").await?,
        );
        if two {
            // Whatever the second request of two costs, each kind is it as often.
            let foreign_first = at % 2 == 0;
            for foreign in [foreign_first, !foreign_first] {
                let (text, into) = match foreign {
                    true => (&known, &mut times.foreign),
                    false => (&new, &mut times.fresh),
                };
                let answer = ask(turn, listener, text, "two").await?;
                push(into, &answer);
                if foreign {
                    times.cached = times.cached.max(answer.cached_tokens().unwrap_or(0));
                }
            }
        }
        push(
            &mut times.own_again,
            &ask(turn, victim, &known, "three").await?,
        );
    }
    close(turn, two, &times);
    Ok(())
}

fn push(into: &mut Vec<f64>, answer: &Answer) {
    if answer.is_ok() {
        into.push(answer.seconds);
    }
}

async fn ask(
    turn: &mut Turn<'_>,
    identity: usize,
    beginning: &str,
    end: &str,
) -> Result<Answer, Halt> {
    let text = format!("{beginning} {end}");
    let options = json!({"max_tokens": 1, "temperature": 0});
    turn.chat(identity, &[("user", &text)], options).await
}

fn close(turn: &mut Turn<'_>, two: bool, times: &Times) {
    let milliseconds = |times: &[f64]| median(times) * 1e3;
    let own = kolmogorov_smirnov(&times.own_first, &times.own_again);
    let (new, again) = (
        milliseconds(&times.own_first),
        milliseconds(&times.own_again),
    );
    let sees = own < SEES;
    let told = format!(
        "own beginnings: {new:.1} ms new, {again:.1} ms again (p = {own:.1e}){}",
        if sees {
            ""
        } else {
            ": this test sees no cache"
        }
    );
    if !two {
        turn.close(Row::told("own", told).figure("p", own));
        let why = "it takes two identities".to_owned();
        turn.close(Row::skipped("foreign", why));
        return;
    }
    let p = kolmogorov_smirnov(&times.foreign, &times.fresh);
    let (foreign, fresh) = (milliseconds(&times.foreign), milliseconds(&times.fresh));
    let cached = times.cached;
    let obtained = format!(
        "another's beginning {foreign:.1} ms, a new one {fresh:.1} ms (p = {p:.1e}); {cached} tokens of it are called cached; {told}"
    );
    let bar = "another's beginning takes as long as a new one (p > 0.01), and is not called cached";
    let small = u64::try_from(WORDS / 2).unwrap_or(u64::MAX);
    let row = Row::judged("foreign", p > ALIKE && cached < small, obtained, bar);
    turn.close(
        row.figure("p", p)
            .figure("p_own", own)
            .figure("cached_tokens", cached)
            .figure("samples", times.foreign.len()),
    );
}

/// A state that no run had before: the time of day in nanoseconds.
fn unused() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanoseconds = now.map(|it| it.as_nanos()).unwrap_or_default();
    u64::try_from(nanoseconds & u128::from(u64::MAX)).unwrap_or(1) | 1
}

/// Words in an order of chance (xorshift).
fn beginning(state: &mut u64) -> String {
    let mut words = Vec::with_capacity(WORDS);
    for _ in 0..WORDS {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        let at = usize::try_from(*state % NOUNS.len() as u64).unwrap_or(0);
        words.push(NOUNS.get(at).copied().unwrap_or_default());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_beginnings_are_alike() {
        let mut state = 7;
        let (first, second) = (beginning(&mut state), beginning(&mut state));
        assert_eq!(first.split(' ').count(), WORDS);
        assert_ne!(first.get(..24), second.get(..24));
    }
}
