//! The organisation's test chip: a seed in a file. Whoever reads it can forge evidence; nothing it signs is confidential.

use casemate_attestation::test_chip::{PRODUCT, TCB, TestChip, TestGpu};
use casemate_attestation::{
    FleetChip, FleetDevice, Platform, ReferenceValues, SnpMeasurement, UnixTime,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{OrgError, Organisation, documents, files};

/// Length of a seed in bytes.
const SEED_LENGTH: usize = 32;

/// What stands on the entries of a test chip.
const LABEL: &str = "NOT CONFIDENTIAL: test chip";

impl Organisation {
    /// Whether the organisation has a test chip.
    pub fn has_test_chip(&self) -> bool {
        self.folder.join(files::TEST_CHIP_SEED).exists()
    }

    /// The test chip. Deriving its keys takes about a second.
    ///
    /// # Errors
    /// [`OrgError::NoTestChip`], or when the seed is damaged or readable by others.
    pub fn test_chip(&self, now: UnixTime) -> Result<TestChip, OrgError> {
        Ok(TestChip::from_seed(&*self.seed()?, now))
    }

    /// The root certificate that evidence of the test chip chains to.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn test_chip_root(&self) -> Result<CertificateDer<'static>, OrgError> {
        if !self.has_test_chip() {
            return Err(OrgError::NoTestChip(self.folder.clone()));
        }
        self.certificate(files::TEST_CHIP_ROOT)
    }

    /// The root certificate of the test chip's GPUs.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn test_gpu_root(&self) -> Result<CertificateDer<'static>, OrgError> {
        self.certificate(files::TEST_GPU_ROOT)
    }

    fn certificate(&self, file: &'static str) -> Result<CertificateDer<'static>, OrgError> {
        let der = files::read(&self.folder, file)?;
        match X509Certificate::from_der(&der) {
            Ok(([], _)) => Ok(der.into()),
            _ => Err(files::damaged(&self.folder, file, "not a certificate")),
        }
    }

    /// GPUs of the test chip as the fleet list has them, by their numbers. Reference values that accept them are signed where there
    /// are none for GPUs yet.
    ///
    /// # Errors
    /// [`OrgError::NoTestChip`], or when signing fails.
    pub fn test_gpus(
        &self,
        numbers: &[u32],
        days: u32,
        now: UnixTime,
    ) -> Result<Vec<FleetDevice>, OrgError> {
        let seed = self.seed()?;
        if !numbers.is_empty() {
            let mut values = documents::open_for_editing::<ReferenceValues>(self)?.into_payload();
            if values.nvidia.is_none() {
                values.nvidia = Some(TestGpu::reference());
                documents::sign_next(self, &values, days, now)?;
            }
        }
        let device = |number: &u32| FleetDevice {
            kind: TestGpu::KIND,
            device_key: TestGpu::of_seed(&seed, *number).device_key(),
            label: format!("test GPU {number} ({LABEL})"),
        };
        Ok(numbers.iter().map(device).collect())
    }

    /// Enrols the test chip: fleet list, its measurement, and a firmware floor for the product that it claims to be.
    ///
    /// # Errors
    /// When it is enrolled already, or signing fails.
    pub fn enrol_test_chip(
        &self,
        label: &str,
        names: Vec<String>,
        days: u32,
        now: UnixTime,
    ) -> Result<u64, OrgError> {
        self.enrol_test_chip_with(label, names, Vec::new(), days, now)
    }

    /// The same with GPUs, as [`Organisation::test_gpus`] gives them.
    ///
    /// # Errors
    /// As [`Organisation::enrol_test_chip`].
    pub fn enrol_test_chip_with(
        &self,
        label: &str,
        names: Vec<String>,
        devices: Vec<FleetDevice>,
        days: u32,
        now: UnixTime,
    ) -> Result<u64, OrgError> {
        let chip = self.test_chip(now)?;
        let mut values = documents::open_for_editing::<ReferenceValues>(self)?.into_payload();
        let measurement = SnpMeasurement {
            measurement: TestChip::default_measurement(),
            label: LABEL.into(),
            until: None,
        };
        let section = values.test_chip.get_or_insert_default();
        if !section.measurements.contains(&measurement) {
            section.measurements.push(measurement);
            section.tcb_floor.entry(PRODUCT).or_insert(TCB);
            documents::sign_next(self, &values, days, now)?;
        }
        let label = format!("{label} ({LABEL})");
        let entry = FleetChip {
            platform: Platform::TestChip,
            chip_id: chip.chip_id(),
            names,
            label,
            tpm: None,
            devices,
        };
        documents::enrol(self, entry, days, now)
    }

    /// Checks the test chip's files, if there are any. Whether the root is the seed's shows when evidence is verified.
    pub(super) fn check_test_chip(&self) -> Result<(), OrgError> {
        let there = |name: &str| self.folder.join(name).exists();
        let files = [
            files::TEST_CHIP_SEED,
            files::TEST_CHIP_ROOT,
            files::TEST_GPU_ROOT,
        ];
        if files.into_iter().any(there) {
            self.seed()?;
            self.test_chip_root()?;
            self.test_gpu_root()?;
        }
        Ok(())
    }

    fn seed(&self) -> Result<Zeroizing<[u8; SEED_LENGTH]>, OrgError> {
        let bytes = files::read_secret(&self.folder, files::TEST_CHIP_SEED)?;
        let seed = <[u8; SEED_LENGTH]>::try_from(bytes.as_slice());
        let wrong = |_| files::damaged(&self.folder, files::TEST_CHIP_SEED, "not 32 bytes");
        seed.map(Zeroizing::new).map_err(wrong)
    }
}
