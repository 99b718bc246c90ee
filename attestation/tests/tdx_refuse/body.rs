//! What the TD is, whose connection it is, and on which machine it runs (rules T13 to T19), and policies.

use casemate_attestation::tdx::{
    Expected, PlatformFlag, TdxCollateral, TdxMeasurement, TdxPolicy, TdxPolicyError,
    TdxRejection as R, verify_tdx_quote,
};
use casemate_attestation::{ChipId, Measurement};

use super::common::der::Der;
use super::*;

const SEPT_VE_DISABLE: u64 = 1 << 28;

fn attributes(bits: u64) -> Judged {
    after(|platform| platform.quote.body(TD_ATTRIBUTES, &bits.to_le_bytes()))
}

#[test]
fn b07_tdx_debug_is_refused_by_every_policy() {
    assert_eq!(
        attributes(SEPT_VE_DISABLE | 1).unwrap_err(),
        R::DebugPermitted
    );
    for bit in 1..8 {
        let refused = attributes(SEPT_VE_DISABLE | 1 << bit).unwrap_err();
        assert_eq!(refused, R::UnderDebug(1 << bit));
    }
    assert_eq!(R::DebugPermitted.rule(), "T13");
}

#[test]
fn b08_tdx_migration_and_unknown_attributes_are_refused() {
    assert_eq!(attributes(0).unwrap_err(), R::SeptVeDisableOff);
    let refused = attributes(SEPT_VE_DISABLE | 1 << 29).unwrap_err();
    assert_eq!(refused, R::MigrationPermitted);
    let harmless = [16, 27, 30, 31];
    for bit in (8..64).filter(|bit| ![28, 29].contains(bit)) {
        let judged = attributes(SEPT_VE_DISABLE | 1 << bit);
        if harmless.contains(&bit) {
            assert!(judged.is_ok(), "{bit}");
        } else {
            assert_eq!(judged.unwrap_err(), R::AttributesNotAccepted(1 << bit));
        }
    }
    assert_eq!(R::AttributesNotAccepted(1).rule(), "T13");
}

#[test]
fn t13_performance_counters_by_policy() {
    let mut platform = Platform::new();
    platform
        .quote
        .body(TD_ATTRIBUTES, &(SEPT_VE_DISABLE | 1 << 63).to_le_bytes());
    let verdict = platform.judge_under(&policy().accepting_perfmon()).unwrap();
    assert!(remarks(&verdict).contains(&"T13"));
}

#[test]
fn t14_xfam_has_its_fixed_bits_and_none_but_those_that_policy_accepts() {
    let xfam = |bits: u64| after(|platform| platform.quote.body(XFAM, &bits.to_le_bytes()));
    let supported = 0x0006_dbe7_u64;
    assert!(xfam(3).is_ok());
    assert!(xfam(supported).is_ok());
    for bits in [0, 1, 2, supported & !1] {
        assert_eq!(xfam(bits).unwrap_err(), R::XfamFixedBits(bits));
    }
    for bit in (0..64).filter(|bit| supported & 1 << bit == 0) {
        assert_eq!(
            xfam(3 | 1 << bit).unwrap_err(),
            R::XfamNotAccepted(1 << bit)
        );
    }
    // Policy narrows it: at the mask, and one bit beyond.
    let narrow = |mask: u64| under(|policy| policy.with_xfam(mask).unwrap());
    assert!(narrow(0x0006_02e7).is_ok());
    assert_eq!(
        narrow(0x0002_02e7).unwrap_err(),
        R::XfamNotAccepted(0x0004_0000)
    );
    for mask in [0, 1, 2, u64::MAX] {
        let refused = policy().with_xfam(mask).unwrap_err();
        assert_eq!(refused, TdxPolicyError::Xfam(mask));
    }
    assert_eq!(R::XfamFixedBits(0).rule(), "T14");
}

