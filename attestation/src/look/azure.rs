//! A look at an Azure VM: the paravisor's hardware report, and what hangs from it (rules Z1 to Z4, then P1 to P6).

use super::{as_quoted, looked_snp, looked_tdx, shown};
use crate::azure::{
    AzureEvidence, AzureMachine, AzureRejection, HclReport, VerifiedHardware, links_agree,
    verify_azure,
};
use crate::digest::UnixTime;
use crate::hardware::HardwareEvidence;
use crate::look::Look;
use crate::provider::Platform;
use crate::rejection::Rejection;
use crate::snp::{PinnedRoot, SnpReport};
use crate::tdx::{TdxQuote, TdxRoot};
use crate::tpm::{Attest, Bank, TpmPolicy, TpmRejection};
use crate::verdict::{Check, Lines};

/// Looks at an Azure VM under the vendors' roots. `nonce` is what its virtual TPM's quote was asked for with; without it the
/// quote stands for whatever that was. Without a quote the paravisor is known and the guest is not, and the lines say so.
///
/// What can be compared without a certificate is compared first, so that a recording whose parts do not belong together is
/// refused for that, whether or not its certificates were kept.
///
/// # Errors
/// [`Rejection`] names the first rule that does not hold.
pub fn azure(
    machine: &AzureMachine,
    nonce: Option<&[u8]>,
    now: UnixTime,
) -> Result<Look, Rejection> {
    let hcl = HclReport::parse(&machine.hcl)?;
    let quote = machine.evidence();
    let report_data = own_report_data(&machine.hardware)?;
    let asked = match &quote {
        Some(evidence) => Some(asked(evidence, nonce)?),
        None => None,
    };
    let with = quote.as_ref().zip(asked.as_ref());
    let by_link = with.map(|(evidence, asked)| (evidence, asked.nonce.as_slice(), &asked.policy));
    links_agree(&hcl, &report_data, by_link)?;

    let (snp, tdx);
    let (mut look, verified) = match &machine.hardware {
        HardwareEvidence::Snp(evidence) => {
            let roots = PinnedRoot::amd();
            let (look, verdict) = looked_snp(evidence, Some(&report_data), &roots, now)?;
            snp = verdict;
            (look, VerifiedHardware::Snp(&snp))
        }
        HardwareEvidence::Tdx(evidence) => {
            let root = TdxRoot::intel();
            let (look, verdict) = looked_tdx(evidence, Some(&report_data), &root, now)?;
            tdx = verdict;
            (look, VerifiedHardware::Tdx(&tdx))
        }
        HardwareEvidence::Tpm(_) => return Err(no_hardware()),
    };
    look.checks.extend(match with {
        Some((evidence, asked)) => {
            let verdict = verify_azure(evidence, &verified, &asked.nonce, &asked.policy)?;
            shown(verdict.checks(), &["P4"], nonce.is_none().then_some("P3"))
        }
        None => without_quote(&hcl, &verified)?,
    });
    Ok(look)
}

fn own_report_data(hardware: &HardwareEvidence) -> Result<[u8; 64], Rejection> {
    match hardware {
        HardwareEvidence::Snp(evidence) => Ok(SnpReport::parse(&evidence.report)?.report_data()),
        HardwareEvidence::Tdx(evidence) => Ok(TdxQuote::parse(&evidence.quote)?.report_data()),
        HardwareEvidence::Tpm(_) => Err(no_hardware()),
    }
}

/// A TPM's quote is no hardware report that could name another TPM's key.
const fn no_hardware() -> Rejection {
    Rejection::OtherKind {
        platform: Platform::Snp,
        kind: "tpm",
    }
}

/// What a quote is compared with in a look: what it was asked for with, or itself.
struct Asked {
    nonce: Vec<u8>,
    policy: TpmPolicy,
}

fn asked(evidence: &AzureEvidence, nonce: Option<&[u8]>) -> Result<Asked, AzureRejection> {
    let of_quote = AzureRejection::Quote;
    let attest = Attest::parse(&evidence.message).map_err(of_quote)?;
    let selections = attest.selections();
    let found = selections.len();
    let [selection] = selections else {
        return Err(of_quote(TpmRejection::SelectionCount { found }));
    };
    let bank = Bank::from_id(selection.bank).ok_or(of_quote(TpmRejection::PcrBank {
        found: selection.bank,
        expected: Bank::Sha256,
    }))?;
    let policy = as_quoted(bank, &selection.registers, &evidence.registers).map_err(of_quote)?;
    let nonce = nonce.unwrap_or(attest.extra_data()).to_vec();
    Ok(Asked { nonce, policy })
}

/// Rules Z1 to Z3, and that there is nothing behind them.
fn without_quote(
    hcl: &HclReport<'_>,
    hardware: &VerifiedHardware<'_>,
) -> Result<Vec<Check>, AzureRejection> {
    hcl.bind(hardware)?;
    let mut lines = Lines::default();
    lines.pass("Z1", format!("paravisor report with {}", hcl.report_type()));
    lines.pass("Z2", "hardware report is the paravisor's");
    lines.pass(
        "Z3",
        "report data is the hash of the runtime data, and zeros",
    );
    lines.info(
        "Z4",
        "no quote of the virtual TPM came along: what the guest booted is not known",
    );
    Ok(lines.into_checks())
}
