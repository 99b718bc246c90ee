//! Rule N10: the devices of one machine together.

use casemate_attestation::nvidia::{
    DEVICES_MAX, DeviceEvidence, DeviceKind, FeatureFlag, NvidiaRejection, Pdi,
    device_evidence_digest,
};

use casemate_attestation::nvidia::gpu_nonce;
use casemate_attestation::{BindingInputs, Context, Direction, Nonce, Sha256Digest};

use super::same;
use super::spdm::*;

const SWITCHES: [[u8; 8]; 2] = [[0x20, 1, 2, 3, 4, 5, 6, 7], [0x20, 1, 2, 3, 4, 5, 6, 8]];
const GPUS: [[u8; 8]; 8] = [
    [0x48; 8], [1; 8], [2; 8], [3; 8], [4; 8], [5; 8], [6; 8], [7; 8],
];

/// A machine in protected PCIe mode: two GPUs, then two switches, and their reports.
struct Machine {
    case: Case,
    devices: Vec<(Device, Report)>,
}

fn machine() -> Machine {
    let mut case = case();
    (case.parts.gpus, case.parts.switches) = (2, 2);
    case.parts.mode = FeatureFlag::ProtectedPcie;
    let reports = [
        Report::protected_gpu(&[SWITCHES[0], SWITCHES[1], SWITCHES[0]]),
        Report::protected_gpu(&[SWITCHES[1], SWITCHES[0]]),
        Report::switch(SWITCHES[0], &GPUS),
        Report::switch(SWITCHES[1], &GPUS),
    ];
    let maker = &case.maker;
    let devices = (1..)
        .zip(reports)
        .map(|(n, report)| (maker.device(n), report));
    Machine {
        devices: devices.collect(),
        case,
    }
}

impl Machine {
    fn evidence(&self) -> Vec<DeviceEvidence> {
        let (maker, root) = (&self.case.maker, &self.case.root);
        let one = |(device, report): &(Device, Report)| DeviceEvidence {
            report: report.sign(&device.key),
            chain: pem(&device.chain(maker, root)),
        };
        self.devices.iter().map(one).collect()
    }

    fn refusal(&self) -> NvidiaRejection {
        self.case.judge_all(&self.evidence()).unwrap_err()
    }
}

fn refusal(change: impl FnOnce(&mut Machine)) -> NvidiaRejection {
    let mut machine = machine();
    change(&mut machine);
    machine.refusal()
}

#[test]
fn n10_a_machine_with_gpus_and_switches_is_accepted() {
    let machine = machine();
    let evidence = machine.evidence();
    let verdict = machine.case.judge_all(&evidence).unwrap();
    assert_eq!(verdict.devices().len(), 4);
    assert_eq!(verdict.evidence_digest(), device_evidence_digest(&evidence));
    let ids: Vec<_> = verdict.checks().iter().map(|line| line.id).collect();
    assert_eq!(ids, ["N10", "N10", "N11"]);
    let keys: std::collections::BTreeSet<_> = verdict
        .devices()
        .iter()
        .flat_map(|device| [device.device_key(), device.leaf_key()])
        .collect();
    assert_eq!(keys.len(), 8);
    // In any order.
    let mut turned = evidence;
    turned.reverse();
    assert!(machine.case.judge_all(&turned).is_ok());
}

#[test]
fn g05_no_device_counts_twice() {
    let twice = |by| NvidiaRejection::DeviceTwice {
        first: 0,
        second: 1,
        by,
    };
    // The same evidence, or the same device asked twice.
    let machine = machine();
    let mut evidence = machine.evidence();
    evidence[1] = evidence[0].clone();
    let judged = machine.case.judge_all(&evidence);
    same(judged.unwrap_err(), twice("key"), "N10");
    let asked = self::machine();
    let (gpu, report) = &asked.devices[0];
    let again = DeviceEvidence {
        report: report.sign(&gpu.key),
        chain: pem(&gpu.chain(&asked.case.maker, &asked.case.root)),
    };
    let mut evidence = asked.evidence();
    evidence[1] = again;
    let judged = asked.case.judge_all(&evidence);
    same(judged.unwrap_err(), twice("key"), "N10");
    // A second leaf of the same device, as after a change of its firmware.
    let fresh = asked.case.maker.device(9);
    let mut evidence = asked.evidence();
    let device = &asked.devices[0].0;
    let template = Template {
        serial: vec![0x77],
        ..device.leaf.clone()
    };
    let mut chain = device.chain(&asked.case.maker, &asked.case.root);
    chain[0] = template.issue(&fresh.key, &device.device);
    evidence[1] = DeviceEvidence {
        report: asked.devices[0].1.sign(&fresh.key),
        chain: pem(&chain),
    };
    let judged = asked.case.judge_all(&evidence);
    same(
        judged.unwrap_err(),
        twice("device key above the leaf"),
        "N10",
    );
    let serial = refusal(|machine| {
        let serial = machine.devices[0].0.leaf.serial.clone();
        machine.devices[1].0.leaf.serial = serial;
    });
    same(serial, twice("serial number"), "N10");
}

