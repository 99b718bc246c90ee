//! TCB info and QE identity: Intel's signed word on which firmware is good (PCS API v4; rules T6 to T11).
//!
//! What is parsed here is the exact text that was signed. Fields that Intel adds later are let pass: a new field must
//! not take every machine down, and none that is known may be missing. Keys that occur twice are refused.

use serde::{Deserialize, Serialize};

use super::parts::{TdxDocument, TdxTcb};
use super::pck::PckPlatform;
use super::quote::{QeReport, TdxQuote};
use super::rejection::TdxRejection;
use crate::digest::UnixTime;
use crate::strict_json::{JsonError, Walked};

/// Longest document that is read, in bytes. Intel's have less than 7,000.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

const SGX_DEBUG: u8 = 0x02;

/// What Intel says about a level of firmware. The names are Intel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum TcbStatus {
    /// Nothing to do.
    UpToDate,
    /// Software in the TD must defend itself against a known weakness.
    SWHardeningNeeded,
    /// The platform must be configured otherwise.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSWHardeningNeeded,
    /// Firmware has known weaknesses.
    OutOfDate,
    /// The same, and the platform must be configured otherwise.
    OutOfDateConfigurationNeeded,
    /// The TD was launched on firmware that is out of date; what runs now is not. Of quotes of TDX 1.5 only.
    TDRelaunchAdvised,
    /// The same, and the platform must be configured otherwise.
    TDRelaunchAdvisedConfigurationNeeded,
    /// Keys of such platforms are known to others.
    Revoked,
}

impl std::fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

impl TcbStatus {
    /// The platform's status with that of its module or quoting enclave (Intel QVL, `convergeTcbStatuses`).
    pub(crate) const fn with_part(self, part: Self) -> Self {
        match (part, self) {
            (Self::Revoked, _) => Self::Revoked,
            (Self::OutOfDate, Self::UpToDate | Self::SWHardeningNeeded) => Self::OutOfDate,
            (
                Self::OutOfDate,
                Self::ConfigurationNeeded | Self::ConfigurationAndSWHardeningNeeded,
            ) => Self::OutOfDateConfigurationNeeded,
            _ => self,
        }
    }

    /// The status at launch with that of what runs now (Intel QVL, `checkForRelaunch`).
    pub(crate) const fn with_current(self, current: Self) -> Self {
        match (self, current) {
            (Self::OutOfDate, Self::UpToDate | Self::SWHardeningNeeded) => Self::TDRelaunchAdvised,
            (
                Self::OutOfDate,
                Self::ConfigurationNeeded | Self::ConfigurationAndSWHardeningNeeded,
            )
            | (
                Self::OutOfDateConfigurationNeeded,
                Self::UpToDate
                | Self::SWHardeningNeeded
                | Self::ConfigurationNeeded
                | Self::ConfigurationAndSWHardeningNeeded,
            ) => Self::TDRelaunchAdvisedConfigurationNeeded,
            _ => self,
        }
    }
}

