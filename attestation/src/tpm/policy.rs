//! Who may vouch for an attestation key, where that TPM lives, and what its registers must hold. Empty means none.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::PCR_COUNT;
use super::algorithm::Bank;
use super::appraise::TpmVerdict;
use super::attest::ClockState;
use super::key::{AttestationKey, PublicKey};
use super::rejection::TpmRejection;

/// Where a TPM runs. It decides what a quote is worth, and nothing in a quote says it: whoever vouches for the key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmLocation {
    /// A discrete or firmware TPM of the machine itself.
    Machine,
    /// Inside the measured paravisor of a trusted execution environment.
    Paravisor,
    /// In a cloud's hypervisor, outside every trusted execution environment.
    CloudHypervisor,
    /// A program, such as swtpm.
    Software,
}

impl TpmLocation {
    /// Where it runs, in words.
    #[must_use]
    pub const fn place(self) -> &'static str {
        match self {
            Self::Machine => "a discrete or firmware TPM on the machine",
            Self::Paravisor => {
                "in the paravisor, inside the measured trusted execution environment"
            }
            Self::CloudHypervisor => {
                "in the cloud's hypervisor, outside the trusted execution environment"
            }
            Self::Software => "a program",
        }
    }

    /// What a quote from there is worth, in words.
    #[must_use]
    pub const fn worth(self) -> &'static str {
        match self {
            Self::Machine => {
                "it says what this machine booted, against software; it does not say that memory is encrypted, and \
                 whoever opens the machine can reach the TPM's wires"
            }
            Self::Paravisor => {
                "it says what the guest booted, and is worth as much as the hardware report that names its key"
            }
            Self::CloudHypervisor => {
                "it says what the cloud's host says: against that host it proves nothing"
            }
            Self::Software => "it says what whoever runs that program says, and proves nothing",
        }
    }

    /// Whether somebody outside the machine's own TPM could have written the registers: the host of a virtual machine, or whoever
    /// runs a software TPM.
    #[must_use]
    pub const fn host_could_lie(self) -> bool {
        matches!(self, Self::CloudHypervisor | Self::Software)
    }
}

/// Where an anchor says that its TPMs run. That a TPM runs in a paravisor is said by hardware evidence, never by an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostedIn {
    /// [`TpmLocation::Machine`].
    Machine,
    /// [`TpmLocation::CloudHypervisor`].
    CloudHypervisor,
    /// [`TpmLocation::Software`].
    Software,
}

impl From<HostedIn> for TpmLocation {
    fn from(hosted: HostedIn) -> Self {
        match hosted {
            HostedIn::Machine => Self::Machine,
            HostedIn::CloudHypervisor => Self::CloudHypervisor,
            HostedIn::Software => Self::Software,
        }
    }
}

/// Who vouches for the attestation key (rule P5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AkTrust {
    /// An authority under a pinned root certified it.
    Certified,
    /// A verified hardware report names it.
    NamedByHardware,
    /// The organisation enrolled it.
    Enrolled,
}

impl AkTrust {
    /// Who vouches, in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certified => "certified under a pinned root",
            Self::NamedByHardware => "named by the hardware report",
            Self::Enrolled => "enrolled by the organisation",
        }
    }
}

/// A root that certifies attestation keys of TPMs that run in one kind of place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedTpmRoot {
    der: Vec<u8>,
    hosted: HostedIn,
}

impl PinnedTpmRoot {
    /// Pins a root certificate (DER), and says where the TPMs under it run.
    #[must_use]
    pub fn new(der: &[u8], hosted: HostedIn) -> Self {
        let der = der.to_vec();
        Self { der, hosted }
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Where TPMs under it run.
    #[must_use]
    pub const fn hosted(&self) -> HostedIn {
        self.hosted
    }
}

/// An attestation key that the organisation took in, as by a credential that only the TPM of that machine could open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledKey {
    key: PublicKey,
    attributes_seen: bool,
    hosted: HostedIn,
}

impl EnrolledKey {
    /// By its public area, whose attributes are checked here.
    #[must_use]
    pub fn new(key: &AttestationKey, hosted: HostedIn) -> Self {
        Self {
            key: key.public().clone(),
            attributes_seen: true,
            hosted,
        }
    }

    /// By the key alone (SubjectPublicKeyInfo, DER). That it is a restricted signing key is then the word of whoever
    /// enrolled it, and verdicts say so.
    ///
    /// # Errors
    /// [`TpmRejection::KeyMalformed`].
    pub fn from_spki(der: &[u8], hosted: HostedIn) -> Result<Self, TpmRejection> {
        Ok(Self {
            key: PublicKey::from_spki(der)?,
            attributes_seen: false,
            hosted,
        })
    }

    pub(super) const fn key(&self) -> &PublicKey {
        &self.key
    }

    pub(super) const fn attributes_seen(&self) -> bool {
        self.attributes_seen
    }

    pub(super) const fn hosted(&self) -> HostedIn {
        self.hosted
    }
}

/// Who may vouch for attestation keys. With nobody in it, every quote is refused.
#[derive(Debug, Clone, Default)]
pub struct TpmAnchors {
    roots: Vec<PinnedTpmRoot>,
    enrolled: Vec<EnrolledKey>,
}

