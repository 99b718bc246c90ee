//! Which collateral a piece of evidence needs, by its own words: what to ask vendors for. Nothing is judged.

use crate::digest::ChipId;
use crate::hardware::HardwareEvidence;
use crate::snp::held::{self as amd, Named};
use crate::snp::{Product, SnpEvidence, SnpRejection, SnpReport, TcbVersion};
use crate::tdx::{PckCa, TdxQuote, TdxRejection, held as intel};

/// What a vendor is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// AMD: the certificate of a chip for its firmware, with the authority and list above it.
    Chip {
        /// Whose root stands behind it.
        product: Product,
        /// The chip.
        chip: ChipId,
        /// Its REPORTED_TCB.
        tcb: TcbVersion,
    },
    /// AMD: the authority over providers' keys with its list. Certificates of providers come with evidence only.
    Provider {
        /// Whose root stands behind it.
        product: Product,
    },
    /// Intel: documents for a family of platforms.
    Platform {
        /// Family, model and so on, as Intel names them together.
        fmspc: [u8; 6],
        /// Who certifies the platform.
        ca: PckCa,
    },
}

/// Why evidence does not say what it needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WantedError {
    /// The report cannot be read, or its chip hides.
    #[error(transparent)]
    Snp(#[from] SnpRejection),
    /// The quote cannot be read.
    #[error(transparent)]
    Tdx(#[from] TdxRejection),
    /// Reports of version 2 name no product, and there is no certificate that does.
    #[error("report names no product, and no certificate of its chip is beside it")]
    ProductUnknown,
    /// Certificates of TPMs' makers are not collateral.
    #[error("a TPM's quote needs no collateral")]
    Nothing,
}

impl Wanted {
    /// What `evidence` needs.
    ///
    /// # Errors
    /// [`WantedError`] where it does not say.
    pub fn by(evidence: &HardwareEvidence) -> Result<Self, WantedError> {
        match evidence {
            HardwareEvidence::Snp(evidence) => by_report(evidence),
            HardwareEvidence::Tdx(evidence) => {
                let (ca, fmspc) = intel::wanted_by(&TdxQuote::parse(&evidence.quote)?)?;
                Ok(Self::Platform { fmspc, ca })
            }
            HardwareEvidence::Tpm(_) => Err(WantedError::Nothing),
        }
    }
}

fn by_report(evidence: &SnpEvidence) -> Result<Wanted, WantedError> {
    let report = SnpReport::parse(&evidence.report)?;
    let named = || match amd::named(&evidence.vek) {
        Some(Ok(Named::Vek(vek))) => Some(vek.product),
        _ => None,
    };
    let product = report.product().or_else(named);
    let product = product.ok_or(WantedError::ProductUnknown)?;
    if amd::by_provider(&report) == Some(true) {
        return Ok(Wanted::Provider { product });
    }
    let (chip, tcb) = (report.chip_id(), report.reported_tcb());
    if chip.is_masked() {
        return Err(SnpRejection::ChipIdMasked.into());
    }
    Ok(Wanted::Chip { product, chip, tcb })
}
