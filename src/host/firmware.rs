//! Firmware that is installed on a host. An image that was built with firmware brings its own.

use casemate_measure::snp::SnpFirmware;
use casemate_measure::tdx::{self, PageOrder};

use super::{Facts, Finding};

const BROUGHT: &str = "an image brings its own: casemate image build with the option for firmware";

/// Firmware that measures kernel, initrd and command line of a SEV-SNP guest.
pub(super) fn snp(facts: &Facts) -> Finding {
    const ID: &str = "snp.firmware";
    const PATH: &str = "/usr/share/ovmf/OVMF.amdsev.fd";
    match facts.bytes(PATH).map(|bytes| SnpFirmware::read(&bytes)) {
        None => Finding::skip(ID, format!("{PATH} is not installed"), BROUGHT),
        Some(Ok(firmware)) if firmware.hash_table.is_some() => Finding::pass(
            ID,
            format!("{PATH} holds kernel, initrd and command line to measured hashes"),
        ),
        Some(Ok(_)) => Finding::fail(
            ID,
            format!("{PATH} has no place for hashes, so that a kernel would not be measured"),
            "take ovmf-amdsev 2026.08 or newer",
        ),
        Some(Err(error)) => Finding::fail(
            ID,
            format!("{PATH}: {error}"),
            "take ovmf-amdsev 2026.08 or newer",
        ),
    }
}

/// Firmware of a trust domain.
pub(super) fn tdx(facts: &Facts) -> Finding {
    const ID: &str = "tdx.firmware";
    const PATH: &str = "/usr/share/ovmf/OVMF.fd";
    match facts
        .bytes(PATH)
        .map(|bytes| tdx::launch_digest(&bytes, PageOrder::SinglePass))
    {
        None => Finding::skip(ID, format!("{PATH} is not installed"), BROUGHT),
        Some(Ok(_)) => Finding::pass(ID, format!("{PATH} has a trust domain's metadata")),
        Some(Err(error)) => Finding::fail(
            ID,
            format!("{PATH}: {error}"),
            "take ovmf-generic 2026.08 or newer",
        ),
    }
}

/// Firmware that measures into a TPM.
pub(super) fn tpm(facts: &Facts) -> Finding {
    const ID: &str = "tpm.firmware";
    const PATH: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
    match facts.exists(PATH) {
        true => Finding::pass(ID, format!("{PATH} is installed")),
        false => Finding::skip(ID, format!("{PATH} is not installed"), BROUGHT),
    }
}
