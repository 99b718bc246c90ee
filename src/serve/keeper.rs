//! Keeps a running server up to date: asks the broker for newer documents every second (P-52), attests to it again after a
//! loss, and renews the certificate before it expires. Whatever is not newer, signed and in force changes nothing.

use std::sync::Arc;
use std::time::Duration;

use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{DocumentError, Ground, ServeError};
use crate::api::Service;
use crate::audit::{AuditEvent, Step};
use crate::broker::client::{ReleaseClient, ReleaseError, ReleaseRequest, Updates};
use crate::devices::{DeviceAskError, DeviceAsker, DevicesChanged};
use crate::sentry::Floor;
use crate::session::now;
use crate::tls::{IdentitySlot, ServingIdentity};

/// How often the broker is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long to wait before attesting again after a failure: twice as long each time, up to the second.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(30);
/// Rounds of looking at devices in which they may answer nobody because they are busy.
const UNSEEN_ROUNDS: u32 = 3;
/// A certificate is renewed when this many seconds of its life are left.
const RENEW_BEFORE_S: u64 = 8 * 3600;

/// Numbers of the documents in force.
pub(super) struct InForce {
    pub(super) policy_number: u64,
    pub(super) revocation_number: u64,
    /// Of which epoch the keys of marks are.
    pub(super) mark_epoch: u32,
}

/// The broker's side of a running server.
pub(super) struct Keeper {
    pub(super) ground: Ground,
    pub(super) request: ReleaseRequest,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    pub(super) service: Arc<Service>,
    pub(super) identities: Arc<IdentitySlot>,
    pub(super) in_force: InForce,
    pub(super) client: Option<ReleaseClient>,
    /// How often devices are looked at, where there are any.
    pub(super) watch_every: Option<Duration>,
    /// What the broker holds of the guard's ledger, as far as this process told it.
    pub(super) witnessed: Floor,
}

impl Keeper {
    /// Works until `stop` becomes true.
    ///
    /// # Errors
    /// When the broker refuses this machine's evidence: its organisation does not count on it any more. When other devices answer
    /// than at the start.
    pub(super) async fn run(mut self, stop: watch::Receiver<bool>) -> Result<(), ServeError> {
        let devices = self.ground.machine.devices.clone();
        let (service, every) = (Arc::clone(&self.service), self.watch_every);
        tokio::select! {
            kept = self.keep(stop) => kept,
            changed = watch_devices(devices, every, &service) => Err(changed.into()),
        }
    }

