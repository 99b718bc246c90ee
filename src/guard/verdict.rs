//! What follows from evidence: which principals to look at (e-BH), what to call it, and a ladder of steps that is climbed one
//! at a time and left again. Pure state: whoever applies a step writes its audit record. No step gives a false answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an alarm is called. Both are questions to a person, not findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// One principal sends a template that nobody declared: a pipeline, or a crawler; wording cannot tell.
    UndeclaredWorkload,
    /// Many principals send the same undeclared template.
    SharedTemplate,
}

impl Reason {
    /// The code of audit records.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::UndeclaredWorkload => "undeclared-workload",
            Self::SharedTemplate => "shared-template",
        }
    }
}

/// Measures against one principal, in this order. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// Nothing.
    Open,
    /// Log-probabilities, bias, prefill, seeds and long outputs are withheld.
    OptionsWithheld,
    /// Reasoning is withheld too.
    ReasoningWithheld,
    /// Answers come slower, contexts are smaller.
    Slowed,
    /// A fresh attestation of the client, a hardware key or a second person is asked for.
    SteppedUp,
    /// Closed; the officer is told.
    Closed,
}

const STEPS: [Step; 6] = [
    Step::Open,
    Step::OptionsWithheld,
    Step::ReasoningWithheld,
    Step::Slowed,
    Step::SteppedUp,
    Step::Closed,
];

impl Step {
    /// The word of policies, audit records and reports.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::OptionsWithheld => "options_withheld",
            Self::ReasoningWithheld => "reasoning_withheld",
            Self::Slowed => "slowed",
            Self::SteppedUp => "stepped_up",
            Self::Closed => "closed",
        }
    }

    /// The step of a word.
    #[must_use]
    pub fn of_code(code: &str) -> Option<Self> {
        STEPS.into_iter().find(|step| step.code() == code)
    }

    fn up(self) -> Self {
        let above = STEPS.into_iter().find(|step| *step > self);
        above.unwrap_or(Self::Closed)
    }

    fn down(self) -> Self {
        let below = STEPS.into_iter().rev().find(|step| *step < self);
        below.unwrap_or(Self::Open)
    }
}

/// How fast the ladder is climbed, and how slowly left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Prompts between an alarm and its step, at most: the true number is drawn, so that thresholds cannot be probed.
    pub delay_prompts_max: u16,
    /// Time without an alarm after which one step is taken back.
    pub quiet: Duration,
    /// The highest step that is taken without a person.
    pub highest: Step,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            delay_prompts_max: 16,
            quiet: Duration::from_hours(7 * 24),
            highest: Step::Slowed,
        }
    }
}

/// A change of step: what an audit record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: Step,
    /// From now on.
    pub to: Step,
    /// The alarm behind it; none when the step was taken back.
    pub reason: Option<Reason>,
}

/// Where one principal stands. Times are seconds; a clock that goes back takes nothing back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ladder {
    step: Step,
    pending: Option<(Reason, u16)>,
    quiet_since: u64,
}

