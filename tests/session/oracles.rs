//! The request shapes that turn an option into an oracle for logits (GUARD section 8, G1 and the seed's part of G3), against a
//! real model behind the whole API: what comes back is refused by name, or within the raw likeliest values.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use casemate::policy::{OutputRules, Together};
use casemate::queue::Generator;
use casemate::serve::Served;
use casemate_models::LoadedModel;
use casemate_models::engine::{EngineLimits, Executor, Opening, SequenceId, Tenant, Work};
use casemate_models::model::RunningModel;
use casemate_models::template::{ChatMessage, RenderOptions, Role};
use casemate_models::weights::GgufFile;
use serde_json::{Value, json};

use crate::harness::{Server, Setup};
use crate::raw::{Answer, Raw};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
/// Values of a place that anything may be known of, by default.
const KNOWN: usize = 5;
/// Rounding, and what a batch adds up in another order.
const ROUNDED: f64 = 0.05 + 5e-3;

/// A file of the shared folder; a missing one is a failure where everything must run.
fn shared(relative: &str) -> Option<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");
    let path = PathBuf::from(root).join(relative);
    if path.exists() {
        return Some(path);
    }
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "{relative} is missing"
    );
    println!("SKIP {relative} is missing");
    None
}

fn lines(relative: &str) -> Option<Vec<Value>> {
    let text = fs::read_to_string(shared(relative)?).unwrap();
    Some(
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    )
}

/// The small model with a chat template, for the server and for a look at its own logits.
pub struct Model {
    pub running: RunningModel,
    engine: Box<dyn casemate_models::engine::Engine>,
}

impl Model {
    pub fn load() -> Option<Self> {
        let path = shared("models/default-trial/default-trial-F32.gguf")?;
        let load = || {
            let limits = EngineLimits {
                executor: Executor::Reference,
                threads: 1,
                cache_tokens_max: 2048,
                ..EngineLimits::default()
            };
            let file = GgufFile::open(&path).unwrap();
            LoadedModel::load(&file, limits, &mut |_, _| {}).unwrap()
        };
        Some(Self {
            running: load().spawn().unwrap(),
            engine: load().into_engine(),
        })
    }

    /// Its own logits after a prompt.
    pub fn logits(&mut self, prompt: &[u32]) -> Vec<f32> {
        let opening = Opening {
            tenant: Tenant([0; 32]),
            tokens: &[],
            capacity: prompt.len() + 1,
        };
        let sequence = SequenceId::new(0);
        self.engine.open(sequence, opening).unwrap();
        let work = Work {
            sequence,
            tokens: prompt,
            logits: 1,
        };
        let mut logits = Vec::new();
        self.engine.step(&[work], &mut logits).unwrap();
        self.engine.close(sequence);
        logits
    }

    /// What its likeliest tokens after a prompt say, with the logarithms of their probabilities.
    pub fn likeliest(&mut self, prompt: &[u32], count: usize) -> Vec<(String, f64)> {
        let logits = self.logits(prompt);
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let mut all: Vec<(u32, f64)> = (0..)
            .zip(logits.iter().map(|logit| f64::from(*logit) - sum.ln()))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        let tokenizer = self.running.text().tokenizer();
        let said = |id: u32| match tokenizer.markup_text(id) {
            Some(text) => text.to_owned(),
            None => String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned(),
        };
        all.iter()
            .take(count)
            .map(|(id, logprob)| (said(*id), *logprob))
            .collect()
    }

    pub fn chat(&self, question: &str) -> Vec<u32> {
        let message = ChatMessage {
            role: Role::User,
            content: question.to_owned(),
        };
        let options = RenderOptions {
            add_generation_prompt: true,
            now: 0,
        };
        self.running.encode_chat(&[message], &options).unwrap()
    }
}

pub async fn serving(model: &Model, output: OutputRules) -> Server {
    let generator: Arc<dyn Generator> = Arc::new(Served::new(model.running.clone()));
    let setup = Setup {
        output,
        generator: Some(generator),
        ..Setup::default()
    };
    Server::start(setup).await
}

