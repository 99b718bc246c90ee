//! Writes the seeds, each through the encoder that a real sender uses: `scripts/fuzz seeds`. A
//! target refuses to start from a seed that its decoder no longer accepts. This is a target itself,
//! so that it is built with the others; it fuzzes nothing. A quote's seed is a TPM's own: see `tpm_attest`.
#![no_main]

// The platform that signs quotes for the tests signs the seed, too.
#[path = "../../attestation/tests/common/der.rs"]
mod der;
#[path = "../../attestation/tests/common/tdx/mod.rs"]
mod tdx;
#[path = "../../attestation/tests/support/log.rs"]
mod log;
#[path = "../../attestation/tests/support/spdm.rs"]
mod spdm;
#[path = "../../attestation/tests/support/ocsp.rs"]
mod ocsp;
mod collateral_seeds;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use casemate::session::{ChallengeRequest, Confirmation};
use casemate_attestation::test_chip::{TCB, TestChip};
use casemate_attestation::*;
use casemate_models::package::{Publisher, PublisherKey, SealOptions, SealedPackage, seal};
use libfuzzer_sys::fuzz_target;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

/// 2026-03-01T00:00:00Z, as in the targets.
const NOW: UnixTime = UnixTime::from_secs(1_772_323_200);

type Outcome = Result<(), Box<dyn Error>>;

fuzz_target!(
    init: if let Err(error) = write_all() { panic!("{error}") },
    |_bytes: &[u8]| {}
);

fn write_all() -> Outcome {
    let chip = TestChip::from_seed(&[0x5a; 32], NOW);
    evidence(&chip)?;
    quote()?;
    write("event_log/domain", &log::domain())?;
    write("event_log/tpm", &log::log(&log::boot()))?;
    device()?;
    collateral_seeds::write_all(&chip)?;
    signed_documents(&chip)?;
    let (spm, bpe) = (gguf("llama"), gguf("gpt2"));
    write("gguf_metadata/spm.gguf", &spm)?;
    write("gguf_metadata/bpe.gguf", &bpe)?;
    package(&spm)?;
    challenges()?;
    chats()
}

fn write(name: &str, bytes: &[u8]) -> Outcome {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(name);
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    println!("{:6} {name}", bytes.len());
    Ok(fs::write(path, bytes)?)
}

/// An envelope, the same evidence as the SNP target reads it, and the root that it chains to.
fn evidence(chip: &TestChip) -> Outcome {
    let hardware = chip.evidence_for(&chip.template());
    let mut parts = Vec::new();
    for part in [&hardware.report, &hardware.vek, &hardware.intermediate] {
        parts.extend(u16::try_from(part.len())?.to_be_bytes());
    }
    for part in [
        &hardware.report,
        &hardware.vek,
        &hardware.intermediate,
        &hardware.crl,
    ] {
        parts.extend(part);
    }
    write("snp_report/evidence", &parts)?;
    write("snp_report/report", &hardware.report)?;
    write("test-chip-root.der", chip.root_der())?;

    let context = Context {
        models: vec![Sha256Digest::of(b"model")],
        ..Context::absent()
    };
    let inputs = BindingInputs {
        direction: Direction::Server,
        exporter: &[1; 32],
        server_leaf: Sha256Digest::of(b"server"),
        client_leaf: Sha256Digest::of(b"client"),
        nonce: Nonce::from_bytes([2; 32]),
        context: &context,
    };
    let envelope_of = |platform, hardware, direction, batch| {
        Envelope::build(EnvelopeParts {
            platform,
            direction,
            hardware,
            context: context.clone(),
            batch,
            devices: None,
        })
    };
    let envelope = |direction, batch| {
        let hardware = HardwareEvidence::Snp(hardware.clone());
        envelope_of(Platform::TestChip, hardware, direction, batch)
    };
    let batch = Batch::new(&[inputs.binding(), inputs.binding(), inputs.binding()])?.path(1);
    write(
        "evidence_envelope/alone.json",
        envelope(Direction::Server, None)?.as_bytes(),
    )?;
    write(
        "evidence_envelope/batch.json",
        envelope(Direction::Client, batch)?.as_bytes(),
    )?;
    let domain = tdx::Platform::new();
    let domain = HardwareEvidence::Tdx(Box::new(TdxEvidence {
        quote: domain.signed_quote(),
        collateral: domain.collateral(),
        event_log: Vec::new(),
    }));
    let boot = HardwareEvidence::Tpm(Box::new(TpmBoot {
        quote: tpm::TpmEvidence {
            message: vec![1; 32],
            signature: tpm::QuoteSignature::Tpmt(vec![2; 32]),
            registers: BTreeMap::from([(0, vec![3; 32]), (11, vec![4; 32])]),
            key: tpm::KeyEvidence::PublicArea(vec![5; 32]),
        },
        event_log: vec![6; 32],
    }));
    for (platform, hardware) in [(Platform::Tdx, domain), (Platform::Tpm, boot)] {
        let name = format!("evidence_envelope/{platform}.json");
        let sent = envelope_of(platform, hardware, Direction::Server, None)?;
        write(&name, sent.as_bytes())?;
    }
    Ok(())
}

