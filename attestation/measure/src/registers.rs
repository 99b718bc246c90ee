//! Registers that only grow: each event is hashed onto what is there. TPM registers of SHA-256 and TDX registers of SHA-384
//! are two folds over the same events.

use ring::digest::{Algorithm, SHA256, SHA384, digest};

/// The hash of a bank of registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// TPM, 32 bytes.
    Sha256,
    /// TPM and TDX, 48 bytes.
    Sha384,
}

impl Hash {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Sha256 => &SHA256,
            Self::Sha384 => &SHA384,
        }
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> Vec<u8> {
        digest(self.algorithm(), bytes).as_ref().to_vec()
    }
}

/// A register that starts at zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    hash: Hash,
    value: Vec<u8>,
}

impl Register {
    /// Zeros.
    #[must_use]
    pub fn zero(hash: Hash) -> Self {
        let value = vec![0; hash.algorithm().output_len()];
        Self { hash, value }
    }

    /// The register after these digests, in order.
    #[must_use]
    pub fn after<'a>(hash: Hash, digests: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let extend = |register: Self, digest: &[u8]| {
            let both = [register.value.as_slice(), digest].concat();
            Self {
                hash,
                value: hash.of(&both),
            }
        };
        digests.into_iter().fold(Self::zero(hash), extend)
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}
