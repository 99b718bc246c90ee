//! A model that plays written answers, piece by piece at written times: what the prompt names by its number.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use casemate::api::Message;
use casemate::queue::{
    Event, Events, Finish, Generator, Job, Prompt, PromptError, StartError, TokenLogprobs,
    TokenText, Weigh, Weight,
};
use casemate_models::engine::Learnt;
use casemate_models::grammar::{Grammar, GrammarError, Shape};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// A piece of an answer: when it comes after the request, its text, its tokens.
#[derive(Clone, Debug)]
pub struct Played {
    pub at: Duration,
    pub text: String,
    pub tokens: u64,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    Well,
    Failing,
    Never,
}

/// The answers, by number; each with its end.
#[derive(Default)]
pub struct Player {
    pub answers: Vec<(Vec<Played>, Ends)>,
    /// Answers that are being played.
    pub playing: std::sync::Arc<AtomicUsize>,
}

/// An answer of `words` that come one every `gap`.
pub fn steady(words: &[&str], gap: Duration) -> Vec<Played> {
    let gaps = std::iter::successors(Some(gap), |at| Some(*at + gap));
    let played = words.iter().zip(gaps).map(|(word, at)| Played {
        at,
        text: (*word).to_owned(),
        tokens: 1,
    });
    played.collect()
}

/// All the text of an answer.
pub fn text_of(played: &[Played]) -> String {
    played.iter().map(|piece| piece.text.as_str()).collect()
}

impl Generator for Player {
    fn context_tokens(&self) -> usize {
        100_000
    }

    fn width(&self) -> usize {
        512
    }

    fn encode_chat(&self, messages: &[Message]) -> Result<Prompt, PromptError> {
        let texts: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        self.encode_text(&texts.join("\n"))
    }

    fn encode_text(&self, text: &str) -> Result<Prompt, PromptError> {
        Ok(Prompt(text.chars().map(u32::from).collect()))
    }

    fn grammar(&self, _shape: &Shape) -> Result<Grammar, GrammarError> {
        panic!("nobody asks for a shape here")
    }

    fn start(&self, job: Job) -> Result<Events, StartError> {
        let prompt: String = job
            .prompt
            .0
            .into_iter()
            .filter_map(char::from_u32)
            .collect();
        let number = prompt.split_whitespace().nth(1);
        let number: usize = number.and_then(|word| word.parse().ok()).unwrap();
        let (pieces, ends) = self.answers[number].clone();
        let (sender, receiver) = mpsc::channel(4);
        let told = job.logprobs.is_some();
        let counted = Counted::new(&self.playing);
        tokio::spawn(async move {
            let _counted = counted;
            play(pieces, ends, told, sender).await;
        });
        Ok(Events::new(receiver, None))
    }

    fn weigh(&self, _weigh: Weigh) -> Result<Weight, StartError> {
        panic!("nobody weighs answers here")
    }
}

struct Counted(std::sync::Arc<AtomicUsize>);

impl Counted {
    fn new(count: &std::sync::Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn play(pieces: Vec<Played>, ends: Ends, told: bool, events: mpsc::Sender<Event>) {
    let began = Instant::now();
    let mut tokens = 0;
    let mut offset = 0;
    for piece in pieces {
        tokio::select! {
            () = sleep_until(began + piece.at) => {}
            () = events.closed() => return,
        }
        tokens += piece.tokens;
        let token = TokenText {
            bytes: Some(piece.text.as_bytes().to_vec()),
            text: piece.text.clone(),
        };
        let logprob = TokenLogprobs {
            top: vec![(token.clone(), -0.5)],
            token,
            logprob: Some(-0.5),
            offset,
        };
        offset += piece.text.chars().count() as u64;
        let event = Event::Text {
            text: piece.text,
            tokens: vec![0; piece.tokens as usize],
            learnt: Learnt {
                millibits: 1000 * piece.tokens,
                arranged_millibits: 0,
            },
            logprobs: told.then_some(logprob).into_iter().collect(),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
    let end = match ends {
        Ends::Well => Event::End {
            finish: Finish::Stop,
            repeated: false,
            telling: false,
            tokens,
            learnt: Learnt::default(),
        },
        Ends::Failing => Event::Failed,
        Ends::Never => return events.closed().await,
    };
    // A reader that left hears no end.
    drop(events.send(end).await);
}
