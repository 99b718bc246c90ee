//! Intel's Provisioning Certification Service, version 4, or a PCCS that mirrors it: documents and lists, put together into the
//! collateral of a quote, one file for each family of platforms.
//!
//! The files share identity and lists, and a bundle takes only one of each: so all of them are written, or none.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};

use casemate_attestation::tdx::{PckCa, TdxCollateral};
use serde_json::{Value, json};

use super::config::Services;
use super::http::{Answer, Ask, Client};
use super::owned::Owned;
use super::shelf::{Kept, Shelf};
use super::{FetchError, Fetched, Round, list_is_older};

/// A family of platforms and who certifies them.
type Family = ([u8; 6], PckCa);

/// What is owned, and what the folder has of other families: it goes on with the same identity and lists.
pub(super) fn families(owned: &Owned, shelf: &Shelf) -> Result<BTreeSet<Family>, FetchError> {
    let mut all = owned.platforms.clone();
    if !all.is_empty() {
        all.extend(shelf.names()?.iter().filter_map(|name| family_of(name)));
    }
    Ok(all)
}

fn file(family: Family) -> String {
    format!("intel-{}-{}.json", hex::encode(family.0), family.1)
}

fn family_of(name: &str) -> Option<Family> {
    let (fmspc, ca) = name
        .strip_prefix("intel-")?
        .strip_suffix(".json")?
        .split_once('-')?;
    let ca = [PckCa::Processor, PckCa::Platform]
        .into_iter()
        .find(|it| it.as_str() == ca)?;
    let fmspc = casemate_attestation::digest::hex_array("FMSPC", fmspc).ok()?;
    Some((fmspc, ca))
}

/// Everything, in the order in which it is asked for.
pub(super) fn asks<'a>(services: &'a Services, families: &BTreeSet<Family>) -> Vec<Ask<'a>> {
    if families.is_empty() {
        return Vec::new();
    }
    let mut all = vec![root_list(services), identity(services)];
    let authorities: BTreeSet<_> = families.iter().map(|(_, ca)| *ca).collect();
    all.extend(authorities.into_iter().map(|ca| list(services, ca)));
    let fmspcs: BTreeSet<_> = families.iter().map(|(fmspc, _)| *fmspc).collect();
    all.extend(fmspcs.into_iter().map(|fmspc| tcb_info(services, fmspc)));
    all
}

fn get(services: &Services, rest: String) -> Ask<'_> {
    Ask {
        service: &services.intel,
        rest,
        question: None,
    }
}

fn root_list(services: &Services) -> Ask<'_> {
    Ask {
        service: &services.intel_root_list,
        rest: String::new(),
        question: None,
    }
}

fn identity(services: &Services) -> Ask<'_> {
    get(services, "/tdx/certification/v4/qe/identity".to_owned())
}

fn list(services: &Services, ca: PckCa) -> Ask<'_> {
    get(
        services,
        format!("/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"),
    )
}

fn tcb_info(services: &Services, fmspc: [u8; 6]) -> Ask<'_> {
    get(
        services,
        format!("/tdx/certification/v4/tcb?fmspc={}", hex::encode(fmspc)),
    )
}

/// A signed text with its signature (hexadecimal) and its signer's chain, as they came.
#[derive(Debug, Clone)]
struct SignedText {
    text: String,
    signature: String,
    issuers: String,
}

/// What came, before anything is judged.
#[derive(Default)]
struct Came {
    root_list: Vec<u8>,
    identity: Option<SignedText>,
    lists: BTreeMap<PckCa, (Vec<u8>, String)>,
    /// Of the families until now.
    tcb: BTreeMap<[u8; 6], SignedText>,
}

pub(super) async fn fetch(
    round: &Round<'_>,
    owned: &Owned,
    all: &mut Vec<Fetched>,
) -> Result<(), FetchError> {
    let families = families(owned, round.shelf)?;
    if families.is_empty() {
        return Ok(());
    }
    let mut came = match shared(round, &families).await {
        Ok(came) => came,
        Err((item, error)) => {
            all.push(fetched(item.to_owned(), String::new(), Err(error)));
            return Ok(());
        }
    };
    let mut documents = Vec::new();
    for family in families {
        let judged = of_family(round, &mut came, family).await;
        documents.push((family, judged));
    }
    let whole = documents.iter().all(|(_, judged)| judged.is_ok());
    for (family, judged) in documents {
        let result = match judged {
            Ok(bytes) if whole => round.shelf.put(&file(family), &bytes).map_err(Into::into),
            Ok(_) => Err(FetchError::Together),
            Err(error) => Err(error),
        };
        let (fmspc, ca) = (hex::encode(family.0), family.1);
        let item = format!("collateral for FMSPC {fmspc} under the {ca} CA");
        all.push(fetched(item, file(family), result));
    }
    Ok(())
}

