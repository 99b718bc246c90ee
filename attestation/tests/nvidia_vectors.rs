//! Every NVIDIA report of the shared evidence gets the expected verdict, for the expected reason, with the expected fields.
//!
//! Manifests are read for their values only, by a few lines at the end that judge no signature: what is wrong with a manifest's
//! signature, chain or time is for the conversion to plain lists to find (`src/rim`), and is left to it by name.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;
mod support;

use std::collections::BTreeMap;

use casemate_attestation::UnixTime;
use casemate_attestation::eventlog::Basis;
use casemate_attestation::nvidia::{
    AbsentFlag, DeviceEvidence, DeviceKind, DriverMode, DriverState, FeatureFlag, GpuNonce,
    GpuPolicy, GpuPolicyParts, GpuReference, GpuReport, GpuVerdict, NvidiaRejection, OcspAnswers,
    PinnedGpuRoot, ReferenceKind, Revocation, verify_device, verify_devices,
};
use serde_json::json;

use common::{NOW, shared};
use support::vectors::{Folder, text};

const ON: DriverState = DriverState {
    mode: DriverMode::On,
};

#[test]
fn every_folder_gets_the_expected_verdict() {
    let Some(platform) = shared("nvidia") else {
        return;
    };
    let (mut accept, mut reject) = (0, 0);
    for folder in Folder::all(&platform) {
        if folder.expected["platform"] == json!("nvidia-rim") {
            is_left_to_the_conversion(&folder);
        } else if folder.verdict() == "reject" {
            refused(&folder);
            reject += 1;
        } else {
            accepted(&folder);
            manifests(&folder);
            accept += 1;
        }
    }
    assert!(accept >= 9 && reject >= 9, "{accept} and {reject} vectors");
}

fn evidence(folder: &Folder) -> DeviceEvidence {
    DeviceEvidence {
        report: folder.file("report.bin"),
        chain: folder.file("chain.pem"),
    }
}

fn nonce(text: &str) -> GpuNonce {
    GpuNonce::recorded(hex::decode(text).unwrap().try_into().unwrap())
}

/// Lists of everything that a report measured, split between driver and VBIOS as manifests are.
fn own_lists(report: &GpuReport) -> Vec<GpuReference> {
    let opaque = report.opaque();
    let all = |keep: fn(u8) -> bool| -> BTreeMap<u8, Vec<[u8; 48]>> {
        let entries = report.measurements().iter();
        entries
            .map(|(spdm, value)| (spdm - 1, vec![*value]))
            .filter(|(index, _)| keep(*index))
            .collect()
    };
    let list = |kind, version: &str, values| GpuReference::new(kind, version, values).unwrap();
    let vbios = opaque.vbios_version().unwrap();
    match opaque.driver_version() {
        Some(driver) => vec![
            list(ReferenceKind::Driver, driver, all(|it| it == 7 || it > 12)),
            list(ReferenceKind::Vbios, vbios, all(|it| it != 7 && it <= 12)),
        ],
        None => vec![list(ReferenceKind::Switch, vbios, all(|_| true))],
    }
}

/// What accepts a report with these lists. A switch is judged beside a GPU that nobody looks at here.
fn parts(report: &GpuReport, lists: Vec<GpuReference>) -> GpuPolicyParts {
    let opaque = report.opaque();
    let version = |text: Option<&str>| [text.unwrap_or("1").to_owned()].into();
    let mut references = lists;
    let spare = BTreeMap::from([(0, vec![[0; 48]])]);
    for kind in [
        ReferenceKind::Driver,
        ReferenceKind::Vbios,
        ReferenceKind::Switch,
    ] {
        if references.iter().all(|list| list.kind() != kind) {
            references.push(GpuReference::new(kind, "0.spare", spare.clone()).unwrap());
        }
    }
    let switch = opaque.kind() == DeviceKind::Switch;
    let mode = match opaque.feature_flag() {
        Some(flag) => flag,
        None if switch => FeatureFlag::ProtectedPcie,
        None => FeatureFlag::SingleGpu,
    };
    GpuPolicyParts {
        references,
        driver_versions: version(opaque.driver_version()),
        vbios_versions: version(opaque.vbios_version()),
        switch_versions: version(opaque.vbios_version()),
        gpus: 1,
        switches: usize::from(mode == FeatureFlag::ProtectedPcie),
        mode,
        absent_flag: AbsentFlag::AcceptedFromOldDrivers,
        revocation: Revocation::NotJudgedAccepted,
    }
}

