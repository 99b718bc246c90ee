//! `casemate range`: published attacks against a server of the user's own, and a table of what each obtained
//! (docs/formats/range.md).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use casemate_client::command::CommandFailure;
use casemate_client::config::{Config, ServerUrl};
use casemate_client::error::ConnectError;
use casemate_client::proxy::Proxy;
use casemate_client::session::{Connector, Keeper};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{CommandError, ExitCode, runtime};
use crate::range::{
    Attack, Corpora, Endpoint, Limits, Range, RangeError, Row, Settings, SystemPrompt, Target,
    Verdict, Wire,
};

/// Longest table of another run, and longest system prompt, bytes.
const TABLE_BYTES_MAX: u64 = 16 << 20;
const PROMPT_BYTES_MAX: u64 = 64 << 10;
/// What the tables say that they are.
const FORMAT: &str = "casemate/range/v1";

/// Arguments of `casemate range`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  casemate range http://127.0.0.1:11434/v1    # a running casemate connect, or any server with OpenAI's API\n  \
    casemate range --as ada/connect.toml --as bob/connect.toml --traffic traffic --json > ours.json\n  \
    casemate range http://127.0.0.1:8080/v1 --attacks last-layer,oracles --beside ours.json\n\n\
    Attack servers of your own, or with the consent of whoever runs them."
)]
pub struct Arguments {
    /// Base URL of a plain endpoint with OpenAI's API, one for each identity (repeatable).
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// A client's configuration, as for connect: attests the server and attacks it as this identity (repeatable).
    #[arg(long = "as", value_name = "FILE")]
    clients: Vec<PathBuf>,
    /// Only these attacks, with commas between them; by default all.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    attacks: Vec<String>,
    /// Print the attacks and what each tries, and end.
    #[arg(long)]
    list: bool,
    /// Texts of attackers and honest users, instead of those that are built in.
    #[arg(long, value_name = "DIR")]
    traffic: Option<PathBuf>,
    /// The model to ask for; by default the first that the server names.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The system prompt that must not be told; by default a few that are made up.
    #[arg(long, value_name = "FILE")]
    system_prompt: Option<PathBuf>,
    /// The server puts that system prompt before every conversation by itself.
    #[arg(long, requires = "system_prompt")]
    server_has_prompt: bool,
    /// The model's hidden size, if you know it: a size that was found is then right or wrong.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=65_536))]
    width: Option<u32>,
    /// The largest hidden size that is looked for; the requests grow with it.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=1024))]
    width_max: u32,
    /// Prompts of each crawler, and of the honest user beside it.
    #[arg(long, value_name = "N", default_value_t = 96, value_parser = clap::value_parser!(u32).range(8..=4096))]
    prompts: u32,
    /// Timed requests of each kind in the attack on caches, and answers of each kind that the eavesdropper sees.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(20..=2000))]
    samples: u32,
    /// Requests of one attack, at most.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Seconds of one attack, at most.
    #[arg(long, value_name = "N", default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Attack a server that is not on this machine.
    #[arg(long)]
    allow_remote: bool,
    /// Append the texts of all answers to a file. Nothing else shows them.
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Show the table of another run, made with --json, beside this one.
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, conflicts_with = "beside")]
    json: bool,
}

/// A table as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Table {
    format: String,
    model: String,
    identities: usize,
    rows: Vec<Row>,
}

