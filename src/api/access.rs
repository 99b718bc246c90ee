//! Joins requests with policy: which model a name stands for, whether this caller may, and what it costs. The policy in force
//! is exchanged while running; each decision asks the one in force then.

use std::sync::{Arc, PoisonError, RwLock};

use casemate_attestation::{Platform, TcbVersion, UnixTime};

use super::ApiError;
use crate::policy::{
    Action, DecisionContext, Denied, Granted, ModelRef, PolicyBundle, SharedBudgets, Slot, decide,
};
use crate::session::{AttestedSession, Connection};

/// Policy and budgets of one server.
pub struct Access {
    bundle: RwLock<Arc<PolicyBundle>>,
    budgets: SharedBudgets,
    machine: Machine,
}

/// What this server's own evidence says of its machine, for rules that ask.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Under which roots its evidence stands.
    pub platform: Platform,
    /// The firmware that its evidence reports.
    pub tcb: Option<TcbVersion>,
}

/// Who asks: a connection with a session in force.
#[derive(Clone)]
pub struct Caller {
    /// The connection.
    pub connection: Arc<Connection>,
    /// Its session when the request came.
    pub session: AttestedSession,
}

impl Access {
    /// Decides by `bundle`, on a server whose evidence says `machine`.
    pub fn new(bundle: PolicyBundle, machine: Machine) -> Self {
        Self {
            bundle: RwLock::new(Arc::new(bundle)),
            budgets: SharedBudgets::default(),
            machine,
        }
    }

    /// The policy in force.
    pub fn bundle(&self) -> Arc<PolicyBundle> {
        Arc::clone(&self.bundle.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a newer policy in force.
    pub fn replace(&self, bundle: PolicyBundle) {
        *self.bundle.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(bundle);
    }

    /// Decides, and says by which policy. The caller's team, model and rules stand in the reason of a refusal; nothing of
    /// the request does.
    pub fn decide(
        &self,
        caller: &Caller,
        action: Action,
        model: &ModelRef,
        now: UnixTime,
    ) -> (Arc<PolicyBundle>, Result<Granted, Denied>) {
        let principal = caller.connection.principal();
        let Machine { platform, tcb } = self.machine;
        let context = DecisionContext {
            now,
            platform,
            confidential: platform.confidential(),
            tcb,
            client: caller.session.client_machine(),
            peer: caller.connection.peer().address.ip(),
            tokens_spent: self.budgets.tokens_spent(principal, now),
            // No request of this API declares a class yet.
            data_class: None,
            attested_at: caller.session.attested_at(),
        };
        let bundle = self.bundle();
        let outcome = decide(&bundle, principal, action, model, &context);
        (bundle, outcome)
    }

    /// Sets the tokens of an admitted request aside.
    ///
    /// # Errors
    /// [`ApiError::LimitReached`].
    pub fn admit(
        &self,
        granted: &Granted,
        prompt_tokens: usize,
        answer_tokens: usize,
        now: UnixTime,
    ) -> Result<Slot, ApiError> {
        let answer = u32::try_from(answer_tokens).unwrap_or(u32::MAX);
        self.budgets
            .admit(granted, prompt_tokens as u64, answer, now)
            .map_err(|exceeded| ApiError::LimitReached {
                retry_s: exceeded.retry_after_seconds(now),
                reason: exceeded.to_string(),
            })
    }
}
