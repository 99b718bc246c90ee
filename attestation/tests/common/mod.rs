//! What the tests share: one seed's chips, signed documents over them, and the shared evidence.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod der;
pub mod tdx;

use std::collections::BTreeMap;
use std::path::PathBuf;

use casemate_attestation::snp::{PinnedRoot, SnpVerdict, verify_snp_report};
use casemate_attestation::test_chip::{ReportTemplate, TCB, TestChip};
use casemate_attestation::{
    Binding, BindingInputs, Context, Direction, Envelope, EnvelopeParts, Expectations, FleetChip,
    FleetList, HardwareEvidence, Issue, Nonce, Payload, Platform, Product, ReferenceValues,
    ReleaseSecretKey, Sha256Digest, SignedDocument, SnpEvidence, SnpMeasurement, SnpPolicy,
    SnpReference, SnpRejection, TcbVersion, TrustAnchors, UnixTime, Verified, Verifier,
};

/// 2026-03-01T00:00:00Z.
pub const NOW: UnixTime = UnixTime::from_secs(1_772_323_200);
pub const SEED: [u8; 32] = [0x5a; 32];
pub const REPORT_DATA: [u8; 64] = [0; 64];

pub fn chip() -> TestChip {
    TestChip::from_seed(&SEED, NOW)
}

pub fn roots(chip: &TestChip) -> Vec<PinnedRoot> {
    vec![PinnedRoot::private(Product::Genoa, chip.root_der())]
}

/// A policy that accepts the chip's template.
pub fn policy(chip: &TestChip) -> SnpPolicy {
    let floors = BTreeMap::from([(Product::Genoa, TCB)]);
    SnpPolicy::new(
        vec![TestChip::default_measurement()],
        vec![chip.chip_id()],
        floors,
    )
    .unwrap()
}

/// Judges evidence with the chip's root and policy.
pub fn judge(chip: &TestChip, evidence: &SnpEvidence) -> Result<SnpVerdict, SnpRejection> {
    verify_snp_report(evidence, &REPORT_DATA, &policy(chip), &roots(chip), NOW)
}

/// Signs the template after `change` and judges it; returns the refusal.
pub fn refusal(change: impl FnOnce(&mut ReportTemplate)) -> SnpRejection {
    let chip = chip();
    let mut template = chip.template();
    change(&mut template);
    judge(&chip, &chip.evidence_for(&template)).unwrap_err()
}

pub fn release_key() -> ReleaseSecretKey {
    ReleaseSecretKey::generate(&ring::rand::SystemRandom::new()).unwrap()
}

/// Signs and opens a payload, valid a day around [`NOW`].
pub fn verified<T: Payload>(payload: &T) -> Verified<T> {
    let key = release_key();
    let issue = Issue {
        number: 1,
        issued: NOW.minus(86_400),
        expires: NOW.plus(86_400),
    };
    let bytes = SignedDocument::sign(payload, issue, &key).unwrap();
    SignedDocument::open(&bytes, &key.public().unwrap(), 0, NOW).unwrap()
}

pub fn reference(platform: Platform) -> ReferenceValues {
    let mut values = ReferenceValues::default();
    *values.snp_reports_mut(platform).unwrap() = Some(snp_reference());
    values
}

pub fn snp_reference() -> SnpReference {
    SnpReference {
        measurements: vec![SnpMeasurement {
            measurement: TestChip::default_measurement(),
            label: "test".to_owned(),
            until: None,
        }],
        tcb_floor: BTreeMap::from([
            (Product::Genoa, TCB),
            (Product::Milan, TcbVersion::default()),
        ]),
        vmpl: 0,
        ..SnpReference::default()
    }
}

pub fn fleet(platform: Platform, chip: &TestChip) -> FleetList {
    let (chip_id, names) = (chip.chip_id(), vec!["localhost".to_owned()]);
    FleetList {
        chips: vec![FleetChip {
            platform,
            chip_id,
            names,
            label: "rack 1".to_owned(),
            tpm: None,
            devices: Vec::new(),
        }],
    }
}

pub fn expectations(platform: Platform, chip: &TestChip) -> Expectations {
    Expectations::new(
        platform,
        &verified(&reference(platform)),
        &verified(&fleet(platform, chip)),
    )
    .unwrap()
}

pub fn verifier(chip: &TestChip) -> Verifier {
    Verifier::new(
        TrustAnchors::test_chip(chip.root_der()),
        expectations(Platform::TestChip, chip),
    )
    .unwrap()
}

/// The verifier's side of a connection.
#[derive(Clone)]
pub struct Channel {
    pub direction: Direction,
    pub exporter: [u8; 32],
    pub server_leaf: Sha256Digest,
    pub client_leaf: Sha256Digest,
    pub nonce: Nonce,
}

impl Channel {
    pub fn binding(&self, context: &Context) -> Binding {
        let Self {
            direction,
            ref exporter,
            server_leaf,
            client_leaf,
            nonce,
        } = *self;
        BindingInputs {
            direction,
            exporter,
            server_leaf,
            client_leaf,
            nonce,
            context,
        }
        .binding()
    }
}

pub fn channel() -> Channel {
    Channel {
        direction: Direction::Server,
        exporter: [1; 32],
        server_leaf: Sha256Digest::of(b"server"),
        client_leaf: Sha256Digest::of(b"client"),
        nonce: Nonce::from_bytes([2; 32]),
    }
}

pub fn context() -> Context {
    Context {
        models: vec![Sha256Digest::of(b"model")],
        ..Context::absent()
    }
}

/// An envelope of the test chip over the binding of `channel`.
pub fn envelope(chip: &TestChip, channel: &Channel) -> Envelope {
    let report_data = *channel.binding(&context()).as_bytes();
    let hardware = chip.evidence_for(&ReportTemplate {
        report_data,
        ..chip.template()
    });
    build(Platform::TestChip, channel.direction, hardware)
}

pub fn build(platform: Platform, direction: Direction, hardware: SnpEvidence) -> Envelope {
    Envelope::build(EnvelopeParts {
        platform,
        direction,
        hardware: HardwareEvidence::Snp(hardware),
        context: context(),
        batch: None,
        devices: None,
    })
    .unwrap()
}

/// The SNP report inside an envelope.
pub fn report_of(envelope: &Envelope) -> SnpEvidence {
    match envelope.hardware() {
        HardwareEvidence::Snp(evidence) => evidence.clone(),
        other => panic!("evidence of kind {}", other.kind()),
    }
}

/// A folder of the shared evidence. `None`, said aloud, where it is missing; a failure in continuous integration.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/evidence")
        .join(folder);
    if path.is_dir() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "shared evidence {folder} is missing"
    );
    println!("SKIP shared evidence {folder} is missing");
    None
}
