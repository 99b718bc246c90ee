//! From a configuration to an attested connection: everything that is read from files is read here, once, except the signed
//! documents, which are read anew for every attestation.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use casemate_attestation::{Platform, UnixTime};
use rustls::NamedGroup;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::channel::Channel;
use super::{AttestedConnection, Connected, OwnEvidence, Terms};
use crate::config::{Config, ExpectSection};
use crate::error::ConnectError;
use crate::identity::Identity;
use crate::records::RECORD_BYTES;
use crate::tls::{self, TlsClient};
use crate::trust::{self, Appraiser, Trust};

/// What was negotiated, for a check line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The key exchange group, when the library names it.
    pub group: Option<NamedGroup>,
    /// HTTP/2, or else HTTP/1.1.
    pub http2: bool,
}

impl Facts {
    pub(super) fn of(stream: &TlsStream<TcpStream>) -> Self {
        let (_, tls) = stream.get_ref();
        Self {
            group: tls
                .negotiated_key_exchange_group()
                .map(|group| group.name()),
            http2: tls.alpn_protocol() == Some(b"h2"),
        }
    }
}

/// Makes attested connections to one server.
#[derive(Debug)]
pub struct Connector {
    tls: TlsClient,
    address: String,
    authority: String,
    connect_limit: Duration,
    pads_requests: bool,
    trust: Trust,
    terms: Arc<Terms>,
}

impl Connector {
    /// Reads identity, CA, release key and roots.
    ///
    /// # Errors
    /// [`ConnectError`] names the file that is wrong.
    pub fn new(config: &Config, path: &Path) -> Result<Self, ConnectError> {
        let trust = Trust::load(&config.trust, path)?;
        let (certificate, key) = (&config.identity.certificate, &config.identity.key);
        let identity = Identity::load(certificate, key, &tls::provider())?;
        let roots = trust::certificates(&config.trust.enclave_ca)?;
        let name = config.name();
        let server_name = name
            .to_server_name()
            .map_err(|e| ConnectError::Tls(rustls::Error::General(e)))?;
        let tls = TlsClient::new(roots, &identity, server_name)?;
        let terms = Terms {
            identity,
            own_evidence: None,
            expect: config.expect.clone(),
            step_limit: config.limits.attest_s.duration(),
            life_max: config.limits.session_life_s_max.duration(),
        };
        Ok(Self {
            tls,
            address: config.server.address(),
            authority: config.server.authority(name),
            connect_limit: config.limits.connect_s.duration(),
            pads_requests: config.pad_requests,
            trust,
            terms: Arc::new(terms),
        })
    }

    /// Adds evidence of this machine to every confirmation.
    #[must_use]
    pub fn with_own_evidence(mut self, own: OwnEvidence) -> Self {
        let terms = &self.terms;
        self.terms = Arc::new(Terms {
            identity: terms.identity.clone(),
            own_evidence: Some(own),
            expect: terms.expect.clone(),
            step_limit: terms.step_limit,
            life_max: terms.life_max,
        });
        self
    }

    /// Host and port of the server.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The name that the server must prove.
    #[must_use]
    pub fn server_name(&self) -> String {
        self.tls.name()
    }

    /// Whether requests are filled up.
    #[must_use]
    pub const fn pads_requests(&self) -> bool {
        self.pads_requests
    }

    /// What this client pins.
    #[must_use]
    pub fn expect(&self) -> &ExpectSection {
        &self.terms.expect
    }

    /// Under which platform evidence must come.
    #[must_use]
    pub fn platform(&self) -> Platform {
        self.trust.platform()
    }

    /// Opens the signed documents as they are now.
    ///
    /// # Errors
    /// [`ConnectError::Trust`].
    pub fn appraiser(&self, now: UnixTime) -> Result<Appraiser, ConnectError> {
        Ok(self.trust.appraiser(now)?)
    }

    /// TCP and TLS, and nothing sent yet.
    ///
    /// # Errors
    /// [`ConnectError`] says which side's certificate or which part of the way was the trouble.
    pub async fn connect(&self) -> Result<Connected, ConnectError> {
        self.terms.identity.in_force(now())?;
        let stream = self.tls.connect(&self.address, self.connect_limit).await?;
        let fill_to = if self.pads_requests { RECORD_BYTES } else { 0 };
        let channel = Channel::open(stream, &self.tls.name(), &self.authority, fill_to).await?;
        Ok(Connected {
            channel,
            terms: self.terms.clone(),
        })
    }

    /// The whole way: connect, challenge, verify, confirm.
    ///
    /// # Errors
    /// [`ConnectError`] names the step and the check.
    pub async fn attest(&self) -> Result<AttestedConnection, ConnectError> {
        let verifier = self.appraiser(now())?.verifier;
        let challenged = self.connect().await?.challenge().await?;
        challenged.verify(&verifier, now())?.confirm(now()).await
    }

    /// Attests again on `connection` (rule P-43) with the documents as they are now.
    ///
    /// # Errors
    /// As [`Connector::attest`].
    pub async fn attest_again(
        &self,
        connection: &AttestedConnection,
    ) -> Result<AttestedConnection, ConnectError> {
        self.terms.identity.in_force(now())?;
        let verifier = self.appraiser(now())?.verifier;
        connection.attest_again(&verifier, now()).await
    }
}

/// This machine's time. A time before 1970 becomes the epoch, at which no document is in force.
#[must_use]
pub fn now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}
