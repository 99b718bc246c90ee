//! The command line.

use std::path::PathBuf;
use std::slice::Iter;

use anyhow::{anyhow, bail};

/// What `--help` prints.
pub const USAGE: &str = "\
usage: bench-serve --model FILE.gguf [options]
  --llama-cpp DIR      folder with llama-server; without it the peer's columns are empty
  --llama-args WORDS   more arguments of llama-server, such as --no-repack; try both settings
  --clients N          clients that stream at once (8)
  --requests N         requests of each client, one after the other (1)
  --prompt N           tokens of a prompt, about (256)
  --answer N           tokens of an answer (64)
  --threads N          threads of both engines (2)
  --rounds N           rounds in which both take turns (3)
  --peer-first         the other side begins the first round
  --rows A,B,...       clients, one, cost, guess, guard, marks, same (all but the last three)
  --guess-model FILE   a model whose answers repeat, for the row guess (the model with layers that add nothing)
  --json               rows for machines
Exit code 1 when a bar is missed.";

/// What is to be done.
#[derive(Debug)]
pub enum Task {
    /// Say how to call it.
    Help,
    /// Measure.
    Bench(Options),
}

/// Something that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// Many clients: speed and time to the first token.
    Clients,
    /// One client.
    One,
    /// The product against its own engine without HTTP.
    Cost,
    /// Repetitive text with guesses and without.
    Guess,
    /// Many clients with everything of the guard on, and with it off.
    Guard,
    /// The same where answers are drawn at temperature 1, and marked where the guard is on.
    Marks,
    /// The same with the guard off on both sides: how far such rows can be believed.
    Same,
}

impl RowKind {
    const ALL: [Self; 7] = [
        Self::Clients,
        Self::One,
        Self::Cost,
        Self::Guess,
        Self::Guard,
        Self::Marks,
        Self::Same,
    ];
    /// What is measured unless rows are named.
    const USUAL: [Self; 4] = [Self::Clients, Self::One, Self::Cost, Self::Guess];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::One => "one",
            Self::Cost => "cost",
            Self::Guess => "guess",
            Self::Guard => "guard",
            Self::Marks => "marks",
            Self::Same => "same",
        }
    }

    /// Whether llama.cpp's server takes part.
    pub const fn has_peer(self) -> bool {
        matches!(self, Self::Clients | Self::One)
    }

    fn named(name: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| anyhow!("no row is named {name:?}\n{USAGE}"))
    }
}

/// What to measure, and how.
#[derive(Debug)]
pub struct Options {
    /// Of which model.
    pub model: PathBuf,
    /// Of which model where answers are to repeat.
    pub guess_model: Option<PathBuf>,
    /// Where llama-server is.
    pub llama_cpp: Option<PathBuf>,
    /// What else it is told.
    pub llama_args: Vec<String>,
    /// Clients at once.
    pub clients: usize,
    /// Requests of each.
    pub requests: usize,
    /// Tokens of a prompt, about.
    pub prompt: usize,
    /// Tokens of an answer.
    pub answer: usize,
    /// Threads of each engine.
    pub threads: usize,
    /// Rounds.
    pub rounds: usize,
    /// Whether the other side begins the first round.
    pub peer_first: bool,
    /// What.
    pub rows: Vec<RowKind>,
    /// Whether the answer is for machines.
    pub json: bool,
}

/// Reads the command line.
///
/// # Errors
/// A word that means nothing here, with the usage.
pub fn parse(words: &[String]) -> anyhow::Result<Task> {
    let mut model = None;
    let mut options = Options {
        model: PathBuf::new(),
        guess_model: None,
        llama_cpp: None,
        llama_args: Vec::new(),
        clients: 8,
        requests: 1,
        prompt: 256,
        answer: 64,
        threads: 2,
        rounds: 3,
        peer_first: false,
        rows: RowKind::USUAL.to_vec(),
        json: false,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(Task::Help),
            "--model" => model = Some(PathBuf::from(value(word, &mut words)?)),
            "--guess-model" => options.guess_model = Some(value(word, &mut words)?.into()),
            "--llama-cpp" => options.llama_cpp = Some(value(word, &mut words)?.into()),
            "--llama-args" => {
                let more = value(word, &mut words)?;
                options.llama_args = more.split_whitespace().map(str::to_owned).collect();
            }
            "--clients" => options.clients = count(word, &mut words)?,
            "--requests" => options.requests = count(word, &mut words)?,
            "--prompt" => options.prompt = count(word, &mut words)?,
            "--answer" => options.answer = count(word, &mut words)?,
            "--threads" => options.threads = count(word, &mut words)?,
            "--rounds" => options.rounds = count(word, &mut words)?,
            "--rows" => {
                let names = value(word, &mut words)?;
                let kinds = names.split(',').map(RowKind::named);
                options.rows = kinds.collect::<anyhow::Result<_>>()?;
            }
            "--peer-first" => options.peer_first = true,
            "--json" => options.json = true,
            other => bail!("{other:?} means nothing here\n{USAGE}"),
        }
    }
    options.model = model.ok_or_else(|| anyhow!("no model is named\n{USAGE}"))?;
    Ok(Task::Bench(options))
}

fn value(option: &str, words: &mut Iter<'_, String>) -> anyhow::Result<String> {
    let next = words.next().cloned();
    next.ok_or_else(|| anyhow!("{option} needs a value\n{USAGE}"))
}

fn count(option: &str, words: &mut Iter<'_, String>) -> anyhow::Result<usize> {
    match value(option, words)?.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => bail!("{option} needs a number of at least one\n{USAGE}"),
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    fn task(line: &str) -> anyhow::Result<Task> {
        let words: Vec<String> = line.split('|').map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn what_is_named_is_taken_and_the_rest_has_defaults() {
        let line =
            "--model|a.gguf|--rows|one,cost|--rounds|5|--llama-args|--no-repack -b 512|--json";
        let Ok(Task::Bench(options)) = task(line) else {
            panic!("a benchmark was asked for")
        };
        assert_eq!(options.model, PathBuf::from("a.gguf"));
        assert_eq!(options.rows, [RowKind::One, RowKind::Cost]);
        assert_eq!((options.clients, options.rounds), (8, 5));
        assert_eq!(options.llama_args, ["--no-repack", "-b", "512"]);
        assert!(options.json && options.llama_cpp.is_none());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "--rounds|2",
            "--model",
            "--model|a.gguf|--rounds|0",
            "--model|a.gguf|--clients|many",
            "--model|a.gguf|--rows|speed",
            "a.gguf",
        ] {
            assert!(task(line).is_err(), "{line:?} was accepted");
        }
    }
}
