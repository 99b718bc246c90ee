//! G17 at night length: a hundred weeks of an organisation with crawlers and a family inside, on a simulated clock, through what stands
//! behind a server's thread. Prints every bar, and ends with 1 where one is missed (docs/GUARD.md says which are, and why).
//!
//!     cargo run --release --example guard_week

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a simulation that shares its traffic with tests, and stops where it cannot go on"
)]

#[path = "../../tests/guard/traffic.rs"]
mod traffic;
#[path = "../../tests/guard/week.rs"]
mod week;

mod findings;

use std::process::ExitCode;

use casemate::guard::{Background, Families, GuardKey, People, Prompt, Sighting, Terms, Watch};

use findings::{Findings, SESSION_PROMPTS, Watched};
use traffic::{Chance, Traffic, public};
use week::{
    BEGIN, BOTH, DAY, HONEST, KINDS, MEMBERS, Role, STRETCH, Week, name, terms, working_day,
};

const WEEKS: usize = 100;
/// Both traces, and the one that is about as long as the days on which the goal of G5 was set.
const LOADS: [&[&str]; 2] = [BOTH, &["arrivals_conv.csv"]];
/// Of a family's marks so many are of a scaffold if the family is the scaffold's.
const MARKS_MIN: usize = 4;

/// What everybody is watched with.
struct Place<'a> {
    traffic: &'a Traffic,
    key: GuardKey,
    background: Background,
    instructions: Background,
    terms: Terms,
}

impl Place<'_> {
    fn read(&self, text: &str) -> Prompt {
        Prompt::read(&self.key, &self.background, text)
    }

    /// Prompts of all families that are this scaffold's.
    fn gathered(&self, families: &Families, scaffold: &Prompt) -> usize {
        let of_it = families.families().iter();
        let of_it = of_it.filter(|family| is_of(family.marks(), scaffold));
        of_it.map(|family| family.prompts() as usize).sum()
    }

    fn live(&self, week: &Week, chance: &mut Chance, findings: &mut Findings) {
        let families = Families::new(self.instructions.clone(), BEGIN);
        let mut watch = Watch::new(self.key.clone(), People::new(1000), families);
        let mut everybody = vec![Watched::default(); week.roles.len()];
        for who in 0..everybody.len() {
            watch.knock(&name(who), &self.terms, (BEGIN, 0), || None);
        }
        let scaffold = self.read(&week.scaffold.replace("{slot}", ""));
        let (mut of_family, mut gathered, mut first_day) = (0, 0, 0);
        let all = |families: &Families| -> u64 {
            let each = families.families().iter();
            each.map(|family| u64::from(family.prompts())).sum()
        };
        let mut known = 0;
        for sent in &week.sent {
            let before = sent
                .of_family
                .then(|| self.gathered(watch.families(), &scaffold));
            let sighting = Sighting {
                principal: &name(sent.who),
                prompt: &self.read(&sent.text),
                terms: &self.terms,
                now: sent.at,
                chance: chance.below(1 << 32) as u64,
            };
            watch.observe(&sighting, || None);
            if let Some(before) = before {
                of_family += 1;
                // A family that is found counts the prompts before it, of whoever else has the scaffold too.
                let fresh = self.gathered(watch.families(), &scaffold) - before;
                gathered += fresh.min(of_family - gathered);
                if sent.at < BEGIN + DAY {
                    first_day = gathered;
                }
            }
            let person = &mut everybody[sent.who];
            person.prompts += 1;
            // Both bets begin anew with an alarm, and a family counts the prompts that it alarms for.
            let note = watch.people().of(sighting.principal).unwrap().note();
            let own = note.opening_prompts == 0 && note.opening_prompts != person.opening_prompts;
            person.opening_prompts = note.opening_prompts;
            let shared = all(watch.families());
            if own || shared > known {
                person.found_after.get_or_insert(person.prompts);
                if week.roles[sent.who] == Role::Honest {
                    let later = person.prompts > SESSION_PROMPTS;
                    findings.alarms.own += usize::from(own);
                    findings.alarms.own_later += usize::from(own && later);
                    findings.alarms.shared += usize::from(!own);
                }
            }
            known = shared;
        }
        findings.first_days.push(first_day as f64 / MEMBERS as f64);
        findings.weeks.push(gathered as f64 / of_family as f64);
        findings.false_families += self.false_families(watch.families());
        for (role, person) in week.roles.iter().zip(&everybody) {
            let alarmed = usize::from(person.found_after.is_some());
            match role {
                Role::Honest => {
                    findings.honest_prompts += person.prompts;
                    findings.honest += 1;
                    findings.honest_longer += usize::from(person.prompts > SESSION_PROMPTS);
                    findings.people_alarmed += alarmed;
                }
                Role::Member => findings.members_alarmed += alarmed,
                Role::Crawler(kind) => findings.crawlers[*kind].push(person.found_after),
            }
        }
    }

    fn false_families(&self, families: &Families) -> usize {
        let attacks = self.traffic.scaffolds.iter().chain(&self.traffic.rotating);
        let attacks: Vec<Prompt> = attacks
            .map(|text| self.read(&text.replace("{slot}", "")))
            .collect();
        let families = families.families().iter();
        families
            .filter(|family| !attacks.iter().any(|text| is_of(family.marks(), text)))
            .count()
    }
}

fn is_of(marks: &[u64], scaffold: &Prompt) -> bool {
    let known = scaffold.shingles();
    let shared = marks
        .iter()
        .filter(|mark| known.binary_search(mark).is_ok());
    shared.count() >= MARKS_MIN
}

fn main() -> ExitCode {
    let Some(traffic) = Traffic::read() else {
        return ExitCode::from(3);
    };
    let key = GuardKey::new([9; 16]);
    let (background, instructions) = public(&key, &traffic);
    let place = Place {
        traffic: &traffic,
        key,
        background,
        instructions,
        terms: terms(),
    };
    println!(
        "G17: weeks of {HONEST} honest people, {MEMBERS} identities of a family with one scaffold for the week, and one crawler of each of {} kinds on each day but the first. \
         The eavesdropper (G11) is about traffic at the socket and is left out here: --test session",
        KINDS.len()
    );
    let mut missed = Vec::new();
    for traces in LOADS {
        let arrivals = working_day(traces);
        println!(
            "{WEEKS} weeks of {traces:?}: {} arrivals a day, stretched {STRETCH} times from nine o'clock on, about {} a day from each person",
            arrivals.len(),
            arrivals.len() / (HONEST + MEMBERS)
        );
        let (mut chance, mut findings) = (Chance::new(17), Findings::default());
        for number in 0..WEEKS {
            let week = Week::draw(&traffic, &arrivals, number, &mut chance);
            place.live(&week, &mut chance, &mut findings);
        }
        for row in findings.rows() {
            row.print();
            if !row.holds() {
                missed.push(format!("{traces:?}: {} is {:.5}", row.what, row.found));
            }
        }
        findings.print();
    }
    for missed in &missed {
        println!("MISSED {missed}");
    }
    match missed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
