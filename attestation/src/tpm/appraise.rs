//! The appraisal of one quote: rules P1 to P6 in that order, each of which can only refuse.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::algorithm::Bank;
use super::attest::{Attest, ClockState};
use super::certificate::{self, Certificate, Purpose};
use super::key::{AttestationKey, KeyEvidence, PublicKey};
use super::policy::{AkTrust, Continuity, TpmAnchors, TpmLocation, TpmPolicy};
use super::rejection::TpmRejection;
use super::signature::{QuoteSignature, Signature};
use crate::digest::UnixTime;
use crate::eventlog::QuotedRegisters;
use crate::strict_json::{base64_bytes, hex_registers};
use crate::verdict::Check;
use crate::verdict::{Basis, Lines};

/// A quote with what is needed to judge it. Nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmEvidence {
    /// TPMS_ATTEST, as the TPM wrote it.
    #[serde(with = "base64_bytes")]
    pub message: Vec<u8>,
    /// The signature over it.
    pub signature: QuoteSignature,
    /// Values of the registers quoted, by number.
    #[serde(with = "hex_registers")]
    pub registers: BTreeMap<u8, Vec<u8>>,
    /// Which key signed.
    pub key: KeyEvidence,
}

/// A quote that passed every rule. Only the appraisal in this file makes one.
///
/// ```compile_fail
/// let verdict = casemate_attestation::tpm::TpmVerdict::default();
/// ```
///
/// ```
/// fn where_it_lives(verdict: &casemate_attestation::tpm::TpmVerdict) -> &'static str {
///     verdict.location().worth()
/// }
/// ```
#[derive(Debug, Clone)]
pub struct TpmVerdict {
    location: TpmLocation,
    trust: AkTrust,
    key: PublicKey,
    bank: Bank,
    registers: BTreeMap<u8, Vec<u8>>,
    attest: Attest,
    checks: Vec<Check>,
}

impl TpmVerdict {
    /// Where the TPM runs, which decides what the quote is worth.
    #[must_use]
    pub const fn location(&self) -> TpmLocation {
        self.location
    }

    /// Who vouches for the key.
    #[must_use]
    pub const fn trust(&self) -> AkTrust {
        self.trust
    }

    /// The attestation key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The bank quoted.
    #[must_use]
    pub const fn bank(&self) -> Bank {
        self.bank
    }

    /// The registers quoted and their values.
    #[must_use]
    pub const fn registers(&self) -> &BTreeMap<u8, Vec<u8>> {
        &self.registers
    }

    /// The same as what an event log is compared with.
    #[must_use]
    pub fn quoted(&self) -> QuotedRegisters {
        QuotedRegisters::of_tpm(self.bank, self.registers.clone(), self.location)
    }

    /// The message's fields.
    #[must_use]
    pub const fn attest(&self) -> &Attest {
        &self.attest
    }

    /// Clock, counters and firmware, to compare a later quote with.
    #[must_use]
    pub const fn clock(&self) -> ClockState {
        self.attest.clock()
    }

    /// Every check, in order.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

/// Appraises a quote of a TPM whose key is certified or enrolled. `nonce` is what its extra data must be, all of it.
///
/// # Errors
/// [`TpmRejection`] names the first rule that does not hold.
pub fn verify_tpm_quote(
    evidence: &TpmEvidence,
    nonce: &[u8],
    policy: &TpmPolicy,
    anchors: &TpmAnchors,
    now: UnixTime,
) -> Result<TpmVerdict, TpmRejection> {
    let attest = Attest::parse(&evidence.message)?;
    let claimed = Claimed::read(&evidence.key)?;
    let key = TrustedKey {
        key: claimed.key()?,
        // The key's own rule comes after those that it signed for; nothing is said before it holds.
        vouch: &|| claimed.vouch(anchors, now),
    };
    let (message, signature) = (&evidence.message, &evidence.signature);
    let quote = Quote {
        attest,
        message,
        signature,
        registers: &evidence.registers,
    };
    appraise(quote, &key, nonce, policy)
}

/// A key, and how its rule P5 is judged.
pub(crate) struct TrustedKey<'a> {
    pub(crate) key: PublicKey,
    pub(crate) vouch: &'a dyn Fn() -> Result<Vouched, TpmRejection>,
}

