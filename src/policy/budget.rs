//! What was used, by principal and by team. Connections do not count: reconnecting resets nothing.
//!
//! Pure: the time is an argument. Tokens are set aside at admission, so that requests under way at once cannot use up the
//! same remainder. A counter begins anew only when its window has ended; neither a new policy nor a clock that goes
//! back resets it. Counters live in memory: a restart of the server resets them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_attestation::UnixTime;

use super::decide::Granted;
use super::document::Budget;
use super::name::TeamName;
use super::principal::Principal;

/// The most principals and teams that are counted at once.
const COUNTERS_MAX: usize = 65_536;

/// Whose budget is used up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// What all members of a team share.
    Team(TeamName),
    /// What one principal has.
    Principal(Principal),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Team(team) => write!(f, "team {team}"),
            Self::Principal(principal) => principal.fmt(f),
        }
    }
}

/// Why a request that policy permits must wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetExceeded {
    /// Too many requests in this window.
    #[error("{holder} has used its {limit} requests; more from {again}")]
    Requests {
        /// Whose budget.
        holder: Holder,
        /// The limit.
        limit: u64,
        /// When the next window begins.
        again: UnixTime,
    },
    /// Too few tokens left in this window.
    #[error(
        "{holder} has {left} tokens left of {limit}, {needed} are needed at least; more from {again}"
    )]
    Tokens {
        /// Whose budget.
        holder: Holder,
        /// The limit.
        limit: u64,
        /// What is left of it.
        left: u64,
        /// The prompt and one token.
        needed: u64,
        /// When the next window begins.
        again: UnixTime,
    },
    /// Too many requests at once.
    #[error("{holder} has {limit} requests under way, as many as it may")]
    Concurrency {
        /// Whose budget.
        holder: Holder,
        /// The limit.
        limit: u32,
    },
    /// No room for another counter; uncounted use is refused.
    #[error("too many principals are active at once")]
    Full,
}

