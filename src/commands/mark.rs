//! `casemate mark`: whose answers a text is made of, told by the choice of words (docs/formats/mark.md).

use std::fs;
use std::path::{Path, PathBuf};

use casemate_models::tokenizer::Tokenizer;
use casemate_models::weights::{GgufFile, WeightSource};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::{CommandError, ExitCode, model};
use crate::guard::keep::Scan;
use crate::guard::mark::{
    Calibration, MarkRoot, Report, TeamMark, Verdict, calibrate, entropy, look, root_label,
};
use crate::keys::KeyEncryption;
use crate::org::{Organisation, documents};
use crate::policy::{MARK_EPOCH_MAX, PolicyDocument};

/// Texts that are looked at.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Keys of nobody that a text is compared with.
const DECOYS: usize = 200;

/// Arguments of `casemate mark`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Look for the marks of an organisation's teams in a text. Exit code 0: marked; 10: not marked; 20: too short to say.
    #[command(
        after_help = "Examples:\n  casemate mark verify found.txt --org ./acme --model llama.casemate\n  \
        casemate mark verify dataset.jsonl --jsonl --org ./acme --model llama.gguf --bits 0.6 --json"
    )]
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Verify {
    /// The text.
    file: PathBuf,
    /// The file has a JSON object with a field `text` on each line: an answer each, judged together.
    #[arg(long)]
    jsonl: bool,
    /// The organisation's folder: its key-encryption key gives the keys, its policy the teams.
    #[arg(long, value_name = "DIR")]
    org: PathBuf,
    /// The model whose words they would be: a package of the organisation, or a GGUF file; its tokenizer is used.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Another team, which the policy does not have any more (repeatable).
    #[arg(long, value_name = "NAME")]
    team: Vec<String>,
    /// Look for the marks of this epoch alone (repeatable); by default of all up to the policy's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MARK_EPOCH_MAX)))]
    epoch: Vec<u32>,
    /// How much choice the text's tokens had, in bits on average: less needs more text.
    #[arg(long, default_value_t = 1.0, value_parser = bits)]
    bits: f64,
    /// Measure that choice with the model instead, over the first 4,096 tokens.
    #[arg(long, conflicts_with = "bits")]
    measure: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn bits(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|bits| (0.01..=20.0).contains(bits));
    number.ok_or_else(|| "a number from 0.01 to 20".to_owned())
}

/// Runs `casemate mark`.
///
/// # Errors
/// Exit code 3 for the organisation, 10 where no mark is found, 20 where the text is too short, 30 for what cannot be read.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    let Verb::Verify(arguments) = arguments.verb;
    let texts = read_texts(&arguments)?;
    let organisation = Organisation::open(&arguments.org)
        .map_err(|error| CommandError::new(ExitCode::Configuration, error))?;
    let teams = teams(&organisation, &arguments)?;
    let source = source(&organisation, &arguments.model)?;
    let tokenizer = Tokenizer::from_header(source.header())
        .map_err(|error| CommandError::new(ExitCode::Malformed, error))?;
    let tokens = tokenised(&tokenizer, &texts)?;
    let bits = match arguments.measure {
        false => arguments.bits,
        true => entropy::measure(&*source, &tokens)
            .map_err(|error| CommandError::new(ExitCode::Configuration, error))?,
    };
    let found = Found {
        report: look(&tokens, &teams, bits),
        calibration: calibrate(&tokens, DECOYS).map_err(anyhow::Error::from)?,
        canaries: canaries(&texts, &teams),
        bits,
        measured: arguments.measure,
    };
    match arguments.json {
        true => println!("{:#}", found.json()),
        false => found.print(),
    }
    found.outcome()
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

fn read_texts(arguments: &Verify) -> Result<Vec<String>, CommandError> {
    let file = &arguments.file;
    let unreadable = |error: &dyn std::fmt::Display| {
        CommandError::new(ExitCode::Malformed, format!("{}: {error}", file.display()))
    };
    let length = fs::metadata(file)
        .map_err(|error| unreadable(&error))?
        .len();
    if length > FILE_BYTES_MAX {
        return Err(
            unreadable(&format!("it has more than {} MiB", FILE_BYTES_MAX >> 20))
                .hint("look at a part of it: a few thousand tokens are enough"),
        );
    }
    let bytes = fs::read(file).map_err(|error| unreadable(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(&"it is not UTF-8 text"))?;
    if !arguments.jsonl {
        return Ok(vec![text]);
    }
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(at, line)| {
        let wrong = |_| unreadable(&format!("line {} has no field `text` of text", at + 1));
        serde_json::from_str(line)
            .map_err(wrong)
            .map(|Line { text }| text)
    });
    parsed.collect()
}

/// The keys of every team and epoch that is looked for.
fn teams(organisation: &Organisation, arguments: &Verify) -> Result<Vec<TeamMark>, CommandError> {
    let configuration = |error: &dyn std::fmt::Display| {
        CommandError::new(ExitCode::Configuration, error.to_string())
    };
    let policy = documents::open_for_editing::<PolicyDocument>(organisation)
        .map_err(|error| configuration(&error).hint("sign a policy first: casemate policy sign"))?;
    let policy = policy.payload();
    let mut names: Vec<&str> = policy.teams.keys().map(|name| name.as_str()).collect();
    names.extend(arguments.team.iter().map(String::as_str));
    names.sort_unstable();
    names.dedup();
    let mut epochs = arguments.epoch.clone();
    if epochs.is_empty() {
        epochs = (1..=policy.mark_epoch).collect();
    }
    epochs.sort_unstable();
    epochs.dedup();
    let kek = organisation.kek().map_err(|error| configuration(&error))?;
    let mut teams = Vec::new();
    for epoch in epochs {
        let key = kek
            .derive(&root_label(epoch))
            .map_err(|error| configuration(&error))?;
        let root = MarkRoot::new(*key.expose(), epoch);
        teams.extend(names.iter().map(|name| root.team(name)));
    }
    match teams.is_empty() {
        false => Ok(teams),
        true => Err(
            configuration(&"the policy has no team, so there is nobody to look for")
                .hint("name a team with --team"),
        ),
    }
}

