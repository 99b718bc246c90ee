//! Against a real TPM implementation: `scripts/tpm-fixture` starts swtpm, enrols a key, measures a boot and quotes it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use casemate_attestation::UnixTime;
use casemate_attestation::eventlog::{Basis, LogKind, LogRejection, Register, replay};
use casemate_attestation::tpm::{
    AttestationKey, Bank, Continuity, EnrolledKey, HostedIn, KeyEvidence, PinnedTpmRoot, PublicKey,
    QuoteSignature, TpmAnchors, TpmEvidence, TpmPolicy, TpmRejection, TpmVerdict,
    verify_ak_certificate, verify_ek_certificate, verify_tpm_quote,
};

use support::log::{NO_ACTION, boot, log};
use support::vectors::{Folder, numbers, text};

const NONCE: &[u8] = b"a nonce for the software TPM 32b";

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/tpm-fixture")
}

/// Makes evidence with a key of this kind, after the measurements of [`boot`]. `None`, said aloud, without the tools.
fn fixture(kind: &str, place: &Path) -> Option<Folder> {
    let mut extensions = String::new();
    for (register, event_type, hashed, _) in boot() {
        if event_type != NO_ACTION {
            let digest = hex::encode(Bank::Sha256.digest(&hashed));
            writeln!(extensions, "{register}:sha256={digest}").unwrap();
        }
    }
    let list = place.join("extensions");
    std::fs::write(&list, extensions).unwrap();
    let folder = place.join(kind);
    let made = Command::new(script())
        .args([
            &folder,
            Path::new(&hex::encode(NONCE)),
            &list,
            Path::new(kind),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    if made.status.code() == Some(3) {
        println!("SKIP {said}");
        return None;
    }
    assert!(made.status.success(), "{said}");
    Some(Folder::read(&folder))
}

/// A quote of the fixture's: `quote`, or `other_quote` of the second key.
fn evidence(folder: &Folder, quote: &str, area: &str) -> TpmEvidence {
    TpmEvidence {
        message: folder.file(&format!("{quote}.msg")),
        signature: QuoteSignature::Tpmt(folder.file(&format!("{quote}.sig"))),
        registers: folder.registers(text(&folder.expected, "pcrs")),
        key: KeyEvidence::PublicArea(folder.file(area)),
    }
}

fn area(folder: &Folder, name: &str) -> AttestationKey {
    AttestationKey::parse(&folder.file(name)).unwrap()
}

/// The registers that a replay of the same boot gives.
fn policy(registers: &BTreeMap<u8, Vec<u8>>, folder: &Folder) -> TpmPolicy {
    let expected = registers
        .iter()
        .map(|(number, value)| (*number, vec![value.clone()]));
    let covered = numbers(&folder.expected["pcr_selection"])
        .into_iter()
        .collect();
    TpmPolicy::new(Bank::Sha256, covered, expected.collect()).unwrap()
}

fn replayed() -> BTreeMap<u8, Vec<u8>> {
    let replay = replay(&log(&boot()), LogKind::Tcg2).unwrap();
    let registers = replay.registers(Bank::Sha256).unwrap();
    let number = |register: &Register| match register {
        Register::Pcr(number) | Register::Rtmr(number) => *number,
    };
    registers
        .iter()
        .map(|(register, value)| (number(register), value.clone()))
        .collect()
}

#[test]
fn quotes_of_a_software_tpm_are_judged_by_the_production_verifier() {
    let place = tempfile::tempdir().unwrap();
    for kind in ["rsa", "ecc"] {
        let Some(folder) = fixture(kind, place.path()) else {
            return;
        };
        let verdict = judged(&folder);
        claims(&verdict);
        certificates(&folder);
        println!("{kind}: {:#?}", verdict.checks());
    }
}

fn judged(folder: &Folder) -> TpmVerdict {
    let key = area(folder, "ak_public.tpmt");
    assert_eq!(
        key.name(),
        folder.file("ak_name.bin"),
        "the Name that the TPM gives it"
    );
    assert_eq!(
        key.public(),
        &PublicKey::from_spki(&folder.pem("ak_public.pem")).unwrap()
    );
    let anchors = TpmAnchors::new(Vec::new(), vec![EnrolledKey::new(&key, HostedIn::Machine)]);
    let good = evidence(folder, "quote", "ak_public.tpmt");
    let policy = policy(&replayed(), folder);
    let judge = |evidence: &TpmEvidence, nonce: &[u8], policy: &TpmPolicy| {
        verify_tpm_quote(evidence, nonce, policy, &anchors, now())
    };
    let verdict = judge(&good, NONCE, &policy).unwrap();
    assert_eq!(
        hex::encode(verdict.attest().extra_data()),
        text(&folder.expected, "extra_data")
    );

    // Another nonce, one register value changed, a quote by another key of the same TPM.
    let other = judge(&good, b"another nonce of thirty-two byte", &policy);
    assert_eq!(other.unwrap_err(), TpmRejection::NonceMismatch);
    for register in [0, 7, 23] {
        let mut changed = good.clone();
        changed.registers.get_mut(&register).unwrap()[0] ^= 1;
        assert_eq!(
            judge(&changed, NONCE, &policy).unwrap_err(),
            TpmRejection::PcrDigest
        );
    }
    let strange = evidence(folder, "other_quote", "other_public.tpmt");
    assert_eq!(
        judge(&strange, NONCE, &policy).unwrap_err(),
        TpmRejection::KeyNotEnrolled
    );
    let forged = evidence(folder, "other_quote", "ak_public.tpmt");
    assert_eq!(
        judge(&forged, NONCE, &policy).unwrap_err(),
        TpmRejection::QuoteSignature
    );
    // The same key's signature over a certification, which is no quote.
    let certified = evidence(folder, "certify", "ak_public.tpmt");
    assert_eq!(
        judge(&certified, NONCE, &policy).unwrap_err(),
        TpmRejection::NotAQuote(0x8017)
    );
    // Another boot than this one: a reset later.
    let mut since = verdict.clock();
    let same = policy.clone().with_continuity(Continuity::Since(since));
    assert!(judge(&good, NONCE, &same).is_ok());
    since.reset_count += 1;
    let later = policy.clone().with_continuity(Continuity::Since(since));
    assert_eq!(judge(&good, NONCE, &later).unwrap_err().rule(), "P6");
    verdict
}

/// The log of that boot, by registers that the TPM signed.
fn claims(verdict: &TpmVerdict) {
    let genuine = replay(&log(&boot()), LogKind::Tcg2).unwrap();
    let claims = genuine
        .confirm(&verdict.quoted())
        .unwrap()
        .claims()
        .unwrap();
    assert_eq!(claims.secure_boot(), Some((true, Basis::HardwareProven)));
    assert_eq!(claims.left_boot_services(), Some(Basis::HardwareProven));
    let mut events = boot();
    events.pop();
    let short = replay(&log(&events), LogKind::Tcg2).unwrap();
    let refused = short.confirm(&verdict.quoted()).unwrap_err();
    assert_eq!(refused, LogRejection::RegisterMismatch(Register::Pcr(5)));
}

/// The endorsement key's certificate under the local authority: good for enrolment, and for nothing else.
fn certificates(folder: &Folder) {
    let root = PinnedTpmRoot::new(&folder.pem("ek_root.pem"), HostedIn::Machine);
    let anchors = TpmAnchors::new(vec![root], Vec::new());
    let (leaf, above) = (
        folder.file("ek_certificate.der"),
        vec![folder.pem("ek_intermediate.pem")],
    );
    let (_, hosted) = verify_ek_certificate(&leaf, &above, &anchors, now()).unwrap();
    assert_eq!(hosted, HostedIn::Machine);
    let attests = verify_ak_certificate(&leaf, &above, &anchors, now()).unwrap_err();
    assert_eq!(attests, TpmRejection::LeafUsage("signing"));
    let nobody = TpmAnchors::default();
    let refused = verify_ek_certificate(&leaf, &above, &nobody, now()).unwrap_err();
    assert_eq!(refused, TpmRejection::NoPinnedRoot);
}

/// The certificates were made a moment ago. The verifier itself has no clock.
fn now() -> UnixTime {
    SystemTime::now().into()
}
