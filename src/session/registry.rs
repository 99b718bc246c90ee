//! Every open connection by principal and certificate, so that a revocation ends it within seconds (S8) and one principal
//! cannot hold all connections (S14).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use casemate_attestation::Sha256Digest;

use crate::listener::Line;

/// The open connections.
#[derive(Debug)]
pub struct Registry {
    per_principal_max: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    open: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    principal: String,
    leaf: Sha256Digest,
    line: Arc<Line>,
}

/// A place in the registry, given up when dropped.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    number: u64,
}

impl Registry {
    /// A registry that lets each principal hold `per_principal_max` connections.
    pub fn new(per_principal_max: usize) -> Arc<Self> {
        Arc::new(Self {
            per_principal_max,
            entries: Mutex::default(),
        })
    }

    /// Enters a connection, or `None` if the principal holds too many.
    pub fn enter(
        self: &Arc<Self>,
        principal: &str,
        leaf: Sha256Digest,
        line: Arc<Line>,
    ) -> Option<Registration> {
        let mut entries = self.lock();
        let held = entries
            .open
            .values()
            .filter(|entry| entry.principal == principal)
            .count();
        if held >= self.per_principal_max {
            return None;
        }
        let number = entries.next;
        entries.next += 1;
        entries.open.insert(
            number,
            Entry {
                principal: principal.to_owned(),
                leaf,
                line,
            },
        );
        Some(Registration {
            registry: Arc::clone(self),
            number,
        })
    }

    /// Ends every connection that `named` names by principal and leaf, and says why. Returns how many.
    pub fn end(&self, reason: &'static str, named: impl Fn(&str, &Sha256Digest) -> bool) -> usize {
        let entries = self.lock();
        let ending = entries
            .open
            .values()
            .filter(|entry| named(&entry.principal, &entry.leaf));
        ending.map(|entry| entry.line.close(reason)).count()
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.lock().open.len()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().open.remove(&self.number);
    }
}
