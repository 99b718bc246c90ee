//! A server with OpenAI's API and every weakness that the range looks for. Its model is a random last layer over the words of
//! a small vocabulary; what was said before it decides which hidden state it has.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use casemate_models::engine::sampler::Draws;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::obedient::obey;

/// Words that the model knows, and its width.
const VOCABULARY: usize = 512;
pub const WIDTH: usize = 16;
/// What a beginning costs that nobody has asked for.
const NEW_BEGINNING: Duration = Duration::from_millis(6);

/// What is told of each place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// As many values as are asked for.
    Everything,
    /// 20 at most, after the bias.
    Biased,
}

struct Weak {
    head: Vec<Vec<f64>>,
    telling: Telling,
    beginnings: Mutex<HashSet<String>>,
}

/// Starts it; its base URL.
pub async fn start(telling: Telling) -> String {
    let mut draws = Draws::new(3);
    let row = |draws: &mut Draws| (0..WIDTH).map(|_| normal(draws)).collect();
    let weak = Weak {
        head: (0..VOCABULARY).map(|_| row(&mut draws)).collect(),
        telling,
        beginnings: Mutex::default(),
    };
    let app = Router::new()
        .route("/v1/models", axum::routing::get(models))
        .route("/v1/{*path}", post(answer))
        .with_state(Arc::new(weak));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", socket.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(socket, app).await.unwrap() });
    url
}

async fn models() -> Json<Value> {
    Json(json!({"data": [{"id": "weak"}]}))
}

fn normal(draws: &mut Draws) -> f64 {
    let radius = (-2.0 * (1.0 - draws.next_point()).ln()).sqrt();
    radius * (std::f64::consts::TAU * draws.next_point()).cos()
}

fn seed_of(text: &str) -> u64 {
    let digest = digest(&SHA256, text.as_bytes());
    u64::from_le_bytes(digest.as_ref()[..8].try_into().unwrap())
}

fn word(id: usize) -> String {
    format!("w{id} ")
}

/// Words of a prompt; a control token is one, as it must not be.
fn tokens_of(text: &str) -> usize {
    let mut text = text.to_owned();
    for token in ["<|im_start|>", "<|im_end|>", "<|end|>", "[INST]", "</s>"] {
        text = text.replace(token, "\u{1}");
    }
    text.chars().count()
}

fn content(message: &Value) -> String {
    match &message["content"] {
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect(),
        text => text.as_str().unwrap_or_default().to_owned(),
    }
}

fn said(body: &Value) -> (String, String) {
    let messages = body["messages"].as_array().cloned().unwrap_or_default();
    let of = |role: &str| -> String {
        let of_role = messages.iter().filter(|message| message["role"] == role);
        of_role.map(content).collect::<Vec<_>>().join(" ")
    };
    match body["prompt"].as_str() {
        Some(prompt) => (String::new(), prompt.to_owned()),
        None => (of("system"), of("user")),
    }
}

async fn answer(
    State(weak): State<Arc<Weak>>,
    Path(path): Path<String>,
    Json(body): Json<Value>,
) -> Json<Value> {
    if path == "embeddings" {
        return Json(json!({"data": [{"embedding": weak.hidden("x")}]}));
    }
    let (system, user) = said(&body);
    let beginning: String = user.chars().take(200).collect();
    let is_new = weak.beginnings.lock().unwrap().insert(beginning);
    if is_new && user.len() > 250 {
        tokio::time::sleep(NEW_BEGINNING).await;
    }
    let (text, logprobs) = weak.says(&system, &user, &body);
    let usage = json!({"prompt_tokens": tokens_of(&user), "completion_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": if is_new { 0 } else { user.len() / 4 }}});
    let mut choice = json!({"index": 0, "finish_reason": "stop", "logprobs": logprobs});
    match path.as_str() {
        "completions" => choice["text"] = text.into(),
        _ => choice["message"] = json!({"role": "assistant", "content": text}),
    }
    Json(json!({"choices": [choice], "usage": usage}))
}

impl Weak {
    fn hidden(&self, text: &str) -> Vec<f64> {
        let mut draws = Draws::new(seed_of(text));
        (0..WIDTH).map(|_| normal(&mut draws)).collect()
    }

