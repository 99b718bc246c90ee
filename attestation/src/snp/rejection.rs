//! Why an SNP report was refused: one variant per rule, in the order in which the rules are checked.

use super::{Product, TcbVersion};
use crate::digest::{ChipId, Measurement, UnixTime};

/// A certificate's place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateRole {
    /// The chip's endorsement certificate, VCEK or VLEK.
    Vek,
    /// ASK or ASVK.
    Intermediate,
    /// The pinned ARK.
    Root,
}

impl std::fmt::Display for CertificateRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vek => "endorsement certificate",
            Self::Intermediate => "intermediate certificate",
            Self::Root => "pinned root certificate",
        })
    }
}

/// Which of a report's firmware versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcbField {
    /// What the endorsement key was derived for.
    Reported,
    /// What cannot be rolled back any more.
    Committed,
    /// What ran when the guest was launched.
    Launch,
    /// What runs now.
    Current,
}

impl std::fmt::Display for TcbField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reported => "reported",
            Self::Committed => "committed",
            Self::Launch => "launch",
            Self::Current => "current",
        })
    }
}

/// An SNP report was refused. Every message names the check that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnpRejection {
    /// Rule S1.
    #[error("report has {0} bytes, not 1184")]
    ReportLength(usize),
    /// Rule S1.
    #[error("report version {0} is not one of 2 to 5")]
    ReportVersion(u32),
    /// Rule S1: versions from 3 on name their processor.
    #[error("report claims version {0} but carries no processor identity")]
    VersionWithoutCpuid(u32),
    /// Rule S1: the layout of firmware versions depends on the processor.
    #[error("report names an unknown processor, family {family:#x} model {model:#x}")]
    ProcessorUnknown {
        /// CPUID family.
        family: u8,
        /// CPUID model.
        model: u8,
    },
    /// Rule S2.
    #[error("reserved bytes of the report are not zero at offset {0:#x}")]
    ReservedNotZero(usize),
    /// Rule S3.
    #[error("report names signature algorithm {0}, not 1 (ECDSA P-384 with SHA-384)")]
    SignatureAlgorithm(u32),
    /// Rules S3, S5: not a certificate of the expected form.
    #[error("{role} is malformed: {what}")]
    CertificateMalformed {
        /// Which one.
        role: CertificateRole,
        /// What is wrong.
        what: &'static str,
    },
    /// Rule S3.
    #[error("report signature is not the endorsement key's over the bytes received")]
    ReportSignature,
    /// Rule S4.
    #[error("report says signing key {reported}, its certificate is a {certificate}")]
    SigningKey {
        /// What the report's flags say.
        reported: &'static str,
        /// What the certificate's name says.
        certificate: &'static str,
    },
    /// Rule S4: policy names no such provider.
    #[error(
        "report is signed by a cloud provider's key (VLEK of {csp_id:?}) that policy does not allow"
    )]
    VlekNotAllowed {
        /// The certificate's CSP id.
        csp_id: String,
    },
    /// Rule S5: nothing is pinned for that product.
    #[error("no root is pinned for product {0}")]
    NoRootForProduct(Product),
    /// Rule S5: names do not chain to the pinned root.
    #[error("{role} was not issued by the one above it: issuer name differs")]
    ChainName {
        /// The one whose issuer differs.
        role: CertificateRole,
    },
    /// Rule S5: its name says it may not stand there.
    #[error("{role} is named {found:?}, expected {expected:?}")]
    CertificateName {
        /// Which one.
        role: CertificateRole,
        /// The common name found.
        found: String,
        /// The common name that belongs there.
        expected: String,
    },
    /// Rule S5: basic constraints or key usage.
    #[error("{role} is not allowed to sign certificates")]
    NotAuthority {
        /// Which one.
        role: CertificateRole,
    },
    /// Rule S5: an authority may not sign reports.
    #[error("endorsement certificate is itself an authority")]
    LeafIsAuthority,
    /// Rule S5: RSA-PSS with SHA-384 by the certificate above.
    #[error("signature of the {role} is not that of the certificate above it")]
    ChainSignature {
        /// Whose signature failed.
        role: CertificateRole,
    },
    /// Rule S6.
    #[error("{role} is valid from {from}, now is {now}")]
    CertificateNotYetValid {
        /// Which one.
        role: CertificateRole,
        /// When it begins.
        from: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule S6.
    #[error("{role} expired at {until}, now is {now}")]
    CertificateExpired {
        /// Which one.
        role: CertificateRole,
        /// Its last second.
        until: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule S7.
    #[error("report comes from a {reported} processor, its certificate is for {certificate}")]
    ProductMismatch {
        /// By the report's processor identity; a version 2 report can only be of the older layout.
        reported: String,
        /// By the certificate's product name.
        certificate: Product,
    },
    /// Rule S7 and attack B12: the product's root of trust is broken and policy has no override.
    #[error(
        "{0} reports can be forged by whoever extracted a seed (see LIMITS); policy has no override for {0}"
    )]
    FamilyRootBroken(Product),
    /// Rule S8.
    #[error("endorsement certificate lacks the version of component {0}")]
    TcbExtensionMissing(&'static str),
    /// Rule S8.
    #[error(
        "{component} is {reported} in the report and {certificate} in the endorsement certificate"
    )]
    TcbMismatch {
        /// Which component.
        component: &'static str,
        /// REPORTED_TCB.
        reported: u8,
        /// The certificate's extension.
        certificate: u8,
    },
    /// Rule S9.
    #[error("endorsement certificate lacks the hardware id")]
    HardwareIdMissing,
    /// Rule S9: a chip id of zeros names nobody.
    #[error("report hides its chip id, so it cannot be tied to an enrolled chip")]
    ChipIdMasked,
    /// Rule S9.
    #[error("chip id of the report differs from the hardware id of the endorsement certificate")]
    ChipIdMismatch,
    /// Rule S9: a provider's key must not come with a chip.
    #[error("report signed by a provider's key (VLEK) names a chip")]
    VlekNamesChip,
    /// Rule S10: a missing list is not a clean list.
    #[error("revocation list is missing")]
    CrlMissing,
    /// Rule S10.
    #[error("revocation list is malformed: {0}")]
    CrlMalformed(&'static str),
    /// Rule S10.
    #[error("revocation list was issued by another authority than the pinned root")]
    CrlIssuer,
    /// Rule S10.
    #[error("signature of the revocation list is not the pinned root's")]
    CrlSignature,
    /// Rule S10.
    #[error("revocation list is valid from {from}, now is {now}")]
    CrlNotYetValid {
        /// When it begins.
        from: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule S10.
    #[error("revocation list is stale: a newer one was due at {due}, now is {now}")]
    CrlStale {
        /// When the next one was due.
        due: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule S10.
    #[error("{role} is revoked")]
    CertificateRevoked {
        /// Which one.
        role: CertificateRole,
    },
    /// Rule S11: empty means none.
    #[error("reference values have no firmware floor for {0}")]
    NoFloorForProduct(Product),
    /// Rule S11.
    #[error("{field} firmware is below the floor: {component} is {found}, floor is {floor}")]
    TcbBelowFloor {
        /// Which version.
        field: TcbField,
        /// Which component.
        component: &'static str,
        /// What it is.
        found: u8,
        /// What it must be at least.
        floor: u8,
    },
    /// Rule S11: an order that real firmware keeps.
    #[error(
        "firmware versions contradict each other: {lower} ({lower_tcb}) is above {upper} ({upper_tcb})"
    )]
    TcbOrder {
        /// The one that should not be higher.
        lower: TcbField,
        /// Its value.
        lower_tcb: TcbVersion,
        /// The one that should not be lower.
        upper: TcbField,
        /// Its value.
        upper_tcb: TcbVersion,
    },
    /// Rule S12.
    #[error("guest policy bit 17, which is always one, is zero")]
    PolicyReservedBit,
    /// Rule S12.
    #[error("guest policy permits debugging")]
    DebugPermitted,
    /// Rule S12.
    #[error("guest policy permits migration agents")]
    MigrationPermitted,
    /// Rule S12.
    #[error("guest policy accepts firmware ABI {found}, older than {floor}")]
    GuestAbi {
        /// What the guest accepts.
        found: String,
        /// What policy asks for.
        floor: String,
    },
    /// Rule S12.
    #[error("guest policy has bits that are not known: {0:#x}")]
    PolicyUnknownBits(u64),
    /// Rule S13.
    #[error("report was requested by the host, not by the guest")]
    RequestedByHost,
    /// Rule S13.
    #[error("report comes from privilege level {found}, expected {expected}")]
    Vmpl {
        /// VMPL in the report.
        found: u32,
        /// VMPL in the reference values.
        expected: u32,
    },
    /// Rule S14.
    #[error("guest policy forbids SMT, the platform says it is on")]
    SmtAgainstPolicy,
    /// Rule S14 and attack B14.
    #[error("firmware did not complete its check for aliased memory")]
    AliasCheckIncomplete,
    /// Rule S14.
    #[error("platform lacks properties that policy asks for: bits {0:#x}")]
    PlatformInfo(u64),
    /// Rule S15.
    #[error("chip key is masked, so the report is not signed by the chip")]
    ChipKeyMasked,
    /// Rule S16: relay, replay, another connection, or other claims than those bound.
    #[error("report data is not this session's binding")]
    BindingMismatch,
    /// Rule S17.
    #[error("measurement {0} is not in the reference values")]
    MeasurementUnknown(Measurement),
    /// Rule S18.
    #[error("mitigations that policy asks for are not in force: bits {0:#x}")]
    MitigationMissing(u64),
    /// Rule S19.
    #[error("chip {0} is not in the fleet list")]
    ChipUnknown(ChipId),
}

