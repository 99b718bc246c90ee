//! The guard as one state: principals, templates that they share, and what follows for one of them from its next prompt.

use super::families::Families;
use super::family::Family;
use super::hash::GuardKey;
use super::people::{Note, People, Person};
use super::shingle::Prompt;
use super::verdict::{Change, Ladder, Pace, Reason, Step, e_bh};
use super::wager::Honest;

/// The share of wrong names that the list of principals to look at may have on average.
const LOOK_LEVEL: f64 = 0.1;

/// What policy says about the principal of a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// What honest members of its team do at the most.
    pub honest: Honest,
    /// How the ladder is climbed and left.
    pub pace: Pace,
    /// Whether the guard only watches.
    pub shadow: bool,
}

/// One prompt of one principal, seen after it was answered.
pub struct Sighting<'a> {
    /// Whose.
    pub principal: &'a str,
    /// What it says of its sender.
    pub prompt: &'a Prompt,
    /// Policy.
    pub terms: &'a Terms,
    /// Seconds since 1970.
    pub now: u64,
    /// Fresh randomness.
    pub chance: u64,
}

/// Everything that the guard remembers of wording. Its key is born with it and lost with it.
#[derive(Debug)]
pub struct Watch {
    key: GuardKey,
    people: People,
    families: Families,
}

impl Watch {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new(key: GuardKey, people: People, families: Families) -> Self {
        Self {
            key,
            people,
            families,
        }
    }

    /// Who is known.
    #[must_use]
    pub const fn people(&self) -> &People {
        &self.people
    }

    /// Templates that many share.
    #[must_use]
    pub const fn families(&self) -> &Families {
        &self.families
    }

    /// The same, to keep words of them or forget those.
    pub const fn families_mut(&mut self) -> &mut Families {
        &mut self.families
    }

    /// Names a family: the same as long as it is known.
    #[must_use]
    pub fn name_of(&self, family: &Family) -> String {
        format!("{:016x}", self.key.hash_words(family.marks()))
    }

    /// The family of this name.
    #[must_use]
    pub fn family(&self, name: &str) -> Option<&Family> {
        let mut all = self.families.families().iter();
        all.find(|family| self.name_of(family) == name)
    }

    /// Whether the principal may have sent prompts of a family: never wrong when it says no.
    #[must_use]
    pub fn families_of(&self, principal: &str) -> usize {
        let hash = self.key.hash(principal.as_bytes());
        let families = self.families.families().iter();
        families
            .filter(|family| family.principals().may_have(hash))
            .count()
    }

    /// Takes a prompt: scores it, bets, and moves the ladder of its principal. `note` is asked for what is known of somebody
    /// who is not here.
    pub fn observe(
        &mut self,
        sighting: &Sighting<'_>,
        note: impl FnOnce() -> Option<Note>,
    ) -> Option<Change> {
        let Sighting {
            principal,
            prompt,
            terms,
            now,
            chance,
        } = *sighting;
        let hash = self.key.hash(principal.as_bytes());
        let shared = self.families.observe(prompt, hash, now).is_some();
        let person = self.meet(principal, terms, now, note);
        person.count_prompt();
        let score = person.sketch.observe(prompt, now);
        let reason = match (person.wager.observe(score), shared) {
            (_, true) => Some(Reason::SharedTemplate),
            (true, false) => Some(Reason::UndeclaredWorkload),
            (false, false) => None,
        };
        if let Some(reason) = reason {
            person.ladder.alarm(reason, chance, &terms.pace, now);
        }
        self.step(principal, terms, now, chance)
    }

    /// A request that was refused because of a step: time passes for the ladder all the same.
    pub fn knock(
        &mut self,
        principal: &str,
        terms: &Terms,
        (now, chance): (u64, u64),
        note: impl FnOnce() -> Option<Note>,
    ) -> Option<Change> {
        self.meet(principal, terms, now, note);
        self.step(principal, terms, now, chance)
    }

    /// A person decides where a principal stands.
    pub fn decide(
        &mut self,
        principal: &str,
        to: Step,
        terms: &Terms,
        (now, chance): (u64, u64),
        note: impl FnOnce() -> Option<Note>,
    ) -> Option<Change> {
        let reference = self.reference(principal, chance);
        let person = self.meet(principal, terms, now, note);
        let change = person.ladder.decide(to, None, now)?;
        person.take(&change, reference, terms.shadow, now);
        Some(change)
    }

