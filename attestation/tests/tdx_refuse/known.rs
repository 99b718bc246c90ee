//! Signatures that were verified before (docs/decisions/0033): they let nobody in, and outlive no date, list or bundle.

use casemate_attestation::UnixTime;
use casemate_attestation::tdx::{
    KnownSignatures, TdxCertificate as Place, TdxCollateral, TdxCrl, TdxDocument as Document,
    TdxRejection as R, verify_tdx_quote_knowing,
};
use serde_json::Value;

use super::*;

/// A platform that somebody accepted, and what he remembers of it.
fn accepted() -> (Platform, KnownSignatures) {
    let (platform, known) = (Platform::new(), KnownSignatures::new());
    platform.judge_knowing(&known, &policy(), NOW).unwrap();
    assert!(!known.is_empty());
    (platform, known)
}

/// Judges the platform's quote with other collateral.
fn with(platform: &Platform, collateral: &Value, known: &KnownSignatures) -> Judged {
    let collateral = TdxCollateral::from_json(collateral.to_string().as_bytes()).unwrap();
    let (quote, root) = (platform.signed_quote(), platform.trusted());
    verify_tdx_quote_knowing(
        &quote,
        &collateral,
        &REPORT_DATA,
        &policy(),
        &root,
        known,
        NOW,
    )
}

#[test]
fn evidence_is_accepted_again_with_the_same_lines() {
    let (platform, known) = accepted();
    let first = platform.judge().unwrap();
    for now in [ISSUED, NOW, DUE.minus(1)] {
        let again = platform.judge_knowing(&known, &policy(), now).unwrap();
        let alone = platform.judge_at(&policy(), now).unwrap();
        assert_eq!(again.checks(), alone.checks());
        assert_eq!(again.collateral(), first.collateral());
    }
}

#[test]
fn b18_known_signatures_outlive_no_date() {
    let (platform, known) = accepted();
    let at = |now: UnixTime| {
        let refused = platform.judge_knowing(&known, &policy(), now).unwrap_err();
        assert_eq!(platform.judge_at(&policy(), now).unwrap_err(), refused);
        refused
    };
    assert!(matches!(
        at(DUE),
        R::CrlStale {
            list: TdxCrl::Root,
            ..
        }
    ));
    assert!(matches!(
        at(ISSUED.minus(1)),
        R::CrlNotYetValid {
            list: TdxCrl::Root,
            ..
        }
    ));
    assert!(matches!(
        at(UnixTime::from_secs(CERTIFICATE_UNTIL.1)),
        R::CrlStale { .. }
    ));
}

#[test]
fn b18_each_document_ends_by_itself() {
    for document in [Document::TcbInfo, Document::QeIdentity] {
        let mut platform = Platform::new();
        let text = match document {
            Document::TcbInfo => &mut platform.tcb_info,
            Document::QeIdentity => &mut platform.qe_identity,
        };
        text["nextUpdate"] = "2026-03-02T00:00:00Z".into();
        let known = KnownSignatures::new();
        let until = NOW.plus(DAY);
        for now in [NOW, until] {
            platform.judge_knowing(&known, &policy(), now).unwrap();
        }
        let now = until.plus(1);
        assert_eq!(
            platform.judge_knowing(&known, &policy(), now).unwrap_err(),
            R::DocumentExpired {
                document,
                until,
                now
            }
        );
    }
}

#[test]
fn b19_a_newer_list_that_names_somebody_counts() {
    let (mut platform, known) = accepted();
    platform.pck_crl = crl(&platform.authority, &[platform.pck.serial]);
    assert_eq!(
        platform.judge_knowing(&known, &policy(), NOW).unwrap_err(),
        R::CertificateRevoked {
            certificate: Place::Pck
        }
    );
}

#[test]
fn one_bundle_serves_no_other() {
    let ((mine, known), (other, _)) = (accepted(), accepted());
    // Another root's evidence, which says the same and is now known, too.
    other.judge_knowing(&known, &policy(), NOW).unwrap();
    let (ours, theirs) = (mine.collateral_json(), other.collateral_json());
    let crl = |list| R::CrlSignature(list);
    let chain = |certificate| R::ChainSignature { certificate };
    for (field, refusal) in [
        ("root_ca_crl", crl(TdxCrl::Root)),
        ("pck_crl", crl(TdxCrl::Pck)),
        ("tcb_info_issuer_chain", chain(Place::TcbInfoSigner)),
        ("qe_identity_issuer_chain", chain(Place::QeIdentitySigner)),
        (
            "tcb_info_signature",
            R::DocumentSignature(Document::TcbInfo),
        ),
        (
            "qe_identity_signature",
            R::DocumentSignature(Document::QeIdentity),
        ),
    ] {
        let mut mixed = ours.clone();
        mixed[field] = theirs[field].clone();
        assert_eq!(with(&mine, &mixed, &known).unwrap_err(), refusal, "{field}");
    }
    // A signature of mine over a text that is not the one it was verified for.
    for (field, document) in [
        ("tcb_info", Document::TcbInfo),
        ("qe_identity", Document::QeIdentity),
    ] {
        let mut edited = ours.clone();
        let text = edited[field]
            .as_str()
            .unwrap()
            .replace("UpToDate", "Revoked");
        assert_ne!(text, ours[field]);
        edited[field] = text.into();
        assert_eq!(
            with(&mine, &edited, &known).unwrap_err(),
            R::DocumentSignature(document)
        );
    }
}

#[test]
fn refused_evidence_leaves_nothing_behind() {
    let known = KnownSignatures::new();
    let mut platform = Platform::new();
    platform.quote.body(520, &[0x45; 64]);
    let refused = platform.judge_knowing(&known, &policy(), NOW).unwrap_err();
    assert_eq!(refused, R::BindingMismatch);
    assert!(known.is_empty());
    platform.judge_knowing(&known, &policy(), DUE).unwrap_err();
    assert!(known.is_empty());
}
