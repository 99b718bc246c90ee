//! The appraisal of one report: rules S1 to S19 in that order, each of which can only refuse.

use crate::ecdsa::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use subtle::ConstantTimeEq as _;

use super::chain::Certificate;
use super::evidence::SnpEvidence;
use super::policy::{ALIAS_CHECK_COMPLETE, CrlPolicy, SnpPolicy};
use super::rejection::{CertificateRole as Role, SnpRejection, TcbField};
use super::report::{SigningKey, SnpReport, VMPL_HOST};
use super::{PinnedRoot, Product, TcbVersion, crl};
use crate::digest::{ChipId, Measurement, UnixTime};
use crate::verdict::Check;
use crate::verdict::Lines;

/// PLATFORM_INFO bits that have a name today. Others are shown, not refused: firmware sets new ones.
const PLATFORM_INFO_KNOWN: u64 = 0xff;
const PLATFORM_INFO_SMT: u64 = 1;

const POLICY_SMT: u64 = 1 << 16;
const POLICY_ALWAYS_ONE: u64 = 1 << 17;
const POLICY_MIGRATE_MA: u64 = 1 << 18;
const POLICY_DEBUG: u64 = 1 << 19;
const POLICY_KNOWN: u64 = (1 << 26) - 1;

/// A report that passed every rule. [`verify_snp_report`] is its only constructor.
#[derive(Debug, Clone)]
pub struct SnpVerdict {
    report: SnpReport,
    product: Product,
    measurement: Measurement,
    chip_id: ChipId,
    until: UnixTime,
    checks: Vec<Check>,
}

impl SnpVerdict {
    /// The report's fields.
    #[must_use]
    pub const fn report(&self) -> &SnpReport {
        &self.report
    }

    /// The processor's family.
    #[must_use]
    pub const fn product(&self) -> Product {
        self.product
    }

    /// The launch measurement.
    #[must_use]
    pub const fn measurement(&self) -> Measurement {
        self.measurement
    }

    /// The chip; zeros under a provider's key.
    #[must_use]
    pub const fn chip_id(&self) -> ChipId {
        self.chip_id
    }

    /// REPORTED_TCB.
    #[must_use]
    pub const fn reported_tcb(&self) -> TcbVersion {
        self.report.reported_tcb()
    }

    /// First second at which a certificate or the revocation list is out of date.
    #[must_use]
    pub const fn until(&self) -> UnixTime {
        self.until
    }

