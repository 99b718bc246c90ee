//! How good the firmware is: quoting enclave, module, platform, and what policy accepts of it (rules T8 to T11).

use casemate_attestation::tdx::{TcbStatus as Status, TdxPolicyError, TdxRejection as R, TdxTcb};
use serde_json::json;

use super::*;

fn qe(offset: usize, value: &[u8]) -> Judged {
    after(|platform| put(&mut platform.quote.qe_report, offset, value))
}

/// Accepts a status with these advisories.
fn accepting(change: impl FnOnce(&mut Platform), status: Status, advisories: &[&str]) -> Judged {
    let mut platform = Platform::new();
    change(&mut platform);
    platform.judge_under(&policy().accepting(status, advisories).unwrap())
}

/// The first level of the platform gets this status.
fn platform_is(platform: &mut Platform, status: &str, advisories: &[&str]) {
    platform.tcb_info["tcbLevels"][0]["tcbStatus"] = status.into();
    platform.tcb_info["tcbLevels"][0]["advisoryIDs"] = json!(advisories);
}

fn not_accepted(part: &'static str, status: Status) -> R {
    R::StatusNotAccepted { part, status }
}

const TOGETHER: &str = "platform with all its parts";

#[test]
fn b15_tdx_quoting_enclave_is_the_one_that_its_identity_names() {
    assert_eq!(qe(QE_MR_SIGNER, &[0xdd]).unwrap_err(), R::QeSigner);
    for found in [0, 1, 3, 0x0102] {
        let refused = qe(QE_PRODUCT, &u16::to_le_bytes(found)).unwrap_err();
        assert_eq!(refused, R::QeProduct { found, expected: 2 });
    }
    for byte in 0..4 {
        assert_eq!(
            qe(QE_MISC_SELECT + byte, &[1]).unwrap_err(),
            R::QeMiscSelect
        );
    }
    // INIT missing, DEBUG set, an attribute that the mask covers. Outside of the mask nothing counts.
    for (offset, value) in [(0, 0x14), (0, 0x17), (1, 1), (7, 0x80)] {
        let refused = qe(QE_ATTRIBUTES + offset, &[value]).unwrap_err();
        assert_eq!(refused, R::QeAttributes, "{offset} {value:#x}");
    }
    assert!(qe(QE_ATTRIBUTES, &[0x11]).is_ok());
    assert!(qe(QE_ATTRIBUTES + 8, &[0x07]).is_ok());
    // No identity can make an enclave under debug good.
    let refused = refusal(|platform| {
        put(&mut platform.quote.qe_report, QE_ATTRIBUTES, &[0x17]);
        platform.qe_identity["attributesMask"] = "FDFFFFFFFFFFFFFF0000000000000000".into();
    });
    assert_eq!((refused.rule(), refused), ("T8", R::QeAttributes));
}

#[test]
fn t8_enclave_at_a_level_between_levels_and_below_all() {
    let version = |version: u16| qe(QE_VERSION, &version.to_le_bytes());
    assert!(version(8).is_ok());
    assert!(version(9).is_ok());
    for old in [7, 6] {
        let refused = version(old).unwrap_err();
        assert_eq!(refused, not_accepted(TOGETHER, Status::OutOfDate));
    }
    assert_eq!(version(5).unwrap_err(), R::QeBelowEveryLevel(5));
    assert_eq!(R::QeBelowEveryLevel(5).rule(), "T8");
}

fn svn(launch: &[u8], current: &[u8]) -> Judged {
    after(|platform| {
        platform.quote.body(TEE_TCB_SVN, launch);
        platform.quote.body(TEE_TCB_SVN_2, current);
    })
}

#[test]
fn b15_tdx_module_is_known_and_signed_by_whom_tcb_info_names() {
    assert_eq!(
        svn(&[6, 2, 3], &[7, 1, 3]).unwrap_err(),
        R::ModuleUnknown(2)
    );
    assert_eq!(
        svn(&[6, 1, 3], &[7, 2, 3]).unwrap_err(),
        R::ModuleUnknown(2)
    );
    let signer = "11".repeat(48);
    let refused = refusal(|platform| {
        platform.tcb_info["tdxModuleIdentities"][0]["mrsigner"] = signer.clone().into();
    });
    assert_eq!(refused, R::ModuleSigner);
    let refused = refusal(|platform| platform.quote.body(MR_SIGNER_SEAM, &[1]));
    assert_eq!(refused, R::ModuleSigner);
    for bit in [0, 7] {
        let refused = refusal(|platform| platform.quote.body(SEAM_ATTRIBUTES + bit, &[0x80]));
        assert_eq!(refused, R::ModuleAttributes);
        // A mask that leaves the bit out does not make it good.
        let refused = refusal(|platform| {
            platform.quote.body(SEAM_ATTRIBUTES + bit, &[0x80]);
            platform.tcb_info["tdxModuleIdentities"][0]["attributesMask"] =
                "0000000000000000".into();
        });
        assert_eq!(refused, R::ModuleAttributes);
    }
    assert_eq!(R::ModuleAttributes.rule(), "T9");
}

