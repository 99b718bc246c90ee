//! A peer of the broker that the tests control: its certificate and key, each call by itself, and what the calls say.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate::broker::client::{PackageRequest, ReleaseRequest};
use casemate_attestation::nvidia::GpuNonce;
use casemate_attestation::{
    BindingInputs, Context, DeviceSet, Direction, EXPORTER_LABEL, Envelope, EnvelopeParts,
    EvidenceProvider, Nonce, Sha256Digest,
};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::place::Running;

/// Nothing in these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a peer shows at the handshake. Nothing says that its parts belong together.
#[derive(Clone)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Arc<dyn rustls::sign::SigningKey>,
}

impl Identity {
    /// A self-signed certificate as servers make them, with `names` more in it.
    pub fn with_names(names: usize) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let names: Vec<String> = (0..=names).map(|n| format!("name-{n}.example")).collect();
        let parameters = rcgen::CertificateParams::new(names).unwrap();
        let leaf = parameters.self_signed(&pair).unwrap();
        let key = PrivateKeyDer::from_pem_slice(pair.serialize_pem().as_bytes()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Self {
            chain: vec![leaf.der().clone()],
            key: provider.key_provider.load_private_key(key).unwrap(),
        }
    }

    pub fn new() -> Self {
        Self::with_names(0)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// rustls would notice a key that is not the certificate's; this does not look.
impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = CertifiedKey::new(self.chain.clone(), Arc::clone(&self.key));
        self.has_certs().then(|| Arc::new(key))
    }

    fn has_certs(&self) -> bool {
        !self.chain.is_empty()
    }
}

/// One connection to a broker.
pub struct Peer {
    stream: TlsStream<TcpStream>,
    leaf: Vec<u8>,
}

impl Peer {
    pub async fn connect(broker: &Running, identity: &Identity) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(broker.address.authority.clone()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(identity.clone()));
        let stream = TcpStream::connect(&broker.address.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await?;
        let leaf = identity.chain.first().map(|leaf| leaf.to_vec());
        Ok(Self {
            stream,
            leaf: leaf.unwrap_or_default(),
        })
    }

    /// Sends these bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Status and document of the next answer.
    pub async fn answer(&mut self) -> std::io::Result<(u16, Value)> {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    let length = name.eq_ignore_ascii_case("content-length");
                    length.then(|| value.trim().parse::<usize>().unwrap())
                });
                if body.len() >= length.unwrap_or(0) {
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    return Ok((status, serde_json::from_str(body).unwrap()));
                }
            }
            let mut more = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut more)).await??;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&more[..read]);
        }
    }

    pub async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> std::io::Result<(u16, Value)> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
        );
        self.send(&[head.as_bytes(), body].concat()).await?;
        self.answer().await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        self.call("POST", path, body.as_bytes()).await.unwrap()
    }

    /// The code of a refusal, with its status.
    pub async fn refusal(&mut self, path: &str, body: &Value) -> (u16, String) {
        let (status, document) = self.post(path, body).await;
        (status, code(&document))
    }

    pub async fn challenge(&mut self) -> Nonce {
        let (status, challenge) = self.post("/release/challenge", &json!({})).await;
        assert_eq!(status, 200, "{challenge}");
        challenge["nonce"].as_str().unwrap().parse().unwrap()
    }

    /// A request for keys with evidence over this connection and `nonce`; the evidence names `models`.
    pub fn keys_request(
        &self,
        provider: &impl EvidenceProvider,
        nonce: Nonce,
        request: &ReleaseRequest,
        models: &[Sha256Digest],
    ) -> Value {
        self.keys_request_with(provider, nonce, request, models, |_| None)
    }

    /// The same with devices that `devices` makes up for the session's nonce.
    pub fn keys_request_with(
        &self,
        provider: &impl EvidenceProvider,
        nonce: Nonce,
        request: &ReleaseRequest,
        models: &[Sha256Digest],
        devices: impl FnOnce(&GpuNonce) -> Option<DeviceSet>,
    ) -> Value {
        let mut context = Context {
            models: models.to_vec(),
            configuration: request.configuration,
            ..Context::absent()
        };
        let (_, tls) = self.stream.get_ref();
        let exporter = tls
            .export_keying_material([0; 32], EXPORTER_LABEL, Some(nonce.as_bytes()))
            .unwrap();
        let direction = Direction::Client;
        let binding = |context: &Context| {
            BindingInputs {
                direction,
                exporter: &exporter,
                server_leaf: Sha256Digest::of(&tls.peer_certificates().unwrap()[0]),
                client_leaf: Sha256Digest::of(&self.leaf),
                nonce,
                context,
            }
            .binding()
        };
        let devices = devices(binding(&context).device_nonce());
        if let Some(set) = &devices {
            context.device_evidence = set.digest();
        }
        let binding = binding(&context);
        let parts = EnvelopeParts {
            platform: provider.platform(),
            direction,
            hardware: provider.evidence(binding.as_bytes()).unwrap(),
            context,
            batch: None,
            devices,
        };
        let evidence = Envelope::build(parts).unwrap();
        let package = |package: &PackageRequest| {
            json!({"id": package.id.to_string(), "epoch": package.epoch,
                "key_id": package.key_id, "digest": package.digest})
        };
        let packages: Vec<Value> = request.packages.iter().map(package).collect();
        json!({"evidence": STANDARD.encode(evidence.as_bytes()), "names": request.names,
            "packages": packages})
    }
}

/// The code in an error document.
pub fn code(document: &Value) -> String {
    let code = document["error"]["code"].as_str();
    code.unwrap_or_default().to_owned()
}