/// What every document says about itself.
#[derive(Deserialize)]
struct Head {
    id: String,
    version: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TcbInfo {
    issue_date: String,
    next_update: String,
    fmspc: String,
    pce_id: String,
    tcb_type: u32,
    tcb_evaluation_data_number: u32,
    tdx_module: Option<Module>,
    #[serde(default)]
    tdx_module_identities: Vec<ModuleIdentity>,
    tcb_levels: Vec<Level>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Module {
    mrsigner: String,
    attributes: String,
    attributes_mask: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModuleIdentity {
    id: String,
    #[serde(flatten)]
    module: Module,
    tcb_levels: Vec<PartLevel>,
}

/// A level of a part with one version: the TDX module, the quoting enclave.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartLevel {
    tcb: PartTcb,
    tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    advisory_ids: Vec<String>,
}

#[derive(Deserialize)]
struct PartTcb {
    isvsvn: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Level {
    tcb: LevelTcb,
    tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    advisory_ids: Vec<String>,
}

#[derive(Deserialize)]
struct LevelTcb {
    sgxtcbcomponents: Vec<Component>,
    pcesvn: u16,
    tdxtcbcomponents: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    svn: u8,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QeIdentity {
    issue_date: String,
    next_update: String,
    tcb_evaluation_data_number: u32,
    miscselect: String,
    miscselect_mask: String,
    attributes: String,
    attributes_mask: String,
    mrsigner: String,
    isvprodid: u16,
    tcb_levels: Vec<PartLevel>,
}

/// A status with the advisories that go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) status: TcbStatus,
    pub(crate) advisories: Vec<String>,
}

impl Judged {
    fn of(status: TcbStatus, advisories: &[String]) -> Self {
        Self {
            status,
            advisories: advisories.to_vec(),
        }
    }

    /// Joins a part of the platform into it, with the part's advisories.
    pub(crate) fn join(&mut self, part: &Self) {
        self.status = self.status.with_part(part.status);
        for id in &part.advisories {
            if !self.advisories.contains(id) {
                self.advisories.push(id.clone());
            }
        }
    }
}

/// When a signed document counts, and how much its author knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) from: UnixTime,
    pub(crate) until: UnixTime,
    pub(crate) number: u32,
}

impl TcbInfo {
    /// Reads the text and judges nothing but its form.
    pub(crate) fn read(text: &str) -> Result<Self, TdxRejection> {
        let document = TdxDocument::TcbInfo;
        let info: Self = read(document, text, "TDX", 3)?;
        if info.tcb_type != 0 {
            return Err(malformed(document, "its TCB type is not 0"));
        }
        Ok(info)
    }

    /// Reads and dates the text (rule T6). Its signature was checked before.
    pub(crate) fn open(text: &str, now: UnixTime) -> Result<(Self, Issue), TdxRejection> {
        let document = TdxDocument::TcbInfo;
        let info = Self::read(text)?;
        let number = info.tcb_evaluation_data_number;
        let issue = dates(document, &info.issue_date, &info.next_update, number)?;
        issue.must_be_in_force(document, now)?;
        Ok((info, issue))
    }

    /// For which platforms it is, as a PCK certificate says it.
    pub(crate) fn fmspc(&self) -> Result<[u8; 6], TdxRejection> {
        bytes(TdxDocument::TcbInfo, "fmspc", &self.fmspc)
    }

    /// Rule T7. Hexadecimal comes in either case.
    pub(crate) fn must_be_for(&self, platform: &PckPlatform) -> Result<(), TdxRejection> {
        let (tcb_info, certificate) = (self.fmspc.clone(), hex::encode(platform.fmspc()));
        if !tcb_info.eq_ignore_ascii_case(&certificate) {
            return Err(TdxRejection::Fmspc {
                tcb_info,
                certificate,
            });
        }
        let (tcb_info, certificate) = (self.pce_id.clone(), hex::encode(platform.pce_id()));
        if !tcb_info.eq_ignore_ascii_case(&certificate) {
            return Err(TdxRejection::PceId {
                tcb_info,
                certificate,
            });
        }
        Ok(())
    }

    /// Rule T9: who signed the module, and its attributes.
    pub(crate) fn must_know_module(&self, quote: &TdxQuote) -> Result<(), TdxRejection> {
        let module = match self.module_identity(&quote.tee_tcb_svn())? {
            Some(identity) => &identity.module,
            None => self
                .tdx_module
                .as_ref()
                .ok_or_else(|| malformed(TdxDocument::TcbInfo, "names no TDX module"))?,
        };
        let signer: [u8; 48] = bytes(TdxDocument::TcbInfo, "mrsigner", &module.mrsigner)?;
        if signer != *quote.mr_signer_seam().as_bytes() {
            return Err(TdxRejection::ModuleSigner);
        }
        let document = TdxDocument::TcbInfo;
        let expected: [u8; 8] = bytes(document, "attributes", &module.attributes)?;
        let mask: [u8; 8] = bytes(document, "attributesMask", &module.attributes_mask)?;
        let found = quote.seam_attributes().to_le_bytes();
        let masked = equal_under(&found, &expected, &mask);
        // Bits that nobody judges must not be set.
        let unjudged = found.iter().zip(&mask).any(|(bit, mask)| bit & !mask != 0);
        if !masked || unjudged {
            return Err(TdxRejection::ModuleAttributes);
        }
        Ok(())
    }

    /// Rule T9: the level of the module, by its own version. Modules of the first generation have no level.
    pub(crate) fn module_level(
        &self,
        tcb: TdxTcb,
        svn: &[u8; 16],
    ) -> Result<Option<Judged>, TdxRejection> {
        let Some(identity) = self.module_identity(svn)? else {
            return Ok(None);
        };
        let [found, ..] = *svn;
        part_level(&identity.tcb_levels, u16::from(found))
            .map(Some)
            .ok_or(TdxRejection::ModuleBelowEveryLevel { tcb, found })
    }

    /// Rule T10: the first level that the platform meets.
    pub(crate) fn level(
        &self,
        platform: &PckPlatform,
        tcb: TdxTcb,
        svn: &[u8; 16],
    ) -> Result<Judged, TdxRejection> {
        let [_, generation, ..] = *svn;
        // From the second generation on the module's own version is judged by its identity.
        let skipped = if generation > 0 { 2 } else { 0 };
        for level in &self.tcb_levels {
            let components = [&level.tcb.sgxtcbcomponents, &level.tcb.tdxtcbcomponents];
            if components.iter().any(|components| components.len() != 16) {
                return Err(malformed(
                    TdxDocument::TcbInfo,
                    "a level has not 16 components",
                ));
            }
            let [sgx, tdx] = components;
            let meets = |have: &[u8], wanted: &[Component], skipped: usize| {
                have.iter()
                    .zip(wanted)
                    .skip(skipped)
                    .all(|(have, wanted)| *have >= wanted.svn)
            };
            if meets(platform.sgx_components(), sgx, 0)
                && platform.pce_svn() >= level.tcb.pcesvn
                && meets(svn, tdx, skipped)
            {
                return Ok(Judged::of(level.tcb_status, &level.advisory_ids));
            }
        }
        Err(TdxRejection::NoTcbLevel(tcb))
    }

    /// The module that `TEE_TCB_SVN[1]` picks; none in the first generation, 0.
    fn module_identity(&self, svn: &[u8; 16]) -> Result<Option<&ModuleIdentity>, TdxRejection> {
        let [_, generation, ..] = *svn;
        if generation == 0 {
            return Ok(None);
        }
        let id = format!("TDX_{generation:02X}");
        self.tdx_module_identities
            .iter()
            .find(|identity| identity.id.eq_ignore_ascii_case(&id))
            .map(Some)
            .ok_or(TdxRejection::ModuleUnknown(generation))
    }
}

impl QeIdentity {
    /// Reads and dates the text (rule T6). Its signature was checked before.
    pub(crate) fn open(text: &str, now: UnixTime) -> Result<(Self, Issue), TdxRejection> {
        let document = TdxDocument::QeIdentity;
        let identity: Self = read(document, text, "TD_QE", 2)?;
        let number = identity.tcb_evaluation_data_number;
        let issue = dates(
            document,
            &identity.issue_date,
            &identity.next_update,
            number,
        )?;
        issue.must_be_in_force(document, now)?;
        Ok((identity, issue))
    }

    /// Rule T8.
    pub(crate) fn level(&self, report: QeReport<'_>) -> Result<Judged, TdxRejection> {
        let document = TdxDocument::QeIdentity;
        if report.mr_signer() != bytes(document, "mrsigner", &self.mrsigner)? {
            return Err(TdxRejection::QeSigner);
        }
        let (found, expected) = (report.product(), self.isvprodid);
        if found != expected {
            return Err(TdxRejection::QeProduct { found, expected });
        }
        let expected: [u8; 4] = bytes(document, "miscselect", &self.miscselect)?;
        let mask: [u8; 4] = bytes(document, "miscselectMask", &self.miscselect_mask)?;
        if !equal_under(&report.misc_select(), &expected, &mask) {
            return Err(TdxRejection::QeMiscSelect);
        }
        let attributes = report.attributes();
        let [flags, ..] = attributes;
        // An enclave under debug speaks for whoever debugs it, whatever its identity says.
        if flags & SGX_DEBUG != 0 {
            return Err(TdxRejection::QeAttributes);
        }
        let expected: [u8; 16] = bytes(document, "attributes", &self.attributes)?;
        let mask: [u8; 16] = bytes(document, "attributesMask", &self.attributes_mask)?;
        if !equal_under(&attributes, &expected, &mask) {
            return Err(TdxRejection::QeAttributes);
        }
        part_level(&self.tcb_levels, report.version())
            .ok_or(TdxRejection::QeBelowEveryLevel(report.version()))
    }
}

impl Issue {
    /// First and last second included.
    fn must_be_in_force(self, document: TdxDocument, now: UnixTime) -> Result<(), TdxRejection> {
        let Self { from, until, .. } = self;
        if now < from {
            return Err(TdxRejection::DocumentNotYetValid {
                document,
                from,
                now,
            });
        }
        if now > until {
            return Err(TdxRejection::DocumentExpired {
                document,
                until,
                now,
            });
        }
        Ok(())
    }
}

/// Reads a document of this kind. Those for SGX have other fields: its head is read first.
fn read<T: serde::de::DeserializeOwned>(
    document: TdxDocument,
    text: &str,
    id: &str,
    version: u32,
) -> Result<T, TdxRejection> {
    let wrong = |error: JsonError| malformed(document, &error.to_string());
    let walked = Walked::over(text.as_bytes(), DOCUMENT_BYTES_MAX).map_err(wrong)?;
    let head: Head = walked.read().map_err(wrong)?;
    if head.id != id {
        return Err(TdxRejection::DocumentId {
            document,
            found: head.id,
        });
    }
    if head.version != version {
        let found = head.version;
        return Err(TdxRejection::DocumentVersion { document, found });
    }
    walked.read().map_err(wrong)
}

fn malformed(document: TdxDocument, what: &str) -> TdxRejection {
    TdxRejection::DocumentMalformed {
        document,
        what: what.to_owned(),
    }
}

/// Levels are sorted, the best first.
fn part_level(levels: &[PartLevel], version: u16) -> Option<Judged> {
    levels
        .iter()
        .find(|level| version >= level.tcb.isvsvn)
        .map(|level| Judged::of(level.tcb_status, &level.advisory_ids))
}

fn equal_under(found: &[u8], expected: &[u8], mask: &[u8]) -> bool {
    let pairs = found.iter().zip(expected).zip(mask);
    pairs.into_iter().all(|((a, b), mask)| a & mask == b & mask)
}

fn bytes<const N: usize>(
    document: TdxDocument,
    name: &str,
    text: &str,
) -> Result<[u8; N], TdxRejection> {
    let mut out = [0_u8; N];
    hex::decode_to_slice(text, &mut out)
        .map_err(|_| malformed(document, &format!("{name} is not {N} bytes")))?;
    Ok(out)
}

fn dates(
    document: TdxDocument,
    from: &str,
    until: &str,
    number: u32,
) -> Result<Issue, TdxRejection> {
    let date = |text: &str| {
        seconds(text)
            .map(UnixTime::from_secs)
            .ok_or_else(|| malformed(document, "a date is not of the form 2026-03-01T00:00:00Z"))
    };
    Ok(Issue {
        from: date(from)?,
        until: date(until)?,
        number,
    })
}

/// `2026-03-07T02:05:07Z` in seconds since 1970 (civil calendar; no leap seconds).
fn seconds(text: &str) -> Option<u64> {
    let shape = text.len() == 20
        && text
            .bytes()
            .zip(*b"dddd-dd-ddTdd:dd:ddZ")
            .all(|(found, shape)| match shape {
                b'd' => found.is_ascii_digit(),
                other => found == other,
            });
    if !shape {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    if year < 1970 || !(1..=days_of_month).contains(&day) || hour > 23 || minute > 59 || second > 59
    {
        return None;
    }
    // A year that begins in March ends with the leap day.
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_nonsense_is_not() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2025-07-04T10:16:31Z"), Some(1_751_624_191));
        assert_eq!(seconds("2024-02-29T00:00:00Z"), Some(1_709_164_800));
        assert_eq!(seconds("2000-02-29T00:00:00Z"), Some(951_782_400));
        for text in [
            "",
            "2025-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2025-04-31T00:00:00Z",
            "2025-13-01T00:00:00Z",
            "2025-00-01T00:00:00Z",
            "2025-01-00T00:00:00Z",
            "2025-01-01T24:00:00Z",
            "2025-01-01T00:60:00Z",
            "2025-01-01T00:00:60Z",
            "2025-01-01T00:00:00+",
            "2025-01-01 00:00:00Z",
            "+025-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2025-07-04T10:16:31.5Z",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn statuses_converge_as_intels_library_does_it() {
        use TcbStatus::*;
        for (platform, part, both) in [
            (UpToDate, UpToDate, UpToDate),
            (UpToDate, OutOfDate, OutOfDate),
            (SWHardeningNeeded, OutOfDate, OutOfDate),
            (ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (
                ConfigurationAndSWHardeningNeeded,
                OutOfDate,
                OutOfDateConfigurationNeeded,
            ),
            (OutOfDate, UpToDate, OutOfDate),
            (UpToDate, Revoked, Revoked),
            (Revoked, UpToDate, Revoked),
        ] {
            assert_eq!(platform.with_part(part), both);
        }
        for (launch, current, both) in [
            (UpToDate, OutOfDate, UpToDate),
            (OutOfDate, OutOfDate, OutOfDate),
            (OutOfDate, UpToDate, TDRelaunchAdvised),
            (OutOfDate, SWHardeningNeeded, TDRelaunchAdvised),
            (
                OutOfDate,
                ConfigurationNeeded,
                TDRelaunchAdvisedConfigurationNeeded,
            ),
            (
                OutOfDateConfigurationNeeded,
                UpToDate,
                TDRelaunchAdvisedConfigurationNeeded,
            ),
            (
                OutOfDateConfigurationNeeded,
                OutOfDate,
                OutOfDateConfigurationNeeded,
            ),
        ] {
            assert_eq!(launch.with_current(current), both);
        }
    }
}
