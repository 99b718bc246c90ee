//! A decoder's forward pass on a device's tensors: rows of any sequences together, in few operations whose number depends
//! on the layers alone. Nothing comes to the host but where a router picks experts.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use candle_nn::ops;

use super::Kernels;
use super::attention::{Attention, Rotation, Turn, Turns};
use super::batch::{Numbers, Pass, Shape, pages_rounded};
use super::experts;
use super::input::Input;
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
    /// Our own, where the device has some.
    kernels: Option<Arc<Kernels>>,
}

struct Block {
    attention_norm: Norm,
    attention: Attention,
    attention_post_norm: Option<Norm>,
    feed_forward_norm: Norm,
    feed_forward: Feed,
    feed_forward_post_norm: Option<Norm>,
}

/// The other half of a block.
enum Feed {
    /// Gate and what goes through it, joined where they are alike, and the way back.
    Dense {
        gate_up: Vec<GpuMatrix>,
        down: GpuMatrix,
    },
    Experts {
        router: GpuMatrix,
        experts: Vec<Gated<GpuMatrix>>,
    },
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

    /// Its factors and epsilon.
    pub(super) fn parts(&self) -> (&Tensor, f32) {
        (&self.factors, self.epsilon)
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

/// Slots of a group's sequences, and which of them each query sees.
pub(super) struct SeenView {
    /// Sequence by sequence.
    pub(super) slots: Tensor,
    /// For each query how many slots lie between the view's first and its own.
    pub(super) lags: Tensor,
    /// 1 × sequences × queries × slots of a sequence: added to scores where no kernel of ours goes by the lags.
    pub(super) mask: Option<Tensor>,
    pub(super) sight: usize,
}

/// A pass through the model, on the device.
pub(super) struct Prepared<'a> {
    pub(super) rows: usize,
    pub(super) placing: Placing<'a>,
    pub(super) seeing: Seeing,
    wanted: Option<Tensor>,
}

/// How queries and keys are rotated, and keys and values stored.
pub(super) enum Placing<'a> {
    /// By kernels of ours.
    Kernels(&'a Kernels, Placed<'a>),
    /// By candle's operations.
    Operations {
        /// Of most layers, and of layers with a window.
        turns: [Turns; 2],
        growth: Option<Tensor>,
        /// The slot of each number of keys and of values.
        slots: Tensor,
    },
}

/// Where rows stand, for kernels of ours.
pub(super) struct Placed<'a> {
    /// Of most layers, and of layers with a window.
    rotations: [&'a Rotation; 2],
    pub(super) growth: Option<&'a Tensor>,
    /// Each row's place in its sequence, and the slot of its keys and values.
    positions: Tensor,
    pub(super) slots: Tensor,
}

/// How rows attend.
pub(super) enum Seeing {
    /// By a kernel of ours, which reads keys and values where they are: sequences of few rows together.
    Pages {
        sequences: usize,
        rows_of: Tensor,
        views: Vec<PagesView>,
    },
    /// By candle's operations, over keys and values that are gathered.
    Gathered { groups: Vec<Seen>, order: Tensor },
}

/// Pages of each sequence, and for each query how many slots lie between the first and its own.
pub(super) struct PagesView {
    pub(super) pages: Tensor,
    pub(super) lags: Tensor,
    pub(super) sight: usize,
}

impl Placed<'_> {
    /// How heads of a layer are turned.
    pub(super) fn turn<'a>(
        &'a self,
        windowed: bool,
        norm: Option<&'a Norm>,
        heads: usize,
    ) -> Turn<'a> {
        let [usual, own] = self.rotations;
        Turn {
            rotation: if windowed { own } else { usual },
            norm: norm.map(Norm::parts),
            places: &self.positions,
            heads,
        }
    }
}

