//! The machine's side: it shows its keys, and opens the credential that is made for them. It keeps nothing in between: the TPM makes
//! the same keys again (rule E4).

use std::collections::BTreeSet;

use casemate_attestation::tpm::Bank;
use casemate_attestation::{DeviceProvider, Sha256Digest};
use casemate_devices::tpm::{Attester, Credential, KeyKind, Measured, Tpm, Transport};
use casemate_devices::{DeviceError, Retry, SystemTime};

use super::EnrolmentError;
use super::devices::ask;
use super::documents::{
    Answer, Bytes, Challenge, Document as _, Kind, Request, Subject, TpmRequest,
};
use super::organisation::{proof, quoted_data};

/// The kind of attestation key that `casemate serve` and `casemate connect` make.
const ATTESTATION: KeyKind = KeyKind::P256;

fn attester<T: Transport>(
    transport: T,
    registers: BTreeSet<u8>,
) -> Result<Attester<T>, EnrolmentError> {
    let measured = Measured {
        bank: Bank::Sha256,
        registers,
    };
    let (retry, time) = (Retry::default(), SystemTime::new());
    let tpm = Tpm::new(transport);
    Ok(Attester::start(tpm, ATTESTATION, measured, retry, &time)?)
}

/// Asks the TPM for its keys (rule E1). The endorsement key is one that its maker certified, where there is any. `authorities` are
/// those above its certificate, nearest first, as its maker publishes them.
///
/// # Errors
/// [`EnrolmentError::Device`].
pub fn request<T: Transport>(
    transport: T,
    software: bool,
    authorities: Vec<Vec<u8>>,
) -> Result<Request, EnrolmentError> {
    let time = SystemTime::new();
    let mut attester = attester(transport, BTreeSet::new())?;
    let (mut kind, mut found) = (Kind::Rsa2048, attester.enrolment(KeyKind::Rsa2048, &time)?);
    if found.endorsement_certificate.is_none() {
        (kind, found) = (Kind::P256, attester.enrolment(KeyKind::P256, &time)?);
    }
    let leaf = found.endorsement_certificate;
    let certificates = leaf.map_or_else(Vec::new, |leaf| {
        let all = std::iter::once(leaf).chain(authorities);
        all.map(Bytes).collect()
    });
    let tpm = TpmRequest {
        kind,
        software,
        certificates,
        endorsement: Bytes(found.endorsement),
        attestation: Bytes(found.attestation),
    };
    Ok(Request::new(Subject::Tpm(tpm), Vec::new()))
}

/// Opens the challenge and quotes these registers of the SHA-256 bank over it and over what `devices` answer to it (rules E7, E9).
///
/// # Errors
/// [`EnrolmentError::NotForThisTpm`] when the credential was made for other keys, or altered; [`EnrolmentError::Device`] and
/// [`EnrolmentError::Provider`].
pub fn answer<T: Transport>(
    transport: T,
    challenge: &[u8],
    registers: BTreeSet<u8>,
    devices: Option<&dyn DeviceProvider>,
) -> Result<Answer, EnrolmentError> {
    let time = SystemTime::new();
    let document = Challenge::parse(challenge)?;
    let digest = Sha256Digest::of(challenge.trim_ascii());
    let credential = Credential {
        object: document.object.0,
        seed: document.seed.0,
    };
    let mut attester = attester(transport, registers)?;
    let secret = attester
        .activate(document.kind.into(), &credential, &time)
        .map_err(|error| match error {
            DeviceError::Failed { .. } => EnrolmentError::NotForThisTpm(error),
            other => other.into(),
        })?;
    let devices = devices.map_or(Ok(Vec::new()), |it| ask(it, Some(&digest)))?;
    let quote = attester.evidence(&quoted_data(&digest, &devices), &time)?;
    let proof = proof(&secret, &digest).as_ref().to_vec();
    Ok(Answer::new(digest, proof, quote, devices))
}
