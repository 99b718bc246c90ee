//! The appraisal of one quote: rules T1 to T19 in that order, each of which can only refuse.

use subtle::ConstantTimeEq as _;

use super::certificate::{Certificate, chain};
use super::collateral::TdxCollateral;
use super::crl::Crl;
use super::parts::{TdxCertificate as Place, TdxCrl, TdxDocument};
use super::pck::{PckPlatform, PlatformConfiguration};
use super::policy::{PlatformFlag, TdxPolicy};
use super::quote::TdxQuote;
use super::rejection::TdxRejection;
use super::roots::TdxRoot;
use super::second::{self, Reading};
use super::signatures::{KnownSignatures, Signatures};
use super::status::TcbStatus;
use super::tcb::{Issue, QeIdentity, TcbInfo};
use super::{body, levels};
use crate::digest::{ChipId, Measurement, Sha256Digest, UnixTime};
use crate::verdict::Check;
use crate::verdict::Lines;

/// A quote that passed every rule. [`verify_tdx_quote`] is its only constructor.
///
/// ```compile_fail
/// let verdict = casemate_attestation::tdx::TdxVerdict::default();
/// ```
///
/// ```
/// use casemate_attestation::UnixTime;
/// use casemate_attestation::tdx::*;
/// fn verdict(quote: &[u8], collateral: &TdxCollateral, policy: &TdxPolicy, now: UnixTime) -> Result<TdxVerdict, TdxRejection> {
///     verify_tdx_quote(quote, collateral, &[0; 64], policy, &TdxRoot::intel(), now)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct TdxVerdict {
    quote: TdxQuote,
    platform: PckPlatform,
    status: TcbStatus,
    advisories: Vec<String>,
    collateral: CollateralWindow,
    checks: Vec<Check>,
}

/// For how long the collateral of a verdict says what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollateralWindow {
    /// The latest of its dates of issue.
    pub issued: UnixTime,
    /// The last second at which all of its documents and lists count.
    pub until: UnixTime,
    /// The lower of the two `tcbEvaluationDataNumber`s.
    pub evaluation: u32,
}

impl TdxVerdict {
    /// The quote's fields.
    #[must_use]
    pub const fn quote(&self) -> &TdxQuote {
        &self.quote
    }

    /// The platform, by its certificate.
    #[must_use]
    pub const fn platform(&self) -> &PckPlatform {
        &self.platform
    }

    /// The platform as the fleet list names it.
    #[must_use]
    pub fn platform_id(&self) -> ChipId {
        self.platform.id()
    }

    /// MRTD: the TD at launch.
    #[must_use]
    pub fn measurement(&self) -> Measurement {
        self.quote.mrtd()
    }

    /// RTMR0 to RTMR3.
    #[must_use]
    pub fn rtmrs(&self) -> [Measurement; 4] {
        self.quote.rtmrs()
    }

    /// What Intel says about platform, module and quoting enclave together.
    #[must_use]
    pub const fn status(&self) -> TcbStatus {
        self.status
    }

    /// Intel's advisories that go with the status.
    #[must_use]
    pub fn advisories(&self) -> &[String] {
        &self.advisories
    }

    /// For how long the collateral counts, and how much its author knew.
    #[must_use]
    pub const fn collateral(&self) -> CollateralWindow {
        self.collateral
    }

