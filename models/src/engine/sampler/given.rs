//! Logits as a draw takes them: those that it was given, of which biases and penalties have moved some. These are few beside a
//! vocabulary, so that nothing is copied for them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::{Past, SamplingError, SamplingParams, Shifts};

/// The logits of a draw.
#[derive(Clone)]
pub(super) struct Given<'a> {
    /// As the model has them, or what a grammar left of them.
    pub(super) raw: &'a [f32],
    /// Ids and logits of tokens that were moved, by their ids.
    moved: Vec<(u32, f64)>,
}

impl<'a> Given<'a> {
    /// With what `params` move behind `past`.
    ///
    /// # Errors
    /// [`SamplingError::UnknownToken`].
    pub(super) fn by(
        raw: &'a [f32],
        params: &SamplingParams,
        past: Past<'_>,
    ) -> Result<(Self, Shifts), SamplingError> {
        if params.leaves_logits() {
            return Ok((Self::untouched(raw), Shifts::default()));
        }
        let logit = |id: u32| raw.get(usize::try_from(id).ok()?).copied();
        let (moved, shifts) = moved_by(logit, params, past)?;
        let mut moved: Vec<(u32, f64)> = moved.into_iter().collect();
        moved.sort_unstable_by_key(|(id, _)| *id);
        Ok((Self { raw, moved }, shifts))
    }

    /// As they are.
    pub(super) fn untouched(raw: &'a [f32]) -> Self {
        let moved = Vec::new();
        Self { raw, moved }
    }

    /// Ids and logits of those that were moved, by their ids.
    pub(super) fn moved(&self) -> &[(u32, f64)] {
        &self.moved
    }

    /// A token's logit.
    pub(super) fn exact(&self, id: u32) -> Option<f64> {
        let raw = self.raw.get(id as usize)?;
        let moved = self.moved.binary_search_by_key(&id, |(id, _)| *id).ok();
        let moved = moved.and_then(|at| self.moved.get(at));
        Some(moved.map_or(f64::from(*raw), |(_, logit)| *logit))
    }

    /// Tokens with finite logits.
    pub(super) fn finite(&self) -> Vec<(u32, f64)> {
        let mut all: Vec<f64> = self.raw.iter().map(|logit| f64::from(*logit)).collect();
        for (id, logit) in &self.moved {
            if let Some(to) = all.get_mut(*id as usize) {
                *to = *logit;
            }
        }
        let all = (0..).zip(all);
        all.filter(|(_, logit)| logit.is_finite()).collect()
    }

    /// The logits of tokens with ids of this range, as far as there are some.
    pub(super) fn within(&self, range: Range<usize>) -> Cow<'a, [f32]> {
        let end = range.end.min(self.raw.len());
        let raw = self.raw.get(range.start..end).unwrap_or_default();
        let first = self
            .moved
            .partition_point(|(id, _)| (*id as usize) < range.start);
        let moved = self.moved.iter().skip(first);
        let mut moved = moved.take_while(|(id, _)| (*id as usize) < end).peekable();
        if moved.peek().is_none() {
            return Cow::Borrowed(raw);
        }
        let mut logits = raw.to_vec();
        for (id, logit) in moved {
            if let Some(to) = logits.get_mut(*id as usize - range.start) {
                *to = *logit as f32;
            }
        }
        Cow::Owned(logits)
    }

    /// Tokens whose logits are from `floor` on, by their ids, where `found` are those whose logits were before any were moved.
    pub(super) fn corrected(&self, mut found: Vec<(u32, f32)>, floor: f32) -> Vec<(u32, f32)> {
        if self.moved.is_empty() {
            return found;
        }
        let mut moved = self.moved.iter().peekable();
        found.retain(|(id, _)| {
            while moved.next_if(|(other, _)| other < id).is_some() {}
            moved.peek().is_none_or(|(other, _)| other != id)
        });
        let moved = self.moved.iter().map(|(id, logit)| (*id, *logit as f32));
        found.extend(moved.filter(|(_, logit)| logit.is_finite() && *logit >= floor));
        found.sort_unstable_by_key(|(id, _)| *id);
        found
    }
}

