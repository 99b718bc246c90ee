//! The organisation's side: it judges a request, makes the credential, and remembers its secret until the answer comes, once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_attestation::nvidia::DeviceEvidence;
use casemate_attestation::strict_json::{self, hex_bytes};
use casemate_attestation::tpm::{
    AttestationKey, Bank, EnrolledKey, HostedIn, PublicKey, TpmAnchors, TpmPolicy, session_nonce,
    tpm_id, verify_ek_certificate, verify_tpm_quote,
};
use casemate_attestation::{ChipId, FleetTpm, Sha256Digest, UnixTime};
use casemate_devices::tpm::{KeyKind, endorsement_spki, make_credential};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::EnrolmentError;
use super::devices::naming;
use super::documents::{Answer, BYTES_MAX, Challenge, Document as _, Request, Subject, TpmRequest};
use crate::org::{OrgError, Organisation, files};
use crate::secrets::{read_secret_file, write_secret_file};

/// A challenge waits this long for its answer.
const LIFE_SECONDS: u64 = 7 * 86_400;
/// Most challenges that wait at once.
const WAITING_MAX: usize = 4096;
const PROOF_LABEL: &[u8] = b"casemate/enrolment-proof/v1";
const QUOTE_LABEL: &[u8] = b"casemate/enrolment-quote/v1";

/// Who says that an endorsement key is a TPM's (rule E2).
#[derive(Debug, Clone)]
pub enum Vouch {
    /// Its maker, under one of these roots.
    Roots(TpmAnchors),
    /// The officer, who read the TPM's id on the machine itself, and says where it runs.
    Named(ChipId, HostedIn),
}

/// What is kept of a challenge until its answer comes (mode 0600).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pending {
    expires: UnixTime,
    id: ChipId,
    key: FleetTpm,
    #[serde(with = "hex_bytes")]
    secret: [u8; 32],
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// A TPM that opened its credential: what the fleet list says of it, and what it measured when it answered.
#[derive(Debug)]
pub struct Redeemed {
    /// The machine's id.
    pub id: ChipId,
    /// Its entry.
    pub key: FleetTpm,
    /// Its registers of the SHA-256 bank, quoted over the challenge.
    pub registers: BTreeMap<u8, Vec<u8>>,
    /// Its GPUs and switches, which the quote names; judged by nobody yet ([`judge_all`](super::judge_all)).
    pub devices: Vec<DeviceEvidence>,
    /// SHA-256 of the challenge that was answered.
    pub challenge: Sha256Digest,
    pending: PathBuf,
}

impl Redeemed {
    /// Forgets the challenge: its answer is never taken again.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn close(self) -> std::io::Result<()> {
        std::fs::remove_file(self.pending)
    }
}

/// Judges a TPM's request and makes a challenge for it. Returns the machine's id, and the challenge's bytes.
///
/// # Errors
/// [`EnrolmentError`] names the rule.
pub fn challenge(
    organisation: &Organisation,
    request: &[u8],
    vouch: &Vouch,
    now: UnixTime,
) -> Result<(ChipId, Vec<u8>), EnrolmentError> {
    let parsed = Request::parse(request)?;
    let Subject::Tpm(asked) = parsed.machine else {
        return Err(EnrolmentError::NoChallengeNeeded);
    };
    if !parsed.devices.is_empty() {
        return Err(EnrolmentError::OtherDevices);
    }
    let key = AttestationKey::parse(&asked.attestation.0).map_err(EnrolmentError::Attestation)?;
    let (endorsement, id, hosted) = vouched(&asked, vouch, now)?;
    if asked.software && hosted != HostedIn::Software {
        return Err(EnrolmentError::SoftwareTpm);
    }
    let mut secret = Zeroizing::new([0_u8; 32]);
    SystemRandom::new()
        .fill(&mut *secret)
        .map_err(|_| EnrolmentError::NoRandomness)?;
    let credential = make_credential(&endorsement, &key, &*secret)?;
    let digest = Sha256Digest::of(request.trim_ascii());
    let challenge = Challenge::new(digest, asked.kind, credential.object, credential.seed);
    let bytes = challenge.to_bytes()?;
    let pending = Pending {
        expires: now.plus(LIFE_SECONDS),
        id,
        key: FleetTpm {
            attestation_key: asked.attestation.0,
            hosted,
        },
        secret: *secret,
    };
    remember(organisation, &Sha256Digest::of(&bytes), &pending, now)?;
    Ok((id, bytes))
}

