//! A secret text in the form in which answers are compared with it, and those that a team's answers were compared with lately: a
//! system prompt comes with every request, and to make this form of a long one takes longer than all else that a prompt costs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::grams::Grams;
use super::normal::{each, is_vowel, normal, prepare};
use super::scan::LEAK;
use super::suspects::Suspects;

/// Letters and digits of a system prompt that are compared with an answer.
pub(super) const SECRET_MAX: usize = 65_536;
/// Texts of a team that are kept, and their bytes together; as many as the longest may have. A letter takes 5 to 9 bytes, and up to
/// 30 more once an answer came close to its text.
const TEXTS_MAX: usize = 16;
const BYTES_MAX: usize = 4 * SECRET_MAX;

/// The secret is longer than can be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a system prompt of at most {SECRET_MAX} letters and digits, because the team's answers are searched for it"
)]
pub struct TooLong;

/// A secret text, as it is and without vowels.
pub struct Secret {
    text: Arc<str>,
    pub(super) all: Runs,
    /// Nothing where there are no vowels to leave out.
    consonants: Option<Runs>,
}

impl Secret {
    /// Of a text of at most so many letters and digits.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn new(text: &str, letters_max: usize) -> Result<Self, TooLong> {
        let (letters, consonants) = letters_and_consonants(text);
        if letters.len() > letters_max {
            return Err(TooLong);
        }
        Ok(Self::made(text, &letters, &consonants))
    }

    /// Of any text.
    pub(super) fn of(text: &str) -> Self {
        let (letters, consonants) = letters_and_consonants(text);
        Self::made(text, &letters, &consonants)
    }

    fn made(text: &str, letters: &[u8], consonants: &[u8]) -> Self {
        let text: Arc<str> = text.into();
        let without_vowels = || Runs::of(&text, false, Suspects::new(consonants));
        Self {
            all: Runs::of(&text, true, Suspects::new(letters)),
            consonants: (consonants.len() < letters.len()).then(without_vowels),
            text,
        }
    }

    pub(super) fn consonants(&self) -> &Runs {
        self.consonants.as_ref().unwrap_or(&self.all)
    }
}

/// What is compared of a text, and the same without vowels.
fn letters_and_consonants(text: &str) -> (Vec<u8>, Vec<u8>) {
    let most = text.chars().count();
    let (mut letters, mut consonants) = (Kept::new(most), Kept::new(most));
    for normal in each(text) {
        letters.push(normal.letter(), normal.is_kept());
        consonants.push(normal.letter(), normal.is_consonant());
    }
    (letters.end(), consonants.end())
}

/// Letters that are kept. Each is written where the next one goes, and stays there if it is kept: that cannot be foreseen, and a
/// branch for each would take longer than all else.
struct Kept {
    letters: Vec<u8>,
    count: usize,
}

impl Kept {
    /// Room for so many.
    fn new(most: usize) -> Self {
        Self {
            letters: vec![0; most],
            count: 0,
        }
    }

    fn push(&mut self, letter: u8, is_kept: bool) {
        if let Some(place) = self.letters.get_mut(self.count) {
            *place = letter;
        }
        self.count += usize::from(is_kept);
    }

    fn end(mut self) -> Vec<u8> {
        self.letters.truncate(self.count);
        self.letters
    }
}

/// What a text has in common with an answer is looked up in these.
pub(super) struct Runs {
    text: Arc<str>,
    /// Whether vowels are in the runs.
    vowels: bool,
    pub(super) suspects: Suspects,
    /// Made when the first answer says as much of the text as might be a leak: hardly any does.
    leaks: OnceLock<Grams>,
}

impl Runs {
    fn of(text: &Arc<str>, vowels: bool, suspects: Suspects) -> Self {
        Self {
            text: Arc::clone(text),
            vowels,
            suspects,
            leaks: OnceLock::new(),
        }
    }

    pub(super) fn leaks(&self) -> &Grams {
        self.leaks.get_or_init(|| {
            let letters = self.text.chars().filter_map(normal);
            let letters = letters.filter(|c| self.vowels || !is_vowel(*c));
            Grams::new(&letters.collect(), LEAK)
        })
    }
}

/// The last secrets of each team: none finds, or displaces, what another one sent.
pub struct Secrets {
    teams: Mutex<Teams>,
}

impl Default for Secrets {
    /// Of no team. What texts are read with is made as well, so that no request waits for it.
    fn default() -> Self {
        prepare();
        Self {
            teams: Mutex::default(),
        }
    }
}

struct Known {
    secret: Arc<Secret>,
    asked: Instant,
}

type Teams = HashMap<String, VecDeque<Known>>;

