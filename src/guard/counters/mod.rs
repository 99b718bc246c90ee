//! The only numbers about use that leave a server in the clear: four counters of a day with noise, so that whether any one
//! principal was there, and what it did all day, cannot be told from them (GUARD section 6).
//!
//! **What is promised**: for each principal and day, (ε, δ)-differential privacy with ε = [`EPSILON`] and δ = [`DELTA`], where
//! neighbours are two days that differ in everything that one principal did.
//!
//! **Why it holds.** One principal changes *principals* by at most 1, *answers* by at most [`ANSWERS_MAX`], *kilotokens* by at most
//! [`KILOTOKENS_MAX`] and *refused* by at most 1: what is beyond is not counted. Each number gets a discrete Gaussian of variance
//! σ² (`gaussian`), which is Δ²/2σ²-concentrated differentially private (Canonne, Kamath, Steinke 2020, Proposition 5), and the
//! four add up: 1/168 + 4096/1,376,000 + 4096/1,376,000 + 1/336 = 0.01489. By their Proposition 12, with the best α, that is
//! (1, 0.9·10⁻⁹). A cell is released only if at least [`PRINCIPALS_MIN`] principals are in it *and* its noisy number of principals
//! reaches that and a margin that noise alone passes with a chance of 5·10⁻¹¹: so that the first condition, which looks at the true
//! number, decides anything with that chance at most. Twice that is the last tenth of δ. A unit test does the sums.
//!
//! **Once.** A day is closed once, and what came of it is written down before anybody sees it; nothing of it is kept beside. A day
//! that is closed counts nothing any more, also where a clock goes back. Days are not closed faster than a clock that nobody can
//! set says, so that a clock that races sells no more of them. After a restart the part of a day before it is gone.
//!
//! Pure: time, chance and the place where days are written down are arguments.

pub mod gaussian;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

pub use gaussian::{Bits, Exhausted, gaussian};

/// What a day may tell about a principal.
pub const EPSILON: f64 = 1.0;
/// The chance with which it may tell more.
pub const DELTA: f64 = 1e-9;
/// Fewer principals than this make no cell.
pub const PRINCIPALS_MIN: u64 = 5;
/// Answers of one principal and day that count.
pub const ANSWERS_MAX: u32 = 64;
/// Thousands of tokens of one principal and day that count.
pub const KILOTOKENS_MAX: u32 = 64;

/// Parameters of the noise: see above.
const PRINCIPALS_VARIANCE: u32 = 84;
const ANSWERS_VARIANCE: u32 = 688_000;
const KILOTOKENS_VARIANCE: u32 = 688_000;
const REFUSED_VARIANCE: u32 = 168;
/// What noise of these variances passes with a chance of 5·10⁻¹¹.
const PRINCIPALS_MARGIN: i64 = 60;
const REFUSED_MARGIN: i64 = 85;

const SECONDS_PER_DAY: u64 = 86_400;
/// Seconds of a clock that nobody can set between two days that are closed.
const BETWEEN_SECONDS_MIN: u64 = 20 * 3600;
/// Principals of a day; those beyond are not counted, which lowers numbers and tells nothing.
const PRINCIPALS_MAX: usize = 65_536;

/// What is told of a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Day {
    /// Its first second, since 1970.
    pub begins: u64,
    /// Whether it was counted from its beginning on.
    pub whole: bool,
    /// Principals that were answered; nothing where they are too few.
    pub principals: Option<i64>,
    /// Answers.
    pub answers: Option<i64>,
    /// Thousands of tokens in prompts and answers.
    pub kilotokens: Option<i64>,
    /// Principals that the guard refused something.
    pub refused: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    answers: u32,
    tokens: u64,
    refused: bool,
}

/// The day that is being counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Which day, since 1970; nothing is counted of days before.
    day: u64,
    /// The last day that was closed, by this process or one before.
    closed: Option<u64>,
    /// When that was, by a clock that nobody can set.
    closed_at: Option<u64>,
    whole: bool,
    counts: bool,
    parts: HashMap<u64, Part>,
}

impl Counters {
    /// Counts from `now` on, if at all; days up to the one that begins at `closed` are told already.
    #[must_use]
    pub fn new(counts: bool, now: u64, closed: Option<u64>) -> Self {
        Self {
            day: now / SECONDS_PER_DAY,
            closed: closed.map(|begins| begins / SECONDS_PER_DAY),
            counts,
            ..Self::default()
        }
    }

