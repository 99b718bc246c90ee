//! The process that serves: closed before it reads a byte of the host's, proven by the first process, and gone with it.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use casemate::broker::client::ReleaseError;
use casemate::commands::serve::explain;
use casemate::config::{GUEST_FOLDER, GUEST_WRITABLE, GuestConfig, Loaded};
use casemate::harden::Confinement;
use casemate::policy::ModelName;
use casemate::serve::{LoadWatch, ServeError, Server};
use casemate_attestation::{EvidenceProvider, Platform, UnixTime};
use casemate_models::LoadError;
use casemate_models::package::PackageError;
use rustix::process::Signal;

use crate::attester::Asked;
use crate::clock;
use crate::command_line;
use crate::failure::{Failure, What};
use crate::init;

/// Serves until the machine stops.
pub fn main() -> ExitCode {
    if command_line::has_console(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default()) {
        // Warnings of an image for looking at. They hold no prompt, answer, key or token.
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
            .with_writer(io::stderr)
            .with_ansi(false)
            .init();
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// What a server of this configuration needs of the machine.
pub fn confinement(config: &GuestConfig) -> Confinement {
    let broker: Option<SocketAddr> = config.server.broker.address.parse().ok();
    // Libraries that look for the call of random numbers by its name find none in a static program, and read it from the device.
    let mut read: Vec<PathBuf> = [
        "/dev/random",
        "/dev/urandom",
        GUEST_FOLDER,
        "/proc",
        "/sys/kernel/security/lockdown",
        "/sys/devices/system/cpu",
    ]
    .map(PathBuf::from)
    .to_vec();
    // A link leads to the disk, and it is the disk that a rule is about.
    read.extend(
        config
            .disk
            .keys()
            .filter_map(|name| name.path().canonicalize().ok()),
    );
    Confinement {
        read,
        write: vec![GUEST_WRITABLE.into()],
        listen: config.server.server.listen.port(),
        connect: broker.map_or(0, |broker| broker.port()),
    }
}

fn run() -> Result<(), Failure> {
    // The first process ends when this one does; and this one with it.
    let lost = |error: io::Error| Failure::new(What::Harden, error, "start the machine again");
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| lost(error.into()))?;
    let stream = io::stdin().as_fd().try_clone_to_owned().map_err(lost)?;
    let config = init::read_config()?;
    confinement(&config)
        .close()
        .map_err(|error| Failure::new(What::Harden, error, "use a kernel of 6.12 or newer"))?;
    let provider = Arc::new(Asked::new(
        config.server.attestation.platform,
        UnixStream::from(stream),
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.map_err(lost)?.block_on(serve(config, provider))
}

async fn serve(
    config: Loaded<GuestConfig>,
    provider: Arc<dyn EvidenceProvider>,
) -> Result<(), Failure> {
    let section = config.clock.clone();
    let platform = config.server.attestation.platform;
    let failed = |error| failure(platform, error);
    let server = Server::start_proven_by(
        provider,
        config.part(|guest| guest.server),
        Arc::new(Silent),
    )
    .await
    .map_err(failed)?;
    let now = UnixTime::from(std::time::SystemTime::now());
    clock::check_beside_broker(&section, now, server.broker_time())?;
    let address = server.address().map_err(ServeError::from).map_err(failed)?;
    println!("casemate: READY {address}");
    // A console that is gone is no reason to stop.
    let _ = io::stdout().flush();
    server
        .serve(casemate::commands::end_requested())
        .await
        .map_err(failed)
}

/// Nobody watches models being loaded here.
struct Silent;

impl LoadWatch for Silent {
    fn loaded(&self, _: &ModelName, _: u64, _: u64) {}
}

/// Which word stands for what stopped the server. The text and the advice are those of `casemate serve`.
fn failure(platform: Platform, error: ServeError) -> Failure {
    use ServeError as E;
    let what = match &error {
        E::Release(ReleaseError::Refused { code, .. }) if code == "policy_expired" => What::Expired,
        E::Release(ReleaseError::Refused { .. }) => What::Refused,
        E::Release(ReleaseError::Evidence(_)) | E::Device(_) if platform == Platform::Tpm => {
            What::Tpm
        }
        E::Release(ReleaseError::Evidence(_)) | E::Device(_) | E::NoProvider(_) => What::Attest,
        E::Release(
            ReleaseError::Connect { .. } | ReleaseError::Lost(_) | ReleaseError::Malformed(_),
        ) => What::Broker,
        E::Document(error) if error.is_expiry() => What::Expired,
        E::Document(_) => What::Refused,
        E::Package {
            error: PackageError::Read(_),
            ..
        } => What::Disk,
        E::Package { .. } | E::PackageTwice(_) => What::Package,
        E::Load {
            error: LoadError::TooLarge { .. },
            ..
        } => What::Memory,
        E::Load { .. } => What::Package,
        E::Listen { .. } => What::Network,
        E::System(_) | E::Audit(_) | E::Tls(_) => What::Server,
        _ => What::Config,
    };
    let explained = explain(error);
    Failure::new(
        what,
        explained.message(),
        explained
            .advice()
            .unwrap_or("the broker's log may say more"),
    )
}

/// In a process of its own, closed as the server is: says what it finds, and ends.
pub fn probe() -> ExitCode {
    let config = match init::read_config() {
        Ok(config) => config,
        Err(failure) => {
            println!("{failure}");
            return ExitCode::FAILURE;
        }
    };
    for finding in casemate::doctor::closed(&confinement(&config)) {
        println!("{finding}");
    }
    ExitCode::SUCCESS
}

/// The image's configuration.
pub fn config_path() -> PathBuf {
    Path::new(GUEST_FOLDER).join("guest.toml")
}

#[cfg(test)]
mod tests {
    use casemate_attestation::ProviderError;

    use super::*;

    fn word(platform: Platform, error: ServeError) -> (What, String) {
        let failure = failure(platform, error);
        (failure.what(), failure.to_string())
    }

    #[test]
    fn what_ends_a_server_has_its_word() {
        let evidence = |error| ServeError::Release(ReleaseError::Evidence(error));
        let (what, said) = word(Platform::Tpm, evidence(ProviderError::Busy));
        assert!(what == What::Tpm && said.contains("busy"), "{said}");
        let gone = ProviderError::Unavailable("it was taken out".into());
        let (what, said) = word(Platform::Snp, evidence(gone));
        assert!(
            what == What::Attest && said.contains("it was taken out"),
            "{said}"
        );
        let refused = |code: &str| {
            let (code, message) = (code.to_owned(), "no".to_owned());
            ServeError::Release(ReleaseError::Refused { code, message })
        };
        assert_eq!(
            word(Platform::Tpm, refused("not_enrolled")).0,
            What::Refused
        );
        assert_eq!(
            word(Platform::Tpm, refused("policy_expired")).0,
            What::Expired
        );
        let error = LoadError::TooLarge {
            weights: 300 << 20,
            cache: 100 << 20,
            cache_tokens: 4096,
            limit: 350 << 20,
        };
        let model = "default".parse().unwrap();
        let (what, said) = word(Platform::Tpm, ServeError::Load { model, error });
        assert_eq!(what, What::Memory);
        assert!(
            said.contains("needs about 400 MiB") && said.contains("may use 350 MiB"),
            "{said}"
        );
    }
}
