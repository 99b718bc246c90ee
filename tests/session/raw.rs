//! A client that the tests control to the byte: rustls, HTTP/1.1 written out, and the attestation calls one by one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_attestation::{
    BindingInputs, Context, Direction, EXPORTER_LABEL, Envelope, Nonce, Sha256Digest,
    confirmation_message,
};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{PROMPT_MARKER, Server, keys};
use crate::organisation::{Leaf, NODE_A, ORGANISATION};

/// Nothing in these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// HTTP/1.1 on a byte stream.
pub struct Http<S> {
    pub stream: BufReader<S>,
}

/// An answer, and whether its end was an end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub complete: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// An error in OpenAI's shape: exactly four keys, and nothing of the prompt. Returns it.
    pub fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(self.complete, "the error was cut: {}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(!self.text().contains(PROMPT_MARKER), "{}", self.text());
        error_object(self.json(), code)
    }
}

/// Checks the shape of an error document, and gives what is in it.
pub fn error_object(document: Value, code: &str) -> Value {
    assert_eq!(keys(&document), ["error"].into(), "{document}");
    let error = document["error"].clone();
    assert_eq!(
        keys(&error),
        ["message", "type", "param", "code"].into(),
        "{error}"
    );
    assert_eq!(error["code"], code, "{error}");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{error}"
    );
    assert!(
        error["type"]
            .as_str()
            .is_some_and(|text| text.ends_with("_error")),
        "{error}"
    );
    assert!(
        error["param"].is_null() || error["param"].is_string(),
        "{error}"
    );
    error
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http<S> {
    pub fn new(stream: S) -> Self {
        let stream = BufReader::new(stream);
        Self { stream }
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes).await?;
        self.stream.get_mut().flush().await
    }

    /// Sends a request with a body of JSON, and does not wait.
    pub async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<()> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        );
        self.write(&[head.as_bytes(), body].concat()).await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, b"").await.unwrap();
        self.answer().await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().as_bytes()).await
    }

    pub async fn post_bytes(&mut self, path: &str, body: &[u8]) -> Answer {
        self.send("POST", path, body).await.unwrap();
        self.answer().await
    }

    /// A whole answer, or as much as comes of it.
    pub async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await.unwrap();
        let length = answer
            .header("content-length")
            .map(|n| n.parse::<usize>().unwrap());
        match length {
            Some(length) => {
                answer.body = vec![0; length];
                let read = timeout(PATIENCE, self.stream.read_exact(&mut answer.body)).await;
                answer.complete = read.unwrap().is_ok();
            }
            None => loop {
                match self.chunk().await {
                    Ok(Some(chunk)) => answer.body.extend(chunk),
                    Ok(None) => break,
                    Err(error) => {
                        assert_ne!(error.kind(), io::ErrorKind::TimedOut);
                        answer.complete = false;
                        break;
                    }
                }
            },
        }
        answer
    }

    /// Status and headers.
    pub async fn head(&mut self) -> io::Result<Answer> {
        let status = self.line().await?;
        let status = status.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(": ") else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        Ok(Answer {
            status,
            headers,
            body: Vec::new(),
            complete: true,
        })
    }

    /// The next chunk of a streaming answer; `None` at its proper end, an error where it was cut.
    pub async fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = self.line().await?;
        let length = usize::from_str_radix(&length, 16);
        let length = length.map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let mut chunk = vec![0; length + 2];
        timeout(PATIENCE, self.stream.read_exact(&mut chunk)).await??;
        chunk.truncate(length);
        Ok((length > 0).then_some(chunk))
    }

    /// What comes of a stream until it is cut. It has no end, in neither of the two ways to have one.
    pub async fn until_cut(&mut self) -> String {
        let mut text = Vec::new();
        let reading = async {
            loop {
                match self.chunk().await {
                    Ok(Some(chunk)) => text.extend(chunk),
                    Ok(None) => panic!("the stream ended as if it were complete"),
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => panic!("{error}"),
                    Err(_) => break,
                }
            }
        };
        let read = timeout(PATIENCE, reading).await;
        read.expect("the stream goes on and on");
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("[DONE]"), "{text}");
        text
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if timeout(PATIENCE, self.stream.read_line(&mut line)).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Waits until the other side has ended the connection, and asserts that it sent nothing more.
    pub async fn ended(&mut self) {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
        drop(read.expect("the connection stays open"));
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

/// A TLS connection of a client of the organisation.
pub type Raw = Http<TlsStream<TcpStream>>;

/// The exact documents of one attestation.
#[derive(Clone)]
pub struct Exchange {
    pub nonce: Nonce,
    pub envelope: Envelope,
    pub confirmation: Value,
}

/// A client's TLS settings; `change` may spoil them.
pub fn tls_config(leaf: &Leaf, provider: Arc<CryptoProvider>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ORGANISATION.enclave_authority()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![leaf.der.clone()], leaf.key())
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// A handshake with node A. The server may still refuse the certificate after it.
pub async fn handshake(address: SocketAddr, config: ClientConfig) -> io::Result<Raw> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = NODE_A.try_into().unwrap();
    let work = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    Ok(Http::new(timeout(PATIENCE, work).await??))
}