#[test]
fn t14_module_by_list_signer_and_attributes() {
    let refused = under(|policy| policy.with_mr_seam(exactly(0x12))).unwrap_err();
    assert_eq!(refused, R::MrSeamUnknown(measured(0x11)));
    let refused = under(|policy| policy.with_mr_seam(Expected::OneOf(Vec::new()))).unwrap_err();
    assert_eq!(refused, R::MrSeamUnknown(measured(0x11)));
    let verdict = under(|policy| policy.with_mr_seam(Expected::NotJudged)).unwrap();
    assert!(remarks(&verdict).contains(&"T14"));
    // A signer and attributes that Intel's TCB info names, and that are not those of a module of Intel's.
    let refused = refusal(|platform| {
        platform.quote.body(MR_SIGNER_SEAM, &[0x66; 48]);
        platform.tcb_info["tdxModuleIdentities"][0]["mrsigner"] = "66".repeat(48).into();
    });
    assert_eq!(refused, R::MrSignerSeamNotZero);
    let refused = refusal(|platform| {
        platform.quote.body(SEAM_ATTRIBUTES, &[2]);
        platform.tcb_info["tdxModuleIdentities"][0]["attributes"] = "0200000000000000".into();
    });
    assert_eq!(
        (refused.rule(), refused),
        ("T14", R::SeamAttributesNotZero(2))
    );
}

/// Judges an extended body after `change` of what stands behind the 648 bytes of TDX 1.5.
fn extended(change: fn(&mut [u8; 237])) -> Judged {
    let mut extension = [0; 237];
    change(&mut extension);
    after(|platform| platform.quote.extended(&extension))
}

#[test]
fn t14_t15_extended_body() {
    // The instance's id and the platform of its creation are not judged.
    assert!(extended(|bytes| bytes[1..33].fill(7)).is_ok());
    assert!(extended(|bytes| bytes[137..181].fill(7)).is_ok());
    assert_eq!(extended(|bytes| bytes[0] = 1).unwrap_err(), R::Partition(1));
    for index in [33, 80] {
        let judged = match index {
            33 => extended(|bytes| bytes[33] = 1),
            _ => extended(|bytes| bytes[80] = 1),
        };
        assert_eq!(judged.unwrap_err(), R::DevicesAttached);
    }
    for judged in [
        extended(|bytes| bytes[81..129].fill(9)),
        extended(|bytes| bytes[181..229].fill(9)),
    ] {
        assert_eq!(judged.unwrap_err(), R::ServiceTd(measured(9)));
    }
    for judged in [
        extended(|bytes| bytes[129] = 4),
        extended(|bytes| bytes[229] = 4),
    ] {
        let refused = judged.unwrap_err();
        assert_eq!(
            (refused.rule(), refused),
            ("T15", R::ServiceTdAttributes(4))
        );
    }
}

#[test]
fn t15_service_td_is_none_or_one_that_policy_names() {
    let mut platform = Platform::new();
    platform.quote.body(MR_SERVICE_TD, &[9; 48]);
    let refused = platform.judge().unwrap_err();
    assert_eq!(
        (refused.rule(), refused),
        ("T15", R::ServiceTd(measured(9)))
    );
    let named = |byte| policy().accepting_service_td(measured(byte)).unwrap();
    let verdict = platform.judge_under(&named(9)).unwrap();
    assert!(remarks(&verdict).contains(&"T15"));
    let refused = platform.judge_under(&named(8)).unwrap_err();
    assert_eq!(refused, R::ServiceTd(measured(9)));
    // What every policy lets pass is let pass here, too: LASS, beside the bit that says that there is a service TD.
    let bits = (1_u64 << 28 | 1 << 27 | 1 << 17).to_le_bytes();
    platform.quote.body(TD_ATTRIBUTES, &bits);
    assert!(platform.judge_under(&named(9)).is_ok());
    assert_eq!(
        platform.judge().unwrap_err(),
        R::AttributesNotAccepted(1 << 17)
    );
    // None at all is never worse.
    assert!(Platform::new().judge_under(&named(9)).is_ok());
    let refused = policy().accepting_service_td(measured(0)).unwrap_err();
    assert_eq!(refused, TdxPolicyError::NoServiceTd);
}

