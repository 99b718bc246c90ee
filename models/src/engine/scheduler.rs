//! Which sequences run, and what each does next. Pure: it knows lengths and ids, no tokens, no time.
//!
//! Sequences are admitted tenant by tenant in turn, first come first served within a tenant, while there are places and
//! memory. A request that does not fit holds those behind it, so that a long one is not passed over for ever. Every
//! step takes all sequences that generate one token further, and beside them a bounded number of prompt tokens.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::SequenceId;
use super::request::{EngineLimits, Tenant};

/// A sequence that wants to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Which.
    pub sequence: SequenceId,
    /// Tokens of its prompt, at least one.
    pub prompt: usize,
    /// Tokens that it may have in the end.
    pub capacity: usize,
}

/// What a sequence does in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Which sequence.
    pub sequence: SequenceId,
    /// What is appended to it.
    pub input: Input,
}

/// What is appended to a sequence in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// These tokens of its prompt; with the last of them the next token is drawn.
    Prompt {
        /// Which of the prompt's tokens.
        range: Range<usize>,
        /// Whether the prompt's last token is among them.
        last: bool,
    },
    /// The token that was drawn last.
    Drawn,
}

struct Running {
    arrival: Arrival,
    prompt_done: usize,
}

/// The scheduler's state.
pub struct Scheduler {
    limits: EngineLimits,
    waiting: HashMap<Tenant, VecDeque<Arrival>>,
    turns: VecDeque<Tenant>,
    running: VecDeque<Running>,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(limits: EngineLimits) -> Self {
        Self {
            limits,
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            running: VecDeque::new(),
        }
    }

    /// Lets a sequence wait.
    pub fn enqueue(&mut self, tenant: Tenant, arrival: Arrival) {
        let queue = self.waiting.entry(tenant).or_default();
        if queue.is_empty() {
            self.turns.push_back(tenant);
        }
        queue.push_back(arrival);
    }

    /// Admits what there is room for.
    pub fn admit(&mut self) -> Vec<Arrival> {
        let mut admitted = Vec::new();
        while self.running.len() < self.limits.sequences_max {
            let Some(arrival) = self.next_in_turn() else {
                break;
            };
            self.running.push_back(Running {
                arrival,
                prompt_done: 0,
            });
            admitted.push(arrival);
        }
        admitted
    }

    /// The next waiting sequence, if it fits.
    fn next_in_turn(&mut self) -> Option<Arrival> {
        let tenant = *self.turns.front()?;
        let queue = self.waiting.get_mut(&tenant)?;
        let used: usize = self
            .running
            .iter()
            .map(|running| running.arrival.capacity)
            .sum();
        let fits = used + queue.front()?.capacity <= self.limits.cache_tokens_max;
        // Alone, a sequence always runs: nothing will ever make more room for it.
        if !fits && !self.running.is_empty() {
            return None;
        }
        let arrival = queue.pop_front()?;
        self.turns.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        Some(arrival)
    }

    /// What the next step does. Prompts share its budget in turn: the one that was served last comes last next time.
    pub fn plan(&mut self) -> Vec<Planned> {
        let mut budget = self.limits.prefill_tokens.max(1);
        let mut planned = Vec::with_capacity(self.running.len());
        let mut served = None;
        for (index, running) in self.running.iter().enumerate() {
            let Arrival {
                sequence, prompt, ..
            } = running.arrival;
            let left = prompt - running.prompt_done;
            let take = left.min(budget);
            if left == 0 {
                planned.push(Planned {
                    sequence,
                    input: Input::Drawn,
                });
            } else if take > 0 {
                budget -= take;
                served.get_or_insert(index);
                let range = running.prompt_done..running.prompt_done + take;
                planned.push(Planned {
                    sequence,
                    input: Input::Prompt {
                        last: take == left,
                        range,
                    },
                });
            }
        }
        if let Some(first) = served.and_then(|index| self.running.remove(index)) {
            self.running.push_back(first);
        }
        planned
    }

    /// Notes that `tokens` of a sequence's prompt went through the model.
    pub fn advance_prompt(&mut self, sequence: SequenceId, tokens: usize) {
        let mut all = self.running.iter_mut();
        if let Some(running) = all.find(|running| running.arrival.sequence == sequence) {
            running.prompt_done = (running.prompt_done + tokens).min(running.arrival.prompt);
        }
    }

    /// Forgets a sequence, wherever it is.
    pub fn remove(&mut self, sequence: SequenceId) {
        self.running
            .retain(|running| running.arrival.sequence != sequence);
        for queue in self.waiting.values_mut() {
            queue.retain(|arrival| arrival.sequence != sequence);
        }
        self.waiting.retain(|_, queue| !queue.is_empty());
        self.turns
            .retain(|tenant| self.waiting.contains_key(tenant));
    }

    /// Whether nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
}
