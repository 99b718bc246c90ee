//! What stands around shared wording, prompt after prompt: whether each brings something new, or is the same thing in other clothes.
//!
//! A template that is sent for its answers holds another slot each time, and each is new to its sender. A question that many ask
//! is the same each time; what differs is how each of them wraps it, and that its sender had sent before.

use super::filter::RoomyFilter;

/// A word that was changed at an edge is in a shingle, and in the mark of its line's edge. One within is in three: the smallest
/// slot.
const AN_EDGE: u32 = 2;
/// A sender's own wording around a known question makes so many new shingles with it: two at each seam.
const TWO_SEAMS: u32 = 4;

/// Words of 64 bits of a [`Company`].
const COMPANY_WORDS: usize = 48;
/// Places that are taken before it begins anew, an eighth: few new shingles fall on one of them.
const TAKEN_MAX: u32 = 384;

/// Words of an [`Acquaintance`], and shingles before it forgets the older half.
const ACQUAINTANCE_WORDS: usize = 64;
const ACQUAINTED_MAX: u32 = 300;

/// Whether so much is more than what a question brings that was asked before: with something around it that its sender had sent
/// before, more than the seams of a wrapper; otherwise more than a word changed at an edge.
const fn is_new(fresh: u32, own: u32) -> bool {
    fresh > if own == 0 { AN_EDGE } else { TWO_SEAMS }
}

/// What a prompt brings: its shingles, public ones too, and which of them are new to its sender.
#[derive(Debug)]
pub(super) struct Brought {
    all: Vec<(u64, bool)>,
    /// Places of all, how many those are, and which of them are of what is new to the sender.
    places: Places,
    taken: u32,
    fresh: Places,
}

type Places = [u64; COMPANY_WORDS];

impl Brought {
    /// `all` says of each shingle whether it is new to the sender.
    pub(super) fn new(all: Vec<(u64, bool)>) -> Self {
        let (mut places, mut fresh) = ([0; COMPANY_WORDS], [0; COMPANY_WORDS]);
        for (shingle, is_fresh) in &all {
            let (word, bit) = place(*shingle);
            if let (Some(places), Some(fresh)) = (places.get_mut(word), fresh.get_mut(word)) {
                *places |= bit;
                *fresh |= if *is_fresh { bit } else { 0 };
            }
        }
        let taken = places.iter().map(|word: &u64| word.count_ones()).sum();
        Self {
            all,
            places,
            taken,
            fresh,
        }
    }
}

/// What was seen with one shingle, on 3,072 places: nearly exact for short prompts, and a prompt is compared in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Company {
    places: Places,
    taken: u32,
}

impl Default for Company {
    fn default() -> Self {
        Self {
            places: [0; COMPANY_WORDS],
            taken: 0,
        }
    }
}

impl Company {
    /// Begins anew.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes a prompt. Whether it brings something new; nothing can be said of the first one.
    pub(super) fn meet(&mut self, brought: &Brought) -> Option<bool> {
        match self.taken {
            0 => {
                self.hold(brought);
                None
            }
            1..=TAKEN_MAX => {
                let (fresh, own) = self.enter(brought);
                Some(is_new(fresh, own))
            }
            _ => {
                let is_new = self.lacks_much_of(brought);
                // What they share is in this prompt too.
                self.hold(brought);
                Some(is_new)
            }
        }
    }

    /// Begins anew with a prompt.
    const fn hold(&mut self, brought: &Brought) {
        self.places = brought.places;
        self.taken = brought.taken;
    }

    /// How many new places were of what is new to the sender, and of the rest.
    fn enter(&mut self, brought: &Brought) -> (u32, u32) {
        let (mut fresh, mut own) = (0_u32, 0_u32);
        let of = brought.fresh.iter().zip(&brought.places);
        for (known, (new, all)) in self.places.iter_mut().zip(of) {
            // There are 3,072 places: nothing wraps, and unchecked it is done for several words at once.
            fresh = fresh.wrapping_add((new & !*known).count_ones());
            own = own.wrapping_add((all & !new & !*known).count_ones());
            *known |= all;
        }
        self.taken = self.taken.saturating_add(fresh).saturating_add(own);
        (fresh, own)
    }

    /// Whether a prompt brings something new, told without counting all of it: of a long one the first words say so.
    fn lacks_much_of(&self, brought: &Brought) -> bool {
        let (mut fresh, mut own) = (0_u32, 0_u64);
        let of = brought.fresh.iter().zip(&brought.places);
        for (known, (new, all)) in self.places.iter().zip(of) {
            fresh = fresh.saturating_add((new & !known).count_ones());
            own |= all & !new & !known;
            if fresh > TWO_SEAMS {
                return true;
            }
        }
        is_new(fresh, u32::from(own != 0))
    }
}

/// What was seen with a family: larger, because one prompt is judged by it and not the sum of twenty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Acquaintance(RoomyFilter<ACQUAINTANCE_WORDS>);

impl Acquaintance {
    pub(super) const fn bytes() -> usize {
        RoomyFilter::<ACQUAINTANCE_WORDS>::bytes()
    }

    /// Knows one prompt.
    pub(super) fn of(brought: &Brought) -> Self {
        let mut known = Self::default();
        known.enter(brought);
        known
    }

