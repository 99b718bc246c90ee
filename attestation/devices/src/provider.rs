//! Evidence as sessions want it: what a device answered, with the collateral that must travel beside it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use casemate_attestation::eventlog::LogKind;
use casemate_attestation::snp::SnpEvidence;
use casemate_attestation::tdx::{TDX_COLLATERAL_BYTES_MAX, TdxCollateral, TdxEvidence};
use casemate_attestation::{EvidenceProvider, HardwareEvidence, Platform, ProviderError, TpmBoot};

use crate::files::{Files, SystemFiles};
use crate::retry::{Retry, SystemTime};
use crate::sev_guest::{self, SevGuest};
use crate::tpm::{Attester, Transport};
use crate::tsm::{CertificateKind, CertificateTable, Tsm, TsmProvider};
use crate::{DeviceError, eventlog};

const DEVICE: &str = "the collateral";
/// Longest certificate or list of AMD's, in bytes.
const AMD_BYTES_MAX: usize = 64 * 1024;

/// What vendors sign about machines, wherever it is kept. Nothing of it is judged here.
pub trait Collateral: Send + Sync {
    /// Completes a report. `table` is what the host gave along, which may be empty.
    ///
    /// # Errors
    /// [`DeviceError`] when something is missing.
    fn snp(&self, report: Vec<u8>, table: &CertificateTable) -> Result<SnpEvidence, DeviceError>;

    /// What belongs to a quote.
    ///
    /// # Errors
    /// [`DeviceError`] when something is missing.
    fn tdx(&self, quote: &[u8]) -> Result<TdxCollateral, DeviceError>;
}

/// Collateral in a folder, read again for every report, so that whoever renews it only replaces files: `vek.der`,
/// `intermediate.der` and `crl.der` of AMD's, `tdx.json` of Intel's. Certificates that are not there come from the host's table.
#[derive(Debug, Clone)]
pub struct CollateralFolder {
    folder: PathBuf,
}

impl CollateralFolder {
    /// In this folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { folder }
    }

    fn read(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, DeviceError> {
        let path = self.folder.join(name);
        if !SystemFiles.is_there(&path) {
            return Ok(None);
        }
        SystemFiles
            .read(&path, most)
            .map(Some)
            .map_err(|error| DeviceError::of_system(DEVICE, &error))
    }

    fn missing(&self, name: &str) -> DeviceError {
        DeviceError::Unavailable {
            device: DEVICE,
            why: format!("{} is missing", self.folder.join(name).display()),
        }
    }
}

impl Collateral for CollateralFolder {
    fn snp(&self, report: Vec<u8>, table: &CertificateTable) -> Result<SnpEvidence, DeviceError> {
        let hosts = |kind| table.get(kind).map(<[u8]>::to_vec);
        let provisioned = self.read("vek.der", AMD_BYTES_MAX)?;
        let vek = provisioned.or_else(|| table.endorsement().map(|(_, vek)| vek.to_vec()));
        let intermediate = self.read("intermediate.der", AMD_BYTES_MAX)?;
        let crl = self.read("crl.der", AMD_BYTES_MAX)?;
        Ok(SnpEvidence {
            report,
            vek: vek.ok_or_else(|| self.missing("vek.der"))?,
            intermediate: intermediate
                .or_else(|| hosts(CertificateKind::Ask))
                .ok_or_else(|| self.missing("intermediate.der"))?,
            crl: crl
                .or_else(|| hosts(CertificateKind::Crl))
                .ok_or_else(|| self.missing("crl.der"))?,
        })
    }

    fn tdx(&self, _: &[u8]) -> Result<TdxCollateral, DeviceError> {
        let json = self
            .read("tdx.json", TDX_COLLATERAL_BYTES_MAX)?
            .ok_or_else(|| self.missing("tdx.json"))?;
        TdxCollateral::from_json(&json).map_err(|_| DeviceError::Malformed {
            device: DEVICE,
            what: "tdx.json is not collateral of a TDX quote",
        })
    }
}

/// Where SNP reports come from.
enum SnpSource {
    Tsm(Tsm<SystemFiles>),
    Device(Mutex<Box<dyn SevGuest + Send>>),
}

/// An AMD SEV-SNP guest.
pub struct SnpProvider {
    source: SnpSource,
    level: u8,
    collateral: Box<dyn Collateral>,
    retry: Retry,
}

impl SnpProvider {
    /// By configfs-tsm, from privilege level `level` (VMPL, 0 to 3).
    #[must_use]
    pub fn tsm(level: u8, collateral: Box<dyn Collateral>) -> Self {
        Self {
            source: SnpSource::Tsm(Tsm::new(SystemFiles)),
            level,
            collateral,
            retry: Retry::default(),
        }
    }

