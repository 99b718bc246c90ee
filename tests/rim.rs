//! Manifests: everything by which a manifest could say one thing and be signed as another is refused.

#![cfg(feature = "test-chip")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "../attestation/tests/support/spdm.rs"]
mod spdm;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate::rim::{Imported, RimError, import};
use casemate_attestation::nvidia::{
    CertificatePlace, NvidiaRejection, PinnedManifestRoot, ReferenceKind,
};
use ring::digest::{SHA384, digest};

use spdm::{Key, NOW, Template};

const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";

/// A manifest to be signed. `inside` is written in canonical form, so that what is signed is what is written.
struct Manifest {
    meta: String,
    resources: String,
    /// What the signature says, after which it is signed.
    edit_signed: fn(String) -> String,
    /// What becomes of the whole, unsigned.
    edit_whole: fn(String) -> String,
    signer: Template,
    root: Key,
    authority: Key,
    key: Key,
}

const VERSION: &str = "580.1";

fn resource(index: u8, active: &str, hash: u8) -> String {
    let hash = hex::encode([hash; 48]);
    format!(
        "<r:Resource active=\"{active}\" alternatives=\"1\" index=\"{index}\" name=\"m\" size=\"48\" type=\"Measurement\" h:Hash0=\"{hash}\"></r:Resource>"
    )
}

fn manifest() -> Manifest {
    let signer = Template {
        authority: Some((false, None)),
        usage: Some(0x80),
        ..Template::authority("Test RIM signer", "Test RIM authority")
    };
    Manifest {
        meta: format!(
            "<r:Meta colloquialVersion=\"{VERSION}\" edition=\"GPU\" product=\"GH100\"></r:Meta>"
        ),
        resources: format!(
            "{}{}",
            resource(7, "True", 0xaa),
            resource(8, "False", 0xbb)
        ),
        edit_signed: |text| text,
        edit_whole: |text| text,
        signer,
        root: Key::new(),
        authority: Key::new(),
        key: Key::new(),
    }
}

impl Manifest {
    fn chain(&self) -> Vec<Vec<u8>> {
        vec![
            self.signer.issue(&self.key, &self.authority),
            Template::authority("Test RIM authority", "Test RIM root")
                .issue(&self.authority, &self.root),
            Template::authority("Test RIM root", "Test RIM root").issue(&self.root, &self.root),
        ]
    }

    fn judge(&self) -> Result<Imported, RimError> {
        let chain = self.chain();
        let text = self.write(&chain);
        import(
            text.as_bytes(),
            &PinnedManifestRoot::private(&chain[2]),
            NOW,
        )
    }

    fn write(&self, chain: &[Vec<u8>]) -> String {
        let scope = format!(
            "xmlns=\"{SWID}\" xmlns:h=\"http://www.w3.org/2001/04/xmlenc#sha384\" xmlns:r=\"{SWID}\""
        );
        let before = format!(
            "<SoftwareIdentity {scope} name=\"GH100\">\n{}<r:Payload>{}</r:Payload>",
            self.meta, self.resources
        );
        let after = "</SoftwareIdentity>";
        let content = STANDARD.encode(digest(&SHA384, format!("{before}{after}").as_bytes()));
        let dsig = "xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"";
        let inside = format!(
            "<ds:CanonicalizationMethod Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"></ds:CanonicalizationMethod>\
             <ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384\"></ds:SignatureMethod>\
             <ds:Reference URI=\"\"><ds:Transforms>\
             <ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"></ds:Transform>\
             <ds:Transform Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"></ds:Transform></ds:Transforms>\
             <ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#sha384\"></ds:DigestMethod>\
             <ds:DigestValue>{content}</ds:DigestValue></ds:Reference>"
        );
        let inside = (self.edit_signed)(inside);
        // By itself the signed part carries all namespaces in force; in its place it needs none.
        let order = format!(
            "xmlns=\"{SWID}\" {dsig} xmlns:h=\"http://www.w3.org/2001/04/xmlenc#sha384\" xmlns:r=\"{SWID}\""
        );
        let signed = format!("<ds:SignedInfo {order}>{inside}</ds:SignedInfo>");
        let signature = STANDARD.encode(self.key.sign(signed.as_bytes()));
        let certificates: String = chain
            .iter()
            .map(|der| {
                format!(
                    "<ds:X509Certificate>{}</ds:X509Certificate>",
                    STANDARD.encode(der)
                )
            })
            .collect();
        let whole = format!(
            "{before}<ds:Signature {dsig}><ds:SignedInfo>{inside}</ds:SignedInfo><ds:SignatureValue>{signature}</ds:SignatureValue>\
             <ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>{after}"
        );
        (self.edit_whole)(whole)
    }
}

