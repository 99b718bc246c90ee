//! Which roots count. Production knows AMD's and nothing else; the test chip's must be named, under its feature.

use crate::provider::Platform;
use crate::snp::PinnedRoot;

/// A platform and the roots that its evidence must chain to.
#[derive(Debug, Clone)]
pub struct TrustAnchors {
    platform: Platform,
    roots: Vec<PinnedRoot>,
}

impl TrustAnchors {
    /// AMD's roots, compiled in.
    #[must_use]
    pub fn production() -> Self {
        Self {
            platform: Platform::Snp,
            roots: PinnedRoot::amd(),
        }
    }

    /// The root of one test chip, by its certificate (DER). Evidence under it is never confidential.
    #[cfg(feature = "test-chip")]
    #[must_use]
    pub fn test_chip(root_der: &[u8]) -> Self {
        let root = PinnedRoot::private(crate::test_chip::PRODUCT, root_der);
        Self {
            platform: Platform::TestChip,
            roots: vec![root],
        }
    }

    /// The only platform whose evidence is judged by these anchors.
    #[must_use]
    pub const fn platform(&self) -> Platform {
        self.platform
    }

    /// The roots, by product.
    #[must_use]
    pub fn roots(&self) -> &[PinnedRoot] {
        &self.roots
    }
}
