//! `casemate guard`: declare a workload for the policy, and ask a server how its guard stands, as an officer over an attested
//! session. No answer holds text of anybody.

use std::path::{Path, PathBuf};

use casemate_attestation::UnixTime;
use casemate_client::command::CommandFailure;
use casemate_client::config::Config;
use casemate_client::session::{AttestedConnection, Connector, empty_body, full_body};
use clap::{Args, Subcommand};
use http::Request;
use serde::Serialize;
use serde_json::Value;

use super::{CommandError, ExitCode, runtime};
use crate::api::{DiscloseRequest, ExplainRequest, ReleaseRequest};
use crate::guard::counters::Day;
use crate::guard::{Step, Template};
use crate::policy::{Owner, Principal, TeamName, WorkloadName};
use crate::sentry::{Disclosed, Explanation, Released, Spent, Status};

/// The longest template file, and the longest answer of a server.
const TEMPLATE_BYTES_MAX: u64 = 64 * 1024;
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Declare workloads, see whom the guard asks about, release.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the section of policy.toml that declares the template in a file, with {{name}} where prompts differ.
    #[command(
        after_help = "Example:\n  casemate guard declare ticket-summary.txt --name tickets --team support --prompts 20000 --expires 1798761600 >> acme/policy/policy.toml"
    )]
    Declare(Declare),
    /// Who stands on which step, whom to look at, and what was given.
    #[command(after_help = "Example:\n  casemate guard status --config officer.toml --json")]
    Status(Server),
    /// What was told of days: counters with noise, in which nobody is.
    #[command(after_help = "Example:\n  casemate guard days --config officer.toml --json")]
    Days(Server),
    /// What the guard holds against a principal.
    #[command(
        after_help = "Example:\n  casemate guard explain spiffe://acme/team/support/ada --config officer.toml"
    )]
    Explain(Explain),
    /// Open the wording of a shared template, together with a second officer: what at least 20 distinct prompts have.
    #[command(
        after_help = "Example:\n  casemate guard disclose 5f1c0a9be77d2140 --config officer.toml\n  and within the hour, as another officer, the same"
    )]
    Disclose(Disclose),
    /// Put a principal on another step, which the audit log records with your name.
    #[command(
        after_help = "Example:\n  casemate guard release spiffe://acme/team/support/ada --config officer.toml"
    )]
    Release(Release),
}

#[derive(Debug, Args)]
struct Declare {
    /// The template's text.
    file: PathBuf,
    /// A name for the workload.
    #[arg(long)]
    name: WorkloadName,
    /// The team that sends it.
    #[arg(
        long,
        conflicts_with = "principal",
        required_unless_present = "principal"
    )]
    team: Option<TeamName>,
    /// The one principal that sends it.
    #[arg(long)]
    principal: Option<Principal>,
    /// Prompts in one window.
    #[arg(long)]
    prompts: u64,
    /// Length of the window, seconds.
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(1..=2_678_400))]
    window_seconds: u32,
    /// First second, since 1970, at which it is declared no more.
    #[arg(long)]
    expires: u64,
}

#[derive(Debug, Args)]
struct Server {
    /// Configuration of a client whose identity is an officer's.
    #[arg(long, value_name = "FILE", default_value = "connect.toml")]
    config: PathBuf,
    /// The answer as the server gives it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Explain {
    /// Whose case.
    principal: Principal,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
struct Disclose {
    /// Its reference: see `casemate guard status`.
    family: String,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
struct Release {
    /// Whose case.
    principal: Principal,
    /// On which step: open, options_withheld, reasoning_withheld, slowed, stepped_up or closed.
    #[arg(long, default_value = "open", value_parser = step)]
    to: Step,
    #[command(flatten)]
    server: Server,
}

fn step(word: &str) -> Result<Step, String> {
    Step::of_code(word).ok_or_else(|| {
        "steps are open, options_withheld, reasoning_withheld, slowed, stepped_up and closed".into()
    })
}

/// Runs `casemate guard`.
///
/// # Errors
/// Exit code 3 for files, 10 where the server is not what it must be, 11 for who is no officer.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    match arguments.verb {
        Verb::Declare(arguments) => declare(arguments),
        Verb::Status(server) => {
            let answer = ask(&server, "/guard/status", None)?;
            show(&server, &answer, |answer| {
                let mode = answer.get("mode").and_then(Value::as_str).unwrap_or("?");
                let status = answer.get("status").cloned().unwrap_or_default();
                serde_json::from_value(status).map(|status| status_lines(mode, &status))
            })
        }
        Verb::Days(server) => {
            let answer = ask(&server, "/guard/days", None)?;
            show(&server, &answer, |answer| {
                let days = answer.get("days").cloned().unwrap_or_default();
                serde_json::from_value(days)
                    .map(|days: Vec<Day>| days.iter().map(day_line).collect())
            })
        }
        Verb::Explain(Explain { principal, server }) => {
            let question = json(&ExplainRequest { principal })?;
            let answer = ask(&server, "/guard/explain", Some(question))?;
            show(&server, &answer, |answer| {
                serde_json::from_value(answer.clone()).map(|one| explanation_lines(&one))
            })
        }
        Verb::Disclose(Disclose { family, server }) => {
            let question = json(&DiscloseRequest { family })?;
            let answer = ask(&server, "/guard/disclose", Some(question))?;
            show(&server, &answer, |answer| {
                if let Some(waiting) = answer.get("waiting").and_then(Value::as_str) {
                    return Ok(vec![waiting.to_owned()]);
                }
                serde_json::from_value(answer.clone()).map(|one: Disclosed| disclosed_lines(&one))
            })
        }
        Verb::Release(Release {
            principal,
            to,
            server,
        }) => {
            let question = json(&ReleaseRequest { principal, to })?;
            let answer = ask(&server, "/guard/release", Some(question))?;
            show(&server, &answer, |answer| {
                let line = |one: Released| {
                    let (from, to) = (one.from.code(), one.to.code());
                    vec![format!(
                        "{} {from} -> {to} ({})",
                        one.principal, one.reference
                    )]
                };
                serde_json::from_value(answer.clone()).map(line)
            })
        }
    }
}

