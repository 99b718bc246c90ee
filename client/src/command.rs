//! What `casemate connect`, `casemate verify` and `casemate-connect` do. Stdout is data, stderr is talk.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use casemate_attestation::strict_json::{self, JsonError};
use casemate_attestation::{Context, Kind, UnixTime};
use clap::Args;

use crate::config::{Config, ConfigError, ListenAddress, OwnSection, ServerUrl};
use crate::error::ConnectError;
use crate::exit::ExitCode;
use crate::files::{self, FileError};
use crate::harden;
use crate::proxy::{ListenError, Proxy};
use crate::recorded::request::{REQUEST_BYTES_MAX, Request as JudgeRequest};
use crate::recorded::{self, Policy, RecordedError, folder, save};
use crate::report::{Outcome, Report, Verdict};
use crate::session::{AttestedConnection, Connector, Facts, Keeper, OwnEvidence, now};

/// Checks in the order in which `verify` makes them.
const STEPS: [&str; 5] = [
    "trust.documents",
    "tls.handshake",
    "session.challenge",
    "evidence",
    "session.confirm",
];

/// A configuration that works, for both commands.
macro_rules! with_configuration {
    ($examples:literal) => {
        concat!(
            $examples,
            "\n\nconnect.toml:
  server = \"https://llm.example:7443\"

  [identity]
  certificate = \"ada/cert.pem\"          # issued by the organisation, with its key
  key = \"ada/key.pem\"

  [trust]
  enclave_ca = \"enclave-ca.pem\"         # from the organisation's folder: enclave-ca/cert.pem
  release_key = \"release.key\"           # release/public.key
  reference = \"reference.json\"
  fleet = \"fleet.json\"
  platform = \"snp\"

  [listen]
  address = \"127.0.0.1:11434\""
        )
    };
}

/// What `connect --help` ends with.
pub const CONNECT_EXAMPLE: &str = with_configuration!(
    "Example:
  casemate connect --config connect.toml
  casemate connect --config connect.toml --once-check --json"
);

/// What `verify --help` ends with.
pub const VERIFY_EXAMPLE: &str = with_configuration!(
    "Example:
  casemate verify --config connect.toml
  casemate verify https://10.0.0.7:7443 --config connect.toml --save evidence --explain
  casemate verify evidence --at 2026-03-07T02:05:07Z --policy policy.json --json"
);

/// Options of `connect`.
#[derive(Args, Clone, Debug)]
pub struct ConnectArguments {
    /// Configuration of this client.
    #[arg(long, value_name = "FILE", default_value = "connect.toml")]
    pub config: PathBuf,
    /// Loopback address and port, instead of the configuration's; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<ListenAddress>,
    /// Attest once, print the check lines, and end.
    #[arg(long)]
    pub once_check: bool,
    /// Print the configuration in force and its SHA-256, and end.
    #[arg(long)]
    pub print_config: bool,
    /// With --once-check: the check lines as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Options of `verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArguments {
    /// The server, instead of the configuration's, such as `https://llm.example:7443`; or recorded evidence: a folder with
    /// expected.json, or a request of docs/formats/judge.md.
    #[arg(value_name = "URL|EVIDENCE")]
    pub target: Option<String>,
    /// Configuration of this client.
    #[arg(long, value_name = "FILE", default_value = "connect.toml")]
    pub config: PathBuf,
    /// Judge recorded evidence at this time, such as 2026-03-07T02:05:07Z, instead of its own.
    #[arg(long, value_name = "TIME", value_parser = recorded::time::parse)]
    pub at: Option<UnixTime>,
    /// Compare recorded evidence with these reference values and this fleet list: {"reference": {...}, "fleet": {...}}.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Write the evidence, a server's or recorded one, with its collateral and devices into a new folder, which `verify` reads.
    #[arg(long, value_name = "FOLDER")]
    pub save: Option<PathBuf>,
    /// Say of each line what it rests on.
    #[arg(long)]
    pub explain: bool,
    /// The check lines as one JSON object.
    #[arg(long, conflicts_with = "explain")]
    pub json: bool,
}

