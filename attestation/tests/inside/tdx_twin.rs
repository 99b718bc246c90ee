//! Certificates and lists as `x509-parser` reads them: ours read the same out of the same bytes, and nothing that it refuses. It
//! leaves out the rest of a name that is none; to us the name of an issuer is the bytes of its subject.

use x509_parser::asn1_rs::oid;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use super::TdxCollateral;
use super::certificate::{Certificate, chain};
use super::crl;
use super::extension::{BASIC_CONSTRAINTS, Constraints, KEY_USAGE, SEQUENCE, Usage};
use super::parts::{TdxCertificate, TdxCrl};
use super::quote::TdxQuote;
use super::roots::TdxRoot;
use super::x509::Read;
use crate::der::value;
use crate::digest::UnixTime;
use crate::reader::Reader;

/// A file of the shared evidence. `None`, said aloud, where it is missing; a failure in continuous integration.
pub(super) fn shared(name: &str) -> Option<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = std::fs::read(folder.join("../../shared/evidence/tdx").join(name));
    if read.is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "shared evidence is missing"
        );
        println!("SKIP shared evidence is missing");
    }
    read.ok()
}

fn unix(time: ASN1Time) -> UnixTime {
    UnixTime::from_secs(u64::try_from(time.timestamp()).unwrap())
}

/// What is read of a certificate that breaks no rule of its form.
fn ours(der: &[u8]) -> Option<Read<'_>> {
    Certificate::parse(TdxCertificate::Pck, der).ok()?;
    let (_, content) = value(&mut Reader::new(der), SEQUENCE)?;
    Read::of(content).filter(|read| read.signature.starts_with(&[0]))
}

/// Whether this is a certificate to us; then it is the same one to both.
fn same_certificate(der: &[u8]) -> bool {
    let Some(ours) = ours(der) else {
        return false;
    };
    let (rest, theirs) = X509Certificate::from_der(der).unwrap();
    assert_eq!(rest, [0; 0]);
    let tbs = &theirs.tbs_certificate;
    assert_eq!(ours.signed, tbs.as_ref());
    assert_eq!(ours.signature[1..], *theirs.signature_value.data);
    assert_eq!(theirs.signature_value.unused_bits, 0);
    assert_eq!(tbs.version, X509Version::V3);
    assert_eq!(ours.serial, theirs.raw_serial());
    assert!(ours.issuer.starts_with(theirs.issuer().as_raw()));
    assert_eq!(ours.subject, theirs.subject().as_raw());
    let validity = theirs.validity();
    assert_eq!(ours.from, unix(validity.not_before));
    assert_eq!(ours.until, unix(validity.not_after));
    assert_eq!(theirs.signature_algorithm, tbs.signature);
    let names = theirs.subject().iter_common_name();
    let names: Vec<_> = names.map(|name| name.as_str().ok()).collect();
    assert_eq!(ours.common_names.len(), names.len());
    for (ours, theirs) in ours.common_names.iter().zip(names) {
        assert!(ours.is_none() || *ours == theirs);
    }
    if let Some(point) = ours.p256_point() {
        let key = theirs.public_key();
        assert_eq!(*point, *key.subject_public_key.data);
        assert_eq!(key.algorithm.algorithm, oid!(1.2.840.10045.2.1));
        let curve = key.algorithm.parameters.as_ref().unwrap();
        assert_eq!(curve.as_oid(), Ok(oid!(1.2.840.10045.3.1.7)));
    }
    assert_eq!(ours.extensions.len(), theirs.extensions().len());
    for (ours, theirs) in ours.extensions.iter().zip(theirs.extensions()) {
        assert_eq!(ours.id, theirs.oid.as_bytes());
        assert_eq!((ours.critical, ours.value), (theirs.critical, theirs.value));
    }
    if let Some(constraints) = ours.extension(BASIC_CONSTRAINTS).and_then(Constraints::of)
        && let Some(theirs) = theirs.basic_constraints().ok().flatten()
    {
        assert_eq!(constraints.authority, theirs.value.ca);
        let depth = constraints.depth.map(u32::from);
        assert_eq!(depth, theirs.value.path_len_constraint);
    }
    if let Some(usage) = ours.extension(KEY_USAGE).and_then(Usage::of)
        && let Some(theirs) = theirs.key_usage().ok().flatten()
    {
        assert_eq!(usage.signs, theirs.value.digital_signature());
        assert_eq!(usage.signs_certificates, theirs.value.key_cert_sign());
        assert_eq!(usage.signs_lists, theirs.value.crl_sign());
    }
    true
}

/// The same of a list.
fn same_list(der: &[u8]) -> bool {
    let ours = crl::parse(TdxCrl::Pck, der).ok();
    let Some(ours) = ours.filter(|list| list.signature.starts_with(&[0])) else {
        return false;
    };
    let (rest, theirs) = CertificateRevocationList::from_der(der).unwrap();
    assert_eq!(rest, [0; 0]);
    assert_eq!(ours.signed, theirs.tbs_cert_list.as_ref());
    assert_eq!(ours.signature[1..], *theirs.signature_value.data);
    assert_eq!(theirs.signature_value.unused_bits, 0);
    assert_eq!(theirs.signature_algorithm, theirs.tbs_cert_list.signature);
    assert!(ours.issuer.starts_with(theirs.issuer().as_raw()));
    assert_eq!(ours.from, unix(theirs.last_update()));
    assert_eq!(ours.due, theirs.next_update().map(unix));
    let serials = theirs.iter_revoked_certificates();
    let serials: Vec<_> = serials.map(|entry| entry.raw_serial()).collect();
    assert_eq!(ours.serials, serials);
    true
}

/// Judges the bytes, and the bytes after every change of one of them by one of some values. Returns how many changes were accepted.
fn every_change(der: &[u8], same: fn(&[u8]) -> bool) -> usize {
    assert!(same(der));
    let mut accepted = 0;
    for at in 0..der.len() {
        for change in [1, 2, 4, 0x0f, 0x10, 0x20, 0x80, 0xff] {
            let mut other = der.to_vec();
            other[at] ^= change;
            accepted += usize::from(same(&other));
        }
        assert!(!same(&der[..at]), "cut at {at}");
    }
    accepted
}

#[test]
fn certificates_are_read_as_their_twin_reads_them() {
    // Points, signatures, texts and numbers may say anything.
    let root = TdxRoot::intel();
    assert!(every_change(root.der(), same_certificate) > 1_000);
    let (Some(quote), Some(json)) = (
        shared("v4-phala/quote.bin"),
        shared("v4-phala/collateral-2025-06-19.json"),
    ) else {
        return;
    };
    let quote = TdxQuote::parse(&quote).unwrap();
    let collateral = TdxCollateral::from_json(&json).unwrap();
    let place = TdxCertificate::TcbInfoSigner;
    let signer = chain(place, collateral.tcb_info_issuer_chain.as_bytes(), 1).unwrap();
    let pck = chain(TdxCertificate::Pck, quote.pck_chain(), 2).unwrap();
    for der in signer.iter().chain(&pck) {
        assert!(every_change(der, same_certificate) > 1_000);
    }
}

#[test]
fn lists_are_read_as_their_twin_reads_them() {
    let Some(json) = shared("v4-phala/collateral-2025-06-19.json") else {
        return;
    };
    let collateral = TdxCollateral::from_json(&json).unwrap();
    for der in [&collateral.root_ca_crl, &collateral.pck_crl] {
        assert!(every_change(der, same_list) > 500);
    }
}
