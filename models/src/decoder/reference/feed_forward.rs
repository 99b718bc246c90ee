//! The other half of a block: `down(activation(gate(x)) · up(x))`, once or by the experts that a router picks.

use candle_core::{Result, Tensor};
use candle_nn::ops;

use crate::decoder::config::{Activation, DecoderConfig, Experts};
use crate::decoder::weights::{self, Gated};
use crate::ggml;
use crate::layers::Linear;

/// The feed-forward part of one block.
pub(super) enum FeedForward {
    Dense(Activation, Gated<Linear>),
    Experts {
        activation: Activation,
        routing: Option<Experts>,
        router: Linear,
        experts: Vec<Gated<Linear>>,
    },
}

impl FeedForward {
    pub(super) fn new(config: &DecoderConfig, loaded: weights::FeedForward<Linear>) -> Self {
        let activation = config.feed_forward.activation;
        match loaded {
            weights::FeedForward::Dense(gated) => Self::Dense(activation, gated),
            weights::FeedForward::Experts { router, experts } => Self::Experts {
                activation,
                routing: config.feed_forward.experts.clone(),
                router,
                experts,
            },
        }
    }

    /// Each row of `x` on its own.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(activation, gated) => run(gated, *activation, x),
            Self::Experts {
                activation,
                routing,
                router,
                experts,
            } => {
                let Some(routing) = routing else {
                    candle_core::bail!("there are experts and no rule for their use");
                };
                let scores = router.forward(x)?.to_vec2::<f32>()?;
                let mut picked = vec![(Vec::new(), Vec::new()); experts.len()];
                for (row, scores) in scores.iter().enumerate() {
                    for (expert, weight) in route(scores, routing) {
                        if let Some((rows, weights)) = picked.get_mut(expert) {
                            rows.push(row as u32);
                            weights.push(weight);
                        }
                    }
                }
                let mut out = x.zeros_like()?;
                for (expert, (rows, weights)) in experts.iter().zip(picked) {
                    if rows.is_empty() {
                        continue;
                    }
                    let weights = Tensor::from_vec(weights, (rows.len(), 1), x.device())?;
                    let rows = Tensor::new(rows, x.device())?;
                    let made = run(expert, *activation, &x.index_select(&rows, 0)?)?;
                    out = out.index_add(&rows, &made.broadcast_mul(&weights)?, 0)?;
                }
                Ok(out)
            }
        }
    }
}

fn run(gated: &Gated<Linear>, activation: Activation, x: &Tensor) -> Result<Tensor> {
    let (gate, up) = (gated.gate.forward(x)?, gated.up.forward(x)?);
    let wide = match (activation, x.device().is_cpu()) {
        (Activation::Silu, true) => ggml::swiglu(&gate, &up)?,
        (Activation::Silu, false) => (ops::silu(&gate)? * up)?,
        (Activation::Gelu, true) => ggml::geglu(&gate, &up)?,
        (Activation::Gelu, false) => (gate.gelu()? * up)?,
    };
    gated.down.forward(&wide)
}

/// The experts of a token and their weights: the likeliest ones by the softmax over all of them.
pub(crate) fn route(scores: &[f32], routing: &Experts) -> Vec<(usize, f32)> {
    /// The smallest sum that is divided by.
    const SUM_MIN: f32 = 6.103_515_6e-5;
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut all: Vec<(usize, f32)> = scores
        .iter()
        .map(|score| (score - max).exp())
        .enumerate()
        .collect();
    let sum: f32 = all.iter().map(|(_, weight)| weight).sum();
    // Stable: of equals the first ones are taken.
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    all.truncate(routing.used);
    for (_, weight) in &mut all {
        *weight /= sum;
    }
    if routing.normalised {
        let sum: f32 = all.iter().map(|(_, weight)| weight).sum();
        for (_, weight) in &mut all {
            *weight /= sum.max(SUM_MIN);
        }
    }
    all
}
