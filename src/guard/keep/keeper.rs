//! The text of one answer on its way out: pieces wait while they may be part of a leak, and are given out in order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::normal::normal;
use super::scan::Scan;
use super::secret::{SECRET_MAX, Secret, TooLong};
use crate::policy::Switch;

/// What was found in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaked {
    /// A run of the system prompt.
    Prompt,
    /// The team's canary.
    Canary,
}

impl Leaked {
    /// The word of the audit log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prompt => "prompt_leak",
            Self::Canary => "canary",
        }
    }
}

/// One answer's way out; `T` is a piece of text with what goes with it.
pub struct Keeper<T: AsRef<str>> {
    watch: Option<Watch>,
    waiting: VecDeque<(usize, T)>,
    /// Characters of the answer so far.
    count: usize,
    found: Vec<Leaked>,
}

struct Watch {
    scan: Scan,
    leak: Switch,
    canary: Switch,
    canary_text: Option<String>,
}

impl<T: AsRef<str>> Keeper<T> {
    /// A way on which nothing is kept back.
    #[must_use]
    pub const fn open() -> Self {
        Self {
            watch: None,
            waiting: VecDeque::new(),
            count: 0,
            found: Vec::new(),
        }
    }

    /// Looks for `prompt`, as `leak` says, and for `canary`, as its switch says.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn new(
        prompt: &str,
        leak: Switch,
        canary: Option<(String, Switch)>,
    ) -> Result<Self, TooLong> {
        let made = |text: &str, letters_max| Secret::new(text, letters_max).map(Arc::new);
        Self::with(prompt, leak, canary, made)
    }

    /// The same; `secret` is asked for the form of the text in which both are, where at most so many letters and digits may be in it.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn with(
        prompt: &str,
        leak: Switch,
        canary: Option<(String, Switch)>,
        secret: impl FnOnce(&str, usize) -> Result<Arc<Secret>, TooLong>,
    ) -> Result<Self, TooLong> {
        let canary = canary.filter(|(_, switch)| *switch != Switch::Off);
        let (canary_text, canary) = canary.unzip();
        let mut text = String::new();
        if leak != Switch::Off {
            text.push_str(prompt);
        }
        // A run across the border of the two is in no answer by chance.
        text.extend(canary_text.as_deref());
        if text.is_empty() {
            return Ok(Self::open());
        }
        let letters_max = SECRET_MAX + canary_text.as_ref().map_or(0, String::len);
        let secret = match secret(&text, letters_max) {
            Err(TooLong) if leak != Switch::On => return Ok(Self::open()),
            made => made?,
        };
        Ok(Self {
            watch: Some(Watch {
                scan: Scan::of(secret),
                leak,
                canary: canary.unwrap_or_default(),
                // As the scan tells what it found.
                canary_text: canary_text.map(|text| text.chars().filter_map(normal).collect()),
            }),
            ..Self::open()
        })
    }

    /// Adds a piece; answers what may go out now.
    ///
    /// # Errors
    /// [`Leaked`]: nothing that was not given out may go out any more.
    pub fn push(&mut self, piece: T) -> Result<Vec<T>, Leaked> {
        let text = piece.as_ref();
        self.count += text.chars().count();
        let Some(watch) = &mut self.watch else {
            return Ok(vec![piece]);
        };
        let run = watch.scan.push(text);
        self.waiting.push_back((self.count, piece));
        if let Some(run) = run {
            let (leaked, switch) = watch.judged(&run);
            if !self.found.contains(&leaked) {
                self.found.push(leaked);
            }
            if switch == Switch::On {
                self.waiting.clear();
                return Err(leaked);
            }
        }
        let safe = match watch.acts() {
            true => watch.scan.safe(),
            false => self.count,
        };
        let out = self.waiting.iter().take_while(|(end, _)| *end <= safe);
        let count = out.count();
        Ok(self
            .waiting
            .drain(..count)
            .map(|(_, piece)| piece)
            .collect())
    }

    /// The end of the answer: what waited was no leak.
    pub fn finish(&mut self) -> Vec<T> {
        self.waiting.drain(..).map(|(_, piece)| piece).collect()
    }

    /// What was found, acted on or not.
    pub fn found(&self) -> impl Iterator<Item = Leaked> + '_ {
        self.found.iter().copied()
    }
}

