//! Wording that may become a template's: who sends each shingle that several prompts of a day have, and whether it stands around
//! something new each time. Bounded: where there is no room, the wording of the fewest people gives way.

use std::mem;

use super::company::{Brought, Company};
use super::filter::places;

const SETS: usize = 1024;
const WAYS: usize = 8;

/// So many prompts of a day with a shingle must have brought something new: two thirds of those that make a family, set on honest
/// calibration weeks alone (docs/GUARD.md). And one in so many of those that were judged, however many there are.
const VARIED_MIN: u16 = 13;
const VARIED_ONE_IN: u16 = 4;

/// Which of 512 places principals fall on: enough to tell five from one, and who surely is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Principals([u64; 8]);

impl Principals {
    /// Everybody there could be.
    pub(super) const ALL: Self = Self([u64::MAX; 8]);

    /// Adds one; whether that takes a place more.
    pub(super) fn add(&mut self, principal: u64) -> bool {
        let before = self.may_have(principal);
        for (word, bit) in places::<8>(principal).take(1) {
            if let Some(word) = self.0.get_mut(word) {
                *word |= bit;
            }
        }
        !before
    }

    /// Whether this principal may be among them: never wrong when it says no.
    #[must_use]
    pub fn may_have(&self, principal: u64) -> bool {
        places::<8>(principal)
            .take(1)
            .all(|(word, bit)| self.0.get(word).is_some_and(|word| word & bit != 0))
    }

    /// At least so many; fewer than there are when some share a place.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    pub(super) fn both(self, other: &Self) -> Self {
        let mut both = self;
        for (word, other) in both.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        both
    }
}

/// One shingle of a day.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Candidate {
    pub(super) principals: Principals,
    /// How many those are, at least.
    pub(super) people: u16,
    /// Distinct prompts with it since it is noted: never too many, as a sketch's number may be.
    pub(super) prompts: u16,
    /// Prompts of which it was asked whether they brought something new, and those that did.
    judged: u16,
    varied: u16,
    /// Whether its company is its own: what stood there before is forgotten only when the place is needed.
    has_company: bool,
}

impl Candidate {
    fn note(&mut self, principal: u64) {
        let is_another = self.principals.add(principal);
        self.people = self.people.saturating_add(is_another.into());
        self.prompts = self.prompts.saturating_add(1);
    }

    /// Whether what stands around it varies as a template's slot does.
    pub(super) fn varies(&self) -> bool {
        self.varied >= VARIED_MIN && self.varied.saturating_mul(VARIED_ONE_IN) >= self.judged
    }
}

/// All of them, and what was seen with each. Shingles lie apart, the eight of a set beside each other, since a prompt looks for
/// hundreds and finds few.
#[derive(Debug)]
pub(super) struct Candidates {
    shingles: Vec<[u64; WAYS]>,
    all: Vec<Candidate>,
    companies: Vec<Company>,
}

impl Candidates {
    pub(super) fn new() -> Self {
        Self {
            shingles: vec![[0; WAYS]; SETS],
            all: vec![Candidate::default(); SETS * WAYS],
            companies: vec![Company::default(); SETS * WAYS],
        }
    }

    pub(super) const fn bytes() -> usize {
        SETS * WAYS * (size_of::<u64>() + size_of::<Candidate>() + size_of::<Company>())
    }

    pub(super) fn forget(&mut self) {
        self.shingles.fill([0; WAYS]);
        self.all.fill(Candidate::default());
        // Nothing reads these any more, and nothing of a day is kept.
        self.companies.fill(Company::default());
    }

    /// Notes who sends a shingle and, if it is to be `judged`, around what.
    pub(super) fn note(
        &mut self,
        shingle: u64,
        principal: u64,
        judged: Option<&Brought>,
    ) -> Option<&Candidate> {
        let set = usize::try_from(shingle % SETS as u64).unwrap_or(0);
        let (shingles, first) = (self.shingles.get_mut(set)?, set * WAYS);
        let known = shingles.iter().position(|way| *way == shingle);
        let ways = self.all.get(first..first + WAYS)?;
        let fewest = || (0..WAYS).min_by_key(|at| ways.get(*at).map(|way| way.people));
        let way = known.or_else(fewest)?;
        let at = first + way;
        let (one, company) = (self.all.get_mut(at)?, self.companies.get_mut(at)?);
        if known.is_none() {
            *shingles.get_mut(way)? = shingle;
            *one = Candidate::default();
        }
        one.note(principal);
        if judged.is_some() && !mem::replace(&mut one.has_company, true) {
            company.forget();
        }
        if let Some(varied) = judged.and_then(|brought| company.meet(brought)) {
            one.judged = one.judged.saturating_add(1);
            one.varied = one.varied.saturating_add(varied.into());
        }
        Some(one)
    }
}
