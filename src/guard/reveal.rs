//! Which options a request may have, and how much is told of probabilities (GUARD section 1.1).
//!
//! The oracle is any option by which a caller chooses which entry of the logits is seen. So values come from the raw likeliest
//! tokens alone, fewer than a quarter of the model's width, and options that would choose among entries stand in no request
//! together with options that show or freeze them.

use casemate_models::engine::{LOGPROBS_MAX, Reveal, SamplingParams};

use crate::policy::{OutputRules, Together};

/// What of a request decides about it here.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// How tokens are drawn.
    pub sampling: &'a SamplingParams,
    /// Of how many of the likeliest tokens values are asked for.
    pub logprobs: Option<usize>,
    /// Whether there is a seed.
    pub seeded: bool,
    /// Whether the answer is to have a shape.
    pub shaped: bool,
}

/// An option that is not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Withheld {
    /// A temperature at which improbable tokens are drawn, one after the other.
    Temperature {
        /// The highest one, in hundredths.
        percent_max: u32,
    },
    /// More of the likeliest tokens than may be known.
    Logprobs {
        /// How many may.
        max: usize,
    },
    /// `repetition_penalty` or `dry_multiplier`, which policy does not grant.
    Penalty {
        /// Which.
        param: &'static str,
    },
    /// Two options that do not go together.
    Together {
        /// The one that is refused.
        param: &'static str,
        /// The one that would have to go.
        beside: &'static str,
        /// Whether policy could allow both.
        by_policy: bool,
    },
}

impl Asked<'_> {
    /// What is granted: how much is told of probabilities, if anything was asked for.
    ///
    /// # Errors
    /// [`Withheld`] names the first option that is not granted.
    pub fn granted(&self, rules: &OutputRules, width: usize) -> Result<Option<Reveal>, Withheld> {
        self.refuse_pairs(rules)?;
        let SamplingParams {
            temperature,
            repetition_penalty,
            dry,
            ..
        } = self.sampling;
        let percent_max = rules.temperature_percent_max;
        if temperature * 100.0 > f64::from(percent_max) {
            return Err(Withheld::Temperature { percent_max });
        }
        if !rules.penalties && *repetition_penalty != 1.0 {
            let param = "repetition_penalty";
            return Err(Withheld::Penalty { param });
        }
        if !rules.penalties && dry.multiplier > 0.0 {
            let param = "dry_multiplier";
            return Err(Withheld::Penalty { param });
        }
        let Some(top) = self.logprobs else {
            return Ok(None);
        };
        let max = known_max(rules, width);
        match top <= max {
            true => Ok(Some(Reveal { top, known: max })),
            false => Err(Withheld::Logprobs { max }),
        }
    }

    fn refuse_pairs(&self, rules: &OutputRules) -> Result<(), Withheld> {
        let biased = !self.sampling.logit_bias.is_empty();
        let told = self.logprobs.is_some();
        let may = |both| rules.together.contains(&both);
        let pairs = [
            // A bias lifts an entry of the caller's choosing into view; beside a seed it compares two of them.
            (biased && told, "logit_bias", "logprobs", false, false),
            (biased && self.seeded, "logit_bias", "seed", false, false),
            (
                self.seeded && told,
                "seed",
                "logprobs",
                true,
                may(Together::SeedAndLogprobs),
            ),
            (
                self.shaped && told,
                "response_format",
                "logprobs",
                true,
                may(Together::ShapeAndLogprobs),
            ),
        ];
        let refused = pairs.into_iter().find(|(both, .., may)| *both && !may);
        match refused {
            None => Ok(()),
            Some((_, param, beside, by_policy, _)) => Err(Withheld::Together {
                param,
                beside,
                by_policy,
            }),
        }
    }
}

/// The most of the likeliest tokens that may be known: what policy says, and fewer than a quarter of the model's width. With
/// as many entries in a context as the model is wide, or more, contexts bring more equations than unknowns.
#[must_use]
pub fn known_max(rules: &OutputRules, width: usize) -> usize {
    let policy = usize::try_from(rules.logprobs_max).unwrap_or(0);
    policy.min(LOGPROBS_MAX).min(width.saturating_sub(1) / 4)
}

