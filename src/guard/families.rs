//! Templates that many identities share: counts of wording over a whole organisation, in under 16 MiB. One prompt a day from
//! each of twenty-five identities shows here and nowhere else. No text is kept, and no list of who sent what.

use std::collections::HashSet;

use super::background::Background;
use super::filter::places;
use super::scaffold::{self, Sealed, Wording};
use super::shingle::Prompt;

/// A shingle is heavy in so many distinct prompts of so many principals.
const PROMPTS_MIN: u16 = 20;
const PRINCIPALS_MIN: u32 = 5;
/// Who sends a shingle is noted from this prompt on.
const NOTED_FROM: u16 = 4;
/// A prompt belongs to a family that shares so many heavy shingles with it. To found one takes more: common phrases of six or
/// seven words have four or five, and founded nine false families on sixty honest calibration days.
const SHARED_MIN: usize = 4;
const FOUNDED_MIN: usize = 6;
/// Heavy shingles that stand for a family: the smallest hashes.
const MARKS: usize = 16;

const SECONDS_PER_DAY: u64 = 86_400;
/// Distinct prompts of one day; beyond them the older half is forgotten, so that no flood fills the filter.
const PROMPTS_PER_AGE: u32 = 500_000;

const ROWS: usize = 4;
const COLUMNS: usize = 1 << 20;
const ASKED_WORDS: usize = 1 << 16;
const SETS: usize = 1024;
const WAYS: usize = 8;
const FAMILIES_MAX: usize = 1024;
/// Bytes of a shingle's sealed words.
const WORDING_BYTES_MAX: usize = 128;

/// Which of 512 places principals fall on: enough to tell five from one, and who surely is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Principals([u64; 8]);

