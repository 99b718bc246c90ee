//! A model whose answers are written in the prompt: the first word says what to do. A token is a character.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use casemate::api::Message;
use casemate::queue::{
    Event, Events, Finish, Generator, Job, Prompt, PromptError, StartError, TokenLogprobs,
    TokenText, Weigh, Weight,
};
use casemate_models::engine::Learnt;
use casemate_models::grammar::{Grammar, GrammarError, Grammars, Shape};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::organisation::SHARE;

/// Tokens of the scripted model: the letters of ASCII.
pub const LETTERS: u32 = 128;

/// Planted in every answer; found nowhere else.
pub const ANSWER_MARKER: &str = "MARKER-ANSWER-c41d";
/// Tokens of prompt and answer together.
pub const CONTEXT: usize = 2000;
/// Columns of the scripted model: enough for all values that policy may allow.
const WIDTH: usize = 512;
/// Between the pieces of a slow answer.
const STEP: Duration = Duration::from_millis(20);

/// | first word of the prompt | what the model does |
/// |---|---|
/// | `slow` | writes a piece every 20 ms and never ends |
/// | `gush` | writes large pieces as fast as they are taken, and never ends |
/// | `silent` | writes one piece and then nothing |
/// | `fail` | writes one piece and fails |
/// | `stuck` | writes one piece and finds nothing that may follow |
/// | `vanish` | writes one piece and goes away without a word |
/// | `panic-encode`, `panic-start`, `refuse` | as it says |
/// | anything else | repeats the prompt |
///
/// Where `likely-N` stands in a prompt, every answer is N bits likelier after it; `weightless` leaves it without a weight, and
/// `crowded` finds the model full, until the answer is too late.
///
/// A piece counts as one token that tells a bit, of log-probability -0.5; in its place the model finds `x` at -1, and again at -1.5.
#[derive(Default)]
pub struct Script {
    seen: Mutex<Vec<String>>,
    tokens_max: Mutex<Vec<usize>>,
}

impl Script {
    /// The prompts that reached the model.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// How long the last answer could have been.
    pub fn tokens_max(&self) -> usize {
        *self.tokens_max.lock().unwrap().last().unwrap()
    }

    fn encode(text: &str) -> Prompt {
        assert!(!text.starts_with("panic-encode"), "as the script says");
        Prompt(text.chars().map(u32::from).collect())
    }
}

impl Generator for Script {
    fn context_tokens(&self) -> usize {
        CONTEXT
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn encode_chat(&self, messages: &[Message]) -> Result<Prompt, PromptError> {
        let texts: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        Ok(Self::encode(&texts.join("\n")))
    }

    fn encode_text(&self, text: &str) -> Result<Prompt, PromptError> {
        Ok(Self::encode(text))
    }

    fn grammar(&self, shape: &Shape) -> Result<Grammar, GrammarError> {
        let letters = (0..LETTERS as u8).map(|byte| vec![byte]).collect();
        Grammars::new(letters, Vec::new())?.compile(shape)
    }

    fn start(&self, job: Job) -> Result<Events, StartError> {
        let prompt: String = job
            .prompt
            .0
            .into_iter()
            .filter_map(char::from_u32)
            .collect();
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(prompt.clone());
        let tokens_max = self.tokens_max.lock();
        tokens_max
            .unwrap_or_else(PoisonError::into_inner)
            .push(job.tokens_max);
        let word = prompt
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        assert_ne!(word, "panic-start", "as the script says");
        assert_eq!(job.share, SHARE, "what policy gives the team");
        if word == "refuse" {
            return Err(StartError::Refused);
        }
        if job.sampling.logit_bias.iter().any(|(id, _)| *id >= LETTERS) {
            return Err(StartError::UnknownToken);
        }
        let (sender, receiver) = mpsc::channel(4);
        let top = job.logprobs.map(|reveal| reveal.top);
        let biased = !job.sampling.logit_bias.is_empty();
        tokio::spawn(play(word, prompt, (top, biased), sender));
        Ok(Events::new(receiver, None))
    }

    fn weigh(&self, weigh: Weigh) -> Result<Weight, StartError> {
        assert!(!weigh.answer.is_empty());
        let prompt: String = weigh
            .prompt
            .0
            .into_iter()
            .filter_map(char::from_u32)
            .collect();
        let likely = prompt.split_once("likely-").map_or("", |(_, rest)| rest);
        let bits = likely.split_whitespace().next().unwrap_or("0");
        let weight = 1_000_000 - 1000 * bits.parse::<u64>().unwrap();
        if prompt.contains("crowded") {
            return Err(StartError::Full);
        }
        let (sender, receiver) = oneshot::channel();
        let weight = (!prompt.contains("weightless")).then_some(weight);
        sender.send(weight).unwrap();
        Ok(Weight::new(receiver, None))
    }
}

fn told(text: &str, count: usize, offset: u64) -> TokenLogprobs {
    let token = |text: &str| TokenText {
        text: text.to_owned(),
        bytes: Some(text.as_bytes().to_vec()),
    };
    let logprob = |rank: usize| rank as f64 * -0.5;
    let others = (2..).map(|rank| (token("x"), logprob(rank)));
    let first = [(token(text), logprob(1))].into_iter();
    TokenLogprobs {
        token: token(text),
        logprob: Some(logprob(1)),
        top: first.chain(others).take(count).collect(),
        offset,
    }
}

async fn play(
    word: String,
    prompt: String,
    (logprobs, biased): (Option<usize>, bool),
    events: mpsc::Sender<Event>,
) {
    let mut offset = 0;
    let mut piece = move |text: String| {
        let told = logprobs.map(|count| told(&text, count, offset));
        offset += text.chars().count() as u64;
        Event::Text {
            text,
            tokens: vec![0],
            learnt: Learnt {
                millibits: 1000,
                arranged_millibits: if biased { 1000 } else { 0 },
            },
            logprobs: told.into_iter().collect(),
        }
    };
    let first = events.send(piece(ANSWER_MARKER.into())).await;
    if first.is_err() {
        return;
    }
    match word.as_str() {
        "slow" => {
            while events.send(piece(".".into())).await.is_ok() {
                sleep(STEP).await;
            }
        }
        "gush" => while events.send(piece("gush ".repeat(10_000))).await.is_ok() {},
        "silent" => events.closed().await,
        "vanish" => {}
        "stuck" => drop(events.send(Event::Stuck).await),
        "fail" => drop(events.send(Event::Failed).await),
        _ => {
            for word in prompt.split_inclusive(' ') {
                if events.send(piece(word.into())).await.is_err() {
                    return;
                }
            }
            let tokens = 1;
            let end = Event::End {
                finish: Finish::Stop,
                repeated: false,
                telling: false,
                tokens,
                learnt: Learnt::default(),
            };
            drop(events.send(end).await);
        }
    }
}
