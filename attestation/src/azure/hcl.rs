//! The paravisor's report as a guest reads it from its TPM: header, hardware report, runtime data (rules Z1 to Z3).
//!
//! Little-endian. Header of 32 bytes, hardware report of 1184 bytes, five numbers of four bytes, runtime data, zeros.

use std::ops::Range;

use subtle::ConstantTimeEq as _;

use super::appraise::VerifiedHardware;
use super::rejection::AzureRejection;
use super::runtime::RuntimeData;
use crate::digest::Sha256Digest;
use crate::reader::Reader;
use crate::snp::REPORT_BYTES;

/// Longest report that is read, in bytes. Genuine ones have 2600.
pub const HCL_BYTES_MAX: usize = 16 * 1024;

const MAGIC: &[u8; 4] = b"HCLA";
const HEADER_BYTES: usize = 32;
const CLAIMS_HEADER_BYTES: usize = 20;
/// Purpose of the request: certification of an attestation key.
const REQUEST_AK: u32 = 2;
const HASH_SHA256: u32 = 1;

/// A TDREPORT has 1024 bytes; zeros fill the place of the longer SNP report.
const TDREPORT_BYTES: usize = 1024;
const TDREPORT_TYPE: u8 = 0x81;
const TDREPORT_DATA: Range<usize> = 128..192;

/// What kind of hardware report the paravisor put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HclReportType {
    /// A signed SEV-SNP report.
    Snp,
    /// A TDREPORT: a MAC that only that machine can check. The signed quote comes beside it.
    TdReport,
}

impl std::fmt::Display for HclReportType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Snp => "an SNP report",
            Self::TdReport => "a TDREPORT",
        })
    }
}

/// A well-formed paravisor report. Nothing of it is proven.
#[derive(Debug, Clone, Copy)]
pub struct HclReport<'a> {
    version: u32,
    report_type: HclReportType,
    hardware: &'a [u8; REPORT_BYTES],
    runtime: &'a [u8],
}

impl<'a> HclReport<'a> {
    /// Reads it, strictly (rule Z1).
    ///
    /// # Errors
    /// The variants of [`AzureRejection`] that belong to Z1.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, AzureRejection> {
        let malformed = AzureRejection::Malformed;
        if bytes.len() > HCL_BYTES_MAX {
            return Err(AzureRejection::BlobLength(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        if reader.take(MAGIC.len()) != Some(MAGIC) {
            return Err(AzureRejection::Magic);
        }
        let mut number = || reader.le32().ok_or(malformed("ends inside its header"));
        let (version, size, request) = (number()?, number()?, number()?);
        let rest = [number()?, number()?, number()?, number()?];
        if !(1..=2).contains(&version) {
            return Err(malformed("has a version other than 1 and 2"));
        }
        if request != REQUEST_AK || rest != [0; 4] {
            return Err(malformed("has a header of another purpose or status"));
        }
        let hardware = reader.take(REPORT_BYTES);
        let hardware: Option<&[u8; REPORT_BYTES]> = hardware.and_then(|it| it.try_into().ok());
        let hardware = hardware.ok_or(malformed("ends inside its hardware report"))?;
        let mut number = || {
            reader
                .le32()
                .ok_or(malformed("ends before its runtime data"))
        };
        let (data_size, data_version, report_type) = (number()?, number()?, number()?);
        let (hash, length) = (number()?, number()?);
        if data_version != 1 {
            return Err(malformed("has runtime data of another version than 1"));
        }
        let report_type = match report_type {
            2 => HclReportType::Snp,
            4 => HclReportType::TdReport,
            _ => return Err(malformed("holds neither an SNP report nor a TDREPORT")),
        };
        if hash != HASH_SHA256 {
            return Err(malformed(
                "binds its runtime data by another hash than SHA-256",
            ));
        }
        let left = reader.left().len();
        let runtime = usize::try_from(length)
            .ok()
            .and_then(|length| reader.take(length));
        let runtime = runtime.ok_or(AzureRejection::RuntimeDataLength { length, left })?;
        let used = CLAIMS_HEADER_BYTES + runtime.len();
        let whole = HEADER_BYTES + REPORT_BYTES + used;
        if usize::try_from(data_size) != Ok(used) || usize::try_from(size) != Ok(whole) {
            return Err(malformed("has lengths that contradict each other"));
        }
        if reader.left().iter().any(|byte| *byte != 0) {
            return Err(AzureRejection::Padding);
        }
        Ok(Self {
            version,
            report_type,
            hardware,
            runtime,
        })
    }

    /// Version of the header, 1 or 2.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// What kind of hardware report is inside.
    #[must_use]
    pub const fn report_type(&self) -> HclReportType {
        self.report_type
    }

    /// The SNP report inside, to be verified as every other; `None` for a TDREPORT, which cannot be.
    #[must_use]
    pub const fn snp_report(&self) -> Option<&'a [u8; REPORT_BYTES]> {
        match self.report_type {
            HclReportType::Snp => Some(self.hardware),
            HclReportType::TdReport => None,
        }
    }

    /// The runtime data, as they are hashed. Not proven before [`HclReport::bind`].
    #[must_use]
    pub const fn runtime_bytes(&self) -> &'a [u8] {
        self.runtime
    }