fn judge(
    evidence: &DeviceEvidence,
    nonce: &GpuNonce,
    parts: &GpuPolicyParts,
    now: UnixTime,
) -> Result<GpuVerdict, NvidiaRejection> {
    let policy = GpuPolicy::new(parts.clone()).unwrap();
    verify_device(
        evidence,
        nonce,
        &policy,
        &[PinnedGpuRoot::nvidia()],
        &OcspAnswers::none(),
        ON,
        now,
    )
}

/// The report is good by itself: with lists of what it measured, everything else is as it must be.
fn accepted(folder: &Folder) {
    let (name, evidence) = (folder.name.as_str(), evidence(folder));
    let report = GpuReport::parse(&evidence.report).unwrap();
    let nonce = nonce(text(&folder.expected["request"], "nonce"));
    let parts = parts(&report, own_lists(&report));
    let verdict = judge(&evidence, &nonce, &parts, folder.now());
    let verdict = verdict.unwrap_or_else(|rejection| panic!("{name}: {rejection}"));
    println!("{name:32} accept  {}", verdict.kind());
    fields_agree(folder, &verdict);
    assert!(verdict.root_is_nvidias());
    assert!(!verdict.revocation_judged());
    assert_eq!(verdict.mode(), (DriverMode::On, Basis::Asserted));
    let lines = verdict.checks().iter();
    let lines: Vec<_> = lines
        .map(|line| format!("{} {}", line.id, line.text))
        .collect();
    let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
    assert!(has("N6 revocation not judged"), "{lines:#?}");
    assert!(has(
        "N9 confidential computing is on and DEVTOOLS is off: asserted"
    ));
    assert!(has("N11 nonce was given as it is"));

    // What makes this one good: its nonce, its lists, its versions, that somebody accepts what was not asked, the time.
    let judge = |parts: &GpuPolicyParts, now| self::judge(&evidence, &nonce, parts, now);
    let other = GpuNonce::recorded([0; 32]);
    let refusal = self::judge(&evidence, &other, &parts, folder.now()).unwrap_err();
    assert_eq!(refusal, NvidiaRejection::RequestNonce);
    let early = judge(&parts, UnixTime::from_secs(0)).unwrap_err();
    assert!(matches!(
        early,
        NvidiaRejection::CertificateNotYetValid { .. }
    ));
    let mut asked = parts.clone();
    asked.revocation = Revocation::Required;
    let refusal = judge(&asked, folder.now()).unwrap_err();
    assert_eq!(refusal, NvidiaRejection::RevocationNotJudged);
    let mut newer = parts.clone();
    newer.vbios_versions = ["97.newer".to_owned()].into();
    newer.switch_versions = newer.vbios_versions.clone();
    assert_eq!(judge(&newer, folder.now()).unwrap_err().rule(), "N12");
    let mut unlisted = parts.clone();
    unlisted.references = self::parts(&report, Vec::new()).references;
    assert_eq!(judge(&unlisted, folder.now()).unwrap_err().rule(), "N7");
    a_flag_or_its_absence_is_judged(folder, &report, &parts, &judge);
}

fn a_flag_or_its_absence_is_judged(
    folder: &Folder,
    report: &GpuReport,
    parts: &GpuPolicyParts,
    judge: &dyn Fn(&GpuPolicyParts, UnixTime) -> Result<GpuVerdict, NvidiaRejection>,
) {
    let now = folder.now();
    if report.opaque().kind() == DeviceKind::Switch {
        return;
    }
    let mut changed = parts.clone();
    if report.opaque().feature_flag().is_none() {
        changed.absent_flag = AbsentFlag::Refused;
        let refusal = judge(&changed, now).unwrap_err();
        assert_eq!(refusal, NvidiaRejection::FeatureMissing);
    } else {
        (changed.mode, changed.switches) = (FeatureFlag::MultiGpu, 0);
        let refusal = judge(&changed, now).unwrap_err();
        assert!(matches!(refusal, NvidiaRejection::Feature { .. }));
    }
}

