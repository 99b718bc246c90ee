//! Who runs, who waits and who gives way: plans, without an engine.

use std::collections::HashMap;

use super::*;

const PAGES: usize = 8;

fn limits() -> EngineLimits {
    EngineLimits {
        sequences_max: 8,
        prefill_tokens: 64,
        cache_tokens_max: PAGES * PAGE,
        ..EngineLimits::default()
    }
}

fn arrival(sequence: u64, tenant: u8, weight: u32, tokens: usize) -> Arrival {
    Arrival {
        sequence: SequenceId(sequence),
        tenant: Tenant([tenant; 32]),
        weight,
        tokens,
    }
}

/// A scheduler and an engine that only counts.
struct Bench {
    scheduler: Scheduler,
    /// Tokens that went through of each sequence that is open.
    done: HashMap<SequenceId, usize>,
    pages: usize,
    preempted: usize,
}

impl Bench {
    fn new(limits: EngineLimits) -> Self {
        Self {
            pages: limits.cache_tokens_max / PAGE,
            scheduler: Scheduler::new(limits),
            done: HashMap::new(),
            preempted: 0,
        }
    }

    fn free(&self) -> usize {
        let used = self.done.values().map(|done| done.div_ceil(PAGE));
        self.pages - used.sum::<usize>()
    }

    /// One step; answers what was computed.
    fn step(&mut self) -> Vec<Planned> {
        while let Some(arrival) = self.scheduler.admit(self.free()) {
            self.done.insert(arrival.sequence, 0);
            self.scheduler.started(arrival.sequence, 0);
        }
        let plan = loop {
            let plan = self.scheduler.plan(self.free());
            let Some(id) = plan.preempted else { break plan };
            assert!(
                plan.work.is_empty(),
                "nothing is computed before pages are freed"
            );
            let freed = self.done.remove(&id);
            assert!(freed.is_some(), "what does not run gives nothing back");
            self.preempted += 1;
        };
        for Planned {
            sequence,
            range,
            last,
            guesses_max,
        } in &plan.work
        {
            let free = self.free();
            let done = self.done.get_mut(sequence).expect("it was opened");
            assert_eq!(*done, range.start, "nothing is computed twice or left out");
            let grown = (range.end + guesses_max.min(&7)).div_ceil(PAGE) - done.div_ceil(PAGE);
            assert!(
                grown <= free,
                "there are pages for all that is planned, guesses included"
            );
            *done = range.end;
            self.scheduler
                .advance(*sequence, range.len(), usize::from(*last));
        }
        plan.work
    }

    fn end(&mut self, sequence: u64) {
        self.done.remove(&SequenceId(sequence));
        self.scheduler.remove(SequenceId(sequence));
    }
}

#[test]
fn a_step_has_everyone_who_generates_and_a_bounded_number_of_prompt_tokens() {
    let mut bench = Bench::new(limits());
    bench.scheduler.enqueue(arrival(1, 1, 1, 3));
    bench.scheduler.enqueue(arrival(2, 1, 1, 100));
    let sizes = |work: Vec<Planned>| {
        let mut sizes: Vec<_> = work
            .iter()
            .map(|one| (one.sequence.0, one.range.len(), one.last))
            .collect();
        sizes.sort();
        sizes
    };
    assert_eq!(sizes(bench.step()), [(1, 3, true), (2, 61, false)]);
    assert_eq!(sizes(bench.step()), [(1, 1, true), (2, 39, true)]);
    assert_eq!(sizes(bench.step()), [(1, 1, true), (2, 1, true)]);
    bench.end(1);
    bench.end(2);
    assert!(bench.scheduler.is_idle() && bench.step().is_empty());
}

#[test]
fn long_prompts_of_one_tenant_take_turns() {
    let mut bench = Bench::new(EngineLimits {
        cache_tokens_max: 64 * PAGE,
        ..limits()
    });
    bench.scheduler.enqueue(arrival(1, 1, 1, 500));
    bench.scheduler.enqueue(arrival(2, 1, 1, 500));
    let first: Vec<u64> = (0..6).map(|_| bench.step()[0].sequence.0).collect();
    assert_eq!(first.iter().filter(|id| **id == 1).count(), 3, "{first:?}");
}