/// Runs `casemate range`.
///
/// # Errors
/// Exit code 10 where an attack obtained more than its bar allows, 2 for a server that may not be attacked, 3 for files.
pub fn run(arguments: Arguments) -> Result<(), CommandError> {
    if arguments.list {
        for attack in Attack::ALL {
            println!("{:<16} {}", attack.name(), attack.about());
        }
        return Ok(());
    }
    let attacks = chosen(&arguments.attacks)?;
    let before = arguments.beside.as_deref().map(read_table).transpose()?;
    let corpora = corpora(&arguments)?;
    let table = runtime()?.block_on(attack(&arguments, &attacks, corpora))?;
    match (&before, arguments.json) {
        (Some(before), _) => side_by_side(before, &table),
        (None, true) => {
            let text = serde_json::to_string_pretty(&table);
            println!(
                "{}",
                text.map_err(|error| CommandError::new(ExitCode::Unexpected, error))?
            );
        }
        (None, false) => {}
    }
    let failed = table.rows.iter().filter(|row| row.verdict == Verdict::Fail);
    match failed.count() {
        0 => Ok(()),
        count => Err(CommandError::new(
            ExitCode::Rejected,
            format!(
                "{count} of {} rows obtained more than their bars allow",
                table.rows.len()
            ),
        )),
    }
}

fn chosen(names: &[String]) -> Result<Vec<Attack>, CommandError> {
    if names.is_empty() {
        return Ok(Attack::ALL.to_vec());
    }
    // In the order of the list, whatever the order of the words: some leave a record behind.
    let wanted: Result<Vec<_>, _> = names.iter().map(|name| Attack::of_name(name)).collect();
    let wanted = wanted.map_err(failed)?;
    let all = Attack::ALL.into_iter();
    Ok(all.filter(|attack| wanted.contains(attack)).collect())
}

fn corpora(arguments: &Arguments) -> Result<Corpora, CommandError> {
    let mut corpora = match &arguments.traffic {
        None => Corpora::built_in(),
        Some(folder) => Corpora::of_folder(folder).map_err(failed)?,
    };
    if let Some(path) = &arguments.system_prompt {
        let text = read_text(path, PROMPT_BYTES_MAX)?;
        corpora.system_prompts = vec![SystemPrompt {
            id: "own".to_owned(),
            text: text.trim().to_owned(),
        }];
    }
    Ok(corpora)
}

async fn attack(
    arguments: &Arguments,
    attacks: &[Attack],
    corpora: Corpora,
) -> Result<Table, CommandError> {
    let mut endpoints = Vec::new();
    for (number, client) in arguments.clients.iter().enumerate() {
        // One of them is watched, and only where somebody looks.
        let watched = number == 0 && attacks.contains(&Attack::Eavesdropper);
        let (url, wire) = attested(client, watched)
            .await
            .map_err(|error| CommandError::new(error.exit_code(), error))?;
        let endpoint = Endpoint::new(&url, false).map_err(failed)?;
        endpoints.push(match wire {
            Some(wire) => endpoint.watched(wire),
            None => endpoint,
        });
    }
    for url in &arguments.urls {
        endpoints.push(Endpoint::new(url, arguments.allow_remote).map_err(failed)?);
    }
    let identities = endpoints.len();
    let target = Target::new(endpoints, arguments.model.clone()).await;
    let range = Range {
        target: target.map_err(failed)?,
        corpora,
        settings: settings(arguments),
    };
    let speaks = !arguments.json && arguments.beside.is_none();
    let hear = |row: &Row| match speaks {
        true => println!("{} {}", row.verdict.word(), row.line()),
        false => eprintln!("{} range.{}.{}", row.verdict.word(), row.attack, row.row),
    };
    Ok(Table {
        format: FORMAT.to_owned(),
        model: range.target.model().to_owned(),
        identities,
        rows: range.run(attacks, hear).await.map_err(failed)?,
    })
}

/// Opens a plain endpoint in this process, as `casemate connect` does; it answers for as long as the process lives. Where it is
/// `watched` somebody without a key stands between it and the server.
async fn attested(
    path: &Path,
    watched: bool,
) -> Result<(String, Option<Arc<Wire>>), CommandFailure> {
    let mut config = Config::load(path)?;
    let wire = match watched {
        true => Some(Arc::new(between(&mut config).await?)),
        false => None,
    };
    let mut connector = Connector::new(&config, path)?;
    if let Some(section) = &config.attestation {
        let own = super::own::evidence(section).map_err(CommandFailure::OwnEvidence)?;
        connector = connector.with_own_evidence(own);
    }
    let connection = connector.attest().await?;
    let keeper = Keeper::starting_with(connector, connection);
    let free = "127.0.0.1:0".parse().map_err(CommandFailure::Url)?;
    let proxy = Proxy::bind(free, keeper, config.limits).await?;
    let url = proxy.base_url();
    tokio::spawn(proxy.serve(std::future::pending()));
    Ok((url, wire))
}