fn refusal(change: impl FnOnce(&mut Manifest)) -> RimError {
    let mut manifest = manifest();
    change(&mut manifest);
    manifest.judge().unwrap_err()
}

fn whole(edit: fn(String) -> String) -> RimError {
    refusal(|it| it.edit_whole = edit)
}

/// Refused as XML, with these words.
fn xml(edit: fn(String) -> String, words: &str) {
    match whole(edit) {
        RimError::Xml { what, .. } => assert!(what.contains(words), "{what} is not {words}"),
        other => panic!("{words}: {other}"),
    }
}

fn content(change: impl FnOnce(&mut Manifest), words: &str) {
    match refusal(change) {
        RimError::Content(what) => assert!(what.contains(words), "{what} is not {words}"),
        other => panic!("{words}: {other}"),
    }
}

#[test]
fn the_manifest_that_these_tests_change_is_converted() {
    let imported = manifest().judge().unwrap();
    assert_eq!(imported.list.kind, ReferenceKind::Driver);
    assert_eq!(
        (
            imported.list.version.as_str(),
            imported.list.product.as_str()
        ),
        (VERSION, "GH100")
    );
    let indices: Vec<_> = imported.list.values.iter().map(|it| it.index).collect();
    assert_eq!(indices, [7], "only active entries count");
    assert_eq!(imported.signer_until, spdm::UNTIL.1);
    // What canonical XML does not see changes nothing.
    let mut manifest = manifest();
    manifest.edit_whole = |text| {
        let text = text
            .replace("<r:Payload>", "<r:Payload  >")
            .replace("</SoftwareIdentity>", "</SoftwareIdentity >\r\n");
        let text = text.replacen("name=\"GH100\"", "name='&#71;H100'", 1);
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n{text}")
            .replace("></r:Resource>", "/>")
    };
    assert_eq!(manifest.judge().unwrap().list.values, imported.list.values);
}

#[test]
fn r1_there_is_one_shape_of_xml() {
    let entity =
        |text: String| format!("<!DOCTYPE x [<!ENTITY a \"True\"><!ENTITY b \"&a;&a;\">]>{text}");
    xml(entity, "a document type");
    xml(
        |it| format!("<!DOCTYPE x SYSTEM \"file:///etc/passwd\">{it}"),
        "a document type",
    );
    xml(
        |it| it.replacen("active=\"True\"", "active=\"&a;\"", 1),
        "none of the five entities",
    );
    xml(
        |it| it.replacen("active=\"True\"", "active=\"Tr&#0;ue\"", 1),
        "none of the five entities",
    );
    for inserted in ["<!-- -->", "<![CDATA[x]]>", "<?php ?>", "<!DOCTYPE a>"] {
        let manifest = manifest();
        let chain = manifest.chain();
        let root = PinnedManifestRoot::private(&chain[2]);
        let text = manifest.write(&chain);
        for place in ["<r:Payload>", "<ds:DigestValue>", "<ds:SignatureValue>"] {
            let text = text.replacen(place, &format!("{place}{inserted}"), 1);
            let found = import(text.as_bytes(), &root, NOW).unwrap_err();
            assert!(
                matches!(found, RimError::Xml { what, .. } if what.starts_with("it has a comment")),
                "{found}"
            );
        }
    }
    xml(|it| format!("{it}<!-- -->"), "something follows");
    xml(|it| format!("{it}{it}"), "something follows");
    xml(
        |it| it.replacen("index=\"7\"", "index=\"7\" index=\"8\"", 1),
        "there twice",
    );
    xml(
        |it| {
            it.replacen(
                "index=\"7\"",
                "index=\"7\" xmlns:q=\"http://www.w3.org/2001/04/xmlenc#sha384\" q:Hash0=\"00\"",
                1,
            )
        },
        "there twice",
    );
    xml(
        |it| it.replacen("<r:Payload>", "<q:Payload>", 1),
        "prefix is not declared",
    );
    xml(
        |it| it.replacen("<r:Payload>", "<r:Payload xmlns:r=\"\">", 1),
        "namespace is taken back",
    );
    xml(
        |it| it.replacen("<r:Payload>", "<r:Payload xml:base=\"x\">", 1),
        "prefix is not declared",
    );
    xml(
        |it| it.replacen("<r:Payload>", "<r:Payload xmlns:xml=\"x\">", 1),
        "reserved one declared",
    );
    xml(
        |it| it.replacen("<r:Payload>", &"<r:Payload>".repeat(20), 1),
        "deeper than 12",
    );
    xml(
        |it| {
            it.replacen(
                "<r:Payload>",
                &format!("<r:Payload>{}", "<r:a/>".repeat(3000)),
                1,
            )
        },
        "more than 2048 elements",
    );
    xml(
        |it| it.replacen("</r:Payload>", "</r:Payloat>", 1),
        "under another name",
    );
    xml(
        |it| it.replacen("index=\"7\"", "index=\"<\"", 1),
        "has '<' in a value",
    );
    xml(
        |it| it.replacen("<r:Payload>", "<r:Payload>]]>", 1),
        "CDATA that did not begin",
    );
    xml(
        |it| it.replacen("<r:Payload>", "<r:Payload>\u{1}", 1),
        "character that XML has not",
    );
    xml(|it| it.replacen("r:Meta", "r:M\u{e9}ta", 2), "malformed");
    xml(
        |it| format!("<?xml version=\"1.1\"?>{it}"),
        "declaration says something else",
    );
    xml(
        |it| format!("<?xml version=\"1.0\" encoding=\"utf-16\"?>{it}"),
        "declaration says something else",
    );
    xml(|it| format!("\u{feff}{it}"), "an element is missing");
    xml(|it| " ".repeat(300_000) + &it, "more than 262144 bytes");
    let cut = manifest();
    let chain = cut.chain();
    let (text, root) = (cut.write(&chain), PinnedManifestRoot::private(&chain[2]));
    for length in (0..text.len()).step_by(7) {
        let found = import(&text.as_bytes()[..length], &root, NOW).unwrap_err();
        assert!(matches!(found, RimError::Xml { .. }), "{length}: {found}");
    }
    assert!(matches!(
        import(&[0xff], &root, NOW),
        Err(RimError::Xml { .. })
    ));
}

