//! What came of the weeks, and the bars that it is held to.

use crate::week::{DAYS, KINDS, MEMBERS};

pub const SESSION_PROMPTS: usize = 512;

/// What is known of somebody while a week goes on.
#[derive(Clone, Default)]
pub struct Watched {
    pub opening_prompts: u16,
    pub prompts: usize,
    pub found_after: Option<usize>,
}

/// Alarms of honest people: because of a family, by their own bets, and those of the latter that came after a whole session.
#[derive(Default)]
pub struct Alarms {
    pub shared: usize,
    pub own: usize,
    pub own_later: usize,
}

/// What came of all weeks.
#[derive(Default)]
pub struct Findings {
    pub honest_prompts: usize,
    /// Honest people, and those of them who sent more than a session, so that their opening bet began a second time.
    pub honest: usize,
    pub honest_longer: usize,
    pub alarms: Alarms,
    pub people_alarmed: usize,
    /// After how many prompts each was found, by kind.
    pub crawlers: [Vec<Option<usize>>; KINDS.len()],
    /// Shares of a family's prompts that were gathered: of the first day, and of each week.
    pub first_days: Vec<f64>,
    pub weeks: Vec<f64>,
    pub members_alarmed: usize,
    pub false_families: usize,
}

/// A line of the table, and whether its bar holds.
pub struct Row {
    pub what: String,
    pub found: f64,
    pub bar: f64,
    pub at_most: bool,
}

impl Row {
    pub fn holds(&self) -> bool {
        match self.at_most {
            true => self.found <= self.bar,
            false => self.found >= self.bar,
        }
    }

    pub fn print(&self) {
        let sign = if self.at_most { "at most" } else { "at least" };
        let met = if self.holds() { "met" } else { "MISSED" };
        let Self {
            what, found, bar, ..
        } = self;
        println!("| {what:<56} | {found:>8.5} | {sign:>8} {bar:<5} | {met:<6} |");
    }

    fn at_least(what: &str, found: f64, bar: f64) -> Self {
        let what = what.to_owned();
        Self {
            what,
            found,
            bar,
            at_most: false,
        }
    }

    fn at_most(what: &str, found: f64, bar: f64) -> Self {
        Self {
            at_most: true,
            ..Self::at_least(what, found, bar)
        }
    }
}

fn a_session(alarms: usize, prompts: usize) -> f64 {
    (alarms * SESSION_PROMPTS) as f64 / prompts.max(1) as f64
}

fn share(of: &[f64], at_least: f64) -> f64 {
    of.iter().filter(|one| **one >= at_least).count() as f64 / of.len() as f64
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

impl Findings {
    pub fn rows(&self) -> Vec<Row> {
        let alarms = self.alarms.own + self.alarms.shared;
        let days = (self.weeks.len() as u64 * DAYS) as f64;
        let mut rows = vec![Row::at_most(
            "honest, alarms in a session of 512",
            a_session(alarms, self.honest_prompts),
            0.001,
        )];
        for (kind, found) in KINDS.iter().zip(&self.crawlers) {
            let mut within: Vec<usize> = found.iter().copied().flatten().collect();
            within.sort_unstable();
            let median = within.get(within.len() / 2).copied().unwrap_or(0);
            let what = format!(
                "{}, found within {} (median {median}, of {})",
                kind.name,
                kind.prompts,
                found.len()
            );
            let found = within.len() as f64 / found.len() as f64;
            rows.push(Row::at_least(&what, found, kind.bar));
        }
        rows.extend([
            Row::at_least(
                "family, weeks in which its first day gathers 0.8",
                share(&self.first_days, 0.8),
                0.95,
            ),
            Row::at_least(
                "family, share of a week's prompts gathered",
                mean(&self.weeks),
                0.8,
            ),
            Row::at_most(
                "false families a day",
                self.false_families as f64 / days,
                0.05,
            ),
        ]);
        rows
    }

    pub fn print(&self) {
        let Alarms {
            shared,
            own,
            own_later,
        } = self.alarms;
        let each = |alarms: usize, people: usize| alarms as f64 / people.max(1) as f64;
        println!(
            "{} honest prompts; alarms of honest people: {shared} by families ({:.5} a session), {own} by their own bets: {} in the first 512 prompts of {} people ({:.5} each), {own_later} later of {} who went on ({:.5} each); {} people alarmed",
            self.honest_prompts,
            a_session(shared, self.honest_prompts),
            own - own_later,
            self.honest,
            each(own - own_later, self.honest),
            self.honest_longer,
            each(own_later, self.honest_longer),
            self.people_alarmed
        );
        let least = |of: &[f64]| of.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "family: gathered of a first day {:.2} (least {:.2}), of a week {:.2} (least {:.2}); members alarmed within the week {:.3}; {} false families",
            mean(&self.first_days),
            least(&self.first_days),
            mean(&self.weeks),
            least(&self.weeks),
            self.members_alarmed as f64 / (self.weeks.len() * MEMBERS) as f64,
            self.false_families
        );
    }
}
