//! What stands between sampler and stream, with its secrets: the enclave's noise and the keys of marks. The keys come from the
//! broker with the data keys and are exchanged when policy names another epoch.

use std::sync::{Arc, PoisonError, RwLock};

use ring::rand::{SecureRandom, SystemRandom};

use super::keep::Secrets;
use super::mark::{MarkRoot, SUB_KEYS, TeamMark};
use super::noise::Noise;
use crate::policy::TeamName;

/// The guard on the way out.
pub struct Outlet {
    root: RwLock<Arc<MarkRoot>>,
    secrets: Secrets,
}

/// The system gave no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no randomness from the operating system")]
pub struct NoRandomness;

impl Outlet {
    /// Under the keys of one epoch.
    #[must_use]
    pub fn new(root: MarkRoot) -> Self {
        Self {
            root: RwLock::new(Arc::new(root)),
            secrets: Secrets::default(),
        }
    }

    /// What teams' answers were searched for lately.
    #[must_use]
    pub const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Puts another epoch's keys in force.
    pub fn replace(&self, root: MarkRoot) {
        *self.root.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(root);
    }

    fn root(&self) -> Arc<MarkRoot> {
        Arc::clone(&self.root.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where seeds come from. All servers that hold this epoch's keys give the same text to the same request.
    #[must_use]
    pub fn noise(&self) -> Noise {
        self.root().noise()
    }

    /// A team's keys, if those of `epoch` are held: between a new policy and the keys that it names nothing is marked.
    #[must_use]
    pub fn team(&self, team: &TeamName, epoch: u32) -> Option<TeamMark> {
        let root = self.root();
        (root.epoch() == epoch).then(|| root.team(team.as_str()))
    }
}

/// The number of a sub-key for one request.
///
/// # Errors
/// [`NoRandomness`].
pub fn any_sub_key() -> Result<u8, NoRandomness> {
    let mut byte = [0; 1];
    SystemRandom::new()
        .fill(&mut byte)
        .map_err(|_| NoRandomness)?;
    let [byte] = byte;
    Ok(byte % SUB_KEYS)
}
