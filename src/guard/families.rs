//! Templates that many identities share: counts of wording over a whole organisation, in under 16 MiB. One prompt a day from
//! each of twenty-five identities shows here and nowhere else. No text is kept, and no list of who sent what.

use std::collections::HashSet;

use super::background::Background;
use super::candidates::{Candidates, Principals};
use super::company::{Acquaintance, Brought};
use super::counts::Counts;
use super::family::{Family, MARKS, Marks};
use super::filter::RoomyFilter;
use super::scaffold::{Sealed, Wording};
use super::shingle::Prompt;

/// A shingle is heavy in so many distinct prompts of so many principals.
const PROMPTS_MIN: u8 = 20;
const PRINCIPALS_MIN: u16 = 5;
/// Who sends a shingle is noted from this prompt on.
const NOTED_FROM: u8 = 4;
/// Shingles of a prompt, the smallest, for which this is done at most, beside those that stand for a family.
const NOTED_MAX: usize = 64;
/// Of how many it is asked what they stand around: twice as many as stand for a family.
const JUDGED_MAX: usize = 32;
/// A prompt belongs to a family that shares so many shingles with it. To found one takes more: common phrases of six or
/// seven words have four or five, and founded nine false families on sixty honest calibration days.
const SHARED_MIN: usize = 4;
const FOUNDED_MIN: usize = 6;

const SECONDS_PER_DAY: u64 = 86_400;
/// Days for which a family is known after the last one on which its wording was heavy.
const DAYS_KNOWN: u64 = 7;
/// Distinct prompts of one day; beyond them the older half is forgotten, so that no flood fills the filter.
const PROMPTS_PER_AGE: u32 = 500_000;
/// The same of shingles and who sent them.
const SENT_PER_AGE: u32 = 500_000;

const ASKED_WORDS: usize = 1 << 16;
const SENT_WORDS: usize = 1 << 16;
const FAMILIES_MAX: usize = 1024;
/// Bytes of a shingle's sealed words.
const WORDING_BYTES_MAX: usize = 128;

/// What a prompt shares with many others.
struct Common {
    /// Noted shingles that are heavy today, ascending; those of them that stand around something new each time, and in how many
    /// prompts each was seen since it is noted; and those that stand for a family, heavy or not.
    heavy: Vec<u64>,
    varied: Vec<(u64, u16)>,
    shared: Vec<u64>,
    principals: Principals,
    least: u8,
}

/// The wording of an organisation. Counts are quartered each day; a family stays known for a week after the last day on which
/// its wording was heavy.
#[derive(Debug)]
pub struct Families {
    instructions: Background,
    counts: Counts,
    asked: RoomyFilter<ASKED_WORDS>,
    /// Which shingles came from whom.
    sent: RoomyFilter<SENT_WORDS>,
    candidates: Candidates,
    families: Vec<Family>,
    marks: Marks,
    day: u64,
}

impl Families {
    /// Nothing counted yet; days begin at multiples of 86,400 seconds. `instructions` is how anybody begins to ask ("answer the
    /// following question"): of many people it says nothing, though of one it may, so a [`super::Sketch`] counts it.
    #[must_use]
    pub fn new(instructions: Background, now: u64) -> Self {
        Self {
            instructions,
            counts: Counts::new(),
            asked: RoomyFilter::default(),
            sent: RoomyFilter::default(),
            candidates: Candidates::new(),
            families: Vec::new(),
            marks: Marks::of(&[]),
            day: now / SECONDS_PER_DAY,
        }
    }

    /// Bytes that a full table takes.
    #[must_use]
    pub const fn bytes_max() -> usize {
        // Three words of a bounded length, and what sealing adds.
        let words = size_of::<(u16, Option<Sealed>)>() + WORDING_BYTES_MAX;
        let families = FAMILIES_MAX
            * (size_of::<Family>() + MARKS * (size_of::<u64>() + words) + Acquaintance::bytes());
        Counts::bytes()
            + RoomyFilter::<ASKED_WORDS>::bytes()
            + RoomyFilter::<SENT_WORDS>::bytes()
            + Candidates::bytes()
            + families
            + Marks::bytes_max(FAMILIES_MAX)
    }

    /// The families known now.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Shingles whose words are to be kept from the next prompt that has them: see [`super::scaffold`].
    #[must_use]
    pub fn wanted(&self) -> HashSet<u64> {
        self.families.iter().flat_map(Family::wordless).collect()
    }

    /// Keeps words of shingles that are common enough, and no others.
    pub fn keep(&mut self, wording: &[Wording]) {
        for words in wording {
            self.families.iter_mut().for_each(|one| one.keep(words));
        }
    }

