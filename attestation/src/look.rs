//! A look at evidence without expectations: is it genuine, and what does it say?
//!
//! Every rule holds that needs no word of the organisation: signatures, chains, dates, consistency, and what is never up for
//! choice. What an organisation would compare with its lists is told as it was found, and said to be compared with nothing. A
//! look opens no session: it gives no [`VerifiedEvidence`](crate::VerifiedEvidence).

mod azure;

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::{ChipId, Measurement, UnixTime};
use crate::eventlog::LogKind;
use crate::hardware::{HardwareEvidence, TpmBoot};
use crate::rejection::Rejection;
use crate::snp::{
    CrlPolicy, PinnedRoot, Product, SnpEvidence, SnpPolicy, SnpRejection, SnpReport, SnpVerdict,
    TcbVersion, verify_snp_report,
};
use crate::tdx::{
    Expected, TdxEvidence, TdxMeasurement, TdxPolicy, TdxQuote, TdxRejection, TdxRoot, TdxVerdict,
    platform_of, verify_tdx_quote,
};
use crate::tpm::{
    Attest, AttestationKey, Bank, EnrolledKey, HostedIn, KeyEvidence, TpmAnchors, TpmPolicy,
    TpmRejection, registers_digest, verify_tpm_quote,
};
use crate::verdict::{Basis, Check, CheckResult};
use crate::verify::{QuotedBy, event_log_lines};

pub use azure::azure;

/// What a look found.
#[derive(Debug, Clone)]
pub struct Look {
    /// Every rule in order; those that would need the organisation's lists as INFO.
    pub checks: Vec<Check>,
    /// What runs there, as [`VerifiedEvidence::measurement`](crate::VerifiedEvidence::measurement) tells it.
    pub measurement: Measurement,
    /// The machine, where the evidence names it: not a TPM's, whose quote names no endorsement key.
    pub chip_id: Option<ChipId>,
    /// The product of an SNP chip, by its certificates.
    pub product: Option<Product>,
    /// First second at which something that was judged is out of date.
    pub until: Option<UnixTime>,
}

/// Looks at evidence under the vendors' roots. Without `report_data` it stands for whatever it was asked for.
///
/// # Errors
/// [`Rejection`] names the first rule that does not hold.
pub fn look(
    hardware: &HardwareEvidence,
    report_data: Option<&[u8; 64]>,
    now: UnixTime,
) -> Result<Look, Rejection> {
    match hardware {
        HardwareEvidence::Snp(evidence) => snp(evidence, report_data, &PinnedRoot::amd(), now),
        HardwareEvidence::Tdx(evidence) => tdx(evidence, report_data, &TdxRoot::intel(), now),
        HardwareEvidence::Tpm(boot) => {
            let nonce = report_data.map(crate::tpm::session_nonce);
            tpm(boot, nonce.as_ref().map(|nonce| &nonce[..]), now)
        }
    }
}

/// Looks at an SNP report under these roots. A missing revocation list, firmware that looked for no aliased memory and a
/// product with a broken root are shown and not refused; VMPL 0 and the chip's own key are asked for.
///
/// # Errors
/// [`Rejection`] names the first rule that does not hold.
pub fn snp(
    evidence: &SnpEvidence,
    report_data: Option<&[u8; 64]>,
    roots: &[PinnedRoot],
    now: UnixTime,
) -> Result<Look, Rejection> {
    looked_snp(evidence, report_data, roots, now).map(|(look, _)| look)
}

fn looked_snp(
    evidence: &SnpEvidence,
    report_data: Option<&[u8; 64]>,
    roots: &[PinnedRoot],
    now: UnixTime,
) -> Result<(Look, SnpVerdict), Rejection> {
    let report = SnpReport::parse(&evidence.report)?;
    // A masked chip cannot be listed, and is refused by its own rule.
    let chip = Some(report.chip_id()).filter(|chip| !chip.is_masked());
    let products = [Product::Milan, Product::Genoa, Product::Turin];
    let floors = BTreeMap::from(products.map(|product| (product, TcbVersion::default())));
    let policy = SnpPolicy::new(
        vec![report.measurement()],
        vec![chip.unwrap_or(ChipId::from_bytes([0xff; 64]))],
        floors,
    )
    .map_err(|_| SnpRejection::ChipIdMasked)?
    .with_crl(CrlPolicy::MissingIsShown)
    .tolerating_missing_alias_check();
    let policy = products.iter().fold(policy, |policy, product| {
        policy.allowing_despite_broken_root(*product)
    });
    let expected = report_data.copied().unwrap_or(report.report_data());
    let verdict = verify_snp_report(evidence, &expected, &policy, roots, now)?;
    let unasked = report_data.is_none().then_some("S16");
    let look = Look {
        checks: shown(verdict.checks(), &["S11", "S17", "S19"], unasked),
        measurement: verdict.measurement(),
        chip_id: Some(verdict.chip_id()),
        product: Some(verdict.product()),
        until: Some(verdict.until()),
    };
    Ok((look, verdict))
}

/// Looks at a TDX quote under this root: status `UpToDate`, no debugging, no migration, no service TD.
///
/// # Errors
/// [`Rejection`] names the first rule that does not hold.
pub fn tdx(
    evidence: &TdxEvidence,
    report_data: Option<&[u8; 64]>,
    root: &TdxRoot,
    now: UnixTime,
) -> Result<Look, Rejection> {
    looked_tdx(evidence, report_data, root, now).map(|(look, _)| look)
}

