//! How much a principal's prompts have in common: 18 KiB, whatever it sends. A template leaves shingles that come back
//! around words that are new.

use super::filter::AgingFilter;
use super::shingle::Prompt;

/// A shingle is heavy when this many prompts had it before.
pub(super) const HEAVY_PROMPTS: u8 = 3;
/// A templated prompt has at least so many heavy shingles, and so many new ones in its slot.
const HEAVY_MIN: usize = 4;
const NEW_MIN: usize = 2;

/// Shingles and prompts after which the older half of what is known is forgotten.
const SHINGLES_PER_AGE: u32 = 5000;
const PROMPTS_PER_AGE: u32 = 600;
/// And the time, seconds: counts have a half-life of seven days.
const SECONDS_PER_AGE: u64 = 7 * 86_400;

const ROWS: usize = 4;
const COLUMNS: usize = 2048;

/// What a prompt says about its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// Known words around new ones.
    Templated,
    /// Asked before, word for word, as people do and crawlers do not.
    Repeated,
    /// Neither.
    Plain,
    /// Too short for a shingle: no evidence, so that fillers cannot dilute.
    Blank,
}

/// Counts of one principal's shingles.
#[derive(Debug, Clone)]
pub struct Sketch {
    /// Shingles that one prompt or more had.
    seen: AgingFilter<512>,
    /// Digests of prompts, and of prompts that came again.
    asked: AgingFilter<128>,
    /// Further prompts with a shingle after its first: a count-min sketch with conservative update.
    further: [[u8; COLUMNS]; ROWS],
    aged_at: u64,
}

impl Sketch {
    /// An empty sketch that begins at `now`, in seconds.
    #[must_use]
    pub fn new(now: u64) -> Self {
        Self {
            seen: AgingFilter::default(),
            asked: AgingFilter::default(),
            further: [[0; COLUMNS]; ROWS],
            aged_at: now,
        }
    }

    /// Scores a prompt by what came before it, then counts it. A clock that goes back ages nothing.
    pub fn observe(&mut self, prompt: &Prompt, now: u64) -> Score {
        self.age(now);
        if prompt.is_blank() {
            return Score::Blank;
        }
        if self.asked.has(prompt.digest()) {
            return self.again(prompt.digest());
        }
        if self.asked.add(prompt.digest()) >= PROMPTS_PER_AGE {
            self.asked.age();
        }
        let (mut heavy, mut new) = (0_usize, self.fill(prompt.public()));
        for shingle in prompt.shingles() {
            if !self.seen.has(*shingle) {
                new = new.saturating_add(1);
                self.seen.add(*shingle);
                continue;
            }
            let before = self.count_further(*shingle).saturating_add(1);
            heavy = heavy.saturating_add(usize::from(before >= HEAVY_PROMPTS));
        }
        self.age_by_volume(prompt);
        if heavy >= HEAVY_MIN && new >= NEW_MIN {
            Score::Templated
        } else {
            Score::Plain
        }
    }

    /// How many of these public shingles the principal had not sent yet. A crawler's slot often holds a well-known question.
    fn fill(&mut self, public: &[u64]) -> usize {
        let mut new = 0_usize;
        for shingle in public {
            if !self.seen.has(*shingle) {
                new = new.saturating_add(1);
                self.seen.add(*shingle);
            }
        }
        new
    }

    /// Only the first repeat of a prompt speaks for its sender: one filler sent again and again must not buy silence.
    fn again(&mut self, digest: u64) -> Score {
        let marker = digest.rotate_left(17) ^ u64::MAX;
        if self.asked.has(marker) {
            return Score::Plain;
        }
        self.asked.add(marker);
        Score::Repeated
    }

    /// Counts a shingle that was seen before; the count until now.
    fn count_further(&mut self, shingle: u64) -> u8 {
        let columns = columns(shingle);
        let cells = self.further.iter().zip(columns);
        let before = cells.filter_map(|(row, column)| row.get(column).copied());
        let before = before.min().unwrap_or(0);
        for (row, column) in self.further.iter_mut().zip(columns) {
            if let Some(cell) = row.get_mut(column) {
                *cell = (*cell).max(before.saturating_add(1));
            }
        }
        before
    }

    /// A shingle that is still in use is entered anew, so that aging takes only what is not.
    fn age_by_volume(&mut self, prompt: &Prompt) {
        if self.seen.added() < SHINGLES_PER_AGE {
            return;
        }
        self.seen.age();
        self.halve();
        for shingle in prompt.shingles().iter().chain(prompt.public()) {
            self.seen.add(*shingle);
        }
    }

    fn age(&mut self, now: u64) {
        let periods = now.saturating_sub(self.aged_at) / SECONDS_PER_AGE;
        if periods == 0 {
            return;
        }
        self.aged_at = self
            .aged_at
            .saturating_add(periods.saturating_mul(SECONDS_PER_AGE));
        // After eight halvings nothing is left of any count.
        for _ in 0..periods.min(8) {
            self.seen.age();
            self.asked.age();
            self.halve();
        }
    }

    fn halve(&mut self) {
        for cell in self.further.iter_mut().flatten() {
            *cell /= 2;
        }
    }
}

fn columns(shingle: u64) -> [usize; ROWS] {
    [0, 16, 32, 48].map(|shift| usize::try_from((shingle >> shift) % COLUMNS as u64).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Background, GuardKey};

    fn read(text: &str) -> Prompt {
        Prompt::read(&GuardKey::new([3; 16]), &Background::default(), text)
    }

    fn templated(n: u64) -> Prompt {
        read(&format!(
            "explain in many small steps why {n} x{n} y{n} z{n}"
        ))
    }

    #[test]
    fn a_template_shows_from_its_fourth_prompt_and_one_repeat_counts_once() {
        let mut sketch = Sketch::new(0);
        let scores: Vec<Score> = (0..5).map(|n| sketch.observe(&templated(n), 0)).collect();
        let plain = [Score::Plain; 3];
        assert_eq!(scores[..3], plain);
        assert_eq!(scores[3..], [Score::Templated; 2]);
        assert_eq!(sketch.observe(&templated(4), 0), Score::Repeated);
        assert_eq!(sketch.observe(&templated(4), 0), Score::Plain);
        assert_eq!(sketch.observe(&read("go on"), 0), Score::Blank);
    }

    #[test]
    fn a_slot_that_holds_public_questions_is_a_slot() {
        let key = GuardKey::new([3; 16]);
        let question = |n: u64| format!("why did x{n} y{n} z{n}");
        let known: Vec<String> = (0..5).map(question).collect();
        let public = Background::of_lines(&key, known.iter().map(String::as_str));
        let mut sketch = Sketch::new(0);
        let scores = (0..5).map(|n| {
            let text = format!("list the many reasons for this: {}", question(n));
            sketch.observe(&Prompt::read(&key, &public, &text), 0)
        });
        assert_eq!(scores.last(), Some(Score::Templated));
    }

    #[test]
    fn weeks_without_a_template_forget_it_and_a_clock_that_goes_back_forgets_nothing() {
        let mut sketch = Sketch::new(SECONDS_PER_AGE * 10);
        for n in 0..5 {
            sketch.observe(&templated(n), SECONDS_PER_AGE * 10);
        }
        let mut later = sketch.clone();
        assert_eq!(sketch.observe(&templated(5), 0), Score::Templated);
        let score = later.observe(&templated(5), SECONDS_PER_AGE * 13);
        assert_eq!(score, Score::Plain);
    }
}
