//! Assembles and runs the server: attests to the broker, opens its sealed models with the keys that come back, and serves
//! attested sessions. What is out of date or altered stops it before the first client is accepted.

mod collateral;
pub(crate) mod devices;
mod documents;
mod error;
mod guard;
mod keeper;
mod limits;
mod model;
mod packages;
pub(crate) mod provider;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use casemate_attestation::{
    Context, EvidenceProvider, ReleasePublicKey, Revocations, TcbVersion, UnixTime, Verified,
};
use casemate_client::floors::FloorsFile;
use casemate_client::trust::{FleetFiles, Trust};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpListener;
use tokio::sync::watch;

// What a device answers with, inside a ServeError.
pub use casemate_devices::DeviceError;
pub use documents::DocumentError;
pub use error::ServeError;
pub use model::Served;
pub use packages::LoadWatch;

use crate::api::{Access, Machine, Parts, Service};
use crate::audit::{AuditEvent, AuditLog, Part};
use crate::broker::client::{BrokerAddress, OwnMachine, ReleaseClient, ReleaseRequest, Released};
use crate::config::{ClientDemand, Loaded, ServerConfig};
use crate::guard::Outlet;
use crate::listener;
use crate::org::authority;
use crate::policy::PolicyBundle;
use crate::queue::Queue;
use crate::sentry::{Floor, Sentry};
use crate::session::{Attestor, ClientEvidence, ClientVerifier, EvidenceBatcher, Registry, now};
use crate::tls::{ClientAuthority, IdentitySlot, Revoked, ServingIdentity};
use documents::Documents;
use keeper::{InForce, Keeper};
use packages::Packages;

/// File in the state folder that keeps document numbers from going back.
const FLOORS: &str = "floors.json";
/// The same for the lists of clients' machines, which another key signs.
const CLIENT_FLOORS: &str = "client-floors.json";

/// A server that is ready: its socket is bound, its models are loaded. [`Server::serve`] accepts.
pub struct Server {
    socket: TcpListener,
    config: Loaded<ServerConfig>,
    service: Arc<Service>,
    identities: Arc<IdentitySlot>,
    keeper: Keeper,
    audit: AuditLog,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server(..)")
    }
}

/// What is read from files before anybody is asked for anything.
struct Ground {
    key: ReleasePublicKey,
    clients: Vec<CertificateDer<'static>>,
    broker: BrokerAddress,
    machine: OwnMachine,
    documents: Documents,
    audit: AuditLog,
}

impl Server {
    /// Attests to the broker, loads the models and puts the documents in force. `watch` hears of the loading.
    ///
    /// # Errors
    /// [`ServeError`]. Nothing was served then.
    pub async fn start(
        config: Loaded<ServerConfig>,
        watch: Arc<dyn LoadWatch>,
    ) -> Result<Self, ServeError> {
        let provider = evidence_provider(&config)?;
        Self::start_proven_by(provider, config, watch).await
    }

