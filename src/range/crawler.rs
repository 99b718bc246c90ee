//! A distillation crawler: the same wrapper around question after question, in other words, between other prompts, and from
//! many identities. What can be seen from outside is what the server did about it, and from which request on. An honest user
//! asks beside it and as often.
//!
//! With several identities the first is the honest one's.

use serde_json::{Value, json};

use super::answer::{Answer, Refusal};
use super::chance::median;
use super::row::Row;
use super::turn::{Halt, Turn};

/// Tokens of an answer.
const TOKENS: u64 = 48;
/// Requests from whose times the usual one is taken.
const USUAL: usize = 8;
/// So many times the usual time, and so much more, is slowed.
const SLOWED_TIMES: f64 = 5.0;
const SLOWED_SECONDS: f64 = 0.25;

/// One who asks again and again, and what happened to him.
#[derive(Debug, Default)]
struct Asker {
    asked: usize,
    answered: usize,
    tokens: u64,
    /// The first request that lost an option, with the server's word.
    withheld: Option<(usize, String)>,
    /// The first request that was refused altogether, with the server's word.
    refused: Option<(usize, String)>,
    refusals: usize,
    seconds: Vec<f64>,
    /// Probabilities are not asked for: the server never gave any, or gives none any more.
    without_option: bool,
}

impl Asker {
    /// Asks once, with all options that are still given: a crawler takes what it gets.
    async fn ask(&mut self, turn: &mut Turn<'_>, identity: usize, text: &str) -> Result<(), Halt> {
        self.asked += 1;
        let mut answer = self.send(turn, identity, text).await?;
        if let (Some(refusal), false) = (answer.refusal(), self.without_option) {
            self.without_option = true;
            answer = self.send(turn, identity, text).await?;
            // What was never given was not withheld, and what is refused altogether comes below.
            if answer.is_ok() && self.answered > 0 {
                self.withheld = Some((self.asked, refusal.code));
            }
        }
        match answer.refusal() {
            None => {
                self.answered += 1;
                self.tokens += answer.answer_tokens().unwrap_or(0);
                self.seconds.push(answer.seconds);
            }
            Some(Refusal { code, .. }) => {
                self.refusals += 1;
                self.refused.get_or_insert((self.asked, code));
            }
        }
        Ok(())
    }

    async fn send(&self, turn: &mut Turn<'_>, identity: usize, text: &str) -> Result<Answer, Halt> {
        let mut options = json!({"max_tokens": TOKENS, "temperature": 0});
        if let (Some(fields), false) = (options.as_object_mut(), self.without_option) {
            fields.insert("logprobs".to_owned(), Value::Bool(true));
        }
        turn.chat(identity, &[("user", text)], options).await
    }

    /// The first answer from which on he waits: the time of the first ones is the usual one.
    fn slowed(&self) -> Option<usize> {
        let (first, rest) = self.seconds.split_at_checked(USUAL)?;
        let limit = (median(first) * SLOWED_TIMES).max(median(first) + SLOWED_SECONDS);
        let after = rest.iter().position(|seconds| *seconds > limit)?;
        // One long answer is bad luck.
        let late = rest.get(after..)?;
        let slow = late.iter().filter(|seconds| **seconds > limit).count();
        (slow * 2 > late.len() && slow >= 3).then_some(USUAL + after + 1)
    }

    /// What was done about him, in words, and from which request on.
    fn noticed(&self) -> Option<(usize, String)> {
        let withheld = self.withheld.clone();
        let withheld = withheld.map(|(at, code)| (at, format!("an option was withheld ({code})")));
        let refused = self.refused.clone();
        let refused = refused.map(|(at, code)| (at, format!("refused ({code})")));
        let slowed = self.slowed().map(|at| (at, "slowed".to_owned()));
        [withheld, refused, slowed].into_iter().flatten().min()
    }
}

pub(super) async fn run(turn: &mut Turn<'_>) -> Result<(), Halt> {
    let target = &turn.range().target;
    let (identities, first) = (target.identities(), target.honest());
    let prompts = turn.range().settings.prompts;
    let mut honest = Asker::default();
    if identities == 1 {
        // Before there is anything to hold against this identity.
        for text in honest_texts(turn) {
            honest.ask(turn, first, &text).await?;
        }
        close_honest(turn, &honest);
    }
    let corpora = &turn.range().corpora;
    let one = corpora
        .scaffolds
        .iter()
        .take(1)
        .cloned()
        .collect::<Vec<_>>();
    let plans = [
        ("one-scaffold", one.clone(), false),
        ("rewordings", corpora.rewordings.clone(), false),
        ("diluted", one.clone(), true),
    ];
    for (at, (name, wrappers, diluted)) in plans.into_iter().enumerate() {
        let identity = turn.range().target.crawler(at);
        let mut beside = match at == 0 && identities > 1 {
            true => honest_texts(turn),
            false => Vec::new(),
        }
        .into_iter();
        let mut asker = Asker::default();
        for text in crawl(turn, &wrappers, diluted, at, prompts) {
            asker.ask(turn, identity, &text).await?;
            if let Some(text) = beside.next() {
                honest.ask(turn, first, &text).await?;
            }
        }
        if at == 0 && identities > 1 {
            close_honest(turn, &honest);
        }
        let again = at > 0 && at + 2 >= identities;
        close(turn, name, &asker, again);
    }
    many(turn, &one, prompts).await
}