/// Why a command ended early. Failed checks are not among these: they are lines of a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandFailure {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The URL on the command line.
    #[error("{0}")]
    Url(String),
    /// Options that do not go together.
    #[error("{0}")]
    Usage(&'static str),
    /// Recorded evidence that cannot be read.
    #[error(transparent)]
    Recorded(#[from] RecordedError),
    /// Files that the configuration names.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What vouches for this machine.
    #[error("evidence of this machine: {0}")]
    OwnEvidence(String),
    /// The local endpoint.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Standard output is closed, or the configuration cannot be written as TOML.
    #[error("cannot print: {0}")]
    Print(String),
    /// Ctrl-C cannot be noticed.
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
}

impl CommandFailure {
    /// The process's exit status for it.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::Configuration,
            Self::Url(_) | Self::Usage(_) => ExitCode::Usage,
            Self::Recorded(error) => error.exit_code(),
            Self::Connect(error) => error.exit_code(),
            Self::OwnEvidence(_) => ExitCode::Unsupported,
            Self::Listen(_) | Self::Print(_) | Self::Signals(_) => ExitCode::Unexpected,
        }
    }
}

/// Opens what vouches for this machine; an error is a text for the user.
pub type OwnSource = fn(&OwnSection) -> Result<OwnEvidence, String>;

/// For a program that asks no devices.
///
/// # Errors
/// Always: what is configured cannot be given.
pub fn no_devices(_: &OwnSection) -> Result<OwnEvidence, String> {
    Err(
        "this program asks no devices; [attestation] needs the program casemate: casemate connect"
            .into(),
    )
}

fn connector(config: &Config, path: &Path, own: OwnSource) -> Result<Connector, CommandFailure> {
    let connector = Connector::new(config, path)?;
    Ok(match &config.attestation {
        None => connector,
        Some(section) => {
            connector.with_own_evidence(own(section).map_err(CommandFailure::OwnEvidence)?)
        }
    })
}

/// `connect`: attests, then serves until Ctrl-C.
///
/// # Errors
/// [`CommandFailure`]; failed checks are printed, and the exit code says which kind they are.
pub async fn connect(
    arguments: ConnectArguments,
    own: OwnSource,
) -> Result<ExitCode, CommandFailure> {
    let mut config = Config::load(&arguments.config)?;
    if let Some(address) = arguments.listen {
        config.listen.address = address;
    }
    if arguments.print_config {
        let text = config
            .print()
            .map_err(|e| CommandFailure::Print(e.to_string()))?;
        return print(text.trim_end()).map(|()| ExitCode::Done);
    }
    let mut report = Report::default();
    harden::harden(&mut report);
    let connector = connector(&config, &arguments.config, own)?;
    let connection = examine(&connector, &mut report, None).await;
    if arguments.once_check {
        return show(&report, arguments.json);
    }
    eprintln!("{report}");
    let Some(connection) = connection else {
        return Ok(report.exit_code());
    };
    let keeper = Keeper::starting_with(connector, connection);
    let proxy = Proxy::bind(config.listen.address, keeper, config.limits).await?;
    let stop = stop_signal()?;
    print(&proxy.base_url())?;
    if report.verdict() != Verdict::Confidential {
        eprintln!(
            "NOT CONFIDENTIAL: do not send secrets through {}",
            proxy.base_url()
        );
    }
    proxy.serve(stop).await;
    eprintln!("stopped");
    Ok(ExitCode::Done)
}

