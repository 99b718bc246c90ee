//! A batch's rotations: cosines and sines of all its rows, for layers with and without a window.

use candle_core::{D, Device, Result, Tensor};

use crate::decoder::config::{DecoderConfig, QueryGrowth, RopePairs};
use crate::decoder::rope::Rope;
use crate::decoder::weights::DecoderWeights;
use crate::ggml;

use super::Rows;

/// How a model rotates.
pub(super) struct Rotations {
    usual: Rope,
    /// In layers that have another.
    windowed: Option<Rope>,
    growth: Option<QueryGrowth>,
    /// Tokens that a sequence may have: it says which factors turn it, where there are two kinds.
    capacity: usize,
}

impl Rotations {
    pub(super) fn new<M>(
        config: &DecoderConfig,
        weights: &DecoderWeights<M>,
        capacity: usize,
    ) -> Self {
        let factors = weights.rope_factors.as_deref();
        let long = weights.rope_factors_long.as_deref();
        let windowed = config
            .window
            .as_ref()
            .and_then(|window| window.rope.as_ref());
        Self {
            usual: Rope::new(&config.rope, factors, long),
            windowed: windowed.map(|rope| Rope::new(rope, None, None)),
            growth: config.query_growth.clone(),
            capacity,
        }
    }

    /// Those of a batch's rows.
    pub(super) fn at(&self, batch: &[Rows<'_>], device: &Device) -> Result<BatchRotations> {
        let growth = self.growth.as_ref().map(|growth| {
            let positions = batch.iter().flat_map(Rows::positions);
            let each = positions.map(|at| growth.factor(at)).collect::<Vec<_>>();
            let rows = each.len();
            Tensor::from_vec(each, (1, rows, 1), device)
        });
        Ok(BatchRotations {
            usual: Rotation::new(&self.usual, self.capacity, batch, device),
            windowed: self
                .windowed
                .as_ref()
                .map(|rope| Rotation::new(rope, self.capacity, batch, device)),
            growth: growth.transpose()?,
        })
    }
}

impl Rows<'_> {
    fn positions(&self) -> std::ops::Range<usize> {
        self.cache.len..self.cache.len + self.tokens.len()
    }
}

/// Rotations of one batch.
pub(super) struct BatchRotations {
    usual: Rotation,
    windowed: Option<Rotation>,
    growth: Option<Tensor>,
}

impl BatchRotations {
    /// That of a layer.
    pub(super) fn of(&self, config: &DecoderConfig, layer: usize) -> &Rotation {
        let other = self.windowed.as_ref();
        let other = other.filter(|_| *config.rope_of(layer) != config.rope);
        other.unwrap_or(&self.usual)
    }

    /// What multiplies each row's queries: 1 × rows × 1.
    pub(super) fn growth(&self) -> Option<&Tensor> {
        self.growth.as_ref()
    }
}

/// Cosines and sines of a batch's rows.
pub(super) struct Rotation {
    /// Of each pair, row by row.
    turns: Vec<(f32, f32)>,
    pairs: usize,
    layout: RopePairs,
    device: Device,
}

impl Rotation {
    fn new(rope: &Rope, capacity: usize, batch: &[Rows<'_>], device: &Device) -> Self {
        let mut turns = Vec::new();
        for rows in batch {
            for position in rows.positions() {
                rope.turns(position, capacity, &mut turns);
            }
        }
        Self {
            turns,
            pairs: rope.len(),
            layout: rope.pairs(),
            device: device.clone(),
        }
    }

    /// Rotates `x` of shape heads × rows × columns; columns beyond the rotated ones stay.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if self.device.is_cpu() {
            return match self.layout {
                RopePairs::Neighbours => ggml::rotate(x, &self.turns, self.pairs),
                RopePairs::Halves => ggml::rotate_halves(x, &self.turns, self.pairs),
            };
        }
        let columns = x.dim(D::Minus1)?;
        let rotated = self.pairs * 2;
        let shape = (x.dim(1)?, self.pairs);
        let (cos, sin): (Vec<f32>, Vec<f32>) = self.turns.iter().copied().unzip();
        let cos = Tensor::from_vec(cos, shape, &self.device)?;
        let sin = Tensor::from_vec(sin, shape, &self.device)?;
        let x = x.unsqueeze(0)?;
        let head = x.narrow(D::Minus1, 0, rotated)?.contiguous()?;
        let head = match self.layout {
            RopePairs::Neighbours => candle_nn::rotary_emb::rope_i(&head, &cos, &sin)?,
            RopePairs::Halves => candle_nn::rotary_emb::rope(&head, &cos, &sin)?,
        };
        if rotated == columns {
            return head.squeeze(0);
        }
        let tail = x.narrow(D::Minus1, rotated, columns - rotated)?;
        Tensor::cat(&[&head, &tail], D::Minus1)?.squeeze(0)
    }
}
