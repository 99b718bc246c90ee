//! `casemate model` as a security officer runs it: what is sealed, what is shown, what is refused with which exit code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use casemate::guard::mark::{MarkRoot, TeamMark, root_label};
use casemate::keys::KeyEncryption;
use casemate::org::{InitOptions, Name, Organisation, init};
use casemate_attestation::UnixTime;
use casemate_models::LoadedModel;
use casemate_models::engine::{EngineLimits, Event, GenerateRequest, SamplingParams, Tenant};
use casemate_models::weights::GgufFile;

/// An organisation and a model in a folder of their own.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.organisation("acme");
        place
    }

    fn organisation(&self, name: &str) -> PathBuf {
        let options = InitOptions {
            name: Name::organisation(name).unwrap(),
            broker_names: vec!["localhost".into()],
            test_chip: false,
            days: 90,
        };
        let folder = self.path(name);
        init(&folder, &options, UnixTime::from_secs(1_800_000_000)).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn model(&self, words: &[&str]) -> Run {
        self.run(&[&["model"], words].concat())
    }

    fn run(&self, words: &[&str]) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_casemate"))
            .args(words)
            .current_dir(self.0.path())
            .output()
            .unwrap();
        Run(output)
    }

    fn seal(&self, epoch: &str, out: &str) -> Run {
        let gguf = default_model();
        let gguf = gguf.to_str().unwrap();
        let fixed = ["--org", "acme", "--name", "default", "--version", "1"];
        self.model(
            &[
                &["seal", gguf],
                &fixed[..],
                &["--epoch", epoch, "--out", out],
            ]
            .concat(),
        )
    }
}

struct Run(Output);

impl Run {
    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Expects an exit code and a word in the error.
    fn fails(&self, code: i32, word: &str) {
        let err = self.err();
        assert_eq!(self.0.status.code(), Some(code), "{err}");
        assert!(err.contains(word), "{word:?} is not in: {err}");
        assert!(!err.contains("panicked"), "{err}");
    }

    fn works(&self) -> &Self {
        assert!(self.0.status.success(), "{}", self.err());
        self
    }
}

fn default_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default/casemate-default-Q8_0.gguf")
}

/// Answers of the default model, as lines of JSON.
fn answers(mark: Option<&TeamMark>, count: usize) -> String {
    let file = GgufFile::open(&default_model()).unwrap();
    let loaded = LoadedModel::load(&file, EngineLimits::default(), &mut |_, _| {}).unwrap();
    let running = loaded.spawn().unwrap();
    let mut lines = String::new();
    for at in 0..count {
        let (sender, events) = std::sync::mpsc::channel();
        let request = GenerateRequest {
            tenant: Tenant([0; 32]),
            weight: 1,
            prompt: running.encode_text("It was").unwrap(),
            sampling: SamplingParams {
                temperature: 1.5,
                ..SamplingParams::default()
            },
            tokens_max: Some(200),
            stop: Vec::new(),
            seed: None,
            grammar: None,
            logprobs: None,
            mark: mark.map(|team| team.sub_key(at as u8)),
            repetition: None,
            deadline: None,
        };
        let sink = Box::new(move |event| {
            let _ = sender.send(event);
            std::ops::ControlFlow::Continue(())
        });
        let _ticket = running.engine().submit(request, sink).unwrap();
        let mut text = String::new();
        while let Ok(Event::Text { text: more, .. }) = events.recv() {
            text += &more;
        }
        lines += &(serde_json::json!({ "text": text }).to_string() + "\n");
    }
    lines
}

