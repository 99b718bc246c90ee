//! A temporary organisation with the sealed model, and the product's parts as processes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use casemate_models::package::SealedPackage;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::COST_STREAMS;
use crate::load::Target;
use crate::looping;
use crate::options::{Options, RowKind};
use crate::process::{Cpu, Process};

/// Names of the models: the one that is measured, and the one whose answers repeat.
pub const MODEL: &str = "default";
pub const GUESS: &str = "guess";

/// Requests that may wait.
pub const QUEUE: usize = 256;

/// Sequences that the engine runs at once.
pub fn sequences(options: &Options) -> usize {
    options.clients.max(COST_STREAMS)
}

/// Room for keys and values: prompts and answers of all, and as much again for what a tokenizer adds.
pub fn cache_tokens(options: &Options) -> usize {
    sequences(options) * (options.prompt + options.answer) * 2
}

/// The organisation's folder, its broker, and where the product is.
pub struct Place {
    folder: TempDir,
    casemate: PathBuf,
    broker: Option<(Process, u16)>,
    sequences: usize,
    cache_tokens: usize,
    threads: usize,
}

impl Place {
    /// Makes an organisation, seals the models and starts the broker.
    ///
    /// # Errors
    /// When a command of the product fails, with its words.
    pub async fn make(options: &Options) -> anyhow::Result<Self> {
        Self::guarded(options, "").await
    }

    /// The same, with these lines about the guard in its policy.
    ///
    /// # Errors
    /// As [`Place::make`].
    pub async fn guarded(options: &Options, guard: &str) -> anyhow::Result<Self> {
        let mut place = Self {
            folder: tempfile::tempdir()?,
            casemate: built_casemate()?,
            broker: None,
            sequences: sequences(options),
            cache_tokens: cache_tokens(options),
            threads: options.threads,
        };
        for words in [
            "org init org --name bench --test-chip",
            "org issue org --team load --member ada",
            "org enrol org --test-chip --label bench --name localhost",
        ] {
            place.command(&words.split(' ').collect::<Vec<_>>()).await?;
        }
        let mut tables = String::from("[models]\n");
        if options.rows.iter().any(|kind| *kind != RowKind::Guess) {
            tables += &place.seal(MODEL, &options.model).await?;
        }
        if options.rows.contains(&RowKind::Guess) {
            let own = place.path("looping.gguf");
            let model = match &options.guess_model {
                Some(model) => model,
                None => {
                    looping::write(&options.model, &own)?;
                    &own
                }
            };
            tables += &place.seal(GUESS, model).await?;
        }
        let budget = "{ window_seconds = 86400, requests = 1000000, tokens = 1000000000, concurrency = 256 }";
        tables += &format!(
            "\n[team.load]\nprincipals = [\"spiffe://bench/team/load/*\"]\noutput_tokens_max = 65536\n\
             session_seconds = 86400\nshared = {budget}\neach = {budget}\n\n{guard}"
        );
        let rules = "@id(\"load\")\npermit (principal in Team::\"load\", action in [Action::\"complete\", \
                     Action::\"list\"], resource);\n";
        fs::create_dir_all(place.path("org/policy"))?;
        fs::write(place.path("org/policy/policy.toml"), tables)?;
        fs::write(place.path("org/policy/policy.cedar"), rules)?;
        place.command(&["policy", "sign", "org"]).await?;
        place.start_broker().await?;
        Ok(place)
    }

    /// Where everything is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Seals a model; answers its line of the policy.
    async fn seal(&self, name: &str, model: &Path) -> anyhow::Result<String> {
        let model = model
            .canonicalize()
            .with_context(|| format!("{} is not there", model.display()))?;
        eprintln!("sealing {} in {}", model.display(), self.folder().display());
        let package = format!("{name}.casemate");
        let path = model.to_string_lossy();
        let from = [
            "model",
            "seal",
            path.as_ref(),
            "--org",
            "org",
            "--name",
            name,
        ];
        let to = ["--version", "1", "--epoch", "1", "--out", package.as_str()];
        self.command(&[from.as_slice(), &to].concat()).await?;
        let opened = SealedPackage::open(&self.path(&package))?;
        let digest = opened.header().digest();
        Ok(format!("{name} = \"{digest}\"\n"))
    }