    /// Every check, in order.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

/// Appraises a report with its collateral. `report_data` is what REPORT_DATA must be.
///
/// # Errors
/// [`SnpRejection`] names the first rule that does not hold.
pub fn verify_snp_report(
    evidence: &SnpEvidence,
    report_data: &[u8; 64],
    policy: &SnpPolicy,
    roots: &[PinnedRoot],
    now: UnixTime,
) -> Result<SnpVerdict, SnpRejection> {
    let report = SnpReport::parse(&evidence.report)?;
    let mut lines = Lines::default();
    lines.pass(
        "S1",
        format!(
            "report of {} bytes, version {}",
            evidence.report.len(),
            report.version()
        ),
    );
    lines.pass("S2", "reserved bytes are zero");

    let vek = Certificate::parse(Role::Vek, &evidence.vek)?;
    signature(&report, &vek)?;
    lines.pass(
        "S3",
        "signed by the endorsement key over the bytes received",
    );

    let endorsement = endorsement(&report, &vek, policy)?;
    lines.pass("S4", endorsement.text());

    let product = vek.product()?;
    let pinned = roots
        .iter()
        .find(|root| root.product() == product)
        .ok_or(SnpRejection::NoRootForProduct(product))?;
    let root = Certificate::parse(Role::Root, pinned.der())?;
    let intermediate = Certificate::parse(Role::Intermediate, &evidence.intermediate)?;
    chain(&vek, &intermediate, &root, product, &endorsement)?;
    lines.pass(
        "S5",
        format!("certificates chain to the pinned root of {product}"),
    );

    let mut until = UnixTime::from_secs(u64::MAX);
    for certificate in [&vek, &intermediate, &root] {
        until = until.min(certificate.must_be_valid_at(now)?);
    }
    lines.pass("S6", format!("certificates are valid at {now}"));

    family(&report, product, policy, &mut lines)?;
    vek.tcb_must_equal(product, &report.reported_tcb())?;
    lines.pass(
        "S8",
        format!(
            "certificate is for the reported firmware: {}",
            report.reported_tcb()
        ),
    );
    chip_of_certificate(&report, &vek, product, &endorsement)?;
    lines.pass("S9", "chip id and endorsement certificate agree");

    let due = revocation(evidence, &intermediate, &root, policy, now, &mut lines)?;
    firmware(&report, product, policy)?;
    lines.pass(
        "S11",
        "reported, committed and launch firmware are at or above the floor",
    );
    guest_policy(&report, policy)?;
    lines.pass(
        "S12",
        format!(
            "guest policy {:#x} permits neither debugging nor migration",
            report.policy()
        ),
    );
    privilege(&report, policy)?;
    lines.pass(
        "S13",
        format!(
            "requested by the guest at privilege level {}",
            report.vmpl()
        ),
    );
    platform(&report, policy, &mut lines)?;
    if report.chip_key_masked() && matches!(endorsement, Endorsement::Chip) {
        return Err(SnpRejection::ChipKeyMasked);
    }
    lines.pass("S15", "chip key in use");
    if !bool::from(report.report_data().ct_eq(report_data)) {
        return Err(SnpRejection::BindingMismatch);
    }
    lines.pass("S16", "report data is this session's binding");
    if !policy.measurements.contains(&report.measurement()) {
        return Err(SnpRejection::MeasurementUnknown(report.measurement()));
    }
    lines.pass(
        "S17",
        format!(
            "measurement {} is in the reference values",
            report.measurement()
        ),
    );
    mitigations(&report, policy)?;
    lines.pass("S18", "mitigations that policy asks for are in force");
    enrolment(&report, policy, &endorsement, &mut lines)?;

    let (measurement, chip_id) = (report.measurement(), report.chip_id());
    Ok(SnpVerdict {
        report,
        product,
        measurement,
        chip_id,
        until: until.min(due),
        checks: lines.into_checks(),
    })
}

/// Who endorses the report.
enum Endorsement {
    /// The chip, by its VCEK.
    Chip,
    /// A cloud provider, by a VLEK.
    Provider(String),
}

impl Endorsement {
    fn text(&self) -> String {
        match self {
            Self::Chip => "endorsed by the chip's own key (VCEK)".to_owned(),
            Self::Provider(csp_id) => {
                format!("endorsed by the provider {csp_id} (VLEK), which policy allows")
            }
        }
    }
}

/// Rule S3.
fn signature(report: &SnpReport, vek: &Certificate<'_>) -> Result<(), SnpRejection> {
    if report.signature_algorithm() != 1 {
        return Err(SnpRejection::SignatureAlgorithm(
            report.signature_algorithm(),
        ));
    }
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, vek.p384_point()?)
        .verify(report.signed_bytes(), &report.signature())
        .map_err(|_| SnpRejection::ReportSignature)
}

/// Rule S4.
fn endorsement(
    report: &SnpReport,
    vek: &Certificate<'_>,
    policy: &SnpPolicy,
) -> Result<Endorsement, SnpRejection> {
    let name = vek.common_name()?;
    match (report.signing_key(), name) {
        (SigningKey::Vcek, "SEV-VCEK") => Ok(Endorsement::Chip),
        (SigningKey::Vlek, "SEV-VLEK") => {
            let csp_id = vek.csp_id()?.to_owned();
            if policy.vlek_csp_ids.contains(&csp_id) {
                Ok(Endorsement::Provider(csp_id))
            } else {
                Err(SnpRejection::VlekNotAllowed { csp_id })
            }
        }
        (reported, name) => {
            let certificate = match name {
                "SEV-VCEK" => "VCEK",
                "SEV-VLEK" => "VLEK",
                _ => "certificate of another name",
            };
            Err(SnpRejection::SigningKey {
                reported: reported.as_str(),
                certificate,
            })
        }
    }
}

