//! Documents are strict (rules P-1, P-2, P-30 to P-34): one way to write a thing, and nothing beside it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;

use std::collections::BTreeMap;

use casemate_attestation::strict_json::{self, JsonError};
use casemate_attestation::tpm::{KeyEvidence, QuoteSignature, TpmEvidence};
use casemate_attestation::{
    Batch, BatchPath, Context, Direction, ENVELOPE_BYTES_MAX, Envelope, EnvelopeError,
    EnvelopeParts, HardwareEvidence, Platform, Sha256Digest, SnpEvidence, TpmBoot,
};
use proptest::prelude::*;
use serde_json::Value;

use common::{channel, context};

fn good() -> String {
    let hardware = HardwareEvidence::Snp(SnpEvidence {
        report: vec![1; 1184],
        vek: vec![2; 5],
        intermediate: vec![3; 4],
        crl: vec![4; 3],
    });
    let batch = Batch::new(&[channel().binding(&context()); 3])
        .unwrap()
        .path(1);
    let (platform, direction) = (Platform::TestChip, Direction::Server);
    let envelope = Envelope::build(EnvelopeParts {
        platform,
        direction,
        hardware,
        context: context(),
        batch,
        devices: None,
    })
    .unwrap();
    String::from_utf8(envelope.as_bytes().to_vec()).unwrap()
}

fn refuse(text: &str) -> EnvelopeError {
    Envelope::parse(text.as_bytes()).unwrap_err()
}

fn replaced(from: &str, to: &str) -> EnvelopeError {
    let good = good();
    assert!(good.contains(from), "{from} is not in the envelope");
    refuse(&good.replacen(from, to, 1))
}

fn malformed(error: &EnvelopeError) -> bool {
    matches!(error, EnvelopeError::Json(JsonError::Malformed { .. }))
}

#[test]
fn b25_envelopes_are_read_strictly() {
    assert!(Envelope::parse(good().as_bytes()).is_ok());
    let duplicate = EnvelopeError::Json(JsonError::DuplicateKey);
    assert_eq!(replaced("{", "{\"platform\":\"snp\","), duplicate);
    assert_eq!(replaced("\"vek\":", "\"vek\":\"\",\"vek\":"), duplicate);
    assert_eq!(
        replaced(
            "\"policy_bundle\":",
            "\"\\u006dodels\":[],\"policy_bundle\":"
        ),
        duplicate,
        "escaped twin"
    );
    for before in [
        "{",
        "\"hardware\":{",
        "\"snp\":{",
        "\"context\":{",
        "\"batch\":{",
    ] {
        let unknown = replaced(before, &format!("{before}\"note\":1,"));
        assert!(malformed(&unknown), "unknown field after {before}");
    }
    assert!(malformed(&replaced("\"crl\":\"BAQE\"", "\"crl\":null")));
    assert!(
        malformed(&replaced(",\"crl\":\"BAQE\"", "")),
        "missing field"
    );
    assert_eq!(
        replaced("casemate/evidence/v2", "casemate/evidence/v1"),
        EnvelopeError::Format
    );
    for word in ["Server", "both", ""] {
        assert!(malformed(&replaced(
            "\"direction\":\"server\"",
            &format!("\"direction\":\"{word}\"")
        )));
    }
}

#[test]
fn p32_platform_and_kind_go_together() {
    for (platform, word) in [(Platform::Tdx, "tdx"), (Platform::Tpm, "tpm")] {
        let other = format!("\"platform\":\"{word}\"");
        assert_eq!(
            replaced("\"platform\":\"test-chip\"", &other),
            EnvelopeError::Kind {
                platform,
                kind: "snp"
            }
        );
    }
    let snp = "\"platform\":\"snp\"";
    let text = good().replacen("\"platform\":\"test-chip\"", snp, 1);
    assert!(Envelope::parse(text.as_bytes()).is_ok());
    let two = replaced("\"hardware\":{", "\"hardware\":{\"tpm\":{},");
    assert!(malformed(&two), "two kinds at once");
    let none = replaced("\"hardware\":{\"snp\":", "\"hardware\":{\"sgx\":");
    assert!(malformed(&none), "a kind that is not known");
    let mut parts = Envelope::parse(good().as_bytes()).unwrap().parts().clone();
    parts.platform = Platform::Tpm;
    assert!(matches!(
        Envelope::build(parts),
        Err(EnvelopeError::Kind { .. })
    ));
}

