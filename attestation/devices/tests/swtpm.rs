//! Against a real TPM implementation: enrolment and quotes over session bindings, judged by the production verifier.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "../../tests/support/log.rs"]
mod log;
mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use casemate_attestation::eventlog::{Basis, LogKind, Register, replay};
use casemate_attestation::tpm::{
    AttestationKey, Bank, EnrolledKey, HostedIn, PinnedTpmRoot, PublicKey, TpmAnchors, TpmEvidence,
    TpmPolicy, TpmRejection, TpmVerdict, session_nonce, tpm_id, verify_ek_certificate,
    verify_tpm_quote,
};
use casemate_attestation::{
    EvidenceProvider as _, Expectations, FleetChip, FleetList, FleetTpm, HardwareEvidence, Issue,
    Payload, Platform, ReferenceValues, ReleaseSecretKey, SignedDocument, TpmMachine, TpmReference,
    TrustAnchors, UnixTime, Verified, Verifier,
};
use casemate_devices::tpm::{
    Attester, Credential, CredentialError, KeyKind, Measured, Socket, Tpm, Transport,
    endorsement_spki, make_credential,
};
use casemate_devices::{DeviceError, Retry, SystemTime, TpmProvider};

use log::{NO_ACTION, boot};

/// A software TPM that runs until it is dropped. `None`, said aloud, without swtpm.
struct SoftwareTpm {
    folder: PathBuf,
    process: Child,
    socket: Shared,
}

impl SoftwareTpm {
    fn start(folder: &Path) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/swtpm-run");
        let mut process = Command::new(script).arg(folder).spawn().unwrap();
        let begun = Instant::now();
        let socket = loop {
            if let Some(status) = process.try_wait().unwrap() {
                assert_eq!(status.code(), Some(3), "scripts/swtpm-run failed");
                println!("SKIP swtpm is missing");
                return None;
            }
            if let Some(socket) = connect(folder) {
                break socket;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "swtpm is late");
            std::thread::sleep(Duration::from_millis(50));
        };
        Some(Self {
            folder: folder.to_owned(),
            process,
            socket: Shared(Arc::new(Mutex::new(socket))),
        })
    }

    fn tpm(&self) -> Tpm<Shared> {
        Tpm::new(self.socket.clone())
    }

    fn attester(&self, kind: KeyKind) -> Attester<Shared> {
        let time = SystemTime::new();
        Attester::start(self.tpm(), kind, measured(), Retry::default(), &time).unwrap()
    }

    /// TPM2_PCR_Extend by hand: measuring is the firmware's business, and no command of ours.
    fn extend(&self, register: u32, digest: &[u8]) {
        let mut command = vec![0x80, 0x02, 0, 0, 0, 65, 0, 0, 0x01, 0x82];
        command.extend(register.to_be_bytes());
        command.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
        command.extend([0, 0, 0, 1, 0, 0x0b]);
        command.extend(digest);
        assert_eq!(command.len(), 65);
        let response = self.socket.clone().exchange(&command).unwrap();
        assert_eq!(response[6..10], [0; 4], "extension of {register}");
    }

    fn certificate(&self, name: &str) -> Vec<u8> {
        support::pem(&self.folder.join("authority").join(name))
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn connect(folder: &Path) -> Option<Socket> {
    let port = std::fs::read_to_string(folder.join("port")).ok()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.trim().parse().unwrap()));
    Socket::connect(address, Duration::from_secs(30)).ok()
}

/// The one connection that a software TPM serves, for an attester and for a test that measures beside it.
#[derive(Clone)]
struct Shared(Arc<Mutex<Socket>>);

impl Transport for Shared {
    fn exchange(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        self.0.lock().unwrap().exchange(command)
    }
}

fn measured() -> Measured {
    Measured {
        bank: Bank::Sha256,
        registers: (0..24).collect(),
    }
}

/// Registers 0 to 15 as they are expected.
fn policy(registers: &BTreeMap<u8, Vec<u8>>) -> TpmPolicy {
    let expected = registers
        .iter()
        .filter(|(register, _)| **register < 16)
        .map(|(register, value)| (*register, vec![value.clone()]))
        .collect();
    TpmPolicy::new(Bank::Sha256, (0..24).collect(), expected).unwrap()
}

fn enrolled(area: &[u8]) -> TpmAnchors {
    let key = AttestationKey::parse(area).unwrap();
    TpmAnchors::new(Vec::new(), vec![EnrolledKey::new(&key, HostedIn::Machine)])
}