/// A shape with its placeholders filled.
fn filled(shape: &Value, context: &str, ids: [u32; 5], texts: [&str; 2]) -> Value {
    let quoted = |text: &str| {
        let quoted = Value::from(text).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    };
    let [a, b, d, e, top] = ids;
    let mut text = shape.to_string();
    for (name, value) in [
        ("$TOP", top.to_string()),
        ("$TA", quoted(texts[0])),
        ("$TB", quoted(texts[1])),
        ("$M", "story".to_owned()),
        ("$C", quoted(context)),
        ("$A", a.to_string()),
        ("$B", b.to_string()),
        ("$D", d.to_string()),
        ("$E", e.to_string()),
    ] {
        text = text.replace(name, &value);
    }
    serde_json::from_str(&text).unwrap()
}

/// All values of the first place of an answer, by token; and of later places how many there are at most.
fn values(answer: &Value) -> (BTreeMap<String, f64>, usize) {
    let told = &answer["choices"][0]["logprobs"];
    let mut places: Vec<BTreeMap<String, f64>> = Vec::new();
    for one in told["content"].as_array().into_iter().flatten() {
        let mut place = BTreeMap::new();
        for value in one["top_logprobs"].as_array().unwrap().iter().chain([one]) {
            let token = value["token"].as_str().unwrap().to_owned();
            place.insert(token, value["logprob"].as_f64().unwrap());
        }
        places.push(place);
    }
    for one in told["top_logprobs"].as_array().into_iter().flatten() {
        let place = one.as_object().unwrap().iter();
        places.push(
            place
                .map(|(token, value)| (token.clone(), value.as_f64().unwrap()))
                .collect(),
        );
    }
    for place in &mut places {
        place.retain(|_, value| *value > -9999.0);
    }
    let most = places.iter().map(BTreeMap::len).max().unwrap_or(0);
    (places.into_iter().next().unwrap_or_default(), most)
}

/// The name of the field that a shape is about, where the catalogue wants it refused by name.
fn named(id: &str) -> &'static str {
    match id {
        "prompt-logprobs" => "prompt_logprobs",
        "guided-choice" => "guided_choice",
        "repetition-penalty" => "repetition_penalty",
        "ignore-eos" => "ignore_eos",
        "bad-words" => "bad_words",
        "allowed-tokens" => "allowed_token_ids",
        "beam-score" => "use_beam_search",
        "prediction" => "prediction",
        "hidden-states" => "return_hidden_states",
        _ => "",
    }
}

/// Whether a refusal is one, and names a field of the request.
fn is_refused(answer: &Answer, body: &Value) -> bool {
    let error = answer.json()["error"].clone();
    let param = error["param"].as_str().unwrap_or("").to_owned();
    let of_request = body
        .get(param.split(['.', '[']).next().unwrap_or(""))
        .is_some();
    (400..500).contains(&answer.status) && (of_request || error["code"] == "not_found")
}

