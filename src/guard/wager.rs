//! A sequential test by betting: an e-CUSUM on scores. Honest prompts that score no more than a stated mean, given their past,
//! lose the bet on average, however they depend on each other; so an alarm in `n` prompts has at most probability `n * alpha`
//! (e-detectors: Shin, Ramdas and Rinaldo, 2022).

use super::sketch::Score;

/// The most of the stake that one bet can lose.
const STAKE: f64 = 0.9;
/// What a repeat counts.
const REPEATED: f64 = -0.5;

/// The mean score of honest prompts, and the inverse of the threshold.
pub const MEAN_DEFAULT: f64 = 0.45;
/// See [`MEAN_DEFAULT`].
pub const ALPHA_DEFAULT: f64 = 0.001;

/// The settings have no meaning.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WagerError {
    /// The mean is no share.
    #[error("the honest mean score {0} is not between 0.05 and 0.95")]
    Mean(f64),
    /// The threshold is none.
    #[error("alpha {0} is not between 0.000000001 and 0.1")]
    Alpha(f64),
}

/// One principal's running bet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wager {
    mean: f64,
    threshold: f64,
    wealth: f64,
}

impl Default for Wager {
    fn default() -> Self {
        Self {
            mean: MEAN_DEFAULT,
            threshold: ALPHA_DEFAULT.recip(),
            wealth: 1.0,
        }
    }
}

impl Wager {
    /// A bet against honest prompts that score `mean` on average at most. `mean` is a matter of policy, not of fitting.
    ///
    /// # Errors
    /// [`WagerError`].
    pub fn new(mean: f64, alpha: f64) -> Result<Self, WagerError> {
        if !(0.05..=0.95).contains(&mean) {
            return Err(WagerError::Mean(mean));
        }
        if !(1e-9..=0.1).contains(&alpha) {
            return Err(WagerError::Alpha(alpha));
        }
        Ok(Self {
            mean,
            threshold: alpha.recip(),
            wealth: 1.0,
        })
    }

    /// Takes one score. True is an alarm, after which the bet begins anew.
    pub fn observe(&mut self, score: Score) -> bool {
        let score = match score {
            Score::Templated => 1.0,
            Score::Repeated => REPEATED,
            Score::Plain => 0.0,
            Score::Blank => return false,
        };
        let stake = STAKE / (self.mean - REPEATED);
        self.wealth = self.wealth.max(1.0) * (1.0 + stake * (score - self.mean));
        let alarm = self.wealth >= self.threshold;
        if alarm {
            self.wealth = 1.0;
        }
        alarm
    }

    /// The wealth, a measure of evidence: 1 at the start, an alarm at one over alpha.
    #[must_use]
    pub const fn wealth(&self) -> f64 {
        self.wealth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seventeen_templated_prompts_in_a_row_are_an_alarm_and_a_blank_is_no_evidence() {
        let mut wager = Wager::default();
        let mut prompts = 1;
        while !wager.observe(Score::Templated) {
            let before = wager.wealth();
            assert!(!wager.observe(Score::Blank));
            assert_eq!(wager.wealth().to_bits(), before.to_bits());
            prompts += 1;
        }
        assert_eq!(prompts, 17, "1.52^17 is the first power above 1000");
        assert_eq!(wager.wealth().to_bits(), 1.0_f64.to_bits());
    }

    #[test]
    fn the_bet_is_fair_at_the_stated_mean_and_lost_below_it() {
        for mean in [0.05, 0.45, 0.95] {
            let after = |score| {
                let mut wager = Wager::new(mean, 1e-9).unwrap();
                wager.observe(score);
                wager.wealth()
            };
            let expected = mean * after(Score::Templated) + (1.0 - mean) * after(Score::Plain);
            assert!((expected - 1.0).abs() < 1e-12, "{expected} at {mean}");
            assert!((after(Score::Repeated) - 0.1).abs() < 1e-12);
        }
    }

    #[test]
    fn settings_without_meaning_are_refused() {
        for mean in [0.0, 1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(Wager::new(mean, 0.001), Err(WagerError::Mean(_))));
        }
        for alpha in [0.0, -1.0, 0.2, f64::NAN] {
            assert!(matches!(Wager::new(0.45, alpha), Err(WagerError::Alpha(_))));
        }
    }
}
