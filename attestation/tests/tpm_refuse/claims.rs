//! Rules L3 and L4: what a confirmed log says, and what it does not.

use casemate_attestation::eventlog::{
    Basis, ClaimValue, Loader, LogKind, LogRejection, Register, replay,
};
use casemate_attestation::tpm::{Bank, HostedIn, TpmAnchors, verify_tpm_quote};

use super::support::log::*;
use super::support::*;

#[test]
fn l3_data_count_only_where_they_hash_to_the_digest() {
    let find = |event_type: u32| boot().iter().position(|it| it.1 == event_type).unwrap();
    let edited = |number: usize| {
        let mut events = boot();
        *events[number].3.last_mut().unwrap() ^= 1;
        claims(&log(&events))
    };
    for event_type in [CONFIG, GPT, ACTION, BOOT] {
        let event = find(event_type);
        let refused = edited(event).unwrap_err();
        assert_eq!(refused, LogRejection::DataNotDigest { event, event_type });
    }
    let event = find(SEPARATOR);
    assert_eq!(
        edited(event).unwrap_err(),
        LogRejection::SeparatorDigest(event)
    );
    // Text of a boot loader's, in front of its terminator.
    let event = find(IPL);
    let mut events = boot();
    let text = events[event].3.len() - 2;
    events[event].3[text] ^= 1;
    let refused = claims(&log(&events)).unwrap_err();
    assert_eq!(
        refused,
        LogRejection::DataNotDigest {
            event,
            event_type: IPL
        }
    );
    // Types whose data may or may not hash: no claim, no refusal.
    let count = |claims: &casemate_attestation::eventlog::Claims| claims.all().len();
    let all = count(&claims(&log(&boot())).unwrap());
    for event_type in [AUTHORITY, VERSION] {
        assert_eq!(count(&edited(find(event_type)).unwrap()), all - 1);
    }
}

#[test]
fn l3_types_are_not_measured() {
    let number = boot()
        .iter()
        .position(|it| it.0 == 7 && it.1 == SEPARATOR)
        .unwrap();
    // A separator under another name, and another event under the name of a separator.
    let mut events = boot();
    events[number].1 = IPL;
    let refused = claims(&log(&events)).unwrap_err();
    assert_eq!(
        refused,
        LogRejection::SeparatorType {
            event: number,
            event_type: IPL
        }
    );
    for name in [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0\0\0"] {
        let mut events = boot();
        events[number].2 = name.to_vec();
        events[number].3 = name.to_vec();
        let read = claims(&log(&events)).unwrap();
        // After an error the configuration is not the one that was booted with.
        let secure_boot = read.secure_boot();
        assert_eq!(secure_boot.is_some(), name != b"\x01\0\0\0");
    }
    let mut events = boot();
    events[number] = whole(7, SEPARATOR, b"\x02\0\0\0");
    assert_eq!(
        claims(&log(&events)).unwrap_err(),
        LogRejection::SeparatorDigest(number)
    );
    events[number] = apart(7, SEPARATOR, &[0; 4], &[0xff; 4]);
    assert_eq!(
        claims(&log(&events)).unwrap_err(),
        LogRejection::SeparatorDigest(number)
    );
}

#[test]
fn l3_separators_bytes_elsewhere() {
    let number = boot()
        .iter()
        .position(|it| it.0 == 7 && it.1 == SEPARATOR)
        .unwrap();
    // An order of boot options may have the same bytes, in its own register and under its own name only.
    let order = || apart(1, BOOT, &[0; 4], &variable("BootOrder", &[0; 4]));
    let mut events = boot();
    events.insert(number + 1, order());
    assert!(claims(&log(&events)).unwrap().secure_boot().is_some());
    events[number + 1].0 = 7;
    let event_type = BOOT;
    let refused = claims(&log(&events)).unwrap_err();
    assert_eq!(
        refused,
        LogRejection::SeparatorType {
            event: number + 1,
            event_type
        }
    );
    // In a trust domain both are one register: a separator that was renamed so closes no configuration.
    let domain = |events: &[Measured]| {
        let mut bytes = header(&[(0x0c, 48)]);
        bytes.extend(events.iter().flat_map(|it| event(&[Bank::Sha384], it)));
        let replay = replay(&bytes, LogKind::Ccel).unwrap();
        replay
            .confirm(&own(&replay, Bank::Sha384))
            .unwrap()
            .claims()
            .unwrap()
            .secure_boot()
    };
    let on = whole(1, CONFIG, &variable("SecureBoot", &[1]));
    assert!(domain(&[on.clone(), whole(1, SEPARATOR, &[0; 4]), order()]).is_some());
    assert_eq!(
        domain(&[on.clone(), order(), whole(1, SEPARATOR, &[0; 4])]),
        None
    );
    assert_eq!(domain(&[order(), on, whole(1, SEPARATOR, &[0; 4])]), None);
    // Windows separates its own registers by a word. It says nothing, and still must be what was hashed.
    events = boot();
    events.push(whole(12, SEPARATOR, b"WBCL"));
    let known = claims(&log(&boot())).unwrap().all().len();
    assert_eq!(claims(&log(&events)).unwrap().all().len(), known);
    events.pop();
    events.push(apart(12, SEPARATOR, b"WBCL", b"LCBW"));
    assert!(matches!(
        claims(&log(&events)),
        Err(LogRejection::DataNotDigest { .. })
    ));
    // A boot loader's text may hash to anything.
    events = boot();
    events.push(whole(12, IPL, &[0; 4]));
    assert!(claims(&log(&events)).is_ok());
}

