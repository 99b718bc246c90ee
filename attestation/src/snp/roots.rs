//! Roots of trust. They are compiled in or given by the caller; no root is ever taken from evidence.

use super::Product;

/// A product and the one certificate that its chips must chain to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedRoot {
    product: Product,
    der: Vec<u8>,
}

impl PinnedRoot {
    /// AMD's public ARK certificates, one per product.
    #[must_use]
    pub fn amd() -> Vec<Self> {
        [
            (Product::Milan, &include_bytes!("roots/milan_ark.der")[..]),
            (Product::Genoa, &include_bytes!("roots/genoa_ark.der")[..]),
            (Product::Turin, &include_bytes!("roots/turin_ark.der")[..]),
        ]
        .map(|(product, der)| Self {
            product,
            der: der.to_vec(),
        })
        .to_vec()
    }

    /// A root that is not AMD's. What chains to it says nothing about a machine.
    #[cfg(feature = "test-chip")]
    #[must_use]
    pub fn private(product: Product, der: &[u8]) -> Self {
        Self {
            product,
            der: der.to_vec(),
        }
    }

    /// Whose root it is.
    #[must_use]
    pub const fn product(&self) -> Product {
        self.product
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}
