//! The chip that is not one: a seed becomes a private PKI that signs well-formed SNP reports.
//!
//! Whoever knows the seed can forge every report. Nothing that this chip signs is confidential. The same seed is the
//! same root, intermediate and chip in every process and version; only the revocation list depends on the time given.

mod certificates;
mod der;
mod gpu;
mod report;
mod rsa;
mod stream;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use ring::digest::{SHA384, digest};

pub use certificates::{
    Authority, CrlTemplate, IntermediateTemplate, VALID_FROM, VALID_UNTIL, VekTemplate,
};
pub use gpu::TestGpu;
pub use report::ReportTemplate;

use crate::digest::{ChipId, Measurement, Sha256Digest, UnixTime};
use crate::hardware::HardwareEvidence;
use crate::provider::{EvidenceProvider, Platform, ProviderError};
use crate::snp::{Product, SIGNED_BYTES, SnpEvidence, TcbVersion};
use rsa::RsaKey;
use stream::Stream;

/// The processor that the chip claims to be.
pub const PRODUCT: Product = Product::Genoa;

/// The firmware that the chip claims to run.
pub const TCB: TcbVersion = TcbVersion {
    boot_loader: 10,
    tee: 0,
    snp: 25,
    microcode: 84,
    fmc: 0,
};

const CPUID: [u8; 3] = [0x19, 0x11, 0x01];
const POLICY: u64 = 0x3_0000;
/// SMT on, ECC on, alias check complete.
const PLATFORM_INFO: u64 = 0x25;

/// The private authorities of one seed.
struct Keys {
    root: RsaKey,
    intermediate: RsaKey,
}

/// One chip of a seed's private PKI, together with what signed it.
#[derive(Clone)]
pub struct TestChip {
    seed: zeroize::Zeroizing<[u8; 32]>,
    keys: Arc<Keys>,
    vek: SigningKey,
    template: ReportTemplate,
    collateral: SnpEvidence,
    root: Vec<u8>,
    latency: Duration,
    /// A security processor answers one request at a time.
    busy: Arc<Mutex<()>>,
}

impl TestChip {
    /// Derives the PKI (about a second for a seed's first chip in a process) and chip 0. `now` dates the revocation list.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32], now: UnixTime) -> Self {
        Self::derive(seed, keys_of(seed), 0, now)
    }

    /// Another chip of the same PKI.
    #[must_use]
    pub fn chip(&self, number: u32, now: UnixTime) -> Self {
        Self::derive(&self.seed, Arc::clone(&self.keys), number, now)
    }

    fn derive(seed: &[u8; 32], keys: Arc<Keys>, number: u32, now: UnixTime) -> Self {
        let chip_id = ChipId::from_bytes(Stream::new(seed, &format!("chip/{number}/id")).array());
        let mut chip = Self {
            seed: zeroize::Zeroizing::new(*seed),
            vek: p384_key(seed, &format!("chip/{number}/vek")),
            template: good_report(chip_id),
            collateral: SnpEvidence::default(),
            root: keys.root_certificate(),
            keys,
            latency: Duration::ZERO,
            busy: Arc::new(Mutex::new(())),
        };
        chip.collateral.vek = chip.issue_vek(&chip.vek_template());
        chip.collateral.intermediate = chip.issue_intermediate(&IntermediateTemplate::default());
        chip.collateral.crl = chip.issue_crl(&CrlTemplate::issued_at(now));
        chip
    }

    /// Reports carry this measurement instead of [`TestChip::default_measurement`].
    #[must_use]
    pub const fn with_measurement(mut self, measurement: Measurement) -> Self {
        self.template.measurement = measurement;
        self
    }

    /// Every report takes this long, one after the other, as on a real security processor.
    #[must_use]
    pub const fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// What reports carry as measurement unless told otherwise. It measures nothing.
    #[must_use]
    pub fn default_measurement() -> Measurement {
        let mut bytes = [0; 48];
        bytes.copy_from_slice(digest(&SHA384, b"casemate/test-chip/measurement/v1").as_ref());
        Measurement::from_bytes(bytes)
    }

    /// The root certificate (DER), for [`TrustAnchors::test_chip`](crate::TrustAnchors::test_chip).
    #[must_use]
    pub fn root_der(&self) -> &[u8] {
        &self.root
    }

    /// The chip's id, for the fleet list.
    #[must_use]
    pub const fn chip_id(&self) -> ChipId {
        self.template.chip_id
    }

    /// The fields of a report that passes every rule; REPORT_DATA is zero.
    #[must_use]
    pub fn template(&self) -> ReportTemplate {
        self.template.clone()
    }

    /// The endorsement certificate that fits [`TestChip::template`].
    #[must_use]
    pub fn vek_template(&self) -> VekTemplate {
        VekTemplate {
            common_name: "SEV-VCEK".to_owned(),
            issuer: format!("SEV-{PRODUCT}"),
            signer: Authority::Intermediate,
            not_before: VALID_FROM,
            not_after: VALID_UNTIL,
            authority: false,
            structure: 0,
            product_name: PRODUCT.to_string(),
            components: vec![
                (1, TCB.boot_loader),
                (2, TCB.tee),
                (3, TCB.snp),
                (8, TCB.microcode),
            ],
            hardware_id: Some(self.chip_id().as_bytes().to_vec()),
            csp_id: None,
        }
    }

    /// Signs a report with these fields. Collateral is that of [`TestChip::collateral`].
    #[must_use]
    pub fn sign_report(&self, template: &ReportTemplate) -> Vec<u8> {
        let mut report = template.encode();
        self.sign_bytes(&mut report);
        report
    }

    /// Signs a report's bytes as they are, well-formed or not.
    pub fn sign_bytes(&self, report: &mut [u8]) {
        let Some((signed, rest)) = report.split_at_mut_checked(SIGNED_BYTES) else {
            return;
        };
        let signature: Signature = self.vek.sign(signed);
        let bytes = signature.to_bytes();
        let (r, s) = bytes.split_at(48);
        for (offset, half) in [(0, r), (72, s)] {
            for (to, from) in rest.iter_mut().skip(offset).zip(half.iter().rev()) {
                *to = *from;
            }
        }
    }

    /// Certificates and revocation list without a report.
    #[must_use]
    pub const fn collateral(&self) -> &SnpEvidence {
        &self.collateral
    }

    /// A report with these fields, and the chip's collateral.
    #[must_use]
    pub fn evidence_for(&self, template: &ReportTemplate) -> SnpEvidence {
        SnpEvidence {
            report: self.sign_report(template),
            ..self.collateral.clone()
        }
    }

    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn vek_point(&self) -> Vec<u8> {
        self.vek
            .verifying_key()
            .to_sec1_point(false)
            .as_bytes()
            .to_vec()
    }
}

