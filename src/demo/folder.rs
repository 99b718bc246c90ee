//! The demonstration's folder: made once, used again, and never repaired silently.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use casemate_attestation::UnixTime;
use casemate_models::package::SealedPackage;
use tokio::process::Command;

use super::tpm::{self, SoftwareTpm};
use super::{DemoError, Vouched, pass};
use crate::org::documents::DOCUMENT_DAYS;
use crate::org::{self, InitOptions, Name, Organisation};
use crate::secrets::{FileError, write_public_file};

/// The team that may ask.
pub const GRANTED: &str = "research";
/// The team that may not.
pub const REFUSED: &str = "finance";

const MODEL: &[u8] = include_bytes!("../../models/default/casemate-default-Q8_0.gguf");
const GGUF: &str = "casemate-default.gguf";
const PACKAGE: &str = "casemate-default.casemate";
/// Written last: a folder without it was never finished.
const COMPLETE: &str = "complete";

/// Makes the folder on the first run; on later runs checks that it is whole. Returns the software TPM, where one runs.
pub(super) async fn prepare(
    folder: &Path,
    vouched: Vouched,
    now: UnixTime,
) -> Result<Option<SoftwareTpm>, DemoError> {
    let fresh = !folder.exists();
    let software = match (fresh, vouched) {
        (true, Vouched::TestChip) => None,
        (true, Vouched::Tpm) => tpm::choose(folder).await?,
        (false, _) => tpm::again(folder, vouched).await?,
    };
    if fresh {
        make(folder, vouched, software.as_ref(), now).await?;
    }
    for file in [COMPLETE, PACKAGE, "broker.toml", "server.toml"] {
        if !folder.join(file).is_file() {
            return Err(DemoError::Missing(folder.join(file)));
        }
    }
    let organisation = Organisation::open(&folder.join("org"))?;
    for team in [GRANTED, REFUSED] {
        let client = folder.join(super::client_file(team));
        if !client.is_file() {
            return Err(DemoError::Missing(client));
        }
        issue(&organisation, team, now)?;
    }
    let what = if fresh { "made" } else { "found whole" };
    pass(
        "demo.organisation",
        &format!("{what} in {}, with two teams", folder.display()),
    );
    Ok(software)
}

/// Identities are short-lived: each run renews them.
fn issue(organisation: &Organisation, team: &str, now: UnixTime) -> Result<(), DemoError> {
    let name = |text: &str| text.parse::<Name>().map_err(org::OrgError::from);
    organisation.issue(&name(team)?, &name("ada")?, 30, now.secs())?;
    Ok(())
}

async fn make(
    folder: &Path,
    vouched: Vouched,
    software: Option<&SoftwareTpm>,
    now: UnixTime,
) -> Result<(), DemoError> {
    create(folder)?;
    let names = vec![String::from("localhost")];
    let name = Name::organisation("demo").map_err(org::OrgError::from)?;
    let (broker_names, days) = (names.clone(), DOCUMENT_DAYS);
    let options = InitOptions {
        name,
        broker_names,
        test_chip: vouched == Vouched::TestChip,
        days,
    };
    let organisation = org::init(&folder.join("org"), &options, now)?;
    match vouched {
        Vouched::TestChip => {
            organisation.enrol_test_chip("this machine", names, days, now)?;
        }
        Vouched::Tpm => tpm::enrol(&organisation, software, names, now)?,
    }
    write_public_file(&folder.join(GGUF), MODEL)?;
    let seal = [
        "model",
        "seal",
        GGUF,
        "--org",
        "org",
        "--name",
        "default",
        "--version",
        "1",
        "--epoch",
        "1",
        "--out",
        PACKAGE,
    ];
    command(folder, &seal).await?;
    write_policy(folder)?;
    command(folder, &["policy", "sign", "org", "--days", "90"]).await?;
    write_configurations(folder, vouched, software)?;
    command(
        folder,
        &["broker", "--config", "broker.toml", "--new-state"],
    )
    .await?;
    Ok(write_public_file(
        &folder.join(COMPLETE),
        b"casemate/demo/v1\n",
    )?)
}

/// Runs one of our own commands as a newcomer would; its talk is shown, its data is not.
async fn command(folder: &Path, words: &[&str]) -> Result<(), DemoError> {
    let status = Command::new(std::env::current_exe()?)
        .args(words)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .await?;
    let reason = || format!("casemate {} ended with {status}", words.join(" "));
    status
        .success()
        .then_some(())
        .ok_or_else(|| DemoError::Part {
            part: "a command",
            reason: reason(),
        })
}

