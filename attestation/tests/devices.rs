//! Devices beside a machine, through documents and envelope (rules P-36 to P-39): exactly those that the fleet list gives the
//! machine, over this session's nonce, in a driver mode that the machine's own report signs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;
#[path = "support/ocsp.rs"]
mod ocsp;
#[path = "support/spdm.rs"]
mod spdm;

use casemate_attestation::collateral::{GpuList, IndexValues};
use casemate_attestation::devices::Answer;
use casemate_attestation::nvidia::{
    CHAIN_BYTES_MAX, DeviceEvidence, DeviceKind, DriverMode, FeatureFlag, OcspAnswers,
    PinnedGpuRoot, REPORT_BYTES_MAX, ReferenceKind,
};
use casemate_attestation::test_chip::{ReportTemplate, TestChip, TestGpu};
use casemate_attestation::{
    Basis, Context, DeviceExpectationsError, DeviceSet, Direction, Envelope, EnvelopeError,
    EnvelopeParts, Expectations, ExpectationsError, FleetDevice, FleetList, HardwareEvidence,
    Measurement, NvidiaReference, Platform, ReferenceValues, Rejection, Sha256Digest, TrustAnchors,
    VerifiedEvidence, Verifier,
};
use common::{NOW, channel, chip, context, verified};
use spdm::{Case, case, parts};

/// The section of reference values that accepts the test's GPU.
fn section() -> NvidiaReference {
    let list = |kind, version: &str, indices: &[u8]| GpuList {
        kind,
        version: version.to_owned(),
        product: "test".to_owned(),
        manifest: Sha256Digest::of(version.as_bytes()),
        values: indices
            .iter()
            .map(|index| IndexValues {
                index: *index,
                digests: vec![Measurement::from_bytes(spdm::value(*index))],
            })
            .collect(),
    };
    let parts = parts();
    NvidiaReference {
        lists: vec![
            list(ReferenceKind::Driver, spdm::DRIVER, &spdm::DRIVER_INDICES),
            list(ReferenceKind::Vbios, spdm::VBIOS, &spdm::VBIOS_INDICES),
        ],
        driver_versions: parts.driver_versions,
        vbios_versions: parts.vbios_versions,
        switch_versions: parts.switch_versions,
        mode: FeatureFlag::SingleGpu,
        absent_mode_accepted: false,
        revocation_not_judged_accepted: true,
    }
}

fn values(nvidia: Option<NvidiaReference>) -> ReferenceValues {
    ReferenceValues {
        nvidia,
        ..common::reference(Platform::TestChip)
    }
}

fn fleet(chip: &TestChip, keys: &[Sha256Digest]) -> FleetList {
    let mut fleet = common::fleet(Platform::TestChip, chip);
    let device = |key: &Sha256Digest| FleetDevice {
        kind: DeviceKind::Gpu,
        device_key: *key,
        label: "slot 1".to_owned(),
    };
    fleet.chips[0].devices = keys.iter().map(device).collect();
    fleet
}

fn device_key(case: &Case) -> Sha256Digest {
    case.judge().unwrap().device_key()
}

/// A machine with one GPU, the session's two ends and what each of them says.
struct Place {
    chip: TestChip,
    gpu: Case,
    mode: DriverMode,
    values: ReferenceValues,
    keys: Vec<Sha256Digest>,
    /// Whether the machine sends its devices, and what its context says about them if not the truth.
    sends: bool,
    digest: Option<Sha256Digest>,
    answers: OcspAnswers,
    private_root: bool,
}

fn place() -> Place {
    let gpu = case();
    Place {
        chip: chip(),
        keys: vec![device_key(&gpu)],
        gpu,
        mode: DriverMode::On,
        values: values(Some(section())),
        sends: true,
        digest: None,
        answers: OcspAnswers::none(),
        private_root: true,
    }
}

impl Place {
    /// The GPU's answer to this session.
    fn device(&mut self) -> DeviceEvidence {
        let nonce = *channel().binding(&context()).device_nonce();
        self.gpu.report.nonce = *nonce.as_bytes();
        self.gpu.evidence()
    }