/// The logits that biases and penalties move, by the ids of their tokens, and who moved them; `logit` says what each token's is,
/// if there is one.
///
/// # Errors
/// [`SamplingError::UnknownToken`].
pub(super) fn moved_by(
    logit: impl Fn(u32) -> Option<f32>,
    params: &SamplingParams,
    past: Past<'_>,
) -> Result<(HashMap<u32, f64>, Shifts), SamplingError> {
    let mut moved = HashMap::new();
    let mut shifts = Shifts::default();
    if params.leaves_logits() {
        return Ok((moved, shifts));
    }
    // Nothing where there is no such token.
    let mut change = |id: u32, change: &dyn Fn(f64) -> f64| {
        let logit = moved.entry(id).or_insert(f64::from(logit(id)?));
        *logit = change(*logit);
        Some(())
    };
    for (id, bias) in &params.logit_bias {
        change(*id, &|logit| logit + bias).ok_or(SamplingError::UnknownToken)?;
    }
    if params.moves_window() {
        let window = past.tokens.len().saturating_sub(params.penalty_window);
        let mut counts: HashMap<u32, f64> = HashMap::new();
        for id in past.tokens.get(window..).unwrap_or_default() {
            *counts.entry(*id).or_default() += 1.0;
        }
        shifts.tokens.extend(counts.keys());
        shifts.raised = params.repetition_penalty < 1.0
            || params.frequency_penalty < 0.0
            || params.presence_penalty < 0.0;
        for (id, count) in counts {
            let penalty = params.repetition_penalty;
            change(id, &|logit| {
                let logit = match logit > 0.0 {
                    true => logit / penalty,
                    false => logit * penalty,
                };
                logit - (count * params.frequency_penalty + params.presence_penalty)
            });
        }
    }
    for (id, penalty) in params.dry.penalties(past.tokens, past.breaks) {
        if change(id, &|logit| logit - penalty).is_some() {
            shifts.tokens.push(id);
        }
    }
    Ok((moved, shifts))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests {
    use casemate_kernels::{Isa, logits};

    use super::super::Raw;
    use super::super::blocks::Blocks;
    use super::super::dry::DryParams;
    use super::super::looked::{Looked, Wanted, first_token};
    use super::*;

    const TOKENS: [u32; 9] = [7, 300, 301, 2_999, 9, 7, 300, 301, 12_000];

    fn raw() -> Vec<f32> {
        let logit = |at: u32| match at % 997 {
            13 => f32::NEG_INFINITY,
            14 => f32::NAN,
            _ => (at.wrapping_mul(2_654_435_761) >> 16) as f32 / 6_553.6 - 2.0,
        };
        (0..3_000).map(logit).collect()
    }

    fn past() -> Past<'static> {
        let breaks = &[];
        let tokens = &TOKENS;
        Past { tokens, breaks }
    }

    /// Each moves some: a leader down, others up, what is no number, what there is not.
    fn moves() -> Vec<SamplingParams> {
        let leads = (0..).zip(raw()).filter(|(_, logit)| logit.is_finite());
        let (leads, _) = leads.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        let mut all = vec![SamplingParams::default(); 6];
        all[1].logit_bias = vec![(leads, -100.0), (13, 5.0), (14, 5.0), (0, 3.0)];
        all[2].logit_bias = (0..2_000).map(|id| (id, f64::from(id % 7) - 3.0)).collect();
        all[2].logit_bias.push((0, 1.0));
        all[3].frequency_penalty = 0.7;
        all[3].presence_penalty = -40.0;
        all[4].repetition_penalty = 1.3;
        all[4].logit_bias = vec![(7, 40.0)];
        all[5].dry = DryParams {
            multiplier: 3.0,
            ..DryParams::default()
        };
        all[5].penalty_window = 2;
        all[5].presence_penalty = 1.0;
        all
    }

    /// The definition, with all logits in hand.
    fn naive(params: &SamplingParams) -> Vec<f64> {
        let mut all: Vec<f64> = raw().into_iter().map(f64::from).collect();
        for (id, bias) in &params.logit_bias {
            all[*id as usize] += bias;
        }
        let window = TOKENS.len().saturating_sub(params.penalty_window);
        for (id, logit) in (0..).zip(&mut all) {
            let count = TOKENS[window..].iter().filter(|token| **token == id);
            let count = count.count() as f64;
            if count > 0.0 {
                match *logit > 0.0 {
                    true => *logit /= params.repetition_penalty,
                    false => *logit *= params.repetition_penalty,
                }
                *logit -= count * params.frequency_penalty + params.presence_penalty;
            }
            let dry = params.dry.penalties(&TOKENS, &[]);
            *logit -= dry.get(&id).copied().unwrap_or_default();
        }
        all
    }

    fn finite(all: &[f64]) -> Vec<(u32, f64)> {
        let all = (0..).zip(all.iter().copied());
        all.filter(|(_, logit)| logit.is_finite()).collect()
    }

    #[test]
    fn what_is_moved_is_where_the_definition_has_it() {
        let raw = raw();
        for params in moves() {
            let (given, shifts) = Given::by(&raw, &params, past()).unwrap();
            let all = naive(&params);
            assert_eq!(given.finite(), finite(&all), "{params:?}");
            for (id, logit) in (0..).zip(&all).filter(|(_, logit)| logit.is_finite()) {
                assert_eq!(given.exact(id), Some(*logit), "{params:?}");
            }
            assert_eq!(given.exact(3_000), None);
            for range in [0..64, 2_944..3_008, 100..2_000, 3_000..3_064, 5_000..6_000] {
                let end = range.end.min(all.len());
                let expected = all.get(range.start..end).unwrap_or_default();
                let within = given.within(range);
                assert_eq!(within.len(), expected.len());
                for (logit, expected) in within.iter().zip(expected) {
                    let expected = *expected as f32;
                    assert!(*logit == expected || logit.is_nan() && expected.is_nan());
                }
            }
            let raised = params.presence_penalty < 0.0 || params.frequency_penalty < 0.0;
            assert_eq!(shifts.raised, raised);
        }
        let unknown = SamplingParams {
            logit_bias: vec![(3_000, 1.0)],
            ..SamplingParams::default()
        };
        let refused = Given::by(&raw, &unknown, past()).err();
        assert_eq!(refused, Some(SamplingError::UnknownToken));
    }

    #[test]
    fn what_reaches_a_floor_is_found_where_some_were_moved() {
        let raw = raw();
        let isa = Isa::detect();
        for params in moves() {
            let (given, _) = Given::by(&raw, &params, past()).unwrap();
            let all = finite(&naive(&params));
            let blocks = Blocks::of(isa, given, logits::maxima(isa, &raw));
            let best = all.iter().map(|(_, logit)| *logit as f32);
            let best = best.reduce(f32::max).unwrap();
            assert_eq!(blocks.best(), Some(best), "{params:?}");
            for floor in [f32::NEG_INFINITY, -5.0, 3.0, best - 1.0, best] {
                let in_32 = all.iter().map(|(id, logit)| (*id, *logit as f32));
                let expected: Vec<_> = in_32.filter(|(_, logit)| *logit >= floor).collect();
                assert_eq!(blocks.all_from(floor), expected, "{params:?}, {floor}");
                let some = blocks.reaching(floor, 12);
                let mut by_rank = expected.clone();
                by_rank.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                let first = by_rank.iter().take(12);
                assert!(
                    first.clone().all(|token| some.contains(token)),
                    "{params:?}"
                );
            }
        }
    }

    #[test]
    fn the_first_token_is_that_of_moved_logits_and_what_is_told_that_of_the_others() {
        let raw = raw();
        let told = |raw: Option<Raw>| {
            let raw = raw.unwrap();
            (raw.best(), raw.probability(3.0))
        };
        let (_, leads, of_raw) = first_token(Given::untouched(&raw), true).unwrap();
        for params in moves() {
            let (given, _) = Given::by(&raw, &params, past()).unwrap();
            let all = finite(&naive(&params));
            let order = |a: &&(u32, f64), b: &&(u32, f64)| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0));
            let (best, _) = all.iter().max_by(order).unwrap();
            let (first, its_leads, its_raw) = first_token(given, true).unwrap();
            assert_eq!((first, its_leads), (*best, leads), "{params:?}");
            assert_eq!(told(its_raw), told(of_raw), "{params:?}");
        }
        // Equal in 32 bits, and not in 64.
        let equals = [1.0_f32, 1.0, 1.0];
        let nearly = SamplingParams {
            logit_bias: vec![(1, 1e-12)],
            ..SamplingParams::default()
        };
        let (given, _) = Given::by(&equals, &nearly, past()).unwrap();
        assert_eq!(first_token(given, false).unwrap().0, 1);
    }

    #[test]
    fn what_others_have_is_bounded_where_some_were_moved() {
        let raw = raw();
        for params in moves() {
            let (given, _) = Given::by(&raw, &params, past()).unwrap();
            let all = finite(&naive(&params));
            for heat in [1.0_f32, 0.5, 2.0] {
                let wanted = Wanted {
                    raw: true,
                    heat: Some(heat),
                };
                let looked = Looked::at(given.clone(), wanted);
                let best = looked.blocks().best().unwrap();
                let found = looked.blocks().reaching(best - 4.0, 32);
                let known: Vec<u32> = found.iter().map(|(id, _)| *id).collect();
                let share = |logit: f64| ((logit - f64::from(best)) * f64::from(heat)).exp();
                let others = all.iter().filter(|(id, _)| !known.contains(id));
                let exact: f64 = others.map(|(_, logit)| share(*logit)).sum();
                let case = format!("{params:?}, {heat}: {exact}");
                let bound = looked.others(best, &known).unwrap();
                assert!(exact <= bound.at_most(), "{case}");
                let these: f64 = found.iter().map(|(_, logit)| share((*logit).into())).sum();
                // Where the leader was taken away, it is not known.
                if let Some(nearly) = bound.nearly(these / 1e3) {
                    let off = (nearly - exact).abs();
                    assert!(off <= 0.04 * exact + these / 1e3, "{case} {nearly}");
                }
            }
        }
    }
}