/// `verify`: attests once, or judges recorded evidence, and prints every check.
///
/// # Errors
/// [`CommandFailure`]; failed checks are printed, and the exit code says which kind they are.
pub async fn verify(
    arguments: VerifyArguments,
    own: OwnSource,
) -> Result<ExitCode, CommandFailure> {
    let report = match &arguments.target {
        Some(target) if !target.contains("://") => verify_recorded(target, &arguments)?,
        _ => verify_server(&arguments, own).await?,
    };
    if arguments.explain {
        print(&report.explained())?;
        return Ok(report.exit_code());
    }
    show(&report, arguments.json)
}

async fn verify_server(
    arguments: &VerifyArguments,
    own: OwnSource,
) -> Result<Report, CommandFailure> {
    if arguments.at.is_some() || arguments.policy.is_some() {
        let only = "--at and --policy are for recorded evidence; a server is judged now, by the signed documents";
        return Err(CommandFailure::Usage(only));
    }
    let mut config = Config::load(&arguments.config)?;
    if let Some(url) = &arguments.target {
        // The name that must be proven stays the configured one, so that a URL cannot choose it.
        config.server_name = Some(config.name().clone());
        config.server = ServerUrl::try_from(url.clone()).map_err(CommandFailure::Url)?;
    }
    let connector = connector(&config, &arguments.config, own)?;
    let mut report = Report::default();
    examine(&connector, &mut report, arguments.save.as_deref()).await;
    Ok(report)
}

fn verify_recorded(target: &str, arguments: &VerifyArguments) -> Result<Report, CommandFailure> {
    let given = arguments.policy.as_deref().map(read_policy).transpose()?;
    let path = Path::new(target);
    if !path.exists() {
        let neither = format!(
            "{target} is neither a URL, such as https://llm.example:7443, nor a folder or file here"
        );
        return Err(CommandFailure::Url(neither));
    }
    let (recorded, own_policy) = if path.is_dir() {
        (folder::read(path, arguments.at)?, None)
    } else {
        let bytes =
            files::read_public(path, REQUEST_BYTES_MAX as u64).map_err(RecordedError::from)?;
        let request = JudgeRequest::parse(&bytes)?;
        (request.recorded, request.policy)
    };
    let at = arguments.at.or(recorded.at).unwrap_or_else(now);
    let mut report = Report::default();
    if let Some(path) = &arguments.save {
        saved(save::write(path, &recorded, at), path, &mut report);
    }
    let policy = given.or(own_policy);
    recorded::judge::judge(&recorded, policy.as_ref(), at, &mut report);
    Ok(report)
}

fn saved(written: Result<(), FileError>, path: &Path, report: &mut Report) {
    match written {
        Ok(()) => report.line(Outcome::Info, "evidence.saved", path.display().to_string()),
        Err(error) => report.line(Outcome::Skip, "evidence.saved", error.to_string()),
    }
}

fn read_policy(path: &Path) -> Result<Policy, RecordedError> {
    let bytes = files::read_public(path, REQUEST_BYTES_MAX as u64)?;
    let policy = strict_json::from_slice(bytes.trim_ascii(), REQUEST_BYTES_MAX);
    policy.map_err(|error| RecordedError::Document {
        path: path.to_owned(),
        error,
    })
}

/// `judge`: one request on standard input, one JSON object on standard output, and the exit code (docs/formats/judge.md).
///
/// # Errors
/// [`CommandFailure::Print`] when standard output is closed; everything else is told in the object.
pub fn judge() -> Result<ExitCode, CommandFailure> {
    let mut bytes = Vec::new();
    let limit = REQUEST_BYTES_MAX as u64 + 1;
    let read = std::io::stdin().lock().take(limit).read_to_end(&mut bytes);
    let mut report = Report::default();
    match read
        .map_err(|_| RecordedError::Request(JsonError::NotOneObject))
        .and_then(|_| JudgeRequest::parse(&bytes))
    {
        Ok(JudgeRequest {
            recorded,
            policy,
            at,
        }) => recorded::judge::judge(&recorded, policy.as_ref(), at, &mut report),
        Err(error) => report.refuse(&error.check_id(), &error, error.exit_code()),
    }
    show(&report, true)
}