    fn verifier(&self) -> Result<Verifier, ExpectationsError> {
        let expectations = Expectations::new(
            Platform::TestChip,
            &verified(&self.values),
            &verified(&fleet(&self.chip, &self.keys)),
        )?;
        let mut anchors = TrustAnchors::test_chip(self.chip.root_der());
        if self.private_root {
            anchors = anchors.with_private_gpu_root(PinnedGpuRoot::private(&self.gpu.root));
        }
        Ok(Verifier::new(anchors, expectations).unwrap())
    }

    fn judge_these(&self, devices: Vec<DeviceEvidence>) -> Result<VerifiedEvidence, Rejection> {
        let set = DeviceSet::new(self.mode, devices, &self.answers);
        let truth = if self.sends {
            set.digest()
        } else {
            Sha256Digest::absent()
        };
        let context = Context {
            device_evidence: self.digest.unwrap_or(truth),
            ..context()
        };
        let binding = channel().binding(&context);
        let hardware = self.chip.evidence_for(&ReportTemplate {
            report_data: *binding.as_bytes(),
            ..self.chip.template()
        });
        let envelope = Envelope::build(EnvelopeParts {
            platform: Platform::TestChip,
            direction: Direction::Server,
            hardware: HardwareEvidence::Snp(hardware),
            context,
            batch: None,
            devices: self.sends.then_some(set),
        })
        .unwrap();
        // Through the wire, as it comes.
        let envelope = Envelope::parse(envelope.as_bytes()).unwrap();
        self.verifier().unwrap().verify(&envelope, &binding, NOW)
    }

    fn judge(&mut self) -> Result<VerifiedEvidence, Rejection> {
        let device = self.device();
        self.judge_these(vec![device])
    }
}

/// What a machine is refused for after `change`.
fn refused(change: impl FnOnce(&mut Place)) -> Rejection {
    let mut place = place();
    change(&mut place);
    place.judge().unwrap_err()
}

#[test]
fn a_machine_with_its_gpu_is_verified_and_every_line_says_what_it_rests_on() {
    let evidence = place().judge().unwrap();
    let devices = evidence.devices().unwrap();
    assert_eq!(devices.devices().len(), 1);
    let basis = |id: &str| {
        let line = evidence.checks().iter().find(|check| check.id == id);
        line.map(|check| check.basis)
    };
    assert_eq!(basis("P-38"), Some(Basis::HardwareProven));
    assert_eq!(basis("P-39"), Some(Basis::Derived));
    assert_eq!(basis("N4"), Some(Basis::HardwareProven));
    let asserted = |check: &&casemate_attestation::Check| check.basis == Basis::Asserted;
    let asserted: Vec<_> = evidence.checks().iter().filter(asserted).collect();
    assert!(asserted.iter().any(|check| check.id == "N9"));
}

#[test]
fn g04_devices_are_exactly_those_that_the_fleet_list_gives() {
    assert_eq!(refused(|it| it.sends = false), Rejection::DevicesMissing);
    let none = |it: &mut Place| it.keys.clear();
    assert_eq!(refused(none), Rejection::DevicesNotExpected);
    // Neither listed nor sent: as ever, and no lines about devices.
    let mut without = place();
    (without.sends, without.keys) = (false, Vec::new());
    assert!(without.judge().unwrap().devices().is_none());
}

#[test]
fn p38_the_machines_report_signs_these_devices_and_their_drivers_mode() {
    let other = |it: &mut Place| it.digest = Some(Sha256Digest::of(b"other"));
    assert_eq!(refused(other), Rejection::DevicesNotInContext);
    let absent = |it: &mut Place| it.digest = Some(Sha256Digest::absent());
    assert_eq!(refused(absent), Rejection::DevicesNotInContext);
    let claimed = |it: &mut Place| {
        (it.sends, it.digest) = (false, Some(Sha256Digest::of(b"none is there")));
        it.keys.clear();
    };
    assert_eq!(refused(claimed), Rejection::DevicesNotInContext);
    // The same reports under another word about the mode are another set.
    let device = place().device();
    let digest = |mode| DeviceSet::new(mode, vec![device.clone()], &OcspAnswers::none()).digest();
    assert_ne!(digest(DriverMode::On), digest(DriverMode::DevTools));
}

