//! Logits that are divided by a temperature, after the first look at all of them: shares of some (exponentials of logits, the
//! best one's is 1), and bounds of what others have. Nothing is added up exactly.

use std::borrow::Cow;

use casemate_kernels::{Isa, logits};

use super::SamplingError;
use super::given::Given;
use super::looked::{LIKELY, Looked, Others, PART, Wanted};
use super::raw::Raw;
use super::typical::Whole;

/// What each token may have of the whole, as far as one look tells.
pub(super) struct Heated<'a> {
    isa: Isa,
    best: f32,
    heat: f32,
    looked: Looked<'a>,
}

impl<'a> Heated<'a> {
    /// Logits that are divided by `temperature`, which is above 0. What else is `wanted` is asked with what they are multiplied
    /// by.
    ///
    /// # Errors
    /// [`SamplingError::NoFiniteLogit`] where nothing may come.
    pub(super) fn of(
        given: Given<'a>,
        temperature: f64,
        wanted: impl FnOnce(f32) -> Wanted,
    ) -> Result<Self, SamplingError> {
        let heat = (1.0 / temperature) as f32;
        let looked = Looked::at(given, wanted(heat));
        let best = looked.blocks().best();
        Ok(Self {
            isa: Isa::detect(),
            best: best.ok_or(SamplingError::NoFiniteLogit)?,
            heat,
            looked,
        })
    }

    /// The logits.
    pub(super) fn given(&self) -> &Given<'a> {
        &self.looked.blocks().given
    }

    /// The largest logit before any were moved.
    pub(super) fn leads(&self) -> f32 {
        self.looked.leads()
    }

    /// What all tokens have at temperature 1 before any were moved, where their shares have `all` together if that is known.
    pub(super) fn raw_of(&self, all: Option<f64>) -> Raw {
        let same = self.heat == 1.0 && self.given().moved().is_empty();
        match all.filter(|_| same) {
            Some(sum) => Raw {
                best: self.best,
                sum,
            },
            None => self.looked.raw(),
        }
    }

    /// The same where [`Self::at_least`] found `tokens` that have `share`: these are the likeliest, and all or so many that no
    /// other has much, unless a low temperature leaves out what is likely without it, or some were moved.
    pub(super) fn raw_beside(&self, tokens: &[(u32, f32)], share: f32) -> Raw {
        let moved = !self.given().moved().is_empty();
        if moved || -share.ln() < LIKELY * self.heat {
            return self.looked.raw();
        }
        let raw = self.given().raw;
        let logit = |id: u32| raw.get(id as usize).copied();
        let with_logit = |(id, _): &(u32, f32)| (*id, logit(*id).unwrap_or(f32::NEG_INFINITY));
        let known: Vec<(u32, f32)> = tokens.iter().map(with_logit).collect();
        self.looked.raw_beside(&known)
    }

    /// What all tokens but these have together; nothing where that can't be told.
    pub(super) fn others(&self, tokens: &[(u32, f32)]) -> Option<Others> {
        let known: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
        self.looked.others(self.best, &known)
    }

    /// Tokens with at least this share, and their shares, by their ids; where they are more than twice `count`, so many likeliest
    /// ones.
    pub(super) fn at_least(&self, share: f32, count: usize) -> Vec<(u32, f32)> {
        // A hair deeper, since the exponential decides.
        let floor = self.floor(1e-3 - share.ln());
        let mut found = self.looked.blocks().reaching(floor, count);
        if found.len() > 2 * count {
            keep_first(&mut found, count);
        }
        let shares = self.of_these(found.iter().map(|(_, logit)| *logit).collect());
        for ((_, found), share) in found.iter_mut().zip(shares) {
            *found = share;
        }
        found.retain(|(_, found)| *found >= share);
        found
    }

    /// Tokens whose logits are at most `depth` natural logarithms below the best, after the temperature, and their logits, by
    /// their ids.
    pub(super) fn within(&self, depth: f32) -> Vec<(u32, f32)> {
        self.looked.blocks().all_from(self.floor(depth))
    }

    /// How far a logit is above the best, after the temperature.
    pub(super) fn far(&self, logit: f32) -> f64 {
        (f64::from(logit) - f64::from(self.best)) * f64::from(self.heat)
    }

    fn floor(&self, depth: f32) -> f32 {
        self.best - depth / self.heat
    }

    /// What tokens with these logits have together.
    pub(super) fn sum_of(&self, logits: Vec<f32>) -> f64 {
        self.of_these(logits).into_iter().map(f64::from).sum()
    }

    /// The shares of these logits.
    pub(super) fn of_these(&self, mut logits: Vec<f32>) -> Vec<f32> {
        logits::exponentials(self.isa, &mut logits, self.best, self.heat);
        logits
    }

    /// The logits of a part.
    pub(super) fn part(&self, part: usize) -> Cow<'a, [f32]> {
        self.given().within(part * PART..(part + 1) * PART)
    }

    /// The sums of all shares, in parts.
    pub(super) fn sums(&self) -> Vec<f64> {
        let parts = 0..self.given().raw.len().div_ceil(PART);
        parts
            .map(|part| self.sum_of_part(&self.part(part)))
            .collect()
    }

    /// The sum of all shares, and their mean logit after the temperature, beside the best one's.
    pub(super) fn whole(&self) -> Whole {
        let parts = 0..self.given().raw.len().div_ceil(PART);
        let moments = |part| {
            let part = self.part(part);
            logits::exponential_moments(self.isa, &part, self.best, self.heat).map(f64::from)
        };
        let add = |[sum, first]: [f64; 2], [a, b]: [f64; 2]| [sum + a, first + b];
        let [sum, first] = parts.map(moments).fold([0.0; 2], add);
        let mean = first / sum;
        Whole { sum, mean }
    }

    /// The sum of the shares of a part's logits.
    pub(super) fn sum_of_part(&self, part: &[f32]) -> f64 {
        logits::exponential_sum(self.isa, part, self.best, self.heat).into()
    }
}