/// Who vouched, where the TPM runs, and what a person should read about it.
pub(crate) struct Vouched {
    pub(crate) trust: AkTrust,
    pub(crate) location: TpmLocation,
    pub(crate) text: String,
    /// What the key's attributes rest on, where they were not read here.
    pub(crate) attributes: Option<&'static str>,
}

/// A quote whose message was read.
pub(crate) struct Quote<'a> {
    pub(crate) attest: Attest,
    pub(crate) message: &'a [u8],
    pub(crate) signature: &'a QuoteSignature,
    pub(crate) registers: &'a BTreeMap<u8, Vec<u8>>,
}

/// Rules P1 (whose refusals came before) to P6.
pub(crate) fn appraise(
    quote: Quote<'_>,
    key: &TrustedKey<'_>,
    nonce: &[u8],
    policy: &TpmPolicy,
) -> Result<TpmVerdict, TpmRejection> {
    let Quote {
        attest,
        message,
        signature,
        registers,
    } = quote;
    let mut lines = Lines::default();
    lines.pass(
        "P1",
        format!("quote of {} bytes, made by a TPM", message.len()),
    );

    let signature = Signature::parse(signature)?;
    signature.must_be_of(&key.key, message)?;
    let (scheme, hash) = (signature.scheme(), signature.hash());
    lines.pass(
        "P2",
        format!("signed by the attestation key over the bytes received, {scheme} with {hash}"),
    );
    fresh(&attest, nonce)?;
    lines.pass("P3", "extra data is the nonce");
    selected(&attest, policy)?;
    values(&attest, registers, hash, policy)?;
    lines.pass(
        "P4",
        format!(
            "{} registers of bank {} have the values quoted, {} of them as expected",
            policy.registers.len(),
            policy.bank,
            policy.expected.len()
        ),
    );
    if policy.bank == Bank::Sha1 {
        lines.info("P4", "registers of the SHA-1 bank can be made to collide");
    }
    let vouched = (key.vouch)()?;
    lines.pass("P5", vouched.text);
    if let Some(attributes) = vouched.attributes {
        lines.info("P5", attributes);
    }
    let location = vouched.location;
    lines.info(
        "P5",
        format!("TPM is {}: {}", location.place(), location.worth()),
    );
    continuous(&attest.clock(), policy, &mut lines)?;
    if location.host_could_lie() {
        lines.rest_at_most_on(Basis::Asserted);
    }

    Ok(TpmVerdict {
        location,
        trust: vouched.trust,
        key: key.key.clone(),
        bank: policy.bank,
        registers: registers.clone(),
        attest,
        checks: lines.into_checks(),
    })
}

/// The key that evidence claims, read but not trusted.
enum Claimed<'a> {
    Certificate(Box<Certificate<'a>>, &'a [Vec<u8>]),
    Area(AttestationKey),
    Bare(PublicKey),
}

impl<'a> Claimed<'a> {
    fn read(evidence: &'a KeyEvidence) -> Result<Self, TpmRejection> {
        Ok(match evidence {
            KeyEvidence::Certificate {
                leaf,
                intermediates,
            } => Self::Certificate(Box::new(Certificate::leaf(leaf)?), intermediates),
            KeyEvidence::PublicArea(area) => Self::Area(AttestationKey::parse(area)?),
            KeyEvidence::Spki(der) => Self::Bare(PublicKey::from_spki(der)?),
        })
    }

    fn key(&self) -> Result<PublicKey, TpmRejection> {
        match self {
            Self::Certificate(leaf, _) => leaf.key(),
            Self::Area(area) => Ok(area.public().clone()),
            Self::Bare(key) => Ok(key.clone()),
        }
    }