fn judge(
    evidence: &TpmEvidence,
    binding: &[u8; 64],
    policy: &TpmPolicy,
    anchors: &TpmAnchors,
) -> Result<TpmVerdict, TpmRejection> {
    let now: UnixTime = std::time::SystemTime::now().into();
    verify_tpm_quote(evidence, &session_nonce(binding), policy, anchors, now)
}

/// What the broker does: certificate, then a secret for both keys, which comes back.
fn enrol(software: &SoftwareTpm, attester: &mut Attester<Shared>) -> TpmAnchors {
    let time = SystemTime::new();
    let now: UnixTime = std::time::SystemTime::now().into();
    let enrolment = attester.enrolment(KeyKind::Rsa2048, &time).unwrap();
    let certificate = enrolment.endorsement_certificate.unwrap();
    let root = software.certificate("swtpm-localca-rootca-cert.pem");
    let anchors = TpmAnchors::new(
        vec![PinnedTpmRoot::new(&root, HostedIn::Machine)],
        Vec::new(),
    );
    let above = vec![software.certificate("issuercert.pem")];
    let (endorsement, hosted) = verify_ek_certificate(&certificate, &above, &anchors, now).unwrap();
    assert_eq!(hosted, HostedIn::Machine);
    let nobody = verify_ek_certificate(&certificate, &above, &TpmAnchors::default(), now);
    assert_eq!(nobody.unwrap_err(), TpmRejection::NoPinnedRoot);
    let PublicKey::Rsa { n, .. } = &endorsement else {
        panic!("the certificate is of an RSA key");
    };
    assert!(enrolment.endorsement.ends_with(n), "certified and made key");
    let made = KeyKind::Rsa2048.endorsement_of(&enrolment.endorsement);
    assert_eq!(made.as_ref(), Some(&endorsement));
    let spki = endorsement_spki(&endorsement).unwrap();
    let contains = |place: &[u8]| place.windows(spki.len()).any(|window| window == spki);
    assert!(contains(&certificate), "written as in the certificate");

    let key = AttestationKey::parse(&enrolment.attestation).unwrap();
    for length in [1, 16, 32] {
        let secret = vec![0xa5; length];
        let credential = make_credential(&endorsement, &key, &secret).unwrap();
        let opened = attester.activate(KeyKind::Rsa2048, &credential, &time);
        assert_eq!(*opened.unwrap(), secret, "{length} bytes");
    }
    for length in [0, 33] {
        assert_eq!(
            make_credential(&endorsement, &key, &vec![0; length]),
            Err(CredentialError::SecretLength(length))
        );
    }
    enrolled(&enrolment.attestation)
}

#[test]
fn enrolment_and_quotes_over_bindings_are_accepted_and_others_refused() {
    let place = tempfile::tempdir().unwrap();
    let (Some(software), Some(other)) = (
        SoftwareTpm::start(&place.path().join("one")),
        SoftwareTpm::start(&place.path().join("other")),
    ) else {
        return;
    };
    assert_eq!(software.tpm().manufacturer().unwrap(), "IBM");
    let time = SystemTime::new();
    let (binding, another) = ([0x31; 64], [0x32; 64]);
    for kind in [KeyKind::P256, KeyKind::Rsa2048] {
        let mut attester = software.attester(kind);
        let anchors = enrol(&software, &mut attester);
        let evidence = attester.evidence(&binding, &time).unwrap();
        let policy = policy(&evidence.registers);
        let verdict = judge(&evidence, &binding, &policy, &anchors).unwrap();
        println!("{kind:?}: {:#?}", verdict.checks());

        // Another session's binding; a quote of another TPM, made in the same way.
        let relayed = judge(&evidence, &another, &policy, &anchors);
        assert_eq!(relayed.unwrap_err(), TpmRejection::NonceMismatch);
        let mut stranger = other.attester(kind);
        let foreign = stranger.evidence(&binding, &time).unwrap();
        let refused = judge(&foreign, &binding, &policy, &anchors);
        assert_eq!(refused.unwrap_err(), TpmRejection::KeyNotEnrolled);
        let mut dressed = foreign.clone();
        dressed.key = evidence.key.clone();
        let refused = judge(&dressed, &binding, &policy, &anchors);
        assert_eq!(refused.unwrap_err(), TpmRejection::QuoteSignature);

        // Something more is measured: the old quote still says what was, and a new one is another machine's state.
        software.extend(4, &[0x77; 32]);
        other.extend(4, &[0x77; 32]);
        let later = attester.evidence(&binding, &time).unwrap();
        let refused = judge(&later, &binding, &policy, &anchors).unwrap_err();
        assert_eq!(refused, TpmRejection::PcrUnexpected(4));
        let mut mixed = later.clone();
        mixed.registers = evidence.registers.clone();
        let refused = judge(&mixed, &binding, &policy, &anchors).unwrap_err();
        assert_eq!(refused, TpmRejection::PcrDigest);
        assert!(judge(&evidence, &binding, &policy, &anchors).is_ok());
    }
}