    /// Runs one of the product's commands to its end.
    async fn command(&self, words: &[&str]) -> anyhow::Result<()> {
        let output = Command::new(&self.casemate)
            .args(words)
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .output()
            .await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("casemate {}: {}\n{said}", words.join(" "), output.status);
        }
        Ok(())
    }

    async fn start_broker(&mut self) -> anyhow::Result<()> {
        let text = "listen = \"127.0.0.1:0\"\norganisation = \"org\"\nstate = \"broker-state\"\n\
                    witness = \"broker.witness\"\naudit = \"broker-audit.jsonl\"\n\
                    # NOT CONFIDENTIAL\nplatform = \"test-chip\"\nallow_test_chip = true\n";
        fs::write(self.path("broker.toml"), text)?;
        let config = ["broker", "--config", "broker.toml"];
        self.command(&[config.as_slice(), &["--new-state"]].concat())
            .await?;
        let (broker, ready) = self.start("broker", "broker.toml", "broker").await?;
        self.broker = Some((broker, port_in(&ready)?));
        Ok(())
    }

    /// Starts a part of the product and waits for its first line.
    async fn start(
        &self,
        part: &str,
        config: &str,
        name: &str,
    ) -> anyhow::Result<(Process, String)> {
        let mut command = Command::new(&self.casemate);
        command
            .args([part, "--config", config])
            .arg(format!("--end-with-parent={}", std::process::id()));
        let mut process = Process::start(&mut command, self.folder(), name)?;
        let ready = process.ready().await.with_context(|| part.to_owned())?;
        Ok((process, ready))
    }

    /// Starts a server of the model `alias`, guessing or not, and connect beside it.
    ///
    /// # Errors
    /// When one does not start, with its words.
    pub async fn start_product(
        &self,
        alias: &'static str,
        name: &str,
        guess: bool,
    ) -> anyhow::Result<Product> {
        let package = format!("{alias}.casemate");
        let broker = self.broker.as_ref().context("no broker")?.1;
        fs::create_dir_all(self.path(&format!("state-{name}")))?;
        let config = format!("server-{name}.toml");
        let text = self.server_toml(name, &package, broker, guess);
        fs::write(self.path(&config), text)?;
        let (server, ready) = self
            .start("serve", &config, &format!("serve-{name}"))
            .await?;
        let config = format!("connect-{name}.toml");
        fs::write(self.path(&config), client_toml(port_in(&ready)?))?;
        let (connect, ready) = self
            .start("connect", &config, &format!("connect-{name}"))
            .await?;
        Ok(Product {
            server,
            connect,
            port: port_in(&ready)?,
            alias,
        })
    }

    fn server_toml(&self, name: &str, package: &str, broker: u16, guess: bool) -> String {
        let (sequences, cache, threads) = (self.sequences, self.cache_tokens, self.threads);
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nnames = [\"localhost\"]\n\n\
             [broker]\naddress = \"127.0.0.1:{broker}\"\nname = \"localhost\"\nauthority = \"org/broker/ca.pem\"\n\n\
             [trust]\nrelease_key = \"org/release/public.key\"\nclient_authority = \"org/client-ca/cert.pem\"\n\n\
             [attestation]\n# NOT CONFIDENTIAL\nplatform = \"test-chip\"\ntest_chip_seed = \"org/test-chip/seed\"\n\n\
             [state]\nfolder = \"state-{name}\"\n\n[audit]\nfile = \"audit-{name}.jsonl\"\n\n\
             [limits]\nqueue = {QUEUE}\nsequences = {sequences}\ncache_tokens = {cache}\n\n\
             [engine]\nthreads = {threads}\nguess = {guess}\n\n\
             [[model]]\nname = \"default\"\npackage = \"{package}\"\n"
        )
    }
}

fn client_toml(server: u16) -> String {
    format!(
        "server = \"https://localhost:{server}\"\n\n\
         [identity]\ncertificate = \"org/teams/load/ada/cert.pem\"\nkey = \"org/teams/load/ada/key.pem\"\n\n\
         [trust]\nenclave_ca = \"org/enclave-ca/cert.pem\"\nrelease_key = \"org/release/public.key\"\n\
         reference = \"org/reference.json\"\nfleet = \"org/fleet.json\"\n\
         # NOT CONFIDENTIAL\nplatform = \"test-chip\"\ntest_chip_root = \"org/test-chip/root.der\"\n\n\
         [listen]\naddress = \"127.0.0.1:0\"\n"
    )
}

/// A server and the way to it.
pub struct Product {
    server: Process,
    connect: Process,
    port: u16,
    alias: &'static str,
}

impl Product {
    /// CPU time that server and connect have taken so far.
    ///
    /// # Errors
    /// When one has ended.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        let (server, connect) = (self.server.cpu()?, self.connect.cpu()?);
        Ok(Cpu {
            all: server.all + connect.all,
            computing: server.computing,
        })
    }

    /// Where its plain API is.
    pub fn target(&self) -> Target {
        Target {
            authority: format!("127.0.0.1:{}", self.port),
            extras: json!({"model": self.alias}),
        }
    }
}

/// The program that was built beside this one.
fn built_casemate() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent);
    let program = folder.map(|folder| folder.join("casemate"));
    program
        .filter(|program| program.is_file())
        .context("casemate is not built beside this example: run scripts/bench-serve")
}

/// The port at the end of a part's first line: an address, or a URL with one path segment.
fn port_in(line: &str) -> anyhow::Result<u16> {
    let (_, end) = line.rsplit_once(':').unwrap_or_default();
    let digits = end.split('/').next().unwrap_or_default();
    let port = digits.trim().parse();
    port.with_context(|| format!("no port in {line:?}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_the_parts_first_lines() {
        assert_eq!(port_in("server ready on 127.0.0.1:7443").unwrap(), 7443);
        assert_eq!(port_in("http://127.0.0.1:11434/v1").unwrap(), 11434);
        assert!(port_in("ready").is_err());
        assert!(port_in("ready on 127.0.0.1:").is_err());
    }
}
