//! Roots of trust for TDX. Intel's is compiled in; no root is ever taken from a quote or from collateral.

/// A root certificate that chains must end in, by its key. Intel's pre-production root has the same name and another
/// key, and counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxRoot {
    der: Vec<u8>,
}

impl TdxRoot {
    /// Intel's production root, `Intel SGX Root CA`.
    #[must_use]
    pub fn intel() -> Self {
        Self {
            der: include_bytes!("roots/intel_sgx_root_ca.der").to_vec(),
        }
    }

    /// A root that is not Intel's. What chains to it says nothing about a machine.
    #[cfg(feature = "test-chip")]
    #[must_use]
    pub fn private(der: &[u8]) -> Self {
        Self { der: der.to_vec() }
    }

    /// The certificate (DER).
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256Digest;

    #[test]
    fn intels_root_is_the_one_of_production() {
        let digest = Sha256Digest::of(TdxRoot::intel().der()).to_string();
        assert_eq!(
            digest,
            "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
        );
    }
}