#[test]
fn a_credential_opens_only_in_the_tpm_that_has_both_keys() {
    let place = tempfile::tempdir().unwrap();
    let (Some(one), Some(other)) = (
        SoftwareTpm::start(&place.path().join("one")),
        SoftwareTpm::start(&place.path().join("other")),
    ) else {
        return;
    };
    let time = SystemTime::new();
    let (mut mine, mut strangers) = (one.attester(KeyKind::P256), other.attester(KeyKind::P256));
    for kind in [KeyKind::Rsa2048, KeyKind::P256] {
        let endorsement = |attester: &mut Attester<Shared>| {
            let enrolment = attester.enrolment(kind, &time).unwrap();
            kind.endorsement_of(&enrolment.endorsement).unwrap()
        };
        let key = AttestationKey::parse(mine.public()).unwrap();
        let foreign = AttestationKey::parse(strangers.public()).unwrap();
        let (ek, foreign_ek) = (endorsement(&mut mine), endorsement(&mut strangers));
        let secret = [7_u8; 32];
        let good = make_credential(&ek, &key, &secret).unwrap();
        assert_eq!(*mine.activate(kind, &good, &time).unwrap(), secret);

        let refused = |credential: &Credential, attester: &mut Attester<Shared>| {
            let error = attester.activate(kind, credential, &time).unwrap_err();
            assert!(
                matches!(&error, DeviceError::Failed { why, .. } if why.starts_with("response code")),
                "{error}"
            );
        };
        // The key of another TPM by my endorsement key, mine by another's, and mine taken elsewhere.
        refused(&make_credential(&ek, &foreign, &secret).unwrap(), &mut mine);
        refused(
            &make_credential(&foreign_ek, &key, &secret).unwrap(),
            &mut mine,
        );
        refused(&good, &mut strangers);
        for at in [2, 40] {
            let mut altered = good.clone();
            altered.object[at] ^= 1;
            refused(&altered, &mut mine);
        }
        // Refusals leave no sessions and no keys behind: a TPM has room for three of each.
        for _ in 0..4 {
            refused(&make_credential(&ek, &foreign, &secret).unwrap(), &mut mine);
        }
        assert_eq!(*mine.activate(kind, &good, &time).unwrap(), secret);
    }
}

#[test]
fn the_attestation_key_and_its_enrolment_outlive_a_reboot_and_the_log_explains_the_boot() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("machine");
    let Some(before) = SoftwareTpm::start(&folder) else {
        return;
    };
    let anchors = {
        let mut attester = before.attester(KeyKind::P256);
        enrol(&before, &mut attester)
    };
    drop(before);

    let machine = SoftwareTpm::start(&folder).unwrap();
    for (register, event_type, hashed, _) in boot() {
        if event_type != NO_ACTION {
            machine.extend(register, &Bank::Sha256.digest(&hashed));
        }
    }
    let (time, binding) = (SystemTime::new(), [0x44; 64]);
    let evidence = machine
        .attester(KeyKind::P256)
        .evidence(&binding, &time)
        .unwrap();
    let replayed = replay(&log::log(&boot()), LogKind::Tcg2).unwrap();
    let expected = replayed.registers(Bank::Sha256).unwrap().iter();
    let expected: BTreeMap<u8, Vec<u8>> = expected
        .map(|(register, value)| match register {
            Register::Pcr(number) | Register::Rtmr(number) => (*number, value.clone()),
        })
        .collect();
    let verdict = judge(&evidence, &binding, &policy(&expected), &anchors).unwrap();
    let confirmed = replayed.confirm(&verdict.quoted()).unwrap();
    let claims = confirmed.claims().unwrap();
    assert_eq!(claims.secure_boot(), Some((true, Basis::HardwareProven)));
}

