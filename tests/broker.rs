//! The broker as a server meets it: over TLS on a socket, with evidence of the test chip. Each refusal is provoked through
//! the public interface, and nothing is released with it.

#![cfg(feature = "test-chip")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::SystemTime;

use casemate::broker::client::{
    BrokerAddress, PackageRequest, ReleaseClient, ReleaseError, ReleaseRequest, Released,
};
use casemate::keys::{self, DataKey, KeyEncryption, KeySubject, PackageId};
use casemate::org::{self, InitOptions, Name, Organisation, documents};
use casemate_attestation::test_chip::{ReportTemplate, TestChip};
use casemate_attestation::{
    EvidenceProvider, FleetList, HardwareEvidence, Measurement, Platform, PolicyPayload,
    ProviderError, ReferenceValues, Revocations, Sha256Digest, UnixTime,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const MARKER_KEY: [u8; 32] = *b"MARKER-data-key-MARKER-data-key-";

fn now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}

/// An organisation with one registered package, and the broker's configuration beside it.
struct Place {
    folder: tempfile::TempDir,
    chip: TestChip,
    request: ReleaseRequest,
}

fn copy(from: &Path, to: &Path) {
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
static PATTERN: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
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
    documents::sign_next(
        &organisation,
        &PolicyPayload(b"policy one".to_vec()),
        90,
        now(),
    )
    .unwrap();
    folder
});

impl Place {
    fn new() -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn organisation(&self) -> Organisation {
        Organisation::open(&self.path("org")).unwrap()
    }

    /// Registers the package `id` of the model `story` with `epoch`.
    fn register(&self, epoch: u64, id: u8) -> PackageRequest {
        let kek = self.organisation().kek().unwrap();
        let subject = KeySubject {
            package_id: PackageId::from_bytes([id; 16]),
            epoch,
        };
        let digest = Sha256Digest::of(&[id, epoch as u8]);
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

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        command
            .arg("broker")
            .arg("--config")
            .arg(self.path("broker.toml"));
        command
    }

    fn start(&self) -> Running {
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
    fn refuses_to_start(&self) -> (i32, String) {
        let output = self.command().output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    fn audit(&self) -> String {
        fs::read_to_string(self.path("audit")).unwrap()
    }
}

/// A broker process; killed without warning when dropped.
struct Running {
    child: Child,
    address: BrokerAddress,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Running {
    fn release(
        &self,
        provider: impl EvidenceProvider + 'static,
        request: &ReleaseRequest,
    ) -> Result<(Released, ReleaseClient), ReleaseError> {
        runtime().block_on(ReleaseClient::release(
            &self.address,
            Arc::new(provider),
            request,
        ))
    }

    fn refusal(
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

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
    });
    &RUNTIME
}

/// A chip whose reports differ from good ones.
struct Altered(TestChip, fn(&mut ReportTemplate));

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
        Ok(self.0.evidence_for(&template))
    }
}

/// Answers with the first evidence that it ever gave.
#[derive(Clone)]
struct Replay(TestChip, Arc<Mutex<Option<HardwareEvidence>>>);

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

#[test]
fn an_attested_server_gets_leaf_documents_and_keys() {
    let place = Place::new();
    let broker = place.start();
    let (released, mut client) = broker.release(place.chip.clone(), &place.request).unwrap();
    assert_eq!(released.keys[0].1.expose(), &MARKER_KEY);
    assert_eq!(released.leaf_chain.len(), 2);
    assert_eq!(
        released.policy_bundle,
        fs::read(place.path("org/policy.json")).unwrap()
    );

    // P-52: nothing new, then a new revocation list, without a restart.
    let updates = runtime().block_on(client.updates(1, 1)).unwrap();
    assert!(updates.policy_bundle.is_none() && updates.revocations.is_none());
    let what = documents::Revocation::Principal("spiffe://example/team/a/b".into());
    documents::revoke(&place.organisation(), what, 90, now()).unwrap();
    let updates = runtime().block_on(client.updates(1, 1)).unwrap();
    let list = fs::read(place.path("org/revoked.json")).unwrap();
    assert_eq!(updates.revocations.unwrap(), list);
    assert!(place.audit().contains("released"));
}

#[test]
fn k06_evidence_replayed_to_the_broker_is_refused() {
    let place = Place::new();
    let broker = place.start();
    let replay = Replay(place.chip.clone(), Arc::default());
    broker.release(replay.clone(), &place.request).unwrap();
    let (code, message) = broker.refusal(replay, &place.request);
    assert_eq!(code, "evidence_rejected");
    assert!(message.contains("S16"), "{message}");
    assert!(place.audit().contains("evidence_rejected"));
}