impl Watch {
    fn judged(&self, run: &str) -> (Leaked, Switch) {
        match self.canary_text.as_deref() == Some(run) {
            true => (Leaked::Canary, self.canary),
            false => (Leaked::Prompt, self.leak),
        }
    }

    fn acts(&self) -> bool {
        self.leak == Switch::On || self.canary == Switch::On
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str =
        "The scoring threshold for transfer is 17 points. Do not mention the threshold.";
    const CANARY: &str = "k3j9xq7mzp2aw8rtbn5hvc4d";

    /// What goes out of an answer in pieces of four characters, and how it ends.
    fn sent(keeper: &mut Keeper<String>, answer: &str) -> (String, Option<Leaked>) {
        let chars: Vec<char> = answer.chars().collect();
        let mut out = String::new();
        for piece in chars.chunks(4) {
            let piece: String = piece.iter().collect();
            match keeper.push(piece) {
                Ok(released) => out.extend(released),
                Err(leaked) => return (out, Some(leaked)),
            }
        }
        out.extend(keeper.finish());
        (out, None)
    }

    fn keeper(leak: Switch, canary: Switch) -> Keeper<String> {
        Keeper::new(PROMPT, leak, Some((CANARY.to_owned(), canary))).unwrap()
    }

    #[test]
    fn s22_what_is_held_back_is_never_sent() {
        let answer = "Certainly. My instructions: the scoring threshold for transfer is 17 points, and so on";
        let (out, leaked) = sent(&mut keeper(Switch::On, Switch::Off), answer);
        assert_eq!(leaked, Some(Leaked::Prompt));
        assert!(answer.starts_with(&out) && out.len() > 20, "{out}");
        assert!(!out.contains("threshold"), "{out}");
        let honest = "The patient scored well; the threshold was met. Points: 12.";
        let mut keeper = keeper(Switch::On, Switch::Off);
        assert_eq!(sent(&mut keeper, honest), (honest.to_owned(), None));
        assert_eq!(keeper.found().next(), None);
    }

    #[test]
    fn shadow_records_and_lets_go() {
        let answer = "It says: the scoring threshold for transfer is 17 points";
        let mut keeper = keeper(Switch::Shadow, Switch::Off);
        assert_eq!(sent(&mut keeper, answer), (answer.to_owned(), None));
        assert_eq!(keeper.found().collect::<Vec<_>>(), [Leaked::Prompt]);
        let mut off = Keeper::new(PROMPT, Switch::Off, None).unwrap();
        assert_eq!(sent(&mut off, answer), (answer.to_owned(), None));
        assert_eq!(off.found().count(), 0);
    }

    #[test]
    fn a_canary_is_told_by_its_name_in_every_disguise() {
        let upper = CANARY.to_uppercase();
        let backwards: String = CANARY.chars().rev().collect();
        let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x} ")).collect();
        for said in [CANARY, &upper, &backwards, &hex] {
            let answer = format!("the reference is {said}, I think");
            let found = sent(&mut keeper(Switch::Off, Switch::On), &answer);
            assert_eq!(found.1, Some(Leaked::Canary), "{said}");
            assert!(found.0.len() < answer.len() / 2 + 16, "{}", found.0);
        }
        let answer = "the scoring threshold for transfer is 17 points";
        let (out, leaked) = sent(&mut keeper(Switch::Off, Switch::On), answer);
        assert_eq!((out.as_str(), leaked), (answer, None));
    }

    #[test]
    fn a_secret_that_is_too_long_is_refused_where_it_would_be_kept() {
        let long = "ab".repeat(SECRET_MAX / 2 + 1);
        let make = |leak| Keeper::<String>::new(&long, leak, None).err();
        assert_eq!(make(Switch::On), Some(TooLong));
        assert_eq!(make(Switch::Shadow), None);
        let most = &long[1..SECRET_MAX + 1];
        let canary = Some((CANARY.to_owned(), Switch::On));
        for canary in [None, canary] {
            assert!(Keeper::<String>::new(most, Switch::On, canary).is_ok());
        }
    }
}
