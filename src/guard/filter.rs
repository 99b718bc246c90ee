//! A set of hashes that forgets: two Bloom filters, of which the older one is emptied when the younger is full. What was added
//! is found until at least one more filling; what was not is found by mistake at times.

/// Places of a hash in a filter.
const PROBES: u64 = 3;

/// `WORDS` words of 64 bits in each of two filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgingFilter<const WORDS: usize> {
    young: [u64; WORDS],
    old: [u64; WORDS],
    added: u32,
}

impl<const WORDS: usize> Default for AgingFilter<WORDS> {
    fn default() -> Self {
        Self {
            young: [0; WORDS],
            old: [0; WORDS],
            added: 0,
        }
    }
}

impl<const WORDS: usize> AgingFilter<WORDS> {
    /// Whether the hash was added, as far as the filter remembers.
    #[must_use]
    pub fn has(&self, hash: u64) -> bool {
        holds(&self.young, hash) || holds(&self.old, hash)
    }

    /// Adds a hash. How many were added since the last aging.
    pub fn add(&mut self, hash: u64) -> u32 {
        for (word, bit) in places::<WORDS>(hash) {
            if let Some(word) = self.young.get_mut(word) {
                *word |= bit;
            }
        }
        self.added = self.added.saturating_add(1);
        self.added
    }

    /// How many were added since the last aging.
    #[must_use]
    pub const fn added(&self) -> u32 {
        self.added
    }

    /// Forgets what was added before the last aging.
    pub fn age(&mut self) {
        self.old = std::mem::replace(&mut self.young, [0; WORDS]);
        self.added = 0;
    }
}

/// The same for hundreds of thousands of hashes: all places of a hash are in one word, both fillings of which lie beside each other,
/// so that a hash costs one look at memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomyFilter<const WORDS: usize> {
    young_and_old: Vec<[u64; 2]>,
    added: u32,
}

impl<const WORDS: usize> Default for RoomyFilter<WORDS> {
    fn default() -> Self {
        Self {
            young_and_old: vec![[0; 2]; WORDS],
            added: 0,
        }
    }
}

impl<const WORDS: usize> RoomyFilter<WORDS> {
    /// Bytes that it takes.
    #[must_use]
    pub const fn bytes() -> usize {
        WORDS * size_of::<[u64; 2]>()
    }

    /// Adds a hash. Whether it was added before, as far as the filter remembers.
    pub fn add(&mut self, hash: u64) -> bool {
        let Some(both) = self.young_and_old.get_mut(word::<WORDS>(hash)) else {
            return false;
        };
        let (known, is_new) = enter(both, three_bits(hash));
        self.added = self.added.saturating_add(is_new.into());
        known
    }

    /// Adds a hash for the first or the second time. Whether both were before, as far as the filter remembers: of the second, other
    /// bits of the same word tell.
    pub fn add_up_to_twice(&mut self, hash: u64) -> bool {
        let Some(both) = self.young_and_old.get_mut(word::<WORDS>(hash)) else {
            return false;
        };
        let (known, is_new) = enter(both, three_bits(hash));
        self.added = self.added.saturating_add(is_new.into());
        if !known {
            return false;
        }
        let (again, is_new) = enter(both, three_bits(hash >> 18));
        self.added = self.added.saturating_add(is_new.into());
        again
    }

    /// How many different ones were added since the last aging.
    #[must_use]
    pub const fn added(&self) -> u32 {
        self.added
    }

    /// Forgets what was added before the last aging.
    pub fn age(&mut self) {
        for [young, old] in &mut self.young_and_old {
            *old = std::mem::take(young);
        }
        self.added = 0;
    }
}

/// One bit for each of many hashes: most of those that were not added are told at once, before a list is searched.
#[derive(Debug, Clone)]
pub(super) struct Bits<const WORDS: usize>(Vec<u64>);

impl<const WORDS: usize> Bits<WORDS> {
    pub(super) fn of(hashes: &[u64]) -> Self {
        let mut words = vec![0; WORDS];
        for hash in hashes {
            if let Some(word) = words.get_mut(word::<WORDS>(*hash)) {
                *word |= 1 << (hash % 64);
            }
        }
        Self(words)
    }

    /// Whether the hash may have been added: never wrong when it says no.
    pub(super) fn may_have(&self, hash: u64) -> bool {
        let word = self.0.get(word::<WORDS>(hash));
        word.is_some_and(|word| word & (1 << (hash % 64)) != 0)
    }

    pub(super) const fn bytes() -> usize {
        WORDS * size_of::<u64>()
    }
}

/// Sets bits of the younger word. Whether one of both had them all, and whether the younger had not.
const fn enter([young, old]: &mut [u64; 2], bits: u64) -> (bool, bool) {
    let in_young = *young & bits == bits;
    let known = in_young | (*old & bits == bits);
    *young |= bits;
    (known, !in_young)
}

