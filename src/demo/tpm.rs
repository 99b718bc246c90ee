//! The demonstration's TPM: the machine's own, or a software TPM (swtpm) that lives and dies with the demonstration.
//!
//! It enrols itself: the credential shows that its keys live in one TPM, and no maker's certificate says which kind of TPM that is.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use casemate_attestation::tpm::{AttestationKey, Bank, HostedIn, tpm_id};
use casemate_attestation::{FleetChip, FleetTpm, Platform, TpmMachine, TpmReference, UnixTime};
use casemate_devices::tpm::{
    Attester, DeviceFile, KeyKind, Measured, PATH, Socket, Tpm, Transport, endorsement_spki,
    make_credential,
};
use casemate_devices::{Retry, SystemTime};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::process::{Child, Command};

use super::folder::{create, free_ports};
use super::{DemoError, Vouched, pass};
use crate::org::Organisation;
use crate::org::documents::{self, DOCUMENT_DAYS, ReferenceSection};
use crate::secrets::write_public_file;

/// What firmware and boot loader measure.
const REGISTERS: std::ops::RangeInclusive<u8> = 0..=7;
const PATIENCE: Duration = Duration::from_secs(20);
/// Names the platform of a folder that was made for a TPM, and the software TPM's port; 0 for the machine's own TPM.
const PORT: &str = "tpm-port";

/// A running software TPM; killed when dropped, and when this process ends in another way.
pub(super) struct SoftwareTpm {
    _child: Child,
    address: SocketAddr,
}

/// On the first run: the machine's TPM if this user may open it, a software TPM otherwise.
pub(super) async fn choose(folder: &Path) -> Result<Option<SoftwareTpm>, DemoError> {
    let own = DeviceFile::open(Path::new(PATH)).is_ok();
    let [port, _] = if own { [0, 0] } else { neighbours()? };
    create(folder)?;
    write_public_file(&folder.join(PORT), format!("{port}\n").as_bytes())?;
    start(folder, port).await
}

/// On later runs: what was chosen, if the folder is of this platform at all.
pub(super) async fn again(
    folder: &Path,
    vouched: Vouched,
) -> Result<Option<SoftwareTpm>, DemoError> {
    let text = std::fs::read_to_string(folder.join(PORT)).ok();
    match (text, vouched) {
        (None, Vouched::TestChip) => Ok(None),
        (Some(text), Vouched::Tpm) => {
            let port = text.trim().parse();
            let port = port.map_err(|_| DemoError::Missing(folder.join(PORT)))?;
            start(folder, port).await
        }
        _ => Err(DemoError::OtherPlatform(folder.to_owned())),
    }
}

/// `[attestation.tpm]` of the server.
pub(super) fn section(software: Option<&SoftwareTpm>) -> String {
    let registers: Vec<String> = REGISTERS.map(|register| register.to_string()).collect();
    let registers = registers.join(", ");
    let software = software.map_or_else(String::new, |tpm| {
        format!(", software = \"{}\"", tpm.address)
    });
    format!("tpm = {{ registers = [{registers}]{software} }}\n")
}

