//! An organisation with registered packages, its broker as a process, and machines that ask for keys.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::SystemTime;

use casemate::broker::client::{
    BrokerAddress, OwnMachine, PackageRequest, ReleaseClient, ReleaseError, ReleaseRequest,
    Released,
};
use casemate::keys::{self, DataKey, KeyEncryption, KeySubject, PackageId};
use casemate::org::{self, InitOptions, Name, Organisation, documents};
use casemate::policy::{POLICY_FORMAT, PolicyDocument};
use casemate_attestation::test_chip::{ReportTemplate, TestChip};
use casemate_attestation::{
    EvidenceProvider, HardwareEvidence, Platform, ProviderError, Sha256Digest, UnixTime,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub const MARKER_KEY: [u8; 32] = *b"MARKER-data-key-MARKER-data-key-";

pub fn now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}

/// An organisation with one registered package, and the broker's configuration beside it.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub chip: TestChip,
    pub request: ReleaseRequest,
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Deriving a chip takes a second: one organisation is made, each test works on a copy.
pub static PATTERN: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let name = Name::organisation("example").unwrap();
    let broker_names = vec!["localhost".into()];
    let options = InitOptions {
        name,
        broker_names,
        test_chip: true,
        days: 90,
    };
    let organisation = org::init(&folder.path().join("org"), &options, now()).unwrap();
    organisation
        .enrol_test_chip("bench", vec!["localhost".into()], 90, now())
        .unwrap();
    documents::sign_next(&organisation, &policy_for_all(), 90, now()).unwrap();
    folder
});

/// A package's digest, as these tests register it.
pub fn digest_of(id: u8, epoch: u64) -> Sha256Digest {
    Sha256Digest::of(&[id, u8::try_from(epoch).unwrap()])
}

/// The package that no policy names.
pub const NOT_IN_POLICY: u8 = 50;

/// A policy that names every package which these tests register, but one.
pub fn policy_for_all() -> PolicyDocument {
    let ids = (0..NOT_IN_POLICY).chain([99]);
    let pairs = ids.flat_map(|id| (1..20).map(move |epoch| (id, epoch)));
    let named = |(id, epoch)| {
        (
            format!("m-{id}-{epoch}").parse().unwrap(),
            digest_of(id, epoch),
        )
    };
    PolicyDocument {
        format: POLICY_FORMAT.into(),
        cedar: String::new(),
        teams: BTreeMap::new(),
        models: pairs.map(named).collect(),
        mark_epoch: 1,
        guard: None,
    }
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(PATTERN.path(), folder.path());
        let config = "listen = \"127.0.0.1:0\"\norganisation = \"org\"\nstate = \"state\"\n\
            witness = \"witness\"\naudit = \"audit\"\nplatform = \"test-chip\"\nallow_test_chip = true\n";
        fs::write(folder.path().join("broker.toml"), config).unwrap();
        let organisation = Organisation::open(&folder.path().join("org")).unwrap();
        let chip = organisation.test_chip(now()).unwrap();
        let names = vec!["localhost".into()];
        let configuration = Sha256Digest::of(b"configuration");
        let request = ReleaseRequest {
            names,
            packages: Vec::new(),
            configuration,
        };
        let mut place = Self {
            folder,
            chip,
            request,
        };
        let package = place.register(1, 7);
        place.request.packages.push(package);
        let made = place.command().arg("--new-state").output().unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn organisation(&self) -> Organisation {
        Organisation::open(&self.path("org")).unwrap()
    }

    /// Registers the package `id` of the model `story` with `epoch`.
    pub fn register(&self, epoch: u64, id: u8) -> PackageRequest {
        let kek = self.organisation().kek().unwrap();
        let subject = KeySubject {
            package_id: PackageId::from_bytes([id; 16]),
            epoch,
        };
        let digest = digest_of(id, epoch);
        let mut key = MARKER_KEY;
        let key = DataKey::from_bytes(&mut key);
        keys::register(
            &self.path("org"),
            &kek,
            subject,
            "story",
            *digest.as_bytes(),
            &key,
        )
        .unwrap();
        let key_id = kek.key_id().to_owned();
        PackageRequest {
            id: subject.package_id,
            epoch,
            key_id,
            digest,
        }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        command
            .arg("broker")
            .arg("--config")
            .arg(self.path("broker.toml"));
        command
    }

    pub fn start(&self) -> Running {
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .strip_prefix("broker ready on ")
            .map(str::trim)
            .map(str::to_owned);
        let Some(address) = address else {
            let output = child.wait_with_output().unwrap();
            panic!("no broker: {}", String::from_utf8_lossy(&output.stderr));
        };
        let port = address.rsplit_once(':').unwrap().1;
        let pem = fs::read(self.path("org/broker/ca.pem")).unwrap();
        let authority = CertificateDer::from_pem_slice(&pem).unwrap();
        let address = BrokerAddress {
            address: format!("localhost:{port}"),
            name: "localhost".into(),
            authority,
        };
        Running { child, address }
    }

    /// A broker that must not start: its exit code and what it says.
    pub fn refuses_to_start(&self) -> (i32, String) {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut said).unwrap();
        if !said.is_empty() {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it did start: {said}");
        }
        let output = child.wait_with_output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    /// Writes a line into the broker's configuration, instead of the one that begins alike if there is one.
    pub fn configure(&self, line: &str) {
        let path = self.path("broker.toml");
        let text = fs::read_to_string(&path).unwrap();
        let (name, _) = line.split_once('=').unwrap();
        let mut lines: Vec<&str> = text.lines().filter(|l| !l.starts_with(name)).collect();
        lines.push(line);
        fs::write(&path, lines.join("\n") + "\n").unwrap();
    }

    pub fn audit(&self) -> String {
        fs::read_to_string(self.path("audit")).unwrap()
    }
}