fn fields_agree(folder: &Folder, verdict: &GpuVerdict) {
    let (report, expected) = (verdict.report(), &folder.expected);
    let opaque = report.opaque();
    let optional = |key: &str| expected[key].as_str();
    let gpu = expected["platform"] == json!("nvidia-gpu");
    assert_eq!(verdict.kind() == DeviceKind::Gpu, gpu);
    assert_eq!(opaque.driver_version(), optional("driver_version"));
    assert_eq!(opaque.vbios_version(), optional("vbios_version"));
    let id = opaque.firmware_id().map(ToString::to_string);
    assert_eq!(id.as_deref(), optional("fwid_in_report"));
    assert_eq!(json!(report.signed().len()), expected["signature_offset"]);
    assert_eq!(json!(report.unread()), expected["bytes_after_signature"]);
    let measured: BTreeMap<String, String> = report
        .measurements()
        .iter()
        .map(|(index, value)| (index.to_string(), hex::encode(value)))
        .collect();
    assert_eq!(json!(measured), expected["measurements"]);
    let field = |name: &str| expected["opaque_fields"][name].as_str();
    let state = |bytes: Option<&str>| bytes.map(|bytes| bytes == "aa");
    assert_eq!(opaque.nvdec0_enabled(), state(field("NVDEC0")));
    assert_eq!(opaque.protected_pcie(), state(field("PPCIE")));
    let flag = field("FEATURE_FLAG").map(|bytes| match bytes {
        "0000" => FeatureFlag::SingleGpu,
        "0100" => FeatureFlag::MultiGpu,
        "0200" => FeatureFlag::ProtectedPcie,
        other => panic!("flag {other}"),
    });
    assert_eq!(opaque.feature_flag(), flag);
    if let (Some(own), Some(expected)) = (opaque.own_identifier(), field("SWITCH_PDI")) {
        assert_eq!(own.to_string(), expected);
        assert_eq!(opaque.gpus().len(), 7);
    }
}

/// Each manifest beside a folder's report: matching or mismatching where the folder says.
fn manifests(folder: &Folder) {
    let Some(manifests) = folder.expected["rims"].as_object() else {
        return;
    };
    let evidence = evidence(folder);
    let report = GpuReport::parse(&evidence.report).unwrap();
    let nonce = nonce(text(&folder.expected["request"], "nonce"));
    for (file, about) in manifests {
        let manifest = Manifest::read(&folder.file(file));
        assert_eq!(manifest.version, text(about, "rim_version"));
        let indices: Vec<u8> = manifest.values.keys().copied().collect();
        assert_eq!(json!(indices), about["active_indices"]);
        let kind = match report.opaque().kind() {
            DeviceKind::Switch => ReferenceKind::Switch,
            DeviceKind::Gpu if file.contains("driver") => ReferenceKind::Driver,
            DeviceKind::Gpu => ReferenceKind::Vbios,
        };
        let judged = |version: &str| {
            let list = GpuReference::new(kind, version, manifest.values.clone()).unwrap();
            let mut lists = vec![list];
            for own in own_lists(&report) {
                if own.kind() != kind {
                    lists.push(own);
                }
            }
            judge(&evidence, &nonce, &parts(&report, lists), folder.now())
        };
        let of_report = match kind {
            ReferenceKind::Driver => report.opaque().driver_version(),
            ReferenceKind::Vbios | ReferenceKind::Switch => report.opaque().vbios_version(),
        };
        let of_report = of_report.unwrap();
        if manifest.version != of_report {
            let refusal = judged(&manifest.version).unwrap_err();
            assert!(matches!(refusal, NvidiaRejection::VersionNotListed { .. }));
        }
        // Under the report's own version its values decide.
        let mismatching = match judged(of_report) {
            Ok(_) => Vec::new(),
            Err(NvidiaRejection::MeasurementMismatch { indices, .. }) => indices,
            Err(other) => panic!("{}/{file}: {other}", folder.name),
        };
        println!("{:32} {file}: mismatching {mismatching:?}", folder.name);
        assert_eq!(json!(mismatching), about["mismatching_indices"], "{file}");
    }
}

