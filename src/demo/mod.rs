//! The whole way on one machine, with the test chip or a TPM: organisation, sealed model, broker, server and clients as separate
//! processes over real sockets. NOT CONFIDENTIAL, and said so on every run.

mod ask;
mod folder;
mod processes;
mod tpm;

use std::path::{Path, PathBuf};

use casemate_attestation::UnixTime;

pub use folder::{GRANTED, REFUSED};

use crate::org::OrgError;
use crate::secrets::FileError;
use processes::Process;

/// What the model is asked first.
const QUESTION: &str = "What is the opposite of cold?";

/// What vouches for the demonstration's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Vouched {
    /// A seed in a file.
    #[default]
    TestChip,
    /// A TPM 2.0: this machine's, or a software TPM.
    Tpm,
}

impl Vouched {
    /// Why the demonstration is not confidential.
    const fn caveat(self) -> &'static str {
        match self {
            Self::TestChip => "test chip",
            Self::Tpm => "measured boot",
        }
    }

    const fn warning(self) -> &'static str {
        match self {
            Self::TestChip => "NOT CONFIDENTIAL: a test chip stands in for the hardware",
            Self::Tpm => {
                "NOT CONFIDENTIAL: a TPM says what booted; it encrypts no memory, and the demonstration takes its word for \
                 its own endorsement key"
            }
        }
    }
}

/// Which step of the demonstration did not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The organisation's folder is damaged, or could not be made.
    #[error(transparent)]
    Organisation(#[from] OrgError),
    /// A file of the demonstration is not there; nothing is rebuilt silently.
    #[error("{path} is missing from the demonstration's folder; restore it, or remove the folder and start anew",
        path = .0.display())]
    Missing(PathBuf),
    /// The folder was made for the other platform.
    #[error("{path} was made with another --platform; use that one, or another --dir", path = .0.display())]
    OtherPlatform(PathBuf),
    /// There is neither a TPM nor a software TPM.
    #[error(
        "no TPM: {0}; /dev/tpmrm0 needs the group of its owner, a software TPM needs: apt-get install swtpm"
    )]
    NoTpm(String),
    /// The TPM does not do what enrolment asks of it.
    #[error("the TPM was not enrolled: {0}")]
    Enrolment(String),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A part did not start.
    #[error("{part} did not become ready: {reason}")]
    Part {
        /// The command.
        part: &'static str,
        /// What happened.
        reason: String,
    },
    /// A question could not be asked.
    #[error("the question failed: {0}")]
    Ask(String),
    /// The team without a grant got an answer.
    #[error("the team without a grant was not refused (status {0})")]
    NotRefused(u16),
    /// The system refused something.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Runs the demonstration in `folder`; with `once` it ends after the first question.
///
/// # Errors
/// [`DemoError`] names the step that did not hold.
pub async fn run(folder: &Path, vouched: Vouched, once: bool) -> Result<(), DemoError> {
    eprintln!("{}", vouched.warning());
    let now = UnixTime::from(std::time::SystemTime::now());
    let _software_tpm = folder::prepare(folder, vouched, now).await?;
    let _broker = Process::start("broker", folder, &["--config", "broker.toml"]).await?;
    pass("demo.broker", "holds the keys and is ready");
    let _server = Process::start("serve", folder, &["--config", "server.toml"]).await?;
    pass(
        "demo.server",
        "attested itself to the broker, got its keys and opened the sealed model",
    );
    let granted = Process::start("connect", folder, &["--config", &client_file(GRANTED)]).await?;
    pass(
        "demo.connect",
        "attested the server; its check lines are above",
    );
    let answer = ask::stream(granted.ready_line(), QUESTION).await?;
    pass(
        "demo.answer",
        &format!("{} characters were streamed", answer.chars().count()),
    );
    let refused = Process::start("connect", folder, &["--config", &client_file(REFUSED)]).await?;
    let reason = ask::refusal(refused.ready_line(), QUESTION).await?;
    pass(
        "demo.refused",
        &format!("team {REFUSED} has no grant: {reason}"),
    );
    println!(
        "VERDICT every step held; NOT CONFIDENTIAL ({})",
        vouched.caveat()
    );
    if once {
        return Ok(());
    }
    explain(folder, granted.ready_line());
    crate::commands::end_requested().await;
    eprintln!("stopped");
    Ok(())
}

fn client_file(team: &str) -> String {
    format!("connect-{team}.toml")
}

fn pass(id: &str, text: &str) {
    println!("PASS {id} {text}");
}

fn explain(folder: &Path, base_url: &str) {
    let folder = folder.display();
    println!("INFO demo.url {base_url}");
    println!("try, in another terminal:");
    println!("  curl {base_url}/models");
    println!("  casemate verify --config {folder}/connect-{GRANTED}.toml");
    println!("  casemate org revoke {folder}/org --principal spiffe://demo/team/{GRANTED}/ada");
    println!("Ctrl-C ends everything");
}
