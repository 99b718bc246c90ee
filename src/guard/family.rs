//! One template that many share, and how prompts of it are told while it is known.

use super::candidates::Principals;
use super::company::{Acquaintance, Brought};
use super::filter::Bits;
use super::scaffold::{self, Sealed, Wording};

/// Heavy shingles that stand for a family: the smallest hashes.
pub(super) const MARKS: usize = 16;

/// One template and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    marks: Vec<u64>,
    /// For each mark in how many distinct prompts it was seen, at least, and its words once they may be kept.
    seen: Vec<(u16, Option<Sealed>)>,
    principals: Principals,
    prompts: u32,
    acquaintance: Acquaintance,
    /// The last day on which its wording alone would have founded it.
    pub(super) day: u64,
}

impl Family {
    /// Of heavy shingles and in how many prompts each was seen, both in ascending order of the former.
    pub(super) fn of(
        heavy: &[(u64, u16)],
        (principals, prompts): (Principals, u32),
        brought: &Brought,
        day: u64,
    ) -> Self {
        let marks = || heavy.iter().take(MARKS);
        Self {
            marks: marks().map(|(mark, _)| *mark).collect(),
            seen: marks().map(|(_, seen)| (*seen, None)).collect(),
            principals,
            prompts,
            acquaintance: Acquaintance::of(brought),
            day,
        }
    }

    /// Distinct prompts with its wording, those before it was found among them.
    #[must_use]
    pub const fn prompts(&self) -> u32 {
        self.prompts
    }

    /// Heavy shingles that stand for it, at most sixteen.
    #[must_use]
    pub fn marks(&self) -> &[u64] {
        &self.marks
    }

    /// In how many distinct prompts each of its marks was seen, at least.
    pub fn seen(&self) -> impl Iterator<Item = u16> {
        self.seen.iter().map(|(seen, _)| *seen)
    }

    /// The words that may be opened.
    pub fn wording(&self) -> impl Iterator<Item = Wording> {
        let marks = self.marks.iter().zip(&self.seen);
        let common = marks.filter(|(_, (seen, _))| *seen >= scaffold::PROMPTS_MIN);
        common.filter_map(|(mark, (_, words))| words.clone().map(|words| (*mark, words)))
    }

    /// Marks that are common enough for their words to be kept, and have none.
    pub(super) fn wordless(&self) -> impl Iterator<Item = u64> {
        let marks = self.marks.iter().zip(&self.seen);
        let wordless =
            marks.filter(|(_, (seen, words))| *seen >= scaffold::PROMPTS_MIN && words.is_none());
        wordless.map(|(mark, _)| *mark)
    }

    /// Keeps words of a mark that is common enough and has none.
    pub(super) fn keep(&mut self, (shingle, words): &Wording) {
        let places = self.marks.iter().zip(&mut self.seen);
        let of_it = places.filter(|(mark, (seen, kept))| {
            *mark == shingle && *seen >= scaffold::PROMPTS_MIN && kept.is_none()
        });
        of_it.for_each(|(_, (_, kept))| *kept = Some(words.clone()));
    }

    pub(super) fn forget_wording(&mut self) {
        self.seen.iter_mut().for_each(|(_, words)| *words = None);
    }

    /// Who sent them.
    #[must_use]
    pub const fn principals(&self) -> &Principals {
        &self.principals
    }

    /// How many of these shingles, ascending, stand for it.
    pub(super) fn shares(&self, shingles: &[u64]) -> usize {
        let mine = self.marks.iter();
        mine.filter(|mark| shingles.binary_search(mark).is_ok())
            .count()
    }

    /// Takes a prompt with its wording. False if nothing in it is new: then it is none of the family's.
    pub(super) fn take(&mut self, shared: &[u64], brought: &Brought, principal: u64) -> bool {
        if !self.acquaintance.meet(brought) {
            return false;
        }
        self.principals.add(principal);
        for (mark, (seen, _)) in self.marks.iter().zip(&mut self.seen) {
            if shared.binary_search(mark).is_ok() {
                *seen = seen.saturating_add(1);
            }
        }
        self.prompts = self.prompts.saturating_add(1);
        true
    }
}

/// The marks of all families, to tell them in every prompt.
#[derive(Debug)]
pub(super) struct Marks {
    /// Most shingles are no mark, and one bit says so.
    maybe: Bits<MAYBE_WORDS>,
    /// All of them, ascending, and the place of the family that has each.
    all: Vec<u64>,
    families: Vec<u16>,
}

/// Words of 64 bits: one place in eight is taken by as many marks as there can be.
const MAYBE_WORDS: usize = 2048;

impl Marks {
    pub(super) fn of(families: &[Family]) -> Self {
        let mut all: Vec<(u64, u16)> = Vec::new();
        for (at, family) in (0..).zip(families) {
            all.extend(family.marks.iter().map(|mark| (*mark, at)));
        }
        all.sort_unstable();
        let (all, families): (Vec<u64>, Vec<u16>) = all.into_iter().unzip();
        Self {
            maybe: Bits::of(&all),
            all,
            families,
        }
    }

    pub(super) fn has(&self, shingle: u64) -> bool {
        self.maybe.may_have(shingle) && self.families_of(shingle).next().is_some()
    }

    /// The place of the family that shares most of these shingles, and how many. However many families there are, only those that
    /// share one are looked at.
    pub(super) fn nearest(&self, shingles: &[u64]) -> Option<(usize, usize)> {
        let marks = shingles.iter().filter(|one| self.maybe.may_have(**one));
        let shared = marks.flat_map(|one| self.families_of(*one));
        let mut shared: Vec<u16> = shared.collect();
        shared.sort_unstable();
        let families = shared.chunk_by(|one, next| one == next);
        let families = families.filter_map(|one| Some((one.len(), usize::from(*one.first()?))));
        families.max()
    }

    fn families_of(&self, shingle: u64) -> impl Iterator<Item = u16> {
        let from = self.all.partition_point(|mark| *mark < shingle);
        let families = self.all.iter().zip(&self.families).skip(from);
        let of_it = families.take_while(move |(mark, _)| **mark == shingle);
        of_it.map(|(_, family)| *family)
    }

    pub(super) const fn bytes_max(families: usize) -> usize {
        let marks = families * MARKS * (size_of::<u64>() + size_of::<u16>());
        Bits::<MAYBE_WORDS>::bytes() + marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_of_the_family_with_which_it_shares_most_marks() {
        let nothing = Brought::new(Vec::new());
        let family = |marks: [u64; 5]| {
            let heavy = marks.map(|mark| (mark, 20));
            Family::of(&heavy, (Principals::ALL, 20), &nothing, 0)
        };
        let families = [[1, 2, 3, 4, 5], [4, 5, 6, 7, 8], [4, 5, 6, 7, 9]].map(family);
        let marks = Marks::of(&families);
        assert_eq!(marks.nearest(&[1, 2, 3, 4]), Some((4, 0)));
        assert_eq!(marks.nearest(&[4, 5, 6, 8]), Some((4, 1)));
        assert_eq!(
            marks.nearest(&[4, 5, 6, 7]),
            Some((4, 2)),
            "of equals the last"
        );
        assert_eq!(marks.nearest(&[3, 10, 11]), Some((1, 0)));
        assert_eq!(marks.nearest(&[10, 11]), None);
        assert!(marks.has(9) && !marks.has(10));
        for (at, family) in families.iter().enumerate() {
            assert_eq!(marks.nearest(family.marks()), Some((5, at)));
        }
    }
}