/// G1: over all shapes, contexts and principals, of one context no more than the five likeliest values are ever known, each the
/// raw one rounded; every shape that must be refused by name is.
#[tokio::test]
async fn s16_s17_s19_s25_no_shape_shows_more_than_the_raw_likeliest_values() {
    let (Some(mut model), Some(shapes), Some(prefixes)) = (
        Model::load(),
        lines("traffic/attack_logit_oracles.jsonl"),
        lines("traffic/attack_final_layer_prefixes.jsonl"),
    ) else {
        return;
    };
    let server = serving(&model, OutputRules::default()).await;
    let mut known: HashMap<(bool, String), BTreeMap<String, f64>> = HashMap::new();
    let mut revealing = 0;
    for member in ["ada", "seeded", "plain"] {
        let mut raw = Raw::attested(&server, member).await;
        for (at, prefix) in prefixes.iter().step_by(977).enumerate() {
            let context = format!("{} and", prefix["text"].as_str().unwrap());
            let prompt = model.chat(&context);
            let top = model.likeliest(&prompt, 3);
            let ids = [100 + at as u32, 700, 900, 1100, 50];
            for shape in &shapes {
                let texts = [top[0].0.as_str(), top[2].0.as_str()];
                for request in shape["requests"].as_array().unwrap() {
                    let request = filled(request, &context, ids, texts);
                    let (path, mut body) =
                        (request["path"].as_str().unwrap(), request["body"].clone());
                    for stream in [false, true] {
                        if stream && path.ends_with("embeddings") {
                            continue;
                        }
                        body["stream"] = json!(stream);
                        let answer = raw.post(path, &body).await;
                        if answer.status != 200 {
                            assert!(is_refused(&answer, &body), "{shape}: {}", answer.text());
                            let by_name = named(shape["id"].as_str().unwrap());
                            let said = answer.json()["error"]["param"].clone();
                            if shape["must"] == "refused_by_name" && member != "plain" {
                                let beside = ["min_tokens", "best_of", "n"];
                                let named =
                                    said == by_name || beside.iter().any(|name| said == *name);
                                assert!(named, "{shape}: {said}");
                            }
                            continue;
                        }
                        let must = shape["must"].as_str().unwrap();
                        assert!(
                            !must.starts_with("refused") || must == "refused_or_charged",
                            "{shape} is answered"
                        );
                        if stream {
                            continue;
                        }
                        let (values, most) = values(&answer.json());
                        assert!(most <= KNOWN, "{shape}: {most} values of one place");
                        revealing += usize::from(!values.is_empty());
                        let place = (path == CHAT, context.clone());
                        known.entry(place).or_default().extend(values);
                    }
                }
            }
        }
    }
    assert!(
        revealing > 10,
        "{revealing} answers told anything: the test sees nothing"
    );
    for ((chat, context), values) in known {
        assert!(values.len() <= KNOWN, "{context}: {values:?}");
        if !chat {
            continue;
        }
        let exact: BTreeMap<String, f64> = model
            .likeliest(&model.chat(&context), KNOWN)
            .into_iter()
            .collect();
        for (token, value) in values {
            let raw = exact
                .get(&token)
                .unwrap_or_else(|| panic!("{token:?} is not among {exact:?}"));
            assert!(
                (value - raw.max(-15.0)).abs() < ROUNDED,
                "{token:?} {value} {raw}"
            );
        }
    }
}

#[tokio::test]
async fn s05_policy_may_allow_more_values_and_more_heat() {
    let Some(model) = Model::load() else { return };
    let ask = |top: u64, heat: f64| {
        json!({"model": "story", "messages": [{"role": "user", "content": "What is a river?"}],
        "max_tokens": 2, "logprobs": true, "top_logprobs": top, "temperature": heat})
    };
    let strict = serving(&model, OutputRules::default()).await;
    let mut raw = Raw::attested(&strict, "ada").await;
    raw.post(CHAT, &ask(5, 1.5)).await.ok();
    for (body, param) in [(ask(6, 1.0), "top_logprobs"), (ask(5, 1.6), "temperature")] {
        let error = raw.post(CHAT, &body).await.error(400, "invalid_value");
        assert_eq!(error["param"], param);
    }
    let loose = OutputRules {
        logprobs_max: 20,
        temperature_percent_max: 200,
        ..OutputRules::default()
    };
    let loose = serving(&model, loose).await;
    let mut raw = Raw::attested(&loose, "ada").await;
    let told = raw.post(CHAT, &ask(20, 2.0)).await.ok();
    assert_eq!(values(&told).1, 20);
}