fn fetched(item: String, file: String, result: Result<Kept, FetchError>) -> Fetched {
    Fetched {
        vendor: "intel",
        item,
        file,
        result,
    }
}

/// What all families share.
async fn shared(
    round: &Round<'_>,
    families: &BTreeSet<Family>,
) -> Result<Came, (&'static str, FetchError)> {
    let (client, services) = (round.client, round.services);
    let mut came = Came::default();
    let at = |item| move |error: FetchError| (item, error);
    let root = "revocation list of the root";
    let answer = client
        .ask(&root_list(services))
        .await
        .map_err(FetchError::from);
    came.root_list = binary(answer.map_err(at(root))?.body);
    let text = signed_text(
        client,
        &identity(services),
        "enclaveIdentity",
        &IDENTITY_CHAINS,
    )
    .await;
    came.identity = Some(text.map_err(at("QE identity"))?);
    let authorities: BTreeSet<_> = families.iter().map(|(_, ca)| *ca).collect();
    for ca in authorities {
        let item = match ca {
            PckCa::Processor => "revocation list of the PCK processor CA",
            PckCa::Platform => "revocation list of the PCK platform CA",
        };
        let answer = client
            .ask(&list(services, ca))
            .await
            .map_err(FetchError::from);
        let answer = answer.map_err(at(item))?;
        let issuers = chain(&answer, &["SGX-PCK-CRL-Issuer-Chain"]).map_err(at(item))?;
        came.lists.insert(ca, (binary(answer.body), issuers));
    }
    Ok(came)
}

/// Headers in which a TCB info's chain comes; older services and mirrors use the second.
const TCB_CHAINS: [&str; 2] = ["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"];
/// Headers in which an identity's chain comes.
const IDENTITY_CHAINS: [&str; 1] = ["SGX-Enclave-Identity-Issuer-Chain"];

/// The collateral of one family, judged.
async fn of_family(
    round: &Round<'_>,
    came: &mut Came,
    family: Family,
) -> Result<Vec<u8>, FetchError> {
    let (fmspc, ca) = family;
    if let Entry::Vacant(place) = came.tcb.entry(fmspc) {
        let ask = tcb_info(round.services, fmspc);
        place.insert(signed_text(round.client, &ask, "tcbInfo", &TCB_CHAINS).await?);
    }
    let tcb = came
        .tcb
        .get(&fmspc)
        .ok_or(FetchError::Alone("the TCB info"))?;
    let identity = came
        .identity
        .as_ref()
        .ok_or(FetchError::Alone("the QE identity"))?;
    let (list, issuers) = came
        .lists
        .get(&ca)
        .ok_or(FetchError::Alone("the authority's list"))?;
    let document = json!({
        "pck_crl_issuer_chain": issuers,
        "root_ca_crl": hex::encode(&came.root_list),
        "pck_crl": hex::encode(list),
        "tcb_info_issuer_chain": tcb.issuers,
        "tcb_info": tcb.text,
        "tcb_info_signature": tcb.signature,
        "qe_identity_issuer_chain": identity.issuers,
        "qe_identity": identity.text,
        "qe_identity_signature": identity.signature,
    });
    let form = |error: &dyn std::fmt::Display| FetchError::Form(error.to_string());
    let collateral = TdxCollateral::from_json(document.to_string().as_bytes());
    let collateral = collateral.map_err(|error| form(&error))?;
    let bytes = collateral.to_json().map_err(|error| form(&error))?;
    let judged = round.right(&[&bytes])?.intel;
    if judged.tcb.iter().any(|it| it.fmspc != fmspc) {
        return Err(FetchError::Other("FMSPC"));
    }
    if judged.pck_lists.iter().any(|it| it.ca != ca) {
        return Err(FetchError::Other("authority's revocation list"));
    }
    if let Some(what) = round
        .shelf
        .held(&file(family))?
        .and_then(|held| older(&document, &held))
    {
        return Err(FetchError::Older(what));
    }
    Ok(bytes)
}

