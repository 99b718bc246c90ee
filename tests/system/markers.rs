//! K8 and the promise that nothing secret is written: markers planted as prompts, and the organisation's real keys, are
//! looked for in every log, error, audit record and file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use casemate::keys::{self, FileKek, KeyEncryption};

use super::place::{Part, Place, http};

const PROMPT: &str = "MARKERprompt7f3a";

/// Bytes that must stay where they are: as such, as hexadecimal, as base64, and as `Debug` shows them.
struct Secret(String, Vec<Vec<u8>>);

impl Secret {
    fn new(name: &str, bytes: &[u8]) -> Self {
        use base64::Engine;
        let base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
        let forms = vec![
            bytes.to_vec(),
            hex::encode(bytes).into_bytes(),
            // Without the last characters, which depend on what follows.
            base64.as_bytes()[..base64.len() - 4].to_vec(),
            format!("{bytes:?}")
                .trim_matches(['[', ']'])
                .as_bytes()
                .to_vec(),
        ];
        Self(name.to_owned(), forms)
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.1.iter().any(|form| {
            bytes
                .windows(form.len())
                .any(|window| window == form.as_slice())
        })
    }
}

fn ask(base: &str, body: &serde_json::Value) -> (u16, String) {
    let path = if body.get("messages").is_some() {
        "chat/completions"
    } else {
        "completions"
    };
    let answer = http(base, "POST", path, body.to_string().as_bytes()).unwrap();
    (answer.status, answer.body)
}

/// Prompts that are answered, refused, malformed, too long and cut off. Returns the answers.
fn plant(base: &str) -> Vec<String> {
    use serde_json::json;
    let message = json!([{"role": "user", "content": format!("What is {PROMPT}?")}]);
    let chat = json!({"model": "default", "messages": message, "max_tokens": 24});
    let (status, answer) = ask(base, &chat);
    assert_eq!(status, 200, "{answer}");
    let mut errors = Vec::new();
    let answers = vec![answer];
    for body in [
        json!({"model": PROMPT, "messages": message}),
        json!({"model": "default", "messages": message, "logprobs": true}),
        json!({"model": "default", "messages": message, PROMPT: 1}),
        json!({"model": "default", "messages": message, "response_format": {"type": "json_schema",
            "json_schema": {"name": "a", "schema": {"not": {"const": PROMPT}}}}}),
        json!({"model": "default", "messages": [{"role": PROMPT, "content": "x"}]}),
        json!({"model": "default", "prompt": format!("{PROMPT} ").repeat(2000)}),
        json!({"model": "default", "prompt": PROMPT, "temperature": PROMPT}),
    ] {
        let (status, error) = ask(base, &body);
        assert!((400..500).contains(&status), "{status} {error}");
        errors.push(error);
    }
    let malformed = format!("{{\"model\": \"default\", \"prompt\": \"{PROMPT}");
    let cut = http(base, "POST", "completions", malformed.as_bytes()).unwrap();
    assert_eq!(cut.status, 400);
    errors.push(cut.body);
    // An error may repeat the name of a model or of a field that was asked for, nothing else.
    let repeated = |error: &&String| error.contains(PROMPT);
    let mut repeating = errors.iter().filter(repeated).map(|error| code_of(error));
    assert!(
        repeating.all(|code| matches!(code.as_str(), "model_not_found" | "unsupported_parameter")),
        "{errors:?}"
    );
    answers
}

fn code_of(error: &str) -> String {
    let error: serde_json::Value = serde_json::from_str(error).unwrap();
    error["error"]["code"].as_str().unwrap().to_owned()
}

fn answer_text(answer: &str) -> String {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.len() > 8, "{text:?} is too short to look for");
    text.to_owned()
}

#[test]
fn k08_no_prompt_answer_or_key_is_in_logs_audit_arguments_environment_or_files() {
    let place = Place::new();
    let (mut broker, mut server, mut connect) = place.start_all();
    let answers = plant(&connect.ready);
    let mut secrets = vec![Secret::new("the prompt", PROMPT.as_bytes())];
    for answer in &answers {
        secrets.push(Secret::new("an answer", answer_text(answer).as_bytes()));
    }
    for file in ["org/kek.key", "org/test-chip/seed"] {
        secrets.push(Secret::new(file, &fs::read(place.path(file)).unwrap()));
    }
    for file in [
        "org/release/secret.key",
        "org/enclave-ca/key.pem",
        "org/client-ca/key.pem",
        "org/broker/key.pem",
        "org/teams/research/ada/key.pem",
    ] {
        let bytes = fs::read(place.path(file)).unwrap();
        // The last lines of a PEM, or bytes of a PKCS#8, that belong to the key alone.
        let middle = bytes.len() / 2;
        secrets.push(Secret::new(file, &bytes[middle..middle + 24]));
    }
    let kek = FileKek::open(&place.path("org/kek.key")).unwrap();
    let registered = keys::list(&place.path("org")).unwrap();
    assert!(!registered.is_empty());
    for package in registered {
        let key = kek.unwrap(&package.subject, &package.wrapped).unwrap();
        secrets.push(Secret::new("a data key", key.expose()));
    }
    for part in [&broker, &server, &connect] {
        for what in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{}/{what}", part.id())).unwrap();
            clean(&secrets, what, &bytes, None);
        }
    }
    let logs: Vec<String> = [&broker, &server, &connect]
        .into_iter()
        .map(Part::log)
        .collect();
    for log in &logs {
        assert!(!log.is_empty());
        clean(&secrets, "a log", log.as_bytes(), None);
        // The server's own key, which nobody else has.
        assert!(!log.contains("PRIVATE KEY"), "{log}");
    }
    connect.stop();
    server.stop();
    broker.stop();
    let mut looked = 0;
    for file in place.files() {
        let bytes = fs::read(&file).unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        let own = (mode & 0o077 == 0).then_some(file.as_path());
        clean(&secrets, &file.display().to_string(), &bytes, own);
        looked += 1;
    }
    assert!(looked > 25, "{looked} files");
    let audit = fs::read_to_string(place.path("server-audit.jsonl")).unwrap();
    for kind in [
        "started", "session", "decision", "answer", "refused", "stopped",
    ] {
        assert!(audit.contains(&format!("\"kind\":\"{kind}\"")), "no {kind}");
    }
}

/// A secret may stand in its own file, and in no other place.
fn clean(secrets: &[Secret], what: &str, bytes: &[u8], own: Option<&Path>) {
    for secret in secrets {
        let at_home = own.is_some_and(|file| file.ends_with(&secret.0));
        assert!(at_home || !secret.is_in(bytes), "{} is in {what}", secret.0);
    }
}
