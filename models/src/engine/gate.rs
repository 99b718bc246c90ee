//! The bound on what is in the engine: a request takes a place here before it is queued, or is told "busy" at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::request::{EngineLimits, SubmitError, Tenant};

/// Places for requests, waiting and running.
#[derive(Clone)]
pub struct Gate {
    taken: Arc<Mutex<HashMap<Tenant, usize>>>,
    places: usize,
    tenant_places: usize,
}

impl Gate {
    /// As many places as `limits` say.
    pub fn new(limits: &EngineLimits) -> Self {
        Self {
            taken: Arc::default(),
            places: limits.sequences_max + limits.queue_max,
            tenant_places: limits.tenant_max,
        }
    }

    /// Takes a place for `tenant`; it is free again when the answer is dropped.
    ///
    /// # Errors
    /// [`SubmitError::Busy`].
    pub fn enter(&self, tenant: Tenant) -> Result<Place, SubmitError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = taken.values().sum();
        let own = taken.entry(tenant).or_default();
        if total >= self.places || *own >= self.tenant_places {
            return Err(SubmitError::Busy);
        }
        *own += 1;
        Ok(Place {
            gate: self.clone(),
            tenant,
        })
    }
}

/// A place that a request holds until it is over.
pub struct Place {
    gate: Gate,
    tenant: Tenant,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self
            .gate
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.tenant) {
            *own = own.saturating_sub(1);
        }
        taken.retain(|_, own| *own > 0);
    }
}
