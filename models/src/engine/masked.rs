//! What a grammar leaves of logits, and a draw from it.

use super::sampler::{self, Outcome, Past, Raw, SamplingError, SamplingParams};
use crate::grammar::{Follows, Stuck};

/// A grammar that leaves more tokens than this, the model's own likeliest among them, asks no question: it leaves text.
pub const FEW_MAX: usize = 1024;

/// Logits of tokens that may follow.
#[derive(Debug, Clone, PartialEq)]
pub enum Masked {
    /// Few may: ids in their order, with finite logits.
    Few {
        /// These.
        tokens: Vec<(u32, f32)>,
        /// How many tokens there are.
        vocabulary_len: usize,
    },
    /// Many may.
    Many {
        /// Of all tokens; those that may not follow are at minus infinity.
        logits: Vec<f32>,
        /// How many may.
        left: usize,
        /// What all tokens have, if somebody asked.
        raw: Option<Raw>,
    },
}

impl Masked {
    /// What `follows` leaves of logits; what all of them have is `told` if somebody asks and many may follow.
    ///
    /// # Errors
    /// [`Stuck`]: few may follow, and none of them has a finite logit.
    pub fn of(raw: &[f32], follows: &Follows, told: bool) -> Result<Self, Stuck> {
        let left = follows.count();
        if left > FEW_MAX {
            let (logits, raw) = sampler::masked(raw, follows.words(), told);
            return Ok(Self::Many { logits, left, raw });
        }
        let logit = |id: u32| raw.get(usize::try_from(id).ok()?).copied();
        let finite = |id| Some((id, logit(id).filter(|logit| logit.is_finite())?));
        let tokens: Vec<(u32, f32)> = follows.ids().filter_map(finite).collect();
        let vocabulary_len = raw.len();
        match tokens.is_empty() {
            true => Err(Stuck),
            false => Ok(Self::Few {
                tokens,
                vocabulary_len,
            }),
        }
    }

    /// Draws one of them at `point`, a random number from 0 to below 1.
    ///
    /// # Errors
    /// As [`sampler::draw`].
    pub fn draw(
        &self,
        params: &SamplingParams,
        past: Past<'_>,
        point: f64,
    ) -> Result<Outcome, SamplingError> {
        match self {
            Self::Few {
                tokens,
                vocabulary_len,
            } => sampler::draw_few(tokens, *vocabulary_len, params, past, point),
            Self::Many { logits, .. } => sampler::draw_outcome(logits, params, past, point, false),
        }
    }