#[test]
fn g05_a_stranger_and_a_missing_device_are_refused() {
    let stranger = Sha256Digest::of(b"another");
    let found = device_key(&place().gpu);
    assert_ne!(stranger, found);
    let replaced = refused(|it| it.keys = vec![stranger]);
    assert!(
        matches!(replaced, Rejection::DeviceNotEnrolled(_)),
        "{replaced}"
    );
    // A machine with two GPUs of which one answers; and one that answers with one too many.
    assert_eq!(refused(|it| it.keys.push(stranger)).rule(), "N10");
    let mut more = place();
    let first = more.device();
    let second = {
        let nonce = *channel().binding(&context()).device_nonce();
        let mut report = spdm::Report::gpu();
        report.nonce = *nonce.as_bytes();
        let device = more.gpu.maker.device(2);
        DeviceEvidence {
            report: report.sign(&device.key),
            chain: spdm::pem(&device.chain(&more.gpu.maker, &more.gpu.root)),
        }
    };
    let refusal = more.judge_these(vec![first, second]).unwrap_err();
    assert_eq!(refusal.rule(), "N10");
}

#[test]
fn g02_a_report_of_another_session_is_refused() {
    let place = place();
    let recorded = place.gpu.evidence();
    assert_eq!(place.judge_these(vec![recorded]).unwrap_err().rule(), "N2");
}

#[test]
fn g01_a_report_that_its_device_did_not_sign_is_refused() {
    let place = &mut place();
    let good = place.device();
    let rule = |place: &Place, device| place.judge_these(vec![device]).unwrap_err().rule();
    for at in [
        4 + 32 + 1,
        100,
        good.report.len() - 96,
        good.report.len() - 1,
    ] {
        let mut edited = good.clone();
        edited.report[at] ^= 1;
        let refused = rule(place, edited);
        assert!(
            ["N1", "N2", "N4"].contains(&refused),
            "byte {at}: {refused}"
        );
    }
    // Signed by somebody, and not by the key that the chain names.
    place.gpu.signer = Some(spdm::Key::new());
    let stranger = place.device();
    assert_eq!(rule(place, stranger), "N4");
    // No signature at all.
    let mut bare = good.clone();
    bare.report.truncate(bare.report.len() - 96);
    assert!(place.judge_these(vec![bare]).is_err());
    assert!(place.judge_these(vec![good]).is_ok());
}

/// What the test chip's own GPUs are judged as under these roots.
fn test_gpus(numbers: &[u32], listed: &[u32], private: bool) -> Result<usize, Rejection> {
    let gpu = |number: &u32| TestGpu::of_seed(&common::SEED, *number);
    let chip = chip();
    let root = PinnedGpuRoot::private(&TestGpu::root_der(&common::SEED));
    let keys: Vec<_> = listed.iter().map(|it| gpu(it).device_key()).collect();
    let expectations = Expectations::new(
        Platform::TestChip,
        &verified(&values(Some(TestGpu::reference()))),
        &verified(&fleet(&chip, &keys)),
    )
    .unwrap();
    let anchors = TrustAnchors::test_chip(chip.root_der());
    let anchors = match private {
        true => anchors.with_private_gpu_root(root),
        false => anchors,
    };
    let nonce = *channel().binding(&context()).device_nonce();
    let devices = numbers.iter().map(|it| gpu(it).evidence(&nonce)).collect();
    let set = DeviceSet::new(DriverMode::On, devices, &OcspAnswers::none());
    let context = Context {
        device_evidence: set.digest(),
        ..context()
    };
    let binding = channel().binding(&context);
    let report_data = *binding.as_bytes();
    let hardware = chip.evidence_for(&ReportTemplate {
        report_data,
        ..chip.template()
    });
    let envelope = Envelope::build(EnvelopeParts {
        platform: Platform::TestChip,
        direction: Direction::Server,
        hardware: HardwareEvidence::Snp(hardware),
        context,
        batch: None,
        devices: Some(set),
    })
    .unwrap();
    let verifier = Verifier::new(anchors, expectations).unwrap();
    let evidence = verifier.verify(&envelope, &binding, NOW)?;
    Ok(evidence.devices().unwrap().devices().len())
}