#[derive(Serialize)]
struct Section<'a> {
    guard: Workloads<'a>,
}

#[derive(Serialize)]
struct Workloads<'a> {
    workloads: std::collections::BTreeMap<&'a WorkloadName, Declared>,
}

#[derive(Serialize)]
struct Declared {
    owner: Owner,
    template: String,
    prompts: u64,
    window_seconds: u32,
    expires: u64,
}

fn declare(arguments: Declare) -> Result<(), CommandError> {
    let wrong = |error: String| CommandError::new(ExitCode::Configuration, error);
    let file = &arguments.file;
    let bytes = casemate_client::files::read_public(file, TEMPLATE_BYTES_MAX);
    let bytes = bytes.map_err(|error| wrong(error.to_string()))?;
    let named = |error: &dyn std::fmt::Display| wrong(format!("{}: {error}", file.display()));
    let text = String::from_utf8(bytes).map_err(|_| named(&"not UTF-8"))?;
    let template = Template::of_text(text.trim()).map_err(|error| named(&error))?;
    let owner = match (arguments.team, arguments.principal) {
        (Some(team), _) => Owner::Team(team),
        (None, Some(principal)) => Owner::Principal(principal),
        (None, None) => {
            return Err(CommandError::new(
                ExitCode::Usage,
                "name --team or --principal",
            ));
        }
    };
    let declared = Declared {
        owner,
        template: template.to_string(),
        prompts: arguments.prompts,
        window_seconds: arguments.window_seconds,
        expires: arguments.expires,
    };
    let section = Section {
        guard: Workloads {
            workloads: [(&arguments.name, declared)].into(),
        },
    };
    let text = toml::to_string(&section).map_err(|error| wrong(error.to_string()))?;
    print!("\n{text}");
    Ok(())
}

/// Asks over a session that is attested for it.
fn ask(server: &Server, path: &str, body: Option<Vec<u8>>) -> Result<Value, CommandError> {
    runtime()?.block_on(async {
        let connection = attested(&server.config).await.map_err(failed)?;
        let request = match body {
            None => Request::get(path).body(empty_body()),
            Some(body) => Request::post(path)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(full_body(body)),
        };
        let request = request.map_err(|error| CommandError::new(ExitCode::Unexpected, error))?;
        let answer = connection.fetch(request, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| failed(error.into()))?;
        let document: Value = serde_json::from_slice(answer.body()).map_err(|_| {
            CommandError::new(ExitCode::Malformed, "the server's answer is no JSON")
        })?;
        if answer.status().is_success() {
            return Ok(document);
        }
        let message = document.pointer("/error/message").and_then(Value::as_str);
        let code = match answer.status().as_u16() {
            403 => ExitCode::Denied,
            400 => ExitCode::Usage,
            _ => ExitCode::Unexpected,
        };
        Err(CommandError::new(
            code,
            message.unwrap_or("the server refuses"),
        ))
    })
}

async fn attested(path: &Path) -> Result<AttestedConnection, CommandFailure> {
    let config = Config::load(path)?;
    let mut connector = Connector::new(&config, path)?;
    if let Some(section) = &config.attestation {
        let own = super::own::evidence(section).map_err(CommandFailure::OwnEvidence)?;
        connector = connector.with_own_evidence(own);
    }
    Ok(connector.attest().await?)
}

