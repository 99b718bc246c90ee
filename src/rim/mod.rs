//! NVIDIA's manifests (RIM: signed XML) become plain lists, once, when a release is made (rules of collateral.md).
//!
//! This stands in the operator's program and not beside the verifier, so that no client ever reads XML (docs/decisions/0015).
//! The order is: one shape of text, the signature's own shape, the digest over everything, the signer's chain, the signature, and
//! only then the values. They are read from the very tree that was written out and hashed.

mod canonical;
mod error;
mod manifest;
mod signature;
mod xml;

use casemate_attestation::collateral::GpuList;
use casemate_attestation::nvidia::PinnedManifestRoot;
use casemate_attestation::{Sha256Digest, UnixTime};

pub use error::RimError;

/// What a manifest that was verified says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its values.
    pub list: GpuList,
    /// The last second at which its signer's chain is valid. The list outlives it: a manifest is judged once.
    pub signer_until: UnixTime,
}

/// Verifies a manifest at `now` and reads its active values.
///
/// # Errors
/// [`RimError`] names the first rule that does not hold.
pub fn import(
    bytes: &[u8],
    root: &PinnedManifestRoot,
    now: UnixTime,
) -> Result<Imported, RimError> {
    let document = xml::Element::parse(bytes)?;
    let signer_until = signature::verify(&document, root, now)?;
    let list = manifest::read(&document, Sha256Digest::of(bytes))?;
    Ok(Imported { list, signer_until })
}
