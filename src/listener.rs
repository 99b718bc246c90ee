//! Accepts connections: a permit before each accept, a deadline on each handshake, one task per connection. A connection
//! that panics, stalls or floods ends alone; the others do not notice.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use casemate_attestation::Sha256Digest;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::tls::{self, Exporter, IdentitySlot, Records, SharedTls};

/// What cuts a body off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bounds of the listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections open at once, handshakes included.
    pub connections_max: usize,
    /// Seconds for the TLS handshake.
    pub handshake_s_max: u64,
    /// Seconds that a connection may go without a request under way, until its handler allows more.
    pub idle_s_max: u64,
    /// Requests at once on one HTTP/2 connection.
    pub streams_max: u32,
    /// Bytes of request headers.
    pub header_bytes_max: u32,
    /// Seconds for requests under way when the server stops.
    pub drain_s_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            handshake_s_max: 10,
            idle_s_max: 30,
            streams_max: 64,
            header_bytes_max: 16 * 1024,
            drain_s_max: 10,
        }
    }
}

/// What the listener knows of the other side of a connection, all of it proven by the handshake but the address.
pub struct Peer {
    /// Where the connection comes from, as the host's network says.
    pub address: SocketAddr,
    /// The client's leaf certificate.
    pub leaf: CertificateDer<'static>,
    /// SHA-256 of the server's leaf on this connection.
    pub server_leaf_digest: Sha256Digest,
    /// Exporter values of this connection.
    pub exporter: Exporter,
    /// Ends the connection.
    pub line: Arc<Line>,
    /// The size of what is written to it.
    pub records: Arc<Records>,
}

/// Serves the requests of the connections that a listener accepts.
pub trait Handler: Send + Sync + 'static {
    /// State of one connection.
    type Connection: Send + Sync + 'static;
    /// Body of the answers.
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static;

    /// Makes the state of a new connection; `None` closes it.
    fn open(&self, peer: Peer) -> Option<Self::Connection>;

    /// Hears of a handshake that failed; `reason` is a code of [`tls::refusal_code`].
    fn refused(&self, reason: &'static str);

    /// Answers one request.
    fn handle(
        self: Arc<Self>,
        connection: Arc<Self::Connection>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Handle on an open connection: ends it at once, and tells whether it is idle.
#[derive(Debug)]
pub struct Line {
    closed: watch::Sender<Option<&'static str>>,
    in_flight: AtomicUsize,
    idle_s_max: AtomicU64,
    since: Mutex<Instant>,
}

impl Line {
    /// A line that may idle for `idle_s_max` seconds.
    pub fn new(idle_s_max: u64) -> Arc<Self> {
        Arc::new(Self {
            closed: watch::Sender::new(None),
            in_flight: AtomicUsize::new(0),
            idle_s_max: AtomicU64::new(idle_s_max),
            since: Mutex::new(Instant::now()),
        })
    }

    /// Ends the connection now; answers under way are cut off. `reason` is a word for the audit log; the first one counts.
    pub fn close(&self, reason: &'static str) {
        self.closed.send_modify(|closed| {
            closed.get_or_insert(reason);
        });
    }

    /// Why [`Line::close`] was called, if it was.
    pub fn closed_because(&self) -> Option<&'static str> {
        *self.closed.borrow()
    }

    /// Returns once the line was closed.
    pub async fn closed(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.closed.subscribe().wait_for(Option::is_some).await;
    }

    /// From now on the connection may idle for `seconds`.
    pub fn allow_idle(&self, seconds: u64) {
        self.idle_s_max.store(seconds, Ordering::Relaxed);
    }

    fn begin(self: &Arc<Self>) -> Busy {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// How long the connection may still idle, or `None` once its time is over.
    fn idle_left(&self) -> Option<Duration> {
        let max = Duration::from_secs(self.idle_s_max.load(Ordering::Relaxed));
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return Some(max);
        }
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        max.checked_sub(since.elapsed())
            .filter(|left| !left.is_zero())
    }

    async fn idled(&self) {
        while let Some(left) = self.idle_left() {
            sleep(left.min(Duration::from_secs(5))).await;
        }
    }
}

/// One request under way on a line.
struct Busy(Arc<Line>);

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts and serves until `stop` becomes true, then lets requests under way finish within the drain limit.
pub async fn serve<H: Handler>(
    socket: TcpListener,
    identities: Arc<IdentitySlot>,
    limits: Limits,
    handler: Arc<H>,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            Some((permit, socket.accept().await))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                note_end(ended);
                continue;
            }
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Some((permit, accepted)) = accepted else {
            break;
        };
        match accepted {
            Ok((stream, address)) => {
                let identity = Arc::clone(&identities);
                let (limits, handler, stop) = (limits.clone(), Arc::clone(&handler), stop.clone());
                connections.spawn(async move {
                    let _permit: OwnedSemaphorePermit = permit;
                    connection(stream, address, &identity, &limits, handler, stop).await;
                });
            }
            // Out of descriptors, or the peer left already: wait a moment instead of spinning.
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(socket);
    drain(connections, &limits).await;
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        tracing::error!("a connection's task panicked; the others go on");
    }
}

