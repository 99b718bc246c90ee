//! `casemate policy`: what officers edit, check, try out and sign.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use casemate_attestation::{
    Issue, Platform, ReleasePublicKey, ReleaseSecretKey, SignedError, UnixTime,
};
use clap::{Args, Subcommand};
use ring::rand::SystemRandom;

use super::{CommandError, ExitCode};
use crate::org::{Organisation, documents};
use crate::policy::{
    Action, DecisionContext, Owner, PolicyBundle, PolicyDocument, PolicyError, PolicySource,
    Principal, decide,
};

/// The officer's files in an organisation's folder.
const SOURCES: &str = "policy";
const DAYS_DEFAULT: u32 = 30;

/// Edit, check, try out and sign what teams may do.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check a folder with policy.toml and policy.cedar, an organisation's folder, or a signed bundle.
    #[command(
        after_help = "Examples:\n  casemate policy check acme/policy\n  casemate policy check acme/policy.json"
    )]
    Check(Check),
    /// Sign the policy in an organisation's folder: acme/policy/* becomes acme/policy.json with the next number.
    #[command(after_help = "Example:\n  casemate policy sign acme --days 30")]
    Sign(Sign),
    /// Ask what the policy in a folder would answer. Exit code 0 for yes, 11 for no.
    #[command(
        after_help = "Example:\n  casemate policy explain acme --principal spiffe://acme/team/research/ada --action chat --model default"
    )]
    Explain(Explain),
}

#[derive(Debug, Args)]
struct Check {
    /// Folder or signed bundle.
    path: PathBuf,
    /// The release key's public half; by default release/public.key beside the bundle.
    #[arg(long, value_name = "FILE")]
    release_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Sign {
    /// The organisation's folder.
    folder: PathBuf,
    /// Days that the policy is in force.
    #[arg(long, default_value_t = DAYS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
}

#[derive(Debug, Args)]
struct Explain {
    /// Folder with policy.toml and policy.cedar, or the organisation's folder.
    folder: PathBuf,
    /// Who asks, such as spiffe://acme/team/research/ada.
    #[arg(long)]
    principal: Principal,
    /// For what.
    #[arg(long)]
    action: Action,
    /// By which name the model is asked for.
    #[arg(long)]
    model: String,
    /// Platform that attests the server: snp or test-chip.
    #[arg(long, default_value = "snp", value_parser = super::platform)]
    platform: Platform,
    /// The peer's address.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    peer: IpAddr,
    /// Tokens that the principal has spent in the present window.
    #[arg(long, default_value_t = 0)]
    tokens_spent: u64,
    /// The class of data that the request declares.
    #[arg(long)]
    data_class: Option<String>,
}

/// Runs `casemate policy`.
///
/// # Errors
/// Exit code 3 for sources, 10 for signatures, 11 for a no, 12 for an expired bundle, 30 for bytes that are no bundle.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    match arguments.verb {
        Verb::Check(arguments) if arguments.path.is_dir() => check_sources(&arguments.path),
        Verb::Check(arguments) => check_bundle(&arguments),
        Verb::Sign(arguments) => sign(&arguments),
        Verb::Explain(arguments) => explain(&arguments),
    }
}

fn check_sources(path: &Path) -> Result<(), CommandError> {
    let source =
        read_sources(path).inspect_err(|_| println!("FAIL policy-sources {}", path.display()))?;
    println!("PASS policy-sources {}", path.display());
    describe(source.document());
    Ok(())
}

fn check_bundle(arguments: &Check) -> Result<(), CommandError> {
    let path = &arguments.path;
    let beside = || {
        path.parent()
            .unwrap_or(Path::new(""))
            .join("release/public.key")
    };
    let key_file = arguments.release_key.clone().unwrap_or_else(beside);
    let key = std::fs::read_to_string(&key_file)
        .map_err(|error| configuration(format!("cannot read {}: {error}", key_file.display())))?;
    let key = ReleasePublicKey::from_hex(&key)
        .map_err(|error| configuration(format!("{}: {error}", key_file.display())))?;
    let bytes = std::fs::read(path)
        .map_err(|error| configuration(format!("cannot read {}: {error}", path.display())))?;
    let bundle = PolicyBundle::open(&bytes, &key, 0, crate::session::now()).map_err(|error| {
        println!("FAIL policy-bundle {}", path.display());
        CommandError::new(exit_code(&error), format!("{}: {error}", path.display()))
    })?;
    println!("PASS policy-bundle {}", path.display());
    println!("INFO policy-number {}", bundle.number());
    println!("INFO policy-expires {}", bundle.expires());
    println!("INFO policy-digest {}", bundle.digest());
    describe(bundle.document());
    Ok(())
}

