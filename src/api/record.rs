//! What the API writes into the audit log: decisions and sessions before anybody acts on them, ends and refusals after.

use std::sync::Arc;

use casemate_attestation::Sha256Digest;
use casemate_models::grammar::GrammarError;

use super::access::Caller;
use super::{ApiError, Service};
use crate::audit::{AuditError, AuditEvent, AuditLog, SessionId, Step};
use crate::policy::{Action, Denied, Granted, ModelRef, PolicyBundle, Principal};
use crate::session::{Confirmation, Confirmed, Connection, now};

/// A connection whose end is recorded, if it was ever attested.
pub struct Attended {
    connection: Arc<Connection>,
    audit: AuditLog,
}

impl Attended {
    pub(super) fn new(connection: Connection, audit: AuditLog) -> Self {
        Self {
            connection: Arc::new(connection),
            audit,
        }
    }

    /// The connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        let Some(session) = self.connection.last_session() else {
            return;
        };
        let event = AuditEvent::SessionEnded {
            session: SessionId(session),
            reason: self
                .connection
                .peer()
                .line
                .closed_because()
                .unwrap_or("closed"),
        };
        self.audit.note(now(), event);
    }
}

fn not_recorded(error: &AuditError) -> ApiError {
    tracing::error!(%error, "refused, because it cannot be recorded");
    ApiError::Internal
}

impl Service {
    pub(super) async fn record_decision(
        &self,
        caller: &Caller,
        bundle: &PolicyBundle,
        action: Action,
        model: &ModelRef,
        outcome: &Result<Granted, Denied>,
    ) -> Result<(), ApiError> {
        let session = Some(SessionId(caller.session.id()));
        let principal = caller.connection.principal();
        let event = AuditEvent::decision(bundle, session, principal, action, model, outcome);
        let recorded = self.audit.record(now(), event).await;
        recorded.map(|_| ()).map_err(|error| not_recorded(&error))
    }

    /// A session that cannot be recorded ends with its connection.
    pub(super) async fn record_session(
        &self,
        connection: &Connection,
        confirmation: &Confirmation,
        confirmed: &Confirmed,
    ) -> Result<(), ApiError> {
        let client = connection.last_client();
        let event = AuditEvent::Session {
            session: SessionId(confirmed.session),
            principal: connection.principal().clone(),
            leaf: connection.leaf(),
            evidence: confirmation.evidence,
            deadline: confirmed.deadline,
            client_platform: client.map(|machine| machine.platform),
            client_chip: client.map(|machine| machine.chip),
        };
        let recorded = self.audit.record(now(), event).await;
        recorded.map(|_| ()).map_err(|error| {
            connection.peer().line.close("not_recorded");
            not_recorded(&error)
        })
    }

    /// A request that was refused. Policy's refusals are recorded as decisions already.
    pub(super) fn record_refusal(&self, connection: &Connection, error: &ApiError) {
        let Some(step) = step_of(error) else { return };
        let event = AuditEvent::Refused {
            step,
            principal: Some(connection.principal().clone()),
            leaf: Some(connection.leaf()),
            session: connection.last_session().map(SessionId),
            reason: error.code(),
        };
        self.audit.note_refusal(now(), event);
    }

    /// A certificate that was good for the handshake and not for more.
    pub(super) fn turned_away(
        &self,
        principal: Option<&Principal>,
        leaf: Sha256Digest,
        reason: &'static str,
    ) {
        tracing::info!(reason, "connection refused");
        let event = AuditEvent::Refused {
            step: Step::Handshake,
            principal: principal.cloned(),
            leaf: Some(leaf),
            session: None,
            reason,
        };
        self.audit.note_refusal(now(), event);
    }

    pub(super) fn record_handshake(&self, reason: &'static str) {
        let event = AuditEvent::Refused {
            step: Step::Handshake,
            principal: None,
            leaf: None,
            session: None,
            reason,
        };
        self.audit.note_refusal(now(), event);
    }
}

/// Where a request was refused; `None` for what is recorded as a decision or as an answer's end.
fn step_of(error: &ApiError) -> Option<Step> {
    match error {
        ApiError::Denied { .. } => None,
        ApiError::Session(_) => Some(Step::Attestation),
        ApiError::LimitReached { .. }
        | ApiError::GuardWithheld { .. }
        | ApiError::GuardWindow { .. }
        | ApiError::GuardStepUp { .. }
        | ApiError::GuardClosed { .. }
        | ApiError::GuardSpent { .. }
        | ApiError::Busy
        | ApiError::Schema {
            reason: GrammarError::Busy,
        } => Some(Step::Limit),
        ApiError::Internal
        | ApiError::AnswerTooSlow { .. }
        | ApiError::Stopping
        | ApiError::GuardUnwritten => Some(Step::Engine),
        _ => Some(Step::Request),
    }
}