fn failed(error: CommandFailure) -> CommandError {
    CommandError::new(error.exit_code(), error)
}

fn json(question: &impl Serialize) -> Result<Vec<u8>, CommandError> {
    serde_json::to_vec(question).map_err(|error| CommandError::new(ExitCode::Unexpected, error))
}

/// Prints an answer for machines as it came, for people as lines.
fn show(
    server: &Server,
    answer: &Value,
    lines: impl Fn(&Value) -> Result<Vec<String>, serde_json::Error>,
) -> Result<(), CommandError> {
    if server.json {
        println!("{answer:#}");
        return Ok(());
    }
    let lines = lines(answer);
    let lines = lines.map_err(|_| {
        CommandError::new(
            ExitCode::Malformed,
            "the server's answer has another form; use --json",
        )
    })?;
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn status_lines(mode: &str, status: &Status) -> Vec<String> {
    let mut lines = vec![format!(
        "mode {mode}, {} principals watched, {} shared templates",
        status.principals, status.families
    )];
    for one in &status.standing {
        let shadow = if one.shadow { ", only watched" } else { "" };
        let step = one.step.code();
        lines.push(format!(
            "{step:<18} {} since {}{shadow} ({})",
            one.principal, one.since, one.reference
        ));
    }
    lines.extend(
        status
            .look_at
            .iter()
            .map(|name| format!("look at            {name}")),
    );
    lines.extend(status.shared.iter().map(|one| {
        format!(
            "shared template    {} in {} prompts of {} principals or more, {} shingles to open",
            one.reference, one.prompts_band, one.principals_band, one.shingles
        )
    }));
    lines.extend(status.given.iter().map(given_line));
    if status.missed_prompts > 0 {
        lines.push(format!(
            "{} prompts came too fast and were not looked at",
            status.missed_prompts
        ));
    }
    if status.unwritten_seconds > 0 {
        lines.push(format!(
            "nothing could be written down for {} s: see to the disk",
            status.unwritten_seconds
        ));
    }
    lines
}

fn explanation_lines(one: &Explanation) -> Vec<String> {
    let shadow = if one.shadow { ", only watched" } else { "" };
    let mut lines = vec![
        format!(
            "{} {} since {}{shadow} ({})",
            one.principal,
            one.step.code(),
            one.since,
            one.reference
        ),
        format!(
            "reason             {}",
            one.reason.as_deref().unwrap_or("none")
        ),
        format!(
            "evidence           {} % of the next alarm",
            one.evidence_percent
        ),
        format!("prompts            {} or more", one.prompts_band),
        format!("shared templates   {} or more, perhaps", one.families_band),
    ];
    lines.extend(one.given.iter().map(given_line));
    lines
}

fn disclosed_lines(one: &Disclosed) -> Vec<String> {
    let first = format!("{} opened together with {}", one.family, one.second);
    let words = one.shingles.iter().map(|words| format!("  {words}"));
    std::iter::once(first).chain(words).collect()
}

fn day_line(day: &Day) -> String {
    let told = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
    format!(
        "{}{}  principals {}, answers {}, thousands of tokens {}, refused {}",
        UnixTime::from_secs(day.begins),
        if day.whole { "" } else { " (in part)" },
        told(day.principals),
        told(day.answers),
        told(day.kilotokens),
        told(day.refused)
    )
}

fn given_line(spent: &Spent) -> String {
    format!(
        "given              {} bits ({} told by probabilities at {} places, {} by arranged choices), {} tokens, of model {}",
        spent.bits, spent.told_bits, spent.contexts, spent.arranged_bits, spent.tokens, spent.model
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::GuardPolicy;

    #[test]
    fn what_declare_prints_is_what_a_policy_reads() {
        let template = Template::of_text("one two three four five six seven {{x}}").unwrap();
        let name: WorkloadName = "tickets".parse().unwrap();
        let declared = Declared {
            owner: Owner::Team("support".parse().unwrap()),
            template: template.to_string(),
            prompts: 5,
            window_seconds: 60,
            expires: 1_800_000_000,
        };
        let section = Section {
            guard: Workloads {
                workloads: [(&name, declared)].into(),
            },
        };
        let text = toml::to_string(&section).unwrap();
        #[derive(serde::Deserialize)]
        struct Tables {
            guard: GuardPolicy,
        }
        let read: Tables = toml::from_str(&text).unwrap();
        let workload = &read.guard.workloads["tickets"];
        assert_eq!(workload.template, template);
        assert_eq!(
            (workload.prompts, workload.expires.secs()),
            (5, 1_800_000_000)
        );
    }
}
