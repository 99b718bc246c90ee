//! An organisation in a temporary folder, servers of it in this process, and clients to them.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use casemate::api::{self, Access, Machine, Parts, Service};
use casemate::audit::{AuditLog, Durability};
use casemate::config::LimitsSection;
use casemate::guard::Outlet;
use casemate::guard::mark::MarkRoot;
use casemate::listener;
use casemate::org::documents::file_of;
use casemate::org::{self, InitOptions, Name, Organisation, documents};
use casemate::policy::{PolicyBundle, PolicySource};
use casemate::queue::Queue;
use casemate::sentry::{self, Floor, LedgerKey, Sentry, Store};
use casemate::session::{Attestor, ClientEvidence, EvidenceBatcher, Registry, now};
use casemate::tls::{ClientAuthority, IdentitySlot, Revoked, ServingIdentity};
use casemate_attestation::test_chip::TestChip;
use casemate_attestation::{Context, Kind, Platform, Sha256Digest};
use casemate_client::config::Config;
use casemate_client::identity::Identity;
use casemate_client::session::Connector;
use casemate_client::tls::{TlsClient, provider};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::chip::ClockedChip;

const DAYS: u32 = 90;
const NAME: &str = "localhost";
/// One principal opens all connections here; the product lets it have 64.
const CONNECTIONS_MAX: usize = 1024;

const TABLES: &str = "[team.research]\nprincipals = [\"spiffe://bench/team/research/*\"]\n\
    output_tokens_max = 256\nsession_seconds = 3600\n\
    shared = { window_seconds = 3600, requests = 1000, tokens = 1000000, concurrency = 8 }\n\
    each = { window_seconds = 3600, requests = 500, tokens = 500000, concurrency = 4 }\n";

/// An organisation with a test chip, a policy and one member.
pub struct Place {
    folder: TempDir,
    organisation: Organisation,
    chip: TestChip,
}

/// A server that runs until this is dropped.
pub struct Server {
    pub chip: Arc<ClockedChip>,
    /// The product's client.
    pub connector: Connector,
    /// TLS with the same certificates, and nothing else.
    pub plain: TlsClient,
    pub address: String,
    service: Arc<Service>,
    _stop: watch::Sender<bool>,
}

