//! Why a manifest was refused: one variant per rule, in the order in which the rules are checked.

use casemate_attestation::nvidia::NvidiaRejection;

/// A manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RimError {
    /// Rule R-1: not the one shape of XML that manifests have.
    #[error("manifest is no XML of the form that manifests have: {what} (at byte {at})")]
    Xml {
        /// What is wrong.
        what: &'static str,
        /// Where, from 0, after line ends were made one.
        at: usize,
    },
    /// Rule R-2: not the one form of signature.
    #[error("signature of the manifest is not of the form that counts: {0}")]
    Form(&'static str),
    /// Rule R-3: the content is not what was signed.
    #[error("digest in the signature is not that of the manifest: its content was changed")]
    Digest,
    /// Rule R-4: chain, names, dates, by the words of rule N3.
    #[error("signer of the manifest: {0}")]
    Signer(#[from] NvidiaRejection),
    /// Rule R-5.
    #[error("manifest is not signed by its signer")]
    Signature,
    /// Rule R-6.
    #[error("manifest says nothing that can be used: {0}")]
    Content(&'static str),
}