fn show(report: &Report, json: bool) -> Result<ExitCode, CommandFailure> {
    print(&if json {
        report.to_json()
    } else {
        report.to_string()
    })?;
    Ok(report.exit_code())
}

/// One attestation with a line for every check. Gives the connection if all of them hold.
///
/// With `save`, the evidence is written down before it is judged: a refusal is worth keeping, too.
pub async fn examine(
    connector: &Connector,
    report: &mut Report,
    save: Option<&Path>,
) -> Option<AttestedConnection> {
    let mut step = 0;
    match steps(connector, report, &mut step, save).await {
        Ok(connection) => Some(connection),
        Err(error) => {
            let failed = STEPS.get(step).copied().unwrap_or("session");
            report.fail(failed, &error, STEPS.get(step + 1..).unwrap_or_default());
            None
        }
    }
}

async fn steps(
    connector: &Connector,
    report: &mut Report,
    step: &mut usize,
    save: Option<&Path>,
) -> Result<AttestedConnection, ConnectError> {
    let appraiser = connector.appraiser(now())?;
    let number = |kind| appraiser.numbers.of(kind);
    let (fleet, reference) = (number(Kind::Fleet), number(Kind::Reference));
    report.pass(
        "trust.documents",
        format!("fleet list {fleet} and reference values {reference}, signed and in force"),
    );
    *step += 1;
    let connected = connector.connect().await?;
    report.pass("tls.handshake", handshake(connected.facts()));
    let name = connector.server_name();
    report.pass(
        "tls.server_certificate",
        format!("signed by the enclave CA for {name}, lives at most 24 h"),
    );
    *step += 1;
    let challenged = connected.challenge().await?;
    report.pass("session.challenge", "evidence over a fresh nonce");
    if let Some(path) = save {
        let written = save::write(path, &challenged.recorded(), now());
        saved(written, path, report);
    }
    *step += 1;
    let appraised = challenged.verify(&appraiser.verifier, now())?;
    report.evidence(appraised.verified());
    report.pass(
        "evidence.identity",
        format!("the chip serves {name} in the fleet list"),
    );
    pins(connector, appraised.context(), report);
    *step += 1;
    let connection = appraised.confirm(now()).await?;
    let life_s = connection.life().as_secs();
    report.pass(
        "session.confirm",
        format!("session {}, {life_s} s", connection.session()),
    );
    Ok(connection)
}

fn handshake(facts: Facts) -> String {
    let http = if facts.http2 { "h2" } else { "http/1.1" };
    match facts.group {
        Some(group) => format!("TLS 1.3, {group:?}, {http}, both certificates"),
        None => format!("TLS 1.3, {http}, both certificates"),
    }
}

/// Pins that were compared, and what could be pinned where none are.
fn pins(connector: &Connector, context: &Context, report: &mut Report) {
    let expect = connector.expect();
    let policy = context.policy_bundle;
    match expect.policy_bundle {
        Some(_) => report.pass("expect.policy", format!("{policy} as pinned")),
        None => report.line(
            Outcome::Skip,
            "expect.policy",
            format!("not pinned; in force is {policy}"),
        ),
    }
    let models: Vec<String> = context.models.iter().map(ToString::to_string).collect();
    let models = models.join(" ");
    match expect.models {
        Some(_) => report.pass("expect.models", format!("{models} as pinned")),
        None => report.line(
            Outcome::Skip,
            "expect.models",
            format!("not pinned; served are {models}"),
        ),
    }
}

fn print(text: &str) -> Result<(), CommandFailure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|e| CommandFailure::Print(e.to_string()))
}

/// Ready at Ctrl-C or at the signal by which service managers stop programs.
fn stop_signal() -> Result<impl Future<Output = ()>, CommandFailure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandFailure::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandFailure::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