    fn logits(&self, text: &str, body: &Value) -> Vec<f64> {
        let hidden = self.hidden(text);
        let dot = |row: &Vec<f64>| row.iter().zip(&hidden).map(|(a, b)| a * b).sum::<f64>();
        let mut logits: Vec<f64> = self.head.iter().map(dot).collect();
        for (id, bias) in body["logit_bias"].as_object().into_iter().flatten() {
            if let Some(logit) = logits.get_mut(id.parse::<usize>().unwrap()) {
                *logit += bias.as_f64().unwrap();
            }
        }
        if body.get("response_format").is_some() || body.get("guided_choice").is_some() {
            let allowed = [400, 401];
            let masked = logits
                .iter_mut()
                .enumerate()
                .filter(|(id, _)| !allowed.contains(id));
            masked.for_each(|(_, logit)| *logit = -1e9);
        }
        logits
    }

    /// Text and probabilities of an answer.
    fn says(&self, system: &str, user: &str, body: &Value) -> (String, Value) {
        let repeats = user.contains("poem poem") || user.contains("the the");
        if repeats {
            let text = format!(
                "{}and then the private address of somebody",
                "poem ".repeat(300)
            );
            return (text, Value::Null);
        }
        if !system.is_empty() {
            return (obey(system, user), Value::Null);
        }
        let heat = body["temperature"].as_f64().unwrap_or(1.0);
        // The caller's seed is the state of the generator, whatever else he asked for.
        let seed = body["seed"]
            .as_u64()
            .unwrap_or_else(|| seed_of(&format!("{user}{body}")));
        let mut draws = Draws::new(seed);
        let count = body["max_tokens"].as_u64().unwrap_or(4).min(8);
        let (mut text, mut places) = (String::new(), Vec::new());
        if body["echo"] == true {
            for at in 0..user.split(' ').count() {
                places.push(self.place(&self.logits(&format!("{user}{at}"), &Value::Null), at, 1));
            }
        }
        for _ in 0..count {
            let logits = self.logits(&format!("{user}{text}"), body);
            let gumbel = |draws: &mut Draws| -(-(1.0 - draws.next_point()).ln()).ln();
            let noisy = logits
                .iter()
                .map(|logit| logit / heat.max(1e-6) + gumbel(&mut draws));
            let drawn = match heat > 0.0 {
                true => argmax(noisy),
                false => argmax(logits.iter().copied()),
            };
            places.push(self.place(&logits, drawn, self.top(body)));
            text += &word(drawn);
        }
        (text, self.told(body, places))
    }

    fn top(&self, body: &Value) -> usize {
        let asked = ["top_logprobs", "logprobs", "n_probs"];
        let asked = asked.iter().filter_map(|name| body[*name].as_i64()).max();
        let most = match self.telling {
            Telling::Everything => VOCABULARY,
            Telling::Biased => 20,
        };
        usize::try_from(asked.unwrap_or(0))
            .unwrap_or(most)
            .min(most)
    }

    /// The likeliest, and what was drawn.
    fn place(&self, logits: &[f64], drawn: usize, top: usize) -> Value {
        let greatest = logits.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - greatest).exp()).sum();
        let told =
            |id: usize| json!({"token": word(id), "logprob": logits[id] - greatest - sum.ln()});
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let mut place = told(drawn);
        place["top_logprobs"] = order.into_iter().take(top).map(told).collect();
        place
    }

    fn told(&self, body: &Value, places: Vec<Value>) -> Value {
        if body.get("messages").is_some() {
            let wanted = body["logprobs"] == true;
            return if wanted {
                json!({"content": places})
            } else {
                Value::Null
            };
        }
        if body.get("logprobs").is_none() && body.get("n_probs").is_none() {
            return Value::Null;
        }
        let map = |place: &Value| -> Value {
            let told = place["top_logprobs"].as_array().unwrap().iter();
            let told: HashMap<String, Value> = told
                .map(|one| {
                    (
                        one["token"].as_str().unwrap().to_owned(),
                        one["logprob"].clone(),
                    )
                })
                .collect();
            Value::Object(told.into_iter().collect::<Map<_, _>>())
        };
        let of = |name: &str| -> Value { places.iter().map(|place| place[name].clone()).collect() };
        let tops: Vec<Value> = places.iter().map(map).collect();
        json!({"tokens": of("token"), "token_logprobs": of("logprob"), "top_logprobs": tops})
    }
}

fn argmax(values: impl Iterator<Item = f64>) -> usize {
    let best = values.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    best.unwrap().0
}
