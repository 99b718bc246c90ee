//! The one form of signature that manifests have (XML Signature, enveloped; rules ): over the whole document but itself.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_attestation::UnixTime;
use casemate_attestation::nvidia::{ManifestSigner, PinnedManifestRoot};
use ring::digest::{SHA384, digest};

use super::canonical::written;
use super::error::RimError;
use super::xml::{Element, Node};

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const SHA384_ID: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
/// Most certificates of a signer.
const CERTIFICATES_MAX: usize = 8;

/// Checks digest, chain and signature. Returns the last second at which the signer's chain is valid.
pub(super) fn verify(
    document: &Element,
    root: &PinnedManifestRoot,
    now: UnixTime,
) -> Result<UnixTime, RimError> {
    let parts = Parts::of(document)?;
    let content = written(document, &|it| it.is(DSIG, "Signature"));
    if digest(&SHA384, &content).as_ref() != parts.digest {
        return Err(RimError::Digest);
    }
    let signer = ManifestSigner::of(&parts.chain, root, now)?;
    let signed = written(parts.signed_info, &|_| false);
    match signer.signed(&signed, &parts.signature) {
        true => Ok(signer.until()),
        false => Err(RimError::Signature),
    }
}

/// A signature whose every element is where it must be and says what it must.
struct Parts<'a> {
    signed_info: &'a Element,
    digest: Vec<u8>,
    signature: Vec<u8>,
    chain: Vec<Vec<u8>>,
}

impl<'a> Parts<'a> {
    fn of(document: &'a Element) -> Result<Self, RimError> {
        let form = RimError::Form;
        if signatures(document) != 1 {
            return Err(form("there is none, or more than one"));
        }
        let last = document
            .children
            .iter()
            .rev()
            .find_map(|child| match child {
                Node::Element(element) => Some(element),
                Node::Text(_) => None,
            });
        let signature = last
            .filter(|it| it.is(DSIG, "Signature"))
            .ok_or(form("it is not the last element of the manifest"))?;
        let [signed_info, value, key_info] =
            children(signature, ["SignedInfo", "SignatureValue", "KeyInfo"])?;
        let [method, algorithm, reference] = children(
            signed_info,
            ["CanonicalizationMethod", "SignatureMethod", "Reference"],
        )?;
        says(method, C14N)?;
        says(algorithm, ECDSA_SHA384)?;
        if reference.attributes.len() != 1 || reference.attribute("URI") != Some("") {
            return Err(form("it is not over the whole manifest"));
        }
        let [transforms, digest_method, digest_value] =
            children(reference, ["Transforms", "DigestMethod", "DigestValue"])?;
        let [enveloped, canonical] = children(transforms, ["Transform", "Transform"])?;
        says(enveloped, ENVELOPED)?;
        says(canonical, C14N)?;
        says(digest_method, SHA384_ID)?;
        let [data] = children(key_info, ["X509Data"])?;
        Ok(Self {
            signed_info,
            digest: base64(digest_value)?,
            signature: base64(value)?,
            chain: certificates(data)?,
        })
    }
}

/// Signatures anywhere in the tree: one that is not where it belongs could cover something else.
fn signatures(element: &Element) -> usize {
    let own = usize::from(element.is(DSIG, "Signature"));
    element.children.iter().fold(own, |sum, child| match child {
        Node::Element(child) => sum.saturating_add(signatures(child)),
        Node::Text(_) => sum,
    })
}

/// Exactly these children, and nothing else.
fn children<'a, const N: usize>(
    element: &'a Element,
    names: [&str; N],
) -> Result<[&'a Element; N], RimError> {
    let form = RimError::Form("an element has other parts than it must");
    let found = element.elements().ok_or(form.clone())?;
    let found: [&Element; N] = found.try_into().map_err(|_| form.clone())?;
    let named = found.iter().zip(names).all(|(it, name)| it.is(DSIG, name));
    if named { Ok(found) } else { Err(form) }
}

fn says(element: &Element, algorithm: &str) -> Result<(), RimError> {
    let alone = element.children.is_empty() && element.attributes.len() == 1;
    match alone && element.attribute("Algorithm") == Some(algorithm) {
        true => Ok(()),
        false => Err(RimError::Form(
            "it is by another algorithm than ECDSA with SHA-384 over canonical XML 1.1",
        )),
    }
}

/// Base64 in lines.
fn base64(element: &Element) -> Result<Vec<u8>, RimError> {
    let form = RimError::Form("a value is not base64");
    let text = element.text().ok_or(form.clone())?;
    let letters: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(letters).map_err(|_| form)
}

fn certificates(data: &Element) -> Result<Vec<Vec<u8>>, RimError> {
    let form = RimError::Form("its key is not a chain of certificates");
    let found = data.elements().ok_or(form.clone())?;
    let all = found.iter().all(|it| it.is(DSIG, "X509Certificate"));
    if !all || found.len() > CERTIFICATES_MAX {
        return Err(form);
    }
    found.into_iter().map(base64).collect()
}
