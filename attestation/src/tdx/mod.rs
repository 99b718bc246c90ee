//! Intel TDX: quotes, collateral and their appraisal over the bytes received, never over a re-encoding.
//!
//! Rules T1 to T19 are those of `docs/formats/evidence-tdx.md`; [`verify_tdx_quote`] walks them in that order. Our own
//! code checks every one of them; `dcap-qvl` is asked last and must agree (docs/decisions/0009).

mod appraise;
mod body;
mod certificate;
mod collateral;
mod crl;
mod evidence;
mod extension;
pub(crate) mod held;
mod levels;
mod parts;
mod pck;
mod pem;
mod policy;
mod quote;
mod rejection;
mod roots;
mod second;
mod signatures;
mod status;
mod tcb;
mod x509;

pub(crate) use appraise::platform_of;
pub use appraise::{CollateralWindow, TdxVerdict, verify_tdx_quote, verify_tdx_quote_knowing};
pub(crate) use body::still_listed;
pub use collateral::{TDX_COLLATERAL_BYTES_MAX, TdxCollateral};
pub use evidence::TdxEvidence;
pub use held::PckCa;
pub use parts::{TdxCertificate, TdxCrl, TdxDocument, TdxTcb};
pub use pck::{PckPlatform, PlatformConfiguration};
pub use policy::{Expected, PlatformFlag, TdxMeasurement, TdxPolicy, TdxPolicyError};
pub use quote::{QUOTE_BYTES_MAX, TdxBody, TdxExtension, TdxQuote};
pub use rejection::TdxRejection;
pub use roots::TdxRoot;
pub use signatures::KnownSignatures;
pub use status::TcbStatus;

// It reads recorded evidence, which nothing in `src` may do.
#[cfg(test)]
#[path = "../../tests/inside/tdx_twin.rs"]
mod twin;