#[test]
fn tenants_are_admitted_by_their_weights() {
    let mut bench = Bench::new(EngineLimits {
        sequences_max: 1,
        ..limits()
    });
    for at in 0..60 {
        bench.scheduler.enqueue(arrival(at, 1, 1, 10));
        bench.scheduler.enqueue(arrival(100 + at, 2, 3, 10));
    }
    let mut served = [0, 0];
    for _ in 0..40 {
        let sequence = bench.step()[0].sequence.0;
        served[usize::from(sequence >= 100)] += 1;
        bench.end(sequence);
    }
    assert!((9..=11).contains(&served[0]), "one in four: {served:?}");
}

#[test]
fn who_comes_late_saves_nothing_up() {
    let mut bench = Bench::new(EngineLimits {
        sequences_max: 1,
        ..limits()
    });
    for at in 0..60 {
        bench.scheduler.enqueue(arrival(at, 1, 1, 10));
    }
    for at in 0..20 {
        bench.step();
        bench.end(at);
    }
    (100..140).for_each(|at| bench.scheduler.enqueue(arrival(at, 2, 1, 10)));
    let mut late = 0;
    for _ in 0..20 {
        let sequence = bench.step()[0].sequence.0;
        late += usize::from(sequence >= 100);
        bench.end(sequence);
    }
    assert!((9..=11).contains(&late), "half, not all: {late}");
}

#[test]
fn without_memory_the_last_one_gives_way_and_comes_back() {
    let mut bench = Bench::new(limits());
    // Each grows to three pages; four of them do not fit into eight.
    let goal = 3 * PAGE;
    (0..4).for_each(|at| bench.scheduler.enqueue(arrival(at, at as u8, 1, 20)));
    let mut ended = Vec::new();
    for _ in 0..1_000 {
        let work = bench.step();
        for one in work.iter().filter(|one| one.last && one.range.end >= goal) {
            bench.end(one.sequence.0);
            ended.push(one.sequence.0);
        }
        if ended.len() == 4 {
            break;
        }
    }
    ended.sort();
    assert_eq!(ended, [0, 1, 2, 3], "all come to their end");
    assert!(bench.preempted > 0, "somebody had to wait");
    assert!(bench.scheduler.is_idle() && bench.done.is_empty());
}

#[test]
fn prompts_that_hold_all_memory_do_not_stand_still() {
    let mut bench = Bench::new(EngineLimits {
        prefill_tokens: 16,
        ..limits()
    });
    (0..3).for_each(|at| bench.scheduler.enqueue(arrival(at, at as u8, 1, 6 * PAGE)));
    let mut ended = 0;
    for _ in 0..500 {
        let work = bench.step();
        assert!(
            !work.is_empty() || bench.scheduler.is_idle(),
            "it stands still"
        );
        for one in work.iter().filter(|one| one.last) {
            bench.end(one.sequence.0);
            ended += 1;
        }
    }
    assert_eq!(ended, 3);
}

#[test]
fn a_sequence_alone_always_runs() {
    let mut bench = Bench::new(EngineLimits {
        cache_tokens_max: 2 * PAGE,
        ..limits()
    });
    bench.scheduler.enqueue(arrival(1, 1, 1, 2 * PAGE));
    let mut computed = 0;
    while computed < 2 * PAGE {
        let work = bench.step();
        assert_eq!(work.len(), 1);
        computed += work[0].range.len();
    }
    bench.end(1);
    assert!(bench.scheduler.is_idle());
}

#[test]
fn what_is_known_already_is_not_planned() {
    let mut scheduler = Scheduler::new(limits());
    scheduler.enqueue(arrival(1, 1, 1, 2 * PAGE + 5));
    let admitted = scheduler.admit(PAGES).map(|arrival| arrival.sequence);
    assert_eq!(admitted, Some(SequenceId(1)));
    scheduler.started(SequenceId(1), 2 * PAGE);
    let plan = scheduler.plan(PAGES);
    assert_eq!(plan.work[0].range, 2 * PAGE..2 * PAGE + 5);
    assert!(plan.work[0].last);
}