    /// Takes a decision back that could not be recorded.
    pub fn put_back(&mut self, principal: &str, note: &Note) {
        if let Some(person) = self.people.known(principal) {
            person.put_back(note);
        }
    }

    /// Principals to look at: their evidence is strong for so many of them (e-BH), strongest first.
    #[must_use]
    pub fn to_look_at(&self) -> Vec<(&str, &Person)> {
        let people: Vec<(&str, &Person)> = self.people.all().collect();
        let values: Vec<f64> = people
            .iter()
            .map(|(_, person)| person.wager.wealth().0)
            .collect();
        let chosen = e_bh(&values, LOOK_LEVEL).into_iter();
        chosen.filter_map(|at| people.get(at).copied()).collect()
    }

    fn meet(
        &mut self,
        principal: &str,
        terms: &Terms,
        now: u64,
        note: impl FnOnce() -> Option<Note>,
    ) -> &mut Person {
        let person = self.people.meet(principal, terms.honest, now, note);
        if !terms.shadow {
            person.leave_shadow(now);
        }
        person
    }

    fn step(&mut self, principal: &str, terms: &Terms, now: u64, chance: u64) -> Option<Change> {
        let reference = self.reference(principal, chance);
        let person = self.people.known(principal)?;
        let change = person.ladder.prompt(&terms.pace, now)?;
        person.take(&change, reference, terms.shadow, now);
        Some(change)
    }

    /// A name for a step that says nothing about it.
    fn reference(&self, principal: &str, chance: u64) -> String {
        let hash = self
            .key
            .hash_words(&[self.key.hash(principal.as_bytes()), chance]);
        format!("{hash:016x}")
    }
}

impl Note {
    /// What holds after the evidence behind a note was lost: one step up, so that a loss does not pay.
    #[must_use]
    pub fn recovered(self, pace: &Pace, now: u64) -> Self {
        let ladder = Ladder::recovered(self.step, pace, now);
        let moved = ladder.step() != self.step;
        Self {
            step: ladder.step(),
            since: if moved { now } else { self.since },
            quiet_since: ladder.quiet_since(),
            ..self
        }
    }

