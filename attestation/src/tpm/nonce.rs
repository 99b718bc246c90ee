//! What a TPM signs for a session: a digest of the 64 bytes that a processor would sign whole (rule P3).
//!
//! A TPM takes as many bytes along as its longest digest: some take 34. SHA-256 fits into all of them.

use crate::digest::Sha256Digest;
use crate::framing;

const NONCE_LABEL: &str = "casemate/tpm/v1";

/// The nonce of a quote over `report_data` (a session's binding, or the root of a batch): SHA-256 of the label `casemate/tpm/v1`
/// and the framed 64 bytes.
#[must_use]
pub fn quote_nonce(report_data: &[u8; 64]) -> [u8; 32] {
    *Sha256Digest::of(&framing::labelled(NONCE_LABEL, &[report_data])).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p3_the_nonce_is_the_labelled_digest_of_all_64_bytes() {
        let mut message = b"casemate/tpm/v1\x00\x00\x00\x40".to_vec();
        let mut data = [7_u8; 64];
        message.extend(data);
        let nonce = quote_nonce(&data);
        assert_eq!(nonce, *Sha256Digest::of(&message).as_bytes());
        for byte in 0..64 {
            data[byte] ^= 1;
            assert_ne!(quote_nonce(&data), nonce, "byte {byte}");
            data[byte] ^= 1;
        }
    }
}
