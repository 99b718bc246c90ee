//! A decoder's forward pass on a device's tensors: rows of any sequences together, in few operations whose number depends
//! on the layers alone. Nothing comes to the host but where a router picks experts.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops;

use super::attention::{Attention, Rotation, Turns};
use super::batch::{Numbers, Pass, Shape, rounded};
use super::experts;
use super::link::Link;
use super::matrix::GpuMatrix;
use super::memory::KvMemory;
use crate::decoder::config::{Activation, DecoderConfig};
use crate::decoder::rope::Rope;
use crate::decoder::weights::{self, DecoderWeights, FeedForward, Gated};
use crate::engine::PAGE;

/// A decoder's weights on a device, and constants that its steps use.
pub(super) struct Network {
    config: DecoderConfig,
    embedding: GpuMatrix,
    blocks: Vec<Block>,
    norm: Norm,
    /// None: the embedding serves.
    output: Option<GpuMatrix>,
    /// Rotation in most layers, and in layers with a window.
    rotations: [Rotation; 2],
    /// What queries at each position are multiplied by.
    growth: Option<Tensor>,
    /// 0, 1, 2 and so on: as many as a page has slots, and as a sequence may have tokens.
    in_page: Tensor,
    counting: Tensor,
    sights: Vec<usize>,
}

struct Block {
    attention_norm: Norm,
    attention: Attention,
    attention_post_norm: Option<Norm>,
    feed_forward_norm: Norm,
    feed_forward: FeedForward<GpuMatrix>,
    feed_forward_post_norm: Option<Norm>,
}

/// Root-mean-square normalisation.
pub(super) struct Norm {
    factors: Tensor,
    epsilon: f32,
}

impl Norm {
    fn new(link: &Link, factors: Vec<f32>, epsilon: f32) -> Result<Self> {
        let len = factors.len();
        Ok(Self {
            factors: link.up(factors, len)?,
            epsilon,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.factors, self.epsilon)
    }
}

/// `x` normalised where there is a norm.
fn normed(norm: &Option<Norm>, x: Tensor) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(&x),
        None => Ok(x),
    }
}

/// `cap · tanh(x / cap)`.
pub(super) fn bend(x: &Tensor, cap: f32) -> Result<Tensor> {
    (x * (1.0 / f64::from(cap)))?.tanh()? * f64::from(cap)
}

/// What a pass's rows look at.
pub(super) struct Seen {
    pub(super) queries: Tensor,
    pub(super) sequences: usize,
    pub(super) views: Vec<SeenView>,
}

/// Slots of a group's sequences, and a mask that is added to scores.
pub(super) struct SeenView {
    /// Sequence by sequence.
    pub(super) slots: Tensor,
    /// 1 × sequences × queries × slots of a sequence.
    pub(super) mask: Tensor,
    pub(super) sight: usize,
}

/// A pass through the model, on the device.
pub(super) struct Prepared {
    pub(super) rows: usize,
    /// Of most layers, and of layers with a window.
    pub(super) turns: [Turns; 2],
    pub(super) growth: Option<Tensor>,
    /// The slot of each number of keys and of values.
    pub(super) slots: Tensor,
    pub(super) seen: Vec<Seen>,
    pub(super) order: Tensor,
    wanted: Option<Tensor>,
}

