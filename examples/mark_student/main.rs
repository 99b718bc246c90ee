//! The Rust half of `scripts/night-mark-student` (G9): writes answers with or without a team's mark, and scores a student's
//! answers under the team's key and under keys of nobody. The keys are made here and protect nothing.

mod score;
mod writing;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use casemate::guard::mark::{MarkRoot, TeamMark};
use serde::{Deserialize, Serialize};

const USAGE: &str = "\
usage: mark_student write --model FILE.gguf --out FILE.jsonl [--tokens N] [--team NAME] [--temperature X]
                          [--prompts FILE.jsonl] [--seed N] [--threads N]
       mark_student cut FILE.jsonl --model FILE.gguf --out FILE.jsonl
       mark_student score FILE.jsonl --model FILE.gguf --team NAME --plain FILE.jsonl [--decoys N]
  write    answers to prompts that the model begins by itself: 12 tokens that carry no mark, then up to 200 that carry the
           mark of --team, each answer in one of the team's sub-keys; without --team none. --temperature is 1 if not given.
           --prompts takes the prompts of other answers instead, in their order
  cut      the tokens of answers whose text was changed, by the model's tokenizer
  score    p-values of the answers under --team and under --decoys other teams, as JSON; --plain holds answers without a
           mark, which say what contexts are common";

/// An answer, a line of a file.
#[derive(Serialize, Deserialize)]
struct Answer {
    /// What was asked.
    prompt: String,
    /// What was answered: what a mark is looked for in.
    text: String,
    /// Both in tokens, as who reads the text would cut it.
    ids: Vec<u32>,
    /// How many of those are the prompt's.
    prompt_ids: usize,
}

fn answers(path: &Path) -> Result<Vec<Answer>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parsed = text.lines().map(serde_json::from_str::<Answer>);
    parsed
        .collect::<Result<_, _>>()
        .with_context(|| path.display().to_string())
}

/// The key of a team, the same in every run: known to whoever reads this.
fn team(name: &str) -> TeamMark {
    MarkRoot::new([9; 32], 1).team(name)
}

/// The words of the command line.
struct Options {
    verb: String,
    file: Option<PathBuf>,
    model: PathBuf,
    out: Option<PathBuf>,
    plain: Option<PathBuf>,
    prompts: Option<PathBuf>,
    team: Option<String>,
    tokens: usize,
    temperature: f64,
    seed: u64,
    threads: usize,
    decoys: usize,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            verb: words.next().context(USAGE)?,
            file: None,
            model: PathBuf::new(),
            out: None,
            plain: None,
            prompts: None,
            team: None,
            tokens: 10_000,
            temperature: 1.0,
            seed: 1,
            threads: 1,
            decoys: 100,
        };
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                options.file = Some(word.into());
                continue;
            }
            let value = words
                .next()
                .with_context(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--model" => options.model = value.into(),
                "--out" => options.out = Some(value.into()),
                "--plain" => options.plain = Some(value.into()),
                "--prompts" => options.prompts = Some(value.into()),
                "--team" => options.team = Some(value),
                "--tokens" => options.tokens = value.parse()?,
                "--temperature" => options.temperature = value.parse()?,
                "--seed" => options.seed = value.parse()?,
                "--threads" => options.threads = value.parse()?,
                "--decoys" => options.decoys = value.parse()?,
                _ => bail!("{word} means nothing here\n{USAGE}"),
            }
        }
        ensure!(
            options.model.is_file(),
            "--model is a GGUF file that there is"
        );
        Ok(options)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1).peekable();
    if words
        .peek()
        .is_none_or(|word| word == "--help" || word == "-h")
    {
        println!("{USAGE}");
        return Ok(());
    }
    let options = Options::read(words)?;
    match options.verb.as_str() {
        "write" => writing::write(&options),
        "cut" => writing::cut(&options),
        "score" => score::score(&options),
        other => bail!("{other:?} means nothing here\n{USAGE}"),
    }
}