/// Puts an eavesdropper on the way to the server of `config`.
async fn between(config: &mut Config) -> Result<Wire, CommandFailure> {
    let server = config.server.address();
    let wire = Wire::to(server.clone()).await;
    let wire = wire.map_err(|source| ConnectError::Unreachable { server, source })?;
    config.server_name = Some(config.name().clone());
    let address = format!("https://{}", wire.address());
    config.server = ServerUrl::try_from(address).map_err(ConnectError::Lost)?;
    Ok(wire)
}

fn settings(arguments: &Arguments) -> Settings {
    let count = |number: u32| number as usize;
    Settings {
        width: arguments.width.map(count),
        width_max: count(arguments.width_max),
        prompts: count(arguments.prompts),
        samples: count(arguments.samples),
        server_has_prompt: arguments.server_has_prompt,
        limits: Limits {
            requests: arguments.requests,
            time: Duration::from_secs(arguments.seconds.into()),
            ..Limits::default()
        },
        answers: arguments.answers.clone(),
    }
}

fn read_text(path: &Path, bytes_max: u64) -> Result<String, CommandError> {
    let wrong = |error: &dyn std::fmt::Display| CommandError::new(ExitCode::Configuration, error);
    let bytes = casemate_client::files::read_public(path, bytes_max);
    let bytes = bytes.map_err(|error| wrong(&error))?;
    String::from_utf8(bytes).map_err(|_| wrong(&format!("{}: not UTF-8", path.display())))
}

fn read_table(path: &Path) -> Result<Table, CommandError> {
    let wrong = |error: &dyn std::fmt::Display| {
        let text = format!("{}: {error}", path.display());
        CommandError::new(ExitCode::Malformed, text).hint("make it with casemate range --json")
    };
    let text = read_text(path, TABLE_BYTES_MAX)?;
    let table: Table = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
    match table.format == FORMAT {
        true => Ok(table),
        false => Err(wrong(&format!("its format is not {FORMAT}"))),
    }
}

/// One Markdown table of both: what each row obtained before, and what it obtained now.
fn side_by_side(before: &Table, now: &Table) {
    println!(
        "| attack | {} | {} | bar |\n|---|---|---|---|",
        before.model, now.model
    );
    let key = |row: &Row| (row.attack.clone(), row.row.clone());
    let cell = |row: Option<&Row>| {
        row.map_or_else(
            || "–".to_owned(),
            |row| format!("{} {}", row.verdict.word(), row.obtained),
        )
    };
    let old: BTreeMap<_, _> = before.rows.iter().map(|row| (key(row), row)).collect();
    let new: BTreeMap<_, _> = now.rows.iter().map(|row| (key(row), row)).collect();
    let only_new = now.rows.iter().filter(|row| !old.contains_key(&key(row)));
    for row in before.rows.iter().chain(only_new) {
        let at = key(row);
        let (left, right) = (old.get(&at).copied(), new.get(&at).copied());
        println!(
            "| {} {} | {} | {} | {} |",
            at.0,
            at.1,
            cell(left),
            cell(right),
            row.bar
        );
    }
}

fn failed(error: RangeError) -> CommandError {
    let code = match &error {
        RangeError::Corpus { .. } | RangeError::Answers { .. } => ExitCode::Configuration,
        RangeError::NoModel { .. } => ExitCode::Unexpected,
        _ => ExitCode::Usage,
    };
    CommandError::new(code, error)
}
