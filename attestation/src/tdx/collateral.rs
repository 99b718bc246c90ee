//! What travels beside a quote: Intel's signed documents and lists, in the shape that `dcap-qvl` calls `QuoteCollateralV3`.
//!
//! Signed texts are kept as they came, because signatures are over them. Nothing here is believed before its signature,
//! its signer and its date were checked. Issuer chains end in a root that nobody reads.

use serde::{Deserialize, Serialize};

use super::held::Signed;
use super::pem;
use super::rejection::TdxRejection;
use crate::strict_json::{self, JsonError};

/// Longest collateral that is read, in bytes of JSON. Today's has less than 40,000.
pub const TDX_COLLATERAL_BYTES_MAX: usize = 512 * 1024;

/// Collateral that is well-formed on the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxCollateral {
    /// Not read: the PCK list must be of the authority in the quote.
    pub(crate) pck_crl_issuer_chain: String,
    #[serde(with = "hex_text")]
    pub(crate) root_ca_crl: Vec<u8>,
    #[serde(with = "hex_text")]
    pub(crate) pck_crl: Vec<u8>,
    pub(crate) tcb_info_issuer_chain: String,
    pub(crate) tcb_info: String,
    #[serde(with = "hex_text")]
    pub(crate) tcb_info_signature: Vec<u8>,
    pub(crate) qe_identity_issuer_chain: String,
    pub(crate) qe_identity: String,
    #[serde(with = "hex_text")]
    pub(crate) qe_identity_signature: Vec<u8>,
    /// Some senders repeat the quote's chain here. It must be the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pck_certificate_chain: Option<String>,
}

impl TdxCollateral {
    /// Reads collateral, strictly: every field once, none unknown, bytes in lower-case hexadecimal. White space around the
    /// document is let pass, because it comes out of files.
    ///
    /// # Errors
    /// [`TdxRejection::CollateralMalformed`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, TdxRejection> {
        strict_json::from_slice(bytes.trim_ascii(), TDX_COLLATERAL_BYTES_MAX)
            .map_err(|error| TdxRejection::CollateralMalformed(error.to_string()))
    }

    /// Writes what [`Self::from_json`] reads.
    ///
    /// # Errors
    /// Those of [`strict_json::to_vec`].
    pub fn to_json(&self) -> Result<Vec<u8>, JsonError> {
        strict_json::to_vec(self)
    }

    /// Collateral out of its parts, which were judged or will be.
    pub(crate) fn of_parts(
        (root_ca_crl, pck_crl): (&[u8], &[u8]),
        pck_crl_issuer_chain: &str,
        tcb_info: Signed<'_>,
        qe_identity: Signed<'_>,
    ) -> Self {
        Self {
            pck_crl_issuer_chain: pck_crl_issuer_chain.to_owned(),
            root_ca_crl: root_ca_crl.to_vec(),
            pck_crl: pck_crl.to_vec(),
            tcb_info_issuer_chain: tcb_info.issuers.to_owned(),
            tcb_info: tcb_info.text.to_owned(),
            tcb_info_signature: tcb_info.signature.to_vec(),
            qe_identity_issuer_chain: qe_identity.issuers.to_owned(),
            qe_identity: qe_identity.text.to_owned(),
            qe_identity_signature: qe_identity.signature.to_vec(),
            pck_certificate_chain: None,
        }
    }

    /// For the second verifier, without a chain that could stand in for the quote's, and of signers' chains what anybody reads: our
    /// rules refuse text beside a chain's certificates, and neither verifier looks at the root that follows the signer, since
    /// both know it.
    pub(crate) fn for_second_verifier(&self) -> dcap_qvl::QuoteCollateralV3 {
        dcap_qvl::QuoteCollateralV3 {
            pck_crl_issuer_chain: self.pck_crl_issuer_chain.clone(),
            root_ca_crl: self.root_ca_crl.clone(),
            pck_crl: self.pck_crl.clone(),
            tcb_info_issuer_chain: pem::first(&self.tcb_info_issuer_chain).to_owned(),
            tcb_info: self.tcb_info.clone(),
            tcb_info_signature: self.tcb_info_signature.clone(),
            qe_identity_issuer_chain: pem::first(&self.qe_identity_issuer_chain).to_owned(),
            qe_identity: self.qe_identity.clone(),
            qe_identity_signature: self.qe_identity_signature.clone(),
            pck_certificate_chain: None,
        }
    }
}

/// Bytes as lower-case hexadecimal of any length; the whole document is bounded.
mod hex_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(D::Error::custom("not lower-case hexadecimal"));
        }
        hex::decode(text.as_bytes()).map_err(|_| D::Error::custom("not lower-case hexadecimal"))
    }
}
