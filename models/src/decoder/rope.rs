//! The angles of rotary position embedding, on plain numbers: what both executors turn queries and keys by.

use super::config::{RopeConfig, RopePairs, RopeScaling};

/// Cosines and sines by position.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    pairs: RopePairs,
    /// From one pair's angle to the next one's.
    step: f32,
    /// Multiplies angles.
    scale: f32,
    /// Divides the angle of each pair.
    factors: Vec<f32>,
    /// The same for sequences of more tokens than this.
    long: Option<(usize, Vec<f32>)>,
    /// For each pair how much of the unscaled angle is used.
    unscaled: Vec<f32>,
    /// Multiplies cosines and sines.
    magnitude: f32,
}

impl Rope {
    /// `factors` and `long_factors` are those of the model's tensors, one per pair.
    pub(crate) fn new(
        config: &RopeConfig,
        factors: Option<&[f32]>,
        long_factors: Option<&[f32]>,
    ) -> Self {
        let pairs = config.dimensions / 2;
        let (scale, magnitude, original) = match config.scaling {
            RopeScaling::None => (1.0, 1.0, None),
            RopeScaling::Linear(scale) => (scale, 1.0, None),
            RopeScaling::Yarn {
                scale,
                attention_factor,
                ..
            } => (scale, attention_factor, None),
            RopeScaling::Factors {
                scale,
                original_context,
                attention_factor,
            } => (scale, attention_factor, Some(original_context)),
        };
        Self {
            pairs: config.pairs,
            step: (config.base as f32).powf(-2.0 / config.dimensions as f32),
            scale: scale as f32,
            factors: factors.map_or_else(|| vec![1.0; pairs], <[f32]>::to_vec),
            long: original.zip(long_factors.map(<[f32]>::to_vec)),
            unscaled: unscaled(config),
            magnitude,
        }
    }

    /// Which columns turn together.
    pub(crate) fn pairs(&self) -> RopePairs {
        self.pairs
    }

    /// How many pairs turn.
    pub(crate) fn len(&self) -> usize {
        self.factors.len()
    }

    /// Appends cosine and sine of each pair at `position`, where sequences may have `capacity` tokens.
    pub(crate) fn turns(&self, position: usize, capacity: usize, out: &mut Vec<(f32, f32)>) {
        let factors = match &self.long {
            Some((original, long)) if capacity > *original => long,
            _ => &self.factors,
        };
        // Single precision and one multiplication per pair, as ggml does it.
        let mut angle = position as f32;
        for (factor, unscaled) in factors.iter().zip(&self.unscaled) {
            let whole = angle / factor;
            let turned = self.scale * whole * (1.0 - unscaled) + whole * unscaled;
            out.push((turned.cos() * self.magnitude, turned.sin() * self.magnitude));
            angle *= self.step;
        }
    }
}

/// YaRN's ramp: all of the angle where a pair turns often within the original context, nothing where it does not turn once.
fn unscaled(config: &RopeConfig) -> Vec<f32> {
    let pairs = config.dimensions / 2;
    let RopeScaling::Yarn {
        original_context,
        beta_fast,
        beta_slow,
        ..
    } = config.scaling
    else {
        return vec![0.0; pairs];
    };
    let dimensions = config.dimensions as f32;
    let pair_of = |turns: f32| {
        let once = original_context as f32 / (turns * 2.0 * std::f32::consts::PI);
        dimensions * once.ln() / (2.0 * (config.base as f32).ln())
    };
    let first = pair_of(beta_fast).floor().max(0.0);
    let last = pair_of(beta_slow).ceil().min(dimensions - 1.0);
    let share = |pair| {
        let along = (pair as f32 - first) / (last - first).max(0.001);
        1.0 - along.clamp(0.0, 1.0)
    };
    (0..pairs).map(share).collect()
}