    /// The same with evidence from elsewhere: in a measured image the process that serves may not reach the device, and asks the
    /// first process. Whoever gives evidence of another machine gives evidence that the broker refuses.
    ///
    /// # Errors
    /// [`ServeError`]. Nothing was served then.
    pub async fn start_proven_by(
        provider: Arc<dyn EvidenceProvider>,
        config: Loaded<ServerConfig>,
        watch: Arc<dyn LoadWatch>,
    ) -> Result<Self, ServeError> {
        let address = config.server.listen;
        let socket = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Listen { address, source })?;
        let ground = Ground::read(&config, provider)?;
        let packages = Packages::open(&config.models)?;
        let request = ReleaseRequest {
            names: config.server.names.clone(),
            packages: packages.requests(),
            configuration: config.digest(),
        };
        let (released, client) = release(&ground, &request).await?;
        let bundle = ground.documents.policy(&released.policy_bundle, now())?;
        let revocations = ground.documents.revocations(&released.revocations, now())?;
        let revoked = Arc::new(Revoked::default());
        revoked.replace(revocations.payload());
        let clients = Arc::new(ClientAuthority::new(&ground.clients, Arc::clone(&revoked))?);
        let chain = released.leaf_chain;
        let identity = ServingIdentity::new(chain, released.private_key, clients.clone())?;
        let context = Context {
            policy_bundle: bundle.digest(),
            models: packages.digests(),
            configuration: config.digest(),
            ..Context::absent()
        };
        let limits = &config.limits;
        let models = packages.load(released.keys, ground.key, *limits, config.engine, watch);
        let queue = Queue::new(models.await?, limits.places());
        let in_force = InForce {
            policy_number: bundle.number(),
            revocation_number: revocations.number(),
            mark_epoch: released.mark.epoch(),
        };
        record_start(&ground.audit, &config, &bundle, &revocations).await?;
        let access = Access::new(bundle, machine(&config, released.tcb));
        let keys = (&released.ledger_key, &released.guard_floor);
        let sentry = guard::start(&config, &ground.audit, access.bundle().document(), keys).await?;
        let outlet = Outlet::new(released.mark);
        let parts = (access, outlet, queue, sentry);
        let service = ground.service(&config, context, parts, revoked)?;
        service.revoke(&revocations);
        let identities = Arc::new(IdentitySlot::new(identity));
        let audit = ground.audit.clone();
        let keeper = Keeper {
            request,
            ground,
            clients,
            service: Arc::clone(&service),
            identities: Arc::clone(&identities),
            in_force,
            client: Some(client),
            watch_every: config
                .attestation
                .devices
                .as_ref()
                .map(|devices| Duration::from_secs(devices.watch_seconds.into())),
            witnessed: Floor::default(),
        };
        Ok(Self {
            socket,
            config,
            service,
            identities,
            keeper,
            audit,
        })
    }

    /// The address in use; the port is the real one where the configuration says 0.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// When the broker signed this server's certificate, by the broker's clock. This machine's own clock comes from its host.
    #[must_use]
    pub fn broker_time(&self) -> UnixTime {
        let expires = u64::try_from(self.identities.current().expires()).unwrap_or(0);
        authority::server_leaf_signed_at(UnixTime::from_secs(expires))
    }

    /// Serves until `stop` completes, then lets answers under way finish within the drain limit.
    ///
    /// # Errors
    /// When the broker refuses this machine's evidence while it serves, or other GPUs answer than were attested. Every connection has
    /// ended then.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let (stopped, watch) = watch::channel(false);
        let limits = self.config.limits.listener();
        let keeping = tokio::spawn(self.keeper.run(watch.clone()));
        let service = Arc::clone(&self.service);
        let serving = listener::serve(self.socket, self.identities, limits, self.service, watch);
        tokio::pin!(serving, keeping);
        let mut served = false;
        let kept = tokio::select! {
            () = &mut serving => {
                served = true;
                None
            }
            () = stop => None,
            kept = &mut keeping => Some(kept),
        };
        let ended = match &kept {
            Some(Ok(Err(error))) => {
                tracing::error!(%error, "this machine no longer counts; ending every connection");
                Some(error.ends_connections_as())
            }
            _ => None,
        };
        // Before the listener stops, which closes idle connections without a reason; and after it, for those that came between.
        let end_all = || ended.map_or(0, |reason| service.end_all(reason));
        end_all();
        stopped.send_replace(true);
        end_all();
        if !served {
            serving.await;
        }
        let kept = match kept {
            Some(kept) => kept,
            // It may be waiting for a broker that does not answer.
            None => {
                keeping.abort();
                Ok(Ok(()))
            }
        };
        if let Err(error) = service.sentry().flush().await {
            tracing::error!(%error, "what was given last is not written down");
        }
        let event = AuditEvent::Stopped { part: Part::Server };
        if let Err(error) = self.audit.record(now(), event).await {
            tracing::error!(%error, "the end is not recorded");
        }
        kept.map_err(|error| std::io::Error::other(error.to_string()))?
    }
}

/// The device that the configuration names, opened.
///
/// # Errors
/// [`ServeError`] without such a device, or without a file that it needs.
pub fn evidence_provider(config: &ServerConfig) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    provider::provider(&config.attestation, release_key(config)?, now())
}

fn release_key(config: &ServerConfig) -> Result<ReleasePublicKey, ServeError> {
    let key = read_text(&config.trust.release_key)?;
    ReleasePublicKey::from_hex(&key).map_err(|error| ServeError::ReleaseKey {
        file: config.trust.release_key.to_path_buf(),
        error,
    })
}