impl Place {
    pub fn make() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let names = vec![NAME.to_owned()];
        let options = InitOptions {
            name: Name::organisation("bench")?,
            broker_names: names.clone(),
            test_chip: true,
            days: DAYS,
        };
        let organisation = org::init(&folder.path().join("org"), &options, now())?;
        organisation.enrol_test_chip("bench", names, DAYS, now())?;
        organisation.issue(&"research".parse()?, &"ada".parse()?, 30, now().secs())?;
        fs::write(folder.path().join("policy.toml"), TABLES)?;
        fs::write(folder.path().join("policy.cedar"), "")?;
        let policy = PolicySource::read(folder.path())?;
        documents::sign_next(&organisation, policy.document(), DAYS, now())?;
        let chip = organisation.test_chip(now())?;
        Ok(Self {
            folder,
            organisation,
            chip,
        })
    }

    /// The root of the chip's certificates.
    pub fn root(&self) -> &[u8] {
        self.chip.root_der()
    }

    /// Starts a server whose chip takes `latency` for each report, on top of signing it.
    pub async fn serve(&self, latency: Duration) -> anyhow::Result<Server> {
        let chip = Arc::new(ClockedChip::new(self.chip.clone().with_latency(latency)));
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let port = socket.local_addr()?.port();
        let revoked = Arc::new(Revoked::default());
        let identities = Arc::new(IdentitySlot::new(self.identity(&revoked)?));
        let service = self.service(&chip, revoked, port)?;
        let (stop, stopped) = watch::channel(false);
        let limits = listener::Limits {
            connections_max: CONNECTIONS_MAX,
            ..listener::Limits::default()
        };
        let handler = Arc::clone(&service);
        tokio::spawn(listener::serve(
            socket, identities, limits, handler, stopped,
        ));
        Ok(Server {
            chip,
            connector: self.connector(port)?,
            plain: self.plain()?,
            address: format!("127.0.0.1:{port}"),
            service,
            _stop: stop,
        })
    }

    fn identity(&self, revoked: &Arc<Revoked>) -> anyhow::Result<ServingIdentity> {
        let clients = self.organisation.clients().certificate().clone();
        let clients = ClientAuthority::new(&[clients], Arc::clone(revoked))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let enclaves = self.organisation.enclaves();
        let public = key.subject_public_key_info();
        let chain = enclaves.issue_server(&public, &[NAME.to_owned()], now().secs())?;
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        Ok(ServingIdentity::new(
            chain.collect::<Result<_, _>>()?,
            key,
            Arc::new(clients),
        )?)
    }

    fn service(
        &self,
        chip: &Arc<ClockedChip>,
        revoked: Arc<Revoked>,
        port: u16,
    ) -> anyhow::Result<Arc<Service>> {
        let bundle = fs::read(self.organisation.folder().join(file_of(Kind::Policy)))?;
        let bundle = PolicyBundle::open(&bundle, self.organisation.release_key(), 0, now())?;
        let context = Context {
            policy_bundle: bundle.digest(),
            models: vec![Sha256Digest::of(b"a model")],
            configuration: Sha256Digest::of(b"a configuration"),
            device_evidence: Sha256Digest::absent(),
        };
        let machine = Machine {
            platform: Platform::TestChip,
            tcb: None,
        };
        let waiting_max = usize::try_from(LimitsSection::default().evidence_waiting)?;
        let batcher = EvidenceBatcher::start(Arc::clone(chip) as _, waiting_max)?;
        let audit = self.folder.path().join(format!("audit-{port}.jsonl"));
        let audit = AuditLog::open(&audit, Durability::Disk)?;
        let folder = self.folder.path().join(format!("guard-{port}"));
        let (ledger, found) = Store::open(
            &folder,
            &LedgerKey::new([1; 32]),
            NAME,
            &Floor::default(),
            now().secs(),
        )?;
        let sentry = Sentry::start(sentry::Setup {
            ledger: Box::new(ledger),
            found,
            principals_max: 1,
            background: Vec::new(),
            instructions: Vec::new(),
            pace: bundle.document().guard().pace(),
            audit: audit.clone(),
            now: now().secs(),
            counts_days: false,
            keeps_wording: false,
            days_file: None,
        })?;
        Ok(Service::new(Parts {
            attestor: Attestor::new(batcher, context, ClientEvidence::NotJudged),
            access: Access::new(bundle, machine),
            outlet: Outlet::new(MarkRoot::new([1; 32], 1)),
            queue: Queue::new(Vec::new(), 1),
            sentry,
            registry: Registry::new(CONNECTIONS_MAX),
            revoked,
            audit,
            limits: api::Limits::default(),
        }))
    }

    fn connector(&self, port: u16) -> anyhow::Result<Connector> {
        let path = self.folder.path().join(format!("connect-{port}.toml"));
        // An address, so that no resolver takes part.
        let text = format!(
            "server = \"https://127.0.0.1:{port}\"\nserver_name = \"{NAME}\"\n\n\
             [identity]\ncertificate = \"org/teams/research/ada/cert.pem\"\nkey = \"org/teams/research/ada/key.pem\"\n\n\
             [trust]\nenclave_ca = \"org/enclave-ca/cert.pem\"\nrelease_key = \"org/release/public.key\"\n\
             reference = \"org/reference.json\"\nfleet = \"org/fleet.json\"\n\
             platform = \"test-chip\"\ntest_chip_root = \"org/test-chip/root.der\"\n"
        );
        fs::write(&path, text)?;
        Ok(Connector::new(&Config::load(&path)?, &path)?)
    }

    fn plain(&self) -> anyhow::Result<TlsClient> {
        let member = self.organisation.folder().join("teams/research/ada");
        let (certificate, key) = (member.join("cert.pem"), member.join("key.pem"));
        let identity = Identity::load(&certificate, &key, &provider())?;
        let roots = vec![self.organisation.enclaves().certificate().clone()];
        Ok(TlsClient::new(
            roots,
            &identity,
            ServerName::try_from(NAME)?,
        )?)
    }
}

impl Server {
    /// Returns when the server has closed every connection, so that its part is done too.
    pub async fn quiet(&self) -> anyhow::Result<()> {
        let closed = async {
            while self.service.open_connections() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), closed)
            .await
            .context("connections stay open")
    }
}
