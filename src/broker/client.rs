//! The server's side of a release: connects with a fresh key, attests, and gets leaf, keys and signed documents.
//!
//! Nothing is asked for before the broker's certificate was checked against the pinned authority, and the evidence is
//! bound to that one connection. The documents are handed on as received: the server checks their signatures.

use std::sync::Arc;
use std::time::Duration;

use casemate_attestation::snp::SnpReport;
use casemate_attestation::{
    BindingInputs, Context, Direction, Envelope, EnvelopeParts, EvidenceProvider, HardwareEvidence,
    ProviderError, Sha256Digest, TcbVersion, UnixTime, strict_json,
};
use casemate_models::package::{DataKey, PackageId};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::channel::Channel;
use super::wire;
use crate::devices::{DeviceAskError, DeviceAsker, Lane};
use crate::guard::mark::MarkRoot;
use crate::org::authority;
use crate::sentry::{Floor, LedgerKey};

/// One answer of the broker may take this long.
const ANSWER_SECONDS_MAX: u64 = 20;

/// Which broker to ask, and how to know it.
#[derive(Clone, Debug)]
pub struct BrokerAddress {
    /// Host and port, such as `10.0.0.7:7440`.
    pub address: String,
    /// The name that must stand in the broker's certificate.
    pub name: String,
    /// The broker's authority (`broker/ca.pem`), pinned by the server's configuration.
    pub authority: CertificateDer<'static>,
}

/// What the server asks for.
#[derive(Clone, Debug)]
pub struct ReleaseRequest {
    /// Names for the server's leaf; the fleet list must allow each on this chip.
    pub names: Vec<String>,
    /// Packages in the order served.
    pub packages: Vec<PackageRequest>,
    /// SHA-256 of the server's configuration in force; goes into the binding.
    pub configuration: Sha256Digest,
}

/// A package whose key is wanted; all of it stands in the package's clear header.
#[derive(Clone, Debug)]
pub struct PackageRequest {
    /// Package id.
    pub id: PackageId,
    /// Epoch.
    pub epoch: u64,
    /// Key id.
    pub key_id: String,
    /// Rule P-22: SHA-256 of the clear header.
    pub digest: Sha256Digest,
}

/// What an attested server gets. Bytes of documents are as signed; check them against the release key.
pub struct Released {
    /// The server's leaf and the enclave CA, leaf first.
    pub leaf_chain: Vec<CertificateDer<'static>>,
    /// The fresh private key of the leaf (PKCS#8).
    pub private_key: PrivateKeyDer<'static>,
    /// Signed policy document.
    pub policy_bundle: Vec<u8>,
    /// Signed revocation list.
    pub revocations: Vec<u8>,
    /// Data keys in the order of the request.
    pub keys: Vec<(PackageId, DataKey)>,
    /// The key from which marks come.
    pub mark: MarkRoot,
    /// Firmware that this machine's evidence reports, and that the broker verified.
    pub tcb: Option<TcbVersion>,
    /// The key of the guard's ledger.
    pub ledger_key: LedgerKey,
    /// How far the broker knows that ledger to be (rule P-53).
    pub guard_floor: Floor,
}

impl std::fmt::Debug for Released {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Released(..)")
    }
}

/// Newer documents, where there are any (rule P-52).
#[derive(Debug)]
pub struct Updates {
    /// Signed policy document with a higher number.
    pub policy_bundle: Option<Vec<u8>>,
    /// Signed revocation list with a higher number.
    pub revocations: Option<Vec<u8>>,
}

/// Why nothing was released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// Nobody answers, or not the broker that was pinned.
    #[error("cannot reach the broker at {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the system or TLS says.
        source: std::io::Error,
    },
    /// A name that no certificate could carry.
    #[error("broker name {0:?} is neither a DNS name nor an IP address")]
    Name(String),
    /// The broker refused; the code is one of rule P-51.
    #[error("broker refused with {code}: {message}")]
    Refused {
        /// Code of rule P-51.
        code: String,
        /// The broker's reason.
        message: String,
    },
    /// The connection broke, or the broker took too long.
    #[error("the connection to the broker is lost: {0}")]
    Lost(String),
    /// The broker's answer is not of the protocol.
    #[error("the broker's answer is malformed: {0}")]
    Malformed(String),
    /// This machine gave no evidence.
    #[error(transparent)]
    Evidence(#[from] ProviderError),
    /// This machine's devices gave none.
    #[error(transparent)]
    Devices(#[from] DeviceAskError),
    /// TLS or certificate machinery failed here.
    #[error("cannot set up the connection to the broker: {0}")]
    Setup(String),
}

/// What vouches for this machine.
#[derive(Clone)]
pub struct OwnMachine {
    /// Its security processor.
    pub provider: Arc<dyn EvidenceProvider>,
    /// Its GPUs and switches; `None` where it has none.
    pub devices: Option<DeviceAsker>,
}

impl OwnMachine {
    /// A machine without devices.
    #[must_use]
    pub const fn alone(provider: Arc<dyn EvidenceProvider>) -> Self {
        Self {
            provider,
            devices: None,
        }
    }
}

impl std::fmt::Debug for OwnMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnMachine({})", self.provider.platform())
    }
}

