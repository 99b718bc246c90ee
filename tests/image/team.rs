//! An organisation with one member, a sealed model, a software TPM that it enrolled, and a broker: what a machine is served by
//! and serves.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::place::{CONFIGURATION, Place, casemate_in, ended};
use crate::started::LIMIT_SECONDS;

const POLICY: &str = "[models]\ndefault = \"DIGEST\"\n\n[team.writers]\nprincipals = [\"spiffe://acme/team/writers/*\"]\n\
    output_tokens_max = 64\nsession_seconds = 3600\n\
    shared = { window_seconds = 3600, requests = 100, tokens = 100000, concurrency = 4 }\n\
    each = { window_seconds = 3600, requests = 100, tokens = 100000, concurrency = 4 }\n";
const RULES: &str = "@id(\"writers\")\npermit (principal in Team::\"writers\", action in [Action::\"chat\", Action::\"list\"],\n  \
    resource in Alias::\"default\");\n";

/// A process that ends with its handle.
pub struct Running(pub Child);

impl Running {
    /// Kills a process that this one started, by its name.
    pub fn end_child(&self, name: &str) {
        let own = |id: &u32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // `ID (NAME) STATE PARENT …`
            let (before, after) = stat.rsplit_once(')').unwrap_or_default();
            let parent = after.split_whitespace().nth(1);
            before.ends_with(&format!("({name}")) && parent == Some(&self.0.id().to_string())
        };
        let processes = fs::read_dir("/proc").unwrap();
        let mut ids = processes.filter_map(|it| it.unwrap().file_name().to_str()?.parse().ok());
        let id = ids
            .find(own)
            .unwrap_or_else(|| panic!("no {name} was started"));
        kill_process(Pid::from_raw(id.cast_signed()).unwrap(), Signal::KILL).unwrap();
    }
}

