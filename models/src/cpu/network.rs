//! A decoder's forward pass on plain slices: rows of any sequences together, one parallel region after another.
//!
//! Each row's results are computed in the same order whatever stands beside it, so an answer does not depend on the batch.

use casemate_kernels::elementwise::{
    add, add_scaled, gelu_product, rms_norm, rms_norm_in_place, rotate, silu_product, soft_cap,
};
use casemate_kernels::{Attention, Isa, KvPages, Pool, Scoring, Span};

use super::matrix::{CpuMatrix, Inputs};
use crate::decoder::config::{Activation, DecoderConfig, Experts, RopePairs};
use crate::decoder::rope::Rope;
use crate::decoder::weights::{Block, DecoderWeights, FeedForward, Gated, Projection};
use crate::engine::StepError;

/// A decoder and the memory that its steps reuse.
pub(super) struct Network {
    config: DecoderConfig,
    weights: DecoderWeights<CpuMatrix>,
    isa: Isa,
    pool: Pool,
    /// Rotation in most layers, and in layers with a window.
    ropes: [Rope; 2],
    /// Tokens that a sequence may have: it says which factors turn it, where there are two kinds.
    capacity: usize,
    inputs: Inputs,
    rows: Rows,
}

/// Rows of a step, by what they are.
#[derive(Default)]
struct Rows {
    /// The residual stream.
    x: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    attended: Vec<f32>,
    /// What a half of a block adds.
    delta: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

fn resize(rows: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if rows.len() < len {
        rows.resize(len, 0.0);
    }
    rows.get_mut(..len).unwrap_or_default()
}

/// A row of a matrix that stands row by row.
fn row_of<T>(all: &[T], row: usize, width: usize) -> &[T] {
    all.get(row * width..(row + 1) * width).unwrap_or_default()
}

impl Network {
    pub(super) fn new(
        config: DecoderConfig,
        weights: DecoderWeights<CpuMatrix>,
        pool: Pool,
        capacity: usize,
    ) -> Self {
        let factors = weights.rope_factors.as_deref();
        let long = weights.rope_factors_long.as_deref();
        let rope = Rope::new(&config.rope, factors, long);
        let own = config
            .window
            .as_ref()
            .and_then(|window| window.rope.as_ref());
        let local = own.map_or_else(|| rope.clone(), |own| Rope::new(own, None, None));
        Self {
            ropes: [rope, local],
            capacity,
            config,
            weights,
            isa: Isa::detect(),
            pool,
            inputs: Inputs::new(),
            rows: Rows::default(),
        }
    }

