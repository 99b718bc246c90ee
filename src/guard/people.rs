//! What the guard knows of each principal, for as many as fit. Who was not seen for longest makes room; what is left of him is
//! a [`Note`], which a ledger keeps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::sketch::Sketch;
use super::verdict::{Change, Ladder, Reason, Step};
use super::wager::{Honest, Wager};

/// What is kept of a principal when its sketch is gone: no wording, a few numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Where it stood.
    pub step: Step,
    /// Since when, seconds.
    pub since: u64,
    /// The alarm behind the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Names the step towards its principal and its officer.
    pub reference: String,
    /// Whether the step was taken while the guard only watched.
    pub shadow: bool,
    /// Since when there was no alarm.
    pub quiet_since: u64,
    /// Wealth of the two bets, and prompts of the present opening.
    pub wealth: (f64, f64),
    /// See `wealth`.
    pub opening_prompts: u16,
    /// Prompts that were looked at.
    pub prompts: u64,
}

/// One principal.
#[derive(Debug)]
pub struct Person {
    pub(super) sketch: Box<Sketch>,
    pub(super) wager: Wager,
    pub(super) ladder: Ladder,
    honest: Honest,
    since: u64,
    reason: Option<Reason>,
    reference: String,
    shadow: bool,
    prompts: u64,
    turn: u64,
}

impl Person {
    fn new(honest: Honest, wager: Wager, now: u64) -> Self {
        Self {
            sketch: Box::new(Sketch::new(now)),
            wager,
            ladder: Ladder::new(now),
            honest,
            since: now,
            reason: None,
            reference: String::new(),
            shadow: false,
            prompts: 0,
            turn: 0,
        }
    }

    fn of_note(honest: Honest, wager: Wager, note: &Note, now: u64) -> Self {
        Self {
            wager: wager.resumed(note.wealth, note.opening_prompts),
            ladder: Ladder::resumed(note.step, note.quiet_since),
            since: note.since,
            reason: note.reason,
            reference: note.reference.clone(),
            shadow: note.shadow,
            prompts: note.prompts,
            ..Self::new(honest, wager, now)
        }
    }

    /// What is kept without the sketch.
    #[must_use]
    pub fn note(&self) -> Note {
        Note {
            step: self.ladder.step(),
            since: self.since,
            reason: self.reason,
            reference: self.reference.clone(),
            shadow: self.shadow,
            quiet_since: self.ladder.quiet_since(),
            wealth: self.wager.wealth(),
            opening_prompts: self.wager.prompts(),
            prompts: self.prompts,
        }
    }

    /// How near its stronger bet is to an alarm: 1 is one.
    #[must_use]
    pub fn evidence(&self) -> f64 {
        self.wager.evidence()
    }

    pub(super) fn count_prompt(&mut self) {
        self.prompts = self.prompts.saturating_add(1);
    }

    /// Writes a change of step down. `reference` is fresh.
    pub(super) fn take(&mut self, change: &Change, reference: String, shadow: bool, now: u64) {
        self.since = now;
        self.reason = change
            .reason
            .or(self.reason.filter(|_| change.to > Step::Open));
        self.reference = reference;
        self.shadow = shadow;
    }

    /// A step that was taken while the guard only watched means nothing once it acts.
    pub(super) fn leave_shadow(&mut self, now: u64) {
        if self.shadow {
            self.ladder = Ladder::new(now);
            self.shadow = false;
            self.reason = None;
            self.since = now;
        }
    }
}

/// Principals by name, at most so many.
#[derive(Debug)]
pub struct People {
    limit: usize,
    by_name: HashMap<Arc<str>, Person>,
    by_turn: BTreeMap<u64, Arc<str>>,
    turn: u64,
}

