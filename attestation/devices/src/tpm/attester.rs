//! Enrolment and quotes of one machine: the keys are made once, every quote is fresh.

use std::collections::BTreeSet;

use casemate_attestation::tpm::{
    Attest, Bank, KeyEvidence, QuoteSignature, TpmEvidence, session_nonce,
};
use zeroize::Zeroizing;

use crate::DeviceError;
use crate::retry::{Retry, Time};

use super::DEVICE;
use super::client::{LoadedKey, Tpm};
use super::credential::Credential;
use super::templates::KeyKind;
use super::transport::Transport;

/// How often registers may change between reading and quoting them.
const ROUNDS: u32 = 4;

/// Which registers a machine shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The bank.
    pub bank: Bank,
    /// The registers; policy must expect exactly these (rule P4).
    pub registers: BTreeSet<u8>,
}

/// What a machine hands to whoever enrols it. Public, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The maker's certificate of the endorsement key, with the padding of NV memory; `None` when the maker left none.
    pub endorsement_certificate: Option<Vec<u8>>,
    /// TPMT_PUBLIC of the endorsement key.
    pub endorsement: Vec<u8>,
    /// TPMT_PUBLIC of the attestation key.
    pub attestation: Vec<u8>,
}

/// A TPM with the attestation key in it.
#[derive(Debug)]
pub struct Attester<T: Transport> {
    tpm: Tpm<T>,
    key: LoadedKey,
    measured: Measured,
    retry: Retry,
}

impl<T: Transport> Attester<T> {
    /// Makes the attestation key. With a discrete TPM and RSA that takes seconds.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn start(
        mut tpm: Tpm<T>,
        kind: KeyKind,
        measured: Measured,
        retry: Retry,
        time: &dyn Time,
    ) -> Result<Self, DeviceError> {
        let key = retry.run(time, || tpm.attestation_key(kind))?;
        Ok(Self {
            tpm,
            key,
            measured,
            retry,
        })
    }

    /// TPMT_PUBLIC of the attestation key.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.key.public
    }

    /// What enrolment begins with, for the endorsement key of this kind.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn enrolment(&mut self, kind: KeyKind, time: &dyn Time) -> Result<Enrolment, DeviceError> {
        let (tpm, retry) = (&mut self.tpm, self.retry);
        let endorsement_certificate = retry.run(time, || tpm.endorsement_certificate(kind))?;
        let key = retry.run(time, || tpm.endorsement_key(kind))?;
        let endorsement = key.public.clone();
        tpm.flush(key)?;
        Ok(Enrolment {
            endorsement_certificate,
            endorsement,
            attestation: self.key.public.clone(),
        })
    }

    /// Opens the broker's credential, which shows that both keys are of this TPM.
    ///
    /// # Errors
    /// [`DeviceError`]; a credential for other keys is an error of the TPM.
    pub fn activate(
        &mut self,
        kind: KeyKind,
        credential: &Credential,
        time: &dyn Time,
    ) -> Result<Zeroizing<Vec<u8>>, DeviceError> {
        let (tpm, retry) = (&mut self.tpm, self.retry);
        let endorsement = retry.run(time, || tpm.endorsement_key(kind))?;
        let secret = retry.run(time, || tpm.activate(&self.key, &endorsement, credential));
        let flushed = tpm.flush(endorsement);
        let secret = secret?;
        flushed?;
        Ok(secret)
    }

    /// A fresh quote over `report_data` (a session's binding, or the root of a batch), with the values of its registers.
    ///
    /// A register that is extended between reading and quoting makes the two disagree; both are then done again.
    ///
    /// # Errors
    /// [`DeviceError`]; [`DeviceError::NotOurs`] when the quote is over something else, or registers do not hold still.
    pub fn evidence(
        &mut self,
        report_data: &[u8; 64],
        time: &dyn Time,
    ) -> Result<TpmEvidence, DeviceError> {
        let nonce = session_nonce(report_data);
        let (tpm, key, retry) = (&mut self.tpm, &self.key, self.retry);
        let Measured { bank, registers } = &self.measured;
        for _ in 0..ROUNDS {
            let values = retry.run(time, || tpm.registers(*bank, registers))?;
            let (message, signature) =
                retry.run(time, || tpm.quote(key, &nonce, *bank, registers))?;
            let attest = Attest::parse(&message).map_err(|_| DeviceError::Malformed {
                device: DEVICE,
                what: "a quote's message is not well-formed",
            })?;
            if attest.extra_data() != nonce {
                return Err(not_ours("a quote is over another nonce"));
            }
            let joined: Vec<u8> = values.values().flatten().copied().collect();
            // Both kinds of our key sign with SHA-256, and the digest over the registers is by the signature's hash.
            if attest.pcr_digest() == Bank::Sha256.digest(&joined) {
                return Ok(TpmEvidence {
                    message,
                    signature: QuoteSignature::Tpmt(signature),
                    registers: values,
                    key: KeyEvidence::PublicArea(key.public.clone()),
                });
            }
        }
        Err(not_ours("registers change while they are quoted"))
    }
}

impl<T: Transport> Drop for Attester<T> {
    fn drop(&mut self) {
        // The kernel's resource manager gives the place back by itself; a TPM without one keeps it until its next reset.
        let _ = self.tpm.flush_handle(self.key.handle);
    }
}

const fn not_ours(what: &'static str) -> DeviceError {
    DeviceError::NotOurs {
        device: DEVICE,
        what,
    }
}