/// As many prompts as wanted, each once: wrapped slots, or three wrapped and one bare where the crawl is diluted.
fn crawl(
    turn: &Turn<'_>,
    wrappers: &[String],
    diluted: bool,
    plan: usize,
    prompts: usize,
) -> Vec<String> {
    let corpora = &turn.range().corpora;
    let slots = corpora.slots.iter().cycle().skip(plan * prompts);
    let slots = slots.zip(wrappers.iter().cycle()).enumerate();
    let one = |(at, (slot, wrapper)): (usize, (&String, &String))| match diluted && at % 4 == 3 {
        true => slot.clone(),
        false => wrapper.replace("{slot}", slot),
    };
    slots.take(prompts).map(one).collect()
}

fn honest_texts(turn: &Turn<'_>) -> Vec<String> {
    let prompts = turn.range().settings.prompts;
    let texts = turn.range().corpora.honest.iter();
    texts.take(prompts).cloned().collect()
}

fn close_honest(turn: &mut Turn<'_>, honest: &Asker) {
    let hindered = honest.refusals + usize::from(honest.withheld.is_some());
    let slowed = honest.slowed();
    let mut obtained = format!(
        "{hindered} of {} honest requests were hindered",
        honest.asked
    );
    if let Some(at) = slowed {
        obtained += &format!(", and they were slowed from the {at}th on");
    }
    let holds = hindered == 0 && slowed.is_none();
    let share = hindered as f64 / honest.asked.max(1) as f64;
    let row = Row::judged("honest", holds, obtained, "none is hindered");
    turn.close(
        row.figure("asked", honest.asked)
            .figure("hindered_share", share),
    );
}

fn close(turn: &mut Turn<'_>, name: &str, asker: &Asker, again: bool) {
    let Asker {
        asked,
        answered,
        tokens,
        ..
    } = asker;
    let noticed = asker.noticed();
    let did = match &noticed {
        Some((at, did)) => format!("{did} from request {at} on"),
        None => "nothing was done".to_owned(),
    };
    let again = if again {
        "; this identity crawled before"
    } else {
        ""
    };
    let obtained = format!("{answered} of {asked} prompts answered, {tokens} tokens; {did}{again}");
    let bar = "noticed: an option withheld, slowed or refused";
    let row = Row::judged(name, noticed.is_some(), obtained, bar);
    turn.close(
        row.figure("answered", *answered)
            .figure("tokens", *tokens)
            .figure("noticed_at", noticed.map(|(at, _)| at)),
    );
}

/// The same wrapper, each identity only now and then.
async fn many(turn: &mut Turn<'_>, wrapper: &[String], prompts: usize) -> Result<(), Halt> {
    let crew = turn.range().target.crew();
    if crew.len() < 2 {
        let why = "it takes three identities or more: the honest one's and two others".to_owned();
        turn.close(Row::skipped("identities", why));
        return Ok(());
    }
    let mut askers: Vec<Asker> = crew.iter().map(|_| Asker::default()).collect();
    let texts = crawl(turn, wrapper, false, 3, prompts);
    for (at, text) in texts.iter().enumerate() {
        let place = at % crew.len();
        let (Some(identity), Some(asker)) = (crew.get(place), askers.get_mut(place)) else {
            continue;
        };
        asker.ask(turn, *identity, text).await?;
    }
    let answered: usize = askers.iter().map(|asker| asker.answered).sum();
    let noticed = askers.iter().filter_map(Asker::noticed).count();
    let obtained = format!(
        "{answered} of {} prompts of {} identities answered; something was done about {noticed} of these",
        texts.len(),
        crew.len()
    );
    let bar = "something is done about one at least";
    let row = Row::judged("identities", noticed > 0, obtained, bar);
    turn.close(
        row.figure("answered", answered)
            .figure("identities", crew.len())
            .figure("noticed", noticed),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_stays_is_seen_and_a_single_one_is_not() {
        let times = |late: &[f64]| Asker {
            seconds: [[0.01; 12].as_slice(), late].concat(),
            ..Asker::default()
        };
        assert_eq!(times(&[2.0; 6]).slowed(), Some(13));
        assert_eq!(times(&[2.0, 0.01, 0.01, 0.01, 0.01]).slowed(), None);
        assert_eq!(times(&[0.03; 9]).slowed(), None);
        assert_eq!(Asker::default().slowed(), None);
    }

    #[test]
    fn what_came_first_is_what_is_told() {
        let asker = Asker {
            withheld: Some((30, "guard_withheld".to_owned())),
            refused: Some((50, "guard_closed".to_owned())),
            ..Asker::default()
        };
        let (at, did) = asker.noticed().unwrap_or_default();
        assert_eq!(at, 30);
        assert!(did.contains("guard_withheld"));
        assert_eq!(Asker::default().noticed(), None);
    }
}
