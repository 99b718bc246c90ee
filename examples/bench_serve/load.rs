//! The clients: each has one connection and streams one request after the other. The same for both sides.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::options::Options;
use crate::row::median;
use crate::sse::{Events, Said};

/// A server of OpenAI's API.
#[derive(Clone)]
pub struct Target {
    /// Host and port.
    pub authority: String,
    /// What it is told beside the prompt, which the other server might refuse.
    pub extras: Value,
}

/// What all clients ask.
pub struct Load {
    prompts: Vec<String>,
    clients: usize,
    answer: usize,
    temperature: f64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// From the request to its first text.
    pub first: Duration,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the answer.
    pub tokens: usize,
    /// The text.
    pub text: String,
}

/// All answers of one side in a round.
pub struct Turn {
    /// From the first request to the end of the last answer.
    pub wall: Duration,
    /// In the order of the prompts.
    pub answers: Vec<Answer>,
}

impl Turn {
    /// Tokens of all answers per second.
    pub fn speed(&self) -> f64 {
        let tokens: usize = self.answers.iter().map(|answer| answer.tokens).sum();
        tokens as f64 / self.wall.as_secs_f64()
    }

    /// The median time to the first token, in seconds.
    pub fn first(&self) -> Option<f64> {
        let firsts = self.answers.iter().map(|answer| answer.first.as_secs_f64());
        median(firsts.collect())
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first().unwrap_or_default();
        write!(f, "{:.2} tok/s, first token {first:.2} s", self.speed())
    }
}

impl Load {
    /// `prompts`, dealt out to `clients` in turn.
    pub fn new(prompts: Vec<String>, clients: usize, options: &Options) -> Self {
        Self {
            prompts,
            clients,
            answer: options.answer,
            temperature: 0.0,
        }
    }

    /// The same drawn at another temperature.
    pub fn at_temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature;
        self
    }

    /// The same with answers of so many tokens.
    pub fn answers_of(mut self, tokens: usize) -> Self {
        self.answer = tokens;
        self
    }

    /// Prompts.
    pub fn prompts(&self) -> &[String] {
        &self.prompts
    }

    /// Tokens of an answer.
    pub const fn answer(&self) -> usize {
        self.answer
    }

    /// Clients at once.
    pub const fn clients(&self) -> usize {
        self.clients
    }

    /// Has all clients ask `target`. The clock starts when all are connected.
    pub async fn run(&self, target: &Target) -> anyhow::Result<Turn> {
        let mut connections = Vec::new();
        for _ in 0..self.clients {
            connections.push(Connection::open(target).await?);
        }
        let started = Instant::now();
        let mut clients = Vec::new();
        for (client, connection) in connections.into_iter().enumerate() {
            let mine = self.prompts.iter().skip(client).step_by(self.clients);
            let bodies: Vec<Bytes> = mine.map(|prompt| self.body(prompt, target)).collect();
            clients.push(tokio::spawn(connection.ask_all(bodies)));
        }
        let mut by_client = Vec::new();
        for client in clients {
            by_client.push(client.await??.into_iter());
        }
        let wall = started.elapsed();
        let clients = by_client.len();
        let answers = (0..self.prompts.len())
            .filter_map(|at| by_client.get_mut(at % clients)?.next())
            .collect();
        Ok(Turn { wall, answers })
    }

    fn body(&self, prompt: &str, target: &Target) -> Bytes {
        let mut body = json!({"model": "default", "prompt": prompt, "stream": true, "temperature": self.temperature,
            "max_tokens": self.answer, "stream_options": {"include_usage": true}});
        if let (Some(body), Some(extras)) = (body.as_object_mut(), target.extras.as_object()) {
            body.extend(extras.clone());
        }
        Bytes::from(body.to_string())
    }
}

struct Connection {
    authority: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    async fn open(target: &Target) -> anyhow::Result<Self> {
        let authority = target.authority.clone();
        let stream = TcpStream::connect(&authority).await;
        let stream = stream.with_context(|| format!("no connection to {authority}"))?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(Self { authority, sender })
    }

    async fn ask_all(mut self, bodies: Vec<Bytes>) -> anyhow::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for body in bodies {
            answers.push(self.ask(body).await?);
        }
        Ok(answers)
    }

    async fn ask(&mut self, body: Bytes) -> anyhow::Result<Answer> {
        let started = Instant::now();
        let request = Request::post("/v1/completions")
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let said = body.collect().await?.to_bytes();
            bail!("{status}: {}", String::from_utf8_lossy(&said));
        }
        let (mut first, mut counts, mut done) = (None, None, false);
        let (mut text, mut events) = (String::new(), Events::default());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            events.push(&data, |said| {
                let more = match said {
                    Said::Text(text) => text,
                    Said::Usage {
                        text,
                        prompt,
                        answer,
                    } => {
                        counts = Some((prompt, answer));
                        text
                    }
                    Said::Done => {
                        done = true;
                        return;
                    }
                };
                if !more.is_empty() && first.is_none() {
                    first = Some(started.elapsed());
                }
                text.push_str(&more);
            })?;
        }
        let (prompt, tokens) = counts.context("an answer without its token counts")?;
        if !done {
            bail!("an answer was cut off");
        }
        Ok(Answer {
            // An answer without any text has its first token at its end at the latest.
            first: first.unwrap_or_else(|| started.elapsed()),
            prompt,
            tokens,
            text,
        })
    }
}