fn write_policy(folder: &Path) -> Result<(), DemoError> {
    let package = SealedPackage::open(&folder.join(PACKAGE));
    let package = package.map_err(|e| DemoError::Part {
        part: "the package",
        reason: e.to_string(),
    })?;
    let digest = package.header().digest();
    let mut tables = format!("[models]\ndefault = \"{digest}\"\n");
    for team in [GRANTED, REFUSED] {
        tables += &format!(
            "\n[team.{team}]\nprincipals = [\"spiffe://demo/team/{team}/*\"]\noutput_tokens_max = 256\n\
             session_seconds = 3600\n\
             shared = {{ window_seconds = 3600, requests = 1000, tokens = 1000000, concurrency = 8 }}\n\
             each = {{ window_seconds = 3600, requests = 500, tokens = 500000, concurrency = 4 }}\n"
        );
    }
    let rules = format!(
        "@id(\"{GRANTED}-uses-default\")\npermit (\n  principal in Team::\"{GRANTED}\",\n  \
         action in [Action::\"chat\", Action::\"complete\", Action::\"list\", Action::\"use_seed\"],\n  \
         resource in Alias::\"default\"\n);\n"
    );
    let policy = folder.join("org/policy");
    create(&policy)?;
    write_public_file(&policy.join("policy.toml"), tables.as_bytes())?;
    Ok(write_public_file(
        &policy.join("policy.cedar"),
        rules.as_bytes(),
    )?)
}

fn write_configurations(
    folder: &Path,
    vouched: Vouched,
    software: Option<&SoftwareTpm>,
) -> Result<(), DemoError> {
    let ports = free_ports::<4>()?;
    let [broker, server, granted, refused] = ports;
    let files = [
        ("broker.toml".to_owned(), broker_toml(vouched, broker)),
        (
            "server.toml".to_owned(),
            server_toml(&attestation_toml(vouched, software), server, broker),
        ),
        (
            super::client_file(GRANTED),
            client_toml(vouched, GRANTED, server, granted),
        ),
        (
            super::client_file(REFUSED),
            client_toml(vouched, REFUSED, server, refused),
        ),
    ];
    for (file, text) in files {
        write_public_file(&folder.join(file), text.as_bytes())?;
    }
    Ok(create(&folder.join("server-state"))?)
}

fn broker_toml(vouched: Vouched, port: u16) -> String {
    let platform = match vouched {
        Vouched::TestChip => {
            "# NOT CONFIDENTIAL: a seed in a file, no machine, vouches for the server.\n\
             platform = \"test-chip\"\nallow_test_chip = true\n"
        }
        Vouched::Tpm => {
            "# NOT CONFIDENTIAL: a TPM says what booted and encrypts no memory.\nplatform = \"tpm\"\n"
        }
    };
    format!(
        "listen = \"127.0.0.1:{port}\"\norganisation = \"org\"\nstate = \"broker-state\"\n\
         witness = \"broker.witness\"\naudit = \"broker-audit.jsonl\"\n{platform}"
    )
}

fn attestation_toml(vouched: Vouched, software: Option<&SoftwareTpm>) -> String {
    match vouched {
        Vouched::TestChip => {
            "platform = \"test-chip\"\ntest_chip_seed = \"org/test-chip/seed\"\n".into()
        }
        Vouched::Tpm => format!("platform = \"tpm\"\n{}", tpm::section(software)),
    }
}

fn server_toml(attestation: &str, port: u16, broker: u16) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:{port}\"\nnames = [\"localhost\"]\n\n\
         [broker]\naddress = \"localhost:{broker}\"\nname = \"localhost\"\nauthority = \"org/broker/ca.pem\"\n\n\
         [trust]\nrelease_key = \"org/release/public.key\"\nclient_authority = \"org/client-ca/cert.pem\"\n\n\
         [attestation]\n# NOT CONFIDENTIAL\n{attestation}\n\
         [state]\nfolder = \"server-state\"\n\n[audit]\nfile = \"server-audit.jsonl\"\n\n\
         [[model]]\nname = \"default\"\npackage = \"{PACKAGE}\"\n"
    )
}

fn client_toml(vouched: Vouched, team: &str, server: u16, listen: u16) -> String {
    let platform = match vouched {
        Vouched::TestChip => {
            "platform = \"test-chip\"\ntest_chip_root = \"org/test-chip/root.der\"\n"
        }
        Vouched::Tpm => "platform = \"tpm\"\n",
    };
    format!(
        "server = \"https://localhost:{server}\"\n\n\
         [identity]\ncertificate = \"org/teams/{team}/ada/cert.pem\"\nkey = \"org/teams/{team}/ada/key.pem\"\n\n\
         [trust]\nenclave_ca = \"org/enclave-ca/cert.pem\"\nrelease_key = \"org/release/public.key\"\n\
         reference = \"org/reference.json\"\nfleet = \"org/fleet.json\"\n\
         # NOT CONFIDENTIAL\n{platform}\n\
         [listen]\naddress = \"127.0.0.1:{listen}\"\n"
    )
}

/// Different loopback ports that are free now.
pub(super) fn free_ports<const N: usize>() -> Result<[u16; N], DemoError> {
    // All are held until all are known, or the system would hand out one twice.
    let held = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<Vec<_>, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

pub(super) fn create(folder: &Path) -> Result<(), FileError> {
    fs::create_dir_all(folder).map_err(|source| FileError::Io {
        action: "create",
        path: folder.to_owned(),
        source,
    })
}