#[test]
fn t16_mrtd_and_its_own_registers() {
    let refused = refusal(|platform| platform.quote.body(MRTD + 47, &[0x23]));
    let mut other = [0x22; 48];
    other[47] = 0x23;
    assert_eq!(refused, R::MrtdUnknown(Measurement::from_bytes(other)));
    for index in 0..4 {
        let refused = refusal(|platform| platform.quote.body(RTMR0 + 48 * index, &[0xee; 48]));
        let found = measured(0xee);
        assert_eq!(refused, R::Rtmr { index, found });
        assert_eq!(refused.rule(), "T16");
        // Not judged is a choice that is shown.
        let mut value = reference();
        value.rtmrs[index] = Expected::NotJudged;
        let mut platform = Platform::new();
        platform.quote.body(RTMR0 + 48 * index, &[0xee; 48]);
        let verdict = platform.judge_under(&listing(vec![value])).unwrap();
        let wanted = format!("RTMR{index} is not judged");
        assert!(verdict.checks().iter().any(|check| check.text == wanted));
    }
}

fn listing(values: Vec<TdxMeasurement>) -> TdxPolicy {
    TdxPolicy::new(values, vec![platform_id()], EVALUATION).unwrap()
}

#[test]
fn t16_registers_of_two_shapes_are_not_mixed() {
    let shape = |kernel: u8, initrd: u8| TdxMeasurement {
        mrtd: measured(0x22),
        rtmrs: [0x30, kernel, initrd, 0x33].map(exactly),
    };
    let judge = |values| Platform::new().judge_under(&listing(values));
    assert!(judge(vec![shape(0x41, 0x42), shape(0x31, 0x32)]).is_ok());
    // Each register is right in one of two lines, and no line is right.
    let refused = judge(vec![shape(0x31, 0x42), shape(0x41, 0x32)]).unwrap_err();
    assert!(matches!(refused, R::Rtmr { .. }));
    let none = TdxMeasurement {
        mrtd: measured(0x22),
        rtmrs: [0; 4].map(|_| Expected::OneOf(Vec::new())),
    };
    assert!(judge(vec![none]).is_err());
}

