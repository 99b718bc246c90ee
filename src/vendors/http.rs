//! Asking a service over HTTP: every length, time and number of attempts is bounded, and nobody is followed elsewhere.
//!
//! TLS keeps others from answering in a service's place and proves nothing else: what comes back is judged by signatures.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::config::Network;
use super::url::ServiceUrl;

/// Longest body that is read, in bytes.
pub const BODY_BYTES_MAX: usize = 512 * 1024;
/// Longest head of an answer, in bytes. Intel's chains travel there.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longest head of a proxy's answer, in bytes.
const PROXY_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Longest file of authorities, in bytes.
const AUTHORITIES_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The wait before the second attempt, where the service names none. It doubles.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Why a service gave no document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The file of authorities.
    #[error("{file}: {reason}; name another as network.authorities")]
    Authorities {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// TCP, TLS, the proxy, or a connection that ended early.
    #[error("{service} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port.
        service: String,
        /// What the system, TLS or HTTP says.
        reason: String,
    },
    /// The answer stopped before its end.
    #[error("answer of {0} is cut off")]
    Cut(String),
    /// Too long.
    #[error("answer of {0} has more than {BODY_BYTES_MAX} bytes")]
    TooLong(String),
    /// Too slow.
    #[error("{0} did not answer in time")]
    Late(String),
    /// Nobody is followed elsewhere.
    #[error("{0} sends elsewhere, which is not followed: configure the address that answers")]
    Elsewhere(String),
    /// The service does not have it.
    #[error("{0} does not know it (404)")]
    Unknown(String),
    /// Asked to come back later, more often or for longer than configured.
    #[error("{service} is busy ({status}): ask again in {wait_s} s or later")]
    Busy {
        /// Host and port.
        service: String,
        /// 429 or 503.
        status: u16,
        /// What it asked for, or what would have been waited.
        wait_s: u64,
    },
    /// Any other status.
    #[error("{service} answered {status}")]
    Status {
        /// Host and port.
        service: String,
        /// The status.
        status: u16,
    },
}

/// A document as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The body.
    pub body: Vec<u8>,
    /// What stood above it.
    pub head: HeaderMap,
}

/// One thing to ask for.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// The service.
    pub service: &'a ServiceUrl,
    /// Path and query below the service's own path.
    pub rest: String,
    /// What is sent: an OCSP question. Without one the method is GET.
    pub question: Option<Vec<u8>>,
}

/// Asks services, one thing after the other, until a deadline.
pub struct Client {
    tls: TlsConnector,
    network: Network,
    deadline: Instant,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client(..)")
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What became of one attempt.
enum Attempt {
    Done(Answer),
    /// Worth another: after this long, if the service says so.
    Again(HttpError, Option<u64>),
    Failed(HttpError),
}

impl Client {
    /// A client whose time begins now. `tls`: whether authorities are needed at all.
    ///
    /// # Errors
    /// [`HttpError::Authorities`].
    pub fn new(network: &Network, tls: bool) -> Result<Self, HttpError> {
        let roots = if tls {
            authorities(network)?
        } else {
            RootCertStore::empty()
        };
        let mut config = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| of_authorities(network, error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let deadline = Instant::now() + Duration::from_secs(network.total_s);
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            network: network.clone(),
            deadline,
        })
    }

    /// Asks until there is an answer, a reason to stop, or no attempt left.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, HttpError> {
        let mut wait = FIRST_WAIT;
        let mut attempt = 1;
        loop {
            let (error, asked_s) = match self.attempt(ask).await {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::Failed(error) => return Err(error),
                Attempt::Again(error, asked_s) => (error, asked_s),
            };
            let most = Duration::from_secs(self.network.wait_s_max);
            let pause = asked_s.map_or(wait.min(most), Duration::from_secs);
            let late = Instant::now()
                .checked_add(pause)
                .is_none_or(|at| at >= self.deadline);
            if attempt >= self.network.attempts || pause > most || late {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            attempt += 1;
            wait = wait.saturating_mul(2);
        }
    }

    async fn attempt(&self, ask: &Ask<'_>) -> Attempt {
        let service = ask.service.host_and_port();
        let limit = Instant::now() + Duration::from_secs(self.network.attempt_s);
        let limit = limit.min(self.deadline);
        let work = async {
            let stream = self.connect(ask.service).await?;
            exchange(stream, ask).await
        };
        match timeout_at(limit, work).await {
            Err(_) => Attempt::Failed(HttpError::Late(service)),
            Ok(Err(error @ (HttpError::Unreachable { .. } | HttpError::Cut(_)))) => {
                Attempt::Again(error, None)
            }
            Ok(Err(error)) => Attempt::Failed(error),
            Ok(Ok((status, answer))) => by_status(service, status, answer),
        }
    }

