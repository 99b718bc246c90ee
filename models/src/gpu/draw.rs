//! Draws tokens where the logits are. The rules are those of [`crate::engine::sampler`], in 64 bits as there, on whole
//! tensors; what cannot be decided here is left to the host, row by row.
//!
//! Where it may differ from the host: sums are added in another order and exponentials rounded otherwise, so a random
//! number that falls within some 1e-7 of a border between two tokens may give the neighbour. Of tokens with exactly equal
//! logits a CUDA device may put any first when top-k, top-p or min-p cut; without a temperature the lowest id is taken, as
//! on the host.

use std::ops::Range;

use candle_core::{D, DType, Result, Tensor};

use super::batch::Numbers;
use super::link::Link;
use crate::engine::{SamplingParams, TemperatureOrder};

/// Candidates that are sorted; top-k beyond it is for the host.
const CANDIDATES: usize = 512;
/// Shares that are added up before a draw looks which of these sums it falls into.
const SHARES_SUMMED: usize = 512;
/// Larger vocabularies are for the host: tokens are numbered in floats here, and sums of sums are of a bounded number.
const VOCABULARY_MAX: usize = 1 << 20;
/// The answer where the host must decide.
pub(super) const UNDECIDED: u32 = u32::MAX;
/// Numbers that a row's rule is sent as.
pub(super) const COLUMNS: usize = 8;

/// A token to be drawn from a row of logits.
pub(super) struct Asked<'a> {
    pub(super) row: usize,
    pub(super) params: &'a SamplingParams,
    /// A random number from 0 to below 1.
    pub(super) point: f64,
}

/// How a token is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// The largest logit.
    Greedy,
    /// From all tokens.
    All,
    /// From the likeliest ones.
    Cut,
}

/// Draws of one pass, by where their numbers stand.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Draws {
    kinds: Vec<(Kind, Range<usize>, Range<usize>)>,
    /// Where each draw's answer stands among those of all kinds, one kind after another.
    order: Range<usize>,
    /// The same for what the model is fed with, which may have rows that nobody sees.
    fed: Range<usize>,
    /// Whether a row's cut needs the sum over all tokens.
    sums_all: bool,
}

/// Tokens, and what the model is fed with: the same, but some token where the host must decide.
pub(super) struct DrawnTokens {
    /// The tokens, then for each what is learnt from it, in thousandths of a bit ([`learnt`](crate::engine::learnt)).
    pub(super) answers: Tensor,
    pub(super) fed: Tensor,
}

/// Constants on the device.
pub(super) struct Drawer {
    vocabulary: usize,
    /// Falling numbers, so that the first of equals has the largest: 1 × vocabulary.
    falling: Tensor,
    /// `[i][j]` is one where i < j: what sums of all before are multiplied by.
    before_shares: Tensor,
    before_sums: Tensor,
    before_candidates: Tensor,
    /// 0, 1, 2 and so on.
    ranks: Tensor,
    /// Ids of tokens, rounded up to whole sorts.
    ids: Tensor,
    /// Logits where there are no tokens.
    nothing: Option<Tensor>,
    candidates: usize,
}

/// Whether tokens by these parameters are drawn here.
pub(super) fn is_drawn(params: &SamplingParams) -> bool {
    // Whoever adds a parameter decides here whether it is for the host.
    let SamplingParams {
        temperature: _,
        temperature_order: _,
        top_k,
        top_p: _,
        min_p: _,
        typical_p,
        dry: _,
        repetition_penalty: _,
        frequency_penalty: _,
        presence_penalty: _,
        penalty_window: _,
        logit_bias: _,
    } = params;
    params.leaves_logits() && *typical_p >= 1.0 && *top_k <= CANDIDATES
}