impl People {
    /// Room for `limit` principals, at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            by_name: HashMap::new(),
            by_turn: BTreeMap::new(),
            turn: 0,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// One of them, without counting as seen.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&Person> {
        self.by_name.get(name)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Person)> {
        self.by_name.iter().map(|(name, person)| (&**name, person))
    }

    pub(super) fn known(&mut self, name: &str) -> Option<&mut Person> {
        self.by_name.get_mut(name)
    }

    /// The person of a name, who is the one seen last now, under a ceiling that may be new. `note` is asked for what is known
    /// of somebody who is not here.
    pub(super) fn meet(
        &mut self,
        name: &str,
        honest: Honest,
        now: u64,
        note: impl FnOnce() -> Option<Note>,
    ) -> &mut Person {
        self.turn = self.turn.saturating_add(1);
        let turn = self.turn;
        let wager = || Wager::new(honest).unwrap_or_default();
        let name: Arc<str> = match self.by_name.get_key_value(name) {
            Some((name, person)) => {
                self.by_turn.remove(&person.turn);
                Arc::clone(name)
            }
            None => {
                self.make_room();
                name.into()
            }
        };
        self.by_turn.insert(turn, Arc::clone(&name));
        let person = self.by_name.entry(name).or_insert_with(|| match note() {
            Some(note) => Person::of_note(honest, wager(), &note, now),
            None => Person::new(honest, wager(), now),
        });
        if person.honest != honest {
            (person.honest, person.wager) = (honest, wager());
        }
        person.turn = turn;
        person
    }

    fn make_room(&mut self) {
        while self.by_name.len() >= self.limit {
            let Some((_, name)) = self.by_turn.pop_first() else {
                return;
            };
            self.by_name.remove(&name);
        }
    }

    /// Bytes that one person takes at most, with its places in both tables: the name counts twice its length.
    #[must_use]
    pub const fn bytes_per_person(name_bytes: usize) -> usize {
        // A hash table is at most half empty, a tree's node at most half full.
        let tables = 2 * (size_of::<(Arc<str>, Person)>() + 1) + 2 * size_of::<(u64, Arc<str>)>();
        size_of::<Sketch>() + tables + 2 * name_bytes + 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meet<'a>(people: &'a mut People, name: &str) -> &'a mut Person {
        people.meet(name, Honest::default(), 0, || None)
    }

    #[test]
    fn who_was_not_seen_for_longest_makes_room_and_comes_back_with_a_note() {
        let mut people = People::new(3);
        for name in ["a", "b", "c", "a", "d"] {
            meet(&mut people, name).count_prompt();
        }
        let mut names: Vec<&str> = people.all().map(|(name, _)| name).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "c", "d"]);
        assert_eq!(people.of("a").unwrap().note().prompts, 2);
        let mut note = people.of("a").unwrap().note();
        note.step = Step::Slowed;
        note.wealth = (2.0, 3.0);
        let back = people.meet("b", Honest::default(), 9, || Some(note.clone()));
        assert_eq!(back.note(), note);
        assert_eq!(people.len(), 3);
    }

    #[test]
    fn a_thousand_names_leave_no_more_than_fit() {
        let mut people = People::new(10);
        for n in 0..1000 {
            meet(&mut people, &format!("p{n}"));
            meet(&mut people, "steady");
        }
        assert_eq!((people.len(), people.by_turn.len()), (10, 10));
        assert!(people.of("steady").is_some());
    }

    #[test]
    fn another_ceiling_begins_another_bet() {
        let mut people = People::new(3);
        let person = meet(&mut people, "a");
        person.wager.observe(super::super::Score::Templated);
        let before = person.wager.wealth();
        assert_eq!(meet(&mut people, "a").wager.wealth(), before);
        let stricter = Honest {
            templated: 0.3,
            repeated: 0.1,
        };
        assert_eq!(
            people.meet("a", stricter, 0, || None).wager.wealth(),
            (1.0, 1.0)
        );
    }

    #[test]
    fn a_person_fits_into_its_share_of_memory() {
        let bytes = People::bytes_per_person(256);
        assert!(bytes <= 24 * 1024, "{bytes}");
    }
}