/// Whether a request changes logits of tokens of the caller's choosing: such a request is never marked, and each of its
/// tokens may tell the caller how two logits compare.
#[must_use]
pub fn shifts(sampling: &SamplingParams) -> bool {
    !sampling.logit_bias.is_empty()
        || sampling.repetition_penalty != 1.0
        || sampling.frequency_penalty != 0.0
        || sampling.presence_penalty != 0.0
        || sampling.dry.multiplier > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 512;

    fn asked(sampling: &SamplingParams) -> Asked<'_> {
        Asked {
            sampling,
            logprobs: None,
            seeded: false,
            shaped: false,
        }
    }

    fn rules(change: impl FnOnce(&mut OutputRules)) -> OutputRules {
        let mut rules = OutputRules::default();
        change(&mut rules);
        rules
    }

    #[test]
    fn fewer_than_a_quarter_of_the_width_are_known_whatever_policy_says() {
        let twenty = rules(|rules| rules.logprobs_max = 20);
        for (width, known) in [
            (512, 20),
            (81, 20),
            (80, 19),
            (64, 15),
            (5, 1),
            (4, 0),
            (0, 0),
        ] {
            assert_eq!(known_max(&twenty, width), known, "{width}");
            assert!(known == 0 || known * 4 < width);
        }
        assert_eq!(known_max(&OutputRules::default(), WIDTH), 5);
        assert_eq!(known_max(&rules(|rules| rules.logprobs_max = 0), WIDTH), 0);
    }

    #[test]
    fn what_is_asked_for_changes_what_is_told_and_not_what_is_known() {
        let plain = SamplingParams::default();
        let ask = |logprobs| Asked {
            logprobs,
            ..asked(&plain)
        };
        let granted = |logprobs| ask(logprobs).granted(&OutputRules::default(), WIDTH);
        assert_eq!(granted(None), Ok(None));
        for top in [0, 5] {
            assert_eq!(granted(Some(top)), Ok(Some(Reveal { top, known: 5 })));
        }
        assert_eq!(granted(Some(6)), Err(Withheld::Logprobs { max: 5 }));
    }

    #[test]
    fn temperature_and_penalties_need_policy() {
        let hot = SamplingParams {
            temperature: 1.51,
            ..SamplingParams::default()
        };
        let strict = OutputRules::default();
        let refused = asked(&hot).granted(&strict, WIDTH);
        assert_eq!(refused, Err(Withheld::Temperature { percent_max: 150 }));
        let warm = rules(|rules| rules.temperature_percent_max = 200);
        assert_eq!(asked(&hot).granted(&warm, WIDTH), Ok(None));
        let at_the_bound = SamplingParams {
            temperature: 1.5,
            ..SamplingParams::default()
        };
        assert_eq!(asked(&at_the_bound).granted(&strict, WIDTH), Ok(None));
        let mut penalised = SamplingParams {
            repetition_penalty: 1.7,
            ..SamplingParams::default()
        };
        for param in ["repetition_penalty", "dry_multiplier"] {
            let refused = asked(&penalised).granted(&strict, WIDTH);
            assert_eq!(refused, Err(Withheld::Penalty { param }));
            let granted = rules(|rules| rules.penalties = true);
            assert_eq!(asked(&penalised).granted(&granted, WIDTH), Ok(None));
            penalised.repetition_penalty = 1.0;
            penalised.dry.multiplier = 0.5;
        }
    }

    #[test]
    fn s16_s18_options_that_make_an_oracle_do_not_stand_together() {
        let biased = SamplingParams {
            logit_bias: vec![(7, 3.0)],
            ..SamplingParams::default()
        };
        let plain = SamplingParams::default();
        let all = rules(|rules| {
            rules.together = [Together::SeedAndLogprobs, Together::ShapeAndLogprobs].into();
        });
        let strict = OutputRules::default();
        let ask = |sampling, logprobs: bool, seeded, shaped| Asked {
            sampling,
            logprobs: logprobs.then_some(1),
            seeded,
            shaped,
        };
        // Beside each: the option that is refused, and whether policy may grant both.
        for (asked, param, by_policy) in [
            (ask(&biased, true, false, false), "logit_bias", false),
            (ask(&biased, false, true, false), "logit_bias", false),
            (ask(&plain, true, true, false), "seed", true),
            (ask(&plain, true, false, true), "response_format", true),
        ] {
            for rules in [&strict, &all] {
                let found = asked.granted(rules, WIDTH);
                if by_policy && rules == &all {
                    assert!(found.is_ok(), "{asked:?}");
                    continue;
                }
                assert!(
                    matches!(found, Err(Withheld::Together { param: named, by_policy: may, .. })
                        if named == param && may == by_policy),
                    "{found:?}"
                );
            }
        }
        assert_eq!(
            ask(&plain, false, true, true).granted(&strict, WIDTH),
            Ok(None)
        );
    }
}
