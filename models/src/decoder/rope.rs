//! Rotation angles: cosine and sine of each pair of columns at a position.

use super::config::{RopeConfig, RopeScaling};

/// A rotation's constants.
pub(crate) struct Turns {
    /// From one pair's angle to the next one's.
    step: f32,
    /// Multiplies angles.
    scale: f32,
    /// Divides the angle of each pair.
    factors: Vec<f32>,
}

impl Turns {
    /// `factors`, one per pair, divide the frequencies.
    pub(crate) fn new(config: &RopeConfig, factors: Option<&[f32]>) -> Self {
        let pairs = config.dimensions / 2;
        let factor = |pair| factors.and_then(|factors| factors.get(pair).copied());
        Self {
            step: (config.base as f32).powf(-2.0 / config.dimensions as f32),
            scale: match config.scaling {
                RopeScaling::Linear(scale) => scale as f32,
                _ => 1.0,
            },
            factors: (0..pairs).map(|pair| factor(pair).unwrap_or(1.0)).collect(),
        }
    }

    /// Cosine and sine of each pair, position by position.
    pub(crate) fn of(&self, positions: &[usize]) -> Vec<(f32, f32)> {
        let mut turns = Vec::with_capacity(positions.len() * self.factors.len());
        for position in positions {
            // Single precision and one multiplication per pair, as ggml does it.
            let mut angle = *position as f32;
            for factor in &self.factors {
                let turned = self.scale * (angle / factor);
                turns.push((turned.cos(), turned.sin()));
                angle *= self.step;
            }
        }
        turns
    }
}
