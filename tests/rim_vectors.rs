//! Manifests of the shared evidence: genuine ones are converted to the lists that their reports match, the others are refused for
//! their reason.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::fs;
use std::path::PathBuf;

use casemate::rim::{RimError, import};
use casemate_attestation::UnixTime;
use casemate_attestation::nvidia::{
    CertificatePlace, NvidiaRejection, PinnedManifestRoot, ReferenceKind,
};
use serde_json::Value;

/// The shared evidence's folder for NVIDIA.
fn shared() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/evidence/nvidia");
    if path.is_dir() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "shared evidence nvidia is missing"
    );
    println!("SKIP shared evidence nvidia is missing");
    None
}

/// 2024-06-01, 2026-03-01, and 2025-03-01 and 2026-07-01 for signers between them and later.
const IN_2024: UnixTime = UnixTime::from_secs(1_717_200_000);
const IN_2026: UnixTime = UnixTime::from_secs(1_772_323_200);

#[test]
fn genuine_manifests_are_converted_at_a_time_of_their_signers() {
    let Some(shared) = shared() else { return };
    let mut converted = 0;
    for folder in fs::read_dir(&shared).unwrap() {
        let folder = folder.unwrap().path();
        let Ok(expected) = fs::read(folder.join("expected.json")) else {
            continue;
        };
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let Some(manifests) = expected["rims"].as_object() else {
            continue;
        };
        for (file, about) in manifests {
            let bytes = fs::read(folder.join(file)).unwrap();
            let others = [1_740_787_200, 1_782_864_000].map(UnixTime::from_secs);
            let times = [IN_2024, others[0], IN_2026, others[1]];
            let judged = times.map(|now| import(&bytes, &PinnedManifestRoot::nvidia(), now));
            if file.contains("edited") {
                assert!(
                    judged.iter().all(|it| matches!(it, Err(RimError::Digest))),
                    "{file}: {judged:?}"
                );
                continue;
            }
            let imported = judged
                .into_iter()
                .find_map(Result::ok)
                .unwrap_or_else(|| panic!("{file}"));
            let indices: Vec<_> = imported.list.values.iter().map(|it| it.index).collect();
            assert_eq!(
                serde_json::json!(indices),
                about["active_indices"],
                "{file}"
            );
            let kind = match file {
                file if file.contains("driver") => ReferenceKind::Driver,
                file if file.contains("vbios") => ReferenceKind::Vbios,
                _ => ReferenceKind::Switch,
            };
            assert_eq!(imported.list.kind, kind);
            imported.list.reference().unwrap();
            converted += 1;
        }
    }
    assert!(converted >= 7, "{converted} manifests");
}

#[test]
fn manifests_that_must_be_refused_are_refused_for_their_reason() {
    let Some(shared) = shared() else { return };
    let read = |name: &str| fs::read(shared.join(name).join("rim.xml")).unwrap();
    let judge = |name: &str, now| import(&read(name), &PinnedManifestRoot::nvidia(), now);
    assert_eq!(
        judge("neg-rim-other-root", IN_2026).unwrap_err(),
        RimError::Signer(NvidiaRejection::NoPinnedRoot)
    );
    assert_eq!(
        judge("neg-rim-signature-value", IN_2026).unwrap_err(),
        RimError::Signature
    );
    let expired = judge("neg-rim-signer-expired", IN_2026).unwrap_err();
    let place = CertificatePlace(0);
    assert!(
        matches!(expired, RimError::Signer(NvidiaRejection::CertificateExpired { place: it, .. }) if it == place),
        "{expired}"
    );
    assert_eq!(
        judge("neg-rim-signer-expired", IN_2024)
            .unwrap()
            .list
            .version,
        "545.00"
    );
}
