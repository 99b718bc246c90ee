//! Logits with the largest of each block of them: which of them reach a floor is found without a look at the others.

use casemate_kernels::logits::{self, BLOCK};
use casemate_kernels::{Isa, elementwise};

use super::given::Given;

/// Logits and the largest of each block.
pub(super) struct Blocks<'a> {
    isa: Isa,
    /// The logits.
    pub(super) given: Given<'a>,
    maxima: Vec<f32>,
}

impl<'a> Blocks<'a> {
    /// Those of logits, where `maxima` are the largest before any were moved.
    pub(super) fn of(isa: Isa, given: Given<'a>, mut maxima: Vec<f32>) -> Self {
        let block_of = |(id, _): &(u32, f64)| *id as usize / BLOCK;
        for moved in given.moved().chunk_by(|a, b| block_of(a) == block_of(b)) {
            let block = moved.first().map_or(usize::MAX, block_of);
            if let Some(largest) = maxima.get_mut(block) {
                let logits = given.within(block * BLOCK..(block + 1) * BLOCK);
                *largest = elementwise::largest_of(isa, &logits);
            }
        }
        Self { isa, given, maxima }
    }

    /// The same before any were moved; nothing where none were.
    pub(super) fn before(isa: Isa, given: &Given<'a>, maxima: &[f32]) -> Option<Self> {
        let of = |raw| Self::of(isa, Given::untouched(raw), maxima.to_vec());
        (!given.moved().is_empty()).then(|| of(given.raw))
    }

    /// How many blocks there are.
    pub(super) fn count(&self) -> usize {
        self.maxima.len()
    }

    /// The largest finite logit.
    pub(super) fn best(&self) -> Option<f32> {
        Some(elementwise::largest_of(self.isa, &self.maxima))
            .filter(|best| best.is_finite())
            .or_else(|| {
                let logits = self.given.within(0..usize::MAX);
                let finite = logits.iter().copied().filter(|logit| logit.is_finite());
                finite.reduce(f32::max)
            })
    }

    /// Tokens whose logits are from `floor` on, and their logits, by their ids; where half as many blocks again as `count` have
    /// some, those of them that come before `count` others are among them, and few others.
    pub(super) fn reaching(&self, floor: f32, count: usize) -> Vec<(u32, f32)> {
        self.unless_many(floor, count + count / 2)
            .unwrap_or_else(|| self.all_from(floor.max(self.floor_of(count))))
    }

    /// All tokens whose logits are from `floor` on.
    pub(super) fn all_from(&self, floor: f32) -> Vec<(u32, f32)> {
        self.unless_many(floor, usize::MAX).unwrap_or_default()
    }

    /// The same; nothing where more than `blocks_max` blocks have some.
    fn unless_many(&self, floor: f32, blocks_max: usize) -> Option<Vec<(u32, f32)>> {
        let found = logits::from_floor(self.isa, self.given.raw, &self.maxima, floor, blocks_max)?;
        Some(self.given.corrected(found, floor))
    }

    /// At least `count` logits are not below this, since each of so many maxima is one: those of four blocks together where they
    /// are enough to be near it, of each where they are not. Below all numbers where these are too few.
    fn floor_of(&self, count: usize) -> f32 {
        let larger = |a: f32, b: f32| if a > b { a } else { b };
        let (fours, _) = self.maxima.as_chunks();
        let mut maxima: Vec<f32> = match fours.len() >= 2 * count {
            true => fours
                .iter()
                .map(|[a, b, c, d]| larger(larger(*a, *b), larger(*c, *d)))
                .collect(),
            false => self.maxima.clone(),
        };
        match count.checked_sub(1).filter(|last| *last < maxima.len()) {
            Some(last) => *maxima.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1,
            None => f32::NEG_INFINITY,
        }
    }
}