#[test]
fn both_manifests_of_one_report_match_together_and_share_no_index() {
    let Some(platform) = shared("nvidia") else {
        return;
    };
    let folder = Folder::read(&platform.join("hopper-545-full-match"));
    let evidence = evidence(&folder);
    let report = GpuReport::parse(&evidence.report).unwrap();
    let nonce = nonce(text(&folder.expected["request"], "nonce"));
    let list = |kind, file| {
        let manifest = Manifest::read(&folder.file(file));
        GpuReference::new(kind, &manifest.version, manifest.values).unwrap()
    };
    let (driver, vbios) = ("rim_driver.xml", "rim_vbios.xml");
    let lists = vec![
        list(ReferenceKind::Driver, driver),
        list(ReferenceKind::Vbios, vbios),
    ];
    let verdict = judge(&evidence, &nonce, &parts(&report, lists), folder.now()).unwrap();
    // 21 and 12 are active; the decoder's, index 35, does not count here.
    let line = verdict
        .checks()
        .iter()
        .find(|line| line.id == "N8")
        .unwrap();
    assert_eq!(line.text, "all 32 active measurements are as listed");
    let twice = Manifest::read(&folder.file(vbios));
    let mut values = Manifest::read(&folder.file(driver)).values;
    values.extend(twice.values);
    let both = GpuReference::new(ReferenceKind::Driver, "545.00", values).unwrap();
    let lists = vec![both, list(ReferenceKind::Vbios, vbios)];
    let refusal = judge(&evidence, &nonce, &parts(&report, lists), folder.now()).unwrap_err();
    assert_eq!(refusal, NvidiaRejection::ReferencesOverlap(0));
}

/// A negative is refused for its reason, under lists that the genuine one satisfies.
fn refused(folder: &Folder) {
    let name = folder.name.as_str();
    let evidence = evidence(folder);
    let (genuine, now) = match name {
        // Its publisher damaged it; there is no genuine one.
        "neg-gpu-signature" => (evidence.report.clone(), NOW),
        _ => (folder.genuine().file("report.bin"), folder.genuine().now()),
    };
    let report = GpuReport::parse(&genuine).unwrap();
    let asked = match folder.expected["expected_nonce"].as_str() {
        Some(text) => nonce(text),
        None => GpuNonce::recorded(report.request().nonce),
    };
    let parts = parts(&report, own_lists(&report));
    if name != "neg-gpu-signature" {
        let good = DeviceEvidence {
            report: genuine,
            chain: folder.genuine().file("chain.pem"),
        };
        let its_own = GpuNonce::recorded(report.request().nonce);
        assert!(judge(&good, &its_own, &parts, now).is_ok(), "{name}");
    }
    let rejection = judge(&evidence, &asked, &parts, now).unwrap_err();
    println!("{name:32} {:6}  {rejection}", rejection.rule());
    match name {
        "neg-chain-of-other-gpu"
        | "neg-gpu-signature"
        | "neg-measurement-flip"
        | "neg-request-nonce-edited" => {
            assert_eq!(rejection, NvidiaRejection::ReportSignature);
        }
        "neg-chain-without-intermediate" => {
            assert!(matches!(rejection, NvidiaRejection::ChainName { .. }));
        }
        "neg-leaf-only" => assert_eq!(rejection, NvidiaRejection::ChainLength(1)),
        "neg-nonce-mismatch" => assert_eq!(rejection, NvidiaRejection::RequestNonce),
        "neg-record-length-huge" => assert!(matches!(
            rejection,
            NvidiaRejection::RecordLength {
                declared: 0x00ff_ffff,
                ..
            }
        )),
        "neg-truncated" => {
            assert!(matches!(rejection, NvidiaRejection::RecordLength { .. }));
        }
        other => panic!("no expectation for {other}"),
    }
}

/// What is wrong here is a manifest's signature, chain or time. This part never sees one: it takes lists whose makers judged
/// that. The conversion refuses these folders in a test of its own (tests/rim_vectors.rs).
fn is_left_to_the_conversion(folder: &Folder) {
    let name = folder.name.as_str();
    assert_eq!(folder.verdict(), "reject");
    let left = [
        "neg-rim-other-root",
        "neg-rim-signature-value",
        "neg-rim-signer-expired",
    ];
    assert!(left.contains(&name), "no expectation for {name}");
    assert!(!folder.has("report.bin"), "{name} has a report to judge");
    println!("{name:32} is left to the conversion of manifests (casemate nvidia rim-import)");
}

