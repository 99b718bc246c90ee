//! `casemate host`: what this machine lacks to start confidential guests.

use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_client::report::Outcome;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{CommandError, ExitCode};
use crate::host::{self, Facts, Finding, Version, Wanted};

/// Look at the host that starts guests.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what BIOS, kernel, QEMU and firmware lack for SEV-SNP, TDX or a TPM, one hint each.
    #[command(
        after_help = "Examples:\n  casemate host check\n  casemate host check --platform snp --json"
    )]
    Check(Check),
}

#[derive(Debug, Args)]
struct Check {
    /// Look for this platform alone; the exit code is 20 where something is missing. Without it, 20 where no platform is complete.
    #[arg(long, value_enum)]
    platform: Option<Platform>,
    /// The folder that is the machine's `/`, as a tree that was recorded elsewhere.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
    /// Ask this QEMU for its version, in place of the package manager.
    #[arg(long, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Platform {
    Snp,
    Tdx,
    Tpm,
}

/// Runs `casemate host`.
///
/// # Errors
/// 3 for a root that is no folder or a QEMU that does not answer, 20 where something is missing.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    let Verb::Check(it) = arguments.verb;
    if !it.root.is_dir() {
        let text = format!("{} is no folder", it.root.display());
        return Err(CommandError::new(ExitCode::Configuration, text));
    }
    let qemu = it.qemu.as_deref().map(asked).transpose()?;
    let facts = Facts::new(&it.root, qemu);
    let wanted = match it.platform {
        Some(Platform::Snp) => vec![Wanted::Snp],
        Some(Platform::Tdx) => vec![Wanted::Tdx],
        Some(Platform::Tpm) => vec![Wanted::Tpm],
        None => vec![Wanted::Snp, Wanted::Tdx, Wanted::Tpm],
    };
    let findings = host::check(&facts, &wanted);
    print(&findings, it.json)?;
    let complete = |platform: &Wanted| {
        let needed = host::check(&facts, &[*platform]);
        needed
            .iter()
            .all(|finding| finding.outcome != Outcome::Fail)
    };
    if wanted.iter().any(complete) {
        return Ok(());
    }
    let text = match it.platform {
        Some(_) => "the host is not ready for this platform",
        None => "the host is not ready for any platform",
    };
    Err(CommandError::new(ExitCode::Unsupported, text)
        .hint("mend the lines that say FAIL, from the first on"))
}

fn print(findings: &[Finding], json: bool) -> Result<(), CommandError> {
    if json {
        let text = serde_json::to_string_pretty(&json!({"checks": findings}));
        println!("{}", text.map_err(anyhow::Error::from)?);
        return Ok(());
    }
    for finding in findings {
        println!("{} {} {}", finding.outcome, finding.id, finding.text);
        if let Some(hint) = finding.hint {
            println!("     hint: {hint}");
        }
    }
    Ok(())
}

/// What a QEMU says of itself.
fn asked(program: &Path) -> Result<Version, CommandError> {
    let wrong = |what: String| {
        CommandError::new(
            ExitCode::Configuration,
            format!("{}: {what}", program.display()),
        )
    };
    let answer = Command::new(program).arg("--version").output();
    let answer = answer.map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8_lossy(&answer.stdout);
    Version::read(&text).ok_or_else(|| wrong("it does not say its version".into()))
}
