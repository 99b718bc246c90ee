//! A real model under attack: its last layer as the file has it, and its logits after written contexts.

use std::error::Error;
use std::path::Path;

use casemate_models::LoadedModel;
use casemate_models::engine::{Engine, EngineLimits, Executor, Opening, SequenceId, Tenant, Work};
use casemate_models::tokenizer::Tokenizer;
use casemate_models::weights::{GgufFile, WeightSource};
use serde_json::Value;

use crate::attack::Matrix;

/// Contexts that are computed in one step.
const STEP: usize = 16;

/// A model in F32 whose last layer is its embedding.
pub struct Real {
    engine: Box<dyn Engine>,
    text: std::sync::Arc<casemate_models::model::ModelText>,
    /// The last layer, by tokens.
    pub head: Matrix,
}

impl Real {
    /// Opens a model.
    pub fn open(path: &Path) -> Result<Self, Box<dyn Error>> {
        let file = GgufFile::open(path)?;
        let limits = EngineLimits {
            executor: Executor::Reference,
            ..EngineLimits::default()
        };
        let loaded = LoadedModel::load(&file, limits, &mut |_, _| {})?;
        let (text, header) = (loaded.text().clone(), file.header());
        let name = match header.tensor_index("output.weight") {
            Some(_) => "output.weight",
            None => "token_embd.weight",
        };
        let index = header.tensor_index(name).ok_or("no last layer")?;
        let info = header.tensors().get(index).ok_or("no last layer")?;
        let &[rows, columns] = info.shape() else {
            return Err("the last layer is no matrix".into());
        };
        let len = rows * columns * 4;
        if info.byte_len() != len as u64 {
            return Err("the last layer is not in F32".into());
        }
        let mut bytes = vec![0; len];
        file.read_part(index, 0, &mut bytes)?;
        let numbers: Vec<f64> = bytes
            .chunks_exact(4)
            .filter_map(|four| Some(f64::from(f32::from_le_bytes(four.try_into().ok()?))))
            .collect();
        Ok(Self {
            engine: loaded.into_engine(),
            text,
            head: numbers.chunks(columns).map(<[f64]>::to_vec).collect(),
        })
    }

    /// Has `each` look at the logits after every one of so many contexts: the texts themselves, then pairs of them.
    pub fn logits(
        &mut self,
        texts: &[String],
        count: usize,
        each: &mut dyn FnMut(&[f32]),
    ) -> Result<(), Box<dyn Error>> {
        let contexts: Vec<_> = (0..count).map(|at| context(texts, at)).collect();
        for contexts in contexts.chunks(STEP) {
            let ids = contexts.iter().map(|text| self.ids(text));
            let ids = ids.collect::<Result<Vec<_>, _>>()?;
            let mut work = Vec::new();
            for (at, ids) in ids.iter().enumerate() {
                let sequence = SequenceId::new(at as u64);
                let opening = Opening {
                    tenant: Tenant([0; 32]),
                    tokens: &[],
                    capacity: ids.len(),
                };
                self.engine.open(sequence, opening)?;
                work.push(Work {
                    sequence,
                    tokens: ids,
                    logits: 1,
                });
            }
            let mut logits = Vec::new();
            self.engine.step(&work, &mut logits)?;
            logits.chunks(self.head.len()).for_each(&mut *each);
            (0..ids.len()).for_each(|at| self.engine.close(SequenceId::new(at as u64)));
        }
        Ok(())
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, Box<dyn Error>> {
        let tokenizer: &Tokenizer = self.text.tokenizer();
        let ids = tokenizer.encode_text(text)?;
        match ids.is_empty() {
            true => Err("a context without tokens".into()),
            false => Ok(ids),
        }
    }
}

/// The text with this number, or two of them.
fn context(texts: &[String], at: usize) -> String {
    let text = |at: usize| texts.get(at % texts.len()).map_or("", String::as_str);
    match at < texts.len() {
        true => text(at).to_owned(),
        false => format!("{} {}", text(at), text(at * 7919 + at / texts.len())),
    }
}

/// The contexts of a file of traffic.
pub fn texts(path: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut texts = Vec::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let text = row.get("text").and_then(Value::as_str);
        texts.push(text.ok_or("a row without text")?.to_owned());
    }
    match texts.is_empty() {
        true => Err("no contexts".into()),
        false => Ok(texts),
    }
}