    /// By `/dev/sev-guest` or what stands in for it: collateral has every certificate, for none comes from the host.
    #[must_use]
    pub fn device(
        device: Box<dyn SevGuest + Send>,
        level: u8,
        collateral: Box<dyn Collateral>,
    ) -> Self {
        Self {
            source: SnpSource::Device(Mutex::new(device)),
            level,
            collateral,
            retry: Retry::default(),
        }
    }

    fn report(&self, data: &[u8; 64]) -> Result<(Vec<u8>, CertificateTable), DeviceError> {
        match &self.source {
            SnpSource::Tsm(tsm) => {
                let answer = tsm.report(data, Some(self.level))?;
                must_be_of(answer.provider, TsmProvider::SevGuest)?;
                let table = answer.certificate_table()?;
                Ok((answer.report, table))
            }
            SnpSource::Device(device) => {
                let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
                let report = sev_guest::report(&mut **device, data, self.level)?;
                Ok((report, CertificateTable::default()))
            }
        }
    }
}

impl EvidenceProvider for SnpProvider {
    fn platform(&self) -> Platform {
        Platform::Snp
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
        let time = SystemTime::new();
        let (report, table) = self.retry.run(&time, || self.report(report_data))?;
        Ok(HardwareEvidence::Snp(self.collateral.snp(report, &table)?))
    }
}

/// An Intel TDX guest, by configfs-tsm.
pub struct TdxProvider {
    tsm: Tsm<SystemFiles>,
    collateral: Box<dyn Collateral>,
    retry: Retry,
}

impl TdxProvider {
    /// With this collateral.
    #[must_use]
    pub fn new(collateral: Box<dyn Collateral>) -> Self {
        Self {
            tsm: Tsm::new(SystemFiles),
            collateral,
            retry: Retry::default(),
        }
    }
}

impl EvidenceProvider for TdxProvider {
    fn platform(&self) -> Platform {
        Platform::Tdx
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
        let ask = || self.tsm.report(report_data, None);
        let answer = self.retry.run(&SystemTime::new(), ask)?;
        must_be_of(answer.provider, TsmProvider::TdxGuest)?;
        let collateral = self.collateral.tdx(&answer.report)?;
        Ok(HardwareEvidence::Tdx(Box::new(TdxEvidence {
            quote: answer.report,
            collateral,
            event_log: log_or_none(&SystemFiles, LogKind::Ccel)?,
        })))
    }
}

/// A machine with a TPM 2.0.
pub struct TpmProvider<T: Transport> {
    attester: Mutex<Attester<T>>,
    /// Whether the machine's own boot log goes along.
    with_log: bool,
}

impl<T: Transport> TpmProvider<T> {
    /// With the TPM of this machine: the firmware's log goes along where the kernel has it.
    #[must_use]
    pub const fn of_machine(attester: Attester<T>) -> Self {
        Self {
            attester: Mutex::new(attester),
            with_log: true,
        }
    }

    /// With a TPM that did not see this machine boot, as a software TPM: this machine's log would be another's.
    #[must_use]
    pub const fn apart(attester: Attester<T>) -> Self {
        Self {
            attester: Mutex::new(attester),
            with_log: false,
        }
    }
}

impl<T: Transport + Send> EvidenceProvider for TpmProvider<T> {
    fn platform(&self) -> Platform {
        Platform::Tpm
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
        let mut attester = self.attester.lock().unwrap_or_else(PoisonError::into_inner);
        let quote = attester.evidence(report_data, &SystemTime::new())?;
        let event_log = if self.with_log {
            log_or_none(&SystemFiles, LogKind::Tcg2)?
        } else {
            Vec::new()
        };
        Ok(HardwareEvidence::Tpm(Box::new(TpmBoot {
            quote,
            event_log,
        })))
    }
}

/// The boot log, or nothing where the kernel has none or this process may not read it. Registers decide; a log only explains them.
fn log_or_none(files: &dyn Files, kind: LogKind) -> Result<Vec<u8>, DeviceError> {
    match eventlog::read(files, kind) {
        Err(DeviceError::Unavailable { .. }) => Ok(Vec::new()),
        other => other,
    }
}

fn must_be_of(found: TsmProvider, expected: TsmProvider) -> Result<(), DeviceError> {
    if found == expected {
        Ok(())
    } else {
        Err(DeviceError::Unavailable {
            device: "configfs-tsm",
            why: format!(
                "its driver is {}, and {} is wanted",
                found.as_str(),
                expected.as_str()
            ),
        })
    }
}