    /// Every check, in order.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

/// Appraises a quote with its collateral. `report_data` is what REPORTDATA must be.
///
/// # Errors
/// [`TdxRejection`] names the first rule that does not hold.
pub fn verify_tdx_quote(
    quote: &[u8],
    collateral: &TdxCollateral,
    report_data: &[u8; 64],
    policy: &TdxPolicy,
    root: &TdxRoot,
    now: UnixTime,
) -> Result<TdxVerdict, TdxRejection> {
    let known = KnownSignatures::new();
    verify_tdx_quote_knowing(quote, collateral, report_data, policy, root, &known, now)
}

/// The same for somebody who verifies many: signatures of the platform's and Intel's certificates, lists and documents that are
/// `known` are not computed again. Every rule is judged, at `now` and over the bytes given here.
///
/// # Errors
/// Those of [`verify_tdx_quote`], whatever is known.
pub fn verify_tdx_quote_knowing(
    quote: &[u8],
    collateral: &TdxCollateral,
    report_data: &[u8; 64],
    policy: &TdxPolicy,
    root: &TdxRoot,
    known: &KnownSignatures,
    now: UnixTime,
) -> Result<TdxVerdict, TdxRejection> {
    let quote = TdxQuote::parse(quote)?;
    let mut lines = Lines::default();
    let signatures = Signatures::new(known);
    shape(&quote, &mut lines);
    let root_certificate = Certificate::parse(Place::Root, root.der())?;
    let pck_chain = chain(Place::Pck, quote.pck_chain(), 2)?;
    let (platform, lists) = pck(
        &quote,
        &pck_chain,
        collateral,
        &root_certificate,
        &signatures,
        now,
        &mut lines,
    )?;
    let (tcb_info, info_issue, identity, identity_issue) = documents(
        collateral,
        &root_certificate,
        &lists.root,
        &signatures,
        now,
        &mut lines,
    )?;
    tcb_info.must_be_for(&platform)?;
    lines.pass(
        "T7",
        format!(
            "TCB info is for this platform (FMSPC {})",
            hex::encode(platform.fmspc())
        ),
    );
    let levels = levels::judge(&quote, &tcb_info, &identity, &platform, policy, &mut lines)?;
    let judged = levels.must_be_accepted(policy, &mut lines)?;
    let window = collateral_is_new(info_issue, identity_issue, &lists, policy, now, &mut lines)?;
    body::td_attributes(&quote, policy, &mut lines)?;
    body::platform(&quote, policy, &mut lines)?;
    body::service_td(&quote, policy, &mut lines)?;
    body::measurements(&quote, policy, &mut lines)?;
    if !bool::from(quote.report_data().ct_eq(report_data)) {
        return Err(TdxRejection::BindingMismatch);
    }
    lines.pass("T17", "report data is this session's binding");
    enrolment(&platform, policy, &mut lines)?;
    let reading = Reading {
        quote: &quote,
        platform: &platform,
        judged: &judged,
        evaluation: window.evaluation,
    };
    second::must_agree(reading, collateral, policy, root, &signatures, now)?;
    lines.pass(
        "T19",
        "a second verifier (dcap-qvl) accepts and reads the same",
    );
    signatures.keep();
    Ok(TdxVerdict {
        quote,
        platform,
        status: judged.status,
        advisories: judged.advisories,
        collateral: window,
        checks: lines.into_checks(),
    })
}

/// The platform that a quote names, by its PCK certificate. Nothing is proven: whoever made the quote chose that certificate.
pub(crate) fn platform_of(quote: &TdxQuote) -> Result<ChipId, TdxRejection> {
    let certificates = chain(Place::Pck, quote.pck_chain(), 2)?;
    let leaf = certificates.first().ok_or(TdxRejection::ChainMalformed {
        leaf: Place::Pck,
        what: "has too few certificates",
    })?;
    Ok(PckPlatform::of(&Certificate::parse(Place::Pck, leaf)?)?.id())
}

/// Rule T1 has been checked by reading.
fn shape(quote: &TdxQuote, lines: &mut Lines) {
    lines.pass(
        "T1",
        format!(
            "quote of {} bytes, version {}",
            quote.bytes().len(),
            quote.version()
        ),
    );
    if quote.trailing_zeros() > 0 {
        lines.info(
            "T1",
            format!(
                "{} zeros behind the quote, a driver's buffer, are left out",
                quote.trailing_zeros()
            ),
        );
    }
}

/// The two lists, each by its authority.
struct Lists<'a> {
    root: Crl<'a>,
    pck: Crl<'a>,
}