    /// What REPORT_DATA of the hardware evidence must be: the hash of the runtime data, and zeros.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        let mut data = [0; 64];
        let digest = Sha256Digest::of(self.runtime);
        for (to, from) in data.iter_mut().zip(digest.as_bytes()) {
            *to = *from;
        }
        data
    }

    /// Ties the runtime data to verified hardware evidence (rules Z2, Z3), and reads them.
    ///
    /// # Errors
    /// The variants of [`AzureRejection`] that belong to Z2 and Z3.
    pub fn bind(&self, hardware: &VerifiedHardware<'_>) -> Result<BoundRuntime, AzureRejection> {
        let report_data = self.same_hardware(hardware)?;
        if report_data.iter().skip(32).any(|byte| *byte != 0) {
            return Err(AzureRejection::ReportDataHalf);
        }
        if !bool::from(report_data.ct_eq(&self.report_data())) {
            return Err(AzureRejection::RuntimeDataUnbound);
        }
        let data = RuntimeData::parse(self.runtime)?;
        Ok(BoundRuntime { data })
    }

    /// Rule Z2. Returns the verified REPORT_DATA.
    fn same_hardware(&self, hardware: &VerifiedHardware<'_>) -> Result<[u8; 64], AzureRejection> {
        let expected = hardware.report_type();
        if self.report_type != expected {
            let found = self.report_type;
            return Err(AzureRejection::HardwareKind { found, expected });
        }
        match hardware {
            VerifiedHardware::Snp(verdict) => {
                let report = verdict.report();
                if report.as_bytes() != self.hardware {
                    return Err(AzureRejection::HardwareReportDiffers);
                }
                match report.vmpl() {
                    0 => Ok(report.report_data()),
                    level => Err(AzureRejection::NotParavisorLevel(level)),
                }
            }
            VerifiedHardware::Tdx(verdict) => {
                let report_data = verdict.quote().report_data();
                td_report(self.hardware, &report_data)?;
                Ok(report_data)
            }
        }
    }
}

/// The TDREPORT is one, and has the report data of the quote that was verified.
fn td_report(place: &[u8; REPORT_BYTES], quoted: &[u8; 64]) -> Result<(), AzureRejection> {
    let malformed = AzureRejection::TdReportMalformed;
    let (report, filling) = place
        .split_at_checked(TDREPORT_BYTES)
        .ok_or(malformed("too short"))?;
    if !matches!(report, [TDREPORT_TYPE, 0, 0 | 1, 0, ..]) {
        return Err(malformed("another type than 0x81"));
    }
    if filling.iter().any(|byte| *byte != 0) {
        return Err(malformed("bytes after its end"));
    }
    let data = report.get(TDREPORT_DATA).unwrap_or_default();
    if bool::from(data.ct_eq(quoted)) {
        Ok(())
    } else {
        Err(AzureRejection::TdReportData)
    }
}

/// Runtime data that verified hardware evidence binds. [`HclReport::bind`] is its only constructor.
///
/// ```compile_fail
/// let runtime = casemate_attestation::azure::BoundRuntime::default();
/// ```
///
/// ```
/// use casemate_attestation::azure::{AzureRejection, BoundRuntime, HclReport, VerifiedHardware};
/// fn bound(hcl: &HclReport<'_>, hardware: &VerifiedHardware<'_>) -> Result<BoundRuntime, AzureRejection> {
///     hcl.bind(hardware)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct BoundRuntime {
    data: RuntimeData,
}

impl BoundRuntime {
    /// The data.
    #[must_use]
    pub const fn data(&self) -> &RuntimeData {
        &self.data
    }
}