#[test]
fn g05_one_report_given_twice_is_refused_and_two_gpus_of_one_firmware_are_not_one() {
    let Some(platform) = shared("nvidia") else {
        return;
    };
    let first = Folder::read(&platform.join("hopper-590-ppcie"));
    let second = Folder::read(&platform.join("hopper-590-ppcie-c"));
    let report = GpuReport::parse(&first.file("report.bin")).unwrap();
    let other = GpuReport::parse(&second.file("report.bin")).unwrap();
    assert_eq!(report.opaque().firmware_id(), other.opaque().firmware_id());
    assert_eq!(report.opaque().switches(), other.opaque().switches());
    assert_eq!(report.opaque().switches().len(), 4);
    let nonce = GpuNonce::recorded(report.request().nonce);
    let mut parts = parts(&report, own_lists(&report));
    parts.references.extend(own_lists(&other));
    (parts.gpus, parts.switches) = (2, 4);
    let policy = GpuPolicy::new(parts).unwrap();
    let judge = |folders: &[&Folder]| {
        let all: Vec<_> = folders.iter().map(|folder| evidence(folder)).collect();
        let roots = [PinnedGpuRoot::nvidia()];
        verify_devices(
            &all,
            &nonce,
            &policy,
            &roots,
            &OcspAnswers::none(),
            ON,
            first.now(),
        )
        .unwrap_err()
    };
    assert_eq!(
        judge(&[&first, &second, &first]),
        NvidiaRejection::DeviceTwice {
            first: 0,
            second: 2,
            by: "key"
        }
    );
    // Both are good. Of the four switches that they name none answered.
    let missing = |kind, found, expected| NvidiaRejection::DeviceCount {
        kind,
        found,
        expected,
    };
    let switches = missing(DeviceKind::Switch, 0, 4);
    assert_eq!(judge(&[&first, &second]), switches);
    assert_eq!(judge(&[&second]), missing(DeviceKind::Gpu, 1, 2));
    assert_eq!(judge(&[]), missing(DeviceKind::Gpu, 0, 2));
    let another = Folder::read(&platform.join("hopper-550"));
    let refusal = judge(&[&first, &another]);
    assert!(matches!(
        &refusal,
        NvidiaRejection::Device { number: 1, .. }
    ));
    assert_eq!(refusal.rule(), "N2", "one nonce for all");
}

#[test]
fn g03_devtools_and_off_are_refused_whatever_the_report_says() {
    let Some(platform) = shared("nvidia") else {
        return;
    };
    let folder = Folder::read(&platform.join("hopper-580"));
    let evidence = evidence(&folder);
    let report = GpuReport::parse(&evidence.report).unwrap();
    let nonce = GpuNonce::recorded(report.request().nonce);
    let policy = GpuPolicy::new(parts(&report, own_lists(&report))).unwrap();
    for (mode, expected) in [
        (DriverMode::DevTools, NvidiaRejection::DevTools),
        (DriverMode::Off, NvidiaRejection::ConfidentialOff),
    ] {
        let (roots, state) = ([PinnedGpuRoot::nvidia()], DriverState { mode });
        let judged = verify_device(
            &evidence,
            &nonce,
            &policy,
            &roots,
            &OcspAnswers::none(),
            state,
            folder.now(),
        );
        assert_eq!(judged.unwrap_err(), expected);
    }
}

/// A manifest's values, and nothing of its signature.
struct Manifest {
    version: String,
    values: BTreeMap<u8, Vec<[u8; 48]>>,
}

impl Manifest {
    fn read(xml: &[u8]) -> Self {
        let xml = std::str::from_utf8(xml).unwrap();
        let mut values = BTreeMap::new();
        let mut version = None;
        for element in xml.split('<') {
            if let Some(text) = attribute(element, "colloquialVersion") {
                version = Some(text.to_ascii_uppercase());
            }
            let active = attribute(element, "active") == Some("True");
            if !active || attribute(element, "type") != Some("Measurement") {
                continue;
            }
            let number = |name| attribute(element, name).unwrap().parse::<u8>().unwrap();
            let hash = |n| attribute(element, &format!("Hash{n}")).unwrap();
            let bytes = |n| hex::decode(hash(n)).unwrap().try_into().unwrap();
            let alternatives = (0..number("alternatives")).map(bytes).collect();
            assert!(values.insert(number("index"), alternatives).is_none());
        }
        Self {
            version: version.unwrap(),
            values,
        }
    }
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = element.split_once(&format!("{name}=\""))?;
    Some(after.split_once('"')?.0)
}