#[test]
fn b02_the_test_chips_gpus_pass_every_rule_under_their_own_root_and_under_no_other() {
    assert_eq!(test_gpus(&[1], &[1], true), Ok(1));
    assert_eq!(test_gpus(&[3, 1, 2], &[1, 2, 3], true), Ok(3));
    let rule = |numbers: &[u32], listed: &[u32], private| {
        test_gpus(numbers, listed, private).unwrap_err().rule()
    };
    assert_eq!(rule(&[1], &[1], false), "N3", "NVIDIA's root alone");
    assert_eq!(rule(&[2], &[1], true), "P-39");
    assert_eq!(rule(&[1, 2], &[1], true), "N10");
    // The same seed is the same root and the same GPU.
    let root = || TestGpu::root_der(&common::SEED);
    assert_eq!(root(), root());
    assert_ne!(root(), TestGpu::root_der(&[0; 32]));
}

#[test]
fn g03_devices_are_refused_by_their_own_rules() {
    assert_eq!(refused(|it| it.mode = DriverMode::DevTools).rule(), "N9");
    assert_eq!(refused(|it| it.mode = DriverMode::Off).rule(), "N9");
    let private = refused(|it| it.private_root = false);
    assert_eq!(private.rule(), "N3", "NVIDIA's root refuses a made-up one");
    let of = |change: fn(&mut NvidiaReference)| {
        refused(|it| change(it.values.nvidia.as_mut().unwrap())).rule()
    };
    assert_eq!(of(|it| it.revocation_not_judged_accepted = false), "N6");
    assert_eq!(of(|it| it.lists[0].version = "1".to_owned()), "N7");
    let other = |it: &mut NvidiaReference| {
        it.lists[1].values[0].digests = vec![Measurement::from_bytes([0; 48])];
    };
    assert_eq!(of(other), "N8");
    assert_eq!(of(|it| it.driver_versions = ["1".to_owned()].into()), "N12");
}

#[test]
fn g06_what_issuers_say_travels_with_the_devices_and_is_judged() {
    let mut place = place();
    let section = place.values.nvidia.as_mut().unwrap();
    section.revocation_not_judged_accepted = false;
    let ders = place.gpu.ders();
    place.gpu.chain = Some(spdm::pem(&ders));
    let about = |at: usize, key: &spdm::Key| {
        let (certificate, issuer) = (&ders[at], &ders[at + 1]);
        let line = ocsp::Line::good(certificate, issuer);
        let answer = ocsp::Answer::of_issuer(line, issuer).sign(key);
        (Sha256Digest::of(certificate), answer)
    };
    let maker = &place.gpu.maker;
    let all = [about(1, &maker.authority), about(2, &maker.root)];
    let one = [all[0].clone()];
    place.answers = OcspAnswers::new(all);
    let evidence = place.judge().unwrap();
    assert!(evidence.devices().unwrap().devices()[0].revocation_judged());
    place.answers = OcspAnswers::new(one);
    assert_eq!(place.judge().unwrap_err().rule(), "N6");
}