#[test]
fn r2_there_is_one_form_of_signature() {
    let form = |error: RimError, words: &str| match error {
        RimError::Form(what) => assert!(what.contains(words), "{what} is not {words}"),
        other => panic!("{words}: {other}"),
    };
    // Wrapping: what is signed is hidden somewhere and something else is where it is read.
    form(
        whole(|it| {
            it.replace(
                "<r:Payload>",
                "<r:Payload><ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"/>",
            )
        }),
        "none, or more than one",
    );
    form(
        whole(|it| {
            it.replace(
                "</SoftwareIdentity>",
                "<r:Payload></r:Payload></SoftwareIdentity>",
            )
        }),
        "not the last element",
    );
    form(
        whole(|it| format!("<Outer>{it}</Outer>")),
        "not the last element",
    );
    let no_signature = |it: String| {
        let (before, rest) = it.split_once("<ds:Signature ").unwrap();
        let (_, after) = rest.split_once("</ds:Signature>").unwrap();
        format!("{before}{after}")
    };
    form(whole(no_signature), "none, or more than one");
    form(
        whole(|it| it.replace("</ds:KeyInfo>", "</ds:KeyInfo><ds:Object></ds:Object>")),
        "other parts",
    );
    form(
        whole(|it| it.replace("<ds:X509Certificate>", "x<ds:X509Certificate>")),
        "chain of certificates",
    );
    form(
        whole(|it| it.replace("<ds:SignatureValue>", "<ds:SignatureValue>*")),
        "not base64",
    );
    for (from, to, words) in [
        ("URI=\"\"", "URI=\"#x\"", "whole manifest"),
        ("URI=\"\"", "Id=\"a\" URI=\"\"", "whole manifest"),
        ("ecdsa-sha384", "hmac-sha384", "another algorithm"),
        ("xmldsig-more#sha384", "xmldsig#sha1", "another algorithm"),
        ("#enveloped-signature", "#base64", "another algorithm"),
        (
            "2006/12/xml-c14n11\"></ds:Transform>",
            "2006/12/xml-c14n11#WithComments\"></ds:Transform>",
            "another algorithm",
        ),
        (
            "2006/12/xml-c14n11\"></ds:Canon",
            "2006/12/xml-c14n11\"><x></x></ds:Canon",
            "another algorithm",
        ),
        (
            "</ds:Transforms>",
            "<ds:Transform Algorithm=\"http://www.w3.org/TR/1999/REC-xslt-19991116\"></ds:Transform></ds:Transforms>",
            "other parts",
        ),
        (
            "<ds:Reference",
            "<ds:Reference URI=\"\"></ds:Reference><ds:Reference",
            "other parts",
        ),
    ] {
        let manifest = manifest();
        let chain = manifest.chain();
        let text = manifest.write(&chain);
        assert!(text.contains(from), "{from}");
        let text = text.replacen(from, to, 1);
        let found = import(
            text.as_bytes(),
            &PinnedManifestRoot::private(&chain[2]),
            NOW,
        );
        form(found.unwrap_err(), words);
    }
}

