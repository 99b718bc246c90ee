//! What vouches for this machine, by configuration.

use std::path::Path;
use std::sync::Arc;

use casemate_attestation::{EvidenceProvider, Platform, UnixTime};

use super::ServeError;
use crate::config::AttestationSection;

/// The provider that the configuration names.
///
/// # Errors
/// [`ServeError::NoProvider`] for a platform that this build cannot ask, [`ServeError::File`] for the test chip's seed.
pub(super) fn provider(
    section: &AttestationSection,
    now: UnixTime,
) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    match (section.platform, &section.test_chip_seed) {
        (Platform::TestChip, Some(seed)) => test_chip(seed, now),
        (platform, _) => Err(ServeError::NoProvider(platform)),
    }
}

#[cfg(not(feature = "test-chip"))]
fn test_chip(_: &Path, _: UnixTime) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    Err(ServeError::NoProvider(Platform::TestChip))
}

#[cfg(feature = "test-chip")]
fn test_chip(seed: &Path, now: UnixTime) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    let bytes = crate::secrets::read_secret_file(seed)?;
    let seed =
        <&[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| ServeError::Seed(seed.to_owned()))?;
    let chip = casemate_attestation::test_chip::TestChip::from_seed(seed, now);
    Ok(Arc::new(chip))
}
