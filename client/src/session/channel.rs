//! HTTP over one TLS connection, the exporter of that same connection, and the one deadline that all its streams obey.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use casemate_attestation::ENVELOPE_BYTES_MAX;
use casemate_attestation::{EXPORTER_LABEL, Nonce, Sha256Digest};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::connector::Facts;
use super::wire;
use crate::error::ConnectError;
use crate::records::filled_to;

/// The longest answer is an envelope; an error document has far less.
const ANSWER_BYTES_MAX: usize = ENVELOPE_BYTES_MAX;
/// A silent peer is noticed after the sum of these.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_LIMIT: Duration = Duration::from_secs(10);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// What a request carries.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// A request without a body.
#[must_use]
pub fn empty_body() -> RequestBody {
    Empty::new().map_err(infallible).boxed_unsync()
}

/// A request whose body is at hand.
#[must_use]
pub fn full_body(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into()).map_err(infallible).boxed_unsync()
}

fn infallible(never: Infallible) -> BoxError {
    match never {}
}

/// Why an answer broke off. A caller must be able to see that it did (attack S1).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection ended before the answer did.
    #[error("answer was cut off: {0}")]
    CutOff(#[from] hyper::Error),
    /// The session ended before the answer did.
    #[error("answer was cut off at the session's deadline")]
    Stale,
}

enum Sender {
    Http2(http2::SendRequest<RequestBody>),
    Http1(tokio::sync::Mutex<http1::SendRequest<RequestBody>>),
}

/// One TLS connection with HTTP on it. Requests leave through an `AttestedConnection` only.
pub(super) struct Channel {
    sender: Sender,
    tls: SharedTls,
    server_leaf: Sha256Digest,
    server_name: String,
    authority: HeaderValue,
    facts: Facts,
    deadline: Arc<Deadline>,
}

impl Channel {
    /// Starts HTTP on a finished handshake, by what ALPN agreed on, in records of a multiple of `fill_to` bytes.
    pub(super) async fn open(
        stream: TlsStream<TcpStream>,
        server_name: &str,
        authority: &str,
        fill_to: usize,
    ) -> Result<Arc<Self>, ConnectError> {
        let facts = Facts::of(&stream);
        let leaf = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first());
        let none = ConnectError::Tls(rustls::Error::NoCertificatesPresented);
        let server_leaf = Sha256Digest::of(leaf.ok_or(none)?);
        let tls = SharedTls::new(stream, fill_to);
        let io = TokioIo::new(tls.clone());
        let lost = |e: hyper::Error| tls.lost(&e);
        let sender = if facts.http2 {
            let (sender, driver) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_LIMIT)
                .handshake(io)
                .await
                .map_err(lost)?;
            tokio::spawn(driver);
            Sender::Http2(sender)
        } else {
            let (sender, driver) = http1::handshake(io).await.map_err(lost)?;
            tokio::spawn(driver);
            Sender::Http1(tokio::sync::Mutex::new(sender))
        };
        let authority = HeaderValue::from_str(authority)
            .map_err(|_| ConnectError::Lost("server name is not a header value".into()))?;
        let deadline = Arc::new(Deadline::passed());
        let server_name = server_name.to_owned();
        Ok(Arc::new(Self {
            sender,
            tls,
            server_leaf,
            server_name,
            authority,
            facts,
            deadline,
        }))
    }

    /// The exporter of rule P-21 for `nonce`.
    pub(super) fn exporter(&self, nonce: Nonce) -> Result<[u8; 32], ConnectError> {
        let stream = self.tls.lock();
        let (_, tls) = stream.get_ref();
        tls.export_keying_material([0; 32], EXPORTER_LABEL, Some(nonce.as_bytes()))
            .map_err(ConnectError::Tls)
    }

    /// SHA-256 of the certificate that the handshake verified.
    pub(super) const fn server_leaf(&self) -> Sha256Digest {
        self.server_leaf
    }

    /// The name that the handshake verified.
    pub(super) fn server_name(&self) -> &str {
        &self.server_name
    }

    pub(super) const fn facts(&self) -> Facts {
        self.facts
    }

    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http2(sender) => sender.is_closed(),
            // A sender that somebody is using is open as far as anybody knows.
            Sender::Http1(sender) => sender.try_lock().is_ok_and(|sender| sender.is_closed()),
        }
    }

    pub(super) fn is_stale(&self) -> bool {
        self.deadline.is_past()
    }

    /// Moves the deadline to `life` from now.
    pub(super) fn lives_for(&self, life: Duration) {
        self.deadline.set(life);
    }

    /// One step of an attestation: posts JSON and collects the small answer.
    pub(super) async fn ask(
        &self,
        path: &'static str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Bytes, ConnectError> {
        let work = async {
            let mut request = Request::new(full_body(body));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = Uri::from_static(path);
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
            let (head, body) = self.dispatch(request).await?.into_parts();
            let bytes = collect(body, ANSWER_BYTES_MAX).await?;
            match head.status {
                StatusCode::OK => Ok(bytes),
                status => Err(wire::declined(path, status.as_u16(), &bytes)),
            }
        };
        let late = ConnectError::TimedOut {
            what: path,
            limit_s: limit.as_secs(),
        };
        tokio::time::timeout(limit, work).await.unwrap_or(Err(late))
    }

    /// Sends one request; the answer obeys the deadline.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<AnswerBody>, ConnectError> {
        let deadline = self.deadline.clone();
        Ok(self.dispatch(request).await?.map(|body| AnswerBody {
            wake: Box::pin(tokio::time::sleep(deadline.left())),
            body,
            deadline,
        }))
    }

    /// Names this server in the request, whatever the caller wrote there (attack S11), and sends it.
    async fn dispatch(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, ConnectError> {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let lost = |e: hyper::Error| self.tls.lost(&e);
        match &self.sender {
            Sender::Http2(sender) => {
                let authority = self.authority.to_str().unwrap_or_default();
                let uri = Uri::builder()
                    .scheme("https")
                    .authority(authority)
                    .path_and_query(path);
                *request.uri_mut() = uri.build().map_err(|e| ConnectError::Lost(e.to_string()))?;
                request.headers_mut().remove(header::HOST);
                let mut sender = sender.clone();
                sender.ready().await.map_err(lost)?;
                sender.send_request(request).await.map_err(lost)
            }
            Sender::Http1(sender) => {
                *request.uri_mut() = path
                    .parse()
                    .map_err(|_| ConnectError::Lost("path is not a URI".into()))?;
                request
                    .headers_mut()
                    .insert(header::HOST, self.authority.clone());
                // One request at a time: the lock is free again when the answer's head is here, and the next sender waits
                // in `ready` until this answer's body has been read.
                let mut sender = sender.lock().await;
                sender.ready().await.map_err(lost)?;
                sender.send_request(request).await.map_err(lost)
            }
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.server_name)
    }
}