impl SnpRejection {
    /// The rule that refused, such as `S12`.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        use SnpRejection as R;
        match self {
            R::ReportLength(_)
            | R::ReportVersion(_)
            | R::VersionWithoutCpuid(_)
            | R::ProcessorUnknown { .. } => "S1",
            R::ReservedNotZero(_) => "S2",
            R::SignatureAlgorithm(_) | R::ReportSignature => "S3",
            R::CertificateMalformed {
                role: CertificateRole::Vek,
                ..
            } => "S3",
            R::SigningKey { .. } | R::VlekNotAllowed { .. } => "S4",
            R::CertificateMalformed { .. }
            | R::NoRootForProduct(_)
            | R::ChainName { .. }
            | R::CertificateName { .. }
            | R::NotAuthority { .. }
            | R::LeafIsAuthority
            | R::ChainSignature { .. } => "S5",
            R::CertificateNotYetValid { .. } | R::CertificateExpired { .. } => "S6",
            R::ProductMismatch { .. } | R::FamilyRootBroken(_) => "S7",
            R::TcbExtensionMissing(_) | R::TcbMismatch { .. } => "S8",
            R::HardwareIdMissing | R::ChipIdMasked | R::ChipIdMismatch | R::VlekNamesChip => "S9",
            R::CrlMissing
            | R::CrlMalformed(_)
            | R::CrlIssuer
            | R::CrlSignature
            | R::CrlNotYetValid { .. }
            | R::CrlStale { .. }
            | R::CertificateRevoked { .. } => "S10",
            R::NoFloorForProduct(_) | R::TcbBelowFloor { .. } | R::TcbOrder { .. } => "S11",
            R::PolicyReservedBit
            | R::DebugPermitted
            | R::MigrationPermitted
            | R::GuestAbi { .. }
            | R::PolicyUnknownBits(_) => "S12",
            R::RequestedByHost | R::Vmpl { .. } => "S13",
            R::SmtAgainstPolicy | R::AliasCheckIncomplete | R::PlatformInfo(_) => "S14",
            R::ChipKeyMasked => "S15",
            R::BindingMismatch => "S16",
            R::MeasurementUnknown(_) => "S17",
            R::MitigationMissing(_) => "S18",
            R::ChipUnknown(_) => "S19",
        }
    }
}
