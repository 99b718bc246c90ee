//! SNP reports: ours beside the crate `sev`, which `snpguest` verifies with.

use std::collections::BTreeMap;
use std::path::Path;

use casemate_attestation::snp::{CrlPolicy, PinnedRoot, SnpReport, verify_snp_report};
use casemate_attestation::test_chip::TestChip;
use casemate_attestation::{Product, SnpEvidence, SnpPolicy, TcbVersion, UnixTime};
use sev::certs::snp::{Certificate, Chain, Verifiable as _};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;

use super::inputs::Vector;
use super::report::{Bar, Row};
use super::turns::rates;

const FULL: Bar = Bar {
    rate: Some(300.0),
    ratio: Some(0.9),
};
const CACHED: Bar = Bar {
    rate: Some(1000.0),
    ratio: Some(0.9),
};
/// The test chip's certificates are ours; no bar is about them.
const NO_BAR: Bar = Bar {
    rate: None,
    ratio: None,
};

/// A machine's evidence with all that judging it takes.
struct Case {
    evidence: SnpEvidence,
    roots: Vec<PinnedRoot>,
    root: Vec<u8>,
    policy: SnpPolicy,
    report: SnpReport,
    now: UnixTime,
}

impl Case {
    fn new(
        evidence: SnpEvidence,
        roots: Vec<PinnedRoot>,
        root: Vec<u8>,
        now: UnixTime,
    ) -> anyhow::Result<Self> {
        let report = SnpReport::parse(&evidence.report)?;
        let products = [Product::Milan, Product::Genoa, Product::Turin];
        let floors = BTreeMap::from(products.map(|product| (product, TcbVersion::default())));
        let policy = SnpPolicy::new(vec![report.measurement()], vec![report.chip_id()], floors)?
            .with_crl(CrlPolicy::MissingIsShown)
            .allowing_despite_broken_root(Product::Milan)
            .tolerating_missing_alias_check();
        Ok(Self {
            evidence,
            roots,
            root,
            policy,
            report,
            now,
        })
    }

    fn judge(&self) -> anyhow::Result<()> {
        let data = self.report.report_data();
        verify_snp_report(&self.evidence, &data, &self.policy, &self.roots, self.now)?;
        Ok(())
    }

    /// The library: certificates and report are read, the chain and the report's signature are checked.
    fn by_library(&self) -> anyhow::Result<()> {
        let chain = Chain::from_der(&self.root, &self.evidence.intermediate, &self.evidence.vek)?;
        let report = AttestationReport::from_bytes(&self.evidence.report)?;
        Ok((&chain, &report).verify()?)
    }

    /// The library with an endorsement key that was verified before.
    fn by_library_with(&self, vek: &Certificate) -> anyhow::Result<()> {
        let report = AttestationReport::from_bytes(&self.evidence.report)?;
        Ok((vek, &report).verify()?)
    }
}

/// Reports of real machines.
pub fn rows(evidence: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for name in ["milan-v3-aci", "genoa-v3-aci", "turin-v5-aci"] {
        let vector = Vector::read(evidence, &format!("snp/{name}"))?;
        let hardware = SnpEvidence {
            report: vector.file(vector.text("/report")?)?,
            vek: vector.file(vector.text("/vek")?)?,
            intermediate: vector.file(vector.text("/intermediate")?)?,
            crl: Vec::new(),
        };
        let now = UnixTime::from_secs(vector.number("/verify_at_unix")?);
        let root = vector.file(vector.text("/root")?)?;
        let case = Case::new(hardware, PinnedRoot::amd(), root, now)?;
        let full = rates([&|| case.judge(), &|| case.by_library()])?;
        rows.push(Row::compared(format!("snp full chain, {name}"), full, FULL));
        let vek = Certificate::from_der(&case.evidence.vek)?;
        let cached = rates([&|| case.judge(), &|| case.by_library_with(&vek)])?;
        rows.push(Row::compared(
            format!("snp known chain, {name}"),
            cached,
            CACHED,
        ));
    }
    Ok(rows)
}

/// Reports of the test chip, whose evidence has a revocation list, too.
pub fn chip_rows() -> anyhow::Result<Vec<Row>> {
    let now = UnixTime::from_secs(1_790_000_000);
    let chip = TestChip::from_seed(&[7; 32], now);
    let evidence = chip.evidence_for(&chip.template());
    let root = chip.root_der().to_vec();
    let roots = vec![PinnedRoot::private(Product::Genoa, &root)];
    let case = Case::new(evidence, roots, root, now)?;
    let figures = rates([&|| case.judge(), &|| case.by_library()])?;
    Ok(vec![Row::compared(
        "snp full chain, test chip with revocation list",
        figures,
        NO_BAR,
    )])
}