#[test]
fn t9_module_of_the_first_generation_is_the_base_modules() {
    // Generation 0 has no identity, and its version is a component of the platform's level.
    let first = |change: fn(&mut Platform)| {
        after(|platform| {
            platform.quote.version_4();
            platform.quote.body(TEE_TCB_SVN, &[6, 0, 3]);
            change(platform);
        })
    };
    assert!(first(|_| ()).is_ok());
    let refused = first(|platform| {
        platform.tcb_info["tdxModule"]["mrsigner"] = "11".repeat(48).into();
    });
    assert_eq!(refused.unwrap_err(), R::ModuleSigner);
    let refused = first(|platform| {
        platform
            .tcb_info
            .as_object_mut()
            .unwrap()
            .remove("tdxModule");
    });
    assert_eq!(refused.unwrap_err().rule(), "T6");
    // Its components 0 and 1 count, as they do not from the second generation on.
    let components = |first: u8| {
        move |platform: &mut Platform| {
            platform.tcb_info["tcbLevels"] = json!([level(5, 13, &[first, 0, 3], "UpToDate", &[])]);
        }
    };
    let judge = |version: u8, wanted: u8, generation: u8| {
        after(|platform| {
            platform.quote.version_4();
            platform.quote.body(TEE_TCB_SVN, &[version, generation, 3]);
            components(wanted)(platform);
        })
    };
    assert!(judge(6, 6, 0).is_ok());
    assert_eq!(judge(6, 7, 0).unwrap_err(), R::NoTcbLevel(TdxTcb::Launch));
    assert!(judge(6, 7, 1).is_ok());
}

#[test]
fn t9_module_at_a_level_between_levels_and_below_all() {
    assert!(svn(&[6, 1, 3], &[6, 1, 3]).is_ok());
    for old in [5, 4] {
        let refused = svn(&[old, 1, 3], &[old, 1, 3]).unwrap_err();
        assert_eq!(refused, not_accepted(TOGETHER, Status::OutOfDate));
    }
    let below = |tcb, found| R::ModuleBelowEveryLevel { tcb, found };
    let refused = svn(&[3, 1, 3], &[7, 1, 3]).unwrap_err();
    assert_eq!(refused, below(TdxTcb::Launch, 3));
    let refused = svn(&[6, 1, 3], &[3, 1, 3]).unwrap_err();
    assert_eq!(refused, below(TdxTcb::Current, 3));
    assert_eq!(refused.rule(), "T9");
}

#[test]
fn t10_every_component_must_suffice() {
    let with = |index: u8, value: u8| {
        after(|platform| {
            platform.describe(|sgx| sgx.at(&[1, 1, usize::from(index) - 1, 1]).bytes = vec![value]);
        })
    };
    for index in 1..=16 {
        assert!(with(index, 6).is_ok());
        let refused = with(index, 4).unwrap_err();
        assert_eq!(
            refused,
            not_accepted(TOGETHER, Status::OutOfDate),
            "{index}"
        );
        assert_eq!(with(index, 3).unwrap_err(), R::NoTcbLevel(TdxTcb::Launch));
    }
    let pce = |value| with(17, value);
    assert!(pce(14).is_ok());
    assert_eq!(
        pce(12).unwrap_err(),
        not_accepted(TOGETHER, Status::OutOfDate)
    );
    assert_eq!(pce(10).unwrap_err(), R::NoTcbLevel(TdxTcb::Launch));
    assert_eq!(
        svn(&[6, 1, 1], &[7, 1, 3]).unwrap_err(),
        R::NoTcbLevel(TdxTcb::Launch)
    );
    assert_eq!(
        svn(&[6, 1, 3], &[7, 1, 1]).unwrap_err(),
        R::NoTcbLevel(TdxTcb::Current)
    );
    assert_eq!(R::NoTcbLevel(TdxTcb::Current).rule(), "T10");
}