    /// Whether policy wants it. What was counted so far is gone where it does not.
    pub fn switch(&mut self, counts: bool) {
        if self.counts != counts {
            self.counts = counts;
            self.whole = false;
            self.parts.clear();
        }
    }

    /// An answer of `tokens`, prompt and answer together, to a principal, which is a keyed hash.
    pub fn answered(&mut self, principal: u64, tokens: u64, now: u64) {
        if let Some(part) = self.part(principal, now) {
            part.answers = part.answers.saturating_add(1).min(ANSWERS_MAX);
            let most = u64::from(KILOTOKENS_MAX) * 1000;
            part.tokens = part.tokens.saturating_add(tokens).min(most);
        }
    }

    /// The guard refused a principal something.
    pub fn refused(&mut self, principal: u64, now: u64) {
        if let Some(part) = self.part(principal, now) {
            part.refused = true;
        }
    }

    fn part(&mut self, principal: u64, now: u64) -> Option<&mut Part> {
        let today = now / SECONDS_PER_DAY == self.day && self.closed < Some(self.day);
        let room = self.parts.len() < PRINCIPALS_MAX || self.parts.contains_key(&principal);
        (self.counts && today && room).then(|| self.parts.entry(principal).or_default())
    }

    /// Closes the day if it is over: what is told of it, once. `uptime` is of a clock that nobody can set, in seconds. Whoever
    /// gets a day writes it down before anybody sees it; where that fails nobody may, and the day is gone.
    ///
    /// # Errors
    /// [`Exhausted`]; the day is not closed then.
    pub fn close(
        &mut self,
        now: u64,
        uptime: u64,
        bits: &mut Bits<'_>,
    ) -> Result<Option<Day>, Exhausted> {
        let today = now / SECONDS_PER_DAY;
        if today <= self.day {
            return Ok(None);
        }
        let soon = |at| uptime.saturating_sub(at) < BETWEEN_SECONDS_MIN;
        let again = self.closed >= Some(self.day);
        let told = match self.counts && !again && !self.closed_at.is_some_and(soon) {
            true => Some(self.told(bits)?),
            false => None,
        };
        if told.is_some() {
            self.closed = Some(self.day);
            self.closed_at = Some(uptime);
        }
        // A day that came too soon is not told, and goes with what it had.
        self.whole = told.is_some() || (self.counts && again);
        self.day = today;
        self.parts.clear();
        Ok(told)
    }

    fn told(&self, bits: &mut Bits<'_>) -> Result<Day, Exhausted> {
        let sum = |part: fn(&Part) -> u64| self.parts.values().map(part).sum::<u64>();
        let principals = sum(|part| u64::from(part.answers > 0));
        let refused = sum(|part| u64::from(part.refused));
        let mut noisy = |number: u64, variance| {
            let noise = gaussian(variance, bits)?;
            Ok(i64::try_from(number)
                .unwrap_or(i64::MAX)
                .saturating_add(noise))
        };
        let told = [
            noisy(principals, PRINCIPALS_VARIANCE)?,
            noisy(sum(|part| part.answers.into()), ANSWERS_VARIANCE)?,
            noisy(sum(|part| part.tokens) / 1000, KILOTOKENS_VARIANCE)?,
            noisy(refused, REFUSED_VARIANCE)?,
        ];
        let [of_principals, of_answers, of_kilotokens, of_refused] = told;
        let answered = is_cell(principals, of_principals, PRINCIPALS_MARGIN);
        let turned_away = is_cell(refused, of_refused, REFUSED_MARGIN);
        Ok(Day {
            begins: self.day.saturating_mul(SECONDS_PER_DAY),
            whole: self.whole,
            principals: answered.then_some(of_principals),
            answers: answered.then_some(of_answers),
            kilotokens: answered.then_some(of_kilotokens),
            refused: turned_away.then_some(of_refused),
        })
    }
}

/// Whether a cell of so many principals is told, by their noisy number above all.
fn is_cell(principals: u64, noisy: i64, margin: i64) -> bool {
    let least = i64::try_from(PRINCIPALS_MIN).unwrap_or(i64::MAX);
    principals >= PRINCIPALS_MIN && noisy >= least.saturating_add(margin)
}

#[cfg(test)]
mod tests;
