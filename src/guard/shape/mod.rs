//! How an answer looks to somebody who sees sizes and times of what crosses the network: cells of one size at one pace, and
//! as many of them as one of a few lengths (GUARD section 4). What he learns is which of the lengths it was, and no more.

mod cells;

use std::time::Duration;

pub use cells::{CELL_BYTES, Cells, Filler};

/// The most lengths that a team's answers may have: three bits.
pub const LENGTHS_MAX: usize = 8;

/// Cells of the shortest and of the longest answer. Below the shortest an answer's frame and an error would not fit; the
/// longest is four megabytes, which one that is no stream has in memory when it leaves.
const CELLS_MIN: u32 = 8;
const CELLS_MAX: u32 = 8192;
/// Between two cells.
const TICK_MIN: Duration = Duration::from_millis(20);
const TICK_MAX: Duration = Duration::from_secs(1);
/// Until the first.
const FIRST_MAX: Duration = Duration::from_secs(10);
/// The longest that an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3600);

/// Why answers cannot be shaped so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// No length, or so many that they tell more than three bits.
    #[error("has {found} lengths in cells, not 1 to 8")]
    Lengths {
        /// How many.
        found: usize,
    },
    /// Out of order, or twice the same.
    #[error("has lengths in cells that do not ascend")]
    Order,
    /// Too short or too long.
    #[error("has a length of {found} cells, not 8 to 8192")]
    Length {
        /// Cells.
        found: u32,
    },
    /// Cells would come too fast or too slowly.
    #[error("tick_milliseconds is not 20 to 1000")]
    Tick,
    /// The first would come too late, or before another could.
    #[error("first_milliseconds is not tick_milliseconds to 10000")]
    First,
    /// The longest would take too long.
    #[error("its longest answer would take more than an hour")]
    Hour,
}

/// How a team's answers look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    lengths: Vec<u32>,
    tick: Duration,
    first: Duration,
}

impl Shape {
    /// Answers of one of these `lengths`, in cells: the first cell after a multiple of `first`, one more with each `tick`.
    ///
    /// # Errors
    /// [`ShapeError`] names the bound.
    pub fn new(lengths: Vec<u32>, tick: Duration, first: Duration) -> Result<Self, ShapeError> {
        let found = lengths.len();
        let longest = match lengths.last() {
            Some(longest) if found <= LENGTHS_MAX => *longest,
            _ => return Err(ShapeError::Lengths { found }),
        };
        let odd = |cells: &&u32| !(CELLS_MIN..=CELLS_MAX).contains(*cells);
        if let Some(found) = lengths.iter().find(odd) {
            return Err(ShapeError::Length { found: *found });
        }
        if !lengths.is_sorted_by(|a, b| a < b) {
            return Err(ShapeError::Order);
        }
        if !(TICK_MIN..=TICK_MAX).contains(&tick) {
            return Err(ShapeError::Tick);
        }
        if !(tick..=FIRST_MAX).contains(&first) {
            return Err(ShapeError::First);
        }
        if tick.saturating_mul(longest) > ANSWER_MAX {
            return Err(ShapeError::Hour);
        }
        Ok(Self {
            lengths,
            tick,
            first,
        })
    }

    /// Cells of an answer that needs so many. One that needs more than the longest has must be cut.
    #[must_use]
    pub fn length(&self, cells: u32) -> u32 {
        let enough = self.lengths.iter().find(|length| **length >= cells);
        enough.copied().unwrap_or_else(|| self.longest())
    }

    /// Cells of the longest answer.
    #[must_use]
    pub fn longest(&self) -> u32 {
        self.lengths.last().copied().unwrap_or(CELLS_MIN)
    }

    /// Between two cells.
    #[must_use]
    pub const fn tick(&self) -> Duration {
        self.tick
    }

    /// From a request to the first cell that may answer it, at least; later ones come at multiples of it.
    #[must_use]
    pub const fn first(&self) -> Duration {
        self.first
    }

    /// How long after its request an answer begins that could begin after `elapsed`.
    #[must_use]
    pub fn begins(&self, elapsed: Duration) -> Duration {
        let firsts = elapsed.as_nanos().div_ceil(self.first.as_nanos().max(1));
        self.first
            .saturating_mul(u32::try_from(firsts.max(1)).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn every_bound_of_a_shape_is_broken_once() {
        let shape =
            |lengths: &[u32], tick, first| Shape::new(lengths.to_vec(), ms(tick), ms(first));
        let nine: Vec<u32> = (8..17).collect();
        for (refused, error) in [
            (shape(&[], 100, 250), ShapeError::Lengths { found: 0 }),
            (shape(&nine, 100, 250), ShapeError::Lengths { found: 9 }),
            (shape(&[20, 10], 100, 250), ShapeError::Order),
            (shape(&[20, 20], 100, 250), ShapeError::Order),
            (shape(&[7], 100, 250), ShapeError::Length { found: 7 }),
            (shape(&[8193], 20, 250), ShapeError::Length { found: 8193 }),
            (shape(&[20], 19, 250), ShapeError::Tick),
            (shape(&[20], 1001, 2000), ShapeError::Tick),
            (shape(&[20], 100, 99), ShapeError::First),
            (shape(&[20], 100, 10_001), ShapeError::First),
            (shape(&[3601], 1000, 1000), ShapeError::Hour),
        ] {
            assert_eq!(refused, Err(error));
        }
        for sound in [
            shape(&[8], 20, 20),
            shape(&[8, 8192], 100, 10_000),
            shape(&nine[1..], 1000, 1000),
        ] {
            sound.unwrap();
        }
    }

    #[test]
    fn an_answer_has_the_next_length_and_at_most_the_longest() {
        let shape = Shape::new(vec![10, 20, 40], ms(100), ms(250)).unwrap();
        for (cells, length) in [(0, 10), (1, 10), (10, 10), (11, 20), (40, 40), (41, 40)] {
            assert_eq!(shape.length(cells), length, "{cells}");
        }
    }

    #[test]
    fn an_answer_begins_at_a_multiple_of_the_first_tick_and_never_at_once() {
        let shape = Shape::new(vec![10], ms(100), ms(250)).unwrap();
        for (elapsed, begins) in [(0, 250), (1, 250), (250, 250), (251, 500), (1000, 1000)] {
            assert_eq!(shape.begins(ms(elapsed)), ms(begins), "{elapsed}");
        }
    }
}
