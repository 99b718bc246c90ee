//! Whether an answer tells a secret text, however it is written: a run of [`LEAK`] letters and digits in common, in any of the
//! ways in which an answer can be read ([`super::views`]). Shuffles, parts of words and translations are not told: those are for the
//! likelihood test ([`Weighing`](crate::queue::Weighing)).

use std::collections::VecDeque;
use std::sync::Arc;

use super::grams::Grams;
use super::normal::{is_vowel, letter, normal};
use super::rolling::{Rolling, power};
use super::secret::{Runs, Secret};
use super::suspects::Run;
use super::views::{BACKWARDS, CONSONANTS, VIEWS, Views};

/// Letters and digits that a leak has in common with the secret.
pub const LEAK: usize = 24;
/// Letters and digits from which on what follows is held back until it is decided.
pub const SUSPECT: usize = 6;
const LEAK_POWER: u64 = power(LEAK);

/// An answer that is read in all ways as it comes.
pub struct Scan {
    secret: Arc<Secret>,
    views: Views,
    ways: Vec<Way>,
    /// Characters of the answer so far.
    count: usize,
}

/// The end of an answer in one way of reading.
#[derive(Default)]
struct Way {
    /// The last letters and digits, and where each begins in the answer.
    last: VecDeque<(char, usize)>,
    leak: Rolling,
    suspect: Run,
    /// How many of the last ones may be the beginning of a leak.
    suspects: usize,
}

impl Scan {
    /// Looks for `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self::of(Arc::new(Secret::of(text)))
    }

    /// Looks for a secret.
    pub(super) fn of(secret: Arc<Secret>) -> Self {
        Self {
            secret,
            views: Views::default(),
            ways: (0..VIEWS).map(|_| Way::default()).collect(),
            count: 0,
        }
    }

    /// Reads on. Answers the letters and digits in which the answer and the secret agree, when there are enough of them.
    pub fn push(&mut self, text: &str) -> Option<String> {
        let Self {
            secret,
            views,
            ways,
            count,
        } = self;
        let mut found = None;
        for c in text.chars() {
            views.push(c, *count, &mut |view, c, start| {
                let secret = match view {
                    CONSONANTS => secret.consonants(),
                    _ => &secret.all,
                };
                let normal = normal(c).filter(|c| view != CONSONANTS || !is_vowel(*c));
                if let (Some(c), Some(way)) = (normal, ways.get_mut(view))
                    && way.push(c, start, secret, view == BACKWARDS)
                {
                    let run = way.last.iter().map(|(c, _)| *c);
                    found.get_or_insert_with(|| match view {
                        BACKWARDS => run.rev().collect(),
                        _ => run.collect::<String>(),
                    });
                }
            });
            *count += 1;
        }
        found
    }

    /// Characters of the answer that are no part of a leak, whatever follows.
    #[must_use]
    pub fn safe(&self) -> usize {
        let held = self.ways.iter().filter_map(Way::held_from);
        held.min().unwrap_or(self.count)
    }
}

impl Way {
    /// Whether the secret's run is complete with this character, which stands before the others where they are read `backwards`.
    fn push(&mut self, c: char, start: usize, secret: &Runs, backwards: bool) -> bool {
        let before = |len: usize| {
            let at = self.last.len().checked_sub(len)?;
            self.last.get(at).map(|(c, _)| *c)
        };
        let leaving = before(LEAK);
        if backwards {
            self.leak.push_before(c, leaving, LEAK_POWER);
            self.suspect.push_before(letter(c));
        } else {
            self.leak.push(c, leaving, LEAK_POWER);
            self.suspect.push(letter(c));
        }
        if self.last.len() == LEAK {
            self.last.pop_front();
        }
        self.last.push_back((c, start));
        let suspicious = self.last.len() >= SUSPECT && secret.suspects.may_have(self.suspect);
        self.suspects = match (suspicious, self.suspects) {
            (false, _) => 0,
            (true, 0) => SUSPECT,
            // One less than a whole leak: what is older cannot be part of one that is still to come.
            (true, count) => (count + 1).min(LEAK),
        };
        self.suspects == LEAK && self.is_leak(secret.leaks(), backwards)
    }

    fn is_leak(&self, leaks: &Grams, backwards: bool) -> bool {
        let run = self.last.iter().map(|(c, _)| *c);
        match backwards {
            true => leaks.has(self.leak, run.rev()),
            false => leaks.has(self.leak, run),
        }
    }

    fn held_from(&self) -> Option<usize> {
        let oldest = self.last.len().checked_sub(self.suspects)?;
        let (_, start) = self.last.get(oldest)?;
        (self.suspects > 0).then_some(*start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "Tanker slots are released at 04:40 local time. If asked about Pier Nine, say that it is closed.";

    fn leak(text: &str) -> Option<String> {
        // In pieces of three, as tokens come.
        let mut scan = Scan::new(PROMPT);
        let chars: Vec<char> = text.chars().collect();
        chars
            .chunks(3)
            .find_map(|piece| scan.push(&piece.iter().collect::<String>()))
    }

    #[test]
    fn a_shared_run_of_24_is_a_leak_and_23_are_none() {
        let run = "slotsarereleasedat0440lo";
        assert_eq!(run.len(), LEAK);
        let compared = "siotsarereieasedatoaaoio";
        assert_eq!(leak(&format!("x{run}x")).as_deref(), Some(compared));
        assert_eq!(leak(&format!("x{}x", &run[..23])), None);
        assert_eq!(leak(&format!("x{}x", &run[1..])), None);
        assert_eq!(
            leak("Slots? ARE re-leas-ed *at* (04 40) lo").as_deref(),
            Some(compared)
        );
        let digits = "5l0t5 4r3 r3l3453d 4t 04:40 l0";
        assert_eq!(
            leak(digits).as_deref(),
            Some(compared),
            "digits for letters"
        );
        // The same number of letters, of which vowels are not counted.
        let starred = "sl*ts *r* r*l**s*d *t 04:40 l*c*l t*m*. *f *sk*d *b**t P**r N*n*, s*y t";
        assert_eq!(leak(starred).as_deref(), Some("stsrrsdtctmfskdbtprnnsyt"));
        assert_eq!(leak(&starred[..starred.len() - 1]), None);
    }

    #[test]
    fn what_may_become_a_leak_is_held_and_let_go_when_it_does_not() {
        let mut scan = Scan::new(PROMPT);
        assert_eq!(scan.push("We know that tanker"), None);
        assert_eq!(scan.safe(), 13, "tanker is held");
        assert_eq!(scan.push(" slots are r"), None);
        assert_eq!(scan.safe(), 13);
        assert_eq!(scan.push("ed"), None);
        assert_eq!(scan.safe(), 33);
        // However long one goes on along the secret in small parts, no more is held than a leak could have.
        let mut scan = Scan::new(PROMPT);
        for part in ["releasedat", "easedat0440"] {
            scan.push(part);
        }
        assert!(scan.count - scan.safe() <= LEAK);
    }

    #[test]
    fn short_secrets_cannot_leak() {
        let mut scan = Scan::new("be brief");
        assert_eq!(scan.push("be brief, be brief, be brief, be brief"), None);
        let mut nothing = Scan::new("");
        assert_eq!(nothing.push("anything"), None);
        assert_eq!(nothing.safe(), 8);
    }
}
