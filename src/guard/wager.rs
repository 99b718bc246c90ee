//! A sequential test by betting on a sketch's scores. Two bets run side by side, because a crawler may start at once or late:
//! the *opening* bet begins anew every 512 prompts and never in between, and finds a template that is diluted; the *streak* is an
//! e-CUSUM (e-detectors: Shin, Ramdas and Rinaldo, 2022), which finds a pure one wherever it starts.
//!
//! Both are fair, or lost, for an honest person at the ceiling that [`Honest`] states, however prompts depend on each other. What
//! follows from that alone is weak: at most 1 / threshold per opening, and one false alarm in `threshold` prompts of the streak.
//! That honest sessions alarm far less is because most people stay below the ceiling; the thresholds count on it.

use super::sketch::{HEAVY_PROMPTS, Score};

/// Prompts of one opening bet.
const OPENING_PROMPTS: u16 = 512;
/// The crawler that the opening bet is on: the goal's, a template around three quarters of its prompts, hardly one asked twice.
const CRAWLER_TEMPLATED: f64 = 0.75;
const CRAWLER_REPEATED: f64 = 0.01;
/// The most of the stake that one bet of the streak can lose, and what a repeat scores there.
const STAKE: f64 = 0.9;
const REPEATED: f64 = -0.5;

/// Wealth at which the opening bet alarms, and the streak. Set on honest calibration sessions alone: docs/GUARD.md.
pub const OPENING_THRESHOLD: f64 = 16.0;
/// See [`OPENING_THRESHOLD`].
pub const STREAK_THRESHOLD: f64 = 300.0;

/// What honest people do at the most, and at the least. A matter of policy, set by watching, never from attacks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Honest {
    /// The largest share of prompts, not counting repeats, that one person puts into a template of their own.
    pub templated: f64,
    /// The share of prompts that people ask again word for word.
    pub repeated: f64,
}

impl Default for Honest {
    fn default() -> Self {
        Self {
            templated: 0.6,
            repeated: 0.1,
        }
    }
}

/// The assumption leaves nothing to bet on.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WagerError {
    /// The share of templated prompts is none, or a crawler's.
    #[error("the honest share of templated prompts {0} is not between 0.05 and 0.7")]
    Templated(f64),
    /// The share of repeats is none, or not believable.
    #[error("the honest share of repeats {0} is not between 0.02 and 0.5")]
    Repeated(f64),
}

/// Factors of wealth for each score.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Odds {
    templated: f64,
    plain: f64,
    repeated: f64,
}

impl Odds {
    const fn of(self, score: Score) -> f64 {
        match score {
            Score::Templated => self.templated,
            Score::Plain => self.plain,
            Score::Repeated => self.repeated,
            Score::Blank => 1.0,
        }
    }
}

/// One principal's running bets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wager {
    opening_odds: Odds,
    streak_odds: Odds,
    opening: f64,
    streak: f64,
    prompts: u16,
}

impl Default for Wager {
    fn default() -> Self {
        Self::at(Honest::default())
    }
}

impl Wager {
    /// A bet against people who do at most what `honest` says.
    ///
    /// # Errors
    /// [`WagerError`].
    pub fn new(honest: Honest) -> Result<Self, WagerError> {
        if !(0.05..=0.7).contains(&honest.templated) {
            return Err(WagerError::Templated(honest.templated));
        }
        if !(0.02..=0.5).contains(&honest.repeated) {
            return Err(WagerError::Repeated(honest.repeated));
        }
        Ok(Self::at(honest))
    }

    fn at(honest: Honest) -> Self {
        let first = 1.0 - honest.repeated;
        let opening_odds = Odds {
            templated: CRAWLER_TEMPLATED / (first * honest.templated),
            plain: (1.0 - CRAWLER_TEMPLATED - CRAWLER_REPEATED)
                / (first * (1.0 - honest.templated)),
            repeated: CRAWLER_REPEATED / honest.repeated,
        };
        // Repeats are left out of the streak's assumption: the ceiling is its mean.
        let stake = STAKE / (honest.templated - REPEATED);
        let odds = |score: f64| 1.0 + stake * (score - honest.templated);
        let streak_odds = Odds {
            templated: odds(1.0),
            plain: odds(0.0),
            repeated: odds(REPEATED),
        };
        Self {
            opening_odds,
            streak_odds,
            opening: 1.0,
            streak: 1.0,
            prompts: 0,
        }
    }

    /// Goes on with the wealth that a bet at the same ceiling had, `prompts` into its opening. What no bet can have is 1.
    #[must_use]
    pub fn resumed(self, (opening, streak): (f64, f64), prompts: u16) -> Self {
        let sound = |wealth: f64, most: f64| match wealth {
            wealth if (0.0..=most).contains(&wealth) => wealth,
            _ => 1.0,
        };
        Self {
            opening: sound(opening, OPENING_THRESHOLD),
            streak: sound(streak, STREAK_THRESHOLD),
            prompts: prompts.min(OPENING_PROMPTS),
            ..self
        }
    }

    /// Prompts of the present opening.
    #[must_use]
    pub const fn prompts(&self) -> u16 {
        self.prompts
    }