/// Makes the keys, shows by a credential that they live together, and signs key and present registers into the documents.
pub(super) fn enrol(
    organisation: &Organisation,
    software: Option<&SoftwareTpm>,
    names: Vec<String>,
    now: UnixTime,
) -> Result<(), DemoError> {
    let (kind, time) = (KeyKind::P256, SystemTime::new());
    let registers: BTreeSet<u8> = REGISTERS.collect();
    let bank = Bank::Sha256;
    let measured = Measured { bank, registers };
    let tpm = Tpm::new(transport(software)?);
    let mut attester = Attester::start(tpm, kind, measured, Retry::default(), &time)
        .map_err(|error| DemoError::NoTpm(error.to_string()))?;
    let enrolment = attester.enrolment(kind, &time).map_err(failed)?;
    let endorsement = kind.endorsement_of(&enrolment.endorsement);
    let endorsement =
        endorsement.ok_or_else(|| failed("its endorsement key is not the default one"))?;
    let key = AttestationKey::parse(&enrolment.attestation).map_err(failed)?;
    let mut secret = [0_u8; 32];
    let random = SystemRandom::new().fill(&mut secret);
    random.map_err(|_| failed("no randomness"))?;
    let credential = make_credential(&endorsement, &key, &secret).map_err(failed)?;
    let opened = attester
        .activate(kind, &credential, &time)
        .map_err(failed)?;
    if **opened != secret {
        return Err(failed("it opened the credential to something else"));
    }
    let spki = endorsement_spki(&endorsement);
    let spki = spki.ok_or_else(|| failed("its endorsement key is of another kind"))?;
    let quoted = attester.evidence(&[0; 64], &time).map_err(failed)?;
    let label = String::from("this machine, at its enrolment");
    let machine = TpmMachine {
        registers: quoted.registers,
        label: label.clone(),
        until: None,
    };
    let reference = TpmReference {
        bank,
        machines: vec![machine],
    };
    let section = ReferenceSection::Tpm(reference);
    documents::replace_section(organisation, section, DOCUMENT_DAYS, now)?;
    let chip = FleetChip {
        platform: Platform::Tpm,
        chip_id: tpm_id(&spki),
        names,
        label,
        tpm: Some(FleetTpm {
            attestation_key: enrolment.attestation,
            hosted: match software {
                Some(_) => HostedIn::Software,
                None => HostedIn::Machine,
            },
        }),
        devices: Vec::new(),
    };
    documents::enrol(organisation, chip, DOCUMENT_DAYS, now)?;
    let which = if software.is_some() {
        "a software TPM (swtpm)"
    } else {
        PATH
    };
    pass(
        "demo.tpm",
        &format!("{which} opened a credential for its attestation key and is enrolled"),
    );
    Ok(())
}

fn transport(software: Option<&SoftwareTpm>) -> Result<Box<dyn Transport + Send>, DemoError> {
    let opened: std::io::Result<Box<dyn Transport + Send>> = match software {
        Some(tpm) => Socket::connect(tpm.address, PATIENCE).map(|it| Box::new(it) as _),
        None => DeviceFile::open(Path::new(PATH)).map(|it| Box::new(it) as _),
    };
    opened.map_err(|error| DemoError::NoTpm(error.to_string()))
}

/// Starts a software TPM at this port and waits until it listens; none at port 0.
async fn start(folder: &Path, port: u16) -> Result<Option<SoftwareTpm>, DemoError> {
    if port == 0 {
        return Ok(None);
    }
    let state = folder.join("tpm");
    create(&state)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let none = |error: std::io::Error| DemoError::NoTpm(format!("swtpm: {error}"));
    // The kernel ends it with this process, however that ends.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "swtpm", "socket", "--tpm2"])
        .args(["--tpmstate", &format!("dir={}", state.display())])
        .args([
            "--server",
            &format!("type=tcp,port={port},bindaddr=127.0.0.1"),
        ])
        .args([
            "--ctrl",
            &format!(
                "type=tcp,port={},bindaddr=127.0.0.1",
                port.saturating_add(1)
            ),
        ])
        .args(["--flags", "startup-clear"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(none)?;
    let listens = async {
        while TcpStream::connect_timeout(&address, PATIENCE).is_err() {
            if let Some(status) = child.try_wait().map_err(none)? {
                return Err(DemoError::NoTpm(format!("swtpm ended with {status}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, listens)
        .await
        .map_err(|_| DemoError::NoTpm("swtpm does not listen".into()))??;
    let _child = child;
    Ok(Some(SoftwareTpm { _child, address }))
}

/// Two free ports beside each other: data, and control one above it.
fn neighbours() -> Result<[u16; 2], DemoError> {
    const TRIES: u32 = 50;
    for _ in 0..TRIES {
        let [port] = free_ports::<1>()?;
        let above = port.saturating_add(1);
        if std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, above)).is_ok() {
            return Ok([port, above]);
        }
    }
    Err(DemoError::NoTpm(
        "no two free ports beside each other".into(),
    ))
}

fn failed(error: impl std::fmt::Display) -> DemoError {
    DemoError::Enrolment(error.to_string())
}
