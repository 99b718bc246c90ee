//! Which sequences run, and what each does next. Pure: it knows lengths and ids, no tokens, no time.
//!
//! Tenants are served by their weights: the one that was served least, for its weight, comes next; within a tenant, first
//! come first served. Every step takes all sequences that generate one token further, and beside them a bounded number
//! of prompt tokens. Memory is given out page by page as sequences grow. When there is none left the sequence that was
//! admitted last gives its pages back and waits, first in its tenant's row, to be computed again.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::request::{EngineLimits, Tenant};
use super::{PAGE, SequenceId};

/// A sequence that wants to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Which.
    pub sequence: SequenceId,
    /// For whom.
    pub tenant: Tenant,
    /// The tenant's share beside others', above 0.
    pub weight: u32,
    /// Tokens that it has, at least one.
    pub tokens: usize,
}

/// What a sequence does in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Which sequence.
    pub sequence: SequenceId,
    /// Which of its tokens go through the model.
    pub range: Range<usize>,
    /// Whether these are its last, so that the next token is drawn.
    pub last: bool,
    /// Guesses that there is room for beside them.
    pub guesses_max: usize,
}

/// A step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is computed.
    pub work: Vec<Planned>,
    /// A sequence whose pages are to be freed before anything is computed; it waits again. Plan anew then: how many
    /// pages that frees only the engine knows, since others may share them.
    pub preempted: Option<SequenceId>,
}

struct Running {
    arrival: Arrival,
    /// Tokens that went through the model.
    done: usize,
}

impl Running {
    fn left(&self) -> usize {
        self.arrival.tokens - self.done.min(self.arrival.tokens)
    }

    /// Pages that it needs beside those that it has, for `more` tokens.
    fn pages_for(&self, more: usize) -> usize {
        (self.done + more).div_ceil(PAGE) - self.done.div_ceil(PAGE)
    }
}

/// Who waits of a tenant, and what it has had.
#[derive(Default)]
struct Share {
    waiting: VecDeque<Arrival>,
    running: usize,
    /// Tokens computed for it, divided by its weight.
    served: f64,
}

/// The scheduler's state.
pub struct Scheduler {
    limits: EngineLimits,
    shares: HashMap<Tenant, Share>,
    /// In the order in which they were admitted.
    running: Vec<Running>,
    /// Prompts take turns: the sequence that was served first last time.
    served_last: Option<SequenceId>,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(limits: EngineLimits) -> Self {
        Self {
            limits,
            shares: HashMap::new(),
            running: Vec::new(),
            served_last: None,
        }
    }

    /// Lets a sequence wait.
    pub fn enqueue(&mut self, arrival: Arrival) {
        // Who comes anew starts level with the others: nobody saves up by staying away.
        let level = self.shares.values().map(|share| share.served);
        let level = level.fold(f64::INFINITY, f64::min);
        let share = self.shares.entry(arrival.tenant).or_insert(Share {
            served: if level.is_finite() { level } else { 0.0 },
            ..Share::default()
        });
        share.waiting.push_back(arrival);
    }

    /// The next sequence to run, if there is a place and memory for it: call it until there is none, and say with
    /// [`Self::started`] what need not be computed.
    pub fn admit(&mut self, pages_free: usize) -> Option<Arrival> {
        if self.running.len() >= self.limits.sequences_max {
            return None;
        }
        let waiting = self
            .shares
            .iter()
            .filter(|(_, share)| !share.waiting.is_empty());
        let next = waiting
            .min_by(|(a, left), (b, right)| left.served.total_cmp(&right.served).then(a.cmp(b)));
        let tenant = *next?.0;
        let promised: usize = self
            .running
            .iter()
            .map(|one| one.pages_for(one.left()))
            .sum();
        let share = self.shares.get_mut(&tenant)?;
        let tokens = share.waiting.front()?.tokens;
        // A page more, so that it does not lose its place to the first token that it draws. Alone, a sequence always
        // runs: nothing will ever make more room for it.
        let needed = promised + tokens.div_ceil(PAGE) + 1 + self.running.len();
        if needed > pages_free && !self.running.is_empty() {
            return None;
        }
        let arrival = share.waiting.pop_front()?;
        share.running += 1;
        self.running.push(Running { arrival, done: 0 });
        Some(arrival)
    }

    /// Notes that `cached` of an admitted sequence's tokens need not be computed.
    pub fn started(&mut self, sequence: SequenceId, cached: usize) {
        if let Some(one) = self.running_mut(sequence) {
            one.done = cached.min(one.arrival.tokens.saturating_sub(1));
        }
    }

