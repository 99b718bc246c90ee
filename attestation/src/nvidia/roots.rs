//! The root of NVIDIA's device identities. It is compiled in or given by the caller; no root is taken from evidence.

/// A root that device chains must end in, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedGpuRoot {
    der: Vec<u8>,
    nvidia: bool,
}

impl PinnedGpuRoot {
    /// NVIDIA Device Identity CA (SHA-256 102bf659…0b167b48), for GPUs and switches alike.
    #[must_use]
    pub fn nvidia() -> Self {
        Self {
            der: include_bytes!("roots/device_identity_ca.der").to_vec(),
            nvidia: true,
        }
    }

    /// A root that is not NVIDIA's. What chains to it says nothing about a device.
    #[cfg(feature = "test-chip")]
    #[must_use]
    pub fn private(der: &[u8]) -> Self {
        Self {
            der: der.to_vec(),
            nvidia: false,
        }
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether it is NVIDIA's.
    #[must_use]
    pub const fn is_nvidias(&self) -> bool {
        self.nvidia
    }
}