#[test]
fn g04_as_many_devices_as_policy_says() {
    let count = |kind, found, expected| NvidiaRejection::DeviceCount {
        kind,
        found,
        expected,
    };
    let less = refusal(|machine| drop(machine.devices.remove(0)));
    same(less, count(DeviceKind::Gpu, 1, 2), "N10");
    let none = refusal(|machine| machine.devices.clear());
    same(none, count(DeviceKind::Gpu, 0, 2), "N10");
    let more = refusal(|machine| machine.case.parts.gpus = 1);
    same(more, count(DeviceKind::Gpu, 2, 1), "N10");
    let absent = refusal(|machine| drop(machine.devices.pop()));
    same(absent, count(DeviceKind::Switch, 1, 2), "N10");
    let machine = machine();
    // Sixty-four are looked at one by one.
    let many = vec![machine.evidence()[0].clone(); DEVICES_MAX];
    assert!(matches!(
        machine.case.judge_all(&many).unwrap_err(),
        NvidiaRejection::DeviceTwice { .. }
    ));
    let many = vec![machine.evidence()[0].clone(); DEVICES_MAX + 1];
    let judged = machine.case.judge_all(&many);
    same(
        judged.unwrap_err(),
        NvidiaRejection::TooManyDevices(65),
        "N10",
    );
}

#[test]
fn n10_each_device_is_judged_and_the_refusal_names_it() {
    let found = refusal(|machine| machine.devices[2].1.nonce[0] ^= 1);
    let rejection = Box::new(NvidiaRejection::RequestNonce);
    let number = 2;
    same(found, NvidiaRejection::Device { number, rejection }, "N2");
    let found = refusal(|machine| machine.case.parts.switch_versions = ["1".to_owned()].into());
    assert_eq!(found.rule(), "N12");
}

#[test]
fn n10_switches_are_those_that_the_gpus_name() {
    let other = [9; 8];
    let stranger = refusal(|machine| machine.devices[3].1 = Report::switch(other, &GPUS));
    same(stranger, NvidiaRejection::OtherSwitches(0), "N10");
    let more = refusal(|machine| {
        machine.devices[1].1 = Report::protected_gpu(&[SWITCHES[0], SWITCHES[1], other]);
    });
    same(more, NvidiaRejection::OtherSwitches(1), "N10");
    let fewer = refusal(|machine| machine.devices[1].1 = Report::protected_gpu(&SWITCHES[..1]));
    same(fewer, NvidiaRejection::OtherSwitches(1), "N10");
    let silent = refusal(|machine| machine.devices[1].1.drop(22));
    same(silent, NvidiaRejection::OtherSwitches(1), "N10");
    // Not in the order in which a switch itself writes it.
    let turned = refusal(|machine| machine.devices[0].1.set(22, &SWITCHES.concat()));
    same(turned, NvidiaRejection::OtherSwitches(0), "N10");
    let unnamed = refusal(|machine| machine.devices[2].1.drop(22));
    same(unnamed, NvidiaRejection::SwitchUnnamed(2), "N10");
    let twice = refusal(|machine| machine.devices[3].1 = Report::switch(SWITCHES[0], &GPUS));
    same(twice, NvidiaRejection::SwitchTwice(Pdi(SWITCHES[0])), "N10");
    let mut gpus = GPUS;
    gpus[7] = [0x55; 8];
    let differ = refusal(|machine| machine.devices[3].1 = Report::switch(SWITCHES[1], &gpus));
    same(differ, NvidiaRejection::SwitchesDisagree(3), "N10");
    let silent = refusal(|machine| machine.devices[2].1.drop(26));
    same(silent, NvidiaRejection::SwitchesDisagree(2), "N10");
}

#[test]
fn n10_gpus_without_switches_are_a_set_too() {
    let mut machine = machine();
    machine.devices.truncate(2);
    for (_, report) in &mut machine.devices {
        *report = Report::gpu();
        report.set(36, &[1, 0]);
    }
    (machine.case.parts.switches, machine.case.parts.mode) = (0, FeatureFlag::MultiGpu);
    assert!(machine.case.judge_all(&machine.evidence()).is_ok());
}

#[test]
fn n11_devices_shown_beside_the_guests_evidence_and_not_in_it_are_refused() {
    let mut machine = machine();
    let absent = Context::absent();
    let recorded = machine.case.judge_all(&machine.evidence()).unwrap();
    let good = Context {
        device_evidence: recorded.evidence_digest(),
        ..Context::absent()
    };
    let found = recorded.must_be_in(&good).unwrap_err();
    same(found, NvidiaRejection::NonceNotOfSession, "N11");

    machine.case.nonce = gpu_nonce(&BindingInputs {
        direction: Direction::Server,
        exporter: &[1; 32],
        server_leaf: Sha256Digest::of(b"server"),
        client_leaf: Sha256Digest::of(b"client"),
        nonce: Nonce::from_bytes([2; 32]),
        context: &absent,
    });
    for (_, report) in &mut machine.devices {
        report.nonce = *machine.case.nonce.as_bytes();
    }
    let (evidence, again) = (machine.evidence(), machine.evidence());
    let verdict = machine.case.judge_all(&evidence).unwrap();
    let context = |devices: &[DeviceEvidence]| Context {
        device_evidence: device_evidence_digest(devices),
        ..Context::absent()
    };
    verdict.must_be_in(&context(&evidence)).unwrap();
    for other in [absent, good, context(&evidence[1..]), context(&again)] {
        let found = verdict.must_be_in(&other).unwrap_err();
        same(found, NvidiaRejection::NotInContext, "N11");
    }
}
