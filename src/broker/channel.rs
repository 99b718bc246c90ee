//! A TLS stream that can be asked for its exporter while HTTP runs over it (rule P-21).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use casemate_attestation::{EXPORTER_LABEL, Nonce, Sha256Digest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// One TLS connection, held by HTTP and by whoever computes bindings. The lock is never held across a wait.
#[derive(Clone)]
pub(super) struct Channel {
    stream: Arc<Mutex<TlsStream<TcpStream>>>,
}

impl Channel {
    pub(super) fn new(stream: impl Into<TlsStream<TcpStream>>) -> Self {
        Self {
            stream: Arc::new(Mutex::new(stream.into())),
        }
    }

    /// The exporter of this connection for `nonce`.
    pub(super) fn exporter(&self, nonce: &Nonce) -> Result<[u8; 32], rustls::Error> {
        let context = Some(nonce.as_bytes().as_slice());
        match &*self.lock() {
            TlsStream::Client(stream) => {
                stream
                    .get_ref()
                    .1
                    .export_keying_material([0; 32], EXPORTER_LABEL, context)
            }
            TlsStream::Server(stream) => {
                stream
                    .get_ref()
                    .1
                    .export_keying_material([0; 32], EXPORTER_LABEL, context)
            }
        }
    }

    /// The peer's leaf certificate as DER.
    pub(super) fn peer_leaf(&self) -> Option<Vec<u8>> {
        let stream = self.lock();
        let (_, connection) = stream.get_ref();
        Some(connection.peer_certificates()?.first()?.to_vec())
    }

    /// SHA-256 of the peer's leaf certificate.
    pub(super) fn peer_leaf_digest(&self) -> Option<Sha256Digest> {
        self.peer_leaf().map(|leaf| Sha256Digest::of(&leaf))
    }

    fn lock(&self) -> MutexGuard<'_, TlsStream<TcpStream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(context, buffer)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(context)
    }
}