fn sign(arguments: &Sign) -> Result<(), CommandError> {
    let organisation = Organisation::open(&arguments.folder).map_err(configuration)?;
    let source = read_sources(&arguments.folder)?;
    let now = crate::session::now();
    documents::sign_next(&organisation, source.document(), arguments.days, now)
        .map_err(configuration)?;
    let bundle = arguments
        .folder
        .join(documents::file_of(casemate_attestation::Kind::Policy));
    check_bundle(&Check {
        path: bundle,
        release_key: None,
    })
}

fn explain(arguments: &Explain) -> Result<(), CommandError> {
    let source = read_sources(&arguments.folder)?;
    let now = crate::session::now();
    let bundle = provisional(source.document(), now)?;
    let denied = |reason: String| {
        println!("DENY {reason}");
        CommandError::new(ExitCode::Denied, reason)
    };
    let model = bundle
        .model(&arguments.model)
        .ok_or_else(|| denied("the policy gives this name to no model".to_owned()))?;
    let context = DecisionContext {
        now,
        platform: arguments.platform,
        confidential: arguments.platform.confidential(),
        tcb: None,
        client: None,
        peer: arguments.peer,
        tokens_spent: arguments.tokens_spent,
        data_class: arguments.data_class.clone(),
        attested_at: now,
    };
    let granted = decide(
        &bundle,
        &arguments.principal,
        arguments.action,
        &model,
        &context,
    )
    .map_err(|reason| denied(reason.to_string()))?;
    let rules: Vec<_> = granted.rules().iter().map(|rule| rule.as_str()).collect();
    println!("ALLOW team {} by {}", granted.team(), rules.join(", "));
    Ok(())
}

/// Decisions are made from signed bundles only; this one is signed by a key that exists for this one question.
fn provisional(document: &PolicyDocument, now: UnixTime) -> Result<PolicyBundle, CommandError> {
    let make = || -> Result<PolicyBundle, PolicyError> {
        let key = ReleaseSecretKey::generate(&SystemRandom::new())?;
        let issue = Issue {
            number: 1,
            issued: now,
            expires: now.plus(60),
        };
        PolicyBundle::open(&document.sign(issue, &key)?, &key.public()?, 0, now)
    };
    make().map_err(configuration)
}

fn read_sources(path: &Path) -> Result<PolicySource, CommandError> {
    let inside = path.join(SOURCES);
    let folder = if inside.is_dir() { &inside } else { path };
    PolicySource::read(folder).map_err(configuration)
}

fn describe(document: &PolicyDocument) {
    for (name, digest) in &document.models {
        println!("INFO policy-model {name} {digest}");
    }
    for (name, team) in &document.teams {
        let members: Vec<_> = team.principals.iter().map(ToString::to_string).collect();
        println!("INFO policy-team {name} {}", members.join(" "));
    }
    let guard = document.guard();
    println!("INFO policy-guard {}", guard.mode.as_str());
    for (name, workload) in &guard.workloads {
        let owner = match &workload.owner {
            Owner::Team(team) => format!("team {team}"),
            Owner::Principal(principal) => principal.to_string(),
        };
        let (prompts, window) = (workload.prompts, workload.window_seconds);
        println!("INFO policy-workload {name} {owner}, {prompts} prompts in {window} s");
    }
}

fn configuration(error: impl std::fmt::Display) -> CommandError {
    CommandError::new(ExitCode::Configuration, error)
}

fn exit_code(error: &PolicyError) -> ExitCode {
    match error {
        PolicyError::Signed(SignedError::Expired { .. } | SignedError::NotYetValid { .. }) => {
            ExitCode::Expired
        }
        PolicyError::Signed(
            SignedError::WrongKey { .. }
            | SignedError::BadSignature(_)
            | SignedError::WrongKind { .. }
            | SignedError::RolledBack { .. },
        ) => ExitCode::Rejected,
        PolicyError::Signed(_) => ExitCode::Malformed,
        _ => ExitCode::Configuration,
    }
}
