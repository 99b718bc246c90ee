//! Who may sign manifests (RIM): NVIDIA's root for them, and the chain to it. The XML itself is read elsewhere, once, at release.

use crate::ecdsa::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use super::chain;
use super::rejection::NvidiaRejection;
use crate::digest::UnixTime;

/// The root that chains of manifests must end in, byte for byte. It is none of devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedManifestRoot {
    der: Vec<u8>,
}

impl PinnedManifestRoot {
    /// NVIDIA CoRIM signing Root CA.
    #[must_use]
    pub fn nvidia() -> Self {
        Self {
            der: include_bytes!("roots/rim_root_ca.der").to_vec(),
        }
    }

    /// A root that is not NVIDIA's. What is signed under it says nothing about a device.
    #[cfg(feature = "test-chip")]
    #[must_use]
    pub fn private(der: &[u8]) -> Self {
        Self { der: der.to_vec() }
    }
}

/// A key that NVIDIA lets sign manifests. [`ManifestSigner::of`] is its only constructor.
///
/// ```compile_fail
/// let signer = casemate_attestation::nvidia::ManifestSigner::default();
/// ```
///
/// ```
/// fn until(signer: &casemate_attestation::nvidia::ManifestSigner) -> u64 {
///     signer.until().secs()
/// }
/// ```
#[derive(Debug, Clone)]
pub struct ManifestSigner {
    point: Vec<u8>,
    until: UnixTime,
}

impl ManifestSigner {
    /// Checks a chain of certificates (DER, signer first, pinned root last), all valid at `now`. Its signers live two years.
    ///
    /// # Errors
    /// [`NvidiaRejection`] names the first rule that does not hold, by the words of rule N3.
    pub fn of(
        chain: &[Vec<u8>],
        root: &PinnedManifestRoot,
        now: UnixTime,
    ) -> Result<Self, NvidiaRejection> {
        let (point, until) = chain::signer(chain, &root.der, now)?;
        Ok(Self { point, until })
    }

    /// Whether it signed `message` by ECDSA P-384 with SHA-384; r and s as XML signatures write them.
    #[must_use]
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.point)
            .verify(message, signature)
            .is_ok()
    }

    /// The last second at which the chain is valid.
    #[must_use]
    pub const fn until(&self) -> UnixTime {
        self.until
    }
}