/// Rules T2 to T5: from the pinned root to the quote. Dates of certificates come after those of the lists, so that
/// stale collateral is called stale.
fn pck<'a>(
    quote: &TdxQuote,
    pck_chain: &[Vec<u8>],
    collateral: &'a TdxCollateral,
    root: &Certificate<'_>,
    signatures: &Signatures<'_>,
    now: UnixTime,
    lines: &mut Lines,
) -> Result<(PckPlatform, Lists<'a>), TdxRejection> {
    let [leaf, authority] = pck_chain else {
        return Err(TdxRejection::ChainMalformed {
            leaf: Place::Pck,
            what: "has too few certificates",
        });
    };
    if let Some(repeated) = &collateral.pck_certificate_chain
        && repeated.as_bytes() != quote.pck_chain()
        && chain(Place::Pck, repeated.as_bytes(), 2)? != *pck_chain
    {
        return Err(TdxRejection::PckChainsDiffer);
    }
    let leaf = Certificate::parse(Place::Pck, leaf)?;
    let authority = Certificate::parse(Place::PckAuthority, authority)?;
    authority.must_be_issued_by(root, 1, signatures)?;
    authority.must_be_named()?;
    leaf.must_be_issued_by(&authority, 0, signatures)?;
    leaf.must_be_named()?;
    leaf.must_be_leaf()?;
    let platform = PckPlatform::of(&leaf)?;

    let lists = Lists {
        root: Crl::open(TdxCrl::Root, &collateral.root_ca_crl, root, signatures, now)?,
        pck: Crl::open(
            TdxCrl::Pck,
            &collateral.pck_crl,
            &authority,
            signatures,
            now,
        )?,
    };
    lists.root.must_not_name(root)?;
    lists.root.must_not_name(&authority)?;
    lists.pck.must_not_name(&leaf)?;
    for certificate in [&leaf, &authority, root] {
        certificate.must_be_valid_at(now)?;
    }
    lines.pass(
        "T2",
        format!("PCK certificate chains to the pinned root, all valid at {now}"),
    );
    lines.pass("T3", "revocation lists are current and name nobody here");

    qe_report(quote, &leaf, signatures)?;
    lines.pass(
        "T4",
        "quoting enclave is certified by the platform and names the attestation key",
    );
    let key = [&[4], &quote.attestation_key()[..]].concat();
    if !signatures.verify_quote(&key, quote.signed_bytes(), quote.signature()) {
        return Err(TdxRejection::QuoteSignature);
    }
    lines.pass(
        "T5",
        "signed by the attestation key over the bytes received",
    );
    Ok((platform, lists))
}

/// Rule T4.
fn qe_report(
    quote: &TdxQuote,
    pck: &Certificate<'_>,
    signatures: &Signatures<'_>,
) -> Result<(), TdxRejection> {
    let report = quote.qe_report();
    let (point, signature) = (pck.p256_point(), quote.qe_report_signature());
    if !signatures.verify_fixed(point, report.bytes(), signature) {
        return Err(TdxRejection::QeReportSignature);
    }
    let named = [&quote.attestation_key()[..], &quote.qe_auth_data()[..]].concat();
    let digest = Sha256Digest::of(&named);
    let wanted = [&digest.as_bytes()[..], &[0; 32]].concat();
    if report.report_data()[..] != wanted[..] {
        return Err(TdxRejection::QeReportData);
    }
    Ok(())
}

/// Rule T6: both documents, and that neither signer was revoked (T3).
fn documents<'a>(
    collateral: &'a TdxCollateral,
    root: &Certificate<'_>,
    list: &Crl<'_>,
    signatures: &Signatures<'_>,
    now: UnixTime,
    lines: &mut Lines,
) -> Result<(TcbInfo<'a>, Issue, QeIdentity<'a>, Issue), TdxRejection> {
    let signed = |document, signer: &Certificate<'_>, text: &str, signature: &[u8]| {
        if signatures.verify_fixed(signer.p256_point(), text.as_bytes(), signature) {
            Ok(())
        } else {
            Err(TdxRejection::DocumentSignature(document))
        }
    };
    let signer_of = |place, ders| signer(place, ders, (root, list), signatures, now);
    let (info_issuers, identity_issuers) = (
        &collateral.tcb_info_issuer_chain,
        &collateral.qe_identity_issuer_chain,
    );
    let place = Place::TcbInfoSigner;
    let info_chain = chain(place, info_issuers.as_bytes(), 1)?;
    let info_signer = signer_of(place, &info_chain)?;
    let (text, signature) = (&collateral.tcb_info, &collateral.tcb_info_signature);
    signed(TdxDocument::TcbInfo, &info_signer, text, signature)?;
    let (text, signature) = (&collateral.qe_identity, &collateral.qe_identity_signature);
    // Intel has one signer for both, and what was asked of it would be asked again.
    if identity_issuers == info_issuers {
        signed(TdxDocument::QeIdentity, &info_signer, text, signature)?;
    } else {
        let place = Place::QeIdentitySigner;
        let identity_chain = chain(place, identity_issuers.as_bytes(), 1)?;
        let identity_signer = signer_of(place, &identity_chain)?;
        signed(TdxDocument::QeIdentity, &identity_signer, text, signature)?;
    }
    let (tcb_info, info_issue) = TcbInfo::open(&collateral.tcb_info, now)?;
    let (identity, identity_issue) = QeIdentity::open(&collateral.qe_identity, now)?;
    lines.pass(
        "T6",
        format!("TCB info and QE identity are signed, for TDX, and in force at {now}"),
    );
    Ok((tcb_info, info_issue, identity, identity_issue))
}