    /// Rule P5.
    fn vouch(&self, anchors: &TpmAnchors, now: UnixTime) -> Result<Vouched, TpmRejection> {
        let key = match self {
            Self::Certificate(leaf, intermediates) => {
                let root =
                    certificate::chain(leaf, intermediates, anchors, Purpose::Attestation, now)?;
                return Ok(Vouched {
                    trust: AkTrust::Certified,
                    location: root.hosted().into(),
                    text: format!("attestation key is certified under a pinned root, at {now}"),
                    attributes: Some(
                        "that it is a restricted signing key is the word of that authority",
                    ),
                });
            }
            Self::Area(area) => area.public(),
            Self::Bare(key) => key,
        };
        let enrolled = anchors.enrolled().iter().find(|known| known.key() == key);
        let enrolled = enrolled.ok_or(TpmRejection::KeyNotEnrolled)?;
        let seen = enrolled.attributes_seen() || matches!(self, Self::Area(_));
        Ok(Vouched {
            trust: AkTrust::Enrolled,
            location: enrolled.hosted().into(),
            text: "attestation key is enrolled by the organisation".to_owned(),
            attributes: (!seen).then_some(
                "that it is a restricted signing key is the word of whoever enrolled it",
            ),
        })
    }
}

/// Rule P3.
fn fresh(attest: &Attest, nonce: &[u8]) -> Result<(), TpmRejection> {
    if nonce.is_empty() {
        return Err(TpmRejection::NonceEmpty);
    }
    if bool::from(attest.extra_data().ct_eq(nonce)) {
        Ok(())
    } else {
        Err(TpmRejection::NonceMismatch)
    }
}

/// Rule P4: one selection, of the expected bank, of exactly the expected registers.
fn selected(attest: &Attest, policy: &TpmPolicy) -> Result<(), TpmRejection> {
    let [selection] = attest.selections() else {
        let found = attest.selections().len();
        return Err(TpmRejection::SelectionCount { found });
    };
    if selection.bank != policy.bank.id() {
        return Err(TpmRejection::PcrBank {
            found: selection.bank,
            expected: policy.bank,
        });
    }
    if selection.registers != policy.registers {
        return Err(TpmRejection::PcrSelection {
            found: selection.registers.iter().copied().collect(),
            expected: policy.registers.iter().copied().collect(),
        });
    }
    Ok(())
}

/// Rule P4: the values are those quoted, by the hash that signed (which need not be the bank's), and those expected.
fn values(
    attest: &Attest,
    registers: &BTreeMap<u8, Vec<u8>>,
    hash: Bank,
    policy: &TpmPolicy,
) -> Result<(), TpmRejection> {
    let bank = policy.bank;
    let foreign = registers
        .keys()
        .find(|number| !policy.registers.contains(number));
    if let Some(register) = foreign {
        return Err(TpmRejection::PcrNotCovered(*register));
    }
    let mut joined = Vec::with_capacity(registers.len() * bank.digest_bytes());
    for &register in &policy.registers {
        let value = registers
            .get(&register)
            .ok_or(TpmRejection::PcrMissing(register))?;
        let found = value.len();
        if found != bank.digest_bytes() {
            return Err(TpmRejection::PcrLength {
                register,
                found,
                bank,
            });
        }
        joined.extend_from_slice(value);
    }
    if !bool::from(hash.digest(&joined).ct_eq(attest.pcr_digest())) {
        return Err(TpmRejection::PcrDigest);
    }
    policy.must_expect(registers)
}

/// Rule P6.
fn continuous(now: &ClockState, policy: &TpmPolicy, lines: &mut Lines) -> Result<(), TpmRejection> {
    let safe = if now.safe { "" } else { ", not safe" };
    let text = format!(
        "resets {}, restarts {}, clock {} ms{safe}, firmware {:#x}",
        now.reset_count, now.restart_count, now.clock_ms, now.firmware_version
    );
    let Continuity::Since(before) = policy.continuity else {
        lines.info("P6", format!("{text}; compared with no earlier state"));
        return Ok(());
    };
    if (now.reset_count, now.restart_count) != (before.reset_count, before.restart_count) {
        return Err(TpmRejection::Restarted {
            reset: now.reset_count,
            restart: now.restart_count,
            expected_reset: before.reset_count,
            expected_restart: before.restart_count,
        });
    }
    if now.clock_ms < before.clock_ms {
        let (found, before) = (now.clock_ms, before.clock_ms);
        return Err(TpmRejection::ClockWentBack { found, before });
    }
    if now.firmware_version != before.firmware_version {
        let (found, before) = (now.firmware_version, before.firmware_version);
        return Err(TpmRejection::FirmwareChanged { found, before });
    }
    lines.pass("P6", format!("{text}; the same boot as the earlier state"));
    Ok(())
}