/// The place of a hash among so many words, by its high bits: whoever comes with hashes in ascending order walks through memory in
/// one direction.
pub(super) fn word<const WORDS: usize>(hash: u64) -> usize {
    const { assert!(WORDS.is_power_of_two()) };
    usize::try_from(hash >> (u64::BITS - WORDS.ilog2())).unwrap_or(0)
}

/// Three bits of a word, by the low bits of a hash; two of them may be one.
pub(super) const fn three_bits(hash: u64) -> u64 {
    (1 << (hash % 64)) | (1 << ((hash >> 6) % 64)) | (1 << ((hash >> 12) % 64))
}

fn holds<const WORDS: usize>(filter: &[u64; WORDS], hash: u64) -> bool {
    places::<WORDS>(hash).all(|(word, bit)| filter.get(word).is_some_and(|word| word & bit != 0))
}

/// Double hashing: the halves of one hash give all places.
pub(super) fn places<const WORDS: usize>(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    let (start, step) = (hash >> 32, (hash & 0xffff_ffff) | 1);
    (0..PROBES).map(move |probe| {
        let bit = start.wrapping_add(probe.wrapping_mul(step)) % (WORDS as u64 * 64);
        (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::GuardKey;

    #[test]
    fn a_roomy_filter_remembers_as_long_and_is_rarely_mistaken() {
        let key = GuardKey::new([2; 16]);
        let mut filter = RoomyFilter::<1024>::default();
        let hash = |n: u64| key.hash_words(&[n]);
        let mistaken = (0..5000).filter(|n| filter.add(hash(*n))).count();
        assert!(mistaken < 50, "{mistaken} of 5,000, five a word in the end");
        assert_eq!(filter.added() as usize + mistaken, 5000);
        (0..5000).for_each(|n| assert!(filter.add(hash(n))));
        let again = filter.added() as usize + mistaken;
        assert_eq!(again, 5000, "the same ones are not counted again");
        filter.age();
        assert!(filter.add(hash(0)), "of the filling before");
        filter.age();
        assert!(filter.add(hash(0)) && filter.added() == 1);
        assert!((1..5000).filter(|n| filter.add(hash(*n))).count() < 50);
    }

    #[test]
    fn a_roomy_filter_tells_the_third_time_from_the_second() {
        let key = GuardKey::new([2; 16]);
        let mut filter = RoomyFilter::<1024>::default();
        let hash = |n: u64| key.hash_words(&[n]);
        let mut told = |hashes: std::ops::Range<u64>| {
            let told = hashes.filter(|n| filter.add_up_to_twice(hash(*n)));
            (told.count(), filter.added())
        };
        assert_eq!(told(0..500), (0, 500));
        let (mistaken, added) = told(0..500);
        assert!(
            mistaken < 5 && added as usize + mistaken >= 995,
            "{mistaken}, {added}"
        );
        assert_eq!(
            told(0..500),
            (500, added),
            "nothing is added the third time"
        );
        filter.age();
        assert!((0..500).all(|n| filter.add_up_to_twice(hash(n))));
        filter.age();
        filter.age();
        assert!((0..500).all(|n| !filter.add_up_to_twice(hash(n))));
    }

    #[test]
    fn bits_are_never_wrong_when_they_say_no() {
        let key = GuardKey::new([2; 16]);
        let hashes: Vec<u64> = (0..2000).map(|n| key.hash_words(&[n])).collect();
        let (added, others) = hashes.split_at(1000);
        let bits = Bits::<64>::of(added);
        assert!(added.iter().all(|one| bits.may_have(*one)));
        let mistaken = others.iter().filter(|one| bits.may_have(**one)).count();
        assert!(
            mistaken < 300,
            "{mistaken} of 1,000 with a place in four taken"
        );
    }

    #[test]
    fn what_was_added_is_found_until_the_second_aging() {
        let key = GuardKey::new([2; 16]);
        let mut filter = AgingFilter::<128>::default();
        let hash = |n: u64| key.hash_words(&[n]);
        for n in 0..600 {
            filter.add(hash(n));
        }
        assert!((0..600).all(|n| filter.has(hash(n))));
        let mistaken = (1000..11_000).filter(|n| filter.has(hash(*n))).count();
        assert!(
            mistaken < 200,
            "{mistaken} of 10,000 at a fifth of the bits"
        );
        filter.age();
        assert!((0..600).all(|n| filter.has(hash(n))));
        assert_eq!(filter.add(hash(0)), 1);
        filter.age();
        assert!(filter.has(hash(0)));
        assert!((1..600).filter(|n| filter.has(hash(*n))).count() < 3);
    }
}
