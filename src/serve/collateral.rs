//! The server's own collateral out of the bundle that the organisation signed (docs/formats/collateral.md).
//!
//! The file is read again for every report, so that whoever renews it only replaces it. No number of it is remembered: an older
//! bundle can serve nothing that its vendor's dates do not allow, and everybody who verifies checks every item again.

use std::path::{Path, PathBuf};

use casemate_attestation::nvidia::{DeviceEvidence, OcspAnswers};
use casemate_attestation::signed::SIGNED_BYTES_MAX;
use casemate_attestation::snp::{PinnedRoot, SnpReport};
use casemate_attestation::tdx::{TdxQuote, TdxRoot};
use casemate_attestation::{
    ReleasePublicKey, SignedDocument, SnpEvidence, TdxCollateral, UnixTime, collateral,
};
use casemate_devices::tsm::CertificateTable;
use casemate_devices::{Collateral, DeviceError};

use crate::session::now;

const DEVICE: &str = "the collateral";

/// A signed bundle in a file.
pub(super) struct SignedCollateral {
    path: PathBuf,
    key: ReleasePublicKey,
    amd: Vec<PinnedRoot>,
    intel: TdxRoot,
    clock: fn() -> UnixTime,
}

impl SignedCollateral {
    /// The bundle in `path`, signed by the organisation's release key, about machines under the vendors' roots.
    pub(super) fn new(path: &Path, key: ReleasePublicKey) -> Self {
        Self {
            path: path.to_owned(),
            key,
            amd: PinnedRoot::amd(),
            intel: TdxRoot::intel(),
            clock: now,
        }
    }

    fn open(&self, now: UnixTime) -> Result<collateral::Collateral, DeviceError> {
        let bytes = casemate_client::files::read_public(&self.path, SIGNED_BYTES_MAX as u64)
            .map_err(|error| unavailable(error.to_string()))?;
        SignedDocument::open(&bytes, &self.key, 0, now)
            .map(|document| document.into_payload())
            .map_err(|error| unavailable(format!("{}: {error}", self.path.display())))
    }

    fn missing(&self, error: &collateral::MissingCollateral) -> DeviceError {
        unavailable(format!("{}: {error}", self.path.display()))
    }
}

impl SignedCollateral {
    /// What the bundle holds about devices' certificates. Whether that is enough is the verifiers' policy; what would refuse under
    /// the strict one is said here, too.
    pub(super) fn gpu_answers(
        &self,
        devices: &[DeviceEvidence],
    ) -> Result<OcspAnswers, DeviceError> {
        let now = (self.clock)();
        let bundle = self.open(now)?;
        let chains: Vec<&[u8]> = devices.iter().map(|it| it.chain.as_slice()).collect();
        if let Err(error) = bundle.gpu_answers(&chains, now) {
            tracing::warn!(%error, "devices will be refused where answers about revocation are required");
        }
        bundle
            .gpu_answers_held(&chains)
            .map_err(|error| self.missing(&error))
    }
}

fn unavailable(why: String) -> DeviceError {
    DeviceError::Unavailable {
        device: DEVICE,
        why,
    }
}

fn unreadable(what: &'static str) -> DeviceError {
    DeviceError::Malformed {
        device: "the security processor",
        what,
    }
}

impl Collateral for SignedCollateral {
    /// The host's table is not looked at: everything comes from the bundle.
    fn snp(&self, report: Vec<u8>, _: &CertificateTable) -> Result<SnpEvidence, DeviceError> {
        let now = (self.clock)();
        let parsed = SnpReport::parse(&report).map_err(|_| unreadable("report"))?;
        let taken = self.open(now)?.snp(&parsed, &self.amd, now);
        let taken = taken.map_err(|error| self.missing(&error))?.what;
        Ok(SnpEvidence {
            report,
            vek: taken.vek,
            intermediate: taken.intermediate,
            crl: taken.crl,
        })
    }

    fn tdx(&self, quote: &[u8]) -> Result<TdxCollateral, DeviceError> {
        let now = (self.clock)();
        let parsed = TdxQuote::parse(quote).map_err(|_| unreadable("quote"))?;
        let taken = self.open(now)?.tdx(&parsed, &self.intel, now);
        Ok(taken.map_err(|error| self.missing(&error))?.what)
    }
}

#[cfg(test)]
#[cfg(feature = "test-chip")]
mod tests {
    use super::*;
    use casemate_attestation::collateral::Packer;
    use casemate_attestation::test_chip::{PRODUCT, TestChip};
    use casemate_attestation::{Issue, ReleaseSecretKey};
    use ring::rand::SystemRandom;

    const NOW: UnixTime = UnixTime::from_secs(1_772_323_200);
    const DAY: u64 = 86_400;

    /// What a chip's bundle gives for a report of `reporter`, read at NOW.
    fn taken(
        chip: &TestChip,
        reporter: &TestChip,
        change: impl FnOnce(&mut SignedCollateral, &mut Vec<u8>),
    ) -> Result<SnpEvidence, DeviceError> {
        let folder = tempfile::tempdir().unwrap();
        let held = chip.collateral();
        let mut packer = Packer::new();
        for file in [&held.vek, &held.intermediate, &held.crl] {
            packer.add(file).unwrap();
        }
        let key = ReleaseSecretKey::generate(&SystemRandom::new()).unwrap();
        let issue = Issue {
            number: 1,
            issued: NOW.minus(DAY),
            expires: NOW.plus(DAY),
        };
        let mut bytes = SignedDocument::sign(&packer.finish().unwrap(), issue, &key).unwrap();
        let mut source = SignedCollateral {
            path: folder.path().join("collateral.json"),
            key: key.public().unwrap(),
            amd: vec![PinnedRoot::private(PRODUCT, chip.root_der())],
            intel: TdxRoot::intel(),
            clock: || NOW,
        };
        change(&mut source, &mut bytes);
        std::fs::write(&source.path, bytes).unwrap();
        let report = reporter.sign_report(&reporter.template());
        source.snp(report, &CertificateTable::default())
    }

    #[test]
    fn a_report_gets_its_collateral_out_of_the_signed_bundle() {
        let chip = TestChip::from_seed(&[9; 32], NOW);
        let evidence = taken(&chip, &chip, |_, _| ()).unwrap();
        let held = chip.collateral();
        assert_eq!(evidence.vek, held.vek);
        assert_eq!(evidence.intermediate, held.intermediate);
        assert_eq!(evidence.crl, held.crl);
        assert_eq!(evidence.report, chip.sign_report(&chip.template()));
    }

    #[test]
    fn bundles_that_are_foreign_late_altered_or_of_another_chip_give_nothing() {
        let chip = TestChip::from_seed(&[9; 32], NOW);
        let refused = |change: fn(&mut SignedCollateral, &mut Vec<u8>)| {
            taken(&chip, &chip, change).unwrap_err().to_string()
        };
        let foreign = refused(|source, _| source.key = ReleasePublicKey::from_bytes([1; 32]));
        assert!(foreign.contains("release key"), "{foreign}");
        let late = refused(|source, _| source.clock = || NOW.plus(2 * DAY));
        assert!(late.contains("expired"), "{late}");
        let altered = refused(|_, bytes| {
            let text = String::from_utf8(std::mem::take(bytes)).unwrap();
            *bytes = text
                .replacen("\"number\":1", "\"number\":2", 1)
                .into_bytes();
        });
        assert!(altered.contains("signature"), "{altered}");
        let other = taken(&chip, &chip.chip(1, NOW), |_, _| ()).unwrap_err();
        assert!(other.to_string().contains("collateral.json"), "{other}");
    }
}