fn looked_tdx(
    evidence: &TdxEvidence,
    report_data: Option<&[u8; 64]>,
    root: &TdxRoot,
    now: UnixTime,
) -> Result<(Look, TdxVerdict), Rejection> {
    let quote = TdxQuote::parse(&evidence.quote)?;
    let exactly = |found: Measurement| Expected::OneOf(vec![found]);
    let found = TdxMeasurement {
        mrtd: quote.mrtd(),
        rtmrs: quote.rtmrs().map(exactly),
    };
    let platform = platform_of(&quote)?;
    let policy = TdxPolicy::new(vec![found], vec![platform], 1)
        .map_err(|_| TdxRejection::PlatformMasked)?
        .with_mr_config_id(exactly(quote.mr_config_id()))
        .with_mr_owner(exactly(quote.mr_owner()))
        .with_mr_owner_config(exactly(quote.mr_owner_config()));
    let expected = report_data.copied().unwrap_or(quote.report_data());
    let collateral = &evidence.collateral;
    let verdict = verify_tdx_quote(&evidence.quote, collateral, &expected, &policy, root, now)?;
    let unasked = report_data.is_none().then_some("T17");
    let mut checks = shown(verdict.checks(), &["T12", "T16", "T18"], unasked);
    let quoted = QuotedBy::Tdx(&verdict);
    checks.extend(event_log_lines(&evidence.event_log, LogKind::Ccel, quoted)?);
    let look = Look {
        checks,
        measurement: verdict.measurement(),
        chip_id: Some(verdict.platform_id()),
        product: None,
        until: Some(verdict.collateral().until.plus(1)),
    };
    Ok((look, verdict))
}

/// Looks at a TPM's quote. Nobody vouches for its key, so that nothing rests on more than the word of whoever holds it.
///
/// # Errors
/// [`Rejection`] names the first rule that does not hold.
pub fn tpm(boot: &TpmBoot, nonce: Option<&[u8]>, now: UnixTime) -> Result<Look, Rejection> {
    let quote = &boot.quote;
    let attest = Attest::parse(&quote.message)?;
    let selections = attest.selections();
    let found = selections.len();
    let [selection] = selections else {
        return Err(TpmRejection::SelectionCount { found }.into());
    };
    let (id, registers) = (selection.bank, &selection.registers);
    let bank = Bank::from_id(id).ok_or(TpmRejection::PcrBank {
        found: id,
        expected: Bank::Sha256,
    })?;
    let policy = as_quoted(bank, registers, &quote.registers)?;
    let key = match &quote.key {
        KeyEvidence::PublicArea(area) => {
            EnrolledKey::new(&AttestationKey::parse(area)?, HostedIn::Machine)
        }
        KeyEvidence::Spki(der) => EnrolledKey::from_spki(der, HostedIn::Machine)?,
        KeyEvidence::Certificate { .. } => return Err(TpmRejection::KeyNotEnrolled.into()),
    };
    let anchors = TpmAnchors::new(Vec::new(), vec![key]);
    let expected = nonce.unwrap_or(attest.extra_data());
    let verdict = verify_tpm_quote(quote, expected, &policy, &anchors, now)?;
    let unasked = nonce.is_none().then_some("P3");
    let mut checks = shown(verdict.checks(), &["P4", "P5"], unasked);
    checks.extend(event_log_lines(
        &boot.event_log,
        LogKind::Tcg2,
        QuotedBy::Tpm(&verdict),
    )?);
    for check in &mut checks {
        check.basis = Basis::Asserted;
    }
    Ok(Look {
        checks,
        measurement: registers_digest(verdict.bank(), verdict.registers()),
        chip_id: None,
        product: None,
        until: None,
    })
}

/// A policy that expects exactly what came along.
fn as_quoted(
    bank: Bank,
    covered: &BTreeSet<u8>,
    values: &BTreeMap<u8, Vec<u8>>,
) -> Result<TpmPolicy, TpmRejection> {
    // Values of registers that were not quoted are refused by rule P4, whatever is expected.
    let quoted = values.iter().filter(|(number, _)| covered.contains(number));
    let expected: BTreeMap<u8, Vec<Vec<u8>>> = quoted
        .map(|(number, value)| (*number, vec![value.clone()]))
        .collect();
    let missing = covered.iter().find(|number| !values.contains_key(number));
    if let Some(number) = missing {
        return Err(TpmRejection::PcrMissing(*number));
    }
    let policy = match bank {
        Bank::Sha1 => TpmPolicy::of_collidable_sha1_bank(covered.clone(), expected),
        _ => TpmPolicy::new(bank, covered.clone(), expected),
    };
    policy.map_err(|_| {
        match values
            .iter()
            .find(|(_, value)| value.len() != bank.digest_bytes())
        {
            Some((register, value)) => TpmRejection::PcrLength {
                register: *register,
                found: value.len(),
                bank,
            },
            None => TpmRejection::PcrSelection {
                found: covered.iter().copied().collect(),
                expected: Vec::new(),
            },
        }
    })
}

/// The lines of a verdict whose policy was made from the evidence itself: what such rules found is information.
fn shown(checks: &[Check], own: &[&str], unasked: Option<&'static str>) -> Vec<Check> {
    let as_found = |check: &Check| {
        let by_itself = own.contains(&check.id) && check.result == CheckResult::Pass;
        let mut check = check.clone();
        if by_itself {
            check.text = format!("compared with nothing: {}", without_lists(&check.text));
        } else if unasked == Some(check.id) {
            check.text =
                "compared with nothing: nobody said what evidence was asked for with".into();
        } else {
            return check;
        }
        check.result = CheckResult::Info;
        check
    };
    checks.iter().map(as_found).collect()
}

/// What was found, without the claim that a list has it.
fn without_lists(text: &str) -> &str {
    let ends = [
        " is in the fleet list",
        " is in the reference values",
        ", with what it measured since",
    ];
    ends.iter()
        .filter_map(|end| text.find(end))
        .min()
        .and_then(|at| text.get(..at))
        .unwrap_or(text)
}
