//! Azure's confidential VMs: a paravisor stands between hardware and guest, and the guest is measured by its virtual TPM.
//!
//! The hardware report is the paravisor's. Its REPORT_DATA is fixed: the hash of the runtime data, which name the virtual
//! TPM's attestation key. So the chain is: hardware report, runtime data, that key, a quote. Rules Z1 to Z4 are those of
//! `docs/formats/tpm.md`; [`verify_azure`] walks them and then P1 to P6.

mod appraise;
mod hcl;
mod rejection;
mod runtime;

pub(crate) use appraise::links_agree;
pub use appraise::{
    AzureEvidence, AzureMachine, AzureQuote, AzureVerdict, VerifiedHardware, verify_azure,
};
pub use hcl::{BoundRuntime, HCL_BYTES_MAX, HclReport, HclReportType};
pub use rejection::AzureRejection;
pub use runtime::RuntimeData;