impl Ladder {
    /// At the bottom. After lost state, [`Self::recovered`].
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self {
            step: Step::Open,
            pending: None,
            quiet_since: now,
        }
    }

    /// One step up from where the principal stood last, because its evidence is lost: a rollback must not pay.
    #[must_use]
    pub fn recovered(last: Step, pace: &Pace, now: u64) -> Self {
        Self {
            step: last.up().min(pace.highest.max(last)),
            pending: None,
            quiet_since: now,
        }
    }

    /// Where the principal stood when its evidence was put aside, with the time since which it is quiet.
    #[must_use]
    pub const fn resumed(step: Step, quiet_since: u64) -> Self {
        Self {
            step,
            pending: None,
            quiet_since,
        }
    }

    /// Since when there was no alarm and no step.
    #[must_use]
    pub const fn quiet_since(&self) -> u64 {
        self.quiet_since
    }

    /// What applies now.
    #[must_use]
    pub const fn step(&self) -> Step {
        self.step
    }

    /// Takes an alarm. `chance` is fresh randomness; the step follows some prompts later. While one is pending, another alarm
    /// only makes the reason graver: a burst of alarms is one step.
    pub fn alarm(&mut self, reason: Reason, chance: u64, pace: &Pace, now: u64) {
        self.quiet_since = self.quiet_since.max(now);
        let graver = |old: Reason| match (old, reason) {
            (Reason::SharedTemplate, _) | (_, Reason::SharedTemplate) => Reason::SharedTemplate,
            _ => reason,
        };
        self.pending = Some(match self.pending {
            Some((old, left)) => (graver(old), left),
            None => {
                let delay = chance % u64::from(pace.delay_prompts_max).saturating_add(1);
                (reason, u16::try_from(delay).unwrap_or(u16::MAX))
            }
        });
    }

    /// Called once per prompt. A step up that is due comes before a step back.
    pub fn prompt(&mut self, pace: &Pace, now: u64) -> Option<Change> {
        match self.pending {
            Some((reason, 0)) => {
                self.pending = None;
                // However long ago the alarm was, a step is there for a whole quiet time.
                self.quiet_since = self.quiet_since.max(now);
                let to = self.step.up().min(pace.highest.max(self.step));
                self.change(to, Some(reason))
            }
            Some((reason, left)) => {
                self.pending = Some((reason, left.saturating_sub(1)));
                None
            }
            None if now.saturating_sub(self.quiet_since) >= pace.quiet.as_secs() => {
                self.quiet_since = now;
                // What a person closed only a person opens.
                (self.step < Step::Closed)
                    .then(|| self.change(self.step.down(), None))
                    .flatten()
            }
            None => None,
        }
    }

    /// A person decides: the way to [`Step::SteppedUp`] and [`Step::Closed`], and the answer to an appeal.
    pub fn decide(&mut self, to: Step, reason: Option<Reason>, now: u64) -> Option<Change> {
        self.pending = None;
        self.quiet_since = self.quiet_since.max(now);
        self.change(to, reason)
    }

    fn change(&mut self, to: Step, reason: Option<Reason>) -> Option<Change> {
        let from = std::mem::replace(&mut self.step, to);
        (from != to).then_some(Change { from, to, reason })
    }
}