/// The attested connection to a broker. Dropping it ends the connection.
pub struct ReleaseClient {
    channel: Channel,
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl std::fmt::Debug for ReleaseClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReleaseClient({})", self.host)
    }
}

impl ReleaseClient {
    /// Connects, attests with what `machine` says and returns what was released, with the connection to ask for updates on.
    ///
    /// # Errors
    /// See [`ReleaseError`]; nothing is released then.
    pub async fn release(
        broker: &BrokerAddress,
        machine: &OwnMachine,
        request: &ReleaseRequest,
    ) -> Result<(Released, Self), ReleaseError> {
        let now = UnixTime::from(std::time::SystemTime::now());
        let identity =
            authority::self_signed(now.secs()).map_err(|e| ReleaseError::Setup(e.to_string()))?;
        let leaf = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())
            .map_err(|e| ReleaseError::Setup(e.to_string()))?;
        let mut client = Self::connect(broker, &leaf, &identity.key_pem).await?;
        let challenge: wire::Challenge = client
            .post("/release/challenge", &wire::ChallengeRequest {})
            .await?;
        let evidence = client.evidence(machine, &leaf, &challenge, request).await?;
        let tcb = own_tcb(evidence.hardware());
        let body = keys_request(evidence.as_bytes().to_vec(), request);
        let answer: wire::KeysAnswer = client.post("/release/keys", &body).await?;
        let released = Released {
            tcb,
            ..read_answer(answer, request, &identity.key_pem)?
        };
        Ok((released, client))
    }

    /// Asks for documents newer than those that the server has (rule P-52). To be called every second.
    ///
    /// # Errors
    /// [`ReleaseError::Lost`] when the connection ended: attest again with [`release`](Self::release).
    pub async fn updates(
        &mut self,
        policy_number: u64,
        revocation_number: u64,
    ) -> Result<Updates, ReleaseError> {
        let request = wire::UpdatesRequest {
            policy_number,
            revocation_number,
        };
        let answer: wire::UpdatesAnswer = self.post("/release/updates", &request).await?;
        Ok(Updates {
            policy_bundle: answer.policy_bundle.map(|bytes| bytes.0),
            revocations: answer.revocations.map(|bytes| bytes.0),
        })
    }

    /// Tells how far the guard's ledger is, for the broker to hold (rule P-53).
    ///
    /// # Errors
    /// As [`updates`](Self::updates).
    pub async fn raise_guard(&mut self, floor: &Floor) -> Result<(), ReleaseError> {
        let request = wire::GuardFloor::of(floor);
        let wire::GuardAnswer {} = self.post("/release/guard", &request).await?;
        Ok(())
    }

    async fn connect(
        broker: &BrokerAddress,
        leaf: &CertificateDer<'static>,
        key_pem: &str,
    ) -> Result<Self, ReleaseError> {
        let address = &broker.address;
        let refused = |source| ReleaseError::Connect {
            address: address.clone(),
            source,
        };
        let name = ServerName::try_from(broker.name.clone())
            .map_err(|_| ReleaseError::Name(broker.name.clone()))?;
        let config = tls_config(broker, leaf, key_pem)?;
        let connect = async {
            let stream = TcpStream::connect(address.as_str()).await?;
            stream.set_nodelay(true)?;
            tokio_rustls::TlsConnector::from(Arc::new(config))
                .connect(name, stream)
                .await
        };
        let stream = within(connect).await?.map_err(refused)?;
        let channel = Channel::new(stream);
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(channel.clone()))
                .await
                .map_err(|e| ReleaseError::Lost(e.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the broker ended");
            }
        });
        Ok(Self {
            channel,
            sender,
            host: broker.name.clone(),
        })
    }

    /// Evidence over the binding of this connection, direction `client` (rule P-20).
    async fn evidence(
        &self,
        machine: &OwnMachine,
        leaf: &CertificateDer<'static>,
        challenge: &wire::Challenge,
        request: &ReleaseRequest,
    ) -> Result<Envelope, ReleaseError> {
        let mut context = Context {
            models: request
                .packages
                .iter()
                .map(|package| package.digest)
                .collect(),
            configuration: request.configuration,
            ..Context::absent()
        };
        let exporter = self.channel.exporter(&challenge.nonce);
        let exporter = exporter.map_err(|e| ReleaseError::Setup(e.to_string()))?;
        let server_leaf = self.channel.peer_leaf_digest();
        let server_leaf =
            server_leaf.ok_or_else(|| ReleaseError::Setup("no certificate".into()))?;
        let binding = |context: &Context| {
            BindingInputs {
                direction: Direction::Client,
                exporter: &exporter,
                server_leaf,
                client_leaf: Sha256Digest::of(leaf),
                nonce: challenge.nonce,
                context,
            }
            .binding()
        };
        // The devices' nonce does not depend on the context, which carries the digest of their answers (N11).
        let devices = match &machine.devices {
            None => None,
            Some(asker) => {
                let nonce = *binding(&context).device_nonce();
                Some(asker.answers(Lane::Own, nonce).await?)
            }
        };
        if let Some(set) = &devices {
            context.device_evidence = set.digest();
        }
        let report_data = *binding(&context).as_bytes();
        let provider = Arc::clone(&machine.provider);
        let platform = provider.platform();
        let hardware: HardwareEvidence =
            tokio::task::spawn_blocking(move || provider.evidence(&report_data))
                .await
                .map_err(|e| ReleaseError::Setup(e.to_string()))??;
        let direction = Direction::Client;
        let parts = EnvelopeParts {
            platform,
            direction,
            hardware,
            context,
            batch: None,
            devices,
        };
        Envelope::build(parts).map_err(|e| ReleaseError::Setup(e.to_string()))
    }

    async fn post<A: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, ReleaseError> {
        let lost = |e: hyper::Error| ReleaseError::Lost(e.to_string());
        let body = strict_json::to_vec(body).map_err(|e| ReleaseError::Setup(e.to_string()))?;
        let request = http::Request::post(path)
            .header(http::header::HOST, &self.host)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| ReleaseError::Setup(e.to_string()))?;
        let sender = &mut self.sender;
        let exchange = async {
            sender.ready().await.map_err(lost)?;
            let answer = sender.send_request(request).await.map_err(lost)?;
            let status = answer.status();
            let bytes = Limited::new(answer.into_body(), wire::ANSWER_BYTES_MAX)
                .collect()
                .await;
            let bytes = bytes
                .map_err(|e| ReleaseError::Lost(e.to_string()))?
                .to_bytes();
            // The copy is wiped here, hyper's buffer by the allocator.
            Ok::<_, ReleaseError>((status, Zeroizing::new(bytes.to_vec())))
        };
        let (status, bytes) = within(exchange).await??;
        if status != http::StatusCode::OK {
            return Err(refusal(status, &bytes));
        }
        strict_json::from_slice(&bytes, wire::ANSWER_BYTES_MAX)
            .map_err(|e| ReleaseError::Malformed(e.to_string()))
    }
}