impl EvidenceProvider for TestChip {
    fn platform(&self) -> Platform {
        Platform::TestChip
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
        let _turn = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.latency.is_zero() {
            std::thread::sleep(self.latency);
        }
        let report = ReportTemplate {
            report_data: *report_data,
            ..self.template()
        };
        Ok(HardwareEvidence::Snp(self.evidence_for(&report)))
    }
}

impl fmt::Debug for TestChip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestChip({}, ..)", self.chip_id())
    }
}

/// A report that passes every rule.
fn good_report(chip_id: ChipId) -> ReportTemplate {
    ReportTemplate {
        version: 3,
        guest_svn: 0,
        policy: POLICY,
        vmpl: 0,
        signature_algorithm: 1,
        platform_info: PLATFORM_INFO,
        flags: 0,
        report_data: [0; 64],
        measurement: TestChip::default_measurement(),
        host_data: [0; 32],
        cpuid: CPUID,
        chip_id,
        current_tcb: TCB,
        reported_tcb: TCB,
        committed_tcb: TCB,
        launch_tcb: TCB,
        mitigations: (0, 0),
    }
}

/// The authorities of a seed. Primes are searched for once in a process.
fn keys_of(seed: &[u8; 32]) -> Arc<Keys> {
    static KNOWN: OnceLock<Mutex<BTreeMap<Sha256Digest, Arc<Keys>>>> = OnceLock::new();
    let mut known = KNOWN
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let derive = || {
        let (root, intermediate) = (
            RsaKey::derive(seed, "root"),
            RsaKey::derive(seed, "intermediate"),
        );
        Arc::new(Keys { root, intermediate })
    };
    Arc::clone(known.entry(Sha256Digest::of(seed)).or_insert_with(derive))
}

/// A P-384 key: the first drawn number that is one. Nearly every number is.
fn p384_key(seed: &[u8; 32], label: &str) -> SigningKey {
    let mut stream = Stream::new(seed, label);
    loop {
        if let Ok(key) = SigningKey::from_slice(&stream.array::<48>()) {
            return key;
        }
    }
}