#[test]
fn a11_evidence_for_one_broker_is_refused_by_a_second_replica() {
    let (one, mut two) = (Place::new(), Place::new());
    two.request = one.request.clone();
    let replay = Replay(one.chip.clone(), Arc::default());
    one.start().release(replay.clone(), &one.request).unwrap();
    let (code, _) = two.start().refusal(replay, &two.request);
    assert_eq!(code, "evidence_rejected");
    // And a second process on the same store does not even start.
    let _running = two.start();
    let (status, text) = two.refuses_to_start();
    assert_eq!(status, 3);
    assert!(text.contains("in use by another broker"), "{text}");
}

#[test]
fn b01_b07_b08_b13_wrong_evidence_is_refused_by_the_rule_it_breaks() {
    let place = Place::new();
    let broker = place.start();
    let chip = || place.chip.clone();
    let wrong = Measurement::from_bytes([1; 48]);
    type Refusal<'a> = Box<dyn Fn() -> (String, String) + 'a>;
    let rules: [(&str, Refusal<'_>); 4] = [
        (
            "S17",
            Box::new(|| broker.refusal(chip().with_measurement(wrong), &place.request)),
        ),
        (
            "S12",
            Box::new(|| broker.refusal(Altered(chip(), |t| t.policy |= 1 << 19), &place.request)),
        ),
        (
            "S13",
            Box::new(|| broker.refusal(Altered(chip(), |t| t.vmpl = 1), &place.request)),
        ),
        (
            "S19",
            Box::new(|| broker.refusal(chip().chip(1, now()), &place.request)),
        ),
    ];
    for (rule, refusal) in rules {
        let (code, message) = refusal();
        assert_eq!(code, "evidence_rejected", "{message}");
        assert!(
            message.contains(&format!("rule {rule}:")),
            "{rule}: {message}"
        );
    }
    assert_eq!(place.audit().matches("evidence_rejected").count(), 4);
    assert!(!place.audit().contains("\"released\""));
}

#[test]
fn names_packages_and_epochs_are_checked_and_nothing_is_released_in_part() {
    let place = Place::new();
    let broker = place.start();
    let ask = |change: &dyn Fn(&mut ReleaseRequest)| {
        let mut request = place.request.clone();
        change(&mut request);
        broker.refusal(place.chip.clone(), &request).0
    };
    assert_eq!(ask(&|r| r.names.push("other".into())), "name_not_allowed");
    assert_eq!(ask(&|r| r.names.clear()), "malformed");
    assert_eq!(ask(&|r| r.packages.clear()), "malformed");
    assert_eq!(
        ask(&|r| r.packages[0].digest = Sha256Digest::of(b"x")),
        "package_unknown"
    );
    assert_eq!(
        ask(&|r| r.packages[0].key_id = "file:0000000000000000".into()),
        "package_unknown"
    );
    assert_eq!(ask(&|r| r.packages[0].epoch = 0), "epoch_below_floor");
    let unknown = PackageRequest {
        id: PackageId::from_bytes([9; 16]),
        ..place.request.packages[0].clone()
    };
    assert_eq!(
        ask(&|r| r.packages.push(unknown.clone())),
        "package_unknown"
    );

    // A newer package of the same model raises the floor at once and for good.
    let newer = place.register(2, 8);
    assert_eq!(ask(&|_| {}), "epoch_below_floor");
    fs::remove_file(place.path("org/keys").join(format!("{}.json", newer.id))).unwrap();
    assert_eq!(ask(&|_| {}), "epoch_below_floor");
}

#[test]
fn b03_empty_lists_mean_none() {
    let place = Place::new();
    documents::sign_next(
        &place.organisation(),
        &FleetList { chips: Vec::new() },
        90,
        now(),
    )
    .unwrap();
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 12);
    assert!(text.contains("no chip is listed"), "{text}");
}

#[test]
fn b06_unsigned_older_and_expired_documents_are_refused() {
    let place = Place::new();
    let reference = place.path("org/reference.json");
    let old = fs::read(&reference).unwrap();
    let broker = place.start();
    let values = documents::open_for_editing::<ReferenceValues>(&place.organisation()).unwrap();
    let payload = values.into_payload();
    documents::sign_next(&place.organisation(), &payload, 90, now()).unwrap();
    broker.release(place.chip.clone(), &place.request).unwrap();

    let refused = |text: &str| {
        let (code, message) = broker.refusal(place.chip.clone(), &place.request);
        assert_eq!(code, "policy_expired", "{message}");
        assert!(
            message.contains("reference.json") && message.contains(text),
            "{message}"
        );
    };
    // An older one, genuine as it is.
    fs::write(&reference, &old).unwrap();
    refused("older than");
    // The bare payload, without a signature.
    fs::write(&reference, serde_json::to_vec(&payload).unwrap()).unwrap();
    refused("malformed");
    // A signature over other bytes.
    let text = String::from_utf8(old).unwrap();
    fs::write(&reference, text.replace("\"number\":2", "\"number\":9")).unwrap();
    refused("signature");
    let organisation = Organisation::open(&place.path("org"));
    assert!(
        organisation
            .unwrap_err()
            .to_string()
            .contains("reference.json")
    );
}