    /// The logit of a token that may follow.
    pub(super) fn logit(&self, token: u32) -> Option<f32> {
        match self {
            Self::Few { tokens, .. } => {
                let at = tokens.binary_search_by_key(&token, |(id, _)| *id).ok()?;
                tokens.get(at).map(|(_, logit)| *logit)
            }
            Self::Many { logits, .. } => logits.get(usize::try_from(token).ok()?).copied(),
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests {
    use super::*;

    const LEN: usize = 5_000;

    fn logits() -> Vec<f32> {
        let logit = |at: u32| match at % 997 {
            13 => f32::NEG_INFINITY,
            14 => f32::NAN,
            _ => (at.wrapping_mul(2_654_435_761) >> 16) as f32 / 8_192.0,
        };
        (0..LEN as u32).map(logit).collect()
    }

    /// Those that `keep` says, and some behind the vocabulary.
    fn follows(keep: impl Fn(usize) -> bool) -> Follows {
        let mut words = vec![0_u32; LEN / 32 + 3];
        for at in (0..words.len() * 32).filter(|at| keep(*at)) {
            words[at / 32] |= 1 << (at % 32);
        }
        Follows::of_words(words)
    }

    /// The definition: all others are at minus infinity.
    fn naive(keep: impl Fn(usize) -> bool) -> Vec<f32> {
        let left = logits().into_iter().enumerate();
        let left = left.map(|(at, logit)| match keep(at) {
            true => logit,
            false => f32::NEG_INFINITY,
        });
        left.collect()
    }

    fn every() -> impl Iterator<Item = SamplingParams> {
        let params = |temperature| SamplingParams {
            temperature,
            ..SamplingParams::default()
        };
        [0.0, 0.7, 1.0].into_iter().flat_map(move |heat| {
            let mut all = vec![params(heat); 4];
            all[1].top_p = 0.9;
            all[2].logit_bias = vec![(40, 9.0), (41, 9.0), (4_999, 1.0)];
            all[3].presence_penalty = 3.0;
            all
        })
    }

    #[test]
    fn whatever_a_grammar_leaves_is_drawn_as_if_the_rest_were_not() {
        let tokens = [80, 120, 3_000, 3_000, 4_000];
        let breaks = &[];
        let past = Past {
            tokens: &tokens,
            breaks,
        };
        let keeps: [&dyn Fn(usize) -> bool; 3] =
            [&|at| at % 40 == 0, &|at| at % 40 != 0, &|at| at > 4_990];
        for (keep, params) in keeps
            .iter()
            .flat_map(|keep| every().map(move |it| (keep, it)))
        {
            let left = naive(keep);
            let masked = Masked::of(&logits(), &follows(keep), true).unwrap();
            let exact = sampler::Distribution::new(&left, &params, past).unwrap();
            let mut drawn = 0.0;
            let mut seen = Vec::new();
            for at in 0..200 {
                let point = (f64::from(at) + 0.5) / 200.0;
                let outcome = masked.draw(&params, past, point).unwrap();
                let own = exact.tokens.iter().find(|(id, _)| *id == outcome.token);
                let off = outcome.probability.unwrap() - own.unwrap().1;
                assert!(off.abs() < 1e-5, "{params:?}: {off}");
                let leads = left.iter().copied().filter(|logit| logit.is_finite());
                assert_eq!(Some(outcome.leads), leads.reduce(f32::max));
                if !seen.contains(&outcome.token) {
                    drawn += own.unwrap().1;
                    seen.push(outcome.token);
                }
            }
            assert!(drawn > 0.02, "{params:?}");
            for token in 0..LEN as u32 + 40 {
                let logit = left.get(token as usize).filter(|logit| logit.is_finite());
                let found = masked.logit(token).filter(|logit| logit.is_finite());
                assert_eq!(found, logit.copied());
            }
        }
    }

    #[test]
    fn what_all_have_is_told_where_many_may_follow() {
        let raw = logits();
        let follows = follows(|at| at % 40 != 0);
        let Masked::Many {
            left, raw: told, ..
        } = Masked::of(&raw, &follows, true).unwrap()
        else {
            panic!("these are many");
        };
        assert_eq!(left, follows.count());
        let told = told.unwrap();
        let alone = Raw::of(&raw);
        assert_eq!(told.best(), alone.best());
        let off = told.probability(1.0) / alone.probability(1.0) - 1.0;
        assert!(off.abs() < 1e-3, "{off}");
        let untold = Masked::of(&raw, &follows, false).unwrap();
        assert!(matches!(untold, Masked::Many { raw: None, .. }));
        // Where the first few say nothing of the others, these are looked at once more.
        let mut odd = raw.clone();
        odd[..300].fill(f32::NEG_INFINITY);
        let Masked::Many { raw: told, .. } = Masked::of(&odd, &follows, true).unwrap() else {
            panic!("these are many");
        };
        let off = told.unwrap().probability(1.0) / Raw::of(&odd).probability(1.0) - 1.0;
        assert!(off.abs() < 1e-3, "{off}");
    }

    #[test]
    fn where_nothing_that_may_follow_has_a_logit_a_grammar_is_stuck() {
        let raw = logits();
        for keep in [13, 14, LEN, LEN + 3] {
            let stuck = Masked::of(&raw, &follows(|at| at == keep), true);
            assert_eq!(stuck, Err(Stuck));
        }
        let unknown = SamplingParams {
            logit_bias: vec![(LEN as u32, 1.0)],
            ..SamplingParams::default()
        };
        for keep in [40, 1] {
            let masked = Masked::of(&raw, &follows(|at| at % keep == 0), true).unwrap();
            let refused = masked.draw(&unknown, Past::default(), 0.5);
            assert_eq!(refused, Err(SamplingError::UnknownToken));
        }
    }
}