#[test]
fn r3_r5_what_was_signed_is_what_is_read() {
    assert_eq!(
        whole(|it| it.replacen("active=\"False\"", "active=\"True\"", 1)),
        RimError::Digest
    );
    assert_eq!(
        whole(|it| it.replacen("<r:Payload>", "<r:Payload> ", 1)),
        RimError::Digest
    );
    assert_eq!(
        whole(|it| it.replacen("GH100", "GB100", 1)),
        RimError::Digest
    );
    // Another prefix for the same namespace is another document.
    assert_eq!(
        whole(|it| it.replacen("<r:Payload>", "<Payload>", 1).replacen(
            "</r:Payload>",
            "</Payload>",
            1
        )),
        RimError::Digest
    );
    // A key without a certificate in the chain.
    let other = Key::new();
    let mut changed = manifest();
    let chain = changed.chain();
    changed.key = other;
    let text = changed.write(&chain);
    let found = import(
        text.as_bytes(),
        &PinnedManifestRoot::private(&chain[2]),
        NOW,
    );
    assert_eq!(found.unwrap_err(), RimError::Signature);
}

#[test]
fn r4_the_signer_is_nvidias_and_its_chain_is_in_force() {
    let manifest = manifest();
    let chain = manifest.chain();
    let text = manifest.write(&chain);
    let judge = |root: &PinnedManifestRoot, now| import(text.as_bytes(), root, now).unwrap_err();
    let found = judge(&PinnedManifestRoot::nvidia(), NOW);
    assert_eq!(found, RimError::Signer(NvidiaRejection::NoPinnedRoot));
    let root = PinnedManifestRoot::private(&chain[2]);
    let late = judge(&root, spdm::UNTIL.1.plus(1));
    assert!(
        matches!(
            late,
            RimError::Signer(NvidiaRejection::CertificateExpired { .. })
        ),
        "{late}"
    );
    let early = judge(&root, spdm::FROM.1.minus(1));
    assert!(matches!(
        early,
        RimError::Signer(NvidiaRejection::CertificateNotYetValid { .. })
    ));
    let authority = refusal(|it| it.signer.authority = Some((true, None)));
    assert_eq!(
        authority,
        RimError::Signer(NvidiaRejection::LeafIsAuthority)
    );
    let name = refusal(|it| it.signer.issuer = "Test RIM root".to_owned());
    let place = CertificatePlace(0);
    assert_eq!(name, RimError::Signer(NvidiaRejection::ChainName { place }));
}

#[test]
fn r6_a_signed_manifest_says_something_that_can_be_used() {
    content(|it| it.meta.clear(), "not one description");
    content(|it| it.meta = it.meta.repeat(2), "not one description");
    content(
        |it| it.meta = it.meta.replace("colloquialVersion", "aVersion"),
        "no version",
    );
    content(
        |it| it.meta = it.meta.replace("580.1", "580-1"),
        "no driver, VBIOS or switch",
    );
    content(
        |it| it.meta = it.meta.replace("GPU", "CPU"),
        "no driver, VBIOS or switch",
    );
    content(
        |it| it.meta = it.meta.replace("GPU", "SWITCH"),
        "no driver, VBIOS or switch",
    );
    content(|it| it.resources.push('x'), "text between its values");
    content(
        |it| it.resources = it.resources.replace("Measurement", "File"),
        "no measurement",
    );
    content(
        |it| it.resources = it.resources.replace("index=\"8\"", "index=\"7\""),
        "there twice",
    );
    content(
        |it| it.resources = it.resources.replace("index=\"8\"", "index=\"08\""),
        "no index",
    );
    content(
        |it| it.resources = it.resources.replace("index=\"8\"", "index=\"256\""),
        "no index",
    );
    content(
        |it| it.resources = it.resources.replace("True", "true"),
        "neither active nor not",
    );
    content(
        |it| it.resources = it.resources.replace("size=\"48\"", "size=\"32\""),
        "not of 48 bytes",
    );
    content(
        |it| {
            it.resources = it
                .resources
                .replace("alternatives=\"1\"", "alternatives=\"2\"")
        },
        "not as many values",
    );
    content(
        |it| it.resources = it.resources.replace("Hash0", "Hash1"),
        "not as many values",
    );
    content(
        |it| it.resources = it.resources.replace("aaaa", "aa"),
        "no SHA-384 digest",
    );
    content(
        |it| it.resources = it.resources.replace("True", "False"),
        "not of their form",
    );
}
