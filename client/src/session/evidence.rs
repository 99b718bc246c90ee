//! Evidence of the client's own machine, for policies that ask for it (rule P-41).

use std::fmt;
use std::sync::Arc;

use casemate_attestation::{Binding, Context, Envelope, EnvelopeParts, EvidenceProvider};

use crate::error::ConnectError;

/// This machine's security processor.
#[derive(Clone)]
pub struct OwnEvidence(Arc<dyn EvidenceProvider>);

impl OwnEvidence {
    /// Evidence from `provider`, which is asked once per attestation.
    #[must_use]
    pub fn new(provider: Arc<dyn EvidenceProvider>) -> Self {
        Self(provider)
    }

    /// An envelope over `binding`. The processor may take its time; it gets a thread that may wait.
    pub(super) async fn envelope(
        &self,
        binding: Binding,
        context: Context,
    ) -> Result<Envelope, ConnectError> {
        let provider = self.0.clone();
        let platform = provider.platform();
        let asked = tokio::task::spawn_blocking(move || provider.evidence(binding.as_bytes()));
        let hardware = asked
            .await
            .map_err(|_| ConnectError::OwnEvidence("the provider broke down".into()))?
            .map_err(|e| ConnectError::OwnEvidence(e.to_string()))?;
        let direction = binding.direction();
        Ok(Envelope::build(EnvelopeParts {
            platform,
            direction,
            hardware,
            context,
            batch: None,
            devices: None,
        })?)
    }
}

impl fmt::Debug for OwnEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnEvidence({})", self.0.platform())
    }
}
