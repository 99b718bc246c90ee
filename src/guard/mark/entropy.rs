//! How much choice a model had at each token of a text: what a mark could hide in.

use casemate_models::engine::{Engine, EngineLimits, Opening, SequenceId, StepError, Tenant, Work};
use casemate_models::model::{LoadError, LoadedModel};
use casemate_models::weights::WeightSource;

/// Tokens that are looked at, and those that go through the model at once.
const TOKENS_MAX: usize = 4096;
const WINDOW: usize = 512;
const STEP: usize = 32;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntropyError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It does not compute.
    #[error(transparent)]
    Step(#[from] StepError),
    /// There is nothing to measure.
    #[error("the text has no two tokens in a row")]
    Empty,
}

/// Mean entropy of what the model expects after each token, in bits, at temperature 1. Prompts are not known, so it is an
/// estimate.
///
/// # Errors
/// [`EntropyError`].
pub fn measure(source: &dyn WeightSource, texts: &[Vec<u32>]) -> Result<f64, EntropyError> {
    let loaded = LoadedModel::load(source, EngineLimits::default(), &mut |_, _| {})?;
    let mut engine = loaded.into_engine();
    let window = WINDOW.min(engine.context_length());
    let (mut bits, mut count) = (0.0, 0_usize);
    let windows = texts.iter().flat_map(|text| text.chunks(window));
    for tokens in windows.filter(|tokens| tokens.len() > 1) {
        if count >= TOKENS_MAX {
            break;
        }
        for row in rows(&mut *engine, tokens)? {
            bits += entropy(&row);
            count += 1;
        }
    }
    match count {
        0 => Err(EntropyError::Empty),
        count => Ok(bits / count as f64),
    }
}

/// Logits after each token.
fn rows(engine: &mut dyn Engine, tokens: &[u32]) -> Result<Vec<Vec<f32>>, StepError> {
    let sequence = SequenceId::new(0);
    let opening = Opening {
        tenant: Tenant([0; 32]),
        tokens: &[],
        capacity: tokens.len(),
    };
    engine.open(sequence, opening)?;
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for tokens in tokens.chunks(STEP) {
        let work = Work {
            sequence,
            tokens,
            logits: tokens.len(),
        };
        engine.step(&[work], &mut logits)?;
        let width = engine.vocabulary().max(1);
        all.extend(logits.chunks_exact(width).map(<[f32]>::to_vec));
    }
    engine.close(sequence);
    Ok(all)
}

fn entropy(logits: &[f32]) -> f64 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares = logits.iter().map(|logit| f64::from(logit - best).exp());
    let sum: f64 = shares.clone().sum();
    let parts = shares.filter(|share| *share > 0.0).map(|share| share / sum);
    -parts.map(|part| part * part.log2()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_tokens_have_the_bits_of_their_number() {
        assert!((entropy(&[1.5; 8]) - 3.0).abs() < 1e-12);
        assert!(entropy(&[100.0, 0.0, 0.0]) < 1e-9);
    }
}