    /// What the next step does, with `pages_free` pages to be had.
    pub fn plan(&mut self, pages_free: usize) -> Plan {
        let mut plan = Plan::default();
        let mut pages = pages_free;
        let mut index = 0;
        while let Some(one) = self.running.get(index) {
            let needed = if one.left() == 1 { one.pages_for(1) } else { 0 };
            if needed <= pages {
                pages -= needed;
                index += 1;
            } else if self.running.len() == 1 {
                break;
            } else {
                return self.preempt();
            }
        }
        let generating = self.running.iter().filter(|one| one.left() == 1);
        plan.work.extend(generating.map(|one| Planned {
            sequence: one.arrival.sequence,
            range: one.done..one.done + 1,
            last: true,
            guesses_max: 0,
        }));
        let generating = plan.work.len();
        self.plan_prompts(&mut pages, &mut plan);
        if plan.work.is_empty() && self.running.len() > 1 {
            // Prompts alone, and no memory for any: the last one makes room.
            return self.preempt();
        }
        // Guesses may fill a sequence's last page, and a page more where every sequence can have one.
        let spare = if pages >= generating { PAGE } else { 0 };
        for planned in plan.work.iter_mut().take(generating) {
            let end = planned.range.end;
            planned.guesses_max = end.next_multiple_of(PAGE) - end + spare;
        }
        plan
    }

    /// Prompts share a step's budget in turn: tenants by what they had, then the one that was not served last.
    fn plan_prompts(&mut self, pages: &mut usize, plan: &mut Plan) {
        let mut budget = self.limits.prefill_tokens.max(1);
        let served = |tenant| self.shares.get(tenant).map_or(0.0, |share| share.served);
        let last = self.served_last;
        let mut order: Vec<&Running> = self.running.iter().filter(|one| one.left() > 1).collect();
        let start = order
            .iter()
            .position(|one| Some(one.arrival.sequence) == last);
        if let Some(start) = start {
            let turns = (start + 1) % order.len();
            order.rotate_left(turns);
        }
        order.sort_by(|a, b| served(&a.arrival.tenant).total_cmp(&served(&b.arrival.tenant)));
        let mut first = None;
        for one in order {
            let room = one.done.next_multiple_of(PAGE) - one.done + *pages * PAGE;
            let take = one.left().min(budget).min(room);
            if take == 0 {
                continue;
            }
            budget -= take;
            *pages -= one.pages_for(take);
            first.get_or_insert(one.arrival.sequence);
            plan.work.push(Planned {
                sequence: one.arrival.sequence,
                range: one.done..one.done + take,
                last: take == one.left(),
                guesses_max: 0,
            });
        }
        self.served_last = first.or(self.served_last);
    }

    /// Puts the sequence that was admitted last back.
    fn preempt(&mut self) -> Plan {
        let last = self.running.pop().map(|one| one.arrival);
        if let Some(arrival) = last
            && let Some(share) = self.shares.get_mut(&arrival.tenant)
        {
            share.running -= 1;
            share.waiting.push_front(arrival);
        }
        Plan {
            work: Vec::new(),
            preempted: last.map(|arrival| arrival.sequence),
        }
    }

    /// Notes that `computed` more of a sequence's tokens went through the model and that `drawn` new ones were drawn.
    pub fn advance(&mut self, sequence: SequenceId, computed: usize, drawn: usize) {
        let Some(one) = self.running_mut(sequence) else {
            return;
        };
        one.arrival.tokens += drawn;
        one.done = (one.done + computed).min(one.arrival.tokens);
        let (tenant, weight) = (one.arrival.tenant, one.arrival.weight.max(1));
        if let Some(share) = self.shares.get_mut(&tenant) {
            share.served += computed as f64 / f64::from(weight);
        }
    }

    /// Forgets a sequence, wherever it is.
    pub fn remove(&mut self, sequence: SequenceId) {
        let at = self
            .running
            .iter()
            .position(|one| one.arrival.sequence == sequence);
        if let Some(one) = at.map(|at| self.running.remove(at))
            && let Some(share) = self.shares.get_mut(&one.arrival.tenant)
        {
            share.running -= 1;
        }
        for share in self.shares.values_mut() {
            share.waiting.retain(|arrival| arrival.sequence != sequence);
        }
        self.shares
            .retain(|_, share| share.running > 0 || !share.waiting.is_empty());
    }

    /// Whether nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        self.shares.is_empty()
    }

    fn running_mut(&mut self, sequence: SequenceId) -> Option<&mut Running> {
        self.running
            .iter_mut()
            .find(|one| one.arrival.sequence == sequence)
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]
mod tests;