/// Keeps the `count` tokens with the largest of more logits, of equals the first, in the order in which all are.
fn keep_first(tokens: &mut Vec<(u32, f32)>, count: usize) {
    let rank = |(id, logit): &(u32, f32)| {
        // Floating point numbers in the order of unsigned ones: of negative ones the bits go the other way.
        let bits = logit.to_bits();
        let mask = (bits as i32 >> 31) as u32 | 1 << 31;
        u64::from(bits ^ mask) << 32 | u64::from(!id)
    };
    let mut ranks: Vec<u64> = tokens.iter().map(rank).collect();
    let last = tokens.len().saturating_sub(count);
    let (_, last, _) = ranks.select_nth_unstable(last);
    // Each is written where the next one goes, and stays if it is kept, which cannot be foreseen.
    let mut kept = 0;
    for at in 0..tokens.len() {
        let token = tokens.get(at).copied().unwrap_or_default();
        if let Some(place) = tokens.get_mut(kept) {
            *place = token;
        }
        kept += usize::from(rank(&token) >= *last);
    }
    tokens.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_are_kept_in_their_order() {
        let logits = [
            -3.0,
            2.5,
            -0.0,
            0.0,
            2.5,
            -1.0e9,
            f32::NEG_INFINITY,
            7.0,
            -0.5,
        ];
        let tokens: Vec<(u32, f32)> = (10..).zip(logits).collect();
        let kept = |count| {
            let mut kept = tokens.clone();
            keep_first(&mut kept, count);
            kept.iter().map(|(id, _)| *id).collect::<Vec<u32>>()
        };
        assert_eq!(kept(1), [17]);
        assert_eq!(kept(2), [11, 17], "of equals the first");
        assert_eq!(kept(3), [11, 14, 17]);
        assert_eq!(kept(6), [11, 12, 13, 14, 17, 18]);
        assert_eq!(kept(9), (10..19).collect::<Vec<u32>>());
    }
}