#[test]
fn t16_what_the_host_named_at_launch() {
    type Choose = fn(TdxPolicy, Expected) -> TdxPolicy;
    let fields: [(&'static str, usize, Choose); 3] = [
        ("MRCONFIGID", MR_CONFIG_ID, TdxPolicy::with_mr_config_id),
        ("MROWNER", MR_OWNER, TdxPolicy::with_mr_owner),
        (
            "MROWNERCONFIG",
            MR_OWNER_CONFIG,
            TdxPolicy::with_mr_owner_config,
        ),
    ];
    for (field, offset, choose) in fields {
        let mut platform = Platform::new();
        platform.quote.body(offset, &[5; 48]);
        let wanted = R::Configuration {
            field,
            found: measured(5),
        };
        assert_eq!(platform.judge().unwrap_err(), wanted);
        let judge = |expected| platform.judge_under(&choose(policy(), expected));
        assert!(judge(exactly(5)).is_ok());
        assert_eq!(judge(exactly(6)).unwrap_err(), wanted);
        assert!(remarks(&judge(Expected::NotJudged).unwrap()).contains(&"T16"));
        assert_eq!(wanted.rule(), "T16");
    }
}

#[test]
fn a08_tdx_report_data_is_the_binding_whole() {
    for position in [0, 31, 32, 63] {
        let refused = refusal(|platform| platform.quote.body(REPORT_DATA_AT + position, &[0x45]));
        assert_eq!((refused.rule(), refused), ("T17", R::BindingMismatch));
    }
    let refused = refusal(|platform| platform.quote.body(REPORT_DATA_AT, &[0; 64]));
    assert_eq!(refused, R::BindingMismatch);
}

#[test]
fn b13_tdx_unknown_platform_is_refused() {
    let refused = refusal(|platform| {
        platform.describe(|sgx| sgx.at(&[0, 1]).bytes[15] ^= 1);
    });
    assert!(matches!(refused, R::PlatformUnknown(_)));
    // The same processor put together anew is another platform.
    let refused = refusal(|platform| {
        platform.describe(|sgx| sgx.at(&[5, 1]).bytes[15] ^= 1);
    });
    assert!(matches!(refused, R::PlatformUnknown(_)));
    // Without an instance, as the Processor CA certifies it, the id has zeros there.
    let mut single = Platform::new();
    single.describe(|sgx| sgx.parts.truncate(5));
    let mut id = [0; 64];
    put(&mut id, 0, &PPID);
    let wanted = R::PlatformUnknown(ChipId::from_bytes(id));
    assert_eq!(single.judge().unwrap_err(), wanted);
    let policy = TdxPolicy::new(vec![reference()], vec![ChipId::from_bytes(id)], EVALUATION);
    assert!(single.judge_under(&policy.unwrap()).is_ok());
    let refused = refusal(|platform| {
        platform.describe(|sgx| sgx.at(&[0, 1]).bytes = vec![0; 16]);
    });
    assert_eq!((refused.rule(), refused), ("T18", R::PlatformMasked));
}

#[test]
fn t18_configuration_of_the_platform_by_policy() {
    for (flag, index, set) in [
        (PlatformFlag::DynamicPlatform, 0, true),
        (PlatformFlag::CachedKeys, 1, true),
        (PlatformFlag::SmtEnabled, 2, false),
    ] {
        assert_eq!(under(|policy| policy.refusing(flag)).is_err(), set);
        let mut platform = Platform::new();
        let value = if set { 0 } else { 0xff };
        platform.describe(|sgx| *sgx.at(&[6, 1, index, 1]) = Der::primitive(1, &[value]));
        let judged = platform.judge_under(&policy().refusing(flag));
        assert_eq!(judged.is_ok(), set);
    }
    let refused = under(|policy| policy.refusing(PlatformFlag::CachedKeys)).unwrap_err();
    assert_eq!(
        refused,
        R::PlatformConfiguration("Intel keeps the platform's root keys")
    );
    assert_eq!(refused.rule(), "T18");
}

#[test]
fn t19_second_verifier_must_accept() {
    // A date that our rules do not read and the second verifier does.
    let refused = refusal(|platform| {
        platform.tcb_info["tdxModuleIdentities"][0]["tcbLevels"][0]["tcbDate"] = "soon".into();
    });
    assert_eq!((refused.rule(), refused), ("T19", R::SecondVerifierRefuses));
}

#[test]
fn t19_second_verifier_must_read_the_same() {
    // Intel sorts levels. In another order the first that is met is another one for a reader that sorts.
    let refused = refusal(|platform| {
        let levels = platform.tcb_info["tcbLevels"].as_array_mut().unwrap();
        levels.insert(0, level(4, 11, &[0, 0, 2], "UpToDate", &["INTEL-SA-00001"]));
    });
    assert_eq!(refused, R::SecondVerifierDisagrees("list of advisories"));
    assert_eq!(refused.rule(), "T19");
}

#[test]
fn b03_tdx_empty_lists_make_no_policy() {
    let (values, platforms) = (vec![reference()], vec![platform_id()]);
    let new = TdxPolicy::new;
    let refused = new(Vec::new(), platforms.clone(), 1).unwrap_err();
    assert_eq!(refused, TdxPolicyError::NoMeasurements);
    let refused = new(values.clone(), Vec::new(), 1).unwrap_err();
    assert_eq!(refused, TdxPolicyError::NoPlatforms);
    let zeros = vec![ChipId::from_bytes([0; 64])];
    let refused = new(values.clone(), zeros, 1).unwrap_err();
    assert_eq!(refused, TdxPolicyError::MaskedPlatform);
    let refused = new(values, platforms, 0).unwrap_err();
    assert_eq!(refused, TdxPolicyError::NoCollateralFloor);
}

#[test]
fn collateral_written_and_read_again_gives_the_same_verdict() {
    let platform = Platform::new();
    let json = platform.collateral().to_json().unwrap();
    let collateral = TdxCollateral::from_json(&json).unwrap();
    let (quote, root) = (platform.signed_quote(), platform.trusted());
    let verdict = verify_tdx_quote(&quote, &collateral, &REPORT_DATA, &policy(), &root, NOW);
    assert!(verdict.is_ok());
}