/// Rule S5. The root is the pinned one; no root is taken from evidence.
fn chain(
    vek: &Certificate<'_>,
    intermediate: &Certificate<'_>,
    root: &Certificate<'_>,
    product: Product,
    endorsement: &Endorsement,
) -> Result<(), SnpRejection> {
    intermediate.must_be_issued_by(root)?;
    intermediate.must_be_named(&match endorsement {
        Endorsement::Chip => format!("SEV-{product}"),
        Endorsement::Provider(_) => format!("SEV-VLEK-{product}"),
    })?;
    vek.must_be_issued_by(intermediate)?;
    vek.must_be_leaf()
}

/// Rule S7, and the products whose root of trust is broken.
fn family(
    report: &SnpReport,
    product: Product,
    policy: &SnpPolicy,
    lines: &mut Lines,
) -> Result<(), SnpRejection> {
    let reported = match report.product() {
        Some(reported) if reported == product => {
            format!("processor, certificate and root are {product}")
        }
        // Version 2 has no processor identity, and no Turin ever wrote it: its layout is the older one.
        None if product != Product::Turin => format!("certificate and root are {product}"),
        Some(reported) => return Err(mismatch(reported.to_string(), product)),
        None => return Err(mismatch("version 2".to_owned(), product)),
    };
    lines.pass("S7", reported);
    if product.root_is_broken() {
        if !policy.broken_roots.contains(&product) {
            return Err(SnpRejection::FamilyRootBroken(product));
        }
        lines.info(
            "S7",
            format!(
                "{product} reports can be forged; accepted by an override in the reference values"
            ),
        );
    }
    Ok(())
}

const fn mismatch(reported: String, certificate: Product) -> SnpRejection {
    SnpRejection::ProductMismatch {
        reported,
        certificate,
    }
}

/// Rule S9.
fn chip_of_certificate(
    report: &SnpReport,
    vek: &Certificate<'_>,
    product: Product,
    endorsement: &Endorsement,
) -> Result<(), SnpRejection> {
    let chip_id = report.chip_id();
    match endorsement {
        Endorsement::Provider(_) if chip_id.is_masked() && vek.hardware_id().is_none() => Ok(()),
        Endorsement::Provider(_) => Err(SnpRejection::VlekNamesChip),
        Endorsement::Chip => {
            let hardware_id = vek.hardware_id().ok_or(SnpRejection::HardwareIdMissing)?;
            if chip_id.is_masked() {
                return Err(SnpRejection::ChipIdMasked);
            }
            let length = if product == Product::Turin { 8 } else { 64 };
            let (id, rest) = chip_id.as_bytes().split_at(length);
            if hardware_id == id && rest.iter().all(|byte| *byte == 0) {
                Ok(())
            } else {
                Err(SnpRejection::ChipIdMismatch)
            }
        }
    }
}

/// Rule S10. Returns when the next list is due.
fn revocation(
    evidence: &SnpEvidence,
    intermediate: &Certificate<'_>,
    root: &Certificate<'_>,
    policy: &SnpPolicy,
    now: UnixTime,
    lines: &mut Lines,
) -> Result<UnixTime, SnpRejection> {
    let authorities = [(Role::Intermediate, intermediate), (Role::Root, root)];
    match (
        crl::must_not_list(&evidence.crl, root, &authorities, now),
        policy.crl,
    ) {
        (Ok(due), _) => {
            lines.pass(
                "S10",
                "revocation list is current and names no authority of this chain",
            );
            Ok(due)
        }
        (Err(SnpRejection::CrlMissing), CrlPolicy::MissingIsShown) => {
            lines.info(
                "S10",
                "no revocation list: whether an authority was revoked is unknown",
            );
            Ok(UnixTime::from_secs(u64::MAX))
        }
        (Err(rejection), _) => Err(rejection),
    }
}

/// Rule S11.
fn firmware(report: &SnpReport, product: Product, policy: &SnpPolicy) -> Result<(), SnpRejection> {
    let floor = policy
        .floors
        .get(&product)
        .ok_or(SnpRejection::NoFloorForProduct(product))?;
    let reported = (TcbField::Reported, report.reported_tcb());
    let committed = (TcbField::Committed, report.committed_tcb());
    for (field, tcb) in [reported, committed, (TcbField::Launch, report.launch_tcb())] {
        if let Some((component, found, floor)) = tcb.below(floor) {
            return Err(SnpRejection::TcbBelowFloor {
                field,
                component,
                found,
                floor,
            });
        }
    }
    for (lower, upper) in [
        (reported, committed),
        (committed, (TcbField::Current, report.current_tcb())),
    ] {
        if upper.1.below(&lower.1).is_some() {
            let ((lower, lower_tcb), (upper, upper_tcb)) = (lower, upper);
            return Err(SnpRejection::TcbOrder {
                lower,
                lower_tcb,
                upper,
                upper_tcb,
            });
        }
    }
    Ok(())
}