/// Asked to end, so that a machine takes its QEMU with it, and killed when it does not.
impl Drop for Running {
    fn drop(&mut self) {
        let id = Pid::from_raw(self.0.id().cast_signed());
        if let Some(id) = id {
            let _ = kill_process(id, Signal::TERM);
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// See above.
pub struct Team {
    pub place: Place,
    pub qemu: PathBuf,
    broker_port: u16,
    pub server_port: u16,
    pub client_port: u16,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Team {
    /// Makes everything but the image.
    pub fn new(program: &[u8], qemu: PathBuf) -> Self {
        let team = Self {
            place: Place::new(program),
            qemu,
            broker_port: free_port(),
            server_port: free_port(),
            client_port: free_port(),
        };
        team.done("org init acme --name acme");
        team.done("org issue acme --team writers --member ada");
        let model =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default/casemate-default-Q8_0.gguf");
        fs::copy(model, team.place.path("model.gguf")).unwrap();
        team.done("model seal model.gguf --org acme --name default --version 1 --epoch 1 --out model.sealed");
        team.enrol();
        team.sign_policy();
        for (from, to) in [
            ("broker/ca.pem", "broker-ca.pem"),
            ("client-ca/cert.pem", "client-ca.pem"),
            ("release/public.key", "release.key"),
        ] {
            fs::copy(
                team.place.path("acme").join(from),
                team.place.path("trust").join(to),
            )
            .unwrap();
        }
        team.configure(CONFIGURATION);
        let broker = format!(
            "listen = \"127.0.0.1:{}\"\norganisation = \"acme\"\nstate = \"broker-state\"\nwitness = \"broker.witness\"\n\
            audit = \"broker-audit.jsonl\"\nplatform = \"tpm\"\n",
            team.broker_port
        );
        fs::write(team.place.path("broker.toml"), broker).unwrap();
        team.done("broker --config broker.toml --new-state");
        let client = format!(
            "server = \"https://localhost:{}\"\n[identity]\ncertificate = \"acme/teams/writers/ada/cert.pem\"\n\
            key = \"acme/teams/writers/ada/key.pem\"\n[trust]\nenclave_ca = \"acme/enclave-ca/cert.pem\"\n\
            release_key = \"acme/release/public.key\"\nreference = \"acme/reference.json\"\nfleet = \"acme/fleet.json\"\n\
            platform = \"tpm\"\n[listen]\naddress = \"127.0.0.1:{}\"\n",
            team.server_port, team.client_port
        );
        fs::write(team.place.path("connect.toml"), client).unwrap();
        team
    }

    /// Writes the guest's configuration, with this team's broker.
    pub fn configure(&self, text: &str) {
        let text = text.replace("10.0.2.2:7440", &format!("10.0.2.2:{}", self.broker_port));
        fs::write(self.place.path("guest.toml"), text).unwrap();
    }

    pub fn run(&self, line: &str) -> Output {
        let words: Vec<_> = line.split(' ').collect();
        casemate_in(self.place.0.path(), &words)
    }

    /// Runs a command that succeeds.
    pub fn done(&self, line: &str) -> String {
        let (code, said) = ended(&self.run(line));
        assert_eq!(code, 0, "{line}: {said}");
        said
    }

    /// A TPM with a certified endorsement key, which is enrolled and stopped; its state stays in `tpm/state`.
    fn enrol(&self) {
        let folder = self.place.path("tpm");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/swtpm-run");
        let mut tpm = Running(Command::new(script).arg(&folder).spawn().unwrap());
        let begun = Instant::now();
        let port = loop {
            assert!(
                tpm.0.try_wait().unwrap().is_none(),
                "scripts/swtpm-run failed"
            );
            assert!(begun.elapsed() < Duration::from_secs(120), "swtpm is late");
            if let Ok(port) = fs::read_to_string(folder.join("port"))
                && TcpStream::connect(format!("127.0.0.1:{}", port.trim())).is_ok()
            {
                break port.trim().to_owned();
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let software = format!("--software 127.0.0.1:{port}");
        self.done(&format!(
            "machine request --platform tpm --out request.json --authorities tpm/authority/issuercert.pem {software}"
        ));
        self.done(
            "org challenge acme --request request.json --out challenge.json --hosted software \
            --roots tpm/authority/swtpm-localca-rootca-cert.pem",
        );
        self.done(&format!(
            "machine answer --challenge challenge.json --out answer.json --registers 4,8,9,11,12 {software}"
        ));
        self.done("org enrol acme --tpm answer.json --label vm --name localhost");
    }

    fn sign_policy(&self) {
        let model = self.done("model inspect model.sealed --json");
        let start = model.find('{').unwrap();
        let model: Value = serde_json::from_str(&model[start..=model.rfind('}').unwrap()]).unwrap();
        let digest = model["digest"].as_str().unwrap();
        fs::create_dir(self.place.path("acme/policy")).unwrap();
        fs::write(
            self.place.path("acme/policy/policy.toml"),
            POLICY.replace("DIGEST", digest),
        )
        .unwrap();
        fs::write(self.place.path("acme/policy/policy.cedar"), RULES).unwrap();
        self.done("policy sign acme --days 30");
    }

    pub fn broker(&self) -> Running {
        self.start("broker --config broker.toml", "broker ready")
    }

    /// Starts a command and waits until a line on stdout or stderr has `word`.
    fn start(&self, line: &str, word: &str) -> Running {
        let mut process = Command::new(env!("CARGO_BIN_EXE_casemate"))
            .args(line.split(' '))
            .current_dir(self.place.0.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let process = Running(process);
        let mut said = Vec::new();
        for line in output.lines().map_while(Result::ok) {
            said.push(line);
            if said.last().unwrap().contains(word) {
                return process;
            }
        }
        panic!("{line}: no {word:?} in {said:?}");
    }

    fn machine(&self, qemu: &Path, image: &str, more: &str) -> String {
        let (qemu, port) = (qemu.display(), self.server_port);
        format!(
            "image boot --image {image} --qemu {qemu} --forward {port}:7443 --tpm-state tpm/state --limit {LIMIT_SECONDS} --memory 512{more}"
        )
    }

    /// A QEMU that changes words of its command line as `cases` of a shell say, and has `more` behind them: what a host could do
    /// without asking anybody.
    pub fn host(&self, name: &str, cases: &str, more: &str) -> PathBuf {
        let file = self.place.path(name);
        let qemu = self.qemu.display();
        let text = format!(
            "#!/bin/sh\nn=0\nfor word; do\n  n=$((n+1))\n  shift\n  case \"$word\" in\n{cases}\n  esac\n  set -- \"$@\" \"$word\"\ndone\n\
            exec {qemu} \"$@\" {more}\n"
        );
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    /// A machine that serves, until its handle is dropped.
    pub fn serves(&self, image: &str, more: &str) -> Running {
        self.start(&self.machine(&self.qemu, image, more), "casemate: READY")
    }

    /// Exit code and words of a machine that stops by itself.
    pub fn stops(&self, image: &str, more: &str) -> (i32, String) {
        self.stops_on(&self.qemu, image, more)
    }

    /// The same with a QEMU of [`Team::host`].
    pub fn stops_on(&self, qemu: &Path, image: &str, more: &str) -> (i32, String) {
        ended(&self.run(&self.machine(qemu, image, more)))
    }

    /// Keys that the broker released so far, by its own record.
    pub fn released(&self) -> usize {
        let records = fs::read_to_string(self.place.path("broker-audit.jsonl")).unwrap_or_default();
        records.matches("\"reason\":\"released\"").count()
    }

    /// What a member gets for a question, through their own machine's proxy.
    pub fn ask(&self) -> String {
        let _client = self.start("connect --config connect.toml", "http");
        let body = "{\"model\":\"default\",\"max_tokens\":8,\"messages\":[{\"role\":\"user\",\"content\":\"What is the opposite of cold?\"}]}";
        let mut stream = TcpStream::connect(("127.0.0.1", self.client_port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(300)))
            .unwrap();
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}
