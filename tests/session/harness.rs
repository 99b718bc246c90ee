//! A server of this process, assembled from the product's parts as `casemate serve` assembles them.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use casemate::api::{self, Access, Machine, Parts, Service};
use casemate::audit::{AuditLog, Durability};
use casemate::devices::DeviceAsker;
use casemate::listener::{self, serve};
use casemate::queue::{Generator, Queue};
use casemate::session::{Attestor, ClientEvidence, EvidenceBatcher, Registry};
use casemate::tls::{ClientAuthority, IdentitySlot, Revoked, ServingIdentity};
use casemate_attestation::test_chip::TCB;
use casemate_attestation::{Context, EvidenceProvider, Revocations, Sha256Digest};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::organisation::{DAY, Leaf, NODE_A, ORGANISATION, model, nobody};
use crate::script::Script;

/// Planted in every prompt; found nowhere else.
pub const PROMPT_MARKER: &str = "MARKER-PROMPT-7f3a";

/// How long a test waits for what must happen soon.
const SOON: Duration = Duration::from_secs(5);

/// What a test wants of its server. The rest is as in production.
pub struct Setup {
    pub provider: Arc<dyn EvidenceProvider>,
    pub devices: Option<DeviceAsker>,
    pub leaf: Leaf,
    pub clients: ClientEvidence,
    pub evidence_waiting_max: usize,
    pub per_principal_max: usize,
    pub places: usize,
    pub api: api::Limits,
    pub listener: listener::Limits,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            provider: Arc::new(ORGANISATION.node_a.clone()),
            devices: None,
            leaf: ORGANISATION.server(&[NODE_A]),
            clients: ClientEvidence::NotJudged,
            evidence_waiting_max: 256,
            per_principal_max: 64,
            places: 64,
            api: api::Limits::default(),
            listener: listener::Limits::default(),
        }
    }
}

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub service: Arc<Service>,
    pub model: Arc<Script>,
    pub leaf: Leaf,
    /// Digest of the policy in force at the start.
    pub policy: Sha256Digest,
    audit: PathBuf,
    _folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

/// What the evidence of a server with policy `number` says of it.
pub fn context(policy: Sha256Digest) -> Context {
    Context {
        policy_bundle: policy,
        models: vec![model()],
        configuration: Sha256Digest::of(b"configuration"),
        device_evidence: Sha256Digest::absent(),
    }
}

impl Server {
    pub async fn start(setup: Setup) -> Self {
        logs();
        let folder = tempfile::tempdir().unwrap();
        let audit = folder.path().join("audit");
        let bundle = ORGANISATION.policy(1);
        let policy = bundle.digest();
        let scripted = Arc::new(Script::default());
        let generator: Arc<dyn Generator> = scripted.clone();
        let batcher = EvidenceBatcher::start(setup.provider, setup.evidence_waiting_max).unwrap();
        let machine = Machine {
            platform: batcher.platform(),
            tcb: Some(TCB),
        };
        let revoked = Arc::new(Revoked::default());
        let service = Service::new(Parts {
            attestor: Attestor::new(batcher, context(bundle.digest()), setup.clients)
                .with_devices(setup.devices),
            access: Access::new(bundle, machine),
            queue: Queue::new(vec![(model(), generator)], setup.places),
            registry: Registry::new(setup.per_principal_max),
            revoked: Arc::clone(&revoked),
            audit: AuditLog::open(&audit, Durability::System).unwrap(),
            limits: setup.api,
        });
        service.revoke(&ORGANISATION.revocations(&nobody(), DAY));
        let identity = identity(&setup.leaf, revoked);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let handler = Arc::clone(&service);
        tokio::spawn(serve(socket, identity, setup.listener, handler, stopped));
        Self {
            address,
            service,
            model: scripted,
            leaf: setup.leaf,
            policy,
            audit,
            _folder: folder,
            _stop: stop,
        }
    }

    pub async fn ordinary() -> Self {
        Self::start(Setup::default()).await
    }

    pub fn revoke(&self, list: &Revocations) -> usize {
        self.service.revoke(&ORGANISATION.revocations(list, DAY))
    }

    /// The audit log as it is now.
    pub fn audit_text(&self) -> String {
        fs::read_to_string(&self.audit).unwrap()
    }

    /// Its records; each is one line of JSON.
    pub fn audit(&self) -> Vec<Value> {
        let text = self.audit_text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for the first record of `kind` with `reason`.
    pub async fn recorded(&self, kind: &str, reason: &str) -> Value {
        self.recorded_times(1, kind, reason).await.remove(0)
    }

    /// Waits for that many of them.
    pub async fn recorded_times(&self, count: usize, kind: &str, reason: &str) -> Vec<Value> {
        let is_it = |record: &Value| record["kind"] == kind && record["reason"] == reason;
        let deadline = Instant::now() + SOON;
        loop {
            let found: Vec<Value> = self.audit().into_iter().filter(is_it).collect();
            if found.len() >= count {
                return found;
            }
            let text = self.audit_text();
            assert!(
                Instant::now() < deadline,
                "no {count} of {kind} {reason} in\n{text}"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for the record of a refusal.
    pub async fn refused(&self, reason: &str) -> Value {
        self.recorded("refused", reason).await
    }

    /// From now on nothing can be recorded: a folder stands where the log was.
    pub fn break_audit(&self) {
        fs::rename(&self.audit, self.audit.with_extension("1")).unwrap();
        fs::create_dir(&self.audit).unwrap();
    }

    /// Nothing of a prompt ever reached the model.
    pub fn saw_nothing(&self) {
        assert_eq!(self.model.seen(), Vec::<String>::new());
    }
}

/// An acceptor's settings with `leaf`, for clients of the organisation.
pub fn identity(leaf: &Leaf, revoked: Arc<Revoked>) -> Arc<IdentitySlot> {
    let authority = ClientAuthority::new(&[ORGANISATION.client_authority()], revoked).unwrap();
    let chain = vec![leaf.der.clone(), ORGANISATION.enclave_authority()];
    let identity = ServingIdentity::new(chain, leaf.key(), Arc::new(authority)).unwrap();
    Arc::new(IdentitySlot::new(identity))
}

/// Waits until `holds`.
pub async fn soon(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "not soon: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Everything that client and server log in this process, at the finest level.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    pub fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl std::io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts to collect the logs; later calls give the same collection.
pub fn logs() -> &'static Logs {
    static LOGS: LazyLock<Logs> = LazyLock::new(|| {
        let logs = Logs::default();
        let writer = logs.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .init();
        logs
    });
    &LOGS
}

/// The keys of an object.
pub fn keys(value: &Value) -> HashSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}
