//! A TLS connection whose exporter stays within reach after HTTP took the stream: rustls 0.23 gives no exporter object of
//! its own. The lock is held for one poll or one export at a time. Where the connection's [`Records`] say so, everything
//! that is written leaves in records of one size.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use casemate_attestation::{EXPORTER_LABEL, Nonce};
use casemate_client::records::{RECORD_BYTES, filled_to};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::TlsError;

type Inner = Mutex<TlsStream<TcpStream>>;

/// Whether the records of a connection have one size.
#[derive(Debug, Default)]
pub struct Records(AtomicBool);

impl Records {
    /// From the next write on they do, or do not.
    pub fn even(&self, even: bool) {
        self.0.store(even, Ordering::SeqCst);
    }
}

/// The stream for HTTP. Dropping it closes the connection, whoever still holds an [`Exporter`].
pub struct SharedTls {
    inner: Arc<Inner>,
    records: Arc<Records>,
}

/// Takes exporter values from one connection while that connection lives.
#[derive(Clone)]
pub struct Exporter(Weak<Inner>);

impl SharedTls {
    /// Wraps a stream whose handshake is complete.
    pub fn new(stream: TlsStream<TcpStream>) -> Self {
        Self {
            inner: Arc::new(Mutex::new(stream)),
            records: Arc::default(),
        }
    }

    /// The size of what is written from now on.
    pub fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records)
    }

    /// The handle for exporter values.
    pub fn exporter(&self) -> Exporter {
        Exporter(Arc::downgrade(&self.inner))
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
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn are_even(&self) -> bool {
        self.records.0.load(Ordering::SeqCst)
    }

    /// Writes at most one record's content, as one record.
    fn poll_write_record(&self, cx: &mut Context<'_>, content: &[u8]) -> Poll<io::Result<usize>> {
        let content = content.get(..RECORD_BYTES).unwrap_or(content);
        let mut stream = self.lock();
        filled_to(RECORD_BYTES, || {
            Pin::new(&mut *stream).poll_write(cx, content)
        })
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
        if self.are_even() && !buf.is_empty() {
            return self.poll_write_record(cx, buf);
        }
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
        if self.are_even() && bufs.iter().any(|buf| !buf.is_empty()) {
            let bytes = bufs.iter().flat_map(|buf| buf.iter().copied());
            let content: Vec<u8> = bytes.take(RECORD_BYTES).collect();
            return self.poll_write_record(cx, &content);
        }
        Pin::new(&mut *self.lock()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().is_write_vectored()
    }
}
