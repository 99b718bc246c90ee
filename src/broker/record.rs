//! The broker's audit records: one for each release and each refusal, on disk before anything leaves.

use casemate_attestation::{
    Platform, ReferenceValues, ReleasePublicKey, Sha256Digest, Verified, VerifiedEvidence,
};

use super::refusal::Refusal;
use super::{service, wire};
use crate::audit::{AcceptedImage, AuditEvent, AuditLog};

/// Which reference values came into force, who signed them, and what they accept.
pub(super) fn reference(
    document: &Verified<ReferenceValues>,
    key: &ReleasePublicKey,
    platform: Platform,
) -> AuditEvent {
    let images = document.payload().images(platform).into_iter();
    AuditEvent::ReferenceInForce {
        number: document.number(),
        reference: document.digest(),
        signed_by: key.id(),
        images: images
            .map(|image| AcceptedImage {
                image: image.id,
                label: image.label,
                until: image.until,
            })
            .collect(),
    }
}

/// Writes to the broker's audit log.
pub(super) struct Recorder {
    log: AuditLog,
}

impl Recorder {
    pub(super) fn new(log: AuditLog) -> Self {
        Self { log }
    }

    /// Records that keys are released; without the record they are not. Not for the async runtime's own threads.
    pub(super) fn released(
        &self,
        client_leaf: &[u8],
        evidence: &VerifiedEvidence,
        request: &wire::KeysRequest,
    ) -> Result<(), Refusal> {
        let event = AuditEvent::Release {
            leaf: Sha256Digest::of(client_leaf),
            platform: Some(evidence.platform()),
            chip: Some(evidence.chip_id()),
            measurement: Some(evidence.measurement()),
            packages: request
                .packages
                .iter()
                .map(|package| package.digest)
                .collect(),
            allowed: true,
            reason: "released",
        };
        let recorded = self.log.record_blocking(service::now(), event);
        recorded
            .map(|_| ())
            .map_err(|error| Refusal::Internal(error.to_string()))
    }

    /// Records what came into force, before anybody is judged by it. Not for the async runtime's own threads.
    pub(super) fn news(&self, event: Option<AuditEvent>) -> Result<(), Refusal> {
        let Some(event) = event else {
            return Ok(());
        };
        let recorded = self.log.record_blocking(service::now(), event);
        recorded
            .map(|_| ())
            .map_err(|error| Refusal::Internal(error.to_string()))
    }

    /// The same where nothing is released: the record reaches the disk with the next one that is waited for.
    pub(super) fn note_news(&self, event: Option<AuditEvent>) {
        if let Some(event) = event {
            self.log.note(service::now(), event);
        }
    }

    /// Records a refusal. If that fails, the log says so: nothing is released anyway.
    pub(super) async fn refused(&self, client_leaf: &[u8], refusal: &Refusal) {
        let event = AuditEvent::Release {
            leaf: Sha256Digest::of(client_leaf),
            platform: None,
            chip: None,
            measurement: None,
            packages: Vec::new(),
            allowed: false,
            reason: refusal.code().0,
        };
        tracing::info!(%refusal, "release refused");
        if let Err(error) = self.log.record(service::now(), event).await {
            tracing::error!(%error, "cannot write the audit log");
        }
    }
}
