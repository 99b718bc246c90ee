//! TCB info and QE identity: Intel's signed word on which firmware is good (PCS API v4; rules T6 to T11).
//!
//! What is parsed here is the exact text that was signed. Fields that Intel adds later are let pass: a new field must
//! not take every machine down, and none that is known may be missing. Keys that occur twice are refused.

use std::borrow::Cow;

use serde::Deserialize;

use super::parts::{TdxDocument, TdxTcb};
use super::pck::PckPlatform;
use super::quote::{QeReport, TdxQuote};
use super::rejection::TdxRejection;
use super::status::TcbStatus;
use crate::der::generalized_time;
use crate::digest::UnixTime;
use crate::strict_json::{JsonError, Text, Walked};

/// Longest document that is read, in bytes. Intel's have less than 7,000.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

const SGX_DEBUG: u8 = 0x02;

/// What every document says about itself.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Head<'a> {
    id: Text<'a>,
    version: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub(crate) struct TcbInfo<'a> {
    id: Text<'a>,
    version: u32,
    issue_date: Text<'a>,
    next_update: Text<'a>,
    fmspc: Text<'a>,
    pce_id: Text<'a>,
    tcb_type: u32,
    tcb_evaluation_data_number: u32,
    tdx_module: Option<Module<'a>>,
    #[serde(default)]
    tdx_module_identities: Vec<ModuleIdentity<'a>>,
    tcb_levels: Vec<Level<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Module<'a> {
    mrsigner: Text<'a>,
    attributes: Text<'a>,
    attributes_mask: Text<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct ModuleIdentity<'a> {
    id: Text<'a>,
    mrsigner: Text<'a>,
    attributes: Text<'a>,
    attributes_mask: Text<'a>,
    tcb_levels: Vec<PartLevel<'a>>,
}

/// A level of a part with one version: the TDX module, the quoting enclave.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct PartLevel<'a> {
    tcb: PartTcb,
    tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    advisory_ids: Vec<Text<'a>>,
}

#[derive(Deserialize)]
struct PartTcb {
    isvsvn: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Level<'a> {
    tcb: LevelTcb,
    tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    advisory_ids: Vec<Text<'a>>,
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
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub(crate) struct QeIdentity<'a> {
    id: Text<'a>,
    version: u32,
    issue_date: Text<'a>,
    next_update: Text<'a>,
    tcb_evaluation_data_number: u32,
    miscselect: Text<'a>,
    miscselect_mask: Text<'a>,
    attributes: Text<'a>,
    attributes_mask: Text<'a>,
    mrsigner: Text<'a>,
    isvprodid: u16,
    tcb_levels: Vec<PartLevel<'a>>,
}

/// A status with the advisories that go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) status: TcbStatus,
    pub(crate) advisories: Vec<String>,
}