impl Network {
    /// Makes the constants for sequences of at most `capacity` tokens.
    pub(super) fn new(
        config: DecoderConfig,
        weights: DecoderWeights<GpuMatrix>,
        capacity: usize,
        link: &Link,
    ) -> Result<Self> {
        let factors = weights.rope_factors.as_deref();
        let long = weights.rope_factors_long.as_deref();
        let usual = Rope::new(&config.rope, factors, long);
        let own = config
            .window
            .as_ref()
            .and_then(|window| window.rope.as_ref());
        let local = own.map_or_else(|| usual.clone(), |own| Rope::new(own, None, None));
        let growth = config.query_growth.as_ref().map(|growth| {
            let factors = (0..capacity).map(|at| growth.factor(at)).collect();
            link.up::<f32>(factors, (capacity, 1))
        });
        let mut sights: Vec<usize> = (0..config.layers)
            .map(|layer| config.sight(layer))
            .collect();
        sights.sort_unstable();
        sights.dedup();
        let columns = rounded(capacity.div_ceil(PAGE) + 1) * PAGE;
        let blocks = weights.blocks.into_iter().enumerate();
        let blocks = blocks.map(|(layer, block)| Block::new(&config, layer, block, link));
        Ok(Self {
            blocks: blocks.collect::<Result<_>>()?,
            norm: Norm::new(link, weights.norm, config.norm_epsilon)?,
            embedding: weights.embedding,
            output: weights.output,
            rotations: [
                Rotation::new(&usual, capacity, link)?,
                Rotation::new(&local, capacity, link)?,
            ],
            growth: growth.transpose()?,
            in_page: link.up((0..PAGE as u32).collect(), (1, PAGE))?,
            counting: link.up((0..columns).map(|at| at as f32).collect(), (1, 1, columns))?,
            sights,
            config,
        })
    }

    pub(super) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// What plans of passes must know.
    pub(super) fn shape(&self, memory: &KvMemory) -> Shape {
        Shape {
            share: self.config.heads / self.config.key_value_heads,
            sights: self.sights.clone(),
            empty_page: memory.empty_page(),
        }
    }

    /// Takes the rows of a pass, whose tokens are `tokens`, through all blocks, and stores their keys and values. Answers
    /// the logits that are wanted, if any are: rows × vocabulary. `numbers` is what was sent for the pass.
    pub(super) fn forward(
        &self,
        link: &Link,
        memory: &KvMemory,
        numbers: &Tensor,
        pass: &Pass,
        tokens: &Tensor,
    ) -> Result<Option<Tensor>> {
        let (mut x, prepared) = {
            let _kept = link.parameters_kept();
            (self.embed(tokens)?, self.prepare(numbers, pass)?)
        };
        for (layer, block) in self.blocks.iter().enumerate() {
            let window = usize::from(self.config.window_of(layer).is_some());
            let [usual, windowed] = &prepared.turns;
            let turns = if window == 1 { windowed } else { usual };
            let half = {
                let _kept = link.parameters_kept();
                let normed_x = block.attention_norm.forward(&x)?;
                let attended = block
                    .attention
                    .forward(layer, &normed_x, turns, &prepared, memory)?;
                x = (x + normed(&block.attention_post_norm, attended)?)?;
                block.feed_forward_norm.forward(&x)?
            };
            let fed = self.feed(link, &block.feed_forward, &half)?;
            let _kept = link.parameters_kept();
            x = (x + normed(&block.feed_forward_post_norm, fed)?)?;
        }
        let _kept = link.parameters_kept();
        let wanted = prepared.wanted.as_ref();
        wanted.map(|wanted| self.logits(&x, wanted)).transpose()
    }

    fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        let x = self.embedding.rows(tokens)?;
        match self.config.embedding_scale {
            1.0 => Ok(x),
            scale => x * f64::from(scale),
        }
    }

    fn prepare(&self, numbers: &Tensor, pass: &Pass) -> Result<Prepared> {
        let at = |range: &std::ops::Range<usize>| numbers.narrow(0, range.start, range.len());
        let positions = at(&pass.positions)?;
        let (heads, columns) = (self.config.key_value_heads, self.config.head_width);
        let slots = at(&pass.slots)?.reshape((1, pass.rows, 1))?;
        let slots = slots.broadcast_as((heads, pass.rows, columns))?;
        let growth = self.growth.as_ref().map(|growth| {
            growth
                .index_select(&positions, 0)?
                .reshape((1, pass.rows, 1))
        });
        let seen = pass.groups.iter().map(|group| {
            let views = group.views.iter().map(|view| {
                let pages = at(&view.pages)?;
                let count = pages.elem_count();
                let first = pages.affine(PAGE as f64, 0.0)?.reshape((count, 1))?;
                let lags = at(&view.lags)?.to_dtype(DType::F32)?;
                let queries = lags.elem_count() / group.sequences;
                Ok(SeenView {
                    slots: first.broadcast_add(&self.in_page)?.flatten_all()?,
                    mask: self
                        .mask(&lags, (group.sequences, queries), view.columns, view.sight)?
                        .unsqueeze(0)?,
                    sight: view.sight,
                })
            });
            Ok(Seen {
                queries: at(&group.queries)?,
                sequences: group.sequences,
                views: views.collect::<Result<_>>()?,
            })
        });
        let [usual, windowed] = &self.rotations;
        Ok(Prepared {
            rows: pass.rows,
            turns: [usual.at(&positions)?, windowed.at(&positions)?],
            growth: growth.transpose()?,
            slots: slots.contiguous()?,
            seen: seen.collect::<Result<_>>()?,
            order: at(&pass.order)?,
            wanted: match pass.wanted.is_empty() {
                true => None,
                false => Some(at(&pass.wanted)?),
            },
        })
    }

    /// Nothing where a query may look: at its own slot, which stands `lag` behind the view's first, and at those before
    /// it as far as it sees. Elsewhere so much below any score that the softmax makes it zero.
    fn mask(
        &self,
        lags: &Tensor,
        (sequences, queries): (usize, usize),
        columns: usize,
        sight: usize,
    ) -> Result<Tensor> {
        const HIDDEN: f64 = -1e30;
        let slots = self.counting.narrow(2, 0, columns)?;
        let behind = lags
            .reshape((sequences, queries, 1))?
            .broadcast_sub(&slots)?;
        let later = behind.neg()?.relu()?;
        let hidden = match sight < columns {
            true => (later + (behind - (sight as f64 - 1.0))?.relu()?)?,
            false => later,
        };
        hidden * HIDDEN
    }

    fn feed(&self, link: &Link, feed: &FeedForward<GpuMatrix>, x: &Tensor) -> Result<Tensor> {
        let activation = self.config.feed_forward.activation;
        match (feed, &self.config.feed_forward.experts) {
            (FeedForward::Dense(gated), _) => run(link, gated, activation, x),
            (FeedForward::Experts { router, experts }, Some(routing)) => {
                experts::forward(link, router, experts, routing, activation, x)
            }
            (FeedForward::Experts { .. }, None) => {
                candle_core::bail!("there are experts and no rule for their use")
            }
        }
    }

    fn logits(&self, x: &Tensor, wanted: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(&x.index_select(wanted, 0)?)?;
        let logits = self
            .output
            .as_ref()
            .unwrap_or(&self.embedding)
            .forward(&x)?;
        match self.config.logit_cap {
            None => Ok(logits),
            Some(cap) => bend(&logits, cap),
        }
    }
}

/// `down(activation(gate(x)) · up(x))`.
pub(super) fn run(
    link: &Link,
    gated: &Gated<GpuMatrix>,
    activation: Activation,
    x: &Tensor,
) -> Result<Tensor> {
    let _kept = link.parameters_kept();
    let (gate, up) = (gated.gate.forward(x)?, gated.up.forward(x)?);
    let gate = match activation {
        Activation::Silu => gate.silu()?,
        Activation::Gelu => gate.gelu()?,
    };
    gated.down.forward(&(gate * up)?)
}

impl Block {
    fn new(
        config: &DecoderConfig,
        layer: usize,
        block: weights::Block<GpuMatrix>,
        link: &Link,
    ) -> Result<Self> {
        let norm = |factors| Norm::new(link, factors, config.norm_epsilon);
        let head_norms = block
            .head_norms
            .map(|(query, key)| Ok::<_, candle_core::Error>((norm(query)?, norm(key)?)));
        let projections = [block.query, block.key, block.value];
        Ok(Self {
            attention_norm: norm(block.attention_norm)?,
            attention: Attention::new(
                config,
                layer,
                projections,
                block.output,
                head_norms.transpose()?,
                link,
            )?,
            attention_post_norm: block.attention_post_norm.map(norm).transpose()?,
            feed_forward_norm: norm(block.feed_forward_norm)?,
            feed_forward: block.feed_forward,
            feed_forward_post_norm: block.feed_forward_post_norm.map(norm).transpose()?,
        })
    }
}

/// What a step sends along: see [`Numbers`].
pub(super) fn send(link: &Link, numbers: Numbers) -> Result<Tensor> {
    let len = numbers.0.len();
    link.up(numbers.0, len)
}