#[test]
fn p01_registers_are_numbered_in_one_way() {
    let evidence = HardwareEvidence::Tpm(Box::new(boot([(1, vec![7; 32])].into())));
    let text = serde_json::to_string(&evidence).unwrap();
    let read = |text: &str| serde_json::from_str::<HardwareEvidence>(text);
    assert_eq!(read(&text).unwrap(), evidence);
    for key in ["01", "+1", "1 ", "-1", "256", "one", ""] {
        let other = text.replacen("\"1\":", &format!("\"{key}\":"), 1);
        assert!(read(&other).is_err(), "{key:?}");
    }
    let value = hex::encode([7; 32]);
    for other in [&value[1..], &format!("{value}zz"), "AB"] {
        let other = text.replacen(&value, other, 1);
        assert!(read(&other).is_err(), "{other}");
    }
}

fn boot(registers: BTreeMap<u8, Vec<u8>>) -> TpmBoot {
    TpmBoot {
        quote: TpmEvidence {
            message: vec![1; 9],
            signature: QuoteSignature::Tpmt(vec![2; 8]),
            registers,
            key: KeyEvidence::PublicArea(vec![3; 7]),
        },
        event_log: vec![4; 6],
    }
}

#[test]
fn p30_batch_may_be_null_but_not_missing() {
    let good = good();
    let start = good.find(",\"batch\":").unwrap();
    assert!(malformed(&refuse(&format!("{}}}", &good[..start]))));
    assert!(Envelope::parse(format!("{},\"batch\":null}}", &good[..start]).as_bytes()).is_ok());
}

#[test]
fn b25_bytes_around_the_document_are_refused() {
    let not_one = EnvelopeError::Json(JsonError::NotOneObject);
    for (before, after) in [
        ("", " "),
        ("", "\n"),
        ("", "\0"),
        ("", "{}"),
        ("", "}"),
        (" ", ""),
        ("\u{feff}", ""),
    ] {
        assert_eq!(
            refuse(&format!("{before}{}{after}", good())),
            not_one,
            "{before:?} {after:?}"
        );
    }
    assert_eq!(refuse(""), not_one);
    assert_eq!(refuse("[]"), not_one);
    assert!(malformed(&refuse("{]}")));
    assert!(
        malformed(&refuse(&format!("{}}}", &good()[..40]))),
        "cut short"
    );
}

#[test]
fn p01_hexadecimal_is_lower_case() {
    let digest = Sha256Digest::of(b"model").to_string();
    assert!(malformed(&replaced(&digest, &digest.to_uppercase())));
    assert!(malformed(&replaced(&digest, &digest[2..])));
    assert!(malformed(&replaced(&digest, &format!("{digest}00"))));
    assert!(malformed(&replaced(
        &digest,
        &format!("0x{}", &digest[2..])
    )));
    assert!(digest.to_uppercase().parse::<Sha256Digest>().is_err());
}

#[test]
fn p01_base64_is_canonical() {
    assert!(Envelope::parse(good().replacen("AwMDAw==", "AwMDBA==", 1).as_bytes()).is_ok());
    for other in [
        "AwMDAx==",
        "AwMDAw=",
        "AwMDAw",
        "AwMD\\nAw==",
        " AwMDAw==",
        "AwMDA_==",
        "AwMDAw==AwMD",
    ] {
        assert!(malformed(&replaced("AwMDAw==", other)), "{other}");
    }
}

#[test]
fn b25_length_and_depth_are_bounded() {
    let long = format!("{{{}", " ".repeat(ENVELOPE_BYTES_MAX));
    let error = JsonError::TooLong {
        found: ENVELOPE_BYTES_MAX + 1,
        limit: ENVELOPE_BYTES_MAX,
    };
    assert_eq!(refuse(&long), EnvelopeError::Json(error.clone()));
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let read = |text: &str| strict_json::from_slice::<Value>(text.as_bytes(), 1 << 20);
    assert!(read(&nested(15)).is_ok());
    assert_eq!(read(&nested(16)), Err(JsonError::TooDeep));
    assert_eq!(read(&nested(100_000)), Err(JsonError::TooDeep));
    let hardware = HardwareEvidence::Snp(SnpEvidence {
        report: vec![0; ENVELOPE_BYTES_MAX / 4 * 3],
        ..SnpEvidence::default()
    });
    let (platform, direction) = (Platform::Snp, Direction::Server);
    let parts = EnvelopeParts {
        platform,
        direction,
        hardware,
        context: Context::absent(),
        batch: None,
        devices: None,
    };
    assert!(matches!(
        Envelope::build(parts),
        Err(EnvelopeError::Json(JsonError::TooLong { .. }))
    ));
}