    /// Takes a prompt. Whether it brings something new.
    pub(super) fn meet(&mut self, brought: &Brought) -> bool {
        let (mut fresh, mut own) = (0_u32, 0_u32);
        for (shingle, is_fresh) in &brought.all {
            if !self.0.add(*shingle) {
                let of = if *is_fresh { &mut fresh } else { &mut own };
                *of = of.saturating_add(1);
            }
        }
        if self.0.added() >= ACQUAINTED_MAX {
            self.0.age();
            self.enter(brought);
        }
        is_new(fresh, own)
    }

    fn enter(&mut self, brought: &Brought) {
        for (shingle, _) in &brought.all {
            self.0.add(*shingle);
        }
    }
}

/// The place of a shingle, as a word and its bit.
fn place(shingle: u64) -> (usize, u64) {
    let place = (shingle >> 32) % (COMPANY_WORDS as u64 * 64);
    (usize::try_from(place / 64).unwrap_or(0), 1 << (place % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Background, GuardKey, Prompt};

    /// What a sender brings who had sent `before`.
    fn brought(before: &str, text: &str) -> Brought {
        let key = GuardKey::new([2; 16]);
        let read = |text| Prompt::read(&key, &Background::default(), text);
        let (before, now) = (read(before), read(text));
        let is_fresh = |one: &u64| !before.shingles().contains(one);
        let all = now.shingles().iter().map(|one| (*one, is_fresh(one)));
        Brought::new(all.collect())
    }

    /// What both say of the second prompt.
    fn is_new(first: &Brought, second: &Brought) -> bool {
        let mut company = Company::default();
        assert_eq!(company.meet(first), None);
        let new = company.meet(second).unwrap();
        assert_eq!(Acquaintance::of(first).meet(second), new);
        new
    }

    const QUESTION: &str = "why is the harbour of Ghent closed on the second Monday of May";

    #[test]
    fn a_question_in_a_wrapper_that_its_sender_had_sent_is_nothing_new() {
        let wrap = |who: u64, text: &str| {
            format!(
                "my{who} very{who} own{who} words{who} {text} and{who} now{who} in{who} short{who}"
            )
        };
        let wrapped = |who| brought(&wrap(who, "when"), &wrap(who, QUESTION));
        assert!(!is_new(&wrapped(1), &wrapped(2)), "two seams");
        let first_time = brought("", &wrap(2, QUESTION));
        assert!(is_new(&wrapped(1), &first_time));
        let other = "who built the tower that stands beside the old canal";
        assert!(is_new(
            &wrapped(1),
            &brought(&wrap(2, "when"), &wrap(2, other))
        ));
    }

    #[test]
    fn a_word_that_was_changed_at_an_edge_is_nothing_new_and_a_slot_is() {
        let plain = |text: &str| brought("", text);
        for (from, to) in [("why", "when"), ("of May", "of June")] {
            let changed = plain(&QUESTION.replacen(from, to, 1));
            assert!(!is_new(&plain(QUESTION), &changed), "{to}");
        }
        for (from, to) in [("is", "was"), ("closed", "shut")] {
            let slot = plain(&QUESTION.replacen(from, to, 1));
            assert!(is_new(&plain(QUESTION), &slot), "{to}");
        }
        let slot = |slot: &str| {
            plain(&format!(
                "explain in many small steps and plain words {slot}"
            ))
        };
        assert!(is_new(
            &slot("how ice becomes water"),
            &slot("where eels go in winter")
        ));
    }

    /// A prompt of hashes, of which these are new to its sender.
    fn of_hashes(hashes: std::ops::Range<u64>, is_fresh: impl Fn(u64) -> bool) -> Brought {
        let key = GuardKey::new([2; 16]);
        let all = hashes.map(|n| (key.hash_words(&[n]), is_fresh(n)));
        Brought::new(all.collect())
    }

    #[test]
    fn long_prompts_are_judged_as_if_all_of_them_were_counted() {
        let mut full = Company::default();
        full.meet(&of_hashes(0..500, |_| true));
        assert!(full.taken > TAKEN_MAX);
        let mut judged = [0; 2];
        for fresh in 0..8 {
            for own in 0..3 {
                let next = of_hashes(100..500 + fresh + own, |n| n < 500 + fresh);
                let (new, old) = { full }.enter(&next);
                let mut met = full;
                let is_new = met.meet(&next).unwrap();
                assert_eq!(is_new, super::is_new(new, old), "{fresh} and {own}");
                judged[usize::from(is_new)] += 1;
                let mut alone = Company::default();
                alone.meet(&next);
                assert_eq!((met.places, met.taken), (alone.places, alone.taken));
            }
        }
        assert!(judged.iter().all(|times| *times > 5), "{judged:?}");
    }

    #[test]
    fn whoever_sends_the_same_template_again_brings_its_slot_alone() {
        let slot =
            |n: u64| format!("explain in many small steps and plain words a{n} b{n} c{n} d{n}");
        let mut company = Company::default();
        let mut acquaintance = Acquaintance::of(&brought("", &slot(0)));
        company.meet(&brought("", &slot(0)));
        for n in 1..200 {
            let again = brought(&slot(n - 1), &slot(n));
            let new = acquaintance.meet(&again);
            assert!(new || n % 20 == 0, "{n}: with more than is remembered, too");
            company.meet(&again);
        }
        let nothing = brought(&slot(3), &slot(199));
        assert_eq!(company.meet(&nothing), Some(false));
        assert!(!acquaintance.meet(&nothing));
    }
}