impl BudgetExceeded {
    /// A word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Requests { .. } => "requests_exceeded",
            Self::Tokens { .. } => "tokens_exceeded",
            Self::Concurrency { .. } => "concurrency_exceeded",
            Self::Full => "principals_exceeded",
        }
    }

    /// Seconds to wait, at least 1.
    #[must_use]
    pub fn retry_after_seconds(&self, now: UnixTime) -> u64 {
        match self {
            Self::Requests { again, .. } | Self::Tokens { again, .. } => {
                again.minus(now.secs()).secs().max(1)
            }
            Self::Concurrency { .. } | Self::Full => 1,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Counter {
    /// First second after the window, since 1970.
    end: u64,
    requests: u64,
    tokens_spent: u64,
    tokens_set_aside: u64,
    under_way: u32,
}

/// Counters of one server.
#[derive(Debug, Default)]
pub struct Budgets {
    counters: HashMap<Holder, Counter>,
}

/// What was set aside for one admitted request. [`Budgets::settle`] takes it back, once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an unsettled charge holds its tokens until the window ends"]
pub struct Charge {
    /// Each holder, with the end of the window in which it was charged.
    holders: [(Holder, u64); 2],
    set_aside: u64,
    prompt_tokens: u64,
    output_tokens_max: u32,
}

impl Charge {
    /// The most tokens that this answer may have: what was asked for, within the team's limit and what is left.
    #[must_use]
    pub const fn output_tokens_max(&self) -> u32 {
        self.output_tokens_max
    }
}

impl Budgets {
    /// Admits one request and sets its tokens aside, with principal and team, or with neither.
    ///
    /// # Errors
    /// [`BudgetExceeded`] where a window, the tokens left for the prompt and one more, or the concurrency do not suffice.
    pub fn admit(
        &mut self,
        granted: &Granted,
        prompt_tokens: u64,
        output_tokens: u32,
        now: UnixTime,
    ) -> Result<Charge, BudgetExceeded> {
        let limits = granted.limits();
        let both = [
            (Holder::Principal(granted.principal().clone()), limits.each),
            (Holder::Team(granted.team().clone()), limits.shared),
        ];
        let needed = prompt_tokens.saturating_add(1);
        let mut left = u64::MAX;
        for (holder, budget) in &both {
            let counter = self.counter(holder, budget, now)?;
            left = left.min(counter.room(holder, budget, needed)?);
        }
        let wanted = u64::from(output_tokens.min(limits.output_tokens_max));
        let output = wanted.min(left.saturating_sub(prompt_tokens));
        let set_aside = prompt_tokens.saturating_add(output);
        let holders = both.map(|(holder, _)| {
            let end = self
                .counters
                .get_mut(&holder)
                .map_or(0, |counter| counter.take(set_aside));
            (holder, end)
        });
        let output_tokens_max = u32::try_from(output).unwrap_or(u32::MAX);
        Ok(Charge {
            holders,
            set_aside,
            prompt_tokens,
            output_tokens_max,
        })
    }

    /// Ends a request: what was set aside becomes what was used. A window that has ended meanwhile is not charged.
    pub fn settle(&mut self, charge: Charge, tokens_used: u64) {
        for (holder, end) in charge.holders {
            let Some(counter) = self.counters.get_mut(&holder) else {
                continue;
            };
            counter.under_way = counter.under_way.saturating_sub(1);
            if counter.end == end {
                counter.tokens_set_aside =
                    counter.tokens_set_aside.saturating_sub(charge.set_aside);
                counter.tokens_spent = counter.tokens_spent.saturating_add(tokens_used);
            }
        }
    }

    /// Tokens that a principal has spent in the window of `now`, those set aside included.
    #[must_use]
    pub fn tokens_spent(&self, principal: &Principal, now: UnixTime) -> u64 {
        let counter = self.counters.get(&Holder::Principal(principal.clone()));
        let counter = counter.filter(|counter| now.secs() < counter.end);
        counter.map_or(0, |c| c.tokens_spent.saturating_add(c.tokens_set_aside))
    }

    fn counter(
        &mut self,
        holder: &Holder,
        budget: &Budget,
        now: UnixTime,
    ) -> Result<&Counter, BudgetExceeded> {
        if !self.counters.contains_key(holder) && self.counters.len() >= COUNTERS_MAX {
            self.counters
                .retain(|_, counter| counter.under_way > 0 || now.secs() < counter.end);
            if self.counters.len() >= COUNTERS_MAX {
                return Err(BudgetExceeded::Full);
            }
        }
        let counter = self.counters.entry(holder.clone()).or_default();
        counter.roll(budget, now);
        Ok(counter)
    }
}

impl Counter {
    fn roll(&mut self, budget: &Budget, now: UnixTime) {
        if now.secs() >= self.end {
            let length = u64::from(budget.window_seconds).max(1);
            let end = (now.secs() / length)
                .saturating_add(1)
                .saturating_mul(length);
            *self = Self {
                end,
                under_way: self.under_way,
                ..Self::default()
            };
        }
    }

    /// Tokens left, if one more request fits.
    fn room(&self, holder: &Holder, budget: &Budget, needed: u64) -> Result<u64, BudgetExceeded> {
        let again = UnixTime::from_secs(self.end);
        let holder = || holder.clone();
        if self.under_way >= budget.concurrency {
            return Err(BudgetExceeded::Concurrency {
                holder: holder(),
                limit: budget.concurrency,
            });
        }
        if self.requests >= budget.requests {
            return Err(BudgetExceeded::Requests {
                holder: holder(),
                limit: budget.requests,
                again,
            });
        }
        let used = self.tokens_spent.saturating_add(self.tokens_set_aside);
        let left = budget.tokens.saturating_sub(used);
        if left < needed {
            return Err(BudgetExceeded::Tokens {
                holder: holder(),
                limit: budget.tokens,
                left,
                needed,
                again,
            });
        }
        Ok(left)
    }

    fn take(&mut self, set_aside: u64) -> u64 {
        self.under_way = self.under_way.saturating_add(1);
        self.requests = self.requests.saturating_add(1);
        self.tokens_set_aside = self.tokens_set_aside.saturating_add(set_aside);
        self.end
    }
}

/// The counters, shared by all connections of a server.
#[derive(Debug, Clone, Default)]
pub struct SharedBudgets(Arc<Mutex<Budgets>>);

impl SharedBudgets {
    /// [`Budgets::admit`]; the request is settled when the slot is dropped.
    ///
    /// # Errors
    /// [`BudgetExceeded`].
    pub fn admit(
        &self,
        granted: &Granted,
        prompt_tokens: u64,
        output_tokens: u32,
        now: UnixTime,
    ) -> Result<Slot, BudgetExceeded> {
        let charge = self
            .lock()
            .admit(granted, prompt_tokens, output_tokens, now)?;
        Ok(Slot {
            budgets: self.clone(),
            charge: Some(charge),
            output_tokens: 0,
        })
    }

    /// [`Budgets::tokens_spent`].
    #[must_use]
    pub fn tokens_spent(&self, principal: &Principal, now: UnixTime) -> u64 {
        self.lock().tokens_spent(principal, now)
    }

    fn lock(&self) -> MutexGuard<'_, Budgets> {
        // No counter is left half-changed by a panic: each change is one saturating addition.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One admitted request. Dropping it, however the request ends, charges the prompt and the tokens counted here.
#[derive(Debug)]
#[must_use = "dropping the slot ends the request"]
pub struct Slot {
    budgets: SharedBudgets,
    charge: Option<Charge>,
    output_tokens: u64,
}

impl Slot {
    /// The most tokens that this answer may have.
    #[must_use]
    pub fn output_tokens_max(&self) -> u32 {
        self.charge.as_ref().map_or(0, Charge::output_tokens_max)
    }

    /// Counts tokens of the answer.
    pub fn count(&mut self, output_tokens: u64) {
        self.output_tokens = self.output_tokens.saturating_add(output_tokens);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(charge) = self.charge.take() {
            let used = charge.prompt_tokens.saturating_add(self.output_tokens);
            self.budgets.lock().settle(charge, used);
        }
    }
}