pub fn fresh_nonce() -> Nonce {
    let mut nonce = [0; 32];
    SystemRandom::new().fill(&mut nonce).unwrap();
    Nonce::from_bytes(nonce)
}

impl Raw {
    /// A connection that proved nothing but its certificate.
    pub async fn connect(server: &Server, leaf: &Leaf) -> Self {
        let config = tls_config(leaf, casemate::tls::provider());
        handshake(server.address, config).await.unwrap()
    }

    /// An attested connection.
    pub async fn attested(server: &Server, member: &str) -> Self {
        let leaf = ORGANISATION.client(member);
        let mut raw = Self::connect(server, &leaf).await;
        raw.attest(&leaf).await;
        raw
    }

    /// An attested connection through whoever listens at `address`.
    pub async fn attested_through(address: SocketAddr, member: &str) -> Self {
        let leaf = ORGANISATION.client(member);
        let config = tls_config(&leaf, casemate::tls::provider());
        let mut raw = handshake(address, config).await.unwrap();
        raw.attest(&leaf).await;
        raw
    }

    /// The exporter of rule P-21.
    pub fn exporter(&self, nonce: &Nonce) -> [u8; 32] {
        let (_, tls) = self.stream.get_ref().get_ref();
        tls.export_keying_material([0; 32], EXPORTER_LABEL, Some(nonce.as_bytes()))
            .unwrap()
    }

    pub fn inputs<'a>(
        &self,
        direction: Direction,
        exporter: &'a [u8; 32],
        client: &Leaf,
        nonce: Nonce,
        context: &'a Context,
    ) -> BindingInputs<'a> {
        let (_, tls) = self.stream.get_ref().get_ref();
        let server_leaf = &tls.peer_certificates().unwrap()[0];
        BindingInputs {
            direction,
            exporter,
            server_leaf: Sha256Digest::of(server_leaf),
            client_leaf: client.digest(),
            nonce,
            context,
        }
    }

    pub async fn challenge(&mut self, nonce: Nonce) -> Answer {
        self.post("/attest/challenge", &json!({"nonce": nonce}))
            .await
    }

    /// Challenge, and a confirmation that is good but not sent.
    pub async fn prepare(&mut self, leaf: &Leaf) -> Exchange {
        let nonce = fresh_nonce();
        let answer = self.challenge(nonce).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let envelope = Envelope::parse(&answer.body).unwrap();
        let exporter = self.exporter(&nonce);
        let binding = self
            .inputs(
                Direction::Server,
                &exporter,
                leaf,
                nonce,
                envelope.context(),
            )
            .binding();
        let message = confirmation_message(&binding, &envelope.digest());
        let confirmation = json!({
            "binding": hex::encode(binding.as_bytes()),
            "evidence": envelope.digest(),
            "signature": STANDARD.encode(sign(leaf, &message)),
            "client_evidence": null,
        });
        Exchange {
            nonce,
            envelope,
            confirmation,
        }
    }

    pub async fn confirm(&mut self, exchange: &Exchange) -> Answer {
        self.post("/attest/confirm", &exchange.confirmation).await
    }

    /// Challenge and confirmation. Returns the deadline.
    pub async fn attest(&mut self, leaf: &Leaf) -> u64 {
        let exchange = self.prepare(leaf).await;
        let granted = self.confirm(&exchange).await.ok();
        granted["deadline"].as_u64().unwrap()
    }

    pub async fn chat(&mut self, prompt: &str) -> Answer {
        self.post("/v1/chat/completions", &chat(prompt, false))
            .await
    }

    /// Begins a streaming answer and reads its head.
    pub async fn stream(&mut self, prompt: &str) {
        let body = chat(prompt, true).to_string();
        self.send("POST", "/v1/chat/completions", body.as_bytes())
            .await
            .unwrap();
        assert_eq!(self.head().await.unwrap().status, 200);
    }

    /// Reads a stream until it is cut, and asserts that it was: its last event is an error with `code`, and it has no end.
    pub async fn cut_with(&mut self, code: &str) {
        let text = self.until_cut().await;
        let last = text.trim_end().rsplit("data: ").next().unwrap();
        error_object(serde_json::from_str(last).unwrap(), code);
    }
}

/// A chat of one message, with the marker in it.
pub fn chat(prompt: &str, stream: bool) -> Value {
    let content = format!("{prompt} {PROMPT_MARKER}");
    json!({"model": "story", "stream": stream,
        "messages": [{"role": "user", "content": content}]})
}

/// The text of a whole answer.
pub fn answer_text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

pub fn sign(leaf: &Leaf, message: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    let key = leaf.key();
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.secret_der(), &random).unwrap();
    pair.sign(&random, message).unwrap().as_ref().to_vec()
}