#[test]
fn b06_an_expired_document_ends_releases() {
    let place = Place::new();
    let past = UnixTime::from_secs(now().secs() - 10 * 86_400);
    let none = Revocations {
        certificates: Vec::new(),
        principals: Vec::new(),
    };
    documents::sign_next(&place.organisation(), &none, 1, past).unwrap();
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 12);
    assert!(
        text.contains("revoked.json") && text.contains("expired"),
        "{text}"
    );
}

#[test]
fn k12_a_broker_whose_state_was_lost_or_rolled_back_does_not_start() {
    let place = Place::new();
    place
        .start()
        .release(place.chip.clone(), &place.request)
        .unwrap();
    let old = fs::read(place.path("state/broker.redb")).unwrap();
    place
        .start()
        .release(place.chip.clone(), &place.request)
        .unwrap();
    place
        .start()
        .release(place.chip.clone(), &place.request)
        .unwrap();
    let good = fs::read(place.path("state/broker.redb")).unwrap();

    fs::write(place.path("state/broker.redb"), old).unwrap();
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 3);
    assert!(
        text.contains("rolled back") && text.contains("hint:"),
        "{text}"
    );

    fs::remove_file(place.path("state/broker.redb")).unwrap();
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 3);
    assert!(text.contains("--new-state"), "{text}");

    fs::write(place.path("state/broker.redb"), good).unwrap();
    place
        .start()
        .release(place.chip.clone(), &place.request)
        .unwrap();
}

#[test]
fn a_broker_killed_at_any_point_starts_again_and_forgets_no_epoch() {
    let place = Place::new();
    let mut floor = 1;
    for round in 0..12_u64 {
        let mut broker = place.start();
        let id = 20 + u8::try_from(round).unwrap();
        let package = place.register(floor + 1, id);
        floor += 1;
        let request = ReleaseRequest {
            packages: vec![package],
            ..place.request.clone()
        };
        let address = broker.address.clone();
        let chip: Arc<dyn EvidenceProvider> = Arc::new(place.chip.clone());
        let asked = std::thread::spawn(move || {
            runtime()
                .block_on(ReleaseClient::release(&address, chip, &request))
                .is_ok()
        });
        std::thread::sleep(std::time::Duration::from_millis(round * 3));
        broker.child.kill().unwrap();
        asked.join().unwrap();
    }
    let broker = place.start();
    let (code, _) = broker.refusal(place.chip.clone(), &place.request);
    assert_eq!(code, "epoch_below_floor");
    let package = place.register(floor + 1, 99);
    let request = ReleaseRequest {
        packages: vec![package],
        ..place.request.clone()
    };
    broker.release(place.chip.clone(), &request).unwrap();
}

#[test]
fn k08_no_key_is_in_arguments_environment_audit_or_readable_files() {
    let place = Place::new();
    let broker = place.start();
    broker.release(place.chip.clone(), &place.request).unwrap();
    let secrets: Vec<Vec<u8>> = vec![
        MARKER_KEY.to_vec(),
        hex::encode(MARKER_KEY).into_bytes(),
        fs::read(place.path("org/kek.key")).unwrap(),
        fs::read(place.path("org/test-chip/seed")).unwrap(),
    ];
    let clean = |what: &str, bytes: &[u8]| {
        for secret in &secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_slice());
            assert!(!found, "a key is in {what}");
        }
    };
    let process = PathBuf::from(format!("/proc/{}", broker.child.id()));
    clean("arguments", &fs::read(process.join("cmdline")).unwrap());
    clean("environment", &fs::read(process.join("environ")).unwrap());
    let mut pending = vec![place.folder.path().to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let about = entry.metadata().unwrap();
            if about.is_dir() {
                pending.push(entry.path());
            } else if about.permissions().mode() & 0o077 != 0 || entry.file_name() == "audit" {
                clean(
                    &entry.path().display().to_string(),
                    &fs::read(entry.path()).unwrap(),
                );
            }
        }
    }
}

#[test]
fn a_secret_file_that_others_may_read_is_refused_with_the_remedy() {
    let place = Place::new();
    let kek = place.path("org/kek.key");
    fs::set_permissions(&kek, fs::Permissions::from_mode(0o644)).unwrap();
    let (status, text) = place.refuses_to_start();
    assert_eq!(status, 3);
    assert!(
        text.contains("kek.key") && text.contains("chmod 600"),
        "{text}"
    );
}