/// A broker process; killed without warning when dropped.
pub struct Running {
    pub child: Child,
    pub address: BrokerAddress,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Running {
    pub fn release(
        &self,
        provider: impl EvidenceProvider + 'static,
        request: &ReleaseRequest,
    ) -> Result<(Released, ReleaseClient), ReleaseError> {
        self.release_of(&OwnMachine::alone(Arc::new(provider)), request)
    }

    /// The same of a machine that may have devices.
    pub fn release_of(
        &self,
        machine: &OwnMachine,
        request: &ReleaseRequest,
    ) -> Result<(Released, ReleaseClient), ReleaseError> {
        runtime().block_on(ReleaseClient::release(&self.address, machine, request))
    }

    pub fn refusal(
        &self,
        provider: impl EvidenceProvider + 'static,
        request: &ReleaseRequest,
    ) -> (String, String) {
        match self.release(provider, request).unwrap_err() {
            ReleaseError::Refused { code, message } => (code, message),
            other => panic!("{other}"),
        }
    }
}

pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
    });
    &RUNTIME
}

/// A chip whose reports differ from good ones.
pub struct Altered(pub TestChip, pub fn(&mut ReportTemplate));

impl EvidenceProvider for Altered {
    fn platform(&self) -> Platform {
        Platform::TestChip
    }
    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
        let mut template = ReportTemplate {
            report_data: *report_data,
            ..self.0.template()
        };
        (self.1)(&mut template);
        Ok(HardwareEvidence::Snp(self.0.evidence_for(&template)))
    }
}

/// Answers with the first evidence that it ever gave.
#[derive(Clone)]
pub struct Replay(pub TestChip, pub Arc<Mutex<Option<HardwareEvidence>>>);

impl EvidenceProvider for Replay {
    fn platform(&self) -> Platform {
        Platform::TestChip
    }
    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
        let mut first = self.1.lock().unwrap();
        if first.is_none() {
            *first = Some(self.0.evidence(report_data)?);
        }
        Ok(first.clone().unwrap())
    }
}
