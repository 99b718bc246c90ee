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
use casemate::guard::mark::MarkRoot;
use casemate::guard::{Outlet, Step};
use casemate::listener::{self, serve};
use casemate::policy::{GuardPolicy, OutputRules};
use casemate::queue::{Generator, Queue};
use casemate::sentry::{Decision, Floor, LedgerError, LedgerKey, Sentry, Store};
use casemate::session::{Attestor, ClientEvidence, EvidenceBatcher, Registry};
use casemate::tls::{ClientAuthority, IdentitySlot, Revoked, ServingIdentity};
use casemate_attestation::test_chip::TCB;
use casemate_attestation::{Context, EvidenceProvider, Revocations, Sha256Digest};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::organisation::{DAY, Leaf, NODE_A, ORGANISATION, model, nobody, principal};
use crate::script::Script;

/// Planted in every prompt; found nowhere else.
pub const PROMPT_MARKER: &str = "MARKER-PROMPT-7f3a";

/// The key from which the marks of these tests come.
pub const MARK_ROOT: [u8; 32] = [42; 32];

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
    /// What policy says of the guard.
    pub guard: Option<GuardPolicy>,
    /// Where the guard keeps what must outlive a server.
    pub ledger: Arc<tempfile::TempDir>,
    /// How far the broker knows that to be.
    pub floor: Floor,
    /// What may leave in the writers' answers.
    pub output: OutputRules,
    /// Another model than the scripted one.
    pub generator: Option<Arc<dyn Generator>>,
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
            guard: None,
            ledger: Arc::new(tempfile::tempdir().unwrap()),
            floor: Floor::default(),
            output: OutputRules::default(),
            generator: None,
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
    guard: GuardPolicy,
    ledger: Arc<tempfile::TempDir>,
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
        let bundle = ORGANISATION.policy_for(1, setup.output.clone(), setup.guard.clone());
        let policy = bundle.digest();
        let scripted = Arc::new(Script::default());
        let generator: Arc<dyn Generator> =
            setup.generator.clone().unwrap_or_else(|| scripted.clone());
        let audit_log = AuditLog::open(&audit, Durability::System).unwrap();
        let sentry = sentry(&setup, audit_log.clone()).await;
        let batcher =
            EvidenceBatcher::start(Arc::clone(&setup.provider), setup.evidence_waiting_max)
                .unwrap();
        let machine = Machine {
            platform: batcher.platform(),
            tcb: Some(TCB),
        };
        let revoked = Arc::new(Revoked::default());
        let service = Service::new(Parts {
            attestor: Attestor::new(batcher, context(bundle.digest()), setup.clients)
                .with_devices(setup.devices),
            access: Access::new(bundle, machine),
            outlet: Outlet::new(MarkRoot::new(MARK_ROOT, 1)),
            queue: Queue::new(vec![(model(), generator)], setup.places),
            sentry,
            registry: Registry::new(setup.per_principal_max),
            revoked: Arc::clone(&revoked),
            audit: audit_log,
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
            guard: setup.guard.unwrap_or_default(),
            ledger: setup.ledger,
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

    /// Ends as on a signal: what was given last is written down. When this returns the ledger's file is closed.
    pub async fn stop(self) {
        self.service.sentry().flush().await.unwrap();
        self.service.end_all("stopped");
        let ledger = Arc::clone(&self.ledger);
        drop(self);
        let key = LedgerKey::new([3; 32]);
        let deadline = Instant::now() + SOON;
        while let Err(LedgerError::InUse(_)) =
            Store::open(ledger.path(), &key, NODE_A, &Floor::default(), 0)
        {
            assert!(Instant::now() < deadline, "the ledger stays open");
            sleep(Duration::from_millis(10)).await;
        }
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

    /// Puts a member on a step, as an officer would.
    pub async fn place(&self, member: &str, step: Step) {
        let terms = self.guard.terms(&"writers".parse().unwrap());
        let decision = Decision {
            principal: principal(member).parse().unwrap(),
            to: step,
            officer: principal("olga").parse().unwrap(),
            terms,
            now: crate::organisation::now().secs(),
        };
        let decided = self.service.sentry().decide(decision).await;
        assert_eq!(decided.unwrap().unwrap().to, step);
    }

    /// On which step a member stands.
    pub fn standing(&self, member: &str) -> Step {
        let member = principal(member).parse().unwrap();
        self.service
            .sentry()
            .standing(self.guard.mode, &member)
            .step
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

/// The guard as `casemate serve` starts it. A server that was just stopped closes its ledger a moment later.
async fn sentry(setup: &Setup, audit: AuditLog) -> Sentry {
    let key = LedgerKey::new([3; 32]);
    let now = crate::organisation::now().secs();
    let deadline = Instant::now() + SOON;
    let (ledger, found) = loop {
        match Store::open(setup.ledger.path(), &key, NODE_A, &setup.floor, now) {
            Err(LedgerError::InUse(_)) if Instant::now() < deadline => {
                sleep(Duration::from_millis(10)).await;
            }
            opened => break opened.unwrap(),
        }
    };
    let policy = setup.guard.clone().unwrap_or_default();
    Sentry::start(casemate::sentry::Setup {
        ledger: Box::new(ledger),
        found,
        principals_max: 100,
        background: Vec::new(),
        instructions: Vec::new(),
        pace: policy.pace(),
        audit,
        keeps_wording: policy.keeps_wording(),
        counts_days: policy.counts_days(),
        days_file: Some(setup.ledger.path().join("days.jsonl")),
        now,
    })
    .unwrap()
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