impl Secrets {
    /// The secret of this text, made where the team has not sent it lately; it is `now`.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn of(
        &self,
        team: &str,
        text: &str,
        letters_max: usize,
        now: Instant,
    ) -> Result<Arc<Secret>, TooLong> {
        if let Some(known) = self.known(team, text, now) {
            return Ok(known);
        }
        let secret = Arc::new(Secret::new(text, letters_max)?);
        if text.len() <= BYTES_MAX {
            self.keep(team, &secret, now);
        }
        Ok(secret)
    }

    /// Forgets what nobody has asked for since `then`.
    pub fn forget(&self, then: Instant) {
        self.teams().retain(|_, texts| {
            texts.retain(|known| known.asked >= then);
            !texts.is_empty()
        });
    }

    fn teams(&self) -> MutexGuard<'_, Teams> {
        self.teams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, team: &str, text: &str, now: Instant) -> Option<Arc<Secret>> {
        let mut teams = self.teams();
        let texts = teams.get_mut(team)?;
        let at = texts.iter().position(|known| *known.secret.text == *text)?;
        let mut known = texts.remove(at)?;
        known.asked = now;
        let secret = Arc::clone(&known.secret);
        texts.push_front(known);
        Some(secret)
    }

    fn keep(&self, team: &str, secret: &Arc<Secret>, now: Instant) {
        let mut teams = self.teams();
        let texts = teams.entry(team.to_owned()).or_default();
        texts.retain(|known| known.secret.text != secret.text);
        texts.push_front(Known {
            secret: Arc::clone(secret),
            asked: now,
        });
        let mut bytes = 0;
        let fits = |known: &Known| {
            bytes += known.secret.text.len();
            bytes <= BYTES_MAX
        };
        let kept = texts
            .iter()
            .take(TEXTS_MAX)
            .map(fits)
            .take_while(|fits| *fits);
        let kept = kept.count();
        texts.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_nobody_asks_for_any_more_is_forgotten() {
        let secrets = Secrets::default();
        let begin = Instant::now();
        let second = |second| begin + Duration::from_secs(second);
        let of = |text: &str, at| secrets.of("red", text, SECRET_MAX, second(at)).unwrap();
        let (one, other) = (of("one", 0), of("other", 0));
        of("one", 200);
        secrets.forget(second(100));
        assert!(Arc::ptr_eq(&one, &of("one", 300)));
        assert!(!Arc::ptr_eq(&other, &of("other", 300)));
        secrets.forget(second(301));
        assert!(secrets.teams().is_empty());
    }

    #[test]
    fn what_a_team_sends_again_is_made_once() {
        let secrets = Secrets::default();
        let now = Instant::now();
        let of = |team: &str, text: &str| secrets.of(team, text, SECRET_MAX, now).unwrap();
        let first = of("red", "The ninth pier is closed.");
        assert!(Arc::ptr_eq(&first, &of("red", "The ninth pier is closed.")));
        assert!(!Arc::ptr_eq(
            &first,
            &of("blue", "The ninth pier is closed.")
        ));
        assert!(!Arc::ptr_eq(&first, &of("red", "The ninth pier is closed")));
        // What is asked for stays; of the others the oldest go.
        let others = |numbers: std::ops::Range<usize>| {
            for at in numbers {
                of("red", &format!("Another text, number {at}"));
                of("blue", &format!("A text of others, number {at}"));
            }
        };
        others(2..TEXTS_MAX);
        assert!(Arc::ptr_eq(&first, &of("red", "The ninth pier is closed.")));
        others(100..100 + TEXTS_MAX);
        assert!(!Arc::ptr_eq(
            &first,
            &of("red", "The ninth pier is closed.")
        ));
    }

    #[test]
    fn texts_that_are_kept_have_an_end() {
        let secrets = Secrets::default();
        let now = Instant::now();
        let bytes = || {
            let teams = secrets.teams();
            let texts = teams.get("red").map(|texts| texts.iter());
            texts.map_or(0, |texts| texts.map(|known| known.secret.text.len()).sum())
        };
        for at in 0..20 {
            let text = format!("{at}{}", "x".repeat(40_000));
            secrets.of("red", &text, SECRET_MAX, now).unwrap();
            assert!((40_000..=BYTES_MAX).contains(&bytes()), "{}", bytes());
        }
        // Mostly of what is no letter.
        let long = format!("abc{}", " ".repeat(BYTES_MAX));
        let before = bytes();
        let first = secrets.of("red", &long, SECRET_MAX, now).unwrap();
        assert!(!Arc::ptr_eq(
            &first,
            &secrets.of("red", &long, SECRET_MAX, now).unwrap()
        ));
        assert_eq!(bytes(), before);
        let letters = "a".repeat(11);
        let of = |letters_max| secrets.of("red", &letters, letters_max, now);
        assert_eq!(of(10).err(), Some(TooLong));
        assert!(of(11).is_ok());
    }
}