/// The id of the TPM that a request is of, by its own word: for an officer to read on the machine itself.
pub fn shown_id(request: &Request) -> Option<ChipId> {
    let Subject::Tpm(asked) = &request.machine else {
        return None;
    };
    let key = KeyKind::from(asked.kind).endorsement_of(&asked.endorsement.0)?;
    Some(tpm_id(&endorsement_spki(&key)?))
}

/// Rule E2: the endorsement key with its TPM's id and place, by whoever vouches for it.
fn vouched(
    asked: &TpmRequest,
    vouch: &Vouch,
    now: UnixTime,
) -> Result<(PublicKey, ChipId, HostedIn), EnrolmentError> {
    let id_of = |key: &PublicKey| {
        let spki = endorsement_spki(key).ok_or(EnrolmentError::EndorsementKind)?;
        Ok::<_, EnrolmentError>(tpm_id(&spki))
    };
    let shown = KeyKind::from(asked.kind).endorsement_of(&asked.endorsement.0);
    let shown = || shown.ok_or(EnrolmentError::EndorsementKind);
    match vouch {
        Vouch::Named(id, hosted) => {
            let key = shown()?;
            match id_of(&key)? {
                found if found == *id => Ok((key, *id, *hosted)),
                other => Err(EnrolmentError::OtherEndorsement(other.to_string())),
            }
        }
        Vouch::Roots(anchors) => {
            let mut certificates = asked.certificates.iter().map(|it| it.0.clone());
            let Some(leaf) = certificates.next() else {
                return Err(EnrolmentError::NoCertificate(id_of(&shown()?)?.to_string()));
            };
            let above: Vec<Vec<u8>> = certificates.collect();
            let (key, hosted) = verify_ek_certificate(&leaf, &above, anchors, now)
                .map_err(EnrolmentError::Endorsement)?;
            let id = id_of(&key)?;
            Ok((key, id, hosted))
        }
    }
}

/// Judges an answer to one of this organisation's challenges.
///
/// # Errors
/// [`EnrolmentError`] names the rule.
pub fn redeem(
    organisation: &Organisation,
    answer: &[u8],
    now: UnixTime,
) -> Result<Redeemed, EnrolmentError> {
    let answer = Answer::parse(answer)?;
    let file = place(organisation.folder(), &answer.challenge);
    if !file.exists() {
        return Err(EnrolmentError::NotWaiting);
    }
    let bytes = read_secret_file(&file)?;
    let damaged = |error: strict_json::JsonError| OrgError::Damaged {
        path: file.clone(),
        reason: error.to_string(),
    };
    let pending: Pending = strict_json::from_slice(&bytes, BYTES_MAX).map_err(damaged)?;
    if now >= pending.expires {
        return Err(EnrolmentError::Expired);
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, &pending.secret);
    hmac::verify(&key, &proven(&answer.challenge), &answer.proof.0)
        .map_err(|_| EnrolmentError::Proof)?;
    let registers = quoted(&answer, &pending.key, now)?;
    Ok(Redeemed {
        id: pending.id,
        key: pending.key.clone(),
        registers,
        devices: answer.devices,
        challenge: answer.challenge,
        pending: file,
    })
}

/// Rule E7: the key that is enrolled quoted its registers over this challenge.
fn quoted(
    answer: &Answer,
    key: &FleetTpm,
    now: UnixTime,
) -> Result<BTreeMap<u8, Vec<u8>>, EnrolmentError> {
    let registers = answer.quote.registers.clone();
    let as_they_are = registers.iter();
    let expected = as_they_are.map(|(register, value)| (*register, vec![value.clone()]));
    let policy = TpmPolicy::new(
        Bank::Sha256,
        registers.keys().copied().collect(),
        expected.collect(),
    )
    .map_err(|_| EnrolmentError::NoRegisters)?;
    let parsed =
        AttestationKey::parse(&key.attestation_key).map_err(EnrolmentError::Attestation)?;
    let anchors = TpmAnchors::new(Vec::new(), vec![EnrolledKey::new(&parsed, key.hosted)]);
    let nonce = session_nonce(&quoted_data(&answer.challenge, &answer.devices));
    verify_tpm_quote(&answer.quote, &nonce, &policy, &anchors, now)
        .map_err(EnrolmentError::Quote)?;
    Ok(registers)
}