/// Bounds a wait for the broker.
async fn within<T>(future: impl Future<Output = T>) -> Result<T, ReleaseError> {
    tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), future)
        .await
        .map_err(|_| ReleaseError::Lost(format!("no answer for {ANSWER_SECONDS_MAX} s")))
}

fn refusal(status: http::StatusCode, bytes: &[u8]) -> ReleaseError {
    match serde_json::from_slice::<wire::ErrorAnswer>(bytes) {
        Ok(answer) => ReleaseError::Refused {
            code: answer.error.code,
            message: answer.error.message,
        },
        Err(_) => ReleaseError::Malformed(format!("status {status} without an error document")),
    }
}

fn keys_request(evidence: Vec<u8>, request: &ReleaseRequest) -> wire::KeysRequest {
    let package = |package: &PackageRequest| wire::Package {
        id: *package.id.as_bytes(),
        epoch: package.epoch,
        key_id: package.key_id.clone(),
        digest: package.digest,
    };
    let packages = request.packages.iter().map(package).collect();
    wire::KeysRequest {
        evidence,
        names: request.names.clone(),
        packages,
    }
}

fn read_answer(
    mut answer: wire::KeysAnswer,
    request: &ReleaseRequest,
    key_pem: &str,
) -> Result<Released, ReleaseError> {
    let malformed = |what: &str| ReleaseError::Malformed(what.to_owned());
    let mut keys = Vec::new();
    for (wanted, given) in request.packages.iter().zip(&mut answer.keys) {
        let key: &mut [u8; 32] = given
            .key
            .as_mut_slice()
            .try_into()
            .map_err(|_| malformed("a key is not 32 bytes"))?;
        if given.id != *wanted.id.as_bytes() {
            return Err(malformed("keys are not in the order of the request"));
        }
        keys.push((wanted.id, DataKey::from_bytes(key)));
    }
    if answer.keys.len() != request.packages.len() {
        return Err(malformed("not one key for each package"));
    }
    let (ledger_key, guard_floor) = read_guard(&answer.guard)?;
    let mark: &[u8; 32] = answer
        .mark
        .key
        .as_slice()
        .try_into()
        .map_err(|_| malformed("the key of marks is not 32 bytes"))?;
    let chain =
        CertificateDer::pem_slice_iter(answer.leaf.as_bytes()).collect::<Result<Vec<_>, _>>();
    let private_key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
    Ok(Released {
        leaf_chain: chain.map_err(|_| malformed("the leaf is not PEM"))?,
        private_key: private_key.map_err(|e| ReleaseError::Setup(e.to_string()))?,
        policy_bundle: std::mem::take(&mut answer.policy_bundle),
        revocations: std::mem::take(&mut answer.revocations),
        keys,
        mark: MarkRoot::new(*mark, answer.mark.epoch),
        tcb: None,
        ledger_key,
        guard_floor,
    })
}

