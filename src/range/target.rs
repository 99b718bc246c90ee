//! Whom the attacks ask: base URLs of plain endpoints, each one identity.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::RangeError;
use super::answer::Answer;
use super::wire::Wire;
use crate::vendors::ServiceUrl;

/// Longest answer: all probabilities of a large vocabulary.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a server may take to say which models it has.
const MODELS_TIME: Duration = Duration::from_secs(20);

/// The way of one identity to the server.
#[derive(Debug, Clone)]
pub struct Endpoint {
    url: ServiceUrl,
    wire: Option<Arc<Wire>>,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nobody listens.
    #[error("{endpoint} cannot be reached: {reason}")]
    Gone {
        /// Host and port.
        endpoint: String,
        /// What the system says.
        reason: String,
    },
    /// The connection ended first.
    #[error("the connection ended")]
    Cut,
    /// Not in time.
    #[error("no answer in time")]
    Late,
    /// Longer than anything that an attack wants.
    #[error("the answer is too long")]
    TooLong,
}

impl Endpoint {
    /// An endpoint at a base URL such as `http://127.0.0.1:11434/v1`.
    ///
    /// # Errors
    /// [`RangeError::Url`]; [`RangeError::NotLoopback`] unless `remote` is allowed.
    pub fn new(url: &str, remote: bool) -> Result<Self, RangeError> {
        let parsed = ServiceUrl::try_from(url.to_owned());
        let parsed = parsed.map_err(|_| RangeError::Url(url.to_owned()))?;
        if parsed.tls {
            return Err(RangeError::Url(url.to_owned()));
        }
        if !remote && !parsed.is_loopback() {
            return Err(RangeError::NotLoopback(parsed.host_and_port()));
        }
        Ok(Self {
            url: parsed,
            wire: None,
        })
    }

    /// The same, whose way to the server somebody watches.
    #[must_use]
    pub fn watched(mut self, wire: Arc<Wire>) -> Self {
        self.wire = Some(wire);
        self
    }

    /// Who watches its way to the server, if anybody does.
    #[must_use]
    pub fn wire(&self) -> Option<&Wire> {
        self.wire.as_deref()
    }

    /// The same paths at another address.
    ///
    /// # Errors
    /// [`RangeError::Url`] where the base has a path that does not stand in a URL.
    pub fn through(&self, address: SocketAddr) -> Result<Self, RangeError> {
        Self::new(&format!("http://{address}{}", self.url.target("")), false)
    }

    /// Host and port, for a socket.
    #[must_use]
    pub fn address(&self) -> String {
        self.url.host_and_port()
    }

    /// What a request's line and its `Host` say: `path` begins with a slash and stands below the base URL.
    #[must_use]
    pub fn line(&self, path: &str) -> (String, String) {
        (self.url.target(path), self.url.authority())
    }

    /// Asks once. A body makes it a POST.
    ///
    /// # Errors
    /// [`Failure`] where no answer came, whatever its status.
    pub async fn ask(
        &self,
        path: &str,
        body: Option<&Value>,
        time: Duration,
    ) -> Result<Answer, Failure> {
        let start = Instant::now();
        let asked = timeout(time, self.exchange(path, body)).await;
        let (status, bytes) = asked.map_err(|_| Failure::Late)??;
        Ok(Answer {
            status,
            document: serde_json::from_slice(&bytes).unwrap_or_default(),
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    async fn exchange(&self, path: &str, body: Option<&Value>) -> Result<(u16, Bytes), Failure> {
        let gone = |error: &dyn std::fmt::Display| Failure::Gone {
            endpoint: self.address(),
            reason: error.to_string(),
        };
        let tcp = TcpStream::connect(self.address()).await;
        let tcp = tcp.map_err(|error| gone(&error))?;
        tcp.set_nodelay(true).map_err(|error| gone(&error))?;
        let shaken = http1::handshake(TokioIo::new(tcp)).await;
        let (mut sender, connection) = shaken.map_err(|_| Failure::Cut)?;
        let (target, host) = self.line(path);
        let request = Request::builder()
            .method(if body.is_some() {
                Method::POST
            } else {
                Method::GET
            })
            .uri(target)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(
                body.map(Value::to_string).unwrap_or_default(),
            )));
        let request = request.map_err(|error| gone(&error))?;
        let answered = async {
            let response = sender.send_request(request).await;
            let (head, body) = response.map_err(|_| Failure::Cut)?.into_parts();
            match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
                Ok(body) => Ok((head.status.as_u16(), body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLong),
                Err(_) => Err(Failure::Cut),
            }
        };
        tokio::pin!(answered);
        tokio::pin!(connection);
        // The connection lives as long as this exchange and no task outlives it.
        tokio::select! {
            answer = &mut answered => answer,
            _ = &mut connection => answered.await,
        }
    }
}

/// A server: its model, and one endpoint for each identity of the user.
#[derive(Debug, Clone)]
pub struct Target {
    endpoints: Vec<Endpoint>,
    model: String,
}

impl Target {
    /// A server whose model is `model`, or the first that it names.
    ///
    /// # Errors
    /// [`RangeError::NoTarget`] without endpoints, [`RangeError::NoModel`].
    pub async fn new(endpoints: Vec<Endpoint>, model: Option<String>) -> Result<Self, RangeError> {
        let first = endpoints.first().ok_or(RangeError::NoTarget)?;
        let model = match model {
            Some(model) => model,
            None => first_model(first).await?,
        };
        Ok(Self { endpoints, model })
    }