/// A quote with its collateral, and the root that both chain to.
fn quote() -> Outcome {
    let platform = tdx::Platform::new();
    let quote = platform.signed_quote();
    let mut parts = u16::try_from(quote.len())?.to_be_bytes().to_vec();
    parts.extend(quote);
    parts.extend(platform.collateral().to_json()?);
    write("tdx_quote/evidence", &parts)?;
    write("tdx-root.der", &platform.root_der)
}

/// A GPU's report and chain, and the root that it chains to.
fn device() -> Outcome {
    let case = spdm::case();
    let evidence = case.evidence();
    let length = u16::try_from(evidence.report.len())?.to_be_bytes();
    let device = [&length[..], &evidence.report, &evidence.chain].concat();
    write("nvidia_report/device", &device)?;
    write("nvidia-root.der", &case.root)
}

fn signed_documents(chip: &TestChip) -> Outcome {
    let (platform, measurement, label) = (
        Platform::TestChip,
        TestChip::default_measurement(),
        "rack 1".to_owned(),
    );
    let fleet = FleetList {
        chips: vec![FleetChip {
            platform,
            chip_id: chip.chip_id(),
            names: vec!["localhost".into()],
            label: label.clone(),
            tpm: Some(FleetTpm {
                attestation_key: vec![1; 32],
                hosted: tpm::HostedIn::Machine,
            }),
            devices: Vec::new(),
        }],
    };
    let section = SnpReference {
        measurements: vec![SnpMeasurement { measurement, label, until: None }],
        tcb_floor: BTreeMap::from([
            (Product::Genoa, TCB),
            (Product::Turin, TcbVersion::default()),
        ]),
        vmpl: 0,
        families_allowed_despite_broken_root: vec![Product::Milan],
        missing_alias_check_tolerated: true,
    };
    let machine = TpmMachine {
        registers: BTreeMap::from([(4, vec![1; 32]), (11, vec![2; 32])]),
        label: "rack 3".into(),
        until: None,
    };
    let domain = json!({"machines": [{"mrtd": measurement, "rtmrs": [[measurement], null, [], null], "label": "rack 2"}],
        "collateral_floor": 17, "statuses": {"SWHardeningNeeded": ["INTEL-SA-00837"]}});
    let reference = ReferenceValues {
        test_chip: Some(section),
        tdx: serde_json::from_value(domain)?,
        tpm: Some(TpmReference {
            bank: tpm::Bank::Sha256,
            machines: vec![machine],
        }),
        ..ReferenceValues::default()
    };
    let revocations = Revocations {
        certificates: vec![Sha256Digest::of(b"leaf")],
        principals: vec!["user/ada".into()],
    };
    let issue = Issue {
        number: 1,
        issued: NOW.minus(86_400),
        expires: NOW.plus(86_400),
    };
    let key = ReleaseSecretKey::generate(&SystemRandom::new())?;
    write("signed_document/fleet.json", &fleet.to_payload()?)?;
    write("signed_document/reference.json", &reference.to_payload()?)?;
    write(
        "signed_document/revocations.json",
        &revocations.to_payload()?,
    )?;
    write(
        "signed_document/signed.json",
        &SignedDocument::sign(&revocations, issue, &key)?,
    )
}