#[test]
fn t10_floor_of_tee_tcb_svn_at_launch_and_now() {
    let judge = |launch: [u8; 3], current: [u8; 3], floor: [u8; 3]| {
        let mut platform = Platform::new();
        platform.quote.body(TEE_TCB_SVN, &launch);
        platform.quote.body(TEE_TCB_SVN_2, &current);
        let mut whole = [0; 16];
        put(&mut whole, 0, &floor);
        platform.judge_under(&policy().with_tee_tcb_svn_floor(whole))
    };
    assert!(judge([6, 1, 3], [6, 1, 3], [6, 1, 3]).is_ok());
    // A module of a later generation begins its versions anew.
    assert!(judge([6, 1, 3], [6, 1, 3], [9, 0, 3]).is_ok());
    let refused = |launch, current, floor| match judge(launch, current, floor).unwrap_err() {
        R::TeeTcbSvnBelowFloor { tcb, .. } => tcb,
        other => panic!("{other}"),
    };
    assert_eq!(refused([6, 1, 3], [7, 1, 3], [7, 1, 3]), TdxTcb::Launch);
    assert_eq!(refused([7, 1, 3], [6, 1, 3], [7, 1, 3]), TdxTcb::Current);
    assert_eq!(refused([6, 1, 3], [6, 1, 3], [6, 1, 4]), TdxTcb::Launch);
    assert_eq!(refused([6, 1, 3], [6, 1, 3], [0, 2, 0]), TdxTcb::Launch);
}

#[test]
fn t11_each_status_is_accepted_by_name_and_by_no_other() {
    let list = [
        ("SWHardeningNeeded", Status::SWHardeningNeeded),
        ("ConfigurationNeeded", Status::ConfigurationNeeded),
        (
            "ConfigurationAndSWHardeningNeeded",
            Status::ConfigurationAndSWHardeningNeeded,
        ),
        ("OutOfDate", Status::OutOfDate),
        (
            "OutOfDateConfigurationNeeded",
            Status::OutOfDateConfigurationNeeded,
        ),
    ];
    for (name, status) in list {
        let refused = refusal(|platform| platform_is(platform, name, &[]));
        assert_eq!(refused, not_accepted(TOGETHER, status));
        for (_, accepted) in list {
            let judged = accepting(|platform| platform_is(platform, name, &[]), accepted, &[]);
            if accepted == status {
                let verdict = judged.unwrap();
                assert_eq!(verdict.status(), status);
                assert!(remarks(&verdict).contains(&"T11"));
            } else {
                assert_eq!(judged.unwrap_err(), not_accepted(TOGETHER, status));
            }
        }
    }
    assert_eq!(not_accepted(TOGETHER, Status::OutOfDate).rule(), "T11");
}

#[test]
fn t11_revoked_is_accepted_by_no_policy() {
    assert_eq!(
        policy().accepting(Status::Revoked, &[]).unwrap_err(),
        TdxPolicyError::RevokedAccepted
    );
    let every = || {
        let policy = policy().accepting(Status::OutOfDate, &[]).unwrap();
        policy.accepting(Status::TDRelaunchAdvised, &[]).unwrap()
    };
    let refused = |change: &dyn Fn(&mut Platform)| {
        let mut platform = Platform::new();
        change(&mut platform);
        platform.judge_under(&every()).unwrap_err()
    };
    let refused_platform = refused(&|platform| platform_is(platform, "Revoked", &[]));
    assert_eq!(refused_platform, R::TcbRevoked("platform"));
    let module = refused(&|platform| {
        platform.tcb_info["tdxModuleIdentities"][0]["tcbLevels"][0]["tcbStatus"] = "Revoked".into();
    });
    assert_eq!(module, R::TcbRevoked("TDX module"));
    let enclave = refused(&|platform| {
        platform.qe_identity["tcbLevels"][0]["tcbStatus"] = "Revoked".into();
    });
    assert_eq!(enclave, R::TcbRevoked("quoting enclave"));
    let now = refused(&|platform| {
        platform.tcb_info["tcbLevels"] = json!([
            level(5, 13, &[0, 0, 4], "UpToDate", &[]),
            level(5, 13, &[0, 0, 3], "Revoked", &[]),
        ]);
        platform.quote.body(TEE_TCB_SVN, &[6, 1, 4]);
    });
    assert_eq!(now, R::TcbRevoked("platform now"));
    assert_eq!(now.rule(), "T11");
}