/// G8 from end to end: answers are marked with the keys that the organisation's broker would release, and found again.
#[test]
fn marked_answers_are_traced_to_their_team() {
    let place = Place::new();
    place.seal("1", "m.casemate").works();
    fs::create_dir(place.path("acme/policy")).unwrap();
    let budget = "{ window_seconds = 60, requests = 1, tokens = 1, concurrency = 1 }";
    let team = |name: &str| {
        format!(
            "[team.{name}]\nprincipals = [\"spiffe://acme/team/{name}/*\"]\noutput_tokens_max = 9\n\
             session_seconds = 60\nshared = {budget}\neach = {budget}\n\n"
        )
    };
    let tables = format!("mark_epoch = 2\n\n{}{}", team("red"), team("blue"));
    fs::write(place.path("acme/policy/policy.toml"), tables).unwrap();
    fs::write(place.path("acme/policy/policy.cedar"), "").unwrap();
    place.run(&["policy", "sign", "acme"]).works();
    let kek = Organisation::open(&place.path("acme"))
        .unwrap()
        .kek()
        .unwrap();
    let root = MarkRoot::new(*kek.derive(&root_label(2)).unwrap().expose(), 2);
    let red = root.team("red");
    let write = |name: &str, text: &str| fs::write(place.path(name), text).unwrap();
    let marked = answers(Some(&red), 12);
    write("marked.jsonl", &marked);
    write("plain.jsonl", &answers(None, 12));
    write("short.txt", &format!("It was {}.", red.canary()));
    write("broken.jsonl", "{\"texts\": 1}\n");
    let verify = |file: &str, more: &[&str]| {
        let fixed = ["mark", "verify", file, "--org", "acme", "--json"];
        place.run(&[&fixed[..], more].concat())
    };
    for model in ["m.casemate", default_model().to_str().unwrap()] {
        let found = verify("marked.jsonl", &["--jsonl", "--model", model]);
        let found: serde_json::Value = serde_json::from_str(&found.works().out()).unwrap();
        assert_eq!(
            (&found["verdict"], &found["team"]),
            (&"marked".into(), &"red".into())
        );
        assert_eq!(found["epoch"], 2);
        assert_eq!(
            found["findings"].as_array().unwrap().len(),
            4,
            "two teams, two epochs"
        );
        assert!(found["null"]["uniform_p"].as_f64().unwrap() > 1e-6);
    }
    let plain = verify(
        "plain.jsonl",
        &["--jsonl", "--model", "m.casemate", "--measure"],
    );
    plain.fails(10, "no team's mark");
    let plain: serde_json::Value = serde_json::from_str(&plain.out()).unwrap();
    assert!(plain["bits_per_token"].as_f64().unwrap() > 0.5, "{plain}");
    // The team is gone from the policy's sight where another epoch is looked for alone.
    verify(
        "marked.jsonl",
        &["--jsonl", "--model", "m.casemate", "--epoch", "1"],
    )
    .fails(10, "no team's mark");
    let short = verify("short.txt", &["--model", "m.casemate"]);
    short.fails(20, "too little text");
    let short: serde_json::Value = serde_json::from_str(&short.out()).unwrap();
    assert_eq!(
        short["canaries"],
        serde_json::json!([{"team": "red", "epoch": 2}])
    );
    verify("broken.jsonl", &["--jsonl", "--model", "m.casemate"]).fails(30, "line 1");
    verify("nothing.txt", &["--model", "m.casemate"]).fails(30, "nothing.txt");
    verify("short.txt", &["--model", "short.txt"]).fails(30, "");
    verify("short.txt", &["--model", "m.casemate", "--bits", "0"]).fails(2, "0.01");
}

