//! Why a TDX quote was refused: one variant per rule, in the order of the checklist (`docs/formats/evidence-tdx.md`).

use super::parts::{TdxCertificate, TdxCrl, TdxDocument, TdxTcb};
use super::status::TcbStatus;
use crate::digest::{ChipId, Measurement, UnixTime};

/// A TDX quote was refused. Every message names the check that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TdxRejection {
    /// Rule T1.
    #[error("quote has {0} bytes, more than 16384")]
    QuoteTooLong(usize),
    /// Rule T1.
    #[error("quote ends inside its {0}")]
    QuoteTruncated(&'static str),
    /// Rule T1, and attack B16: a TDREPORT, which only its own machine can check, has no such version.
    #[error("quote version {0} is not 4 or 5")]
    QuoteVersion(u16),
    /// Rule T1.
    #[error("attestation key type {0} is not 2 (ECDSA P-256)")]
    AttestationKeyType(u16),
    /// Rule T1.
    #[error("quote is for TEE type {0:#x}, not 0x81 (TDX)")]
    TeeType(u32),
    /// Rule T1.
    #[error("reserved bytes of the quote's header are not zero")]
    HeaderReserved,
    /// Rule T1 and attack B15.
    #[error("quoting enclave is not Intel's: vendor id {0}")]
    QeVendor(String),
    /// Rule T1.
    #[error("quote body type {0} is not 2, 3 or 4")]
    BodyType(u16),
    /// Rule T1.
    #[error("quote body of type {body_type} says {found} bytes, not {expected}")]
    BodySize {
        /// The type named.
        body_type: u16,
        /// The size named.
        found: u32,
        /// The size of that type.
        expected: usize,
    },
    /// Rule T1: an outer length is not that of what it holds.
    #[error("{part} says {found} bytes and holds {held}")]
    Length {
        /// What the length belongs to.
        part: &'static str,
        /// The length named.
        found: usize,
        /// The length needed.
        held: usize,
    },
    /// Rule T1.
    #[error("{place} certification data has type {found}, not {expected}")]
    CertificationType {
        /// `outer` or `inner`.
        place: &'static str,
        /// The type named.
        found: u16,
        /// The type that belongs there.
        expected: u16,
    },
    /// Rule T1: zeros behind a quote are a driver's buffer, anything else is not a quote.
    #[error("{0} bytes after the quote are not all zero")]
    TrailingBytes(usize),
    /// Rules T2 and T6: not a certificate of the expected form.
    #[error("{certificate} is malformed: {what}")]
    CertificateMalformed {
        /// Which one.
        certificate: TdxCertificate,
        /// What is wrong.
        what: &'static str,
    },
    /// Rules T2 and T6.
    #[error("chain of the {leaf} is malformed: {what}")]
    ChainMalformed {
        /// Whose chain.
        leaf: TdxCertificate,
        /// What is wrong.
        what: &'static str,
    },
    /// Rule T2: collateral must not choose another platform than the quote.
    #[error("collateral brings another PCK chain than the quote")]
    PckChainsDiffer,
    /// Rules T2 and T6: names do not chain to the pinned root.
    #[error("{certificate} was not issued by the one above it: issuer name differs")]
    ChainName {
        /// The one whose issuer differs.
        certificate: TdxCertificate,
    },
    /// Rules T2 and T6.
    #[error("{certificate} is named {found:?}")]
    CertificateName {
        /// Which one.
        certificate: TdxCertificate,
        /// The common name found, which does not belong there.
        found: String,
    },
    /// Rule T2: basic constraints, path length or key usage.
    #[error("{certificate} is not allowed to sign certificates here")]
    NotAuthority {
        /// Which one.
        certificate: TdxCertificate,
    },
    /// Rules T2 and T6: an authority may not sign what it issues for.
    #[error("{certificate} is itself an authority")]
    LeafIsAuthority {
        /// Which one.
        certificate: TdxCertificate,
    },
    /// Rules T2 and T6.
    #[error("{certificate} has a key that is not for signatures")]
    KeyUsage {
        /// Which one.
        certificate: TdxCertificate,
    },
    /// Rules T2 and T6: ECDSA P-256 with SHA-256 by the certificate above; the root is the pinned one.
    #[error("signature of the {certificate} is not that of the one above it")]
    ChainSignature {
        /// Whose signature failed.
        certificate: TdxCertificate,
    },
    /// Rules T2 and T6.
    #[error("{certificate} is valid from {from}, now is {now}")]
    CertificateNotYetValid {
        /// Which one.
        certificate: TdxCertificate,
        /// When it begins.
        from: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rules T2 and T6.
    #[error("{certificate} expired at {until}, now is {now}")]
    CertificateExpired {
        /// Which one.
        certificate: TdxCertificate,
        /// Its last second.
        until: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule T2.
    #[error("PCK certificate does not describe its platform: {0}")]
    PckExtension(&'static str),
    /// Rule T3: a missing list is not a clean list (attack B19).
    #[error("{0} is missing")]
    CrlMissing(TdxCrl),
    /// Rule T3.
    #[error("{list} is malformed: {what}")]
    CrlMalformed {
        /// Which one.
        list: TdxCrl,
        /// What is wrong.
        what: &'static str,
    },
    /// Rule T3: a list of another authority says nothing about this chain.
    #[error("{0} was issued by another authority, so revocation is unknown")]
    CrlIssuer(TdxCrl),
    /// Rule T3.
    #[error("{0} is not signed by its authority")]
    CrlSignature(TdxCrl),
    /// Rule T3.
    #[error("{list} is valid from {from}, now is {now}")]
    CrlNotYetValid {
        /// Which one.
        list: TdxCrl,
        /// When it begins.
        from: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule T3.
    #[error("{list} is stale: a newer one was due at {due}, now is {now}")]
    CrlStale {
        /// Which one.
        list: TdxCrl,
        /// When the next one was due.
        due: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule T3.
    #[error("{certificate} is revoked")]
    CertificateRevoked {
        /// Which one.
        certificate: TdxCertificate,
    },
    /// Rule T4.
    #[error("QE report is not signed by the PCK certificate's key")]
    QeReportSignature,
    /// Rule T4: anybody could bring a key of his own.
    #[error("QE report does not name the attestation key of this quote")]
    QeReportData,
    /// Rule T5.
    #[error("quote is not signed by its attestation key over the bytes received")]
    QuoteSignature,
    /// Rule T6: the collateral around the signed documents.
    #[error("collateral is malformed: {0}")]
    CollateralMalformed(String),
    /// Rule T6.
    #[error("{document} is malformed: {what}")]
    DocumentMalformed {
        /// Which one.
        document: TdxDocument,
        /// What is wrong.
        what: String,
    },
    /// Rule T6.
    #[error("{0} is not signed by its signer over the text received")]
    DocumentSignature(TdxDocument),
    /// Rule T6: Intel signs documents for SGX with the same key.
    #[error("{document} is for {found:?}, not for TDX")]
    DocumentId {
        /// Which one.
        document: TdxDocument,
        /// The id found.
        found: String,
    },
    /// Rule T6.
    #[error("{document} has version {found}, which is not known")]
    DocumentVersion {
        /// Which one.
        document: TdxDocument,
        /// The version found.
        found: u32,
    },
    /// Rule T6 and attack B18.
    #[error("{document} is valid from {from}, now is {now}")]
    DocumentNotYetValid {
        /// Which one.
        document: TdxDocument,
        /// issueDate.
        from: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule T6 and attack B18.
    #[error("{document} expired at {until}, now is {now}")]
    DocumentExpired {
        /// Which one.
        document: TdxDocument,
        /// nextUpdate, its last second.
        until: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule T7.
    #[error("TCB info is for platforms {tcb_info}, the PCK certificate is of {certificate}")]
    Fmspc {
        /// FMSPC of the TCB info.
        tcb_info: String,
        /// FMSPC of the certificate.
        certificate: String,
    },
    /// Rule T7.
    #[error("TCB info is for PCE {tcb_info}, the PCK certificate names {certificate}")]
    PceId {
        /// PCE id of the TCB info.
        tcb_info: String,
        /// PCE id of the certificate.
        certificate: String,
    },
    /// Rule T8.
    #[error("quoting enclave is signed by another than its identity names")]
    QeSigner,
    /// Rule T8.
    #[error("quoting enclave is product {found}, its identity names {expected}")]
    QeProduct {
        /// ISVPRODID of the QE report.
        found: u16,
        /// That of the identity.
        expected: u16,
    },
    /// Rule T8.
    #[error("quoting enclave has other MISCSELECT bits than its identity names")]
    QeMiscSelect,
    /// Rule T8, debug bit of the enclave included.
    #[error("quoting enclave has other attributes than its identity names")]
    QeAttributes,
    /// Rule T8.
    #[error("quoting enclave's version {0} is below every level of its identity")]
    QeBelowEveryLevel(u16),
    /// Rule T9.
    #[error("TCB info knows no TDX module of version {0}")]
    ModuleUnknown(u8),
    /// Rule T9.
    #[error("TDX module is signed by another than the TCB info names")]
    ModuleSigner,
    /// Rule T9.
    #[error("TDX module has other attributes than the TCB info names")]
    ModuleAttributes,
    /// Rule T9.
    #[error("{tcb} TDX module's version {found} is below every level of the TCB info")]
    ModuleBelowEveryLevel {
        /// Which of two.
        tcb: TdxTcb,
        /// `TEE_TCB_SVN[0]`.
        found: u8,
    },
    /// Rule T10.
    #[error("{0} firmware meets no level of the TCB info")]
    NoTcbLevel(TdxTcb),
    /// Rule T10.
    #[error("{tcb} TEE_TCB_SVN {found} is below the floor {floor}")]
    TeeTcbSvnBelowFloor {
        /// Which of two.
        tcb: TdxTcb,
        /// The versions in the quote.
        found: String,
        /// What policy asks for.
        floor: String,
    },
    /// Rule T11: never accepted, by no policy.
    #[error("{0} is revoked")]
    TcbRevoked(&'static str),
    /// Rule T11.
    #[error("{part} has status {status}, which policy does not accept")]
    StatusNotAccepted {
        /// Whose status.
        part: &'static str,
        /// The status.
        status: TcbStatus,
    },
    /// Rule T11.
    #[error("status {status} comes with advisory {advisory:?}, which policy does not accept")]
    AdvisoryNotAccepted {
        /// The status that policy would accept.
        status: TcbStatus,
        /// The advisory that it would not.
        advisory: String,
    },
    /// Rule T12: old collateral judges by old knowledge.
    #[error("{document} has evaluation number {found}, below the floor {floor}")]
    CollateralBelowFloor {
        /// Which one.
        document: TdxDocument,
        /// tcbEvaluationDataNumber.
        found: u32,
        /// What policy asks for.
        floor: u32,
    },
    /// Rule T12.
    #[error("{part} is {age} seconds old, policy accepts {limit}")]
    CollateralTooOld {
        /// What is old.
        part: &'static str,
        /// Seconds since it was issued.
        age: u64,
        /// What policy accepts.
        limit: u64,
    },
    /// Rule T13 and attack B7.
    #[error("TD permits debugging")]
    DebugPermitted,
    /// Rule T13: profiling, and the other bits that make a TD one under debug.
    #[error("TD attributes put the TD under debug: bits {0:#x}")]
    UnderDebug(u64),
    /// Rule T13: the host can otherwise make a page vanish under the TD and answer in its place.
    #[error("TD attribute SEPT_VE_DISABLE is not set")]
    SeptVeDisableOff,
    /// Rule T13 and attack B8.
    #[error("TD can be migrated")]
    MigrationPermitted,
    /// Rule T13.
    #[error("TD attributes are reserved or not accepted by policy: bits {0:#x}")]
    AttributesNotAccepted(u64),
    /// Rule T14.
    #[error("XFAM {0:#x} lacks x87 or SSE, which every TD has")]
    XfamFixedBits(u64),
    /// Rule T14.
    #[error("XFAM has bits that policy does not accept: {0:#x}")]
    XfamNotAccepted(u64),
    /// Rule T14.
    #[error("TDX module {0} is not in the reference values")]
    MrSeamUnknown(Measurement),
    /// Rule T14.
    #[error("signer of the TDX module is not Intel: MRSIGNERSEAM is not zero")]
    MrSignerSeamNotZero,
    /// Rule T14.
    #[error("SEAM attributes are not zero: {0:#x}")]
    SeamAttributesNotZero(u64),
    /// Rule T14: a TD that hosts other machines speaks for one of them.
    #[error("report was requested for partition {0} of the TD, not for the TD")]
    Partition(u8),
    /// Rule T14: devices inside the boundary that nobody appraised.
    #[error("TD has devices attached, which policy cannot judge")]
    DevicesAttached,
    /// Rule T15.
    #[error("TD is bound to a service TD that policy does not name: {0}")]
    ServiceTd(Measurement),
    /// Rule T15.
    #[error("TD is bound to a service TD with attributes {0:#x}")]
    ServiceTdAttributes(u64),
    /// Rule T16.
    #[error("MRTD {0} is not in the reference values")]
    MrtdUnknown(Measurement),
    /// Rule T16.
    #[error("RTMR{index} {found} is not what the reference values say for this MRTD")]
    Rtmr {
        /// Which register, 0 to 3.
        index: usize,
        /// Its value.
        found: Measurement,
    },
    /// Rule T16.
    #[error("{field} {found} is not accepted by policy")]
    Configuration {
        /// MRCONFIGID, MROWNER or MROWNERCONFIG.
        field: &'static str,
        /// Its value.
        found: Measurement,
    },
    /// Rule T17: relay, replay, another connection, or other claims than those bound.
    #[error("report data is not this session's binding")]
    BindingMismatch,
    /// Rule T18.
    #[error("PCK certificate names a platform id of zeros, which names nobody")]
    PlatformMasked,
    /// Rule T18 and attack B13.
    #[error("platform {0} is not in the fleet list")]
    PlatformUnknown(ChipId),
    /// Rule T18.
    #[error("platform is configured as policy does not accept: {0}")]
    PlatformConfiguration(&'static str),
    /// Rule T19.
    #[error("second verifier (dcap-qvl) refuses what our rules accept")]
    SecondVerifierRefuses,
    /// Rule T19: one of two parsers is wrong, and nobody knows which.
    #[error("second verifier (dcap-qvl) reads another {0} than we do")]
    SecondVerifierDisagrees(&'static str),
}

impl TdxRejection {
    /// The rule that refused, such as `T13`.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        use TdxRejection as R;
        match self {
            R::QuoteTooLong(_)
            | R::QuoteTruncated(_)
            | R::QuoteVersion(_)
            | R::AttestationKeyType(_)
            | R::TeeType(_)
            | R::HeaderReserved
            | R::QeVendor(_)
            | R::BodyType(_)
            | R::BodySize { .. }
            | R::Length { .. }
            | R::CertificationType { .. }
            | R::TrailingBytes(_) => "T1",
            R::PckChainsDiffer | R::PckExtension(_) => "T2",
            R::CertificateMalformed { certificate, .. }
            | R::ChainMalformed {
                leaf: certificate, ..
            }
            | R::ChainName { certificate }
            | R::CertificateName { certificate, .. }
            | R::NotAuthority { certificate }
            | R::LeafIsAuthority { certificate }
            | R::KeyUsage { certificate }
            | R::ChainSignature { certificate }
            | R::CertificateNotYetValid { certificate, .. }
            | R::CertificateExpired { certificate, .. } => chain_rule(*certificate),
            R::CrlMissing(_)
            | R::CrlMalformed { .. }
            | R::CrlIssuer(_)
            | R::CrlSignature(_)
            | R::CrlNotYetValid { .. }
            | R::CrlStale { .. }
            | R::CertificateRevoked { .. } => "T3",
            R::QeReportSignature | R::QeReportData => "T4",
            R::QuoteSignature => "T5",
            R::CollateralMalformed(_)
            | R::DocumentMalformed { .. }
            | R::DocumentSignature(_)
            | R::DocumentId { .. }
            | R::DocumentVersion { .. }
            | R::DocumentNotYetValid { .. }
            | R::DocumentExpired { .. } => "T6",
            later => later.rule_behind_signatures(),
        }
    }

    /// The rules about what was signed.
    const fn rule_behind_signatures(&self) -> &'static str {
        use TdxRejection as R;
        match self {
            R::Fmspc { .. } | R::PceId { .. } => "T7",
            R::QeSigner
            | R::QeProduct { .. }
            | R::QeMiscSelect
            | R::QeAttributes
            | R::QeBelowEveryLevel(_) => "T8",
            R::ModuleUnknown(_)
            | R::ModuleSigner
            | R::ModuleAttributes
            | R::ModuleBelowEveryLevel { .. } => "T9",
            R::NoTcbLevel(_) | R::TeeTcbSvnBelowFloor { .. } => "T10",
            R::TcbRevoked(_) | R::StatusNotAccepted { .. } | R::AdvisoryNotAccepted { .. } => "T11",
            R::CollateralBelowFloor { .. } | R::CollateralTooOld { .. } => "T12",
            R::DebugPermitted
            | R::UnderDebug(_)
            | R::SeptVeDisableOff
            | R::MigrationPermitted
            | R::AttributesNotAccepted(_) => "T13",
            R::XfamFixedBits(_)
            | R::XfamNotAccepted(_)
            | R::MrSeamUnknown(_)
            | R::MrSignerSeamNotZero
            | R::SeamAttributesNotZero(_)
            | R::Partition(_)
            | R::DevicesAttached => "T14",
            R::ServiceTd(_) | R::ServiceTdAttributes(_) => "T15",
            R::MrtdUnknown(_) | R::Rtmr { .. } | R::Configuration { .. } => "T16",
            R::BindingMismatch => "T17",
            R::PlatformMasked | R::PlatformUnknown(_) | R::PlatformConfiguration(_) => "T18",
            // All that is left: the first function names every other variant.
            _ => "T19",
        }
    }
}

/// The platform's own chain is rule T2; the chains of who signed collateral are part of T6.
const fn chain_rule(certificate: TdxCertificate) -> &'static str {
    match certificate {
        TdxCertificate::Pck | TdxCertificate::PckAuthority | TdxCertificate::Root => "T2",
        TdxCertificate::TcbInfoSigner | TdxCertificate::QeIdentitySigner => "T6",
    }
}
