//! Weighs answers after two system prompts, the one that they were given and a harmless one, and draws answers that are not given:
//! where thresholds of the likelihood test come from (docs/GUARD.md).
//!
//!     cargo run --release -p casemate-models --example weigh -- MODEL.gguf < CASES.jsonl > WEIGHED.jsonl
//!
//! A case is `{"id", "system", "user", "answer", "tokens_max", "seed"}`; `answer` may be absent, and `system` empty where the answer is drawn
//! without one. Answered is the case's `id` with `answer`, `tokens`, and the bits of both prompts.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use casemate_models::LoadedModel;
use casemate_models::engine::{
    EngineLimits, Event, GenerateRequest, SamplingParams, Tenant, Ticket, WeighRequest,
};
use casemate_models::model::RunningModel;
use casemate_models::template::{ChatMessage, RenderOptions, Role};
use casemate_models::weights::GgufFile;
use serde_json::{Value, json};

type Anyhow<T> = Result<T, Box<dyn Error>>;

/// Cases that run at once.
const SIDE_BY_SIDE: usize = 12;
/// What stands in place of a system prompt.
const HARMLESS: &str = "You are a helpful assistant.";

fn main() -> Anyhow<()> {
    let path = std::env::args().nth(1).ok_or("usage: weigh MODEL.gguf")?;
    let limits = EngineLimits {
        sequences_max: 2 * SIDE_BY_SIDE,
        ..EngineLimits::default()
    };
    let file = GgufFile::open(Path::new(&path))?;
    let running = LoadedModel::load(&file, limits, &mut |_, _| {})?.spawn()?;
    let mut cases = std::io::stdin().lock().lines();
    let mut under_way: VecDeque<Case> = VecDeque::new();
    let mut out = std::io::stdout().lock();
    loop {
        while under_way.len() < SIDE_BY_SIDE {
            let Some(line) = cases.next() else { break };
            under_way.push_back(Case::begin(&running, serde_json::from_str(&line?)?)?);
        }
        let Some(case) = under_way.pop_front() else {
            return Ok(());
        };
        writeln!(out, "{}", case.end(&running)?)?;
        out.flush()?;
    }
}

/// A case, while its answer is drawn.
struct Case {
    case: Value,
    drawn: Option<(Receiver<Event>, Ticket)>,
}

fn text<'a>(case: &'a Value, field: &str) -> Anyhow<&'a str> {
    let found = case.get(field).and_then(Value::as_str);
    found.ok_or_else(|| format!("a case has no text {field}").into())
}

fn prompt(running: &RunningModel, system: &str, user: &str) -> Anyhow<Vec<u32>> {
    let message = |role, content: &str| ChatMessage {
        role,
        content: content.to_owned(),
    };
    let messages = [message(Role::System, system), message(Role::User, user)];
    let options = RenderOptions {
        add_generation_prompt: true,
        now: 0,
    };
    Ok(running.encode_chat(&messages, &options)?)
}

impl Case {
    fn begin(running: &RunningModel, case: Value) -> Anyhow<Self> {
        if case.get("answer").is_some() {
            return Ok(Self { case, drawn: None });
        }
        let number = |field: &str, other| case.get(field).and_then(Value::as_u64).unwrap_or(other);
        let system = match text(&case, "system")? {
            "" => HARMLESS,
            system => system,
        };
        let request = GenerateRequest {
            tenant: Tenant([1; 32]),
            weight: 1,
            prompt: prompt(running, system, text(&case, "user")?)?,
            sampling: SamplingParams {
                temperature: 0.7,
                ..SamplingParams::default()
            },
            tokens_max: Some(number("tokens_max", 160).try_into()?),
            stop: Vec::new(),
            seed: Some(number("seed", 0)),
            grammar: None,
            logprobs: None,
            mark: None,
            repetition: None,
            deadline: None,
        };
        let (sender, events) = channel();
        let sink = Box::new(move |event| {
            let _ = sender.send(event);
            ControlFlow::Continue(())
        });
        let ticket = running.engine().submit(request, sink)?;
        Ok(Self {
            case,
            drawn: Some((events, ticket)),
        })
    }

    fn end(self, running: &RunningModel) -> Anyhow<Value> {
        let (answer, ids) = match self.drawn {
            None => {
                let answer = text(&self.case, "answer")?.to_owned();
                let ids = running.text().tokenizer().encode_text(&answer)?;
                (answer, ids)
            }
            Some((events, _ticket)) => {
                let (mut answer, mut ids) = (String::new(), Vec::new());
                while let Ok(Event::Text { text, tokens, .. }) = events.recv() {
                    answer += &text;
                    ids.extend(tokens);
                }
                (answer, ids)
            }
        };
        let user = text(&self.case, "user")?;
        let weigh = |system: &str| -> Anyhow<(Receiver<Option<u64>>, Ticket)> {
            let (sender, told) = channel();
            let request = WeighRequest {
                tenant: Tenant([1; 32]),
                weight: 1,
                prompt: prompt(running, system, user)?,
                answer: ids.clone(),
                deadline: None,
            };
            let told_once = Box::new(move |weight| {
                let _ = sender.send(weight);
            });
            let ticket = running.engine().weigh(request, told_once)?;
            Ok((told, ticket))
        };
        let mut weights = [None, None];
        if !ids.is_empty() {
            let secret =
                match text(&self.case, "against").or_else(|_| text(&self.case, "system"))? {
                    "" => HARMLESS,
                    system => system,
                };
            let runs = [weigh(secret)?, weigh(HARMLESS)?];
            for (weight, (told, _ticket)) in weights.iter_mut().zip(runs) {
                let millibits = told.recv()?.ok_or("an answer was not weighed")?;
                *weight = Some(millibits as f64 / 1000.0);
            }
        }
        let [secret, harmless] = weights;
        let id = self.case.get("id").cloned().unwrap_or_default();
        Ok(json!({
            "id": id, "answer": answer, "tokens": ids.len(), "secret_bits": secret, "harmless_bits": harmless,
        }))
    }
}