fn read_guard(guard: &wire::GuardRelease) -> Result<(LedgerKey, Floor), ReleaseError> {
    let malformed = |what: &str| ReleaseError::Malformed(what.to_owned());
    let key: [u8; 32] = guard
        .key
        .as_slice()
        .try_into()
        .map_err(|_| malformed("the ledger's key is not 32 bytes"))?;
    let floor = guard.floor.floor();
    let floor = floor.ok_or_else(|| malformed("the guard's floor names no account"))?;
    Ok((LedgerKey::new(key), floor))
}

/// What this machine's own report says of its firmware: for policy to ask about, where the platform has such a report.
fn own_tcb(hardware: &HardwareEvidence) -> Option<TcbVersion> {
    match hardware {
        HardwareEvidence::Snp(evidence) => SnpReport::parse(&evidence.report)
            .ok()
            .map(|report| report.reported_tcb()),
        HardwareEvidence::Tdx(_) | HardwareEvidence::Tpm(_) => None,
    }
}

/// Rules P-10 and P-11: TLS 1.3 only, the hybrid group first, no resumption.
fn tls_config(
    broker: &BrokerAddress,
    leaf: &CertificateDer<'static>,
    key_pem: &str,
) -> Result<ClientConfig, ReleaseError> {
    let setup = |e: rustls::Error| ReleaseError::Setup(e.to_string());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(broker.authority.clone()).map_err(setup)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|e| ReleaseError::Setup(e.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![leaf.clone()], key)
        .map_err(setup)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(byte: u8) -> PackageRequest {
        PackageRequest {
            id: PackageId::from_bytes([byte; 16]),
            epoch: 1,
            key_id: "file:00".into(),
            digest: Sha256Digest::of(&[byte]),
        }
    }

    fn answer(keys: &[(u8, usize)]) -> wire::KeysAnswer {
        let key = |(id, length): &(u8, usize)| wire::KeyAnswer {
            id: [*id; 16],
            key: vec![*id; *length],
        };
        wire::KeysAnswer {
            leaf: String::new(),
            policy_bundle: Vec::new(),
            revocations: Vec::new(),
            keys: keys.iter().map(key).collect(),
            guard: wire::GuardRelease {
                key: vec![9; 32],
                floor: wire::GuardFloor::default(),
            },
            mark: wire::MarkAnswer {
                epoch: 1,
                key: vec![7; 32],
            },
        }
    }

    #[test]
    fn a_broker_must_answer_with_one_key_for_each_package_in_order() {
        let request = ReleaseRequest {
            names: Vec::new(),
            packages: vec![package(1), package(2)],
            configuration: Sha256Digest::of(b""),
        };
        let identity = authority::self_signed(1_790_000_000).unwrap();
        let read = |keys| read_answer(answer(keys), &request, &identity.key_pem);
        let released = read(&[(1, 32), (2, 32)]).unwrap();
        assert_eq!(released.keys[1].1.expose(), &[2; 32]);
        assert_eq!(format!("{released:?}"), "Released(..)");
        let key = format!("{:?}", answer(&[(1, 32)]).keys);
        assert_eq!(key, "[KeyAnswer(..)]");
        let wrong: [&[(u8, usize)]; 5] = [
            &[(2, 32), (1, 32)],
            &[(1, 32)],
            &[],
            &[(1, 32), (2, 32), (3, 32)],
            &[(1, 32), (2, 31)],
        ];
        for keys in wrong {
            let error = read(keys).unwrap_err();
            assert!(matches!(error, ReleaseError::Malformed(_)), "{error}");
        }
    }
}