impl Network {
    /// Makes the constants for sequences of at most `capacity` tokens.
    pub(super) fn new(
        config: DecoderConfig,
        weights: DecoderWeights<GpuMatrix>,
        capacity: usize,
        link: &Link,
        kernels: Option<Arc<Kernels>>,
    ) -> Result<Self> {
        let share = config.heads / config.key_value_heads;
        let kernels = kernels.filter(|_| Kernels::attend_with(config.head_width, share));
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
        let columns = pages_rounded(capacity.div_ceil(PAGE) + 1) * PAGE;
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
            kernels,
            config,
        })
    }

    pub(super) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Whether most of it is blocks.
    fn has_blocks(&self) -> bool {
        let has_blocks = |block: &Block| match &block.feed_forward {
            Feed::Dense { down, .. } => down.has_blocks(),
            Feed::Experts { .. } => false,
        };
        self.blocks.iter().all(has_blocks)
    }

    /// Whether nothing comes to the host inside a pass.
    pub(super) fn stays(&self) -> bool {
        let picks = |block: &Block| matches!(block.feed_forward, Feed::Experts { .. });
        !self.blocks.iter().any(picks)
    }

    /// What plans of passes must know.
    pub(super) fn shape(&self, memory: &KvMemory) -> Shape {
        Shape {
            share: self.config.heads / self.config.key_value_heads,
            sights: self.sights.clone(),
            empty_page: memory.empty_page(),
            pads: self.kernels.is_some() && self.has_blocks(),
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
        let mut normed_x = match self.blocks.first() {
            Some(block) => {
                let _kept = link.parameters_kept();
                Input::Numbers(block.attention_norm.forward(&x)?)
            }
            None => Input::Numbers(x.clone()),
        };
        for (layer, block) in self.blocks.iter().enumerate() {
            let windowed = self.config.window_of(layer).is_some();
            let half = {
                let _kept = link.parameters_kept();
                let attended =
                    block
                        .attention
                        .forward((layer, windowed), &normed_x, &prepared, memory)?;
                let attended = normed(&block.attention_post_norm, attended)?;
                let rounds = block.feed_forward.rounds(prepared.rows);
                let (sum, half) = self.add_norm(&x, &attended, &block.feed_forward_norm, rounds)?;
                x = sum;
                half
            };
            let fed = self.feed(link, &block.feed_forward, &half)?;
            let _kept = link.parameters_kept();
            let fed = normed(&block.feed_forward_post_norm, fed)?;
            match self.blocks.get(layer + 1) {
                Some(next) => {
                    let rounds = next.attention.rounds(prepared.rows);
                    (x, normed_x) = self.add_norm(&x, &fed, &next.attention_norm, rounds)?;
                }
                None => x = (x + fed)?,
            }
        }
        let _kept = link.parameters_kept();
        let wanted = prepared.wanted.as_ref();
        wanted.map(|wanted| self.logits(&x, wanted)).transpose()
    }

    /// `x + y`, and its norm; rounded where a kernel of ours can and `rounds` asks for it.
    fn add_norm(
        &self,
        x: &Tensor,
        y: &Tensor,
        norm: &Norm,
        rounds: bool,
    ) -> Result<(Tensor, Input)> {
        match &self.kernels {
            Some(kernels) => kernels.add_norm((x, y), norm.parts(), rounds),
            None => {
                let sum = (x + y)?;
                let normed = norm.forward(&sum)?;
                Ok((sum, Input::Numbers(normed)))
            }
        }
    }

    fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        let x = self.embedding.rows(tokens)?;
        match self.config.embedding_scale {
            1.0 => Ok(x),
            scale => x * f64::from(scale),
        }
    }

    fn prepare(&self, numbers: &Tensor, pass: &Pass) -> Result<Prepared<'_>> {
        let at = |range: &std::ops::Range<usize>| numbers.narrow(0, range.start, range.len());
        let seeing = match (&self.kernels, pass.shared()) {
            (Some(_), Some(group)) => {
                let views = group.views.iter().map(|view| {
                    Ok(PagesView {
                        pages: at(&view.pages)?,
                        lags: at(&view.lags)?,
                        sight: view.sight,
                    })
                });
                Seeing::Pages {
                    sequences: group.sequences,
                    rows_of: at(&group.rows_of)?,
                    views: views.collect::<Result<_>>()?,
                }
            }
            _ => Seeing::Gathered {
                groups: self.seen(numbers, pass)?,
                order: at(&pass.order)?,
            },
        };
        Ok(Prepared {
            rows: pass.rows,
            placing: self.placing(at(&pass.positions)?, at(&pass.slots)?)?,
            seeing,
            wanted: match pass.wanted.is_empty() {
                true => None,
                false => Some(at(&pass.wanted)?),
            },
        })
    }

    fn placing(&self, positions: Tensor, slots: Tensor) -> Result<Placing<'_>> {
        let [usual, own] = &self.rotations;
        if let Some(kernels) = &self.kernels {
            let placed = Placed {
                rotations: [usual, own],
                growth: self.growth.as_ref(),
                positions,
                slots,
            };
            return Ok(Placing::Kernels(kernels, placed));
        }
        let rows = positions.elem_count();
        let (heads, columns) = (self.config.key_value_heads, self.config.head_width);
        let slots = slots.reshape((1, rows, 1))?;
        let slots = slots.broadcast_as((heads, rows, columns))?;
        let growth = self.growth.as_ref();
        let growth = growth.map(|growth| growth.index_select(&positions, 0)?.reshape((1, rows, 1)));
        Ok(Placing::Operations {
            turns: [usual.at(&positions)?, own.at(&positions)?],
            growth: growth.transpose()?,
            slots: slots.contiguous()?,
        })
    }

    fn seen(&self, numbers: &Tensor, pass: &Pass) -> Result<Vec<Seen>> {
        let at = |range: &std::ops::Range<usize>| numbers.narrow(0, range.start, range.len());
        let groups = pass.groups.iter().map(|group| {
            let views = group.views.iter().map(|view| {
                let pages = at(&view.pages)?;
                let count = pages.elem_count();
                let first = pages.affine(PAGE as f64, 0.0)?.reshape((count, 1))?;
                let lags = at(&view.lags)?;
                let sizes = (group.sequences, lags.elem_count() / group.sequences);
                let mask = match self.kernels {
                    Some(_) => None,
                    None => {
                        let lags = lags.to_dtype(DType::F32)?;
                        let mask = self.mask(&lags, sizes, view.columns, view.sight)?;
                        Some(mask.unsqueeze(0)?)
                    }
                };
                Ok(SeenView {
                    slots: first.broadcast_add(&self.in_page)?.flatten_all()?,
                    lags,
                    mask,
                    sight: view.sight,
                })
            });
            Ok(Seen {
                queries: at(&group.queries)?,
                sequences: group.sequences,
                views: views.collect::<Result<_>>()?,
            })
        });
        groups.collect()
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

    fn feed(&self, link: &Link, feed: &Feed, x: &Input) -> Result<Tensor> {
        let activation = self.config.feed_forward.activation;
        match (feed, &self.config.feed_forward.experts) {
            (Feed::Dense { gate_up, down }, _) => {
                let _kept = link.parameters_kept();
                if let (Activation::Silu, [both]) = (activation, gate_up.as_slice())
                    && let Some(through) = both.gated(x, down)?
                {
                    return down.forward(&through);
                }
                let width = self.config.feed_forward.width;
                let [gate, up] = GpuMatrix::products(gate_up, x, [width; 2])?;
                let through = gated(self.kernels.as_deref(), activation, &gate, &up)?;
                down.forward(&Input::Numbers(through))
            }
            (Feed::Experts { router, experts }, Some(routing)) => {
                experts::forward(link, router, experts, routing, activation, x.numbers()?)
            }
            (Feed::Experts { .. }, None) => {
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
            .forward(&Input::Numbers(x))?;
        match self.config.logit_cap {
            None => Ok(logits),
            Some(cap) => bend(&logits, cap),
        }
    }
}

impl Feed {
    /// Whether so many rows are best rounded before they come here.
    fn rounds(&self, rows: usize) -> bool {
        match self {
            Self::Dense { gate_up, .. } => GpuMatrix::rounds(gate_up, rows),
            Self::Experts { .. } => false,
        }
    }
}

/// `activation(gate) · up`.
pub(super) fn gated(
    kernels: Option<&Kernels>,
    activation: Activation,
    gate: &Tensor,
    up: &Tensor,
) -> Result<Tensor> {
    match (activation, kernels) {
        (Activation::Silu, Some(kernels)) => kernels.gated(gate, up),
        (Activation::Silu, None) => gate.contiguous()?.silu()? * up.contiguous()?,
        (Activation::Gelu, _) => gate.contiguous()?.gelu()? * up.contiguous()?,
    }
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
            feed_forward: match block.feed_forward {
                FeedForward::Dense(Gated { gate, up, down }) => Feed::Dense {
                    gate_up: GpuMatrix::joined(vec![gate, up])?,
                    down,
                },
                FeedForward::Experts { router, experts } => Feed::Experts { router, experts },
            },
            feed_forward_post_norm: block.feed_forward_post_norm.map(norm).transpose()?,
        })
    }
}

/// What a step sends along: see [`Numbers`].
pub(super) fn send(link: &Link, numbers: Numbers) -> Result<Tensor> {
    let len = numbers.0.len();
    link.up(numbers.0, len)
}
