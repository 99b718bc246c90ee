//! A TLS connection whose exporter stays within reach after HTTP took the stream: rustls 0.23 gives no exporter object of
//! its own. The lock is held for one poll or one export at a time.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use casemate_attestation::{EXPORTER_LABEL, Nonce};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::TlsError;

type Inner = Mutex<TlsStream<TcpStream>>;

/// The stream for HTTP. Dropping it closes the connection, whoever still holds an [`Exporter`].
pub struct SharedTls(Arc<Inner>);

/// Takes exporter values from one connection while that connection lives.
#[derive(Clone)]
pub struct Exporter(Weak<Inner>);

impl SharedTls {
    /// Wraps a stream whose handshake is complete.
    pub fn new(stream: TlsStream<TcpStream>) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// The handle for exporter values.
    pub fn exporter(&self) -> Exporter {
        Exporter(Arc::downgrade(&self.0))
    }

    /// The leaf that the peer proved to hold.
    pub fn peer_leaf(&self) -> Option<CertificateDer<'static>> {
        let stream = self.lock();
        let (_, tls) = stream.get_ref();
        tls.peer_certificates()?
            .first()
            .map(|leaf| leaf.clone().into_owned())
    }

    /// Whether the peer chose HTTP/2 by ALPN.
    pub fn speaks_h2(&self) -> bool {
        self.lock().get_ref().1.alpn_protocol() == Some(b"h2")
    }

    fn lock(&self) -> MutexGuard<'_, TlsStream<TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exporter {
    /// The connection's 32 exporter bytes for `nonce` (P-21).
    ///
    /// # Errors
    /// [`TlsError::NoExporter`] once the connection is gone.
    pub fn export(&self, nonce: &Nonce) -> Result<[u8; 32], TlsError> {
        let shared = self.0.upgrade().ok_or(TlsError::NoExporter)?;
        let stream = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, tls) = stream.get_ref();
        tls.export_keying_material([0; 32], EXPORTER_LABEL, Some(nonce.as_bytes()))
            .map_err(|_| TlsError::NoExporter)
    }
}

impl AsyncRead for SharedTls {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedTls {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().is_write_vectored()
    }
}