#[test]
fn l3_secure_boot_is_what_the_firmware_measured_before_the_separator() {
    let on = |events: &[Measured]| claims(&log(events)).map(|claims| claims.secure_boot());
    assert_eq!(on(&boot()).unwrap(), Some((true, Basis::Asserted)));
    let number = boot().iter().position(|it| it.1 == CONFIG).unwrap();
    for (value, expected) in [
        (&[0][..], false),
        (&[], false),
        (&[1, 0], false),
        (&[2], false),
    ] {
        let mut events = boot();
        events[number] = whole(7, CONFIG, &variable("SecureBoot", value));
        assert_eq!(on(&events).unwrap(), Some((expected, Basis::Asserted)));
    }
    // After the separator, in another register, of another owner, by another type, or with no separator: no claim.
    let mut late = boot();
    late[number].3 = variable("Other", &[1]);
    late[number].2 = late[number].3.clone();
    late.push(whole(7, CONFIG, &variable("SecureBoot", &[1])));
    assert_eq!(on(&late).unwrap(), None);
    let mut elsewhere = boot();
    elsewhere[number].0 = 8;
    assert_eq!(on(&elsewhere).unwrap(), None);
    let mut owner = boot();
    owner[number].2[0] ^= 1;
    owner[number].3[0] ^= 1;
    assert_eq!(on(&owner).unwrap(), None);
    let mut retyped = boot();
    retyped[number].1 = 0x8000_00ff;
    assert_eq!(on(&retyped).unwrap(), None);
    let mut open = boot();
    open.retain(|it| !(it.0 == 7 && it.1 == SEPARATOR));
    assert_eq!(on(&open).unwrap(), None);
    let mut twice = boot();
    twice.insert(number + 1, whole(7, CONFIG, &variable("SecureBoot", &[0])));
    assert_eq!(
        on(&twice).unwrap_err(),
        LogRejection::SecureBootTwice(number + 1)
    );
}

#[test]
fn l3_a_separator_ends_the_configuration_of_its_own_register() {
    let on = |events: &[Measured]| claims(&log(events)).unwrap().secure_boot();
    let switch = whole(7, CONFIG, &variable("SecureBoot", &[1]));
    let end = |register| whole(register, SEPARATOR, &[0; 4]);
    let found = on(&[end(0), switch.clone(), end(7)]);
    assert_eq!(found, Some((true, Basis::Asserted)));
    // Behind it others measure, too.
    assert_eq!(on(&[end(7), switch.clone()]), None);
    assert_eq!(on(&[end(0), end(7), switch]), None);
}

#[test]
fn l4_separators_and_actions_are_the_firmwares() {
    let says = |event: Measured| -> Vec<ClaimValue> {
        let claims = claims(&log(&[event])).unwrap();
        let values = claims.all().iter();
        values.map(|claim| claim.value.clone()).collect()
    };
    for register in 0..8 {
        for (data, error) in [([0; 4], false), ([0xff; 4], false), ([1, 0, 0, 0], true)] {
            let said = says(whole(register, SEPARATOR, &data));
            assert_eq!(said, [ClaimValue::Separator { error }]);
        }
    }
    // In the other registers boot loaders and systems measure what they like.
    let text = "Exit Boot Services Returned with Success";
    for event_type in [PLAIN_ACTION, ACTION] {
        for register in 0..8 {
            let said = says(whole(register, event_type, text.as_bytes()));
            assert_eq!(said, [ClaimValue::Action(text.to_owned())]);
        }
        for register in 8..24 {
            assert_eq!(says(whole(register, event_type, text.as_bytes())), []);
        }
    }
}

#[test]
fn l4_boot_services_are_left_by_a_success_after_the_request() {
    let left = |texts: &[&str]| {
        let events = texts.iter().map(|text| whole(5, ACTION, text.as_bytes()));
        let events: Vec<Measured> = events.collect();
        claims(&log(&events)).unwrap().left_boot_services()
    };
    let asked = "Exit Boot Services Invocation";
    let failed = "Exit Boot Services Returned with Failure";
    let succeeded = "Exit Boot Services Returned with Success";
    for texts in [
        &[asked, succeeded][..],
        &[asked, failed, asked, succeeded],
        &[succeeded, asked, succeeded],
        &[asked, succeeded, failed],
    ] {
        assert_eq!(left(texts), Some(Basis::Asserted), "{texts:?}");
    }
    for texts in [
        &[asked][..],
        &[succeeded],
        &[asked, failed],
        &[failed, succeeded],
        &[succeeded, asked],
        &[succeeded, asked, failed],
        &[asked, succeeded, asked],
    ] {
        assert_eq!(left(texts), None, "{texts:?}");
    }
}