    /// Forgets all words.
    pub fn forget_wording(&mut self) {
        self.families.iter_mut().for_each(Family::forget_wording);
    }

    /// Counts a prompt of a principal, which is a keyed hash. The family that it belongs to, if any; what was asked before word
    /// for word, by whomever, is not counted and belongs to none. A clock that goes back ages nothing.
    pub fn observe(&mut self, prompt: &Prompt, principal: u64, now: u64) -> Option<&Family> {
        self.age(now / SECONDS_PER_DAY);
        if prompt.is_blank() || self.asked.add(prompt.digest()) {
            return None;
        }
        if self.asked.added() >= PROMPTS_PER_AGE {
            self.asked.age();
        }
        let brought = self.brought(prompt, principal);
        let common = self.count_all(prompt, principal, &brought);
        let at = match self.marks.nearest(&common.shared) {
            Some((shared, at)) if shared >= SHARED_MIN => {
                self.join(at, &common, &brought, principal)?
            }
            _ => self.found(&common, &brought)?,
        };
        self.families.get(at)
    }

    /// What of a prompt its sender had sent before, public wording as well.
    fn brought(&mut self, prompt: &Prompt, principal: u64) -> Brought {
        let mut all = Vec::with_capacity(prompt.shingles().len() + prompt.public().len());
        for shingles in [prompt.shingles(), prompt.public()] {
            let of_them = shingles.iter();
            all.extend(of_them.map(|one| (*one, !self.sent.add_up_to_twice(one ^ principal))));
        }
        if self.sent.added() >= SENT_PER_AGE {
            self.sent.age();
        }
        Brought::new(all)
    }

    fn count_all(&mut self, prompt: &Prompt, principal: u64, brought: &Brought) -> Common {
        let mut common = Common {
            heavy: Vec::new(),
            varied: Vec::new(),
            shared: Vec::new(),
            principals: Principals::ALL,
            least: u8::MAX,
        };
        let mut noted_before = 0;
        for (shingle, prompts) in self.counts.add(prompt.shingles()) {
            let is_mark = self.marks.has(shingle);
            if is_mark {
                common.shared.push(shingle);
            }
            // How anybody asks is counted with the rest, which is cheaper than to look first, and is never noted.
            let is_noted = prompts >= NOTED_FROM && (noted_before < NOTED_MAX || is_mark);
            if !is_noted || self.instructions.has(shingle) {
                continue;
            }
            let judged = (noted_before < JUDGED_MAX).then_some(brought);
            noted_before += 1;
            if let Some(noted) = self.candidates.note(shingle, principal, judged)
                && prompts >= PROMPTS_MIN
                && noted.people >= PRINCIPALS_MIN
            {
                common.heavy.push(shingle);
                if noted.varies() {
                    common.varied.push((shingle, noted.prompts));
                    common.principals = common.principals.both(&noted.principals);
                    common.least = common.least.min(prompts);
                }
            }
        }
        common
    }

    /// Joins the family that shares most, unless nothing is new. One that is known needs nothing that is heavy today.
    fn join(
        &mut self,
        at: usize,
        common: &Common,
        brought: &Brought,
        principal: u64,
    ) -> Option<usize> {
        let family = self.families.get_mut(at)?;
        if family.shares(&common.heavy) >= SHARED_MIN {
            family.day = self.day;
        }
        family
            .take(&common.shared, brought, principal)
            .then_some(at)
    }

    /// Founds a family with who is known to send all of its wording, and how many at least.
    fn found(&mut self, common: &Common, brought: &Brought) -> Option<usize> {
        if common.varied.len() < FOUNDED_MIN {
            return None;
        }
        let of = (common.principals, u32::from(common.least));
        let founded = Family::of(&common.varied, of, brought, self.day);
        let at = if self.families.len() < FAMILIES_MAX {
            self.families.push(founded);
            self.families.len().checked_sub(1)?
        } else {
            // The smallest family gives way.
            let smallest = (0..).zip(&self.families);
            let (at, _) = smallest.min_by_key(|(_, family)| (family.day, family.prompts()))?;
            *self.families.get_mut(at)? = founded;
            at
        };
        self.marks = Marks::of(&self.families);
        Some(at)
    }