#[test]
fn what_a_tpm_does_not_have_is_absent_and_never_made_up() {
    let place = tempfile::tempdir().unwrap();
    let Some(software) = SoftwareTpm::start(&place.path().join("one")) else {
        return;
    };
    let mut tpm = software.tpm();
    assert_eq!(tpm.public_area(0x8101_ffff).unwrap(), None);
    assert_eq!(tpm.endorsement_certificate(KeyKind::P256).unwrap(), None);
    let whole = tpm.endorsement_certificate(KeyKind::Rsa2048).unwrap();
    assert!(whole.is_some_and(|certificate| certificate.starts_with(&[0x30, 0x82])));
    // Keys are given back: more of them than a TPM has room for.
    for _ in 0..8 {
        let key = tpm.endorsement_key(KeyKind::P256).unwrap();
        let public = key.public.clone();
        tpm.flush(key).unwrap();
        let again = tpm.endorsement_key(KeyKind::P256).unwrap();
        assert_eq!(again.public, public, "made from the seed");
        tpm.flush(again).unwrap();
    }
}

fn verified<T: Payload>(payload: &T, now: UnixTime) -> Verified<T> {
    let key = ReleaseSecretKey::generate(&ring::rand::SystemRandom::new()).unwrap();
    let issue = Issue {
        number: 1,
        issued: now.minus(60),
        expires: now.plus(3600),
    };
    let bytes = SignedDocument::sign(payload, issue, &key).unwrap();
    SignedDocument::open(&bytes, &key.public().unwrap(), 0, now).unwrap()
}

#[test]
fn the_provider_satisfies_the_verifier_of_sessions() {
    let place = tempfile::tempdir().unwrap();
    let Some(software) = SoftwareTpm::start(&place.path().join("one")) else {
        return;
    };
    let (time, now) = (
        SystemTime::new(),
        UnixTime::from(std::time::SystemTime::now()),
    );
    let mut attester = software.attester(KeyKind::P256);
    enrol(&software, &mut attester);
    let enrolment = attester.enrolment(KeyKind::Rsa2048, &time).unwrap();
    let endorsement = KeyKind::Rsa2048
        .endorsement_of(&enrolment.endorsement)
        .unwrap();
    let chip_id = tpm_id(&endorsement_spki(&endorsement).unwrap());
    let registers = attester.evidence(&[0; 64], &time).unwrap().registers;
    let values = ReferenceValues {
        tpm: Some(TpmReference {
            bank: Bank::Sha256,
            machines: vec![TpmMachine {
                registers,
                label: "test".into(),
                until: None,
            }],
        }),
        ..ReferenceValues::default()
    };
    let fleet = FleetList {
        chips: vec![FleetChip {
            platform: Platform::Tpm,
            chip_id,
            names: vec!["localhost".into()],
            label: "test".into(),
            tpm: Some(FleetTpm {
                attestation_key: enrolment.attestation,
                hosted: HostedIn::Machine,
            }),
            devices: Vec::new(),
        }],
    };
    let expectations = Expectations::new(
        Platform::Tpm,
        &verified(&values, now),
        &verified(&fleet, now),
    )
    .unwrap();
    let anchors = TrustAnchors::production(Platform::Tpm).unwrap();
    let verifier = Verifier::new(anchors, expectations).unwrap();

    let provider = TpmProvider::apart(attester);
    assert_eq!(provider.platform(), Platform::Tpm);
    let binding = [0x66; 64];
    let hardware = provider.evidence(&binding).unwrap();
    assert!(matches!(hardware, HardwareEvidence::Tpm(_)));
    let evidence = verifier.verify_recorded(&hardware, &binding, now).unwrap();
    assert_eq!(evidence.chip_id(), chip_id);
    assert!(
        !evidence.platform().confidential(),
        "a TPM encrypts no memory"
    );
    let replayed = verifier.verify_recorded(&hardware, &[0x67; 64], now);
    assert_eq!(replayed.unwrap_err().rule(), "P3");
    // A second report is another quote: nothing is kept.
    let again = provider.evidence(&binding).unwrap();
    assert_ne!(again, hardware);
    software.extend(4, &[0x77; 32]);
    let later = provider.evidence(&binding).unwrap();
    let refused = verifier.verify_recorded(&later, &binding, now);
    assert_eq!(refused.unwrap_err().rule(), "P4");
}