    pub(super) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Takes the rows of `spans`, whose tokens are `tokens`, through all blocks, and stores their keys and values in
    /// `pages`. `logits` then holds those of the rows numbered `wanted`, one after another.
    ///
    /// # Errors
    /// [`StepError`]; what was stored then is overwritten when the step is repeated.
    pub(super) fn forward(
        &mut self,
        pages: &mut KvPages,
        spans: &[Span<'_>],
        tokens: &[u32],
        wanted: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<(), StepError> {
        let rows = tokens.len();
        self.embed(tokens)?;
        let positions: Vec<usize> = spans
            .iter()
            .flat_map(|span| span.before..span.before + span.rows)
            .collect();
        let [usual, windowed] = self.ropes.each_ref().map(|rope| {
            let mut turns = Vec::with_capacity(rows * rope.len());
            for position in &positions {
                rope.turns(*position, self.capacity, &mut turns);
            }
            turns
        });
        let singles = singles(spans, wanted);
        let last = self.config.layers - 1;
        for layer in 0..=last {
            let turns = match self.config.window_of(layer) {
                Some(_) => &windowed,
                None => &usual,
            };
            self.project(layer, pages, spans, &positions, turns)?;
            // Behind the last keys and values only the rows count that are asked for.
            let (spans, rows) = match layer == last {
                true => (singles.as_slice(), self.keep(wanted)),
                false => (spans, rows),
            };
            if rows > 0 {
                self.attend(layer, pages, spans, rows)?;
                self.feed_forward(layer, rows)?;
            }
        }
        self.logits(wanted.len(), logits)
    }

    /// Puts the wanted rows, which stand in rising order, in front of all others; answers how many there are.
    fn keep(&mut self, wanted: &[usize]) -> usize {
        let query_width = self.config.query_width();
        for (to, from) in wanted.iter().enumerate() {
            copy_row(&mut self.rows.x, self.config.width, *from, to);
            copy_row(&mut self.rows.queries, query_width, *from, to);
        }
        wanted.len()
    }

    fn embed(&mut self, tokens: &[u32]) -> Result<(), StepError> {
        let (width, scale) = (self.config.width, self.config.embedding_scale);
        let embedding = &self.weights.embedding;
        if tokens.is_empty() || tokens.iter().any(|id| *id as usize >= embedding.rows()) {
            return Err(StepError("a token is outside the vocabulary".into()));
        }
        let x = resize(&mut self.rows.x, tokens.len() * width);
        self.pool.each_mut(x, width, |row, x| {
            let known = tokens
                .get(row)
                .is_some_and(|id| embedding.row(*id as usize, x));
            debug_assert!(known, "checked above");
            if scale != 1.0 {
                x.iter_mut().for_each(|x| *x *= scale);
            }
        });
        Ok(())
    }

    /// Queries, keys and values of all rows; keys and values are stored.
    fn project(
        &mut self,
        layer: usize,
        pages: &mut KvPages,
        spans: &[Span<'_>],
        positions: &[usize],
        turns: &[(f32, f32)],
    ) -> Result<(), StepError> {
        let Self {
            config,
            weights,
            isa,
            pool,
            inputs,
            rows: buffers,
            ..
        } = self;
        let rows = positions.len();
        let (isa, width, epsilon) = (*isa, config.width, config.norm_epsilon);
        let (query_width, key_width) = (config.query_width(), config.key_value_width());
        let Some(block) = weights.blocks.get(layer) else {
            return Err(StepError("a layer is missing".into()));
        };
        let x = resize(&mut buffers.x, rows * width);
        let queries = resize(&mut buffers.queries, rows * query_width);
        let keys = resize(&mut buffers.keys, rows * key_width);
        let values = resize(&mut buffers.values, rows * key_width);
        let normed = |row: usize, out: &mut [f32]| {
            rms_norm(
                isa,
                row_of(x, row, width),
                &block.attention_norm,
                epsilon,
                out,
            );
        };
        let products = vec![
            (&block.query.matrix, &mut *queries),
            (&block.key.matrix, &mut *keys),
            (&block.value.matrix, &mut *values),
        ];
        inputs.multiply((isa, pool), (rows, width), normed, products)?;

        let pairs = config.rope_of(layer).dimensions / 2;
        let halves = config.rope_of(layer).pairs == RopePairs::Halves;
        let finish = |projection: &Projection<CpuMatrix>,
                      norm: Option<&[f32]>,
                      row: usize,
                      all: &mut [f32]| {
            if let Some(bias) = &projection.bias {
                add(isa, all, bias);
            }
            for head in all.chunks_exact_mut(config.head_width) {
                if let Some(norm) = norm {
                    rms_norm_in_place(isa, head, norm, epsilon);
                }
                rotate(head, row_of(turns, row, pairs), halves);
            }
        };
        let norms = block.head_norms.as_ref();
        let query_norm = norms.map(|(query, _)| query.as_slice());
        let key_norm = norms.map(|(_, key)| key.as_slice());
        pool.each_mut(queries, query_width, |row, all| {
            finish(&block.query, query_norm, row, all);
            if let (Some(growth), Some(position)) = (&config.query_growth, positions.get(row)) {
                let factor = growth.factor(*position);
                all.iter_mut().for_each(|query| *query *= factor);
            }
        });
        pool.each_mut(keys, key_width, |row, all| {
            finish(&block.key, key_norm, row, all)
        });
        if let Some(bias) = &block.value.bias {
            pool.each_mut(values, key_width, |_, values| add(isa, values, bias));
        }

        pages
            .store(layer, spans, keys, values, pool)
            .map_err(|error| StepError(error.to_string()))?;
        Ok(())
    }

    /// What the rows' queries find, added to the residual stream.
    fn attend(
        &mut self,
        layer: usize,
        pages: &KvPages,
        spans: &[Span<'_>],
        rows: usize,
    ) -> Result<(), StepError> {
        let Self {
            config,
            weights,
            isa,
            pool,
            inputs,
            rows: buffers,
            ..
        } = self;
        let (isa, width, query_width) = (*isa, config.width, config.query_width());
        let Some(block) = weights.blocks.get(layer) else {
            return Err(StepError("a layer is missing".into()));
        };
        let attention = Attention {
            isa,
            layer,
            spans,
            scoring: Scoring {
                scale: config.score_scale,
                cap: config.score_cap,
                sight: config.sight(layer),
            },
        };
        let x = resize(&mut buffers.x, rows * width);
        let queries = resize(&mut buffers.queries, rows * query_width);
        let attended = resize(&mut buffers.attended, rows * query_width);
        pages
            .attend(&attention, queries, attended, pool)
            .map_err(|error| StepError(error.to_string()))?;
        let delta = resize(&mut buffers.delta, rows * width);
        let input = |row: usize, out: &mut [f32]| {
            out.copy_from_slice(row_of(attended, row, query_width));
        };
        inputs.multiply(
            (isa, pool),
            (rows, query_width),
            input,
            vec![(&block.output, &mut *delta)],
        )?;
        add_rows(
            (isa, pool),
            x,
            delta,
            width,
            block.attention_post_norm.as_deref(),
            config.norm_epsilon,
        );
        Ok(())
    }

    fn feed_forward(&mut self, layer: usize, rows: usize) -> Result<(), StepError> {
        let Some(block) = self.weights.blocks.get(layer) else {
            return Err(StepError("a layer is missing".into()));
        };
        let mut half = Half {
            config: &self.config,
            isa: self.isa,
            pool: &self.pool,
            inputs: &mut self.inputs,
            gate: &mut self.rows.gate,
            up: &mut self.rows.up,
        };
        let width = self.config.width;
        let x = resize(&mut self.rows.x, rows * width);
        let delta = resize(&mut self.rows.delta, rows * width);
        match &block.feed_forward {
            FeedForward::Dense(gated) => {
                let every: Vec<usize> = (0..rows).collect();
                half.gated(block, gated, x, &every, delta)?;
            }
            FeedForward::Experts { router, experts } => {
                half.experts(block, router, experts, x, delta)?;
            }
        }
        let post = block.feed_forward_post_norm.as_deref();
        add_rows(
            (self.isa, &self.pool),
            x,
            delta,
            width,
            post,
            self.config.norm_epsilon,
        );
        Ok(())
    }

    /// Logits of the first `rows` rows.
    fn logits(&mut self, rows: usize, logits: &mut Vec<f32>) -> Result<(), StepError> {
        let (isa, width, epsilon) = (self.isa, self.config.width, self.config.norm_epsilon);
        let output = self
            .weights
            .output
            .as_ref()
            .unwrap_or(&self.weights.embedding);
        logits.resize(rows * output.rows(), 0.0);
        if rows == 0 {
            return Ok(());
        }
        let (x, norm) = (&self.rows.x, &self.weights.norm);
        let normed = |row: usize, out: &mut [f32]| {
            rms_norm(isa, row_of(x, row, width), norm, epsilon, out);
        };
        let shape = (rows, width);
        let products = vec![(output, logits.as_mut_slice())];
        self.inputs
            .multiply((isa, &self.pool), shape, normed, products)?;
        if let Some(cap) = self.config.logit_cap {
            self.pool.each_mut(logits, output.rows(), |_, logits| {
                soft_cap(isa, logits, cap)
            });
        }
        Ok(())
    }
}

/// The wanted rows of some spans, each as a span of its own.
fn singles<'a>(spans: &[Span<'a>], wanted: &[usize]) -> Vec<Span<'a>> {
    let all = spans.iter().flat_map(|span| {
        (0..span.rows).map(|row| Span {
            pages: span.pages,
            before: span.before + row,
            rows: 1,
        })
    });
    let kept = all
        .enumerate()
        .filter(|(row, _)| wanted.binary_search(row).is_ok());
    kept.map(|(_, span)| span).collect()
}

fn copy_row(rows: &mut [f32], width: usize, from: usize, to: usize) {
    if from != to && (from.max(to) + 1) * width <= rows.len() {
        rows.copy_within(from * width..(from + 1) * width, to * width);
    }
}

/// Adds what half a block made to the residual stream, normalised first where the family does so.
fn add_rows(
    (isa, pool): (Isa, &Pool),
    x: &mut [f32],
    delta: &mut [f32],
    width: usize,
    post_norm: Option<&[f32]>,
    epsilon: f32,
) {
    if let Some(norm) = post_norm {
        pool.each_mut(delta, width, |_, delta| {
            rms_norm_in_place(isa, delta, norm, epsilon)
        });
    }
    let delta = &*delta;
    pool.each_mut(x, width, |row, x| add(isa, x, row_of(delta, row, width)));
}

/// What the second half of a block works with.
struct Half<'a> {
    config: &'a DecoderConfig,
    isa: Isa,
    pool: &'a Pool,
    inputs: &'a mut Inputs,
    gate: &'a mut Vec<f32>,
    up: &'a mut Vec<f32>,
}

impl Half<'_> {
    /// One gated network for the rows numbered `chosen` of `x`; the results stand in `out` one after another.
    fn gated(
        &mut self,
        block: &Block<CpuMatrix>,
        gated: &Gated<CpuMatrix>,
        x: &[f32],
        chosen: &[usize],
        out: &mut [f32],
    ) -> Result<(), StepError> {
        let (isa, width, epsilon) = (self.isa, self.config.width, self.config.norm_epsilon);
        let (rows, wide) = (chosen.len(), self.config.feed_forward.width);
        let gate = resize(self.gate, rows * wide);
        let up = resize(self.up, rows * wide);
        let normed = |row: usize, out: &mut [f32]| {
            let row = chosen.get(row).copied().unwrap_or_default();
            rms_norm(
                isa,
                row_of(x, row, width),
                &block.feed_forward_norm,
                epsilon,
                out,
            );
        };
        let products = vec![(&gated.gate, &mut *gate), (&gated.up, &mut *up)];
        self.inputs
            .multiply((isa, self.pool), (rows, width), normed, products)?;
        let activation = self.config.feed_forward.activation;
        let bent = |row: usize, out: &mut [f32]| {
            let (gate, up) = (row_of(gate, row, wide), row_of(up, row, wide));
            match activation {
                Activation::Silu => silu_product(isa, gate, up, out),
                Activation::Gelu => gelu_product(isa, gate, up, out),
            }
        };
        let products = vec![(&gated.down, out)];
        self.inputs
            .multiply((isa, self.pool), (rows, wide), bent, products)
    }

