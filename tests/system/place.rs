//! A folder as `casemate demo --once` leaves it, and the parts started from it by hand.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The product.
pub fn casemate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_casemate"))
}

/// A demonstration's folder.
pub struct Place(tempfile::TempDir);

/// A process that ends with its handle. Its stderr is collected in a file.
pub struct Part {
    child: Child,
    /// Its first line on stdout.
    pub ready: String,
    log: PathBuf,
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Part {
    /// What it said on stderr so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its exit code, once it has ended by itself.
    pub fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Asks it to end in order, and waits.
    pub fn stop(&mut self) {
        let id = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Place {
    /// Makes the folder with the product's own demonstration.
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let output = place.demo();
        assert!(output.status.success(), "{}", text(&output));
        place
    }

    /// Runs `casemate demo --once` on the folder.
    pub fn demo(&self) -> Output {
        let folder = self.path("");
        casemate()
            .args(["demo", "--once", "--dir"])
            .arg(folder)
            .output()
            .unwrap()
    }

    /// Adds a rule to the organisation's policy and signs it anew.
    pub fn permit(&self, team: &str, action: &str) {
        let rules = self.path("org/policy/policy.cedar");
        let mut text = fs::read_to_string(&rules).unwrap();
        text += &format!(
            "@id(\"{team}-{action}\")\npermit (principal in Team::\"{team}\", action == Action::\"{action}\", resource);\n"
        );
        fs::write(rules, text).unwrap();
        let mut sign = casemate();
        let sign = sign.args(["policy", "sign", "org"]);
        let output = sign.current_dir(self.path("")).output().unwrap();
        assert!(output.status.success(), "{}", self::text(&output));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("demo").join(name)
    }

    /// Starts a part and waits for its first line.
    pub fn start(&self, part: &str, config: &str) -> Part {
        let mut part = self.spawn(part, config, "debug");
        assert!(!part.ready.is_empty(), "{}", part.finished());
        part
    }

    /// Starts a part that must not become ready: its exit code, and what it said.
    pub fn refused(&self, part: &str, config: &str) -> (i32, String) {
        let mut part = self.spawn(part, config, "warn");
        assert_eq!(part.ready, "", "it became ready");
        let code = part.child.wait().unwrap().code().unwrap();
        (code, part.log())
    }

    /// Starts any program in the folder and waits for its first line.
    pub fn start_command(&self, command: Command, name: &str) -> Part {
        let mut part = self.run(command, name);
        assert!(!part.ready.is_empty(), "{}", part.finished());
        part
    }

    fn spawn(&self, part: &str, config: &str, level: &str) -> Part {
        let mut command = casemate();
        command.args(["--log", level, part, "--config", config]);
        self.run(command, &format!("{part}-{config}"))
    }

    fn run(&self, mut command: Command, name: &str) -> Part {
        let log = self.0.path().join(format!("{name}.log"));
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut child = command
            .current_dir(self.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let ready = ready.trim().to_owned();
        Part { child, ready, log }
    }

    /// Broker, server, and the granted team's connect.
    pub fn start_all(&self) -> (Part, Part, Part) {
        let broker = self.start("broker", "broker.toml");
        let server = self.start("serve", "server.toml");
        let connect = self.start("connect", "connect-research.toml");
        (broker, server, connect)
    }

    /// Replaces text in one of the folder's files.
    pub fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path(file);
        let old = fs::read_to_string(&path).unwrap();
        assert!(old.contains(from), "{file} has no {from:?}");
        fs::write(path, old.replace(from, to)).unwrap();
    }

    /// Names a package in the policy, as an officer does, and signs it.
    pub fn name_in_policy(&self, package: &str) {
        let about = self.command(&["model", "inspect", package, "--json"]);
        let about: serde_json::Value = serde_json::from_str(&about).unwrap();
        let digest = about["digest"].as_str().unwrap();
        let line = format!("[models]\n\"{package}\" = \"{digest}\"");
        self.edit("org/policy/policy.toml", "[models]", &line);
        self.command(&["policy", "sign", "org", "--days", "30"]);
    }

    /// What a command that must succeed says on stdout.
    pub fn command(&self, words: &[&str]) -> String {
        let output = casemate()
            .args(words)
            .current_dir(self.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every file below the folder.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push(path),
                }
            }
        }
        files
    }
}

impl Part {
    fn finished(&mut self) -> String {
        let _ = self.child.wait();
        self.log()
    }
}

/// Both outputs of a command, for a message.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// An answer of connect's local endpoint.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    /// The code of an error, after checking its shape.
    pub fn code(&self) -> String {
        let json = self.json();
        let error = json["error"].as_object().unwrap();
        let mut keys: Vec<_> = error.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["code", "message", "param", "type"]);
        error["code"].as_str().unwrap().to_owned()
    }
}

/// One HTTP/1.1 request to `base` (as connect prints it) and its whole answer.
pub fn http(base: &str, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
    let authority = base
        .trim_start_matches("http://")
        .trim_end_matches("/v1")
        .to_owned();
    let mut stream = TcpStream::connect(&authority)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let head = format!(
        "{method} /v1/{path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let text = String::from_utf8_lossy(&all).into_owned();
    let status = text.get(9..12).and_then(|code| code.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(Answer {
        status: status.unwrap_or(0),
        body: unchunked(body, &text),
    })
}

/// A body without its chunk sizes, if it has any.
fn unchunked(body: &str, all: &str) -> String {
    let head = all.split("\r\n\r\n").next().unwrap_or("");
    if !head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        return body.to_owned();
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = after.get(..size) else {
            break;
        };
        whole.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or("");
    }
    whole
}

/// A chat request's body.
pub fn chat(question: &str, tokens: u32) -> Vec<u8> {
    serde_json::json!({"model": "default", "temperature": 0, "max_tokens": tokens,
        "messages": [{"role": "user", "content": question}]})
    .to_string()
    .into_bytes()
}

/// Waits for `done`, at most `limit`.
pub fn eventually(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The port in a `listen`, `address` or `server` line of a configuration.
pub fn port(file: &Path, key: &str) -> u16 {
    let text = fs::read_to_string(file).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{key} = ")));
    let line = line.unwrap_or_else(|| panic!("{key} is not in {}", file.display()));
    let digits = line.rsplit(':').next().unwrap();
    digits.trim_end_matches('"').parse().unwrap()
}
