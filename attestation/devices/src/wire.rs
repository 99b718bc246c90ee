//! Writing of the devices' binary structures. They are read with [`casemate_attestation::reader`].

/// A TPM2B: the length, then the bytes. Everything that is written here is shorter than 64 KiB; a longer one would be cut, and
/// the TPM refuses a structure that does not add up.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
        .to_vec();
    out.extend_from_slice(bytes);
    out
}