impl Draws {
    /// Plans draws. `rules` gets what they go by, row by row.
    pub(super) fn new(
        asked: &[Asked<'_>],
        (vocabulary, padding): (usize, usize),
        numbers: &mut Numbers,
        rules: &mut Vec<f64>,
    ) -> Self {
        let mut order = vec![0; asked.len()];
        let mut done = 0;
        let mut kinds = Vec::new();
        for kind in [Kind::Greedy, Kind::All, Kind::Cut] {
            let own = asked.iter().enumerate();
            let own: Vec<_> = own
                .filter(|(_, asked)| kind_of(asked.params) == kind)
                .collect();
            if own.is_empty() {
                continue;
            }
            let first = rules.len() / COLUMNS;
            for (at, asked) in &own {
                if let Some(place) = order.get_mut(*at) {
                    *place = done;
                }
                done += 1;
                if kind != Kind::Greedy {
                    rules.extend(rule(asked, vocabulary));
                }
            }
            let rows = numbers.put(own.iter().map(|(_, asked)| asked.row as u32));
            kinds.push((kind, rows, first..rules.len() / COLUMNS));
        }
        let sums_all = |asked: &Asked<'_>| asked.params.top_k == 0 && asked.params.top_p < 1.0;
        Self {
            kinds,
            fed: numbers.put(order.iter().copied().chain(std::iter::repeat_n(0, padding))),
            order: numbers.put(order),
            sums_all: asked.iter().any(sums_all),
        }
    }
}

fn kind_of(params: &SamplingParams) -> Kind {
    match params {
        params if params.temperature == 0.0 => Kind::Greedy,
        params if params.keeps_all() => Kind::All,
        _ => Kind::Cut,
    }
}

/// What a draw goes by, in the order in which [`Rules`] reads it.
fn rule(asked: &Asked<'_>, vocabulary: usize) -> [f64; COLUMNS] {
    let params = asked.params;
    let flag = |holds: bool| f64::from(u8::from(holds));
    let heat = 1.0 / params.temperature;
    let kept = candidates(vocabulary);
    [
        heat,
        asked.point,
        match params.temperature_order {
            TemperatureOrder::First => heat,
            TemperatureOrder::Last => 1.0,
        },
        match params.top_k {
            0 => f64::MAX,
            top_k => top_k as f64,
        },
        flag(params.top_k == 0),
        // Sums of probabilities may round to a little more than one.
        if params.top_p < 1.0 {
            params.top_p
        } else {
            f64::MAX
        },
        params.min_p,
        flag(kept == vocabulary || (1..=kept).contains(&params.top_k)),
    ]
}

/// Rows' rules, a column each.
struct Rules(Tensor);

impl Rules {
    fn column(&self, at: usize) -> Result<Tensor> {
        self.0.narrow(1, at, 1)?.contiguous()
    }
    fn heat(&self) -> Result<Tensor> {
        self.column(0)
    }
    fn point(&self) -> Result<Tensor> {
        self.column(1)
    }
    fn cut_heat(&self) -> Result<Tensor> {
        self.column(2)
    }
    fn top_k(&self) -> Result<Tensor> {
        self.column(3)
    }
    fn of_all(&self) -> Result<Tensor> {
        self.column(4)
    }
    fn top_p(&self) -> Result<Tensor> {
        self.column(5)
    }
    fn min_p(&self) -> Result<Tensor> {
        self.column(6)
    }
    fn exhausts(&self) -> Result<Tensor> {
        self.column(7)
    }
}

fn candidates(vocabulary: usize) -> usize {
    CANDIDATES.min(vocabulary)
}

/// A comparison's outcome as 0 and 1.
fn count(outcome: Tensor) -> Result<Tensor> {
    outcome.to_dtype(DType::F64)
}

/// Tokens, and whether they are decided: rows × 1 both.
type Found = (Tensor, Tensor);

impl Drawer {
    /// Constants for a vocabulary; none if the host must draw from it.
    pub(super) fn new(vocabulary: usize, link: &Link) -> Result<Option<Self>> {
        if vocabulary > VOCABULARY_MAX {
            return Ok(None);
        }
        let triangle = |len: usize| {
            let cell = |at: usize| f64::from(u8::from(at / len < at % len));
            link.up::<f64>((0..len * len).map(cell).collect(), (len, len))
        };
        let kept = candidates(vocabulary);
        // A sort takes two rows of candidates and leaves one: it needs a power of two of such pairs.
        let pair = 2 * CANDIDATES;
        let sorted = match vocabulary <= pair {
            true => vocabulary,
            false => vocabulary.div_ceil(pair).next_power_of_two() * pair,
        };
        let missing = sorted - vocabulary;
        let nothing = (missing > 0).then(|| link.up(vec![f32::MIN; missing], (1, missing)));
        let falling = (0..vocabulary).map(|id| (vocabulary - id) as f32);
        Ok(Some(Self {
            vocabulary,
            falling: link.up(falling.collect(), (1, vocabulary))?,
            before_shares: triangle(SHARES_SUMMED)?,
            before_sums: triangle(vocabulary.div_ceil(SHARES_SUMMED))?,
            before_candidates: triangle(kept)?,
            ranks: link.up((0..kept).map(|at| at as f64).collect(), (1, kept))?,
            ids: link.up((0..sorted as u32).collect(), (1, sorted))?,
            nothing: nothing.transpose()?,
            candidates: kept,
        }))
    }

