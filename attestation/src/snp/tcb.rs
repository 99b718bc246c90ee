//! Products, and the versions of their firmware.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A family of processors with one root of trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// EPYC 7003 (Zen 3).
    Milan,
    /// EPYC 9004 and 8004 (Zen 4 and Zen 4c).
    Genoa,
    /// EPYC 9005 (Zen 5).
    Turin,
}

impl Product {
    /// The word that certificates use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// The product of a CPUID family and model, combined as reports carry them since version 3.
    #[must_use]
    pub const fn from_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x1f) => Some(Self::Turin),
            _ => None,
        }
    }

    /// The product of a certificate's product name, such as `Milan-B0`.
    #[must_use]
    pub fn from_certificate(name: &str) -> Option<Self> {
        let stem = name.split_once('-').map_or(name, |(stem, _)| stem);
        [Self::Milan, Self::Genoa, Self::Turin]
            .into_iter()
            .find(|product| product.as_str() == stem)
    }

    /// Whether reports of this product can be forged with a key that is known to be extractable (LIMITS.md).
    #[must_use]
    pub const fn root_is_broken(self) -> bool {
        matches!(self, Self::Milan)
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Security versions of a chip's firmware. Compared by component; there is no order between two such values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbVersion {
    /// Boot loader.
    pub boot_loader: u8,
    /// Trusted execution environment of the security processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
    /// Firmware management controller. Turin only; 0 elsewhere.
    pub fmc: u8,
}

impl TcbVersion {
    /// Components by name.
    #[must_use]
    pub const fn components(&self) -> [(&'static str, u8); 5] {
        [
            ("fmc", self.fmc),
            ("boot loader", self.boot_loader),
            ("tee", self.tee),
            ("snp", self.snp),
            ("microcode", self.microcode),
        ]
    }

    /// The first component that is lower than in `floor`: its name, what it is and what it should be.
    #[must_use]
    pub fn below(&self, floor: &Self) -> Option<(&'static str, u8, u8)> {
        let pairs = self.components().into_iter().zip(floor.components());
        let mut short = pairs.filter(|((_, found), (_, wanted))| found < wanted);
        short
            .next()
            .map(|((name, found), (_, wanted))| (name, found, wanted))
    }

    /// Reads the eight bytes of a report, or `None` when a reserved byte is not zero (rule S2).
    pub(crate) const fn decode(bytes: [u8; 8], layout: TcbLayout) -> Option<Self> {
        match (layout, bytes) {
            (TcbLayout::Legacy, [boot_loader, tee, 0, 0, 0, 0, snp, microcode]) => Some(Self {
                boot_loader,
                tee,
                snp,
                microcode,
                fmc: 0,
            }),
            (TcbLayout::Turin, [fmc, boot_loader, tee, snp, 0, 0, 0, microcode]) => Some(Self {
                boot_loader,
                tee,
                snp,
                microcode,
                fmc,
            }),
            _ => None,
        }
    }

    /// Writes the eight bytes of a report.
    #[cfg(feature = "test-chip")]
    pub(crate) const fn encode(&self, layout: TcbLayout) -> [u8; 8] {
        match layout {
            TcbLayout::Legacy => [
                self.boot_loader,
                self.tee,
                0,
                0,
                0,
                0,
                self.snp,
                self.microcode,
            ],
            TcbLayout::Turin => [
                self.fmc,
                self.boot_loader,
                self.tee,
                self.snp,
                0,
                0,
                0,
                self.microcode,
            ],
        }
    }
}

impl fmt::Display for TcbVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            boot_loader,
            tee,
            snp,
            microcode,
            fmc,
        } = self;
        write!(
            f,
            "fmc {fmc}, boot loader {boot_loader}, tee {tee}, snp {snp}, microcode {microcode}"
        )
    }
}

/// Where the components stand in eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcbLayout {
    /// Milan and Genoa.
    Legacy,
    /// Turin.
    Turin,
}

impl TcbLayout {
    pub(crate) const fn of(product: Product) -> Self {
        match product {
            Product::Milan | Product::Genoa => Self::Legacy,
            Product::Turin => Self::Turin,
        }
    }
}
