//! AMD SEV-SNP: reports, certificates and their appraisal over the bytes received, never over a re-encoding.
//!
//! Rules S1 to S19 are those of `docs/formats/evidence.md`; [`verify_snp_report`] walks them in that order.

mod appraise;
mod chain;
mod crl;
mod evidence;
pub(crate) mod held;
mod policy;
mod rejection;
mod report;
mod roots;
mod tcb;

pub use appraise::{SnpVerdict, verify_snp_report};
pub use evidence::SnpEvidence;
pub use policy::{CrlPolicy, PolicyError, SnpPolicy};
pub use rejection::{CertificateRole, SnpRejection, TcbField};
#[cfg(feature = "test-chip")]
pub(crate) use report::SIGNED_BYTES;
pub use report::{REPORT_BYTES, SnpReport, VMPL_HOST};
pub use roots::PinnedRoot;
#[cfg(feature = "test-chip")]
pub(crate) use tcb::TcbLayout;
pub use tcb::{Product, TcbVersion};
