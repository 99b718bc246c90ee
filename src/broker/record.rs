//! The broker's audit records: one for each release and each refusal, on disk before anything leaves.

use casemate_attestation::{Sha256Digest, VerifiedEvidence};

use super::refusal::Refusal;
use super::{service, wire};
use crate::audit::{AuditEvent, AuditLog};

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