impl Principals {
    fn add(&mut self, principal: u64) {
        for (word, bit) in places::<8>(principal).take(1) {
            if let Some(word) = self.0.get_mut(word) {
                *word |= bit;
            }
        }
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

    fn both(self, other: &Self) -> Self {
        let mut both = self;
        for (word, other) in both.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        both
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Candidate {
    shingle: u64,
    principals: Principals,
    /// Distinct prompts with it since it is noted: never too many, as a sketch's number may be.
    prompts: u16,
}

/// One template and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    marks: Vec<u64>,
    /// For each mark in how many distinct prompts it was seen, at least, and its words once they may be kept.
    seen: Vec<(u16, Option<Sealed>)>,
    principals: Principals,
    prompts: u32,
    day: u64,
}

impl Family {
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
    fn wordless(&self) -> impl Iterator<Item = u64> {
        let marks = self.marks.iter().zip(&self.seen);
        let wordless =
            marks.filter(|(_, (seen, words))| *seen >= scaffold::PROMPTS_MIN && words.is_none());
        wordless.map(|(mark, _)| *mark)
    }

    fn count(&mut self, heavy: &[u64]) {
        for (mark, (seen, _)) in self.marks.iter().zip(&mut self.seen) {
            if heavy.binary_search(mark).is_ok() {
                *seen = seen.saturating_add(1);
            }
        }
    }

    /// Who sent them.
    #[must_use]
    pub const fn principals(&self) -> &Principals {
        &self.principals
    }

    fn shares(&self, heavy: &[u64]) -> usize {
        let mine = self.marks.iter();
        mine.filter(|mark| heavy.binary_search(mark).is_ok())
            .count()
    }
}

/// The wording of an organisation. Counts are quartered each day, families without prompts for a week go.
#[derive(Debug)]
pub struct Families {
    instructions: Background,
    counts: Vec<u16>,
    asked: [Vec<u64>; 2],
    asked_added: u32,
    candidates: Vec<Candidate>,
    families: Vec<Family>,
    day: u64,
}

impl Families {
    /// Nothing counted yet; days begin at multiples of 86,400 seconds. `instructions` is how anybody begins to ask ("answer the
    /// following question"): of many people it says nothing, though of one it may, so a [`super::Sketch`] counts it.
    #[must_use]
    pub fn new(instructions: Background, now: u64) -> Self {
        Self {
            instructions,
            counts: vec![0; ROWS * COLUMNS],
            asked: [vec![0; ASKED_WORDS], vec![0; ASKED_WORDS]],
            asked_added: 0,
            candidates: vec![Candidate::default(); SETS * WAYS],
            families: Vec::new(),
            day: now / SECONDS_PER_DAY,
        }
    }

    /// Bytes that a full table takes.
    #[must_use]
    pub const fn bytes_max() -> usize {
        // Three words of a bounded length, and what sealing adds.
        let words = size_of::<(u16, Option<Sealed>)>() + WORDING_BYTES_MAX;
        let families = FAMILIES_MAX * (size_of::<Family>() + MARKS * (size_of::<u64>() + words));
        ROWS * COLUMNS * size_of::<u16>()
            + 2 * ASKED_WORDS * size_of::<u64>()
            + SETS * WAYS * size_of::<Candidate>()
            + families
    }

    /// The families known now.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Shingles whose words are to be kept from the next prompt that has them: see [`scaffold`].
    #[must_use]
    pub fn wanted(&self) -> HashSet<u64> {
        self.families.iter().flat_map(Family::wordless).collect()
    }

    /// Keeps words of shingles that are common enough, and no others.
    pub fn keep(&mut self, wording: &[Wording]) {
        for (shingle, words) in wording {
            for family in &mut self.families {
                let places = family.marks.iter().zip(&mut family.seen);
                let of_it = places.filter(|(mark, (seen, kept))| {
                    *mark == shingle && *seen >= scaffold::PROMPTS_MIN && kept.is_none()
                });
                of_it.for_each(|(_, (_, kept))| *kept = Some(words.clone()));
            }
        }
    }

    /// Forgets all words.
    pub fn forget_wording(&mut self) {
        let all = self.families.iter_mut().flat_map(|family| &mut family.seen);
        all.for_each(|(_, words)| *words = None);
    }

    /// Counts a prompt of a principal, which is a keyed hash. The family that it belongs to, if any; what was asked before word
    /// for word, by whomever, is not counted and belongs to none. A clock that goes back ages nothing.
    pub fn observe(&mut self, prompt: &Prompt, principal: u64, now: u64) -> Option<&Family> {
        self.age(now / SECONDS_PER_DAY);
        if prompt.is_blank() || !self.is_first(prompt.digest()) {
            return None;
        }
        let (mut heavy, mut seen) = (Vec::new(), Vec::new());
        let mut common = Principals([u64::MAX; 8]);
        let mut least = u16::MAX;
        for shingle in prompt.shingles() {
            if self.instructions.has(*shingle) {
                continue;
            }
            let prompts = self.count(*shingle);
            if prompts < NOTED_FROM {
                continue;
            }
            let (principals, noted) = self.note(*shingle, principal);
            if prompts >= PROMPTS_MIN && principals.count() >= PRINCIPALS_MIN {
                heavy.push(*shingle);
                seen.push(noted);
                common = common.both(&principals);
                least = least.min(prompts);
            }
        }
        if heavy.len() < SHARED_MIN {
            return None;
        }
        let at = self.join((&heavy, &seen), principal, (common, u32::from(least)))?;
        self.families.get(at)
    }

    fn is_first(&mut self, digest: u64) -> bool {
        let known = |filter: &Vec<u64>| {
            places::<ASKED_WORDS>(digest)
                .all(|(word, bit)| filter.get(word).is_some_and(|word| word & bit != 0))
        };
        if self.asked.iter().any(known) {
            return false;
        }
        let [young, _] = &mut self.asked;
        for (word, bit) in places::<ASKED_WORDS>(digest) {
            if let Some(word) = young.get_mut(word) {
                *word |= bit;
            }
        }
        self.asked_added = self.asked_added.saturating_add(1);
        if self.asked_added >= PROMPTS_PER_AGE {
            self.forget_asked();
        }
        true
    }

    fn forget_asked(&mut self) {
        let [young, old] = &mut self.asked;
        std::mem::swap(young, old);
        young.fill(0);
        self.asked_added = 0;
    }

    /// A count-min sketch with conservative update; the count with this prompt.
    fn count(&mut self, shingle: u64) -> u16 {
        let cells = columns(shingle);
        let before = cells.iter().filter_map(|cell| self.counts.get(*cell));
        let now = before.min().copied().unwrap_or(0).saturating_add(1);
        for cell in cells {
            if let Some(cell) = self.counts.get_mut(cell) {
                *cell = (*cell).max(now);
            }
        }
        now
    }

    /// Notes who sends a shingle. Where there is no room, the wording of the fewest principals gives way: it is somebody's own.
    fn note(&mut self, shingle: u64, principal: u64) -> (Principals, u16) {
        let set = usize::try_from(shingle % SETS as u64).unwrap_or(0);
        let Some(ways) = self.candidates.chunks_exact_mut(WAYS).nth(set) else {
            return Default::default();
        };
        let known = ways.iter().position(|way| way.shingle == shingle);
        let fewest = || (0..WAYS).min_by_key(|at| ways.get(*at).map(|way| way.principals.count()));
        let Some(at) = known.or_else(fewest) else {
            return Default::default();
        };
        let Some(way) = ways.get_mut(at) else {
            return Default::default();
        };
        if known.is_none() {
            *way = Candidate {
                shingle,
                ..Candidate::default()
            };
        }
        way.principals.add(principal);
        way.prompts = way.prompts.saturating_add(1);
        (way.principals, way.prompts)
    }

    /// Joins the family that shares most, or founds one with who is known to send all of `heavy`, and how many at least.
    fn join(
        &mut self,
        (heavy, seen): (&[u64], &[u16]),
        principal: u64,
        (common, least): (Principals, u32),
    ) -> Option<usize> {
        let shared = self.families.iter().map(|family| family.shares(heavy));
        let (most, at) = shared
            .zip(0..)
            .max_by_key(|(shared, _)| *shared)
            .unwrap_or((0, 0));
        if most >= SHARED_MIN {
            let family = self.families.get_mut(at)?;
            family.principals.add(principal);
            family.count(heavy);
            family.prompts = family.prompts.saturating_add(1);
            family.day = self.day;
            return Some(at);
        }
        if heavy.len() < FOUNDED_MIN {
            return None;
        }
        let founded = Family {
            marks: heavy.iter().take(MARKS).copied().collect(),
            seen: seen.iter().take(MARKS).map(|seen| (*seen, None)).collect(),
            principals: common,
            prompts: least,
            day: self.day,
        };
        if self.families.len() < FAMILIES_MAX {
            self.families.push(founded);
            return self.families.len().checked_sub(1);
        }
        // The smallest family gives way.
        let smallest = (0..).zip(&self.families);
        let (at, _) = smallest.min_by_key(|(_, family)| (family.day, family.prompts))?;
        *self.families.get_mut(at)? = founded;
        Some(at)
    }

    fn age(&mut self, day: u64) {
        let days = day.saturating_sub(self.day);
        if days == 0 {
            return;
        }
        self.day = day;
        // Halved only, counts of ordinary days would double; what is left must not reach the bar by itself.
        let shift = u32::try_from(days.saturating_mul(2).min(15)).unwrap_or(15);
        for cell in &mut self.counts {
            *cell >>= shift;
        }
        // Yesterday's exact repeats are still told from new prompts, older ones are not.
        for _ in 0..days.min(2) {
            self.forget_asked();
        }
        self.candidates.fill(Candidate::default());
        self.families
            .retain(|family| day.saturating_sub(family.day) < 7);
    }
}

fn columns(shingle: u64) -> [usize; ROWS] {
    let mut row = 0;
    [0, 14, 28, 44].map(|shift| {
        let column = usize::try_from((shingle >> shift) % COLUMNS as u64).unwrap_or(0);
        row += COLUMNS;
        row - COLUMNS + column
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Background, GuardKey};

    const TEMPLATE: &str = "explain in many small steps and plain words why";

    fn send(families: &mut Families, text: &str, principal: u64, now: u64) -> Option<Family> {
        let key = GuardKey::new([5; 16]);
        let prompt = Prompt::read(&key, &Background::default(), text);
        let found = families.observe(&prompt, key.hash_words(&[principal]), now);
        found.cloned()
    }

    fn spread(families: &mut Families, principals: u64, prompts: u64, now: u64) -> Option<Family> {
        let mut last = None;
        for n in 0..prompts {
            let text = format!("{TEMPLATE} x{n}d{now} y{n}d{now} z{n}d{now}");
            last = send(families, &text, n % principals, now);
        }
        last
    }

    #[test]
    fn twenty_prompts_of_many_identities_are_a_family_and_of_one_are_none() {
        let family = spread(&mut Families::new(Background::default(), 0), 25, 25, 0).unwrap();
        assert_eq!(family.prompts(), 25, "those before it was found count");
        assert!(family.principals().count() >= 20, "{family:?}");
        let key = GuardKey::new([5; 16]);
        assert!(family.principals().may_have(key.hash_words(&[24])));
        assert_eq!(
            spread(&mut Families::new(Background::default(), 0), 25, 19, 0),
            None
        );
        assert_eq!(
            spread(&mut Families::new(Background::default(), 0), 4, 100, 0),
            None
        );
    }

    /// What a family says of words: which it wants, and that others are never kept.
    #[test]
    fn words_are_kept_of_what_twenty_prompts_have_and_of_no_slot() {
        let key = GuardKey::new([5; 16]);
        let seals = scaffold::Seals::new(&[1; 32]).unwrap();
        let mut families = Families::new(Background::default(), 0);
        assert!(spread(&mut families, 25, 22, 0).is_some());
        assert_eq!(
            families.wanted().len(),
            0,
            "noted in nineteen, from the fourth on"
        );
        spread(&mut families, 25, 30, 1);
        let wanted = families.wanted();
        assert!(!wanted.is_empty());
        let text = format!("{TEMPLATE} slot of mine");
        let prompt = Prompt::read(&key, &Background::default(), &text);
        let all: HashSet<u64> = prompt.shingles().iter().copied().collect();
        // Even whoever hands over all words of a prompt leaves only those of the scaffold.
        families.keep(&seals.wording(&key, &text, &all));
        let kept: Vec<String> = families.families()[0]
            .wording()
            .map(|words| seals.open(&words).unwrap())
            .collect();
        assert!(kept.len() >= 5, "{kept:?}");
        for words in &kept {
            assert!(TEMPLATE.contains(words.as_str()), "{words}");
        }
        let left = families.wanted();
        assert!(left.len() < wanted.len() && left.is_subset(&wanted));
        families.forget_wording();
        assert_eq!(families.families()[0].wording().count(), 0);
    }

    #[test]
    fn what_everybody_asks_word_for_word_is_no_family() {
        let mut families = Families::new(Background::default(), 0);
        for principal in 0..100 {
            let text = format!("{TEMPLATE} the sky is blue");
            assert_eq!(send(&mut families, &text, principal, 0), None);
        }
        assert_eq!(families.families(), []);
    }

    #[test]
    fn a_family_is_kept_for_a_week_and_a_clock_that_goes_back_changes_nothing() {
        let day = SECONDS_PER_DAY;
        let mut families = Families::new(Background::default(), 10 * day);
        assert!(spread(&mut families, 25, 25, 10 * day).is_some());
        send(&mut families, "something else than that", 1, 0);
        assert_eq!(families.families().len(), 1);
        send(&mut families, "something new on day sixteen", 1, 16 * day);
        assert_eq!(families.families().len(), 1);
        send(&mut families, "something new on day seventeen", 1, 17 * day);
        assert_eq!(families.families(), []);
    }

    #[test]
    fn an_organisation_costs_less_than_sixteen_mebibytes() {
        let backgrounds = 2 << 20;
        assert!(Families::bytes_max() + backgrounds < 16 << 20);
    }
}
