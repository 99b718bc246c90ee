//! The appraisal of one Azure VM: rules Z1 to Z4, then P1 to P6 under the key that the runtime data name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::hcl::{BoundRuntime, HclReport, HclReportType};
use super::rejection::AzureRejection;
use super::runtime::RuntimeData;
use crate::hardware::HardwareEvidence;
use crate::snp::SnpVerdict;
use crate::strict_json::{base64_bytes, hex_registers};
use crate::tdx::TdxVerdict;
use crate::tpm::{
    AkTrust, Attest, Quote, QuoteSignature, TpmLocation, TpmPolicy, TpmRejection, TpmVerdict,
    TrustedKey, Vouched, appraise,
};
use crate::verdict::Check;
use crate::verdict::Lines;

/// Hardware evidence that was verified before, against [`HclReport::report_data`] as its report data.
#[derive(Debug, Clone, Copy)]
pub enum VerifiedHardware<'a> {
    /// The verdict on the SNP report inside the blob.
    Snp(&'a SnpVerdict),
    /// The verdict on the TDX *quote* beside the blob, whose policy knows the paravisor's MRTD. The TDREPORT inside the blob
    /// is no quote: it carries a MAC that nobody but its machine can check (attack B16).
    Tdx(&'a TdxVerdict),
}

impl VerifiedHardware<'_> {
    /// Which kind of report the blob must hold.
    #[must_use]
    pub const fn report_type(&self) -> HclReportType {
        match self {
            Self::Snp(_) => HclReportType::Snp,
            Self::Tdx(_) => HclReportType::TdReport,
        }
    }
}

/// What an Azure VM hands over beside its hardware evidence. Nothing of it is trusted.
#[derive(Debug, Clone)]
pub struct AzureEvidence {
    /// The paravisor's report.
    pub hcl: Vec<u8>,
    /// TPMS_ATTEST of the virtual TPM.
    pub message: Vec<u8>,
    /// The signature over it.
    pub signature: QuoteSignature,
    /// Values of the registers quoted, by number.
    pub registers: BTreeMap<u8, Vec<u8>>,
}

/// An Azure VM with its hardware evidence, as it is recorded. Nothing of it is trusted.
#[derive(Debug, Clone)]
pub struct AzureMachine {
    /// The SNP report or the TDX quote, with the vendor's documents.
    pub hardware: HardwareEvidence,
    /// The paravisor's report.
    pub hcl: Vec<u8>,
    /// The virtual TPM's quote. Without it the paravisor is known, and what the guest booted is not.
    pub quote: Option<AzureQuote>,
}

/// A quote of the virtual TPM.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureQuote {
    /// TPMS_ATTEST.
    #[serde(with = "base64_bytes")]
    pub message: Vec<u8>,
    /// The signature over it.
    pub signature: QuoteSignature,
    /// Values of the registers quoted, by number.
    #[serde(with = "hex_registers")]
    pub registers: BTreeMap<u8, Vec<u8>>,
}

impl AzureMachine {
    /// What [`verify_azure`] judges, where there is a quote.
    #[must_use]
    pub fn evidence(&self) -> Option<AzureEvidence> {
        self.quote.as_ref().map(|quote| AzureEvidence {
            hcl: self.hcl.clone(),
            message: quote.message.clone(),
            signature: quote.signature.clone(),
            registers: quote.registers.clone(),
        })
    }
}

/// An Azure VM whose chain from hardware to quote holds. [`verify_azure`] is its only constructor.
///
/// ```compile_fail
/// let verdict = casemate_attestation::azure::AzureVerdict::default();
/// ```
///
/// ```
/// fn quote(verdict: &casemate_attestation::azure::AzureVerdict) -> &casemate_attestation::tpm::TpmVerdict {
///     verdict.quote()
/// }
/// ```
#[derive(Debug, Clone)]
pub struct AzureVerdict {
    runtime: BoundRuntime,
    quote: TpmVerdict,
    checks: Vec<Check>,
}

impl AzureVerdict {
    /// What the paravisor says.
    #[must_use]
    pub const fn runtime(&self) -> &RuntimeData {
        self.runtime.data()
    }

    /// The verdict on the virtual TPM's quote. Its location is the paravisor.
    #[must_use]
    pub const fn quote(&self) -> &TpmVerdict {
        &self.quote
    }

    /// Every check, in order: Z1 to Z4, P1 to P6.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

/// Appraises an Azure VM whose hardware evidence was verified. `nonce` is what the quote's extra data must be.
///
/// No time is needed: nothing here expires. The hardware evidence was judged at a time, and the nonce is fresh.
///
/// # Errors
/// [`AzureRejection`] names the first rule that does not hold.
pub fn verify_azure(
    evidence: &AzureEvidence,
    hardware: &VerifiedHardware<'_>,
    nonce: &[u8],
    policy: &TpmPolicy,
) -> Result<AzureVerdict, AzureRejection> {
    let hcl = HclReport::parse(&evidence.hcl)?;
    let mut lines = Lines::default();
    let version = hcl.version();
    lines.pass(
        "Z1",
        format!(
            "paravisor report, version {version}, with {}",
            hcl.report_type()
        ),
    );
    let runtime = hcl.bind(hardware)?;
    lines.pass(
        "Z2",
        "hardware report is the one that was verified, and the paravisor's",
    );
    lines.pass(
        "Z3",
        "report data is the hash of the runtime data, and zeros",
    );
    let quote = quote(evidence, runtime.data(), nonce, policy)?;
    lines.pass(
        "Z4",
        "quote is by the attestation key that the runtime data name",
    );
    let mut checks = lines.into_checks();
    checks.extend_from_slice(quote.checks());
    Ok(AzureVerdict {
        runtime,
        quote,
        checks,
    })
}

/// Whether the parts belong together by what they say themselves: the report data and the runtime data (Z3), the key named there
/// and the quote (Z4, P1 to P6). It can only refuse: nothing is proven before [`verify_azure`].
pub(crate) fn links_agree(
    hcl: &HclReport<'_>,
    report_data: &[u8; 64],
    quoted: Option<(&AzureEvidence, &[u8], &TpmPolicy)>,
) -> Result<(), AzureRejection> {
    if *report_data != hcl.report_data() {
        return Err(AzureRejection::RuntimeDataUnbound);
    }
    if let Some((evidence, nonce, policy)) = quoted {
        let named = RuntimeData::parse(hcl.runtime_bytes())?;
        quote(evidence, &named, nonce, policy)?;
    }
    Ok(())
}

fn quote(
    evidence: &AzureEvidence,
    runtime: &RuntimeData,
    nonce: &[u8],
    policy: &TpmPolicy,
) -> Result<TpmVerdict, AzureRejection> {
    let key = TrustedKey {
        key: runtime.attestation_key().clone(),
        vouch: &|| {
            Ok(Vouched {
                trust: AkTrust::NamedByHardware,
                location: TpmLocation::Paravisor,
                text: "attestation key is the one that the hardware report binds".to_owned(),
                attributes: Some(
                    "that it is a restricted signing key is the word of the measured paravisor",
                ),
            })
        },
    };
    let attest = Attest::parse(&evidence.message).map_err(AzureRejection::Quote)?;
    let quote = Quote {
        attest,
        message: &evidence.message,
        signature: &evidence.signature,
        registers: &evidence.registers,
    };
    appraise(quote, &key, nonce, policy).map_err(|rejection| match rejection {
        TpmRejection::QuoteSignature | TpmRejection::SignatureKey(_) => {
            AzureRejection::QuoteOfOtherKey
        }
        other => AzureRejection::Quote(other),
    })
}