async fn signed_text(
    client: &Client,
    ask: &Ask<'_>,
    name: &str,
    chains: &[&str],
) -> Result<SignedText, FetchError> {
    let answer = client.ask(ask).await?;
    let issuers = chain(&answer, chains)?;
    let (text, signature) = split(&answer.body, name)
        .ok_or_else(|| FetchError::Form(format!("answer is no {name} with its signature")))?;
    Ok(SignedText {
        text,
        signature,
        issuers,
    })
}

/// The text exactly as it was signed, which no JSON reader gives back: `{"NAME":TEXT,"signature":"HEX"}`. A wrong cut fails at
/// the signature.
fn split(body: &[u8], name: &str) -> Option<(String, String)> {
    let body = std::str::from_utf8(body).ok()?.trim();
    let inside = body
        .strip_prefix(&format!("{{\"{name}\":"))?
        .strip_suffix("\"}")?;
    let (text, signature) = inside.rsplit_once(",\"signature\":\"")?;
    Some((text.to_owned(), signature.to_ascii_lowercase()))
}

/// The chain in a header, percent-encoded PEM.
fn chain(answer: &Answer, names: &[&str]) -> Result<String, FetchError> {
    let header = names.iter().find_map(|name| answer.head.get(*name));
    let missing = || FetchError::Form("answer has no issuer's chain in its head".to_owned());
    let header = header.ok_or_else(missing)?;
    decoded(header.as_bytes())
        .ok_or_else(|| FetchError::Form("issuer's chain is not percent-encoded".to_owned()))
}

/// Percent-encoding (RFC 3986, 2.1). A plus stays one, because PEM has them.
fn decoded(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, others) = rest.split_at_checked(2)?;
        let mut byte = [0];
        hex::decode_to_slice(digits, &mut byte).ok()?;
        bytes.extend(byte);
        rest = others;
    }
    String::from_utf8(bytes).ok()
}

/// A list as DER: mirrors answer in hexadecimal.
fn binary(body: Vec<u8>) -> Vec<u8> {
    hex::decode(body.trim_ascii()).unwrap_or(body)
}

/// Which part of what was offered is older than what is held. What cannot be read is no newer than anything.
fn older(offered: &Value, held: &[u8]) -> Option<&'static str> {
    let held: Value = serde_json::from_slice(held).ok()?;
    let version = |document: &Value, field: &str| {
        let text: Value = serde_json::from_str(document.get(field)?.as_str()?).ok()?;
        let number = text.get("tcbEvaluationDataNumber")?.as_u64()?;
        // Times are written in one form, whose order is that of its letters.
        Some((number, text.get("issueDate")?.as_str()?.to_owned()))
    };
    let list = |document: &Value, field: &str| hex::decode(document.get(field)?.as_str()?).ok();
    for (field, what) in [("tcb_info", "TCB info"), ("qe_identity", "QE identity")] {
        match (version(offered, field), version(&held, field)) {
            (Some(offered), Some(held)) if offered < held => return Some(what),
            _ => {}
        }
    }
    for (field, what) in [
        ("root_ca_crl", "revocation list of the root"),
        ("pck_crl", "revocation list of the authority"),
    ] {
        match (list(offered, field), list(&held, field)) {
            (Some(offered), Some(held)) if list_is_older(&offered, &held) => return Some(what),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_read_strictly() {
        assert_eq!(decoded(b"a%0Ab%2B+%3d").as_deref(), Some("a\nb++="));
        for broken in [&b"%"[..], b"%0", b"%zz", b"%ff"] {
            assert_eq!(decoded(broken), None);
        }
    }

    #[test]
    fn a_signed_text_keeps_its_bytes() {
        let body = b"{\"tcbInfo\":{\"a\": 1,\"signature\":\"x\"},\"signature\":\"AB\"}\n";
        let expected = ("{\"a\": 1,\"signature\":\"x\"}".to_owned(), "ab".to_owned());
        assert_eq!(split(body, "tcbInfo"), Some(expected));
        for broken in [
            &b"{}"[..],
            b"[]",
            b"\xff",
            b"{\"tcbInfo\":{}}",
            b"{\"other\":{},\"signature\":\"\"}",
        ] {
            assert_eq!(split(broken, "tcbInfo"), None);
        }
    }

    #[test]
    fn files_name_their_families_and_no_others_do() {
        let family = ([0x50, 0x80, 0x6f, 0, 0, 0], PckCa::Platform);
        assert_eq!(file(family), "intel-50806f000000-platform.json");
        assert_eq!(family_of(&file(family)), Some(family));
        for other in [
            "intel-50806f-platform.json",
            "intel-50806f000000-root.json",
            "x.json",
        ] {
            assert_eq!(family_of(other), None);
        }
    }
}
