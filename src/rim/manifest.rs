//! What a manifest says (ISO 19770-2 with TCG's RIM attributes; rules ): of what, which version, and active values.

use std::collections::BTreeMap;

use casemate_attestation::collateral::{GpuList, IndexValues};
use casemate_attestation::nvidia::ReferenceKind;
use casemate_attestation::{Measurement, Sha256Digest};

use super::error::RimError;
use super::xml::Element;

const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const SHA384: &str = "http://www.w3.org/2001/04/xmlenc#sha384";

/// Reads the tree whose signature was verified.
pub(super) fn read(document: &Element, manifest: Sha256Digest) -> Result<GpuList, RimError> {
    let content = RimError::Content;
    if !document.is(SWID, "SoftwareIdentity") {
        return Err(content("it is no software identity"));
    }
    let parts = document
        .elements()
        .ok_or(content("it has text between its parts"))?;
    let one = |name: &str, what| {
        let mut found = parts.iter().filter(|it| it.is(SWID, name));
        match (found.next(), found.next()) {
            (Some(part), None) => Ok(*part),
            _ => Err(content(what)),
        }
    };
    let meta = one("Meta", "it has not one description")?;
    let payload = one("Payload", "it has not one list of values")?;
    let version = meta
        .attribute("colloquialVersion")
        .ok_or(content("it has no version"))?;
    let version = version.to_ascii_uppercase();
    let kind = kind(meta, &version)?;
    let product = meta.attribute("product").unwrap_or_default().to_owned();
    let list = GpuList {
        kind,
        version,
        product,
        manifest,
        values: values(payload)?,
    };
    list.reference()
        .map_err(|_| content("its version or its values are not of their form"))?;
    Ok(list)
}

/// Manifests of drivers and of VBIOSes say the same of themselves but for the form of their version.
fn kind(meta: &Element, version: &str) -> Result<ReferenceKind, RimError> {
    let groups: Vec<_> = version.split('.').collect();
    let pair = |it: &&str| it.len() == 2 && it.bytes().all(|byte| byte.is_ascii_hexdigit());
    let firmware = groups.len() == 5 && groups.iter().all(pair);
    let number = |it: &&str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    let driver = (2..=3).contains(&groups.len()) && groups.iter().all(number);
    match meta.attribute("edition") {
        Some("SWITCH") if firmware => Ok(ReferenceKind::Switch),
        Some("GPU") if firmware => Ok(ReferenceKind::Vbios),
        Some("GPU") if driver => Ok(ReferenceKind::Driver),
        _ => Err(RimError::Content(
            "it is of no driver, VBIOS or switch, by its edition and version",
        )),
    }
}

/// Active entries by index, each with its alternatives in order.
fn values(payload: &Element) -> Result<Vec<IndexValues>, RimError> {
    let content = RimError::Content;
    let resources = payload
        .elements()
        .ok_or(content("it has text between its values"))?;
    let mut all = BTreeMap::new();
    for resource in resources {
        let measurement = resource.attribute("type") == Some("Measurement");
        if !resource.is(SWID, "Resource") || !measurement || !resource.children.is_empty() {
            return Err(content("it has an entry that is no measurement"));
        }
        let index = resource.attribute("index").and_then(decimal);
        let index = index.ok_or(content("an entry has no index"))?;
        let active = match resource.attribute("active") {
            Some("True") => true,
            Some("False") => false,
            _ => return Err(content("an entry is neither active nor not")),
        };
        if resource.attribute("size") != Some("48") {
            return Err(content("an entry is not of 48 bytes"));
        }
        let digests = digests(resource)?;
        if all.insert(index, (active, digests)).is_some() {
            return Err(content("an index is there twice"));
        }
    }
    let active = all.into_iter().filter(|(_, (active, _))| *active);
    Ok(active
        .map(|(index, (_, digests))| IndexValues { index, digests })
        .collect())
}

/// `Hash0` to `HashN`, as many as `alternatives` says.
fn digests(resource: &Element) -> Result<Vec<Measurement>, RimError> {
    let content = RimError::Content("an entry has not as many values as it says");
    let count = resource.attribute("alternatives").and_then(decimal);
    let count = usize::from(count.ok_or(content.clone())?);
    let hashes = resource
        .attributes
        .iter()
        .filter(|it| it.namespace == SHA384);
    if hashes.clone().count() != count {
        return Err(content);
    }
    let mut all = Vec::new();
    for number in 0..count {
        let name = format!("Hash{number}");
        let hash = hashes.clone().find(|it| it.local == name);
        let hash = hash.ok_or(content.clone())?.value.to_ascii_lowercase();
        let hash = hash.parse::<Measurement>();
        all.push(hash.map_err(|_| RimError::Content("a value is no SHA-384 digest"))?);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// A number without signs or leading zeros.
fn decimal(text: &str) -> Option<u8> {
    text.parse()
        .ok()
        .filter(|number: &u8| number.to_string() == text)
}