    /// Identities, at least one.
    #[must_use]
    pub fn identities(&self) -> usize {
        self.endpoints.len()
    }

    /// The endpoint of an identity; beyond the last one it begins anew.
    #[must_use]
    pub fn endpoint(&self, identity: usize) -> Option<&Endpoint> {
        self.endpoints.get(identity % self.endpoints.len().max(1))
    }

    /// Who asks honestly, and whose cache is listened to: the first identity.
    #[must_use]
    pub const fn honest(&self) -> usize {
        0
    }

    /// Who makes all attacks but the crawlers': the second identity, so that the honest one is not held to account for it.
    #[must_use]
    pub fn attacker(&self) -> usize {
        usize::from(self.identities() > 1)
    }

    /// Who crawls by plan number `plan`: identities of their own, in turn, where there are enough.
    #[must_use]
    pub fn crawler(&self, plan: usize) -> usize {
        match self.identities() {
            0..=2 => self.attacker(),
            more => 2 + plan % (more - 2),
        }
    }

    /// Who crawls together: identities that did not crawl before, where there are two of them, and all but the honest one
    /// otherwise. Fewer than two where there are too few.
    #[must_use]
    pub fn crew(&self) -> Vec<usize> {
        let all = self.identities();
        let first = if all > 6 { 5 } else { 1 };
        (first..all).collect()
    }

    /// The model that is asked for.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }
}

async fn first_model(endpoint: &Endpoint) -> Result<String, RangeError> {
    let none = |reason: String| RangeError::NoModel {
        endpoint: endpoint.address(),
        reason,
    };
    let answer = endpoint.ask("/models", None, MODELS_TIME).await;
    let answer = answer.map_err(|error| none(error.to_string()))?;
    if let Some(refusal) = answer.refusal() {
        return Err(none(format!("{} {}", refusal.status, refusal.code)));
    }
    let name = answer
        .document
        .pointer("/data/0/id")
        .and_then(Value::as_str);
    name.map(str::to_owned)
        .ok_or_else(|| none("its list is empty".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_endpoints_of_this_machine_are_taken() {
        assert!(Endpoint::new("http://127.0.0.1:8080/v1", false).is_ok());
        assert!(Endpoint::new("http://localhost/v1/", false).is_ok());
        for other in ["http://10.0.0.7:8080/v1", "http://llm.example/v1"] {
            let refused = Endpoint::new(other, false);
            assert!(
                matches!(refused, Err(RangeError::NotLoopback(_))),
                "{other}"
            );
            assert!(Endpoint::new(other, true).is_ok());
        }
        for wrong in ["https://127.0.0.1:7443", "127.0.0.1:8080", "http://"] {
            let refused = Endpoint::new(wrong, true);
            assert!(matches!(refused, Err(RangeError::Url(_))), "{wrong}");
        }
    }
}
