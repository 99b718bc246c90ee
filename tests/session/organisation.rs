//! One organisation for all tests: authorities, release key, signed documents, and two chips in its fleet.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use casemate::policy::{
    Budget, GuardPolicy, OutputRules, POLICY_FORMAT, PolicyBundle, PolicyDocument, Team,
};
use casemate_attestation::test_chip::{PRODUCT, TCB, TestChip, TestGpu};
use casemate_attestation::{
    Expectations, FleetChip, FleetDevice, FleetList, Issue, Payload, Platform, ReferenceValues,
    ReleaseSecretKey, Revocations, Sha256Digest, SignedDocument, SnpMeasurement, SnpReference,
    TrustAnchors, UnixTime, Verified, Verifier,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use ring::rand::SystemRandom;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The name of node A, and of the chip on which it runs.
pub const NODE_A: &str = "node-a.example";
/// Another node of the same fleet, as good as the first.
pub const NODE_B: &str = "node-b.example";
pub const DAY: u64 = 86_400;

pub const SEED: [u8; 32] = [7; 32];

pub static ORGANISATION: LazyLock<Organisation> = LazyLock::new(Organisation::new);

pub fn now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}

pub struct Organisation {
    pub node_a: TestChip,
    pub node_b: TestChip,
    pub release: ReleaseSecretKey,
    clients: Authority,
    enclaves: Authority,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Leaf {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
}

impl Leaf {
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap()
    }

    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.der)
    }
}

impl Organisation {
    fn new() -> Self {
        let node_a = TestChip::from_seed(&SEED, now());
        Self {
            node_b: node_a.chip(1, now()),
            node_a,
            release: ReleaseSecretKey::generate(&SystemRandom::new()).unwrap(),
            clients: Authority::new("clients"),
            enclaves: Authority::new("enclaves"),
        }
    }