/// Collects a small body.
pub(super) async fn collect<B>(body: B, limit: usize) -> Result<Bytes, ConnectError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ConnectError::Lost(format!(
            "an answer is longer than {limit} bytes"
        ))),
        Err(error) => Err(ConnectError::from_http(error.as_ref())),
    }
}

/// An instant that can be moved while streams look at it.
#[derive(Debug)]
struct Deadline {
    born: Instant,
    life_ms: AtomicU64,
}

impl Deadline {
    fn passed() -> Self {
        Self {
            born: Instant::now(),
            life_ms: AtomicU64::new(0),
        }
    }

    fn set(&self, life: Duration) {
        let end = match life.is_zero() {
            true => Duration::ZERO,
            false => self.born.elapsed().saturating_add(life),
        };
        self.life_ms.store(
            u64::try_from(end.as_millis()).unwrap_or(u64::MAX),
            Ordering::SeqCst,
        );
    }

    fn left(&self) -> Duration {
        let end = Duration::from_millis(self.life_ms.load(Ordering::SeqCst));
        end.saturating_sub(self.born.elapsed())
    }

    fn is_past(&self) -> bool {
        self.left().is_zero()
    }
}

/// An answer's body. It ends cleanly only when the server ended it, and breaks off at the session's deadline.
#[derive(Debug)]
pub struct AnswerBody {
    body: Incoming,
    deadline: Arc<Deadline>,
    wake: Pin<Box<tokio::time::Sleep>>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.deadline.is_past() {
            return Poll::Ready(Some(Err(BodyError::Stale)));
        }
        // A silent answer must break off at the deadline as well, and the deadline may have moved meanwhile.
        while self.wake.as_mut().poll(context).is_ready() {
            let left = self.deadline.left();
            if left.is_zero() {
                return Poll::Ready(Some(Err(BodyError::Stale)));
            }
            self.wake.set(tokio::time::sleep(left));
        }
        Pin::new(&mut self.body)
            .poll_frame(context)
            .map_err(BodyError::CutOff)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The stream that HTTP reads and writes, and of which the exporter is asked for again at each attestation. It remembers why
/// TLS failed: HTTP/2 keeps no cause, and a server refuses a client's certificate only after the client's own handshake.
#[derive(Clone)]
struct SharedTls(Arc<Shared>);

struct Shared {
    stream: Mutex<TlsStream<TcpStream>>,
    fault: OnceLock<rustls::Error>,
    fill_to: usize,
}

impl SharedTls {
    fn new(stream: TlsStream<TcpStream>, fill_to: usize) -> Self {
        Self(Arc::new(Shared {
            stream: Mutex::new(stream),
            fault: OnceLock::new(),
            fill_to,
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TlsStream<TcpStream>> {
        self.0.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `error` comes from.
    fn lost(&self, error: &hyper::Error) -> ConnectError {
        match self.0.fault.get() {
            Some(fault) => ConnectError::from_tls(fault.clone()),
            None => ConnectError::from_http(error),
        }
    }

    fn noted<T>(&self, result: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result
            && let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref())
        {
            // Only the first fault counts.
            let _ = self.0.fault.set(rustls::Error::clone(fault));
        }
        result
    }
}

impl AsyncRead for SharedTls {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut *self.lock()).poll_read(context, buffer);
        self.noted(read)
    }
}

impl AsyncWrite for SharedTls {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut stream = self.lock();
        let written = filled_to(self.0.fill_to, || {
            Pin::new(&mut *stream).poll_write(context, bytes)
        });
        drop(stream);
        self.noted(written)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut *self.lock()).poll_flush(context);
        self.noted(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(context)
    }
}