/// G3, the seed's part: the same request gives the same text, streamed or not; any changed option other noise.
#[tokio::test]
async fn s18_a_seed_repeats_a_request_and_nothing_else() {
    let Some(model) = Model::load() else { return };
    let output = OutputRules {
        together: [Together::SeedAndLogprobs].into(),
        ..OutputRules::default()
    };
    let server = serving(&model, output).await;
    let mut raw = Raw::attested(&server, "seeded").await;
    let body = |change: &Value| {
        let mut body = json!({"model": "story", "prompt": "It was",
            "max_tokens": 24, "seed": 7,
            "temperature": 1.5});
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let mut texts = Vec::new();
    for change in [
        json!({}),
        json!({"seed": 8}),
        json!({"temperature": 1.49}),
        json!({"top_p": 0.999}),
        json!({"stop": ["never said"]}),
        json!({"max_tokens": 25}),
        json!({"logprobs": 1}),
        json!({"presence_penalty": 0.001}),
        json!({"prompt": "It was "}),
    ] {
        let mut said = Vec::new();
        for _ in 0..2 {
            let answer = raw.post(COMPLETIONS, &body(&change)).await.ok();
            let text = answer["choices"][0]["text"].as_str().unwrap();
            said.push(text.to_owned());
        }
        assert_eq!(said[0], said[1], "{change}");
        let mut streamed = body(&change);
        streamed["stream"] = json!(true);
        let streamed = raw.post(COMPLETIONS, &streamed).await.text();
        let pieces = streamed
            .lines()
            .filter_map(|line| line.strip_prefix("data: {"));
        let text: String = pieces
            .filter_map(|data| {
                let chunk: Value = serde_json::from_str(&format!("{{{data}")).unwrap();
                Some(chunk["choices"][0]["text"].as_str()?.to_owned())
            })
            .collect();
        assert_eq!(text, said[0], "{change}");
        texts.push(text);
    }
    let count = texts.len();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), count, "two of them are alike");
    // Another principal's noise is his own.
    let error = Raw::attested(&server, "ada")
        .await
        .post(COMPLETIONS, &body(&json!({})))
        .await;
    assert_eq!(error.error(403, "policy_denied")["param"], "seed");
}

#[tokio::test]
async fn s25_a_generator_gives_no_hidden_states() {
    let server = Server::ordinary().await;
    let mut raw = Raw::attested(&server, "ada").await;
    let embed = json!({"model": "story", "input": "one two", "encoding_format": "float"});
    raw.post("/v1/embeddings", &embed)
        .await
        .error(404, "not_found");
    for (name, value) in [
        ("return_hidden_states", json!(true)),
        ("output_hidden_states", json!(true)),
        ("return_embeddings", json!(1)),
        ("pooling", json!("last")),
    ] {
        let mut body = crate::raw::chat("one two", false);
        body[name] = value;
        let error = raw.post(CHAT, &body).await;
        assert_eq!(error.error(400, "unsupported_parameter")["param"], name);
    }
    server.saw_nothing();
}

/// A shape of the answer beside probabilities shows raw ones, where policy grants both.
#[tokio::test]
async fn s17_a_shape_beside_probabilities_needs_policy() {
    let Some(mut model) = Model::load() else {
        return;
    };
    let question = "Answer with yes or no.";
    let body = json!({"model": "story", "messages": [{"role": "user", "content": question}], "max_tokens": 1,
        "logprobs": true, "top_logprobs": 5, "response_format": {"type": "json_object"}});
    let strict = serving(&model, OutputRules::default()).await;
    let mut raw = Raw::attested(&strict, "ada").await;
    let error = raw
        .post(CHAT, &body)
        .await
        .error(400, "unsupported_parameter");
    assert_eq!(error["param"], "response_format");
    let output = OutputRules {
        together: [Together::ShapeAndLogprobs].into(),
        ..OutputRules::default()
    };
    let loose = serving(&model, output).await;
    let mut raw = Raw::attested(&loose, "ada").await;
    let (told, _) = values(&raw.post(CHAT, &body).await.ok());
    let exact: BTreeMap<String, f64> = model
        .likeliest(&model.chat(question), KNOWN)
        .into_iter()
        .collect();
    assert!(!told.is_empty());
    for (token, value) in told {
        assert!((value - exact[&token]).abs() < ROUNDED, "{token}");
    }
}