#[test]
fn what_could_accept_nothing_is_no_expectation() {
    let of = |change: fn(&mut Place)| {
        let mut place = place();
        change(&mut place);
        match place.verifier() {
            Err(ExpectationsError::Devices(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let none = of(|it| it.values.nvidia = None);
    assert!(matches!(none, DeviceExpectationsError::NoSection(_)));
    let twice = of(|it| it.keys.push(it.keys[0]));
    assert!(matches!(twice, DeviceExpectationsError::Twice(_)));
    let empty = of(|it| it.values.nvidia.as_mut().unwrap().driver_versions.clear());
    assert!(matches!(empty, DeviceExpectationsError::Policy(_)));
    let list = of(|it| it.values.nvidia.as_mut().unwrap().lists[0].values.clear());
    assert!(matches!(list, DeviceExpectationsError::List(_)));
}

#[test]
fn newer_documents_may_no_longer_list_a_device() {
    let mut place = place();
    let evidence = place.judge().unwrap();
    let still = |place: &Place| place.verifier().unwrap().still_counts(&evidence, NOW);
    assert_eq!(still(&place), Ok(()));
    let section = place.values.nvidia.as_mut().unwrap();
    section.driver_versions = ["1".to_owned()].into();
    assert_eq!(still(&place).unwrap_err().rule(), "N12");
    place.keys.push(Sha256Digest::of(b"another"));
    let missing = still(&place).unwrap_err();
    assert!(matches!(missing, Rejection::DeviceMissing(_)), "{missing}");
    place.keys.remove(0);
    let stranger = still(&place).unwrap_err();
    assert!(
        matches!(stranger, Rejection::DeviceNotEnrolled(_)),
        "{stranger}"
    );
    place.keys.clear();
    assert_eq!(still(&place), Err(Rejection::DevicesNotExpected));
}

/// An envelope with these devices and so many answers about nothing.
fn carrying(devices: &[DeviceEvidence], answers: u32) -> Result<Envelope, EnvelopeError> {
    let about = |number: u32| Sha256Digest::of(&number.to_le_bytes());
    let answers = (0..answers).map(|number| (about(number), Answer(vec![0])));
    let set = DeviceSet {
        mode: DriverMode::On,
        devices: devices.to_vec(),
        answers: answers.collect(),
    };
    let chip = chip();
    Envelope::build(EnvelopeParts {
        platform: Platform::TestChip,
        direction: Direction::Server,
        hardware: HardwareEvidence::Snp(chip.evidence_for(&chip.template())),
        context: context(),
        batch: None,
        devices: Some(set),
    })
}

#[test]
fn p36_a_set_is_exactly_as_large_as_it_may_be() {
    let device = |report: usize, chain: usize| DeviceEvidence {
        report: vec![0; report],
        chain: vec![b' '; chain],
    };
    let one = [device(1, 1)];
    assert!(carrying(&one, 256).is_ok());
    let many = EnvelopeError::Devices("have more than 256 answers about revocation");
    assert_eq!(carrying(&one, 257), Err(many));
    assert!(carrying(&[device(REPORT_BYTES_MAX, CHAIN_BYTES_MAX)], 0).is_ok());
    let long = EnvelopeError::Devices("have a report or a chain that is too long");
    for (report, chain) in [
        (REPORT_BYTES_MAX + 1, CHAIN_BYTES_MAX),
        (REPORT_BYTES_MAX, CHAIN_BYTES_MAX + 1),
    ] {
        let refused = carrying(&[device(report, chain)], 0);
        assert_eq!(refused, Err(long.clone()));
    }
    let rising: Vec<_> = (1..=65).map(|length| device(length, 1)).collect();
    assert!(carrying(&rising[..64], 0).is_ok());
    let many = EnvelopeError::Devices("are not 1 to 64");
    assert_eq!(carrying(&rising, 0), Err(many));
}

#[test]
fn p36_a_set_has_one_form() {
    let mut place = place();
    let device = place.device();
    let text = |devices: &[DeviceEvidence]| carrying(devices, 0);
    let mut other = device.clone();
    other.report[40] ^= 1;
    let mut both = [device.clone(), other];
    both.sort_by(|a, b| a.report.cmp(&b.report));
    let good = text(&both).unwrap();
    assert_eq!(Envelope::parse(good.as_bytes()).unwrap(), good);
    let turned = [both[1].clone(), both[0].clone()];
    for wrong in [&turned[..], &[device.clone(), device.clone()], &[]] {
        assert!(matches!(text(wrong), Err(EnvelopeError::Devices(_))));
    }
    let mut long = device;
    long.chain = vec![b' '; 16 * 1024 + 1];
    assert!(matches!(text(&[long]), Err(EnvelopeError::Devices(_))));
    // Missing is the one way to say none.
    let without = String::from_utf8(
        common::envelope(&place.chip, &channel())
            .as_bytes()
            .to_vec(),
    );
    let without = without.unwrap();
    assert!(!without.contains("\"devices\""));
    let null = format!("{},\"devices\":null}}", without.strip_suffix('}').unwrap());
    assert!(Envelope::parse(null.as_bytes()).is_err());
}