fn remember(
    organisation: &Organisation,
    challenge: &Sha256Digest,
    pending: &Pending,
    now: UnixTime,
) -> Result<(), EnrolmentError> {
    let file = place(organisation.folder(), challenge);
    let folder = organisation.folder().join(files::ENROLMENTS);
    let unusable = |error: std::io::Error| OrgError::Damaged {
        path: folder.clone(),
        reason: error.to_string(),
    };
    std::fs::create_dir_all(&folder).map_err(unusable)?;
    let waiting = sweep(&folder, now).map_err(unusable)?;
    if waiting >= WAITING_MAX {
        return Err(EnrolmentError::TooManyWaiting(folder));
    }
    let damaged = |error: strict_json::JsonError| OrgError::Damaged {
        path: file.clone(),
        reason: error.to_string(),
    };
    let bytes = Zeroizing::new(strict_json::to_vec(pending).map_err(damaged)?);
    Ok(write_secret_file(&file, &bytes)?)
}

/// Removes the secrets of challenges that nobody answered in time. Returns how many files stay: what cannot be read stays, too,
/// because it is not known to be over.
fn sweep(folder: &Path, now: UnixTime) -> std::io::Result<usize> {
    let mut waiting = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let pending = read_secret_file(&path)
            .ok()
            .and_then(|bytes| strict_json::from_slice::<Pending>(&bytes, BYTES_MAX).ok());
        match pending {
            Some(pending) if now >= pending.expires => std::fs::remove_file(&path)?,
            _ => waiting += 1,
        }
    }
    Ok(waiting)
}

/// Where a challenge waits.
fn place(organisation: &Path, challenge: &Sha256Digest) -> PathBuf {
    organisation
        .join(files::ENROLMENTS)
        .join(format!("{challenge}.json"))
}

/// What the proof is over.
fn proven(challenge: &Sha256Digest) -> Vec<u8> {
    [PROOF_LABEL, challenge.as_bytes()].concat()
}

/// HMAC-SHA256 by the opened secret.
pub(super) fn proof(secret: &[u8], challenge: &Sha256Digest) -> hmac::Tag {
    hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, secret),
        &proven(challenge),
    )
}

/// What the quote in an answer is over, in the place of a session's binding: no binding is made of these bytes. With devices it names
/// them (rule E9).
pub(super) fn quoted_data(challenge: &Sha256Digest, devices: &[DeviceEvidence]) -> [u8; 64] {
    if !devices.is_empty() {
        return naming(devices, challenge.as_bytes());
    }
    let mut context = digest::Context::new(&digest::SHA512);
    context.update(QUOTE_LABEL);
    context.update(challenge.as_bytes());
    let mut out = [0; 64];
    out.copy_from_slice(context.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_challenges_that_are_over_are_removed_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, expires: u64| {
            let pending = Pending {
                expires: UnixTime::from_secs(expires),
                id: ChipId::from_bytes([1; 64]),
                key: FleetTpm {
                    attestation_key: vec![1],
                    hosted: HostedIn::Software,
                },
                secret: [7; 32],
            };
            let file = folder.path().join(name);
            write_secret_file(&file, &strict_json::to_vec(&pending).unwrap()).unwrap();
        };
        put("over", 100);
        put("waits", 101);
        std::fs::write(folder.path().join("unknown"), b"not ours").unwrap();
        assert_eq!(sweep(folder.path(), UnixTime::from_secs(100)).unwrap(), 2);
        let there = |name: &str| folder.path().join(name).exists();
        assert!(!there("over") && there("waits") && there("unknown"));
    }
}
