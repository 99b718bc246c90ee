//! The turn of one attack: its requests are counted, its time ends, and what was refused is written beside its rows.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::Answer;
use super::row::Row;
use super::target::{Endpoint, Failure};
use super::{Range, RangeError};

/// Why an attack ended before it was through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Halt {
    /// The user's bound.
    #[error("it may send {0} requests (--requests)")]
    Requests(u32),
    /// The user's bound.
    #[error("it may take {0} s (--seconds)")]
    Time(u64),
    /// Nobody listens any more.
    #[error("{0}")]
    Gone(String),
}

/// One attack at work.
#[derive(Debug)]
pub struct Turn<'a> {
    range: &'a Range,
    attack: &'static str,
    deadline: Instant,
    requests_left: u32,
    asked: u32,
    refused: BTreeMap<String, u32>,
    rows: Vec<Row>,
    answers: Option<File>,
}

impl<'a> Turn<'a> {
    pub(super) fn begin(range: &'a Range, attack: &'static str) -> Result<Self, RangeError> {
        let limits = range.settings.limits;
        let open = |path: &std::path::PathBuf| {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path);
            file.map_err(|error| RangeError::Answers {
                file: path.display().to_string(),
                reason: error.to_string(),
            })
        };
        Ok(Self {
            range,
            attack,
            deadline: Instant::now() + limits.time,
            requests_left: limits.requests,
            asked: 0,
            refused: BTreeMap::new(),
            rows: Vec::new(),
            answers: range.settings.answers.as_ref().map(open).transpose()?,
        })
    }

    /// What the attack is given.
    #[must_use]
    pub const fn range(&self) -> &'a Range {
        self.range
    }

    /// Counts a request that is about to be sent. [`Turn::ask`] does so itself.
    ///
    /// # Errors
    /// [`Halt`] where a bound is reached.
    pub fn spend(&mut self) -> Result<(), Halt> {
        let limits = self.range.settings.limits;
        if Instant::now() >= self.deadline {
            return Err(Halt::Time(limits.time.as_secs()));
        }
        let left = self.requests_left.checked_sub(1);
        self.requests_left = left.ok_or(Halt::Requests(limits.requests))?;
        self.asked += 1;
        Ok(())
    }

    /// Counts a refusal by its word. [`Turn::ask`] does so itself.
    pub fn note_refusal(&mut self, code: &str) {
        *self.refused.entry(code.to_owned()).or_default() += 1;
    }

    /// Requests since the last row.
    #[must_use]
    pub const fn asked(&self) -> u32 {
        self.asked
    }

    /// The endpoint of an identity.
    ///
    /// # Errors
    /// [`Halt::Gone`] where there is none at all.
    pub fn endpoint(&self, identity: usize) -> Result<&'a Endpoint, Halt> {
        let endpoint = self.range.target.endpoint(identity);
        endpoint.ok_or_else(|| Halt::Gone("no endpoint".to_owned()))
    }

    /// Asks as `identity`, and counts what is refused. The model's name is filled in.
    ///
    /// An answer that is late, cut or too long has status 0 and that word as its code.
    ///
    /// # Errors
    /// [`Halt`] where a bound is reached or nobody listens.
    pub async fn ask(&mut self, identity: usize, path: &str, body: Value) -> Result<Answer, Halt> {
        let endpoint = self.endpoint(identity)?;
        self.ask_at(endpoint, path, body).await
    }

    /// As [`Turn::ask`], by a way of the attack's own.
    pub(super) async fn ask_at(
        &mut self,
        endpoint: &Endpoint,
        path: &str,
        mut body: Value,
    ) -> Result<Answer, Halt> {
        self.spend()?;
        if let Some(fields) = body.as_object_mut() {
            let model = self.range.target.model();
            fields.entry("model").or_insert_with(|| model.into());
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let time = self.range.settings.limits.request_time.min(left);
        let answer = match endpoint.ask(path, Some(&body), time).await {
            Ok(answer) => answer,
            Err(error @ Failure::Gone { .. }) => return Err(Halt::Gone(error.to_string())),
            Err(Failure::Cut) => unanswered("cut", 0.0),
            Err(Failure::TooLong) => unanswered("too_long", 0.0),
            Err(Failure::Late) => unanswered("late", time.as_secs_f64()),
        };
        match answer.refusal() {
            Some(refusal) => self.note_refusal(&refusal.code),
            None => self.write_down(&answer),
        }
        Ok(answer)
    }

    /// The identity that makes all attacks but those that need others.
    #[must_use]
    pub fn attacker(&self) -> usize {
        self.range.target.attacker()
    }

    /// Asks as the attacker.
    ///
    /// # Errors
    /// As [`Turn::ask`].
    pub async fn attack(&mut self, path: &str, body: Value) -> Result<Answer, Halt> {
        self.ask(self.attacker(), path, body).await
    }

    /// A chat of `messages` as role and text, with `options` beside them.
    ///
    /// # Errors
    /// As [`Turn::ask`].
    pub async fn chat(
        &mut self,
        identity: usize,
        messages: &[(&str, &str)],
        options: Value,
    ) -> Result<Answer, Halt> {
        self.ask(
            identity,
            "/chat/completions",
            conversation(messages, options),
        )
        .await
    }

    /// The same, with an answer of `tokens` tokens, or fewer where they do not fit behind the prompt.
    ///
    /// # Errors
    /// As [`Turn::ask`].
    pub async fn ask_long(
        &mut self,
        identity: usize,
        path: &str,
        body: Value,
        tokens: u64,
    ) -> Result<Answer, Halt> {
        let mut wanted = tokens;
        loop {
            let mut body = body.clone();
            if let Some(fields) = body.as_object_mut() {
                fields.insert("max_tokens".to_owned(), wanted.into());
            }
            let answer = self.ask(identity, path, body).await?;
            let refusal = answer.refusal();
            if refusal.is_none_or(|refusal| !refusal.code.contains("context")) || wanted < 16 {
                return Ok(answer);
            }
            wanted /= 2;
        }
    }

    /// Hands in a row; the requests and refusals since the last one are its own.
    pub fn close(&mut self, mut row: Row) {
        row.attack = self.attack.to_owned();
        row.requests = std::mem::take(&mut self.asked);
        row.refused = std::mem::take(&mut self.refused);
        self.rows.push(row);
    }

    pub(super) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// Only where the user asked for it. A full disk loses the text and not the attack.
    fn write_down(&mut self, answer: &Answer) {
        if let Some(file) = &mut self.answers {
            let line =
                json!({"attack": self.attack, "finish": answer.finish(), "text": answer.text()});
            if let Err(error) = writeln!(file, "{line}") {
                tracing::warn!("answers are not written down any more: {error}");
                self.answers = None;
            }
        }
    }
}

/// The body of a chat of `messages` as role and text, with `options` beside them.
pub(super) fn conversation(messages: &[(&str, &str)], options: Value) -> Value {
    let message = |(role, text): &(&str, &str)| json!({"role": role, "content": text});
    let mut body = options;
    if let Some(fields) = body.as_object_mut() {
        let messages = messages.iter().map(message).collect();
        fields.insert("messages".to_owned(), messages);
    }
    body
}

fn unanswered(word: &str, seconds: f64) -> Answer {
    Answer {
        status: 0,
        document: json!({"error": {"code": word}}),
        seconds,
    }
}
