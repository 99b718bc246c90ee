//! Machines enrolled by their own word: a software TPM, the organisation's commands, and what is refused on the way (tpm.md, E).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::place::casemate;

/// A software TPM with a certified endorsement key. `None`, said aloud, without swtpm.
pub(super) struct SoftwareTpm {
    folder: PathBuf,
    process: Child,
    pub(super) address: String,
}

impl SoftwareTpm {
    pub(super) fn start(folder: PathBuf) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/swtpm-run");
        let mut process = Command::new(script).arg(&folder).spawn().unwrap();
        let begun = Instant::now();
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                assert_eq!(status.code(), Some(3), "scripts/swtpm-run failed");
                println!("SKIP swtpm is missing");
                return None;
            }
            if let Ok(port) = fs::read_to_string(folder.join("port")) {
                let address = format!("127.0.0.1:{}", port.trim());
                if std::net::TcpStream::connect(&address).is_ok() {
                    return Some(Self {
                        folder,
                        process,
                        address,
                    });
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "swtpm is late");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn authority(&self, name: &str) -> String {
        let path = self.folder.join("authority").join(name);
        path.to_str().unwrap().to_owned()
    }

    pub(super) fn root(&self) -> String {
        self.authority("swtpm-localca-rootca-cert.pem")
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A folder in which commands run.
struct Place(tempfile::TempDir);

impl Place {
    fn run(&self, line: &str, more: &[&str]) -> Output {
        let mut command = casemate();
        command.args(line.split(' ')).args(more);
        command.current_dir(self.0.path()).output().unwrap()
    }

    /// Runs a command that succeeds; its stdout.
    fn done(&self, line: &str, more: &[&str]) -> String {
        let output = self.run(line, more);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {told}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that is refused with this code, for a reason that it tells.
    fn refused(&self, line: &str, more: &[&str], code: i32, reason: &str) {
        let output = self.run(line, more);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {told}");
        assert!(told.contains(reason), "{line}: {told}");
    }

    /// Writes a document again with one field changed.
    fn altered(&self, from: &str, to: &str, change: impl FnOnce(&mut Value)) {
        let text = fs::read_to_string(self.0.path().join(from)).unwrap();
        let mut document = serde_json::from_str(&text).unwrap();
        change(&mut document);
        fs::write(self.0.path().join(to), document.to_string()).unwrap();
    }

    fn fleet(&self, org: &str) -> String {
        let text = fs::read(self.0.path().join(org).join("fleet.json")).unwrap();
        let document: Value = serde_json::from_slice(&text).unwrap();
        let payload = document["payload"].as_str().unwrap();
        String::from_utf8(STANDARD.decode(payload).unwrap()).unwrap()
    }
}

/// Flips a bit of a base64 field, from the end.
fn flip(field: &mut Value, from_end: usize) {
    let mut bytes = STANDARD.decode(field.as_str().unwrap()).unwrap();
    let at = bytes.len() - from_end;
    bytes[at] ^= 1;
    *field = json!(STANDARD.encode(bytes));
}

const ENROL: &str = "org enrol org --label rack --name localhost --tpm";

#[test]
fn b13_a_tpm_is_enrolled_by_request_challenge_and_answer_and_by_nothing_less() {
    let place = Place(tempfile::tempdir().unwrap());
    let folder = |name: &str| place.0.path().join(name);
    let (Some(tpm), Some(other)) = (
        SoftwareTpm::start(folder("one")),
        SoftwareTpm::start(folder("other")),
    ) else {
        return;
    };
    place.done("org init org --name acme", &[]);
    let asked = "machine request --platform tpm --out request.json --software";
    let issuer = tpm.authority("issuercert.pem");
    let shown = place.done(asked, &[&tpm.address, "--authorities", &issuer]);

    // E2, E8: who vouches for the endorsement key, and that it is a program.
    let (right, wrong) = (tpm.root(), other.root());
    let make =
        "org challenge org --request request.json --out challenge.json --hosted software --roots";
    place.refused(make, &[&wrong], 10, "(P5)");
    let as_machine = "org challenge org --request request.json --out challenge.json --roots";
    place.refused(as_machine, &[&right], 10, "software TPM");
    place.refused(
        "org challenge org --request request.json --out c.json",
        &[],
        2,
        "vouches",
    );
    place.altered("request.json", "odd.json", |request| {
        request["machine"]["tpm"]["more"] = json!(1);
    });
    let odd = "org challenge org --request odd.json --out c.json --hosted software --roots";
    place.refused(odd, &[&right], 30, "enrolment request");
    // The attributes of the attestation key (big-endian, at byte 4): no longer restricted.
    place.altered("request.json", "loose.json", |request| {
        let field = &mut request["machine"]["tpm"]["attestation"];
        let mut area = STANDARD.decode(field.as_str().unwrap()).unwrap();
        area[5] ^= 1;
        *field = json!(STANDARD.encode(area));
    });
    let loose = "org challenge org --request loose.json --out c.json --hosted software --roots";
    place.refused(loose, &[&right], 10, "attestation key");
    place.altered("request.json", "bare.json", |request| {
        request["machine"]["tpm"]["certificates"] = json!([]);
    });
    let bare = "org challenge org --request bare.json --out c.json --hosted software --roots";
    place.refused(bare, &[&right], 10, "left no certificate");
    // E9: GPUs come with the answer, whose quote names them.
    let gpu = || json!([{"report": "AAAA", "chain": "AAAA"}]);
    place.altered("request.json", "gpus.json", |it| it["devices"] = gpu());
    let gpus = "org challenge org --request gpus.json --out c.json --hosted software --roots";
    place.refused(gpus, &[&right], 10, "(E9)");
    let made = place.done(make, &[&right]);
    assert!(made.contains("PASS enrolment.endorsement"), "{made}");
    assert!(
        made.contains(shown.trim()),
        "the id that the machine showed"
    );

    // E3: the credential opens in one TPM, and unaltered.
    let answer = "machine answer --challenge challenge.json --out answer.json --software";
    place.refused(answer, &[&other.address], 10, "does not open the challenge");
    place.altered("challenge.json", "bent.json", |challenge| {
        flip(&mut challenge["object"], 1);
    });
    let bent = "machine answer --challenge bent.json --out b.json --software";
    place.refused(bent, &[&tpm.address], 10, "does not open the challenge");
    place.done(answer, &[&tpm.address]);

    // E7: an answer is for its own challenge, whole, and once.
    place.done(&make.replace("challenge.json", "second.json"), &[&right]);
    let second = "machine answer --challenge second.json --out second-answer.json --software";
    place.done(second, &[&tpm.address]);
    let digest = |file: &str| {
        let text = fs::read(folder(file)).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["challenge"].clone()
    };
    place.altered("answer.json", "moved.json", |it| {
        it["challenge"] = digest("second-answer.json")
    });
    place.refused(ENROL, &["moved.json"], 10, "(E3)");
    place.altered("answer.json", "proof.json", |it| flip(&mut it["proof"], 1));
    place.refused(ENROL, &["proof.json"], 10, "(E3)");
    place.altered("answer.json", "quote.json", |it| {
        it["quote"]["registers"]["4"] = json!("77".repeat(32));
    });
    place.refused(ENROL, &["quote.json"], 10, "(E7, P4)");
    place.altered("answer.json", "lent.json", |it| it["devices"] = gpu());
    place.refused(ENROL, &["lent.json"], 10, "(E7, P3)");
    place.altered("answer.json", "other.json", |it| {
        it["challenge"] = json!("00".repeat(32))
    });
    place.refused(ENROL, &["other.json"], 10, "waits for this answer");
    place.refused(ENROL, &["request.json"], 30, "enrolment answer");
    assert!(!place.fleet("org").contains("attestation_key"));

    let enrolled = place.done(ENROL, &["answer.json", "--accept-present-boot"]);
    assert!(enrolled.contains("PASS enrolment.credential"), "{enrolled}");
    let fleet = place.fleet("org");
    let id = shown.trim().strip_prefix("tpm\t").unwrap();
    assert!(
        fleet.contains(id) && fleet.contains("\"hosted\":\"software\""),
        "{fleet}"
    );
    place.refused(ENROL, &["answer.json"], 10, "waits for this answer");
    place.refused(ENROL, &["second-answer.json"], 2, "enrolled already");
}

#[test]
fn b13_where_the_folder_is_on_the_machine_one_step_enrols_its_tpm() {
    let place = Place(tempfile::tempdir().unwrap());
    let Some(tpm) = SoftwareTpm::start(place.0.path().join("tpm")) else {
        return;
    };
    place.done("org init org --name acme", &[]);
    let step =
        "org enrol org --label laptop --name localhost --hosted software --this-machine --software";
    let stranger = "ab".repeat(64);
    place.refused(
        step,
        &[&tpm.address, "--endorsement", &stranger],
        10,
        "another TPM",
    );
    let (root, issuer) = (tpm.root(), tpm.authority("issuercert.pem"));
    let rest = [&tpm.address, "--roots", &root, "--authorities", &issuer];
    let told = place.done(step, &rest.map(|it| it as &str));
    assert!(told.contains("PASS enrolment.credential"), "{told}");
    assert!(place.fleet("org").contains("\"hosted\":\"software\""));
}

#[test]
fn b13_a_processors_request_is_over_what_serves_for_enrolment_and_nothing_else() {
    use casemate::enrolment::{Request, Subject};
    use casemate_client::recorded::{self, Subject as Recorded};

    let place = Place(tempfile::tempdir().unwrap());
    place.done("org init org --name acme", &[]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/evidence");
    let before = place.fleet("org");
    // Of trust domains there is no recorded evidence that is still in date.
    for name in ["snp/genoa-v5-oak", "snp/turin-v5-aci"] {
        let folder = root.join(name);
        if !folder.is_dir() {
            assert!(std::env::var_os("CI").is_none(), "{name} is missing");
            println!("SKIP shared evidence {name} is missing");
            continue;
        }
        let read = recorded::folder::read(&folder, None).unwrap();
        let Recorded::Hardware { evidence, .. } = read.subject else {
            panic!("{name} is no processor's evidence");
        };
        // Genuine, but made for something else.
        let request = Request::new(Subject::Processor(evidence), Vec::new());
        let text = serde_json::to_string(&request).unwrap();
        fs::write(place.0.path().join("request.json"), text).unwrap();
        let line = "org enrol org --label rack --name localhost --request request.json";
        place.refused(line, &[], 10, "report data");
    }
    assert_eq!(place.fleet("org"), before);
}
