//! Collateral: its shape, its signatures, what it is for and when it counts (rules T6, T7, T12).

use casemate_attestation::tdx::{
    TDX_COLLATERAL_BYTES_MAX, TdxCollateral, TdxDocument as Document, TdxRejection as R,
    verify_tdx_quote,
};
use serde_json::{Value, json};

use super::*;

/// Judges the platform's quote with this collateral.
pub fn judge(platform: &Platform, collateral: &Value) -> Judged {
    let collateral = TdxCollateral::from_json(collateral.to_string().as_bytes())?;
    let (quote, root) = (platform.signed_quote(), platform.trusted());
    verify_tdx_quote(&quote, &collateral, &REPORT_DATA, &policy(), &root, NOW)
}

fn malformed(text: &str) -> String {
    match TdxCollateral::from_json(text.as_bytes()).unwrap_err() {
        refused @ R::CollateralMalformed(_) => {
            assert_eq!(refused.rule(), "T6");
            refused.to_string()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn b25_tdx_collateral_is_one_strict_and_bounded_document() {
    let good = Platform::new().collateral_json().to_string();
    let collateral = TdxCollateral::from_json(good.as_bytes()).unwrap();
    let again = collateral.to_json().unwrap();
    assert_eq!(TdxCollateral::from_json(&again).unwrap(), collateral);
    assert!(TdxCollateral::from_json(format!(" {good}\n").as_bytes()).is_ok());
    let twice = good.replacen('{', "{\"pck_crl\":\"00\",", 1);
    assert!(malformed(&twice).contains("twice"), "{}", malformed(&twice));
    for (name, value) in [
        ("unknown", json!("")),
        ("pck_crl", json!("0A")),
        ("pck_crl", json!("0")),
        ("pck_crl", json!("zz")),
        ("pck_crl", json!(null)),
        ("tcb_info", json!({"id": "TDX"})),
    ] {
        let mut edited: Value = serde_json::from_str(&good).unwrap();
        edited[name] = value;
        malformed(&edited.to_string());
    }
    for name in ["pck_crl_issuer_chain", "root_ca_crl", "qe_identity"] {
        let mut edited: Value = serde_json::from_str(&good).unwrap();
        edited.as_object_mut().unwrap().remove(name);
        malformed(&edited.to_string());
    }
    malformed("");
    malformed("[]");
    let long = format!("{{{}}}", " ".repeat(TDX_COLLATERAL_BYTES_MAX));
    assert!(malformed(&long).contains("bytes"));
}

const BOTH: [(Document, &str); 2] = [
    (Document::TcbInfo, "tcb_info"),
    (Document::QeIdentity, "qe_identity"),
];

/// Changes one of the documents before it is signed.
fn edited(document: Document, change: impl FnOnce(&mut Value)) -> Judged {
    after(|platform| match document {
        Document::TcbInfo => change(&mut platform.tcb_info),
        Document::QeIdentity => change(&mut platform.qe_identity),
    })
}

#[test]
fn t6_documents_are_signed_as_they_came() {
    for (document, name) in BOTH {
        let platform = Platform::new();
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut collateral = platform.collateral_json();
            change(&mut collateral);
            judge(&platform, &collateral).unwrap_err()
        };
        let signature = format!("{name}_signature");
        let wanted = R::DocumentSignature(document);
        // A space that no reader minds, another's signature, a short one, a long one, none.
        let spaced = |collateral: &mut Value| {
            let text = collateral[name].as_str().unwrap().replacen(':', ": ", 1);
            collateral[name] = text.into();
        };
        assert_eq!(refused(&spaced), wanted);
        let other = |collateral: &mut Value| {
            let twin = Platform::new().collateral_json();
            collateral[&signature] = twin[&signature].clone();
        };
        assert_eq!(refused(&other), wanted);
        for bytes in [0, 63, 65, 128] {
            let cut = |collateral: &mut Value| {
                let mut text = collateral[&signature].as_str().unwrap().to_owned();
                text.push_str(&text.clone());
                collateral[&signature] = text[..2 * bytes].into();
            };
            assert_eq!(refused(&cut), wanted, "{bytes}");
        }
        assert_eq!(wanted.rule(), "T6");
    }
    // Each signer has its own key: one cannot sign for the other.
    let platform = Platform::new();
    let mut collateral = platform.collateral_json();
    collateral["tcb_info_issuer_chain"] = collateral["qe_identity_issuer_chain"].clone();
    let refused = judge(&platform, &collateral).unwrap_err();
    assert_eq!(refused, R::DocumentSignature(Document::TcbInfo));
}

#[test]
fn t6_documents_are_for_tdx_and_of_a_known_version() {
    for (document, id, other) in [
        (Document::TcbInfo, "TDX", "SGX"),
        (Document::QeIdentity, "TD_QE", "QE"),
    ] {
        for found in [other, "", &id.to_lowercase()] {
            let refused = edited(document, |value| value["id"] = found.into()).unwrap_err();
            let found = found.to_owned();
            assert_eq!(refused, R::DocumentId { document, found });
        }
    }
    for (document, known) in [(Document::TcbInfo, 3), (Document::QeIdentity, 2)] {
        for found in [0_u32, known - 1, known + 1] {
            let refused = edited(document, |value| value["version"] = found.into()).unwrap_err();
            assert_eq!(refused, R::DocumentVersion { document, found });
        }
    }
}

#[test]
fn t6_documents_are_well_formed() {
    let what = |refused: R| match refused {
        R::DocumentMalformed { what, .. } => what,
        other => panic!("{other}"),
    };
    for (document, _) in BOTH {
        for name in [
            "id",
            "issueDate",
            "nextUpdate",
            "tcbLevels",
            "tcbEvaluationDataNumber",
        ] {
            let refused = edited(document, |value| {
                value.as_object_mut().unwrap().remove(name);
            });
            what(refused.unwrap_err());
        }
        for date in [
            "2026-02-20",
            "2026-02-30T00:00:00Z",
            "2026-02-20T00:00:00+00:00",
        ] {
            let refused = edited(document, |value| value["issueDate"] = date.into());
            assert!(what(refused.unwrap_err()).contains("date"));
        }
        let refused = edited(document, |value| {
            value["padding"] = "x".repeat(64 * 1024).into();
        });
        assert!(what(refused.unwrap_err()).contains("bytes"));
        // What Intel adds later is let pass.
        assert!(edited(document, |value| value["later"] = json!([1, {"a": 2}])).is_ok());
    }
    let refused = edited(Document::TcbInfo, |value| value["tcbType"] = 1.into());
    assert_eq!(what(refused.unwrap_err()), "its TCB type is not 0");
    let refused = edited(Document::TcbInfo, |value| {
        value["tcbLevels"][0]["tcb"]["tdxtcbcomponents"] = json!([{"svn": 0}]);
    });
    assert!(what(refused.unwrap_err()).contains("16 components"));
    let refused = edited(Document::TcbInfo, |value| {
        value["tcbLevels"][0]["tcbStatus"] = "Fine".into();
    });
    what(refused.unwrap_err());
    let refused = edited(Document::QeIdentity, |value| {
        value["mrsigner"] = "dc".into()
    });
    assert_eq!(what(refused.unwrap_err()), "mrsigner is not 32 bytes");
}

#[test]
fn b18_tdx_documents_count_from_their_first_to_their_last_second() {
    for (document, _) in BOTH {
        let at = |from: &str, until: &str| {
            edited(document, |value| {
                value["issueDate"] = from.into();
                value["nextUpdate"] = until.into();
            })
        };
        let (first, last) = ("2026-02-20T00:00:00Z", "2026-03-22T00:00:00Z");
        let now = "2026-03-01T00:00:00Z";
        assert!(at(now, last).is_ok());
        assert!(at(first, now).is_ok());
        let refused = at("2026-03-01T00:00:01Z", last).unwrap_err();
        let (from, now) = (NOW.plus(1), NOW);
        assert_eq!(
            refused,
            R::DocumentNotYetValid {
                document,
                from,
                now
            }
        );
        let refused = at(first, "2026-02-28T23:59:59Z").unwrap_err();
        let until = NOW.minus(1);
        assert_eq!(
            refused,
            R::DocumentExpired {
                document,
                until,
                now
            }
        );
        assert_eq!(refused.rule(), "T6");
    }
}

#[test]
fn t7_tcb_info_is_for_this_platform() {
    let with =
        |name: &str, value: &str| edited(Document::TcbInfo, |info| info[name] = value.into());
    assert!(with("fmspc", "90c06f000000").is_ok());
    for tcb_info in ["90c06f000001", "90c06f0000", ""] {
        let refused = with("fmspc", tcb_info).unwrap_err();
        let (tcb_info, certificate) = (tcb_info.to_owned(), "90c06f000000".to_owned());
        assert_eq!(
            refused,
            R::Fmspc {
                tcb_info,
                certificate
            }
        );
        assert_eq!(refused.rule(), "T7");
    }
    // The certificate's own, both of its bytes.
    for (bytes, text) in [([0, 1], "0001"), ([2, 0], "0200")] {
        let described = |pce_id: &str| {
            after(|platform| {
                platform.describe(|sgx| sgx.at(&[2, 1]).bytes = bytes.to_vec());
                platform.tcb_info["pceId"] = pce_id.into();
            })
        };
        assert_eq!(described(text).unwrap().platform().pce_id(), &bytes);
        let (tcb_info, certificate) = ("0000".to_owned(), text.to_owned());
        assert_eq!(
            described("0000").unwrap_err(),
            R::PceId {
                tcb_info,
                certificate
            }
        );
    }
    for tcb_info in ["0001", "0100", ""] {
        let refused = with("pceId", tcb_info).unwrap_err();
        let (tcb_info, certificate) = (tcb_info.to_owned(), "0000".to_owned());
        assert_eq!(
            refused,
            R::PceId {
                tcb_info,
                certificate
            }
        );
        assert_eq!(refused.rule(), "T7");
    }
}

#[test]
fn t12_collateral_below_the_floor_is_refused_at_the_floor_accepted() {
    for (document, _) in BOTH {
        let with = |number: u32| {
            edited(document, |value| {
                value["tcbEvaluationDataNumber"] = number.into();
            })
        };
        assert_eq!(
            with(EVALUATION).unwrap().collateral().evaluation,
            EVALUATION
        );
        // The lower of the two counts.
        assert_eq!(
            with(EVALUATION + 1).unwrap().collateral().evaluation,
            EVALUATION
        );
        let (found, floor) = (EVALUATION - 1, EVALUATION);
        let refused = with(found).unwrap_err();
        assert_eq!(
            refused,
            R::CollateralBelowFloor {
                document,
                found,
                floor
            }
        );
        assert_eq!(refused.rule(), "T12");
    }
}

#[test]
fn t12_collateral_as_old_as_policy_accepts_and_a_second_older() {
    let age = NOW.secs() - ISSUED.secs();
    assert!(under(|policy| policy.with_collateral_age_max_secs(age)).is_ok());
    let refused = under(|policy| policy.with_collateral_age_max_secs(age - 1)).unwrap_err();
    let limit = age - 1;
    let part = "TCB info";
    assert_eq!(refused, R::CollateralTooOld { part, age, limit });
    // Each of the three is asked.
    let newer = |platform: &mut Platform| {
        platform.tcb_info["issueDate"] = "2026-03-01T00:00:00Z".into();
    };
    let refused = |change: &dyn Fn(&mut Platform)| {
        let mut platform = Platform::new();
        change(&mut platform);
        let policy = policy().with_collateral_age_max_secs(limit);
        platform.judge_under(&policy).unwrap_err()
    };
    let part = "QE identity";
    assert_eq!(refused(&newer), R::CollateralTooOld { part, age, limit });
    let both = |platform: &mut Platform| {
        newer(platform);
        platform.qe_identity["issueDate"] = "2026-03-01T00:00:00Z".into();
    };
    let part = "revocation list of the PCK authority";
    assert_eq!(refused(&both), R::CollateralTooOld { part, age, limit });
    assert_eq!(refused(&both).rule(), "T12");
}

#[test]
fn a_verdict_counts_as_long_as_its_collateral_and_no_longer() {
    let until = |change: fn(&mut Platform)| {
        let verdict = after(change).unwrap();
        let window = verdict.collateral();
        (NOW.plus(9 * DAY) == window.until, window.issued == ISSUED)
    };
    const LAST: &str = "2026-03-10T00:00:00Z";
    // A document counts in its last second, a list no longer at the second when the next is due.
    assert_eq!(
        until(|platform| platform.tcb_info["nextUpdate"] = LAST.into()),
        (true, true)
    );
    assert_eq!(
        until(|platform| platform.qe_identity["nextUpdate"] = LAST.into()),
        (true, true)
    );
    const LIST_DUE: &[u8] = b"260310000001Z";
    assert_eq!(
        until(|platform| {
            let key = &platform.root.key;
            let list = altered(key, &platform.root_crl, |inner, _| {
                inner.parts[4].bytes = LIST_DUE.to_vec();
            });
            platform.root_crl = list;
        }),
        (true, true)
    );
    assert_eq!(
        until(|platform| {
            let key = &platform.authority.key;
            let list = altered(key, &platform.pck_crl, |inner, _| {
                inner.parts[4].bytes = LIST_DUE.to_vec();
            });
            platform.pck_crl = list;
        }),
        (true, true)
    );
}