    async fn connect(&self, service: &ServiceUrl) -> Result<Box<dyn Stream>, HttpError> {
        let unreachable = |reason: String| HttpError::Unreachable {
            service: service.host_and_port(),
            reason,
        };
        let near = self.network.proxy.as_ref().unwrap_or(service);
        let tcp = TcpStream::connect((near.host.as_str(), near.port)).await;
        let mut tcp = tcp.map_err(|error| unreachable(error.to_string()))?;
        if self.network.proxy.is_some() {
            through_proxy(&mut tcp, service)
                .await
                .map_err(unreachable)?;
        }
        if !service.tls {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(service.host.clone());
        let name = name.map_err(|error| unreachable(error.to_string()))?;
        let tls = self.tls.connect(name, tcp).await;
        Ok(Box::new(
            tls.map_err(|error| unreachable(error.to_string()))?,
        ))
    }
}

fn authorities(network: &Network) -> Result<RootCertStore, HttpError> {
    let file = network.authorities();
    let wrong = |reason| of_authorities(network, reason);
    let about = std::fs::metadata(file).map_err(|error| wrong(error.to_string()))?;
    if about.len() > AUTHORITIES_BYTES_MAX {
        return Err(wrong("it is longer than 4 MiB".to_owned()));
    }
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(&pem) {
        let der = der.map_err(|error| wrong(format!("it is no PEM of certificates: {error}")))?;
        // Lists of the web's authorities have some that TLS cannot use; the others count.
        let _unusable = roots.add(der);
    }
    match roots.is_empty() {
        true => Err(wrong("it has no certificate of an authority".to_owned())),
        false => Ok(roots),
    }
}

fn of_authorities(network: &Network, reason: impl ToString) -> HttpError {
    HttpError::Authorities {
        file: network.authorities().display().to_string(),
        reason: reason.to_string(),
    }
}

/// Asks a proxy for a way to the service (RFC 9110, 9.3.6).
async fn through_proxy(tcp: &mut TcpStream, service: &ServiceUrl) -> Result<(), String> {
    let to = service.host_and_port();
    let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    let failed = |error: std::io::Error| format!("proxy: {error}");
    tcp.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = Vec::new();
    // Byte by byte, because what follows the head belongs to the service.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_HEAD_BYTES_MAX {
            return Err("proxy: its answer is too long".to_owned());
        }
        head.push(tcp.read_u8().await.map_err(failed)?);
    }
    match head.get(..12) {
        Some(b"HTTP/1.1 200" | b"HTTP/1.0 200") => Ok(()),
        _ => Err("proxy: it does not connect".to_owned()),
    }
}

async fn exchange(
    stream: Box<dyn Stream>,
    ask: &Ask<'_>,
) -> Result<(StatusCode, Answer), HttpError> {
    let service = ask.service.host_and_port();
    let unreachable = |error: &dyn std::fmt::Display| HttpError::Unreachable {
        service: ask.service.host_and_port(),
        reason: error.to_string(),
    };
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let shaken = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| unreachable(&error))?;
    let request = request(ask).map_err(|error| unreachable(&error))?;
    // The connection lives as long as this exchange and no task outlives it.
    let answered = async {
        let response = sender.send_request(request).await;
        read(response.map_err(|error| unreachable(&error))?, service).await
    };
    tokio::pin!(answered);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut answered => answer,
        _ = &mut connection => answered.await,
    }
}

fn request(ask: &Ask<'_>) -> Result<Request<Full<Bytes>>, http::Error> {
    let method = if ask.question.is_some() {
        Method::POST
    } else {
        Method::GET
    };
    let mut request = Request::builder()
        .method(method)
        .uri(ask.service.target(&ask.rest))
        .header(HOST, ask.service.authority())
        .header(USER_AGENT, concat!("casemate/", env!("CARGO_PKG_VERSION")));
    if ask.question.is_some() {
        request = request.header(http::header::CONTENT_TYPE, "application/ocsp-request");
    }
    request.body(Full::new(Bytes::from(
        ask.question.clone().unwrap_or_default(),
    )))
}

async fn read(
    response: Response<Incoming>,
    service: String,
) -> Result<(StatusCode, Answer), HttpError> {
    let (head, body) = response.into_parts();
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => {
            let answer = Answer {
                body: body.to_bytes().to_vec(),
                head: head.headers,
            };
            Ok((head.status, answer))
        }
        Err(error) if error.is::<LengthLimitError>() => Err(HttpError::TooLong(service)),
        Err(_) => Err(HttpError::Cut(service)),
    }
}

fn by_status(service: String, status: StatusCode, answer: Answer) -> Attempt {
    let wait_s = || {
        let value = answer.head.get(RETRY_AFTER)?.to_str().ok()?;
        // Only seconds: services of vendors write no dates there.
        value.trim().parse::<u32>().ok().map(u64::from)
    };
    let number = status.as_u16();
    match status {
        StatusCode::OK => Attempt::Done(answer),
        StatusCode::NOT_FOUND => Attempt::Failed(HttpError::Unknown(service)),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let asked_s = wait_s();
            let busy = HttpError::Busy {
                service,
                status: number,
                wait_s: asked_s.unwrap_or(1),
            };
            Attempt::Again(busy, asked_s)
        }
        _ if status.is_redirection() => Attempt::Failed(HttpError::Elsewhere(service)),
        _ => {
            let error = HttpError::Status {
                service,
                status: number,
            };
            match status.is_server_error() {
                true => Attempt::Again(error, None),
                false => Attempt::Failed(error),
            }
        }
    }
}