#[test]
fn a_sealed_model_is_shown_and_verified() {
    let place = Place::new();
    place.seal("3", "m.casemate").works();
    let shown = place.model(&["inspect", "m.casemate", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.works().out()).unwrap();
    assert_eq!(shown["epoch"], 3);
    let id = shown["id"].as_str().unwrap();
    assert!(place.path(&format!("acme/keys/{id}.json")).is_file());
    let verified = place.model(&["verify", "m.casemate", "--org", "acme"]);
    let lines = verified.works().out();
    assert_eq!(
        lines
            .lines()
            .filter(|line| line.starts_with("PASS "))
            .count(),
        6,
        "{lines}"
    );
    assert!(
        !lines.contains("FAIL") && !lines.contains("SKIP"),
        "{lines}"
    );
    let json = place.model(&["verify", "m.casemate", "--org", "acme", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.works().out()).unwrap();
    assert_eq!(
        (&json["name"], &json["verified"]),
        (&"default".into(), &true.into())
    );
    assert!(!json["source_sha256"].as_str().unwrap().is_empty());
}

#[test]
fn every_refusal_has_its_exit_code() {
    let place = Place::new();
    place.seal("3", "m.casemate").works();
    let good = fs::read(place.path("m.casemate")).unwrap();
    let verify = |bytes: &[u8]| {
        fs::write(place.path("x.casemate"), bytes).unwrap();
        place.model(&["verify", "x.casemate", "--org", "acme"])
    };
    let with = |at: usize, value: u8| {
        let mut altered = good.clone();
        altered[at] = value;
        altered
    };
    verify(b"GGUF is no package at all").fails(30, "not a Casemate package");
    verify(&good[..good.len() - 1]).fails(30, "truncated");
    verify(&[&good[..], &[0]].concat()).fails(30, "trailing");
    verify(&with(11, 2)).fails(20, "version 2");
    verify(&with(good.len() - 1, !good[good.len() - 1])).fails(10, "wrong key or altered file");
    verify(&with(39, 9)).fails(10, "clear header was altered");
    let altered = verify(&with(good.len() - 1, !good[good.len() - 1]));
    assert!(altered.out().starts_with("FAIL "), "{}", altered.out());
    place.organisation("other");
    place
        .model(&["verify", "m.casemate", "--org", "other"])
        .fails(10, "not registered");
    place
        .model(&["verify", "m.casemate", "--org", "nowhere"])
        .fails(3, "nowhere");
    place.model(&["inspect", "nowhere"]).fails(2, "cannot read");
}

#[test]
fn another_organisations_key_does_not_help() {
    let place = Place::new();
    place.seal("1", "m.casemate").works();
    place.organisation("other");
    let keys = place.path("other/keys");
    fs::create_dir_all(&keys).unwrap();
    for entry in fs::read_dir(place.path("acme/keys")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, keys.join(path.file_name().unwrap())).unwrap();
    }
    place
        .model(&["verify", "m.casemate", "--org", "other"])
        .fails(10, "does not open");
    // Even with the other organisation's key-encryption key the publisher is another one.
    fs::copy(place.path("acme/kek.key"), place.path("other/kek.key")).unwrap();
    place
        .model(&["verify", "m.casemate", "--org", "other"])
        .fails(10, "release key");
}

#[test]
fn what_is_not_sealed_leaves_nothing() {
    let place = Place::new();
    place.seal("3", "m.casemate").works();
    let keys = || fs::read_dir(place.path("acme/keys")).unwrap().count();
    assert_eq!(keys(), 1);
    place.seal("4", "m.casemate").fails(2, "exists already");
    place.seal("2", "n.casemate").fails(2, "never go back");
    fs::write(
        place.path("cut.gguf"),
        &fs::read(default_model()).unwrap()[..1_000_000],
    )
    .unwrap();
    let seal = |words: &[&str]| {
        let fixed = [
            "--org",
            "acme",
            "--version",
            "1",
            "--epoch",
            "4",
            "--out",
            "n.casemate",
        ];
        place.model(&[&["seal"], words, &fixed[..]].concat())
    };
    seal(&["cut.gguf", "--name", "a"]).fails(30, "truncated");
    seal(&["nowhere.gguf", "--name", "a"]).fails(2, "nowhere.gguf");
    let gguf = default_model();
    let gguf = gguf.to_str().unwrap();
    seal(&[gguf, "--name", ""]).fails(2, "name");
    seal(&[gguf, "--name", "a", "--key-id", "file:00"]).fails(3, "key-encryption key");
    assert_eq!(keys(), 1);
    assert!(!place.path("n.casemate").exists());
    let left = fs::read_dir(place.0.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "acme, cut.gguf, m.casemate: {left:?}");
}

#[test]
fn a_vocabulary_alone_is_refused_as_malformed() {
    let place = Place::new();
    // The header of a GGUF file of version 3: no tensors, one metadata value.
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(0_u64.to_le_bytes());
    file.extend(1_u64.to_le_bytes());
    for text in ["general.architecture", "llama"] {
        if text == "llama" {
            file.extend(8_u32.to_le_bytes());
        }
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    }
    fs::write(place.path("vocabulary.gguf"), file).unwrap();
    let words = ["seal", "vocabulary.gguf", "--org", "acme", "--name", "v"];
    let more = ["--version", "1", "--epoch", "1", "--out", "v.casemate"];
    let sealed = place.model(&[&words[..], &more].concat());
    sealed.fails(30, "holds no tensors");
    assert!(!place.path("v.casemate").exists());
}

#[test]
fn k08_no_key_is_printed_or_left_in_the_clear() {
    let place = Place::new();
    let sealed = place.seal("1", "m.casemate");
    let kek = fs::read(place.path("acme/kek.key")).unwrap();
    let text = sealed.works().out() + &sealed.err();
    assert!(!text.contains(&hex::encode(&kek)));
    let shown = place
        .model(&["inspect", "m.casemate", "--json"])
        .works()
        .out();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let keys = casemate::keys::list(&place.path("acme")).unwrap();
    let entry = keys
        .iter()
        .find(|key| key.subject.package_id.to_string() == shown["id"])
        .unwrap();
    use casemate::keys::KeyEncryption;
    let kek = casemate::keys::FileKek::open(&place.path("acme/kek.key")).unwrap();
    let key = kek.unwrap(&entry.subject, &entry.wrapped).unwrap();
    let hex_key = hex::encode(key.expose());
    assert!(!text.contains(&hex_key));
    for folder in [place.path("acme/keys"), place.0.path().to_owned()] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let bytes = fs::read(&path).unwrap();
                let shows = |needle: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
                assert!(
                    !shows(key.expose()) && !shows(hex_key.as_bytes()),
                    "{}",
                    path.display()
                );
            }
        }
    }
}