    /// Draws from rows of logits what was planned.
    pub(super) fn draw(
        &self,
        link: &Link,
        logits: &Tensor,
        draws: &Draws,
        numbers: &Tensor,
        rules: Option<&Tensor>,
    ) -> Result<DrawnTokens> {
        let _kept = link.parameters_kept();
        let at = |range: &Range<usize>| numbers.narrow(0, range.start, range.len());
        let (mut tokens, mut decided, mut learnt) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, rows, rule) in &draws.kinds {
            let logits = logits.index_select(&at(rows)?, 0)?;
            let finite = finite(&logits)?;
            let (token, drawn) = match (kind, rules) {
                (Kind::Greedy, _) | (_, None) => (self.greedy(&logits)?, finite),
                (kind, Some(rules)) => {
                    let rules = Rules(rules.narrow(0, rule.start, rule.len())?);
                    let (token, drawn) = match kind {
                        Kind::Cut => self.of_likeliest(&logits, &rules, draws.sums_all)?,
                        _ => self.of_all_tokens(&logits, &rules)?,
                    };
                    (token, (drawn * finite)?)
                }
            };
            let token = (token * &drawn)?;
            learnt.push(millibits(&logits, &token)?);
            tokens.push(token);
            decided.push(drawn);
        }
        let (fed, decided) = (Tensor::cat(&tokens, 0)?, Tensor::cat(&decided, 0)?);
        let (order, order_fed) = (at(&draws.order)?, at(&draws.fed)?);
        let left = decided.affine(-f64::from(UNDECIDED), f64::from(UNDECIDED))?;
        let ordered = |numbers: Tensor, order: &Tensor| {
            let numbers = numbers.index_select(order, 0)?.flatten_all()?;
            numbers.to_dtype(DType::U32)
        };
        let learnt = Tensor::cat(&learnt, 0)?;
        let answers = [ordered((&fed + left)?, &order)?, ordered(learnt, &order)?];
        Ok(DrawnTokens {
            answers: Tensor::cat(&answers, 0)?,
            fed: ordered(fed, &order_fed)?,
        })
    }

    /// The largest logit's token, of equals the lowest id.
    fn greedy(&self, logits: &Tensor) -> Result<Tensor> {
        let best = largest(logits)?;
        let is_best = logits.broadcast_eq(&best)?.to_dtype(DType::F32)?;
        let first = is_best.broadcast_mul(&self.falling)?;
        let first = largest(&first)?.to_dtype(DType::F64)?;
        first.affine(-1.0, self.vocabulary as f64)
    }

    /// By temperature alone, tokens in the order of their ids.
    fn of_all_tokens(&self, logits: &Tensor, rules: &Rules) -> Result<Found> {
        let rows = logits.dim(0)?;
        let shares = shares(logits, &rules.heat()?)?;
        let parts = self.vocabulary.div_ceil(SHARES_SUMMED);
        let missing = parts * SHARES_SUMMED - self.vocabulary;
        let shares = match missing {
            0 => shares,
            missing => shares.pad_with_zeros(1, 0, missing)?,
        };
        let shares = shares.reshape((rows, parts, SHARES_SUMMED))?;
        let sums = shares.sum(D::Minus1)?;
        let before = sums.matmul(&self.before_sums)?;
        let goal = (sums.sum_keepdim(1)? * rules.point()?)?;
        let part = last_not_after(&before, &goal)?;
        let left = (goal - before.gather(&part, 1)?)?;
        let places = part
            .unsqueeze(2)?
            .broadcast_as((rows, 1, SHARES_SUMMED))?
            .contiguous()?;
        let shares = shares.gather(&places, 1)?.squeeze(1)?;
        let place = last_not_after(&shares.matmul(&self.before_shares)?, &left)?;
        let drawn = is_positive(&shares.gather(&place, 1)?)?;
        let part = (part.to_dtype(DType::F64)? * SHARES_SUMMED as f64)?;
        Ok(((part + place.to_dtype(DType::F64)?)?, drawn))
    }

    /// By temperature, top-k, top-p and min-p, tokens by falling logit. Undecided where the last candidate may come and
    /// others may follow it.
    fn of_likeliest(&self, logits: &Tensor, rules: &Rules, sums_all: bool) -> Result<Found> {
        let (likeliest, ids) = self.likeliest(logits)?;
        let shares_cut = shares(&likeliest, &rules.cut_heat()?)?;
        let in_top_k = count(self.ranks.broadcast_lt(&rules.top_k()?)?)?;
        let of_top_k = (&shares_cut * &in_top_k)?;
        let mut sum = of_top_k.sum_keepdim(1)?;
        if sums_all {
            let of_all = rules.of_all()?;
            let all = shares(logits, &rules.cut_heat()?)?.sum_keepdim(1)?;
            sum = ((all * &of_all)? + (sum * of_all.affine(-1.0, 1.0)?)?)?;
        }
        let before = of_top_k
            .broadcast_div(&sum)?
            .matmul(&self.before_candidates)?;
        let in_top_p = count(before.broadcast_lt(&rules.top_p()?)?)?;
        let above_min = count(shares_cut.broadcast_ge(&rules.min_p()?)?)?;
        let kept = ((in_top_k * in_top_p)? * above_min)?;
        let number = kept.sum_keepdim(1)?;
        let exhausts = rules.exhausts()?;
        let others_cut = (number.neg()? + self.candidates as f64)?;
        let complete = ((is_positive(&others_cut)? + &exhausts)?).sign()?;

        let shares = (shares(&likeliest, &rules.heat()?)? * kept)?;
        let goal = (shares.sum_keepdim(1)? * rules.point()?)?;
        let place = last_not_after(&shares.matmul(&self.before_candidates)?, &goal)?;
        let drawn = is_positive(&shares.gather(&place, 1)?)?;
        let token = ids.gather(&place, 1)?.to_dtype(DType::F64)?;
        Ok((token, (drawn * complete)?))
    }