/// e-BH (Wang and Ramdas, 2022): which of many e-values to reject so that at most a share `level` of them is wrong on average,
/// however they depend on each other. Values that are no number or negative count as 0. The places of those rejected,
/// strongest first.
///
/// Here an e-value is the wealth of a principal's opening bet, which honest people at the stated ceiling hold at 1 on average.
/// The wealth of a streak is none: it begins again whenever it loses.
#[must_use]
pub fn e_bh(e_values: &[f64], level: f64) -> Vec<usize> {
    let sound = |value: f64| if value > 0.0 { value } else { 0.0 };
    let mut order: Vec<(f64, usize)> = e_values
        .iter()
        .map(|value| sound(*value))
        .zip(0..)
        .collect();
    order.sort_by(|one, other| other.0.total_cmp(&one.0));
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of principals are far below 2^52"
    )]
    let passes = |(rank, value): (usize, f64)| value * level * rank as f64 >= e_values.len() as f64;
    let ranks = (1..).zip(order.iter().map(|(value, _)| *value));
    let kept = ranks
        .filter(|one| passes(*one))
        .map(|(rank, _)| rank)
        .last();
    let kept = order.into_iter().take(kept.unwrap_or(0));
    kept.map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        delay_prompts_max: 4,
        quiet: Duration::from_secs(100),
        highest: Step::Slowed,
    };

    fn prompts(ladder: &mut Ladder, count: usize, now: u64) -> Vec<Change> {
        let change = |_| ladder.prompt(&PACE, now);
        (0..count).filter_map(change).collect()
    }

    #[test]
    fn an_alarm_is_one_step_after_as_many_prompts_as_chance_says() {
        for chance in 0..5 {
            let mut ladder = Ladder::new(0);
            ladder.alarm(Reason::UndeclaredWorkload, chance, &PACE, 0);
            ladder.alarm(Reason::SharedTemplate, 0, &PACE, 0);
            ladder.alarm(Reason::UndeclaredWorkload, 0, &PACE, 0);
            let delay = usize::try_from(chance).unwrap();
            assert_eq!(prompts(&mut ladder, delay, 0), []);
            let change = Change {
                from: Step::Open,
                to: Step::OptionsWithheld,
                reason: Some(Reason::SharedTemplate),
            };
            assert_eq!(prompts(&mut ladder, 50, 0), [change]);
        }
    }

    #[test]
    fn alone_it_climbs_to_its_highest_step_and_quiet_leads_down_one_by_one() {
        let mut ladder = Ladder::new(0);
        for _ in 0..9 {
            ladder.alarm(Reason::UndeclaredWorkload, 0, &PACE, 10);
            prompts(&mut ladder, 1, 10);
        }
        assert_eq!(ladder.step(), Step::Slowed);
        assert_eq!(
            prompts(&mut ladder, 9, 109),
            [],
            "not quiet for long enough"
        );
        assert_eq!(prompts(&mut ladder, 9, 5), [], "a clock that went back");
        for (now, step) in [
            (110, Step::ReasoningWithheld),
            (210, Step::OptionsWithheld),
            (310, Step::Open),
        ] {
            let back = prompts(&mut ladder, 9, now);
            assert_eq!(back.len(), 1, "one step for each quiet time");
            assert_eq!((ladder.step(), back[0].reason), (step, None));
        }
        assert_eq!(prompts(&mut ladder, 9, 9999), []);
    }

    #[test]
    fn an_alarm_and_a_step_start_the_quiet_time_anew() {
        let mut ladder = Ladder::new(0);
        ladder.alarm(Reason::UndeclaredWorkload, 0, &PACE, 0);
        prompts(&mut ladder, 1, 0);
        ladder.alarm(Reason::UndeclaredWorkload, 0, &PACE, 99);
        assert_eq!(prompts(&mut ladder, 5, 150).len(), 1, "the second step up");
        assert_eq!(prompts(&mut ladder, 5, 249), [], "since the step itself");
        assert_eq!(ladder.step(), Step::ReasoningWithheld);
        assert_eq!(prompts(&mut ladder, 5, 250).len(), 1);
    }

    #[test]
    fn only_a_person_closes_and_opens_again() {
        let mut ladder = Ladder::new(0);
        let closed = ladder.decide(Step::Closed, Some(Reason::SharedTemplate), 0);
        assert_eq!(closed.unwrap().to, Step::Closed);
        ladder.alarm(Reason::SharedTemplate, 0, &PACE, 0);
        assert_eq!(prompts(&mut ladder, 9, 100_000), [], "neither up nor down");
        assert_eq!(ladder.step(), Step::Closed);
        assert!(ladder.decide(Step::Open, None, 100_000).is_some());
        assert!(ladder.decide(Step::Open, None, 100_000).is_none());
    }

    #[test]
    fn every_step_has_a_word_of_its_own() {
        for step in STEPS {
            assert_eq!(Step::of_code(step.code()), Some(step));
            let written = serde_json::to_value(step).unwrap();
            assert_eq!(written, step.code());
        }
        assert_eq!(Step::of_code("Open"), None);
    }

    #[test]
    fn lost_state_begins_one_step_up_and_no_higher_than_allowed() {
        let from = |last| Ladder::recovered(last, &PACE, 0).step();
        assert_eq!(from(Step::Open), Step::OptionsWithheld);
        assert_eq!(from(Step::Slowed), Step::Slowed);
        assert_eq!(from(Step::Closed), Step::Closed);
    }

    #[test]
    fn e_bh_rejects_what_its_rule_says_and_no_nonsense() {
        assert_eq!(e_bh(&[], 0.1), [0_usize; 0]);
        assert_eq!(e_bh(&[39.0, 1.0, 1.0, 1.0], 0.1), [0; 0], "4 / 0.1 is 40");
        assert_eq!(e_bh(&[1.0, 40.0, 1.0, 1.0], 0.1), [1]);
        assert_eq!(
            e_bh(&[20.0, 1.0, 21.0, 1.0], 0.1),
            [2, 0],
            "two stand together"
        );
        assert_eq!(e_bh(&[f64::NAN, -5.0, f64::INFINITY, 0.0], 0.1), [2]);
    }
}
