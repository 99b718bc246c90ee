//! Why a package is refused, one variant per rule of docs/formats/package.md, and why sealing failed.

use crate::gguf::GgufError;

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The file cannot be read.
    #[error("cannot read the package: {0}")]
    Read(#[from] std::io::Error),
    /// Rule PK-3: the magic is another one.
    #[error("not a Casemate package: it does not begin with CASEMATE")]
    NotAPackage,
    /// Rule PK-3: the format version is another one.
    #[error("package format version {found} is not supported, this build reads version 1")]
    UnsupportedVersion {
        /// Version in the clear header.
        found: u32,
    },
    /// Rule PK-3: an algorithm is another one.
    #[error("{role} algorithm {found} is not supported, this build reads algorithm 1")]
    UnsupportedAlgorithm {
        /// What the algorithm is for.
        role: &'static str,
        /// Number in the clear header.
        found: u16,
    },
    /// Rules PK-1, PK-2, PK-4: a field of the clear header is not as the format says.
    #[error("malformed clear header: {0}")]
    MalformedHeader(&'static str),
    /// Rule PK-6: the file is shorter than its header says.
    #[error("package is truncated: {found} bytes of {expected}, copy it again")]
    Truncated {
        /// Bytes the file should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// Rule PK-6: the file is longer than its header says.
    #[error("package has trailing bytes: {found} bytes instead of {expected}")]
    TrailingBytes {
        /// Bytes the file should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// Rule PK-41: an older package than the reader accepts.
    #[error("package epoch {found} is below the floor {floor}: an older package was put back")]
    EpochBelowFloor {
        /// Epoch in the clear header.
        found: u64,
        /// Lowest epoch accepted.
        floor: u64,
    },
    /// Rule PK-24: wrong key or altered file; which of the two is not told.
    #[error("package cannot be opened: wrong key or altered file")]
    CannotOpen,
    /// Rules PK-30, PK-31: the manifest is not as the format says.
    #[error("malformed manifest: {0}")]
    MalformedManifest(&'static str),
    /// Rule PK-34: signed with another key than the pinned one.
    #[error("package is published by {found}, not by the pinned release key")]
    WrongPublisher {
        /// Public key in the manifest, in hexadecimal.
        found: String,
    },
    /// Rule PK-33: the publisher's signature does not hold.
    #[error("the publisher's signature does not match the package")]
    BadSignature,
    /// Rule PK-31: the source header is no GGUF header.
    #[error("the package's GGUF header is refused: {0}")]
    SourceHeader(#[from] GgufError),
    /// Rule PK-32: the content is not what the publisher signed.
    #[error("the content's tree hash differs from the signed one")]
    TreeHashDiffers,
    /// Rule PK-30: header and content are not the signed source file.
    #[error("the source file's hash differs from the signed one")]
    SourceHashDiffers,
    /// A read outside the content: the caller's mistake.
    #[error("read of {len} bytes at {offset} is outside the content")]
    OutsideContent {
        /// Offset into the content.
        offset: u64,
        /// Bytes asked for.
        len: u64,
    },
}

/// Why a package was not made. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Rule PK-1: key id out of bounds.
    #[error("key id must be 1 to 128 printable ASCII characters without spaces")]
    BadKeyId,
    /// Rule PK-30: name or version out of bounds.
    #[error("model {0} must be 1 to 128 bytes of text without control characters")]
    BadText(&'static str),
    /// Rule PK-50: something is there already.
    #[error("{0} exists already: choose another name or remove it first")]
    OutputExists(String),
    /// The source cannot be read.
    #[error("cannot read the model file: {0}")]
    Source(#[source] std::io::Error),
    /// The source is no GGUF file that can be served.
    #[error("the model file is refused: {0}")]
    Gguf(#[from] GgufError),
    /// Rule PK-31: header or content beyond the format's bounds.
    #[error("the model file's {0} is too large for a package")]
    TooLarge(&'static str),
    /// Rule PK-31: a vocabulary alone is no model.
    #[error("the model file holds no tensors: a vocabulary alone is no model")]
    NoTensors,
    /// Rule PK-31: tensors end beyond the file.
    #[error("the model file is truncated: tensor data of {expected} bytes, {found} there")]
    SourceTruncated {
        /// Bytes the tensors need.
        expected: u64,
        /// Bytes of tensor data in the file.
        found: u64,
    },
    /// Rule PK-51: the source changed meanwhile.
    #[error("the model file changed while it was being sealed: try again")]
    SourceChanged,
    /// Rule PK-33: signer and public key do not belong together.
    #[error("the release key's signature does not verify: public and secret key differ")]
    BadSignature,
    /// The package cannot be written.
    #[error("cannot write the package: {0}")]
    Write(#[source] std::io::Error),
    /// The system's randomness or the cipher failed.
    #[error("the cipher or the system's randomness failed")]
    Crypto,
}