#[test]
fn l4_what_each_type_says_and_what_it_rests_on() {
    // By registers that somebody signed: a TPM of the machine, then one of the cloud's, then the SHA-1 bank.
    let replayed = replay(&log(&boot()), LogKind::Tcg2).unwrap();
    let registers: std::collections::BTreeMap<u8, Vec<u8>> = replayed
        .registers(Bank::Sha256)
        .unwrap()
        .iter()
        .map(|(register, value)| match register {
            Register::Pcr(number) | Register::Rtmr(number) => (*number, value.clone()),
        })
        .collect();
    let policy = policy_for(Bank::Sha256, &registers, &[7]);
    let case = case_of(ak(), Bank::Sha256, registers);
    let read = |hosted: HostedIn| {
        let anchors = TpmAnchors::new(Vec::new(), vec![ak().enrolled(hosted)]);
        let verdict = verify_tpm_quote(&case.evidence(), NONCE, &policy, &anchors, NOW).unwrap();
        replayed
            .confirm(&verdict.quoted())
            .unwrap()
            .claims()
            .unwrap()
    };
    let claims = read(HostedIn::Machine);
    assert_eq!(claims.secure_boot(), Some((true, Basis::HardwareProven)));
    assert_eq!(claims.left_boot_services(), Some(Basis::HardwareProven));
    let lines: Vec<_> = claims.command_lines().collect();
    assert_eq!(lines, [("/vmlinuz ro", Basis::Derived)]);
    let image = Bank::Sha256.digest(b"shim");
    assert_eq!(
        claims.images().collect::<Vec<_>>(),
        [(image.as_slice(), Basis::Derived)]
    );
    let basis = |wanted: &dyn Fn(&ClaimValue) -> bool| {
        claims
            .all()
            .iter()
            .find(|claim| wanted(&claim.value))
            .unwrap()
            .basis
    };
    let version = |value: &ClaimValue| *value == ClaimValue::FirmwareVersion("1.0".to_owned());
    assert_eq!(basis(&version), Basis::Derived);
    assert_eq!(
        basis(&|v| matches!(v, ClaimValue::Authority { .. })),
        Basis::HardwareProven
    );
    assert_eq!(
        basis(&|v| matches!(v, ClaimValue::BootVariable { .. })),
        Basis::Derived
    );
    assert_eq!(
        basis(&|v| matches!(v, ClaimValue::PartitionTable(_))),
        Basis::HardwareProven
    );
    assert_eq!(
        basis(&|v| matches!(v, ClaimValue::GrubCommand(_))),
        Basis::Derived
    );
    let options = |value: &ClaimValue| matches!(value, ClaimValue::Labelled { label, .. } if label == "LOADED_IMAGE::LoadOptions");
    assert_eq!(basis(&options), Basis::Asserted);
    // A blob, a post code and a type that nobody knows say nothing.
    let silent = |event_type| boot().iter().position(|it| it.1 == event_type);
    let blob = silent(BLOB).unwrap();
    assert!(claims.all().iter().all(|claim| claim.event != blob));
    let cloud = read(HostedIn::CloudHypervisor);
    assert_eq!(cloud.secure_boot(), Some((true, Basis::Asserted)));
    assert!(
        all_asserted(&cloud),
        "the host could have written these registers itself"
    );
}

#[test]
fn l4_unified_kernel_images() {
    let mut events = boot();
    let command = [utf16("quiet"), vec![0, 0]].concat();
    events.extend([
        apart(
            11,
            IPL,
            b".linux\0",
            &[utf16(".linux"), vec![0, 0]].concat(),
        ),
        apart(
            11,
            IPL,
            b"the kernel itself",
            &[utf16(".linux"), vec![0, 0]].concat(),
        ),
        whole(12, IPL, &command),
        // The same text elsewhere is no command line.
        whole(13, IPL, &command),
    ]);
    let claims = claims(&log(&events)).unwrap();
    let values: Vec<&ClaimValue> = claims.all().iter().map(|claim| &claim.value).collect();
    let section = ClaimValue::UkiSection(".linux".to_owned());
    assert_eq!(values.iter().filter(|value| ***value == section).count(), 1);
    let (loader, text) = (Loader::SystemdStub, "quiet".to_owned());
    let line = ClaimValue::CommandLine { loader, text };
    assert_eq!(values.iter().filter(|value| ***value == line).count(), 1);
    let digest = Bank::Sha256.digest(b"the kernel itself");
    let label = ".linux".to_owned();
    assert!(values.contains(&&ClaimValue::Labelled { label, digest }));
}
