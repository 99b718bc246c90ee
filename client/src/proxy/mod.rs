//! A plain OpenAI endpoint on loopback. What arrives here leaves this machine over an attested connection or not at all.

mod error;
mod filler;
mod forward;
mod guard;
mod padding;
mod upload;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::{Limits, ListenAddress};
use crate::session::Keeper;

/// Header lines of a local request, at most; their bytes are bounded by the buffer below.
const HEADERS_MAX: usize = 100;
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How long answers in progress may take to end after Ctrl-C.
const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The port is taken, or the system refuses.
    #[error("cannot listen on {address}: {source}; choose another with --listen")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// A bound endpoint that nobody serves yet.
#[derive(Debug)]
pub struct Proxy {
    listener: TcpListener,
    address: SocketAddr,
    keeper: Arc<Keeper>,
    limits: Limits,
}

impl Proxy {
    /// Binds the loopback address.
    ///
    /// # Errors
    /// [`ListenError`] when the port is in use.
    pub async fn bind(
        address: ListenAddress,
        keeper: Arc<Keeper>,
        limits: Limits,
    ) -> Result<Self, ListenError> {
        let wanted = address.socket();
        let bind = |source| ListenError::Bind {
            address: wanted,
            source,
        };
        let listener = TcpListener::bind(wanted).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self {
            listener,
            address,
            keeper,
            limits,
        })
    }

    /// What an OpenAI client is given as its base URL.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Serves until `stop` is ready, then lets answers in progress end for two seconds.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(self.limits.connections_max.into()));
        let open = GracefulShutdown::new();
        tokio::pin!(stop);
        loop {
            // A place first and a connection then, so that the bound holds (DESIGN: everything has a bound).
            let accept = async {
                let place = places.clone().acquire_owned().await.ok()?;
                self.listener
                    .accept()
                    .await
                    .ok()
                    .map(|(stream, _)| (place, stream))
            };
            tokio::select! {
                () = &mut stop => break,
                accepted = accept => match accepted {
                    Some((place, stream)) => self.serve_one(stream, place, &open),
                    // Out of file descriptors, most likely: wait for some to come back.
                    None => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                },
            }
        }
        let _ = tokio::time::timeout(GRACE, open.shutdown()).await;
    }

    fn serve_one(
        &self,
        stream: TcpStream,
        place: tokio::sync::OwnedSemaphorePermit,
        open: &GracefulShutdown,
    ) {
        let (keeper, limits) = (self.keeper.clone(), self.limits);
        let service = service_fn(move |request| {
            let keeper = keeper.clone();
            async move { Ok::<_, Infallible>(forward::answer(request, &keeper, &limits).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request_head_s.duration())
            .max_headers(HEADERS_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let connection = open.watch(connection);
        tokio::spawn(async move {
            // An error here is a caller that went away or an answer that was cut off: both were told already.
            if let Err(error) = connection.await {
                tracing::debug!("local connection ended: {error}");
            }
            drop(place);
        });
    }
}