/// Rule S12.
fn guest_policy(report: &SnpReport, policy: &SnpPolicy) -> Result<(), SnpRejection> {
    let bits = report.policy();
    if bits & !POLICY_KNOWN != 0 {
        return Err(SnpRejection::PolicyUnknownBits(bits & !POLICY_KNOWN));
    }
    if bits & POLICY_ALWAYS_ONE == 0 {
        return Err(SnpRejection::PolicyReservedBit);
    }
    if bits & POLICY_DEBUG != 0 {
        return Err(SnpRejection::DebugPermitted);
    }
    if bits & POLICY_MIGRATE_MA != 0 {
        return Err(SnpRejection::MigrationPermitted);
    }
    let [minor, major, ..] = bits.to_le_bytes();
    if (major, minor) < policy.guest_abi {
        let (floor_major, floor_minor) = policy.guest_abi;
        let (found, floor) = (
            format!("{major}.{minor}"),
            format!("{floor_major}.{floor_minor}"),
        );
        return Err(SnpRejection::GuestAbi { found, floor });
    }
    Ok(())
}

/// Rule S13.
fn privilege(report: &SnpReport, policy: &SnpPolicy) -> Result<(), SnpRejection> {
    match report.vmpl() {
        VMPL_HOST => Err(SnpRejection::RequestedByHost),
        found if found != policy.vmpl => Err(SnpRejection::Vmpl {
            found,
            expected: policy.vmpl,
        }),
        _ => Ok(()),
    }
}

/// Rule S14.
fn platform(report: &SnpReport, policy: &SnpPolicy, lines: &mut Lines) -> Result<(), SnpRejection> {
    let info = report.platform_info();
    if info & PLATFORM_INFO_SMT != 0 && report.policy() & POLICY_SMT == 0 {
        return Err(SnpRejection::SmtAgainstPolicy);
    }
    let missing = policy.platform_info & !info;
    if missing & ALIAS_CHECK_COMPLETE != 0 {
        return Err(SnpRejection::AliasCheckIncomplete);
    }
    if missing != 0 {
        return Err(SnpRejection::PlatformInfo(missing));
    }
    lines.pass(
        "S14",
        format!("platform properties {info:#x} hold what policy asks for"),
    );
    if info & ALIAS_CHECK_COMPLETE == 0 {
        lines.info(
            "S14",
            "firmware did not complete its check for aliased memory; policy tolerates it",
        );
    }
    if info & !PLATFORM_INFO_KNOWN != 0 {
        lines.info(
            "S14",
            format!(
                "platform properties without a name: {:#x}",
                info & !PLATFORM_INFO_KNOWN
            ),
        );
    }
    Ok(())
}

/// Rule S18. A report that cannot show mitigations has none.
fn mitigations(report: &SnpReport, policy: &SnpPolicy) -> Result<(), SnpRejection> {
    let (launch, current) = report.mitigations();
    let missing = policy.mitigations & !(launch & current);
    if missing != 0 {
        return Err(SnpRejection::MitigationMissing(missing));
    }
    Ok(())
}

/// Rule S19.
fn enrolment(
    report: &SnpReport,
    policy: &SnpPolicy,
    endorsement: &Endorsement,
    lines: &mut Lines,
) -> Result<(), SnpRejection> {
    match endorsement {
        Endorsement::Provider(csp_id) => {
            lines.info(
                "S19",
                format!("no chip is named; the provider {csp_id} stands in for the fleet list"),
            );
        }
        Endorsement::Chip if policy.chips.contains(&report.chip_id()) => {
            lines.pass(
                "S19",
                format!("chip {} is in the fleet list", report.chip_id()),
            );
        }
        Endorsement::Chip => return Err(SnpRejection::ChipUnknown(report.chip_id())),
    }
    Ok(())
}