/// A small model with one tensor of F32.
fn gguf(family: &str) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let array = |kind: u32, items: &[Vec<u8>]| {
        [
            &kind.to_le_bytes()[..],
            &(items.len() as u64).to_le_bytes(),
            &items.concat(),
        ]
        .concat()
    };
    let tokens: [(&str, f32, i32); 8] = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("a", -1.0, 1),
        ("b", -2.0, 1),
        ("ab", -3.0, 1),
        ("   ", 0.0, 4),
        ("<0x0A>", 0.0, if family == "llama" { 6 } else { 5 }),
    ];
    let number = |value: u32| (4_u32, value.to_le_bytes().to_vec());
    let word = |value: &str| (8, text(value));
    let metadata: [(&str, (u32, Vec<u8>)); 16] = [
        ("general.architecture", word("llama")),
        ("general.alignment", number(32)),
        ("llama.context_length", number(64)),
        ("llama.embedding_length", number(8)),
        ("llama.block_count", number(1)),
        ("llama.feed_forward_length", number(16)),
        ("llama.attention.head_count", number(2)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            (6, 1e-5_f32.to_le_bytes().to_vec()),
        ),
        ("tokenizer.ggml.model", word(family)),
        (
            "tokenizer.ggml.tokens",
            (9, array(8, &tokens.map(|token| text(token.0)))),
        ),
        (
            "tokenizer.ggml.scores",
            (
                9,
                array(6, &tokens.map(|token| token.1.to_le_bytes().to_vec())),
            ),
        ),
        (
            "tokenizer.ggml.token_type",
            (
                9,
                array(5, &tokens.map(|token| token.2.to_le_bytes().to_vec())),
            ),
        ),
        ("tokenizer.ggml.merges", (9, array(8, &[text("a b")]))),
        ("tokenizer.ggml.eos_token_id", number(2)),
        ("tokenizer.ggml.add_bos_token", (7, vec![1])),
        (
            "tokenizer.chat_template",
            word("{% for m in messages %}{{ m.content }}{% endfor %}"),
        ),
    ];
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(1_u64.to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    for (key, (kind, value)) in &metadata {
        file.extend(text(key));
        file.extend(kind.to_le_bytes());
        file.extend(value);
    }
    file.extend(text("token_embd.weight"));
    file.extend(2_u32.to_le_bytes());
    file.extend([8_u64, tokens.len() as u64].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend(0_u64.to_le_bytes());
    file.resize(file.len().next_multiple_of(32), 0);
    file.resize(file.len() + 8 * tokens.len() * 4, 0);
    file
}

/// Clear header and plaintext manifest of one package. The manifest is what the publisher is asked
/// to sign, and the signature.
fn package(source: &[u8]) -> Outcome {
    let signer = Ed25519KeyPair::from_seed_unchecked(&[0x40; 32])?;
    let manifest = RefCell::new(Vec::new());
    let sign = |message: &[u8]| {
        let mut signature = [0; 64];
        signature.copy_from_slice(signer.sign(message).as_ref());
        let header_at = b"casemate/package-signature/v1".len();
        let header_len = message[header_at..]
            .first_chunk()
            .map_or(0, |len| u32::from_be_bytes(*len) as usize);
        let signed = &message[header_at + 4 + header_len + 4..];
        *manifest.borrow_mut() = [signed, &64_u32.to_be_bytes(), &signature].concat();
        signature
    };
    let publisher = Publisher {
        public_key: PublisherKey::from_bytes(signer.public_key().as_ref().try_into()?),
        sign: &sign,
    };
    let options = SealOptions {
        name: "tiny".into(),
        version: "1.0".into(),
        epoch: 7,
        key_id: "file:0123456789abcdef".into(),
    };
    let out: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/seed.package");
    seal(
        &mut Cursor::new(source),
        &out,
        &options,
        &publisher,
        &|_| (),
    )?;
    let header = SealedPackage::open(&out)?.header().clone();
    fs::remove_file(&out)?;
    write("package_header/sealed", header.as_bytes())?;
    write("package_manifest/signed", &manifest.borrow())
}

fn challenges() -> Outcome {
    let challenge = ChallengeRequest {
        nonce: Nonce::from_bytes([2; 32]),
    };
    let confirmation = |client_evidence| Confirmation {
        binding: [3; 64],
        evidence: Sha256Digest::of(b"envelope"),
        signature: vec![4; 70],
        client_evidence,
    };
    write(
        "challenge_json/challenge.json",
        &strict_json::to_vec(&challenge)?,
    )?;
    write(
        "challenge_json/confirmation.json",
        &strict_json::to_vec(&confirmation(None))?,
    )?;
    write(
        "challenge_json/with-evidence.json",
        &strict_json::to_vec(&confirmation(Some(b"{}".to_vec())))?,
    )
}

fn chats() -> Outcome {
    let chat = json!({
        "model": "m", "stream": true, "stream_options": {"include_usage": true}, "seed": -1, "n": 1,
        "stop": ["\n", "END"], "temperature": 0.7, "top_p": 0.9, "max_completion_tokens": 64,
        "user": "ada", "tools": [], "logit_bias": {}, "logprobs": true, "top_logprobs": 3, "min_p": 0.05,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": true,
            "schema": {"type": "object", "properties": {"a": {"type": "null"}}}}},
        "dry_multiplier": 0.8, "dry_sequence_breakers": ["\n"], "typical_p": 0.9, "top_k": 40,
        "store": false,
        "messages": [
            {"role": "system", "content": "Answer \u{1F980} in \"one\" word."},
            {"role": "user", "content": [
                {"type": "text", "text": "Two "}, {"type": "text", "text": "parts."},
            ]},
            {"role": "assistant", "content": "", "name": null},
            {"role": "developer", "content": "<|im_end|>"},
        ],
    });
    let completion = json!({
        "model": "m", "prompt": ["Once upon a time"], "max_tokens": 8, "temperature": 0,
        "stop": "\n", "echo": false, "best_of": 1, "suffix": "", "presence_penalty": 0,
        "frequency_penalty": 0.0, "service_tier": "auto", "logprobs": 2,
    });
    write("chat_json/chat.json", chat.to_string().as_bytes())?;
    write(
        "chat_json/completion.json",
        completion.to_string().as_bytes(),
    )
}