    async fn keep(&mut self, mut stop: watch::Receiver<bool>) -> Result<(), ServeError> {
        let mut retry = RETRY_FIRST;
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                () = sleep(ASK_EVERY) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
            self.service.forget_idle();
            self.ask().await;
            if (self.client.is_some() && !self.renewal_is_due()) || Instant::now() < not_before {
                continue;
            }
            match self.attest().await {
                Ok(()) => retry = RETRY_FIRST,
                Err(error) if error.is_dismissal() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "attesting to the broker failed; will try again");
                    not_before = Instant::now() + retry;
                    retry = (retry * 2).min(RETRY_LAST);
                }
            }
        }
    }

    async fn ask(&mut self) {
        let Some(client) = &mut self.client else {
            return;
        };
        let InForce {
            policy_number,
            revocation_number,
            ..
        } = self.in_force;
        match client.updates(policy_number, revocation_number).await {
            Ok(updates) => self.take(updates).await,
            Err(error) => {
                tracing::warn!(%error, "the broker gives no updates");
                self.client = None;
            }
        }
        self.witness().await;
    }

    /// Lets the broker hold how far the guard's ledger is, where it went on (P-53).
    async fn witness(&mut self) {
        let Some(client) = &mut self.client else {
            return;
        };
        let floor = self.service.sentry().floor();
        if floor.generation == self.witnessed.generation {
            return;
        }
        match client.raise_guard(&floor).await {
            Ok(()) => self.witnessed = floor,
            Err(error) => {
                tracing::warn!(%error, "the broker does not hold the guard's floor");
                self.client = None;
            }
        }
    }

    fn renewal_is_due(&self) -> bool {
        let expires = u64::try_from(self.identities.current().expires()).unwrap_or(0);
        now().secs().saturating_add(RENEW_BEFORE_S) >= expires
    }

    /// Attests to the broker again: a fresh leaf, and documents where they are newer. The data keys that come with them
    /// are not needed any more and are wiped.
    async fn attest(&mut self) -> Result<(), ServeError> {
        let (released, client) = super::release(&self.ground, &self.request).await?;
        let clients = Arc::clone(&self.clients);
        let identity = ServingIdentity::new(released.leaf_chain, released.private_key, clients)?;
        self.identities.replace(identity);
        self.client = Some(client);
        self.in_force.mark_epoch = released.mark.epoch();
        self.service.replace_marks(released.mark);
        let updates = Updates {
            policy_bundle: Some(released.policy_bundle),
            revocations: Some(released.revocations),
        };
        self.take(updates).await;
        tracing::info!("attested to the broker; the certificate is new");
        Ok(())
    }

    /// Puts newer documents in force. One that is refused leaves the one before in force, until that expires.
    async fn take(&mut self, updates: Updates) {
        if let Some(bytes) = updates.revocations
            && let Err(error) = self.take_revocations(&bytes)
        {
            tracing::error!(%error, "not put in force");
        }
        if let Some(bytes) = updates.policy_bundle
            && let Err(error) = self.take_policy(&bytes)
        {
            tracing::error!(%error, "not put in force");
        }
    }

    fn take_revocations(&mut self, bytes: &[u8]) -> Result<(), DocumentError> {
        let list = self.ground.documents.revocations(bytes, now())?;
        if list.number() <= self.in_force.revocation_number {
            return Ok(());
        }
        let ended = self.service.revoke(&list);
        self.in_force.revocation_number = list.number();
        let event = AuditEvent::RevocationsInForce {
            number: list.number(),
            revocations: list.digest(),
            connections_ended: ended as u64,
        };
        self.ground.audit.note(now(), event);
        Ok(())
    }

    fn take_policy(&mut self, bytes: &[u8]) -> Result<(), DocumentError> {
        let bundle = self.ground.documents.policy(bytes, now())?;
        if bundle.number() <= self.in_force.policy_number {
            return Ok(());
        }
        let event = AuditEvent::PolicyInForce {
            number: bundle.number(),
            policy: bundle.digest(),
        };
        self.in_force.policy_number = bundle.number();
        if bundle.document().mark_epoch != self.in_force.mark_epoch {
            // The keys of another epoch come with a release. Until then nothing is marked.
            self.client = None;
        }
        self.service.replace_policy(bundle);
        self.ground.audit.note(now(), event);
        Ok(())
    }
}

/// Looks at the devices again and again; completes only when others answer than at the start. While they answer nothing that can be
/// used, no session stands: each must attest again, which fails until they answer.
async fn watch_devices(
    devices: Option<DeviceAsker>,
    every: Option<Duration>,
    service: &Service,
) -> DevicesChanged {
    let (Some(devices), Some(every)) = (devices, every) else {
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            changed = devices.change() => return changed,
            () = sleep(every) => {}
        }
        match devices.check().await {
            Ok(()) => {}
            // Devices that answer others are seen; those that are busy with something else are not.
            Err(DeviceAskError::Busy) if devices.unseen_for() < every * UNSEEN_ROUNDS => {}
            Err(DeviceAskError::Changed(changed)) => return changed,
            Err(error) => {
                let ended = service.end_all("devices_unavailable");
                tracing::error!(%error, ended, "devices that were attested give no evidence; connections ended");
            }
        }
    }
}

/// The record of a release that did not come about.
pub(super) fn release_refused(error: &ReleaseError) -> AuditEvent {
    AuditEvent::Refused {
        step: Step::Release,
        principal: None,
        leaf: None,
        session: None,
        reason: match error {
            ReleaseError::Refused { .. } => "broker_refused",
            ReleaseError::Connect { .. } | ReleaseError::Lost(_) => "broker_unreachable",
            ReleaseError::Evidence(_) | ReleaseError::Devices(_) => "no_evidence",
            _ => "release_failed",
        },
    }
}
