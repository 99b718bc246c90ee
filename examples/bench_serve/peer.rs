//! llama.cpp's server, with as many places as there are clients and nothing kept from request to request.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::load::{Load, Target};
use crate::options::Options;
use crate::place::Place;
use crate::process::{Process, READY_SECONDS_MAX};
use crate::prompts::repetitive;

/// Tokens of context for each client beside its prompt and answer.
const SLACK: usize = 64;
/// Between two looks whether it is ready.
const LOOK: Duration = Duration::from_millis(100);

/// A running llama-server.
pub struct Peer {
    _process: Process,
    port: u16,
}

impl Peer {
    /// Starts it, waits until its model is loaded, and asks it once.
    ///
    /// # Errors
    /// When it does not start or does not answer.
    pub async fn start(folder: &Path, place: &Place, options: &Options) -> anyhow::Result<Self> {
        let program = folder.join("llama-server");
        let program = program
            .canonicalize()
            .with_context(|| format!("{} is not there", program.display()))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let context = options.clients * (options.prompt + options.answer + SLACK);
        let (threads, clients) = (options.threads.to_string(), options.clients.to_string());
        let mut command = Command::new(program);
        command
            .arg("--model")
            .arg(options.model.canonicalize()?)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--threads", &threads, "--threads-batch", &threads])
            .args(["--parallel", &clients, "--ctx-size", &context.to_string()])
            .args(["--no-cache-prompt", "--cache-ram", "0", "--no-ui"])
            .args(&options.llama_args);
        let mut process = Process::start(&mut command, place.folder(), "llama-server")?;
        let looks = READY_SECONDS_MAX * 1000 / LOOK.as_millis() as u64;
        for _ in 0..looks {
            if !process.runs()? {
                bail!("llama-server ended: {}", process.last_words());
            }
            if healthy(port).await.unwrap_or(false) {
                let peer = Self {
                    _process: process,
                    port,
                };
                let load = Load::new(repetitive(0, 1), 1, options).answers_of(1);
                load.run(&peer.target()).await.context("llama-server")?;
                return Ok(peer);
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("llama-server is not ready: {}", process.last_words())
    }

    /// Where it is, and what makes its answers as long as ours.
    pub fn target(&self) -> Target {
        Target {
            authority: format!("127.0.0.1:{}", self.port),
            extras: json!({"ignore_eos": true, "cache_prompt": false}),
        }
    }
}

async fn healthy(port: u16) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}