impl Judged {
    fn of(status: TcbStatus, advisories: &[Text<'_>]) -> Self {
        let owned = advisories.iter().map(|Text(id)| id.clone().into_owned());
        Self {
            status,
            advisories: owned.collect(),
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

impl<'a> TcbInfo<'a> {
    /// Reads the text and judges nothing but its form.
    pub(crate) fn read(text: &'a str) -> Result<Self, TdxRejection> {
        let document = TdxDocument::TcbInfo;
        let head = |info: &Self| (info.id.0.clone(), info.version);
        let info = read(document, text, ("TDX", 3), head)?;
        if info.tcb_type != 0 {
            return Err(malformed(document, "its TCB type is not 0"));
        }
        Ok(info)
    }

    /// Reads and dates the text (rule T6). Its signature was checked before.
    pub(crate) fn open(text: &'a str, now: UnixTime) -> Result<(Self, Issue), TdxRejection> {
        let document = TdxDocument::TcbInfo;
        let info = Self::read(text)?;
        let number = info.tcb_evaluation_data_number;
        let issue = dates(document, &info.issue_date.0, &info.next_update.0, number)?;
        issue.must_be_in_force(document, now)?;
        Ok((info, issue))
    }

    /// For which platforms it is, as a PCK certificate says it.
    pub(crate) fn fmspc(&self) -> Result<[u8; 6], TdxRejection> {
        bytes(TdxDocument::TcbInfo, "fmspc", &self.fmspc.0)
    }

    /// Rule T7. Hexadecimal comes in either case.
    pub(crate) fn must_be_for(&self, platform: &PckPlatform) -> Result<(), TdxRejection> {
        let (tcb_info, certificate) = (
            self.fmspc.0.clone().into_owned(),
            hex::encode(platform.fmspc()),
        );
        if !tcb_info.eq_ignore_ascii_case(&certificate) {
            return Err(TdxRejection::Fmspc {
                tcb_info,
                certificate,
            });
        }
        let (tcb_info, certificate) = (
            self.pce_id.0.clone().into_owned(),
            hex::encode(platform.pce_id()),
        );
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
        let (signer, attributes, mask) = match (
            self.module_identity(&quote.tee_tcb_svn())?,
            &self.tdx_module,
        ) {
            (Some(found), _) => (&found.mrsigner, &found.attributes, &found.attributes_mask),
            (None, Some(found)) => (&found.mrsigner, &found.attributes, &found.attributes_mask),
            (None, None) => return Err(malformed(TdxDocument::TcbInfo, "names no TDX module")),
        };
        let signer: [u8; 48] = bytes(TdxDocument::TcbInfo, "mrsigner", &signer.0)?;
        if signer != *quote.mr_signer_seam().as_bytes() {
            return Err(TdxRejection::ModuleSigner);
        }
        let document = TdxDocument::TcbInfo;
        let expected: [u8; 8] = bytes(document, "attributes", &attributes.0)?;
        let mask: [u8; 8] = bytes(document, "attributesMask", &mask.0)?;
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
    fn module_identity(&self, svn: &[u8; 16]) -> Result<Option<&ModuleIdentity<'a>>, TdxRejection> {
        let [_, generation, ..] = *svn;
        if generation == 0 {
            return Ok(None);
        }
        let id = format!("TDX_{generation:02X}");
        self.tdx_module_identities
            .iter()
            .find(|identity| identity.id.0.eq_ignore_ascii_case(&id))
            .map(Some)
            .ok_or(TdxRejection::ModuleUnknown(generation))
    }
}

impl<'a> QeIdentity<'a> {
    /// Reads and dates the text (rule T6). Its signature was checked before.
    pub(crate) fn open(text: &'a str, now: UnixTime) -> Result<(Self, Issue), TdxRejection> {
        let document = TdxDocument::QeIdentity;
        let head = |identity: &Self| (identity.id.0.clone(), identity.version);
        let identity = read(document, text, ("TD_QE", 2), head)?;
        let number = identity.tcb_evaluation_data_number;
        let issue = dates(
            document,
            &identity.issue_date.0,
            &identity.next_update.0,
            number,
        )?;
        issue.must_be_in_force(document, now)?;
        Ok((identity, issue))
    }

    /// Rule T8.
    pub(crate) fn level(&self, report: QeReport<'_>) -> Result<Judged, TdxRejection> {
        let document = TdxDocument::QeIdentity;
        if report.mr_signer() != bytes(document, "mrsigner", &self.mrsigner.0)? {
            return Err(TdxRejection::QeSigner);
        }
        let (found, expected) = (report.product(), self.isvprodid);
        if found != expected {
            return Err(TdxRejection::QeProduct { found, expected });
        }
        let expected: [u8; 4] = bytes(document, "miscselect", &self.miscselect.0)?;
        let mask: [u8; 4] = bytes(document, "miscselectMask", &self.miscselect_mask.0)?;
        if !equal_under(&report.misc_select(), &expected, &mask) {
            return Err(TdxRejection::QeMiscSelect);
        }
        let attributes = report.attributes();
        let [flags, ..] = attributes;
        // An enclave under debug speaks for whoever debugs it, whatever its identity says.
        if flags & SGX_DEBUG != 0 {
            return Err(TdxRejection::QeAttributes);
        }
        let expected: [u8; 16] = bytes(document, "attributes", &self.attributes.0)?;
        let mask: [u8; 16] = bytes(document, "attributesMask", &self.attributes_mask.0)?;
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

/// Reads a document of this kind, by its id and version. Those for SGX have other fields: where one is not of its form, what it is
/// comes first.
fn read<'a, T: Deserialize<'a>>(
    document: TdxDocument,
    text: &'a str,
    (id, version): (&str, u32),
    head: impl Fn(&T) -> (Cow<'a, str>, u32),
) -> Result<T, TdxRejection> {
    let wrong = |error: JsonError| malformed(document, &error.to_string());
    let walked = Walked::over(text.as_bytes(), DOCUMENT_BYTES_MAX).map_err(wrong)?;
    let read: Result<T, _> = walked.read();
    let (found_id, found) = match &read {
        Ok(read) => head(read),
        Err(_) => {
            let Head { id, version } = walked.read().map_err(wrong)?;
            (id.0, version)
        }
    };
    if found_id != id {
        let found = found_id.into_owned();
        return Err(TdxRejection::DocumentId { document, found });
    }
    if found != version {
        return Err(TdxRejection::DocumentVersion { document, found });
    }
    read.map_err(wrong)
}

fn malformed(document: TdxDocument, what: &str) -> TdxRejection {
    TdxRejection::DocumentMalformed {
        document,
        what: what.to_owned(),
    }
}

/// Levels are sorted, the best first.
fn part_level(levels: &[PartLevel<'_>], version: u16) -> Option<Judged> {
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
        let wrong = "a date is not of the form 2026-03-01T00:00:00Z";
        written(text).ok_or_else(|| malformed(document, wrong))
    };
    Ok(Issue {
        from: date(from)?,
        until: date(until)?,
        number,
    })
}

/// `2026-03-07T02:05:07Z`, which has the digits of a GeneralizedTime.
fn written(text: &str) -> Option<UnixTime> {
    let shape = *b"dddd-dd-ddTdd:dd:ddZ";
    let mut digits = [b'Z'; 15];
    let mut left = digits.iter_mut();
    for (found, shape) in text.bytes().zip(shape) {
        match shape {
            b'd' => *left.next()? = found,
            other if found == other => {}
            _ => return None,
        }
    }
    (text.len() == shape.len()).then_some(())?;
    generalized_time(&digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_nonsense_is_not() {
        let secs = |text| written(text).map(UnixTime::secs);
        assert_eq!(secs("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(secs("2025-07-04T10:16:31Z"), Some(1_751_624_191));
        assert_eq!(secs("2024-02-29T00:00:00Z"), Some(1_709_164_800));
        assert_eq!(secs("2000-02-29T00:00:00Z"), Some(951_782_400));
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
            assert_eq!(secs(text), None, "{text}");
        }
    }
}
