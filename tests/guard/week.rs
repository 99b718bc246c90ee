//! G17: weeks of an organisation of two hundred honest people with the crawlers of G4 and the family of G5 inside. Lived through in a
//! server by `week_server`, and a hundred times on a simulated clock by `examples/guard_week`.

#![allow(dead_code, reason = "the test and the simulation use a part each")]

use std::time::Duration;

use casemate::guard::Terms;
use casemate::policy::{GuardMode, GuardPolicy};

use crate::traffic::{Chance, Traffic, own_wrapper};

pub const HONEST: usize = 200;
/// Identities of the family. Beside its one prompt a day each of them lives like an honest person.
pub const MEMBERS: usize = 25;
pub const DAYS: u64 = 7;
pub const DAY: u64 = 86_400;
/// Midnight before the first day.
pub const BEGIN: u64 = 20_000 * DAY;
/// When people begin to work, and how much slower they are than the traced service: its 36 minutes are their day of eight hours.
pub const MORNING: u64 = 9 * 3600;
pub const STRETCH: f64 = 13.0;
/// What a day's work is: both traces.
pub const BOTH: &[&str] = &["arrivals_conv.csv", "arrivals_code.csv"];

/// A crawler of G4: what it does, within how many prompts it must be found, and how many of a hundred must be.
pub struct Kind {
    pub name: &'static str,
    pub prompts: usize,
    pub bar: f64,
}

const fn kind(name: &'static str, prompts: usize, bar: f64) -> Kind {
    Kind { name, prompts, bar }
}

pub const KINDS: [Kind; 4] = [
    kind("one scaffold", 64, 0.99),
    kind("8 rewordings", 64, 0.99),
    kind("16 scaffolds", 128, 0.99),
    kind("at 75 %", 64, 0.95),
];

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Honest,
    Member,
    /// Of which kind.
    Crawler(usize),
}

pub struct Sent {
    /// Seconds since 1970.
    pub at: u64,
    pub who: usize,
    pub text: String,
    /// Whether it is the family's one prompt of the day.
    pub of_family: bool,
}

/// Everything that is sent in a week, in its order.
pub struct Week {
    pub roles: Vec<Role>,
    pub sent: Vec<Sent>,
    pub scaffold: String,
}

pub fn name(who: usize) -> String {
    format!("dns:p{who}.example")
}

/// The guard as policy has it by default, once it acts.
pub fn terms() -> Terms {
    let policy = GuardPolicy {
        mode: GuardMode::On,
        ..GuardPolicy::default()
    };
    policy.terms(&"writers".parse().unwrap())
}

/// Seconds of a working day at which somebody asks.
pub fn working_day(traces: &[&str]) -> Vec<u64> {
    let seconds = |arrival: f64| MORNING + Duration::from_secs_f64(arrival * STRETCH).as_secs();
    Traffic::arrivals(traces).into_iter().map(seconds).collect()
}

impl Week {
    /// The week of this number. The arrivals are a day's work, shared by chance among the honest and the members of
    /// the family; on each day but the first one crawler of each kind comes and is done the same evening.
    pub fn draw(traffic: &Traffic, arrivals: &[u64], number: usize, chance: &mut Chance) -> Self {
        let scaffolds = &traffic.scaffolds;
        let scaffold = scaffolds[number % scaffolds.len()].clone();
        let mut week = Self {
            roles: vec![Role::Honest; HONEST],
            sent: Vec::new(),
            scaffold,
        };
        week.roles.extend([Role::Member; MEMBERS]);
        week.work(traffic, arrivals, chance);
        week.family(traffic, arrivals, chance);
        for day in 1..DAYS {
            // Neither is the family's: a scaffold that only these two have is a principal's own.
            let own = |from: usize| {
                let at = (number + from + day as usize) % scaffolds.len();
                std::slice::from_ref(&scaffolds[at])
            };
            week.crawler(traffic, (0, own(0), 100), day, chance);
            week.crawler(traffic, (1, &traffic.rotating, 100), day, chance);
            week.crawler(traffic, (2, scaffolds, 100), day, chance);
            week.crawler(traffic, (3, own(DAYS as usize), 75), day, chance);
        }
        week.sent.sort_by_key(|sent| sent.at);
        week
    }

    fn work(&mut self, traffic: &Traffic, arrivals: &[u64], chance: &mut Chance) {
        let mut times = vec![Vec::new(); self.roles.len()];
        for day in 0..DAYS {
            for at in arrivals {
                times[chance.below(self.roles.len())].push(BEGIN + day * DAY + at);
            }
        }
        for (who, times) in times.into_iter().enumerate() {
            let (wrapper, wrapped) = (own_wrapper(chance), chance.below(601));
            let texts = traffic.session(times.len(), (&wrapper, wrapped), chance);
            self.send(who, times.into_iter().zip(texts));
        }
    }

    fn family(&mut self, traffic: &Traffic, arrivals: &[u64], chance: &mut Chance) {
        let texts = traffic.plain(MEMBERS * DAYS as usize, chance);
        let scaffolded = texts.into_iter().enumerate().map(|(at, text)| Sent {
            at: BEGIN + (at / MEMBERS) as u64 * DAY + arrivals[chance.below(arrivals.len())],
            who: HONEST + at % MEMBERS,
            text: self.scaffold.replace("{slot}", text),
            of_family: true,
        });
        self.sent.extend(scaffolded);
    }

    fn crawler(
        &mut self,
        traffic: &Traffic,
        (kind, scaffolds, share): (usize, &[String], usize),
        day: u64,
        chance: &mut Chance,
    ) {
        let prompts = KINDS[kind].prompts;
        let texts = traffic.crawl(scaffolds, share, prompts, chance);
        let (first, pause) = (chance.below(600) as u64, 8 * 3600 / prompts as u64);
        let times = (0..).map(|n| BEGIN + day * DAY + MORNING + first + n * pause);
        self.roles.push(Role::Crawler(kind));
        self.send(self.roles.len() - 1, times.zip(texts));
    }

    fn send(&mut self, who: usize, prompts: impl Iterator<Item = (u64, String)>) {
        self.sent.extend(prompts.map(|(at, text)| Sent {
            at,
            who,
            text,
            of_family: false,
        }));
    }
}