    /// Each row through the experts that the router picks for it. Experts are added up in their order.
    fn experts(
        &mut self,
        block: &Block<CpuMatrix>,
        router: &CpuMatrix,
        experts: &[Gated<CpuMatrix>],
        x: &[f32],
        out: &mut [f32],
    ) -> Result<(), StepError> {
        let (isa, width, epsilon) = (self.isa, self.config.width, self.config.norm_epsilon);
        let Some(about) = &self.config.feed_forward.experts else {
            return Err(StepError("experts without a configuration".into()));
        };
        let rows = x.len() / width;
        let mut scores = vec![0.0; rows * about.count];
        let normed = |row: usize, out: &mut [f32]| {
            rms_norm(
                isa,
                row_of(x, row, width),
                &block.feed_forward_norm,
                epsilon,
                out,
            );
        };
        let products = vec![(router, &mut *scores)];
        self.inputs
            .multiply((isa, self.pool), (rows, width), normed, products)?;
        let picks: Vec<Vec<(usize, f32)>> = scores
            .chunks_exact(about.count)
            .map(|scores| pick(scores, about))
            .collect();
        out.fill(0.0);
        let mut results = Vec::new();
        for (index, gated) in experts.iter().enumerate() {
            let (chosen, shares): (Vec<usize>, Vec<f32>) = picks
                .iter()
                .enumerate()
                .filter_map(|(row, picks)| {
                    let share = picks.iter().find(|(expert, _)| *expert == index);
                    share.map(|(_, share)| (row, *share))
                })
                .unzip();
            if chosen.is_empty() {
                continue;
            }
            let results = resize(&mut results, chosen.len() * width);
            self.gated(block, gated, x, &chosen, results)?;
            for ((row, share), result) in chosen.iter().zip(shares).zip(results.chunks_exact(width))
            {
                if let Some(out) = out.get_mut(row * width..(row + 1) * width) {
                    add_scaled(isa, out, result, share);
                }
            }
        }
        Ok(())
    }
}

/// The experts of a row and their shares: the likeliest, of equals the first.
fn pick(scores: &[f32], about: &Experts) -> Vec<(usize, f32)> {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let likely: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f32 = likely.iter().sum();
    let mut all: Vec<(usize, f32)> = likely.iter().map(|one| one / total).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(about.used);
    if about.normalised {
        let sum: f32 = all.iter().map(|(_, share)| share).sum();
        all.iter_mut().for_each(|(_, share)| *share /= sum);
    }
    all
}