impl Ground {
    fn read(
        config: &ServerConfig,
        provider: Arc<dyn EvidenceProvider>,
    ) -> Result<Self, ServeError> {
        let key = release_key(config)?;
        let authority = certificates(&config.broker.authority)?
            .into_iter()
            .next()
            .ok_or_else(|| ServeError::NoCertificate(config.broker.authority.to_path_buf()))?;
        let broker = BrokerAddress {
            address: config.broker.address.clone(),
            name: config.broker.name.clone(),
            authority,
        };
        let floors = FloorsFile::at(config.state.folder.join(FLOORS), key.id());
        Ok(Self {
            key,
            clients: certificates(&config.trust.client_authority)?,
            broker,
            machine: OwnMachine {
                provider,
                devices: devices::asker(&config.attestation, key)?,
            },
            documents: Documents::new(key, floors),
            audit: AuditLog::open(&config.audit.file, config.audit.durability)?,
        })
    }
}

impl Ground {
    /// Joins what answers requests.
    fn service(
        &self,
        config: &ServerConfig,
        context: Context,
        (access, outlet, queue, sentry): (Access, Outlet, Queue, Sentry),
        revoked: Arc<Revoked>,
    ) -> Result<Arc<Service>, ServeError> {
        let waiting_max = config.limits.evidence_waiting as usize;
        let batcher = EvidenceBatcher::start(Arc::clone(&self.machine.provider), waiting_max)?;
        let attestor = Attestor::new(batcher, context, client_evidence(config, &self.key)?);
        Ok(Service::new(Parts {
            attestor: attestor.with_devices(self.machine.devices.clone()),
            access,
            outlet,
            queue,
            sentry,
            registry: Registry::new(config.limits.connections_per_principal as usize),
            revoked,
            audit: self.audit.clone(),
            limits: config.limits.api(config.attestation.session_seconds),
        }))
    }
}

/// How evidence of clients' machines is judged. Its documents must be in force now, and are read again for every session.
fn client_evidence(
    config: &ServerConfig,
    key: &ReleasePublicKey,
) -> Result<ClientEvidence, ServeError> {
    let Some(section) = &config.clients else {
        return Ok(ClientEvidence::NotJudged);
    };
    let files = FleetFiles {
        release_key: section.release_key.to_path_buf(),
        reference: section.reference.to_path_buf(),
        fleet: section.fleet.to_path_buf(),
        platform: section.platform,
        test_chip_root: section
            .test_chip_root
            .as_ref()
            .map(|path| path.to_path_buf()),
        // Laptops have no GPUs that prove themselves.
        test_gpu_root: None,
    };
    let floors = config.state.folder.join(CLIENT_FLOORS);
    let trust = Trust::of_fleet(files, |key| FloorsFile::at(floors, key.id()))?;
    if trust.release_key() == key {
        return Err(ServeError::ClientsShareReleaseKey);
    }
    trust.appraiser(now())?;
    let verifier = ClientVerifier::Documents(Box::new(trust));
    Ok(match section.evidence {
        ClientDemand::Optional => ClientEvidence::Optional(verifier),
        ClientDemand::Required => ClientEvidence::Required(verifier),
    })
}

/// What rules of the policy may ask about this machine.
fn machine(config: &ServerConfig, tcb: Option<TcbVersion>) -> Machine {
    Machine {
        platform: config.attestation.platform,
        tcb,
    }
}

/// Asks the broker; its refusal is recorded here too.
async fn release(
    ground: &Ground,
    request: &ReleaseRequest,
) -> Result<(Released, ReleaseClient), ServeError> {
    match ReleaseClient::release(&ground.broker, &ground.machine, request).await {
        Ok(released) => Ok(released),
        Err(error) => {
            ground.audit.note(now(), keeper::release_refused(&error));
            Err(error.into())
        }
    }
}

async fn record_start(
    audit: &AuditLog,
    config: &Loaded<ServerConfig>,
    policy: &PolicyBundle,
    revocations: &Verified<Revocations>,
) -> Result<(), ServeError> {
    let events = [
        AuditEvent::Started {
            part: Part::Server,
            version: env!("CARGO_PKG_VERSION"),
            configuration: config.digest(),
            confidential: config.attestation.platform.confidential(),
        },
        AuditEvent::PolicyInForce {
            number: policy.number(),
            policy: policy.digest(),
        },
        AuditEvent::RevocationsInForce {
            number: revocations.number(),
            revocations: revocations.digest(),
            connections_ended: 0,
        },
    ];
    for event in events {
        audit.record(now(), event).await?;
    }
    Ok(())
}

const TEXT_BYTES_MAX: u64 = 256 * 1024;

fn read_text(file: &Path) -> Result<String, ServeError> {
    let bytes = casemate_client::files::read_public(file, TEXT_BYTES_MAX)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The certificates of a PEM file, at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let text = read_text(file)?;
    let found = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| ServeError::NoCertificate(file.to_owned()))
}