/// A package of the organisation, or a file that is not sealed.
fn source(organisation: &Organisation, path: &Path) -> Result<Box<dyn WeightSource>, CommandError> {
    let mut magic = [0_u8; 4];
    let read = fs::File::open(path).and_then(|mut file| {
        use std::io::Read;
        file.read_exact(&mut magic)
    });
    read.map_err(|error| {
        CommandError::new(ExitCode::Malformed, format!("{}: {error}", path.display()))
    })?;
    match &magic {
        b"GGUF" => match GgufFile::open(path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(CommandError::new(
                ExitCode::Malformed,
                format!("{}: {error}", path.display()),
            )),
        },
        _ => Ok(Box::new(model::open(organisation, path)?)),
    }
}

/// Tokens of each text, without the mark of a text's beginning.
fn tokenised(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<Vec<u32>>, CommandError> {
    let bos = tokenizer.special().bos;
    let one = |text: &String| {
        let mut ids = tokenizer.encode_text(text)?;
        if bos.is_some() && ids.first().copied() == bos {
            ids.remove(0);
        }
        Ok(ids)
    };
    let all: Result<Vec<_>, casemate_models::tokenizer::TokenizerError> =
        texts.iter().map(one).collect();
    all.map_err(|error| CommandError::new(ExitCode::Malformed, error))
}

/// Teams whose canaries stand in the texts.
fn canaries(texts: &[String], teams: &[TeamMark]) -> Vec<(String, u32)> {
    let said = |team: &&TeamMark| {
        let canary = team.canary();
        texts
            .iter()
            .any(|text| Scan::new(&canary).push(text).is_some())
    };
    let found = teams.iter().filter(said);
    found
        .map(|team| (team.team().to_owned(), team.epoch()))
        .collect()
}

/// Everything that is told of a text.
struct Found {
    report: Report,
    calibration: Calibration,
    canaries: Vec<(String, u32)>,
    bits: f64,
    measured: bool,
}

impl Found {
    fn print(&self) {
        let Report {
            tokens,
            pairs,
            pairs_needed,
            keys,
            findings,
            verdict,
        } = &self.report;
        let how = if self.measured { "measured" } else { "assumed" };
        println!("INFO mark-text {tokens} tokens, {pairs} distinct pairs of context and token");
        println!("INFO mark-entropy {:.2} bits per token, {how}", self.bits);
        println!("INFO mark-keys {keys} keys, or teams with all their keys, were tried");
        let Calibration { decoys, uniform_p } = self.calibration;
        println!(
            "INFO mark-null {decoys} keys of nobody: their p-values are uniform with p = {uniform_p:.3}"
        );
        for finding in findings {
            println!(
                "INFO mark-team {} epoch {}: p = 1e{:.1}, over all keys 1e{:.1} (score {:.3})",
                finding.team, finding.epoch, finding.log10_p, finding.log10_p_family, finding.score,
            );
        }
        for (team, epoch) in &self.canaries {
            println!(
                "INFO mark-canary the canary of team {team}, epoch {epoch}, stands in the text"
            );
        }
        match verdict {
            Verdict::Marked { team, epoch } => {
                println!("PASS mark answers to team {team}, epoch {epoch}");
            }
            Verdict::NotMarked => println!("FAIL mark no team's mark in {pairs} pairs"),
            Verdict::TooShort => {
                println!("SKIP mark {pairs} pairs, and a verdict needs {pairs_needed}");
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        let report = &self.report;
        let finding = |finding: &crate::guard::mark::Finding| {
            json!({"team": finding.team, "epoch": finding.epoch, "sub_key": finding.sub_key, "score": finding.score,
                "log10_p": finding.log10_p, "log10_p_family": finding.log10_p_family})
        };
        let (verdict, team, epoch) = match &report.verdict {
            Verdict::Marked { team, epoch } => ("marked", Some(team), Some(epoch)),
            Verdict::NotMarked => ("not_marked", None, None),
            Verdict::TooShort => ("too_short", None, None),
        };
        let canary = |(team, epoch): &(String, u32)| json!({"team": team, "epoch": epoch});
        json!({"verdict": verdict, "team": team, "epoch": epoch, "tokens": report.tokens, "pairs": report.pairs,
            "pairs_needed": report.pairs_needed, "keys": report.keys,
            "bits_per_token": self.bits, "bits_measured": self.measured,
            "null": {"decoys": self.calibration.decoys, "uniform_p": self.calibration.uniform_p},
            "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
            "canaries": self.canaries.iter().map(canary).collect::<Vec<_>>()})
    }

    fn outcome(&self) -> Result<(), CommandError> {
        match &self.report.verdict {
            Verdict::Marked { .. } => Ok(()),
            Verdict::NotMarked => Err(CommandError::new(
                ExitCode::Rejected,
                "no team's mark is in this text",
            )),
            Verdict::TooShort => Err(CommandError::new(
                ExitCode::Unsupported,
                "there is too little text for a verdict, or its words had too little choice",
            )
            .hint("more text of the same origin helps: --jsonl takes many texts as one")),
        }
    }
}