#[test]
fn t11_what_joining_forgets_is_asked_apart() {
    // Intel joins "configuration needed" of a quoting enclave into nothing.
    let enclave = |platform: &mut Platform| {
        platform.qe_identity["tcbLevels"][0]["tcbStatus"] = "ConfigurationNeeded".into();
    };
    let refused = refusal(enclave);
    assert_eq!(
        refused,
        not_accepted("quoting enclave", Status::ConfigurationNeeded)
    );
    assert!(accepting(enclave, Status::ConfigurationNeeded, &[]).is_ok());
    // What runs now may be worse than what was launched.
    let downgraded = |platform: &mut Platform| {
        platform.quote.body(TEE_TCB_SVN_2, &[5, 1, 3]);
    };
    let refused = refusal(downgraded);
    let now = "firmware that runs now";
    assert_eq!(refused, not_accepted(now, Status::OutOfDate));
    let (status, advisory) = (Status::OutOfDate, "INTEL-SA-00002");
    let refused = accepting(downgraded, status, &[]).unwrap_err();
    let missing = advisory.to_owned();
    assert_eq!(
        refused,
        R::AdvisoryNotAccepted {
            status,
            advisory: missing
        }
    );
    let verdict = accepting(downgraded, status, &[advisory]).unwrap();
    assert_eq!(verdict.status(), Status::UpToDate);
    assert!(remarks(&verdict).contains(&"T11"));
}

#[test]
fn t11_relaunch_is_advised_when_the_module_was_updated_under_the_td() {
    let updated = |platform: &mut Platform| platform.quote.body(TEE_TCB_SVN, &[5, 1, 3]);
    let (status, advisory) = (Status::TDRelaunchAdvised, "INTEL-SA-00002");
    assert_eq!(refusal(updated), not_accepted(TOGETHER, status));
    let verdict = accepting(updated, status, &[advisory]).unwrap();
    assert_eq!(verdict.status(), status);
    assert_eq!(verdict.advisories(), [advisory]);
    // "Out of date" is not the same and does not stand for it.
    let refused = accepting(updated, Status::OutOfDate, &[advisory]).unwrap_err();
    assert_eq!(refused, not_accepted(TOGETHER, status));
    let both = |platform: &mut Platform| {
        updated(platform);
        platform_is(platform, "ConfigurationNeeded", &[]);
    };
    let status = Status::TDRelaunchAdvisedConfigurationNeeded;
    assert_eq!(refusal(both), not_accepted(TOGETHER, status));
}

#[test]
fn t11_advisories_are_accepted_by_name() {
    let (first, second) = ("INTEL-SA-00001", "INTEL-SA-00009");
    let change =
        |platform: &mut Platform| platform_is(platform, "SWHardeningNeeded", &[first, second]);
    let status = Status::SWHardeningNeeded;
    let accepted = accepting(change, status, &[first, second]).unwrap();
    assert_eq!(accepted.advisories(), [first, second]);
    for (named, missing) in [
        (vec![first], second),
        (vec![second], first),
        (vec![], first),
    ] {
        let refused = accepting(change, status, &named).unwrap_err();
        let advisory = missing.to_owned();
        assert_eq!(refused, R::AdvisoryNotAccepted { status, advisory });
        assert_eq!(refused.rule(), "T11");
    }
    // Advisories of parts count, too.
    let parts = |platform: &mut Platform| {
        platform.quote.body(TEE_TCB_SVN, &[5, 1, 3]);
        platform.quote.body(TEE_TCB_SVN_2, &[5, 1, 3]);
        put(&mut platform.quote.qe_report, QE_VERSION, &[6, 0]);
    };
    let ids = ["INTEL-SA-00002", "INTEL-SA-00003"];
    let verdict = accepting(parts, Status::OutOfDate, &ids).unwrap();
    assert_eq!(verdict.advisories(), ids);
    let refused = accepting(parts, Status::OutOfDate, &ids[..1]).unwrap_err();
    let (status, advisory) = (Status::OutOfDate, ids[1].to_owned());
    assert_eq!(refused, R::AdvisoryNotAccepted { status, advisory });
    // At "up to date" they are shown.
    let shown = after(|platform| platform_is(platform, "UpToDate", &[first])).unwrap();
    assert_eq!(shown.advisories(), [first]);
    assert!(remarks(&shown).contains(&"T11"));
}