#[test]
fn errors_do_not_repeat_what_the_document_says() {
    let secret = "hunter2-is-a-secret";
    let read = |text: String| {
        format!(
            "{0} {0:?}",
            strict_json::from_slice::<Context>(text.as_bytes(), 1 << 20).unwrap_err()
        )
    };
    assert!(!read(format!("{{\"{secret}\":1}}")).contains(secret));
    assert!(!read(format!("{{\"{secret}\":1,\"{secret}\":2}}")).contains(secret));
    assert!(!read(format!("{{\"policy_bundle\":\"{secret}\"}}")).contains(secret));
}

#[test]
fn p34_digest_is_over_the_bytes_received() {
    let compact = good();
    let spaced = compact.replacen(':', ": ", 1);
    let (one, other) = (
        Envelope::parse(compact.as_bytes()).unwrap(),
        Envelope::parse(spaced.as_bytes()).unwrap(),
    );
    assert_eq!(one.parts(), other.parts());
    assert_ne!(one.digest(), other.digest());
    assert_eq!(other.digest(), Sha256Digest::of(spaced.as_bytes()));
}

fn digest() -> impl Strategy<Value = Sha256Digest> {
    any::<[u8; 32]>().prop_map(Sha256Digest::from_bytes)
}

fn path() -> impl Strategy<Value = Option<BatchPath>> {
    let binding = channel().binding(&context());
    let one = (1_usize..70, any::<prop::sample::Index>()).prop_map(move |(count, pick)| {
        Batch::new(&vec![binding; count])
            .unwrap()
            .path(pick.index(count))
    });
    prop_oneof![Just(None), one]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..2000)
}

fn snp() -> impl Strategy<Value = (Platform, HardwareEvidence)> {
    let platform = prop_oneof![Just(Platform::Snp), Just(Platform::TestChip)];
    (platform, bytes(), bytes(), bytes(), bytes()).prop_map(
        |(platform, report, vek, intermediate, crl)| {
            let evidence = SnpEvidence {
                report,
                vek,
                intermediate,
                crl,
            };
            (platform, HardwareEvidence::Snp(evidence))
        },
    )
}

fn tpm() -> impl Strategy<Value = (Platform, HardwareEvidence)> {
    let signature = prop_oneof![
        bytes().prop_map(QuoteSignature::Tpmt),
        bytes().prop_map(QuoteSignature::RsassaSha256),
    ];
    let certified = (bytes(), prop::collection::vec(bytes(), 0..3));
    let key = prop_oneof![
        bytes().prop_map(KeyEvidence::PublicArea),
        bytes().prop_map(KeyEvidence::Spki),
        certified.prop_map(|(leaf, intermediates)| KeyEvidence::Certificate {
            leaf,
            intermediates
        }),
    ];
    let registers = prop::collection::btree_map(any::<u8>(), bytes(), 0..5);
    (bytes(), signature, registers, key, bytes()).prop_map(
        |(message, signature, registers, key, event_log)| {
            let quote = TpmEvidence {
                message,
                signature,
                registers,
                key,
            };
            let boot = TpmBoot { quote, event_log };
            (Platform::Tpm, HardwareEvidence::Tpm(Box::new(boot)))
        },
    )
}

prop_compose! {
    fn parts()(
        (platform, hardware) in prop_oneof![snp(), tpm()],
        server in any::<bool>(),
        digests in prop::array::uniform3(digest()),
        models in prop::collection::vec(digest(), 0..9),
        batch in path(),
    ) -> EnvelopeParts {
        let [policy_bundle, configuration, device_evidence] = digests;
        EnvelopeParts {
            platform,
            direction: if server { Direction::Server } else { Direction::Client },
            hardware,
            context: Context { policy_bundle, models, configuration, device_evidence },
            batch,
            devices: None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn what_is_built_is_read_back(parts in parts()) {
        let built = Envelope::build(parts.clone()).unwrap();
        let read = Envelope::parse(built.as_bytes()).unwrap();
        prop_assert_eq!(read.parts(), &parts);
        let rebuilt = Envelope::build(read.parts().clone()).unwrap();
        prop_assert_eq!(rebuilt.as_bytes(), built.as_bytes());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::parse(&bytes);
    }

    #[test]
    fn one_changed_byte_is_refused_or_read_as_written(parts in parts(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = Envelope::build(parts).unwrap().as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = Envelope::parse(&bytes) {
            let rebuilt = Envelope::build(read.parts().clone()).unwrap();
            prop_assert!(rebuilt.as_bytes() == bytes.as_slice() || byte.is_ascii_whitespace());
        }
    }
}