impl TpmAnchors {
    /// Pinned roots and enrolled keys.
    #[must_use]
    pub const fn new(roots: Vec<PinnedTpmRoot>, enrolled: Vec<EnrolledKey>) -> Self {
        Self { roots, enrolled }
    }

    /// The roots.
    #[must_use]
    pub fn roots(&self) -> &[PinnedTpmRoot] {
        &self.roots
    }

    /// The enrolled keys.
    #[must_use]
    pub fn enrolled(&self) -> &[EnrolledKey] {
        &self.enrolled
    }
}

/// What a quote is compared with over time (rule P6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Continuity {
    /// A quote that stands for itself: counters and clock are shown.
    #[default]
    FirstSight,
    /// The machine must not have been reset, restarted or resumed since this state was quoted, nor changed its firmware.
    Since(ClockState),
}

/// Why no policy could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TpmPolicyError {
    /// Empty means none.
    #[error("no register has an expected value: any machine would be accepted")]
    NothingExpected,
    /// Empty means none.
    #[error("register {0} has an empty list of expected values: nothing could be accepted")]
    NoValues(u8),
    /// There are 24.
    #[error("register {0} does not exist; use 0 to 23")]
    NoRegister(u8),
    /// What is expected must be quoted.
    #[error("register {0} has expected values but is not among those to be quoted")]
    NotQuoted(u8),
    /// Another bank's value.
    #[error("an expected value of register {register} has {found} bytes, those of {bank} have {}", bank.digest_bytes())]
    ValueLength {
        /// Which register.
        register: u8,
        /// Bytes found.
        found: usize,
        /// The bank.
        bank: Bank,
    },
    /// Collisions.
    #[error("registers of the SHA-1 bank can be made to collide; use another bank")]
    Sha1Bank,
}

/// What a quote must cover and say.
#[derive(Debug, Clone)]
pub struct TpmPolicy {
    pub(super) bank: Bank,
    pub(super) registers: BTreeSet<u8>,
    pub(super) expected: BTreeMap<u8, Vec<Vec<u8>>>,
    pub(super) continuity: Continuity,
}

impl TpmPolicy {
    /// Exactly these registers of this bank must be quoted, and those in `expected` must hold one of the values listed.
    ///
    /// # Errors
    /// [`TpmPolicyError`].
    pub fn new(
        bank: Bank,
        registers: BTreeSet<u8>,
        expected: BTreeMap<u8, Vec<Vec<u8>>>,
    ) -> Result<Self, TpmPolicyError> {
        if bank == Bank::Sha1 {
            return Err(TpmPolicyError::Sha1Bank);
        }
        Self::of_any_bank(bank, registers, expected)
    }

    /// The same for the SHA-1 bank, whose registers can be made to collide: for looking at evidence of old machines. The
    /// verdict says so, and an event log proves no text by it.
    ///
    /// # Errors
    /// [`TpmPolicyError`].
    pub fn of_collidable_sha1_bank(
        registers: BTreeSet<u8>,
        expected: BTreeMap<u8, Vec<Vec<u8>>>,
    ) -> Result<Self, TpmPolicyError> {
        Self::of_any_bank(Bank::Sha1, registers, expected)
    }

    fn of_any_bank(
        bank: Bank,
        registers: BTreeSet<u8>,
        expected: BTreeMap<u8, Vec<Vec<u8>>>,
    ) -> Result<Self, TpmPolicyError> {
        if let Some(register) = registers.iter().find(|register| **register >= PCR_COUNT) {
            return Err(TpmPolicyError::NoRegister(*register));
        }
        if expected.is_empty() {
            return Err(TpmPolicyError::NothingExpected);
        }
        for (&register, values) in &expected {
            if !registers.contains(&register) {
                return Err(TpmPolicyError::NotQuoted(register));
            }
            if values.is_empty() {
                return Err(TpmPolicyError::NoValues(register));
            }
            let length = bank.digest_bytes();
            if let Some(wrong) = values.iter().find(|value| value.len() != length) {
                let found = wrong.len();
                return Err(TpmPolicyError::ValueLength {
                    register,
                    found,
                    bank,
                });
            }
        }
        Ok(Self {
            bank,
            registers,
            expected,
            continuity: Continuity::FirstSight,
        })
    }

    /// The part of P4 that documents may say otherwise about later: whether registers quoted before have expected values.
    pub(crate) fn still_lists(&self, verdict: &TpmVerdict) -> Result<(), TpmRejection> {
        if verdict.bank() != self.bank {
            return Err(TpmRejection::PcrBank {
                found: verdict.bank().id(),
                expected: self.bank,
            });
        }
        self.must_expect(verdict.registers())
    }

    /// Rule P4: every register with expected values holds one of them.
    pub(super) fn must_expect(
        &self,
        registers: &BTreeMap<u8, Vec<u8>>,
    ) -> Result<(), TpmRejection> {
        for (register, expected) in &self.expected {
            let found = registers.get(register);
            if !found.is_some_and(|value| expected.contains(value)) {
                return Err(TpmRejection::PcrUnexpected(*register));
            }
        }
        Ok(())
    }

    /// Compares with a state quoted before (rule P6).
    #[must_use]
    pub const fn with_continuity(mut self, continuity: Continuity) -> Self {
        self.continuity = continuity;
        self
    }
}