/// Who signed a document: the first of its chain, issued by the root, which has not revoked it.
fn signer<'d>(
    place: Place,
    chain: &'d [Vec<u8>],
    (root, list): (&Certificate<'_>, &Crl<'_>),
    signatures: &Signatures<'_>,
    now: UnixTime,
) -> Result<Certificate<'d>, TdxRejection> {
    let [signer] = chain else {
        return Err(TdxRejection::ChainMalformed {
            leaf: place,
            what: "has too few certificates",
        });
    };
    let signer = Certificate::parse(place, signer)?;
    signer.must_be_issued_by(root, 0, signatures)?;
    signer.must_be_named()?;
    signer.must_be_leaf()?;
    list.must_not_name(&signer)?;
    signer.must_be_valid_at(now)?;
    Ok(signer)
}

/// Rule T12.
fn collateral_is_new(
    tcb_info: Issue,
    identity: Issue,
    lists: &Lists<'_>,
    policy: &TdxPolicy,
    now: UnixTime,
    lines: &mut Lines,
) -> Result<CollateralWindow, TdxRejection> {
    let floor = policy.collateral_floor;
    for (document, issue) in [
        (TdxDocument::TcbInfo, tcb_info),
        (TdxDocument::QeIdentity, identity),
    ] {
        let found = issue.number;
        if found < floor {
            return Err(TdxRejection::CollateralBelowFloor {
                document,
                found,
                floor,
            });
        }
    }
    let limit = policy.collateral_age_max_secs;
    for (part, issued) in [
        ("TCB info", tcb_info.from),
        ("QE identity", identity.from),
        ("revocation list of the PCK authority", lists.pck.issued()),
    ] {
        let age = now.minus(issued.secs()).secs();
        if age > limit {
            return Err(TdxRejection::CollateralTooOld { part, age, limit });
        }
    }
    let evaluation = tcb_info.number.min(identity.number);
    lines.pass(
        "T12",
        format!("collateral has evaluation number {evaluation}, floor is {floor}"),
    );
    let issued = [lists.root.issued(), lists.pck.issued(), identity.from];
    let ends = [
        lists.root.due().minus(1),
        lists.pck.due().minus(1),
        identity.until,
    ];
    Ok(CollateralWindow {
        issued: issued.into_iter().fold(tcb_info.from, UnixTime::max),
        until: ends.into_iter().fold(tcb_info.until, UnixTime::min),
        evaluation,
    })
}

/// Rule T18.
fn enrolment(
    platform: &PckPlatform,
    policy: &TdxPolicy,
    lines: &mut Lines,
) -> Result<(), TdxRejection> {
    let id = platform.id();
    if platform.ppid() == &[0; 16] {
        return Err(TdxRejection::PlatformMasked);
    }
    if !policy.platforms.contains(&id) {
        return Err(TdxRejection::PlatformUnknown(id));
    }
    let flags = platform.configuration().map_or_else(Vec::new, flags);
    if let Some((_, words)) = flags
        .iter()
        .find(|(flag, _)| policy.refused_flags.contains(flag))
    {
        return Err(TdxRejection::PlatformConfiguration(words));
    }
    lines.pass("T18", format!("platform {id} is in the fleet list"));
    for (_, words) in flags {
        lines.info("T18", words);
    }
    Ok(())
}

/// What of its configuration holds, in words.
fn flags(configuration: PlatformConfiguration) -> Vec<(PlatformFlag, &'static str)> {
    [
        (
            configuration.dynamic_platform,
            PlatformFlag::DynamicPlatform,
            "packages can be added to the platform",
        ),
        (
            configuration.cached_keys,
            PlatformFlag::CachedKeys,
            "Intel keeps the platform's root keys",
        ),
        (
            configuration.smt_enabled,
            PlatformFlag::SmtEnabled,
            "two threads share a core",
        ),
    ]
    .into_iter()
    .filter(|(set, ..)| *set)
    .map(|(_, flag, words)| (flag, words))
    .collect()
}
