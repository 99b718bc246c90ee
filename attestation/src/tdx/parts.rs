//! What a refusal can be about: certificates, lists, documents and firmware versions, in words.

/// A certificate's place in Intel's two chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TdxCertificate {
    /// The platform's certificate, whose key signs quoting enclaves.
    Pck,
    /// The Platform CA or Processor CA above it.
    PckAuthority,
    /// Who signed the TCB info.
    TcbInfoSigner,
    /// Who signed the QE identity.
    QeIdentitySigner,
    /// The pinned root.
    Root,
}

impl std::fmt::Display for TdxCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pck => "PCK certificate",
            Self::PckAuthority => "PCK authority's certificate",
            Self::TcbInfoSigner => "certificate of the TCB info's signer",
            Self::QeIdentitySigner => "certificate of the QE identity's signer",
            Self::Root => "pinned root certificate",
        })
    }
}

/// One of the two revocation lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TdxCrl {
    /// Of the root: covers the PCK authority and the signers of collateral.
    Root,
    /// Of the PCK authority: covers the platform's certificate.
    Pck,
}

impl std::fmt::Display for TdxCrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Root => "revocation list of the root",
            Self::Pck => "revocation list of the PCK authority",
        })
    }
}

/// One of the two signed documents of the collateral.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TdxDocument {
    /// What firmware a platform should have.
    TcbInfo,
    /// What quoting enclave may speak for a platform.
    QeIdentity,
}

impl std::fmt::Display for TdxDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TcbInfo => "TCB info",
            Self::QeIdentity => "QE identity",
        })
    }
}

/// Which firmware versions of a TD: TDX 1.5 can update its module under a running TD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TdxTcb {
    /// When the TD was launched: `TEE_TCB_SVN`.
    Launch,
    /// Now: `TEE_TCB_SVN_2`.
    Current,
}

impl std::fmt::Display for TdxTcb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Launch => "launch",
            Self::Current => "current",
        })
    }
}
