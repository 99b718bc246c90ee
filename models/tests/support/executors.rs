//! Tiny models on every executor, and what is asked of them in tests.

#![allow(dead_code, reason = "each test file uses its part of this")]

use std::sync::OnceLock;

use casemate_models::LoadedModel;
use casemate_models::engine::{
    DeviceChoice, Engine, EngineLimits, Executor, Opening, SequenceId, Tenant, Work,
};
use casemate_models::weights::GgufFile;

use crate::tiny_model::{TinyModel, VOCABULARY};

/// What computes: an engine of a model whose sequences may have so many tokens.
pub type Make = fn(&TinyModel, usize) -> Box<dyn Engine>;

/// All of them.
pub const EXECUTORS: [(&str, Make); 3] = [
    ("reference", |model, capacity| {
        engine(model, Executor::Reference, capacity)
    }),
    ("packed", |model, capacity| {
        engine(model, Executor::Packed, capacity)
    }),
    ("device", |model, capacity| {
        engine(model, Executor::Device, capacity)
    }),
];

/// An engine of a model.
pub fn engine(model: &TinyModel, executor: Executor, capacity: usize) -> Box<dyn Engine> {
    let limits = EngineLimits {
        cache_tokens_max: capacity,
        threads: 1,
        // Where there is a GPU its executor runs there, and on the processor elsewhere.
        device: match executor {
            Executor::Device => device_at_hand(),
            _ => DeviceChoice::Cpu,
        },
        ..EngineLimits::default()
    };
    load_for(model, executor, limits).unwrap().into_engine()
}

/// An engine of a model whose products are by kernels of ours, on the first GPU; none without one.
pub fn packed_on_gpu(model: &TinyModel, capacity: usize) -> Option<Box<dyn Engine>> {
    let device = device_at_hand();
    if device == DeviceChoice::Cpu {
        return None;
    }
    let limits = EngineLimits {
        cache_tokens_max: capacity,
        device,
        ..EngineLimits::default()
    };
    let loaded = load_for(model, Executor::Packed, limits);
    Some(loaded.unwrap().into_engine())
}

/// The first GPU, if this binary can use one; says so if not.
pub fn device_at_hand() -> DeviceChoice {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let opened = casemate_models::device::open(DeviceChoice::Cuda(0));
        if let Err(error) = &opened {
            println!("SKIP: nothing runs on a GPU, only on the processor: {error}");
        }
        opened.is_ok()
    });
    match found {
        true => DeviceChoice::Cuda(0),
        false => DeviceChoice::Cpu,
    }
}

/// A model for an executor, or what loading says.
pub fn load_for(
    model: &TinyModel,
    executor: Executor,
    limits: EngineLimits,
) -> Result<LoadedModel, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    model.write(&path);
    let file = GgufFile::open(&path).map_err(|error| error.to_string())?;
    let limits = EngineLimits { executor, ..limits };
    let loaded = LoadedModel::load(&file, limits, &mut |_, _| {});
    loaded.map_err(|error| error.to_string())
}

/// A model in the usual way, or what loading says.
pub fn load(model: &TinyModel) -> Result<LoadedModel, String> {
    load_for(model, Executor::Best, EngineLimits::default())
}

/// What loading says: nothing if all is well.
pub fn refusal(model: &TinyModel) -> String {
    load(model).err().unwrap_or_default()
}

/// Token ids that differ from place to place.
pub fn text(len: usize) -> Vec<u32> {
    (0..len as u32).map(|at| 4 + at * 37 % 251).collect()
}

/// Opens a sequence of which nothing is known yet.
pub fn open(engine: &mut dyn Engine, sequence: u64, capacity: usize) {
    let opening = Opening {
        tenant: Tenant([0; 32]),
        tokens: &[],
        capacity,
    };
    engine.open(SequenceId::new(sequence), opening).unwrap();
}

/// The last logits of the sequences 0, 1 and so on, after these tokens.
pub fn step(engine: &mut dyn Engine, tokens: &[&[u32]]) -> Vec<Vec<f32>> {
    let work = tokens.iter().enumerate().map(|(at, tokens)| Work {
        sequence: SequenceId::new(at as u64),
        tokens,
        logits: 1,
    });
    let mut logits = Vec::new();
    engine.step(&work.collect::<Vec<_>>(), &mut logits).unwrap();
    assert!(logits.iter().all(|logit| logit.is_finite()));
    assert_eq!(logits.len(), VOCABULARY * tokens.len());
    logits.chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

/// Logits after `tokens`.
pub fn after(engine: &mut dyn Engine, tokens: &[u32]) -> Vec<f32> {
    open(engine, 0, tokens.len());
    let logits = step(engine, &[tokens]).remove(0);
    engine.close(SequenceId::new(0));
    logits
}

/// Logits after `tokens`, computed one by one.
pub fn one_by_one(engine: &mut dyn Engine, tokens: &[u32]) -> Vec<f32> {
    open(engine, 0, tokens.len());
    let each = tokens
        .iter()
        .map(|token| step(engine, &[&[*token]]).remove(0));
    let last = each.last().unwrap();
    engine.close(SequenceId::new(0));
    last
}

/// The largest difference, as a part of the largest logit.
pub fn apart(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let pairs = a.iter().zip(b);
    pairs.fold(0.0_f32, |apart, (a, b)| apart.max((a - b).abs())) / largest
}

/// Room for the sequences of these tests: where short ones end for Phi 3.
pub const ROOM: usize = 128;

/// Two ways of the same arithmetic.
pub const SAME: f32 = 2e-5;
/// The same where sums are added in another order and keys and values are then rounded to 16 bits: what lies between two
/// such numbers may go either way.
pub fn same(executor: &str) -> f32 {
    match executor {
        "device" => 2e-4,
        _ => SAME,
    }
}

/// Different arithmetic.
pub const OTHER: f32 = 2e-4;