async fn drain(mut connections: JoinSet<()>, limits: &Limits) {
    let all = async { while connections.join_next().await.is_some() {} };
    // Whatever is left after the deadline is aborted when the set is dropped.
    let _ = timeout(Duration::from_secs(limits.drain_s_max), all).await;
}

async fn connection<H: Handler>(
    stream: TcpStream,
    address: SocketAddr,
    identities: &IdentitySlot,
    limits: &Limits,
    handler: Arc<H>,
    mut stop: watch::Receiver<bool>,
) {
    // Each write is to leave when it is made: cells of an answer are timed. Without it they would only wait for each other.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "small writes may wait for each other");
    }
    let identity = identities.current();
    let handshake = TlsAcceptor::from(identity.config()).accept(stream);
    let tls = match timeout(Duration::from_secs(limits.handshake_s_max), handshake).await {
        Ok(Ok(tls)) => SharedTls::new(tls),
        Ok(Err(error)) => {
            tracing::info!(%address, %error, "handshake refused");
            return handler.refused(tls::refusal_code(&error));
        }
        Err(_) => {
            tracing::info!(%address, "handshake took too long");
            return handler.refused("handshake_too_slow");
        }
    };
    let line = Line::new(limits.idle_s_max);
    let Some(leaf) = tls.peer_leaf() else { return };
    let (exporter, records, h2) = (tls.exporter(), tls.records(), tls.speaks_h2());
    let server_leaf_digest = identity.leaf_digest();
    let peer = Peer {
        address,
        leaf,
        server_leaf_digest,
        exporter,
        line: Arc::clone(&line),
        records,
    };
    let Some(state) = handler.open(peer) else {
        return;
    };
    let state = Arc::new(state);
    let service = service_fn(|request| {
        let (handler, state, busy) = (Arc::clone(&handler), Arc::clone(&state), line.begin());
        async move {
            let answer = handler.handle(state, request).await;
            Ok::<_, std::convert::Infallible>(answer.map(|body| Counted { body, _busy: busy }))
        }
    });
    let builder = http(limits, h2);
    let served = builder.serve_connection(TokioIo::new(tls), service);
    tokio::pin!(served);
    tokio::select! {
        _ = served.as_mut() => return,
        () = line.closed() => return,
        () = line.idled() => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    served.as_mut().graceful_shutdown();
    tokio::select! {
        _ = timeout(Duration::from_secs(limits.drain_s_max), served) => {}
        () = line.closed() => {}
    }
}

fn http(limits: &Limits, h2: bool) -> auto::Builder<TokioExecutor> {
    // ALPN decided, so there is no preface to wait for.
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if h2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    };
    // hyper's own header timeout also ends connections that merely idle; `Line` bounds both.
    let header_bytes = usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None);
    builder
        .http1()
        .max_headers(64)
        .max_buf_size(header_bytes.max(8192))
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_bytes_max)
        .max_pending_accept_reset_streams(32)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// A body that keeps its line busy until it is sent or dropped.
struct Counted<B> {
    body: B,
    _busy: Busy,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