    /// Takes one score. True is an alarm, after which both bets begin anew.
    pub fn observe(&mut self, score: Score) -> bool {
        if score == Score::Blank {
            return false;
        }
        if self.prompts >= OPENING_PROMPTS {
            (self.opening, self.prompts) = (self.again(), 0);
        }
        self.prompts = self.prompts.saturating_add(1);
        self.opening *= self.opening_odds.of(score);
        self.streak = self.streak.max(1.0) * self.streak_odds.of(score);
        let alarm = self.evidence() >= 1.0;
        if alarm {
            (self.opening, self.streak, self.prompts) = (self.again(), 1.0, 0);
        }
        alarm
    }

    /// What an opening that begins anew has. A first one loses its first bets on a template, because nobody knows it yet, and the
    /// threshold counts on that; this one begins where those would have left it.
    fn again(&self) -> f64 {
        (self.opening_odds.plain / self.opening_odds.templated).powi(HEAVY_PROMPTS.into())
    }

    /// How near the stronger bet is to an alarm: 1 is one.
    #[must_use]
    pub fn evidence(&self) -> f64 {
        (self.opening / OPENING_THRESHOLD).max(self.streak / STREAK_THRESHOLD)
    }

    /// The wealth of the opening bet and of the streak.
    #[must_use]
    pub const fn wealth(&self) -> (f64, f64) {
        (self.opening, self.streak)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(scores: &[Score]) -> (f64, f64) {
        let mut wager = Wager::default();
        for score in scores {
            assert!(!wager.observe(*score));
        }
        wager.wealth()
    }

    #[test]
    fn a_pure_template_alarms_wherever_it_starts_and_blanks_do_not_count() {
        for plain_before in [0, 100] {
            let mut wager = Wager::default();
            for _ in 0..plain_before {
                assert!(!wager.observe(Score::Plain));
            }
            let mut prompts = 1;
            while !wager.observe(Score::Templated) {
                let before = wager.wealth();
                assert!(!wager.observe(Score::Blank));
                assert_eq!(wager.wealth(), before);
                prompts += 1;
            }
            assert!(prompts <= 21, "{prompts} after {plain_before}");
            assert_eq!(wager.wealth(), (wager.again(), 1.0));
        }
    }

    #[test]
    fn an_opening_forgets_only_at_its_end() {
        let mut wager = Wager::default();
        for _ in 0..OPENING_PROMPTS {
            wager.observe(Score::Plain);
        }
        assert!(wager.wealth().0 < 1e-50, "{}", wager.wealth().0);
        wager.observe(Score::Templated);
        let begun = wager.wealth().0;
        assert!(
            begun > wager.again() && wager.again() > 0.1,
            "the next opening has begun: {begun}"
        );
        // As if the template had been unknown: three of its prompts were plain.
        let mut first = Wager::default();
        for score in [[Score::Plain; 3].as_slice(), &[Score::Templated; 4]].concat() {
            first.observe(score);
        }
        let again = wager.again() * first.opening_odds.templated.powi(7);
        assert!((first.wealth().0 - again).abs() < 1e-12);
    }

    #[test]
    fn both_bets_are_fair_at_the_stated_ceiling_and_a_repeat_loses_nine_tenths() {
        let (templated, plain) = (after(&[Score::Templated]), after(&[Score::Plain]));
        let repeated = after(&[Score::Repeated]);
        let opening = 0.54 * templated.0 + 0.36 * plain.0 + 0.1 * repeated.0;
        assert!((opening - 1.0).abs() < 1e-12, "{opening}");
        let streak = 0.6 * templated.1 + 0.4 * plain.1;
        assert!((streak - 1.0).abs() < 1e-12, "{streak}");
        assert!((repeated.0 - 0.1).abs() < 1e-12 && (repeated.1 - 0.1).abs() < 1e-12);
    }

    #[test]
    fn a_bet_goes_on_where_it_was_and_takes_no_nonsense() {
        let mut wager = Wager::default();
        for _ in 0..5 {
            wager.observe(Score::Templated);
        }
        let mut resumed = Wager::default().resumed(wager.wealth(), wager.prompts());
        assert_eq!(resumed, wager);
        assert!(!resumed.observe(Score::Templated));
        let nonsense = Wager::default().resumed((f64::NAN, f64::INFINITY), u16::MAX);
        assert_eq!(nonsense.wealth(), (1.0, 1.0));
        assert_eq!(nonsense.prompts(), OPENING_PROMPTS);
    }

    #[test]
    fn assumptions_that_leave_no_bet_are_refused() {
        let honest = Honest::default();
        for templated in [0.0, 0.75, 1.0, f64::NAN, f64::INFINITY] {
            let refused = Wager::new(Honest {
                templated,
                ..honest
            });
            assert!(matches!(refused, Err(WagerError::Templated(_))));
        }
        for repeated in [0.0, -1.0, 0.6, f64::NAN] {
            let refused = Wager::new(Honest { repeated, ..honest });
            assert!(matches!(refused, Err(WagerError::Repeated(_))));
        }
        assert_eq!(Wager::new(honest), Ok(Wager::default()));
    }
}