    /// Of somebody of whom nothing is known.
    #[must_use]
    pub fn blank(now: u64) -> Self {
        Self {
            step: Step::Open,
            since: now,
            reason: None,
            reference: String::new(),
            shadow: false,
            quiet_since: now,
            wealth: (1.0, 1.0),
            opening_prompts: 0,
            prompts: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::guard::Background;

    const TERMS: Terms = Terms {
        honest: Honest {
            templated: 0.6,
            repeated: 0.1,
        },
        pace: Pace {
            delay_prompts_max: 3,
            quiet: Duration::from_secs(1000),
            highest: Step::Slowed,
        },
        shadow: false,
    };

    fn watch(people: usize) -> Watch {
        let families = Families::new(Background::default(), 0);
        Watch::new(GuardKey::new([8; 16]), People::new(people), families)
    }

    fn see(watch: &mut Watch, principal: &str, text: &str, terms: &Terms) -> Option<Change> {
        let prompt = Prompt::read(&GuardKey::new([8; 16]), &Background::default(), text);
        let sighting = Sighting {
            principal,
            prompt: &prompt,
            terms,
            now: 50,
            chance: 7,
        };
        watch.observe(&sighting, || None)
    }

    fn scaffold(n: usize) -> String {
        format!("explain in many small steps and plain words why a{n} b{n} c{n} d{n}")
    }

    fn crawl(watch: &mut Watch, principal: &str, count: usize, terms: &Terms) -> Vec<Change> {
        (0..count)
            .filter_map(|n| see(watch, principal, &scaffold(n), terms))
            .collect()
    }

    #[test]
    fn a_crawler_climbs_and_its_neighbour_does_not() {
        let mut watch = watch(10);
        let changes = crawl(&mut watch, "mallory", 200, &TERMS);
        assert_eq!(changes[0].reason, Some(Reason::UndeclaredWorkload));
        assert_eq!(changes.last().unwrap().to, Step::Slowed);
        let note = watch.people().of("mallory").unwrap().note();
        assert_eq!(
            (note.step, note.since, note.prompts),
            (Step::Slowed, 50, 200)
        );
        assert_eq!(note.reference.len(), 16);
        assert_eq!(
            see(
                &mut watch,
                "ada",
                "what is the tallest mountain of Wales?",
                &TERMS
            ),
            None
        );
        assert_eq!(watch.people().of("ada").unwrap().note().step, Step::Open);
    }

    #[test]
    fn s20_twenty_five_identities_with_one_prompt_each_are_a_family_and_each_is_asked_about() {
        let mut watch = watch(100);
        let send =
            |watch: &mut Watch, n: usize| see(watch, &format!("id{n}"), &scaffold(n), &TERMS);
        assert!((0..25).all(|n| send(&mut watch, n).is_none()));
        assert_eq!(watch.families().families().len(), 1);
        assert_eq!(watch.families_of("id3"), 1);
        let late = (25..40).filter_map(|n| see(&mut watch, "late", &scaffold(n), &TERMS));
        assert!(
            late.take(1)
                .all(|change| change.reason == Some(Reason::SharedTemplate))
        );
    }

    #[test]
    fn what_was_only_watched_counts_for_nothing_once_the_guard_acts() {
        let mut watch = watch(10);
        let shadow = Terms {
            shadow: true,
            ..TERMS
        };
        assert!(!crawl(&mut watch, "mallory", 60, &shadow).is_empty());
        assert!(watch.people().of("mallory").unwrap().note().shadow);
        see(
            &mut watch,
            "mallory",
            "what is the tallest mountain of Wales?",
            &TERMS,
        );
        let note = watch.people().of("mallory").unwrap().note();
        assert_eq!((note.step, note.shadow), (Step::Open, false));
    }

    #[test]
    fn a_person_closes_and_opens_and_a_refused_request_lets_time_pass() {
        let mut watch = watch(10);
        let none = || None;
        let closed = watch
            .decide("mallory", Step::SteppedUp, &TERMS, (0, 1), none)
            .unwrap();
        assert_eq!((closed.from, closed.to), (Step::Open, Step::SteppedUp));
        assert_eq!(watch.knock("mallory", &TERMS, (999, 2), none), None);
        assert_eq!(
            watch.knock("mallory", &TERMS, (1000, 3), none).unwrap().to,
            Step::Slowed
        );
        assert_eq!(
            watch.decide("mallory", Step::Slowed, &TERMS, (0, 1), none),
            None
        );
        let before = watch.people().of("mallory").unwrap().note();
        watch
            .decide("mallory", Step::Open, &TERMS, (5, 1), none)
            .unwrap();
        watch.put_back("mallory", &before);
        assert_eq!(watch.people().of("mallory").unwrap().note(), before);
    }

    #[test]
    fn those_to_look_at_are_few_and_strongest_first() {
        let mut watch = watch(100);
        for n in 0..20 {
            see(
                &mut watch,
                &format!("honest{n}"),
                &format!("what is the number {n} in words of old?"),
                &TERMS,
            );
        }
        assert_eq!(watch.to_look_at().len(), 0);
        // Just below its alarm: a bet of 15.9 among 21 is not enough by itself, two of them are neither.
        crawl(&mut watch, "mallory", 14, &TERMS);
        let wealth = watch.people().of("mallory").unwrap().wager.wealth().0;
        assert_eq!(watch.to_look_at().len(), usize::from(wealth >= 210.0));
    }

    #[test]
    fn s24_a_note_whose_evidence_is_lost_stands_one_step_higher() {
        let mut note = Note::blank(5);
        note.step = Step::OptionsWithheld;
        note.since = 3;
        let up = note.clone().recovered(&TERMS.pace, 9);
        assert_eq!(
            (up.step, up.since, up.quiet_since),
            (Step::ReasoningWithheld, 9, 9)
        );
        note.step = Step::Closed;
        let same = note.recovered(&TERMS.pace, 9);
        assert_eq!((same.step, same.since), (Step::Closed, 3));
    }
}
