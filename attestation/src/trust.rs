//! Which roots count. Production knows the vendors' and nothing else; others must be named, under their feature.

use crate::nvidia::PinnedGpuRoot;
use crate::provider::Platform;
use crate::snp::PinnedRoot;
use crate::tdx::TdxRoot;

/// A platform and the roots that its evidence must chain to.
#[derive(Debug, Clone)]
pub struct TrustAnchors {
    platform: Platform,
    roots: Roots,
    gpu_roots: Vec<PinnedGpuRoot>,
}

#[derive(Debug, Clone)]
pub(crate) enum Roots {
    Amd(Vec<PinnedRoot>),
    Intel(TdxRoot),
    /// A TPM's key counts by its enrolment in the fleet list, and by nothing else.
    Enrolment,
}

impl TrustAnchors {
    /// The vendor's roots, compiled in; for platform `tpm` the fleet list alone. `None` for the test chip, which has no vendor.
    #[must_use]
    pub fn production(platform: Platform) -> Option<Self> {
        let roots = match platform {
            Platform::Snp => Roots::Amd(PinnedRoot::amd()),
            Platform::Tdx => Roots::Intel(TdxRoot::intel()),
            Platform::Tpm => Roots::Enrolment,
            Platform::TestChip => return None,
        };
        let gpu_roots = vec![PinnedGpuRoot::nvidia()];
        Some(Self {
            platform,
            roots,
            gpu_roots,
        })
    }

    /// The root of one test chip, by its certificate (DER). Evidence under it is never confidential.
    #[cfg(feature = "test-chip")]
    #[must_use]
    pub fn test_chip(root_der: &[u8]) -> Self {
        let root = PinnedRoot::private(crate::test_chip::PRODUCT, root_der);
        Self {
            platform: Platform::TestChip,
            roots: Roots::Amd(vec![root]),
            gpu_roots: vec![PinnedGpuRoot::nvidia()],
        }
    }

    /// Another root than Intel's. What chains to it says nothing about a machine.
    #[cfg(feature = "test-chip")]
    #[must_use]
    pub fn private_tdx(root: TdxRoot) -> Self {
        Self {
            platform: Platform::Tdx,
            roots: Roots::Intel(root),
            gpu_roots: vec![PinnedGpuRoot::nvidia()],
        }
    }

    /// Accepts devices under another root than NVIDIA's. What chains to it says nothing about a device.
    #[cfg(feature = "test-chip")]
    #[must_use]
    pub fn with_private_gpu_root(mut self, root: PinnedGpuRoot) -> Self {
        self.gpu_roots.push(root);
        self
    }

    pub(crate) fn gpu_roots(&self) -> &[PinnedGpuRoot] {
        &self.gpu_roots
    }

    /// The only platform whose evidence is judged by these anchors.
    #[must_use]
    pub const fn platform(&self) -> Platform {
        self.platform
    }

    pub(crate) const fn roots(&self) -> &Roots {
        &self.roots
    }
}
