//! Why a device was refused: one variant per rule, in the order in which the rules are checked.

use super::chain::CertificatePlace;
use super::measurements::ReferenceKind;
use super::ocsp::OcspRejection;
use super::opaque::{DeviceKind, FeatureFlag, Pdi};
use super::report::REPORT_BYTES_MAX;
use super::set::DEVICES_MAX;
use crate::digest::UnixTime;

/// A device, or a set of them, was refused. Every message names the check that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NvidiaRejection {
    /// Rule N1.
    #[error("report has {0} bytes, more than {REPORT_BYTES_MAX}")]
    ReportLength(usize),
    /// Rule N1.
    #[error("report ends inside its {0}")]
    ReportEnds(&'static str),
    /// Rule N1.
    #[error("response is of SPDM version {0:#04x}, not 1.1 (0x11)")]
    SpdmVersion(u8),
    /// Rule N1.
    #[error("response has code {0:#04x}, it holds no measurements (0x60)")]
    NotMeasurements(u8),
    /// Rule N1.
    #[error("response sets bits of its header that are reserved")]
    ResponseReserved,
    /// Rule N1.
    #[error("measurement record has {declared} bytes, {left} are left")]
    RecordLength {
        /// What the report says.
        declared: u32,
        /// What follows.
        left: usize,
    },
    /// Rule N1.
    #[error("measurement block {number} {what}")]
    BlockMalformed {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Rule N1.
    #[error("measurement {0} is there twice")]
    BlockTwice(u8),
    /// Rule N1.
    #[error("report says {declared} measurements and has {found}")]
    BlockCount {
        /// What the report says.
        declared: u8,
        /// What is there.
        found: usize,
    },
    /// Rule N1: a form that nobody has a sample of.
    #[error("opaque data are an NVDAOD block of newer drivers, whose form is not known here")]
    OpaqueBlock,
    /// Rule N1.
    #[error("opaque data end inside a field")]
    OpaqueEnds,
    /// Rule N1.
    #[error("opaque field {0} is there twice")]
    OpaqueTwice(u16),
    /// Rule N1.
    #[error("opaque data have more than 64 fields")]
    OpaqueFields,
    /// Rule N1.
    #[error("opaque data are of version {0}, known are 0 and 1")]
    OpaqueVersion(u16),
    /// Rule N1.
    #[error("opaque field {field} {what}")]
    OpaqueField {
        /// Which one.
        field: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// Rule N2.
    #[error("{field} of the request is {found:#04x}, asked was {expected:#04x}")]
    RequestField {
        /// Which one.
        field: &'static str,
        /// In the report.
        found: u8,
        /// What we ask.
        expected: u8,
    },
    /// Rule N2.
    #[error("response is of certificate slot {0}, asked was slot 0")]
    ResponseSlot(u8),
    /// Rule N2: replay, relay, or another connection.
    #[error("nonce of the request is not the one that was asked with")]
    RequestNonce,
    /// Rule N3.
    #[error("certificate chain {0}")]
    ChainMalformed(&'static str),
    /// Rule N3.
    #[error("certificate chain has {0} certificates, not 3 to 8: leaf, device, authorities, root")]
    ChainLength(usize),
    /// Rule N3.
    #[error("{place} {what}")]
    CertificateMalformed {
        /// Which one.
        place: CertificatePlace,
        /// What is wrong.
        what: &'static str,
    },
    /// Rule N3: no root is taken from evidence.
    #[error("certificate chain does not end in a pinned root")]
    NoPinnedRoot,
    /// Rule N3.
    #[error("leaf certificate is itself an authority")]
    LeafIsAuthority,
    /// Rule N3.
    #[error("leaf certificate is not for signing")]
    LeafUsage,
    /// Rule N3: out of order, or one is missing.
    #[error("{place} was not issued by the one above it: issuer name differs")]
    ChainName {
        /// The one whose issuer differs.
        place: CertificatePlace,
    },
    /// Rule N3.
    #[error("{place} is not allowed to sign certificates")]
    NotAuthority {
        /// Which one.
        place: CertificatePlace,
    },
    /// Rule N3.
    #[error("{place} stands over more authorities than it may")]
    PathLength {
        /// Which one.
        place: CertificatePlace,
    },
    /// Rule N3.
    #[error("signature of the {place} is not that of the certificate above it")]
    ChainSignature {
        /// Whose signature failed.
        place: CertificatePlace,
    },
    /// Rule N3.
    #[error("{place} is valid from {from}, now is {now}")]
    CertificateNotYetValid {
        /// Which one.
        place: CertificatePlace,
        /// When it begins.
        from: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule N3.
    #[error("{place} expired at {until}, now is {now}")]
    CertificateExpired {
        /// Which one.
        place: CertificatePlace,
        /// Its last second.
        until: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule N4.
    #[error("report is not signed by the leaf of this chain")]
    ReportSignature,
    /// Rule N5.
    #[error("firmware id of the leaf: it {0}")]
    LeafFirmwareId(&'static str),
    /// Rule N5.
    #[error("firmware id of the report is not that of the leaf")]
    FirmwareIdMismatch,
    /// Rule N6: nobody was asked.
    #[error(
        "revocation of the device's certificates was not judged, and policy does not accept that"
    )]
    RevocationNotJudged,
    /// Rule N6: what the answer about a certificate says, or why it does not count.
    #[error("{place}: {reason}")]
    Revocation {
        /// Which certificate.
        place: CertificatePlace,
        /// Why.
        reason: OcspRejection,
    },
    /// Rule N7.
    #[error("report does not say its versions")]
    VersionMissing,
    /// Rule N7.
    #[error("no list is given for {kind} {version}")]
    VersionNotListed {
        /// Of what.
        kind: ReferenceKind,
        /// Which version the report has.
        version: String,
    },
    /// Rule N8.
    #[error("{kind} list has index {index}, which the report did not measure")]
    MeasurementMissing {
        /// Of what.
        kind: ReferenceKind,
        /// Manifest index, from 0.
        index: u8,
    },
    /// Rule N8.
    #[error("measurements {indices:?} are not as the list of {kind} {version} has them")]
    MeasurementMismatch {
        /// Of what.
        kind: ReferenceKind,
        /// Which version.
        version: String,
        /// Manifest indices, from 0.
        indices: Vec<u8>,
    },
    /// Rule N8: what is skipped was all there was.
    #[error("nothing that the list of {kind} {version} has counts on this device")]
    NothingCompared {
        /// Of what.
        kind: ReferenceKind,
        /// Which version.
        version: String,
    },
    /// Rule N8.
    #[error("two lists have index {0}")]
    ReferencesOverlap(u8),
    /// Rule N9.
    #[error("GPU is in DEVTOOLS mode: its protections are off")]
    DevTools,
    /// Rule N9.
    #[error("confidential computing of the GPU is off")]
    ConfidentialOff,
    /// Rule N9.
    #[error("report says {found}, expected is {expected}")]
    Feature {
        /// In the report.
        found: FeatureFlag,
        /// What policy says.
        expected: FeatureFlag,
    },
    /// Rule N9.
    #[error("report does not say how its GPUs work together")]
    FeatureMissing,
    /// Rule N9.
    #[error("protected PCIe state of the report does not fit, expected is {expected}")]
    ProtectedPcie {
        /// What policy says.
        expected: FeatureFlag,
    },
    /// Rule N12. Of one device, therefore before N10.
    #[error("{kind} {version} is not among the versions allowed")]
    BelowFloor {
        /// Of what.
        kind: ReferenceKind,
        /// Which version.
        version: String,
    },
    /// One device of several was refused; its own rule says why.
    #[error("device {number}: {rejection}")]
    Device {
        /// Counted from 0, in the order given.
        number: usize,
        /// Why.
        rejection: Box<NvidiaRejection>,
    },
    /// Rule N10.
    #[error("evidence of {0} devices, more than {DEVICES_MAX}")]
    TooManyDevices(usize),
    /// Rule N10.
    #[error("devices {first} and {second} are one: they have the same {by}")]
    DeviceTwice {
        /// The earlier one, counted from 0.
        first: usize,
        /// The later one.
        second: usize,
        /// What is the same.
        by: &'static str,
    },
    /// Rule N10.
    #[error("evidence of {found} devices of kind {kind}, expected {expected}")]
    DeviceCount {
        /// GPU or switch.
        kind: DeviceKind,
        /// How many.
        found: usize,
        /// What policy says.
        expected: usize,
    },
    /// Rule N10.
    #[error("switch (device {0}) does not say its identifier")]
    SwitchUnnamed(usize),
    /// Rule N10.
    #[error("two switches have identifier {0}")]
    SwitchTwice(Pdi),
    /// Rule N10.
    #[error("switch (device {0}) names other GPUs than the switches before it, or none")]
    SwitchesDisagree(usize),
    /// Rule N10.
    #[error("GPU (device {0}) is linked to other switches than those that answered")]
    OtherSwitches(usize),
    /// Rule N11: recorded evidence is of no session.
    #[error("devices answered a nonce that was not derived from a session")]
    NonceNotOfSession,
    /// Rule N11: devices that were shown beside the guest's evidence and not in it.
    #[error("the session's context does not carry the digest of this device evidence")]
    NotInContext,
}

impl NvidiaRejection {
    /// Whether it is only that nobody says anything about revocation, or nothing that is in force.
    pub(super) const fn is_silence(&self) -> bool {
        match self {
            Self::RevocationNotJudged => true,
            Self::Revocation { reason, .. } => reason.is_out_of_date(),
            _ => false,
        }
    }

    /// The rule that refused, such as `N3`.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        use NvidiaRejection as R;
        match self {
            R::ReportLength(_)
            | R::ReportEnds(_)
            | R::SpdmVersion(_)
            | R::NotMeasurements(_)
            | R::ResponseReserved
            | R::RecordLength { .. }
            | R::BlockMalformed { .. }
            | R::BlockTwice(_)
            | R::BlockCount { .. }
            | R::OpaqueBlock
            | R::OpaqueEnds
            | R::OpaqueTwice(_)
            | R::OpaqueFields
            | R::OpaqueVersion(_)
            | R::OpaqueField { .. } => "N1",
            R::RequestField { .. } | R::ResponseSlot(_) | R::RequestNonce => "N2",
            R::ChainMalformed(_)
            | R::ChainLength(_)
            | R::CertificateMalformed { .. }
            | R::NoPinnedRoot
            | R::LeafIsAuthority
            | R::LeafUsage
            | R::ChainName { .. }
            | R::NotAuthority { .. }
            | R::PathLength { .. }
            | R::ChainSignature { .. }
            | R::CertificateNotYetValid { .. }
            | R::CertificateExpired { .. } => "N3",
            R::ReportSignature => "N4",
            R::LeafFirmwareId(_) | R::FirmwareIdMismatch => "N5",
            R::RevocationNotJudged | R::Revocation { .. } => "N6",
            R::VersionMissing | R::VersionNotListed { .. } => "N7",
            R::MeasurementMissing { .. }
            | R::MeasurementMismatch { .. }
            | R::NothingCompared { .. }
            | R::ReferencesOverlap(_) => "N8",
            R::DevTools
            | R::ConfidentialOff
            | R::Feature { .. }
            | R::FeatureMissing
            | R::ProtectedPcie { .. } => "N9",
            R::BelowFloor { .. } => "N12",
            R::Device { rejection, .. } => rejection.rule(),
            R::TooManyDevices(_)
            | R::DeviceTwice { .. }
            | R::DeviceCount { .. }
            | R::SwitchUnnamed(_)
            | R::SwitchTwice(_)
            | R::SwitchesDisagree(_)
            | R::OtherSwitches(_) => "N10",
            R::NonceNotOfSession | R::NotInContext => "N11",
        }
    }
}
