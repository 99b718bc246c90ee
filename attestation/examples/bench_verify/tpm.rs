//! A TPM's quote by an enrolled key. Nothing to compare with: the libraries bind a C stack and judge no policy.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use casemate_attestation::UnixTime;
use casemate_attestation::tpm::{
    AttestationKey, Bank, EnrolledKey, HostedIn, KeyEvidence, QuoteSignature, TpmAnchors,
    TpmEvidence, TpmPolicy, verify_tpm_quote,
};

use super::inputs::Vector;
use super::report::Row;
use super::turns::rates;

/// One row.
pub fn rows(evidence: &Path) -> anyhow::Result<Vec<Row>> {
    let name = "gce-cos-85-nonce";
    let vector = Vector::read(evidence, &format!("tpm/{name}"))?;
    // The first is of a bank of SHA-1.
    let at = |key: &str| format!("/quotes/1/{key}");
    let area = vector.file("ak_public.tpmt")?;
    let key = EnrolledKey::new(&AttestationKey::parse(&area)?, HostedIn::Machine);
    let registers = vector.registers(vector.text(&at("pcrs"))?)?;
    let covered = vector.value(&at("pcr_selection"))?;
    let covered = covered.as_array().context("a list of registers")?;
    let covered: BTreeSet<u8> = covered
        .iter()
        .filter_map(|number| u8::try_from(number.as_u64()?).ok())
        .collect();
    let length = registers.values().next().map_or(0, Vec::len);
    let banks = [Bank::Sha256, Bank::Sha384, Bank::Sha512];
    let bank = banks.into_iter().find(|bank| bank.digest_bytes() == length);
    let expected = registers
        .iter()
        .map(|(number, value)| (*number, vec![value.clone()]));
    let policy = TpmPolicy::new(bank.context("a bank")?, covered, expected.collect())?;
    let signature = vector.file(vector.text(&at("signature"))?)?;
    let signature = match vector.text(&at("signature_format")) {
        Ok("TPMT_SIGNATURE") => QuoteSignature::Tpmt(signature),
        _ => QuoteSignature::RsassaSha256(signature),
    };
    let evidence = TpmEvidence {
        message: vector.file(vector.text(&at("message"))?)?,
        signature,
        registers,
        key: KeyEvidence::PublicArea(area),
    };
    let nonce = hex::decode(vector.text(&at("extra_data"))?)?;
    let anchors = TpmAnchors::new(Vec::new(), vec![key]);
    let now = UnixTime::from_secs(0);
    let judge = || {
        verify_tpm_quote(&evidence, &nonce, &policy, &anchors, now)?;
        Ok(())
    };
    let [ours] = rates([&judge])?;
    Ok(vec![Row::alone(format!("tpm, {name}"), ours)])
}
