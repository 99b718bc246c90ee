//! Holds keys, fleet list and policy; releases them to attested servers only (DESIGN section 5, rules P-50 to P-53).
//!
//! A connection meets these modules in this order: `possession` at the handshake, `service` for its calls,
//! `release` for the decision with `documents` and `store`, `record` before anything leaves. [`client`] is the other end.

mod channel;
pub mod client;
pub mod config;
mod documents;
mod guard;
mod possession;
mod record;
mod refusal;
mod release;
mod service;
mod store;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "test-chip")]
use casemate_attestation::nvidia::PinnedGpuRoot;
use casemate_attestation::{Platform, Sha256Digest, TrustAnchors};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

pub use config::BrokerConfig;
pub use refusal::Refusal;
pub use store::StoreError;

use crate::audit::{AuditError, AuditLog, Durability};
use crate::org::{OrgError, Organisation};
use crate::tls::{self, TlsError};
use channel::Channel;
use possession::Possession;
use record::Recorder;
use release::Desk;
use service::{Connection, Shared};
use store::Store;

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The organisation's folder.
    #[error(transparent)]
    Organisation(#[from] OrgError),
    /// The store: it fails closed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit file.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Certificate or key of the broker.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nothing could be released now, so starting would only hide it.
    #[error("the broker could release nothing: {0}")]
    NotReady(Refusal),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// A broker that is ready and listens; [`serve`](Self::serve) answers.
pub struct Broker {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    config: BrokerConfig,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Broker(..)")
    }
}

/// Makes the broker's store and witness, once (`Store::create`).
///
/// # Errors
/// When there is a store, or the organisation's folder is damaged.
pub fn create_state(config: &BrokerConfig) -> Result<(), BrokerError> {
    let organisation = Organisation::open(&config.organisation)?;
    Ok(Store::create(
        &config.state,
        &config.witness,
        &organisation.kek()?,
    )?)
}

impl Broker {
    /// Opens everything, checks that something could be released, and listens.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn start(config: BrokerConfig) -> Result<Self, BrokerError> {
        let organisation = Organisation::open(&config.organisation)?;
        let kek = Box::new(organisation.kek()?);
        let store = Store::open(&config.state, &config.witness, &*kek)?;
        let log = AuditLog::open(&config.audit, Durability::Disk)?;
        let recorder = Recorder::new(log);
        let anchors = anchors(&organisation, config.platform)?;
        let (certificate, key) = organisation.broker_identity()?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|e| TlsError::Certificate(e.to_string()))?;
        let server_leaf = Sha256Digest::of(&certificate);
        let possession = Possession::new(tls::provider());
        let mut tls_config = tls::server_config(vec![certificate], key, possession)?;
        tls_config.alpn_protocols = vec![b"http/1.1".to_vec()];

        let desk = Desk::new(organisation, anchors, kek, store);
        desk.ready(service::now()).map_err(BrokerError::NotReady)?;
        let request_timeout = Duration::from_secs(config.limits.request_seconds.into());
        let shared = Arc::new(Shared {
            desk,
            recorder,
            server_leaf,
            request_timeout,
        });
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| BrokerError::Listen { address, source })?;
        Ok(Self {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(tls_config)),
            shared,
            config,
        })
    }

    /// The address in use; the port is the real one where the configuration says 0.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers for ever. A permit is taken before a connection is accepted, so that the number is bounded.
    pub async fn serve(self) {
        let limits = self.config.limits;
        let permits = Arc::new(Semaphore::new(limits.connections as usize));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or a peer that left at once: neither ends the broker.
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (acceptor, shared) = (self.acceptor.clone(), Arc::clone(&self.shared));
            let patience = Duration::from_secs(limits.unattested_seconds.into());
            tokio::spawn(async move {
                attend(stream, acceptor, shared, patience).await;
                drop(permit);
            });
        }
    }
}

/// One connection, from handshake to end. A peer that does not attest in time is dropped.
async fn attend(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>, patience: Duration) {
    // Small answers, one after the other: waiting to fill a segment only delays them.
    let _ = stream.set_nodelay(true);
    let request_timeout = shared.request_timeout;
    let stream = match tokio::time::timeout(request_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "handshake failed"),
        Err(_) => return tracing::debug!("handshake took too long"),
    };
    let channel = Channel::new(stream);
    let Some(client_leaf) = channel.peer_leaf() else {
        return;
    };
    let connection = Connection::new(shared, channel.clone(), client_leaf);
    let service = hyper::service::service_fn(|request| {
        let connection = Arc::clone(&connection);
        async { Ok::<_, std::convert::Infallible>(connection.answer(request).await) }
    });
    let http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(channel), service);
    let impatience = async {
        tokio::time::sleep(patience).await;
        while connection.attested() {
            tokio::time::sleep(patience).await;
        }
    };
    tokio::select! {
        end = http => if let Err(error) = end { tracing::debug!(%error, "connection ended") },
        () = impatience => tracing::debug!("no attestation in time"),
    }
}

/// Configuration chooses whose evidence counts; evidence never does (rule P-31).
fn anchors(organisation: &Organisation, platform: Platform) -> Result<TrustAnchors, OrgError> {
    match platform {
        #[cfg(feature = "test-chip")]
        Platform::TestChip => {
            let anchors = TrustAnchors::test_chip(&organisation.test_chip_root()?);
            let gpus = PinnedGpuRoot::private(&organisation.test_gpu_root()?);
            Ok(anchors.with_private_gpu_root(gpus))
        }
        platform => TrustAnchors::production(platform)
            .ok_or_else(|| OrgError::NoTestChip(organisation.folder().to_owned())),
    }
}