    pub fn client_authority(&self) -> CertificateDer<'static> {
        self.clients.der.clone()
    }

    pub fn enclave_authority(&self) -> CertificateDer<'static> {
        self.enclaves.der.clone()
    }

    pub fn enclave_authority_pem(&self) -> &str {
        &self.enclaves.pem
    }

    /// A client of the team of writers.
    pub fn client(&self, member: &str) -> Leaf {
        self.client_living(member, 30 * DAY)
    }

    /// A certificate of nobody's authority with the name of a writer.
    pub fn stranger(&self, member: &str) -> Leaf {
        let name = SanType::URI(principal(member).as_str().try_into().unwrap());
        Authority::new("strangers").leaf(vec![name], ExtendedKeyUsagePurpose::ClientAuth, DAY)
    }

    pub fn client_living(&self, member: &str, life_s: u64) -> Leaf {
        let name = SanType::URI(principal(member).as_str().try_into().unwrap());
        let purpose = ExtendedKeyUsagePurpose::ClientAuth;
        self.clients.leaf(vec![name], purpose, life_s)
    }

    /// A server's leaf of the enclave CA, as the broker gives it to attested servers.
    pub fn server(&self, names: &[&str]) -> Leaf {
        self.server_living(names, DAY)
    }

    pub fn server_living(&self, names: &[&str], life_s: u64) -> Leaf {
        let name = |name: &&str| SanType::DnsName((*name).try_into().unwrap());
        let names = names.iter().map(name).collect();
        let purpose = ExtendedKeyUsagePurpose::ServerAuth;
        self.enclaves.leaf(names, purpose, life_s)
    }

    pub fn sign<T: Payload>(&self, payload: &T, number: u64, life_s: u64) -> Vec<u8> {
        let issued = now().minus(60);
        let issue = Issue {
            number,
            issued,
            expires: issued.plus(60 + life_s),
        };
        SignedDocument::sign(payload, issue, &self.release).unwrap()
    }

    pub fn open<T: Payload>(&self, bytes: &[u8]) -> Verified<T> {
        SignedDocument::open(bytes, &self.release.public().unwrap(), 0, now()).unwrap()
    }

    pub fn fleet(&self) -> FleetList {
        let chip = |platform, chip: &TestChip, name: &str| FleetChip {
            platform,
            chip_id: chip.chip_id(),
            names: vec![name.into()],
            label: format!("machine of {name}"),
            tpm: None,
            devices: Vec::new(),
        };
        FleetList {
            chips: vec![
                chip(Platform::TestChip, &self.node_a, NODE_A),
                chip(Platform::TestChip, &self.node_b, NODE_B),
                chip(Platform::Snp, &self.node_a, NODE_A),
            ],
        }
    }

    /// The fleet list in which the machine of node A has these GPUs.
    pub fn fleet_with(&self, gpus: &[u32]) -> FleetList {
        let device = |number: &u32| FleetDevice {
            kind: TestGpu::KIND,
            device_key: TestGpu::of_seed(&SEED, *number).device_key(),
            label: format!("GPU {number}"),
        };
        let mut fleet = self.fleet();
        fleet.chips[0].devices = gpus.iter().map(device).collect();
        fleet
    }

    pub fn reference(&self) -> ReferenceValues {
        let section = SnpReference {
            measurements: vec![SnpMeasurement {
                measurement: TestChip::default_measurement(),
                label: "the release".into(),
            }],
            tcb_floor: [(PRODUCT, TCB)].into(),
            ..SnpReference::default()
        };
        ReferenceValues {
            test_chip: Some(section.clone()),
            snp: Some(section),
            nvidia: Some(TestGpu::reference()),
            ..ReferenceValues::default()
        }
    }

    /// What the product's client verifies with, without its files.
    pub fn verifier(&self) -> Verifier {
        let reference = self.open(&self.sign(&self.reference(), 1, DAY));
        let fleet = self.open(&self.sign(&self.fleet(), 1, DAY));
        let expectations = Expectations::new(Platform::TestChip, &reference, &fleet).unwrap();
        let anchors = TrustAnchors::test_chip(self.node_a.root_der());
        Verifier::new(anchors, expectations).unwrap()
    }

    /// A policy by which writers may do everything with the model.
    pub fn policy(&self, number: u64) -> PolicyBundle {
        self.policy_of(number, None, OutputRules::default())
    }

    /// The same, with a word about the guard, and rules for what leaves in their answers.
    pub fn policy_of(
        &self,
        number: u64,
        guard: Option<GuardPolicy>,
        output: OutputRules,
    ) -> PolicyBundle {
        let budget = Budget {
            window_seconds: 3600,
            requests: 100_000,
            tokens: 100_000_000,
            concurrency: 1000,
        };
        let team = Team {
            principals: vec!["spiffe://example/team/writers/*".parse().unwrap()],
            output_tokens_max: 100_000,
            session_seconds: 3600,
            share: SHARE,
            shared: budget,
            each: budget,
            output,
        };
        let document = PolicyDocument {
            format: POLICY_FORMAT.into(),
            cedar: "@id(\"writers\") permit (principal in Team::\"writers\", action, resource);\n\
                @id(\"no-seed\") forbid (principal, action == Action::\"use_seed\", resource) \
                unless { principal == Principal::\"spiffe://example/team/writers/seeded\" };\n\
                @id(\"no-logprobs\") forbid (principal == Principal::\"spiffe://example/team/writers/plain\", \
                action in [Action::\"use_logprobs\", Action::\"use_logit_bias\"], resource);\n\
                @id(\"own-evidence\") forbid (principal == Principal::\"spiffe://example/team/writers/guarded\", \
                action, resource) unless { context has client_evidence && context.client_evidence == \"test-chip\" };"
                .into(),
            teams: [("writers".parse().unwrap(), team)].into(),
            models: [("story".parse().unwrap(), model())].into(),
            mark_epoch: 1,
            guard,
        };
        let signed = self.sign(&document, number, DAY);
        PolicyBundle::open(&signed, &self.release.public().unwrap(), 0, now()).unwrap()
    }

    pub fn revocations(&self, list: &Revocations, life_s: u64) -> Verified<Revocations> {
        self.open(&self.sign(list, 1, life_s))
    }
}

/// The writers' share of the engine.
pub const SHARE: u32 = 3;

/// The identity of a writer.
pub fn principal(member: &str) -> String {
    format!("spiffe://example/team/writers/{member}")
}

/// Digest of the one model.
pub fn model() -> Sha256Digest {
    Sha256Digest::of(b"model story")
}

/// Nobody is revoked.
pub fn nobody() -> Revocations {
    Revocations {
        certificates: Vec::new(),
        principals: Vec::new(),
    }
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = params(name, 3650 * DAY);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn leaf(&self, names: Vec<SanType>, purpose: ExtendedKeyUsagePurpose, life_s: u64) -> Leaf {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = params("leaf", life_s);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }
}

fn params(name: &str, life_s: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let from = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now().secs() - 60);
    params.not_before = from;
    params.not_after = from + Duration::from_secs(life_s);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