    /// The largest logits by falling size, and their tokens: candidates of pairs of rows are sorted together until one row
    /// is left.
    fn likeliest(&self, logits: &Tensor) -> Result<(Tensor, Tensor)> {
        let rows = logits.dim(0)?;
        let padded = match &self.nothing {
            None => logits.clone(),
            Some(nothing) => {
                let nothing = nothing.broadcast_as((rows, nothing.dim(1)?))?;
                Tensor::cat(&[logits, &nothing.contiguous()?], 1)?
            }
        };
        let width = padded.dim(1)?;
        let mut ids = self.ids.broadcast_as((rows, width))?.contiguous()?;
        let mut values = padded;
        let mut together = width.min(2 * CANDIDATES);
        loop {
            let count = values.elem_count() / together;
            values = values.reshape((count, together))?;
            ids = ids.reshape((count, together))?;
            let best = values.arg_sort_last_dim(false)?;
            let best = best.narrow(1, 0, self.candidates)?.contiguous()?;
            values = values.gather(&best, 1)?;
            ids = ids.gather(&best, 1)?;
            if count == rows {
                return Ok((values, ids));
            }
            together = 2 * self.candidates;
        }
    }
}

/// Each row's largest number: rows × 1. Part by part first: one block of a GPU's would work on a row.
fn largest(rows: &Tensor) -> Result<Tensor> {
    in_parts(rows)?.max(D::Minus1)?.max_keepdim(D::Minus1)
}

/// Each row's sum: rows × 1.
fn total(rows: &Tensor) -> Result<Tensor> {
    in_parts(rows)?.sum(D::Minus1)?.sum_keepdim(D::Minus1)
}

/// Rows as rows × parts × what a part has.
fn in_parts(rows: &Tensor) -> Result<Tensor> {
    let (count, columns) = rows.dims2()?;
    let divides = |size: &usize| columns.is_multiple_of(*size);
    let size = (16..=1024).rev().find(divides).unwrap_or(columns);
    rows.reshape((count, columns / size, size))
}

/// The surprise of each row's token under its logits, thousandths of a bit: rows × 1. The host keeps it within bounds: a bound here
/// would be a number to send.
fn millibits(logits: &Tensor, token: &Tensor) -> Result<Tensor> {
    let below = logits.broadcast_sub(&largest(logits)?)?;
    let sum = total(&below.exp()?)?.log()?;
    let own = below.gather(&token.to_dtype(DType::U32)?, 1)?;
    let surprise = ((sum - own)? * (1000.0 / std::f64::consts::LN_2))?;
    surprise.round()?.to_dtype(DType::F64)
}

/// `e` to the logits, the largest one as nothing, times a factor for each row; 64 bits.
fn shares(logits: &Tensor, heat: &Tensor) -> Result<Tensor> {
    let best = largest(logits)?;
    let below = logits.broadcast_sub(&best)?.to_dtype(DType::F64)?;
    below.broadcast_mul(heat)?.exp()
}

/// Which is the last of each row's rising numbers that is not above the row's goal; the first is nothing and never is.
fn last_not_after(rising: &Tensor, goals: &Tensor) -> Result<Tensor> {
    let number = count(rising.broadcast_le(goals)?)?.sum_keepdim(1)?;
    (number - 1.0)?.relu()?.to_dtype(DType::U32)
}

/// Whether numbers are above zero, as 0 and 1.
fn is_positive(numbers: &Tensor) -> Result<Tensor> {
    count(numbers.gt(&numbers.zeros_like()?)?)
}

/// Whether all logits of a row are numbers and finite, as 0 and 1: what is not is not nothing when it is multiplied by it.
fn finite(logits: &Tensor) -> Result<Tensor> {
    let nothing = total(&(logits * 0.0)?)?;
    count(nothing.eq(&nothing)?)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests;