    fn age(&mut self, day: u64) {
        let days = day.saturating_sub(self.day);
        if days == 0 {
            return;
        }
        self.day = day;
        // Halved only, counts of ordinary days would double; what is left must not reach the bar by itself.
        let times = u32::try_from(days.saturating_mul(2)).unwrap_or(u32::MAX);
        self.counts.halve(times);
        // Yesterday's exact repeats are still told from new prompts, older ones are not; what a principal sent as well.
        for _ in 0..days.min(2) {
            self.asked.age();
            self.sent.age();
        }
        self.candidates.forget();
        let before = self.families.len();
        self.families
            .retain(|family| day.saturating_sub(family.day) < DAYS_KNOWN);
        if self.families.len() < before {
            self.marks = Marks::of(&self.families);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Background, GuardKey, scaffold};

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
    fn a_known_family_is_told_from_its_first_prompt_of_a_day() {
        let day = SECONDS_PER_DAY;
        let mut families = Families::new(Background::default(), 0);
        assert!(spread(&mut families, 25, 25, 0).is_some());
        for today in 1..7 {
            let text = format!("{TEMPLATE} a{today} b{today} c{today} d{today}");
            let family = send(&mut families, &text, 40, today * day).unwrap();
            assert_eq!(u64::from(family.prompts()), 25 + today, "on day {today}");
        }
        let text = format!("{TEMPLATE} something that is new again");
        assert_eq!(
            send(&mut families, &text, 40, 7 * day),
            None,
            "a prompt a day does not confirm it"
        );
        assert_eq!(families.families(), []);
        // What twenty prompts confirm begins its week anew.
        assert!(spread(&mut families, 25, 25, 8 * day).is_some());
        spread(&mut families, 25, 25, 14 * day);
        send(&mut families, "something else on day twenty", 1, 20 * day);
        assert_eq!(families.families().len(), 1);
    }

    #[test]
    fn one_question_in_the_wrappers_of_many_is_no_family_and_many_in_one_are() {
        let question = "why is the harbour of Ghent closed on the second Monday of May";
        let wrap = |who: u64, text: &str| {
            format!(
                "my{who} very{who} own{who} words{who} {text} and{who} now{who} in{who} short{who}"
            )
        };
        let mut families = Families::new(Background::default(), 0);
        for who in 0..80 {
            let other = format!("what{who} of{who} this{who} thing{who}");
            assert_eq!(send(&mut families, &wrap(who, &other), who, 0), None);
            let another = format!("what{who} else{who}");
            assert_eq!(send(&mut families, &wrap(who, &another), who, 0), None);
            assert_eq!(
                send(&mut families, &wrap(who, question), who, 0),
                None,
                "{who}"
            );
        }
        let mut last = None;
        for who in 0..25 {
            let other = format!("what{who} of{who} that{who} thing{who}");
            last = send(&mut families, &wrap(1000, &other), who, 0);
        }
        assert_eq!(last.unwrap().prompts(), 25);
    }

    #[test]
    fn asking_once_without_the_template_hides_no_slot() {
        let mut families = Families::new(Background::default(), 0);
        let mut last = None;
        for who in 0..25 {
            let slot = format!("a{who} b{who} c{who} d{who} e{who} f{who}");
            assert_eq!(send(&mut families, &slot, who, 0), None);
            last = send(&mut families, &format!("{TEMPLATE} {slot}"), who, 0);
        }
        assert_eq!(last.unwrap().prompts(), 25);
    }

    #[test]
    fn one_text_with_an_edge_changed_by_each_is_no_family_and_with_a_word_within_it_is_one() {
        let words =
            "please find out for me why the lift of the old library stands still so very often";
        let words: Vec<&str> = words.split(' ').collect();
        let changed = |at: usize, who: u64| {
            let mut changed: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            changed[at] = format!("w{who}");
            changed.join(" ")
        };
        let mut families = Families::new(Background::default(), 0);
        for who in 0..200_u64 {
            let at = if who % 2 == 0 { 0 } else { words.len() - 1 };
            assert_eq!(send(&mut families, &changed(at, who), who, 0), None);
        }
        let mut families = Families::new(Background::default(), 0);
        let last = (0..200).fold(None, |_, who| send(&mut families, &changed(6, who), who, 0));
        assert!(last.is_some(), "a slot of one word");
    }

    #[test]
    fn wording_of_a_family_around_nothing_new_is_none_of_it() {
        let mut families = Families::new(Background::default(), 0);
        assert!(spread(&mut families, 25, 25, 0).is_some());
        let known = format!("{TEMPLATE} x24d0 y24d0 z24d0 again");
        assert_eq!(send(&mut families, &known, 99, 0), None);
        let new = format!("{TEMPLATE} the moon is so bright");
        assert!(send(&mut families, &new, 99, 0).is_some());
    }

    #[test]
    fn an_organisation_costs_less_than_sixteen_mebibytes() {
        let backgrounds = 2 << 20;
        assert!(Families::bytes_max() + backgrounds < 16 << 20);
    }
}
