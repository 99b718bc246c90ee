//! A server that lies as it is told. It has a certificate of the enclave CA and speaks the protocol; what it gives as
//! evidence is up to the test.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use casemate::api::Answer;
use casemate::listener::{Handler, Limits, Peer, serve};
use casemate::tls::Revoked;
use casemate_attestation::test_chip::TestChip;
use casemate_attestation::{
    BindingInputs, Context, Direction, Envelope, EnvelopeParts, EvidenceProvider, Nonce, Platform,
    Sha256Digest,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::harness::{PROMPT_MARKER, context, identity};
use crate::organisation::{Leaf, ORGANISATION, now};

type Evidence = dyn Fn(Arc<Peer>, Nonce) -> BoxFuture<'static, Vec<u8>> + Send + Sync;

/// What a false server says.
pub struct Lies {
    pub leaf: Leaf,
    evidence: Box<Evidence>,
    pub granted: Value,
}

impl Lies {
    /// Evidence that is made anew for each challenge.
    pub fn new<F>(leaf: Leaf, evidence: F) -> Self
    where
        F: Fn(Arc<Peer>, Nonce) -> BoxFuture<'static, Vec<u8>> + Send + Sync + 'static,
    {
        let deadline = now().plus(60);
        Self {
            leaf,
            evidence: Box::new(evidence),
            granted: json!({"session": "0".repeat(32), "deadline": deadline, "confidential": false}),
        }
    }

    /// Node A's own evidence, true but for what `lie` does to it.
    pub fn about<F>(leaf: Leaf, lie: F) -> Self
    where
        F: Fn(&Peer, Nonce, EnvelopeParts) -> Vec<u8> + Send + Sync + 'static,
    {
        Self::new(leaf, move |peer, nonce| {
            let bytes = lie(&peer, nonce, truth(&peer, nonce));
            async move { bytes }.boxed()
        })
    }

    pub async fn start(self) -> FalseServer {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let identity = identity(&self.leaf, Arc::new(Revoked::default()));
        let liar = Arc::new(Liar {
            lies: self,
            heard: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve(
            socket,
            identity,
            Limits::default(),
            liar.clone(),
            stopped,
        ));
        FalseServer {
            address,
            liar,
            _stop: stop,
        }
    }
}

pub struct FalseServer {
    pub address: SocketAddr,
    liar: Arc<Liar>,
    _stop: watch::Sender<bool>,
}

impl FalseServer {
    /// It was asked for evidence, and for nothing else; no byte of a prompt came.
    pub fn heard_only_challenges(&self) {
        let heard = self.liar.heard.lock().unwrap();
        assert!(!heard.is_empty());
        for (path, body) in heard.iter() {
            assert_eq!(path, "/attest/challenge");
            assert!(!String::from_utf8_lossy(body).contains(PROMPT_MARKER));
        }
    }
}

struct Liar {
    lies: Lies,
    heard: Mutex<Vec<(String, Bytes)>>,
}

impl Handler for Liar {
    type Connection = Arc<Peer>;
    type Body = Answer;

    fn open(&self, peer: Peer) -> Option<Arc<Peer>> {
        Some(Arc::new(peer))
    }

    fn refused(&self, _reason: &'static str) {}

    async fn handle(
        self: Arc<Self>,
        peer: Arc<Arc<Peer>>,
        request: Request<Incoming>,
    ) -> Response<Answer> {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let path = head.uri.path().to_owned();
        self.heard
            .lock()
            .unwrap()
            .push((path.clone(), body.clone()));
        let answer = match path.as_str() {
            "/attest/challenge" => {
                let challenge: Value = serde_json::from_slice(&body).unwrap();
                let nonce = serde_json::from_value(challenge["nonce"].clone()).unwrap();
                (self.lies.evidence)(Arc::clone(&peer), nonce).await
            }
            "/attest/confirm" => self.lies.granted.to_string().into_bytes(),
            _ => b"{}".to_vec(),
        };
        Response::new(Answer::whole(answer.into()))
    }
}

/// What an honest node A would answer on this connection.
pub fn truth(peer: &Peer, nonce: Nonce) -> EnvelopeParts {
    let context = context(ORGANISATION.policy(1).digest());
    let exporter = peer.exporter.export(&nonce).unwrap();
    let inputs = BindingInputs {
        direction: Direction::Server,
        exporter: &exporter,
        server_leaf: peer.server_leaf_digest,
        client_leaf: Sha256Digest::of(&peer.leaf),
        nonce,
        context: &context,
    };
    parts(&ORGANISATION.node_a, &inputs, context.clone())
}

/// Evidence of `chip` over exactly these inputs.
pub fn parts(chip: &TestChip, inputs: &BindingInputs<'_>, context: Context) -> EnvelopeParts {
    EnvelopeParts {
        platform: Platform::TestChip,
        direction: inputs.direction,
        hardware: chip.evidence(inputs.binding().as_bytes()).unwrap(),
        context,
        batch: None,
        devices: None,
    }
}

pub fn bytes(parts: EnvelopeParts) -> Vec<u8> {
    Envelope::build(parts).unwrap().as_bytes().to_vec()
}
