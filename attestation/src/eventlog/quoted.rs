//! What a log is compared with: register values, and who signed them.

use std::collections::BTreeMap;

use crate::tdx::TdxVerdict;
use crate::tpm::{Bank, TpmLocation};

/// Who vouches for register values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterSource {
    /// A TPM's verified quote, and where that TPM runs.
    Tpm(TpmLocation),
    /// A verified TDX quote.
    Tdx,
    /// Nobody: values read from the machine itself.
    Unsigned,
}

/// Register values of one bank.
#[derive(Debug, Clone)]
pub struct QuotedRegisters {
    pub(super) bank: Bank,
    pub(super) values: BTreeMap<u8, Vec<u8>>,
    pub(super) source: RegisterSource,
}

impl QuotedRegisters {
    pub(crate) const fn of_tpm(
        bank: Bank,
        values: BTreeMap<u8, Vec<u8>>,
        location: TpmLocation,
    ) -> Self {
        Self {
            bank,
            values,
            source: RegisterSource::Tpm(location),
        }
    }

    /// RTMR 0 to 3 of a verified TDX quote. On Azure they describe the paravisor and never the guest.
    #[must_use]
    pub fn of_tdx(verdict: &TdxVerdict) -> Self {
        let rtmrs = verdict.rtmrs().map(|rtmr| rtmr.as_bytes().to_vec());
        Self {
            bank: Bank::Sha384,
            values: (0..).zip(rtmrs).collect(),
            source: RegisterSource::Tdx,
        }
    }

    /// Values that nobody signed, by register number. What a log claims by them is asserted, whatever it hashes to.
    #[must_use]
    pub const fn unsigned(bank: Bank, values: BTreeMap<u8, Vec<u8>>) -> Self {
        Self {
            bank,
            values,
            source: RegisterSource::Unsigned,
        }
    }

    /// Who vouches for them.
    #[must_use]
    pub const fn source(&self) -> RegisterSource {
        self.source
    }
}
