//! The transport (rules P-10 to P-12): TLS 1.3 only, hybrid key exchange first, both sides with certificates, no
//! resumption, no early data, and no server leaf that lives longer than a day.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::error::ConnectError;
use crate::identity::Identity;
use crate::records;

/// The longest life of a server's leaf, seconds (rule P-12).
pub const SERVER_LEAF_LIFE_S_MAX: i64 = 24 * 60 * 60;

/// Why a leaf that chains to the enclave CA is refused all the same (rule P-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// Its life cannot be read.
    #[error("leaf is malformed")]
    Malformed,
    /// Attack A12: longer than a day.
    #[error("leaf lives {life_s} s, at most {SERVER_LEAF_LIFE_S_MAX} s are allowed (P-12)")]
    LivesTooLong {
        /// From not-before to not-after, seconds.
        life_s: i64,
    },
}

/// What this product negotiates, whatever the process's default may be.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = records::provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519];
    Arc::new(provider)
}

/// Opens TLS connections to one server name under one enclave CA with one identity.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsClient {
    /// A client that trusts exactly `roots`, the organisation's enclave CA.
    ///
    /// # Errors
    /// [`ConnectError::Tls`] when a root is unusable or there is none.
    pub fn new(
        roots: Vec<CertificateDer<'static>>,
        identity: &Identity,
        name: ServerName<'static>,
    ) -> Result<Self, ConnectError> {
        let provider = provider();
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root).map_err(ConnectError::Tls)?;
        }
        let chain = WebPkiServerVerifier::builder_with_provider(store.into(), provider.clone())
            .build()
            .map_err(|e| ConnectError::Tls(rustls::Error::General(e.to_string())))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(ConnectError::Tls)?
            // Adds a rule to the library's verifier and takes none away.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ShortLived { chain }))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// The name that the server's certificate must carry.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.to_str().into_owned()
    }

    /// Connects to `address` (host and port) within `limit`.
    ///
    /// # Errors
    /// [`ConnectError`] says whether the way, the server's certificate or this client's was the trouble.
    pub async fn connect(
        &self,
        address: &str,
        limit: Duration,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let work = async {
            let unreachable = |source| ConnectError::Unreachable {
                server: address.to_owned(),
                source,
            };
            let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
            tcp.set_nodelay(true).map_err(unreachable)?;
            TlsConnector::from(self.config.clone())
                .connect(self.name.clone(), tcp)
                .await
                .map_err(|e| ConnectError::from_io(&e))
        };
        let late = ConnectError::TimedOut {
            what: "connecting",
            limit_s: limit.as_secs(),
        };
        tokio::time::timeout(limit, work).await.unwrap_or(Err(late))
    }
}

/// The library's chain and name checks, and then rule P-12.
#[derive(Debug)]
struct ShortLived {
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for ShortLived {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        check_life(end_entity).map_err(|e| CertificateError::Other(OtherError(Arc::new(e))))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn check_life(leaf: &CertificateDer<'_>) -> Result<(), LeafError> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| LeafError::Malformed)?;
    let validity = parsed.validity();
    let life_s = validity
        .not_after
        .timestamp()
        .saturating_sub(validity.not_before.timestamp());
    if life_s > SERVER_LEAF_LIFE_S_MAX {
        return Err(LeafError::LivesTooLong { life_s });
    }
    Ok(())
}
