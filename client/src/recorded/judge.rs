//! The judgement on recorded evidence: under a policy by the verifier that sessions have, without one as a look.

use std::collections::BTreeMap;

use casemate_attestation::eventlog::{LogKind, QuotedRegisters, Replay, replay};
use casemate_attestation::look::{self, Look, look, tpm};
use casemate_attestation::nvidia::{PinnedGpuRoot, look_at_device};
use casemate_attestation::snp::SnpReport;
use casemate_attestation::tdx::TdxQuote;
use casemate_attestation::tpm::Bank;
use casemate_attestation::{
    Expectations, HardwareEvidence, Issue, Payload, Platform, RecordedEvidence, Rejection,
    ReleaseSecretKey, SignedDocument, SignedError, TrustAnchors, UnixTime, Verified, Verifier,
};
use ring::rand::SystemRandom;

use super::beside::Beside;
use super::{Asked, Policy, Recorded, RecordedError, Subject, azure};
use crate::report::{Outcome, Report};

/// Judges `recorded` at `now` and writes every line into `report`.
pub fn judge(recorded: &Recorded, policy: Option<&Policy>, now: UnixTime, report: &mut Report) {
    if let Err(error) = judged(recorded, policy, now, report) {
        report.refuse(&error.check_id(), &error, error.exit_code());
    }
}

/// The same of a machine with devices, under a policy and other roots than the vendors'. What it accepts says nothing about a machine.
#[cfg(feature = "test-chip")]
pub fn judge_under_roots(
    recorded: &Recorded,
    policy: &Policy,
    anchors: TrustAnchors,
    now: UnixTime,
    report: &mut Report,
) {
    let (Subject::Hardware { evidence, .. }, Some(beside)) = (&recorded.subject, &recorded.beside)
    else {
        let none = RecordedError::Parts("has no machine with devices");
        report.refuse(&none.check_id(), &none, none.exit_code());
        return;
    };
    match beside_under_roots(policy, anchors, evidence, beside, now) {
        Ok(verified) => report.recorded(&verified),
        Err(error) => report.refuse(&error.check_id(), &error, error.exit_code()),
    }
}

fn judged(
    recorded: &Recorded,
    policy: Option<&Policy>,
    now: UnixTime,
    report: &mut Report,
) -> Result<(), RecordedError> {
    let asked = &recorded.asked;
    let beside = recorded.beside.as_deref();
    match (&recorded.subject, policy) {
        (Subject::Hardware { platform, evidence }, Some(policy)) => {
            report.recorded(&match beside {
                Some(beside) => beside_under(policy, *platform, evidence, beside, now)?,
                None => under(policy, *platform, evidence, asked, now)?,
            });
        }
        (Subject::Hardware { platform, evidence }, None) => {
            // The test chip has no vendor: whoever has its seed can say anything.
            TrustAnchors::production(*platform).ok_or(RecordedError::NoRoots(*platform))?;
            if !evidence.is_of(*platform) {
                let (platform, kind) = (*platform, evidence.kind());
                return Err(Rejection::OtherKind { platform, kind }.into());
            }
            report.looked_at(&looked(evidence, asked, now)?);
            if let Some(beside) = beside {
                beside.looked(&[PinnedGpuRoot::nvidia()], now, report)?;
            }
        }
        (Subject::Azure(machine), Some(policy)) => {
            azure::under(policy, machine, asked, now, report)?;
        }
        (Subject::Azure(machine), None) => {
            let nonce = azure::nonce(asked);
            let look = look::azure(machine, nonce.as_deref(), now).map_err(RecordedError::from)?;
            report.looked_at(&look);
        }
        (Subject::Device { .. }, Some(_)) => return Err(RecordedError::DeviceUnderPolicy),
        (
            Subject::Device {
                evidence,
                nonce,
                answers,
            },
            None,
        ) => {
            let roots = [PinnedGpuRoot::nvidia()];
            let look = look_at_device(evidence, *nonce, &roots, answers, now);
            report.looked_at_device(&look.map_err(Rejection::from)?);
        }
        (
            Subject::EventLog {
                log,
                kind,
                registers,
            },
            _,
        ) => event_log(log, *kind, registers, report)?,
    }
    Ok(())
}

fn looked(
    evidence: &HardwareEvidence,
    asked: &Asked,
    now: UnixTime,
) -> Result<Look, RecordedError> {
    Ok(match (evidence, asked) {
        (HardwareEvidence::Tpm(boot), Asked::Nonce(nonce)) => tpm(boot, Some(nonce), now)?,
        (_, Asked::ReportData(bytes)) => look(evidence, Some(bytes), now)?,
        _ => look(evidence, None, now)?,
    })
}

fn under(
    policy: &Policy,
    platform: Platform,
    evidence: &HardwareEvidence,
    asked: &Asked,
    now: UnixTime,
) -> Result<RecordedEvidence, RecordedError> {
    let report_data = match asked {
        Asked::ReportData(bytes) => **bytes,
        Asked::Unknown | Asked::Nonce(_) => own_report_data(evidence)?,
    };
    hardware_under(policy, platform, evidence, &report_data, now)
}

/// The verdict of a session's verifier whose documents were signed by a key that exists for this one question.
pub(super) fn hardware_under(
    policy: &Policy,
    platform: Platform,
    evidence: &HardwareEvidence,
    report_data: &[u8; 64],
    now: UnixTime,
) -> Result<RecordedEvidence, RecordedError> {
    let verifier = verifier(policy, anchors(platform)?, now)?;
    Ok(verifier.verify_recorded(evidence, report_data, now)?)
}

/// The same of a machine with the devices that proved themselves beside it.
fn beside_under(
    policy: &Policy,
    platform: Platform,
    evidence: &HardwareEvidence,
    beside: &Beside,
    now: UnixTime,
) -> Result<RecordedEvidence, RecordedError> {
    beside_under_roots(policy, anchors(platform)?, evidence, beside, now)
}

fn beside_under_roots(
    policy: &Policy,
    anchors: TrustAnchors,
    evidence: &HardwareEvidence,
    beside: &Beside,
    now: UnixTime,
) -> Result<RecordedEvidence, RecordedError> {
    let envelope = beside.envelope(anchors.platform(), evidence)?;
    let verifier = verifier(policy, anchors, now)?;
    let binding = beside.session.binding();
    Ok(verifier.verify_recorded_envelope(&envelope, &binding, now)?)
}

fn anchors(platform: Platform) -> Result<TrustAnchors, RecordedError> {
    TrustAnchors::production(platform).ok_or(RecordedError::NoRoots(platform))
}

fn verifier(
    policy: &Policy,
    anchors: TrustAnchors,
    now: UnixTime,
) -> Result<Verifier, RecordedError> {
    let key = ReleaseSecretKey::generate(&SystemRandom::new())?;
    let (reference, fleet) = (
        signed(&policy.reference, &key, now)?,
        signed(&policy.fleet, &key, now)?,
    );
    let expectations = Expectations::new(anchors.platform(), &reference, &fleet)?;
    Ok(Verifier::new(anchors, expectations)?)
}

fn signed<T: Payload>(
    payload: &T,
    key: &ReleaseSecretKey,
    now: UnixTime,
) -> Result<Verified<T>, SignedError> {
    let issue = Issue {
        number: 1,
        issued: now,
        expires: UnixTime::from_secs(u64::MAX),
    };
    let bytes = SignedDocument::sign(payload, issue, key)?;
    SignedDocument::open(&bytes, &key.public()?, 0, now)
}

/// What the evidence itself carries, where nobody says what it was asked for with.
fn own_report_data(evidence: &HardwareEvidence) -> Result<[u8; 64], RecordedError> {
    match evidence {
        HardwareEvidence::Snp(evidence) => Ok(SnpReport::parse(&evidence.report)
            .map_err(Rejection::from)?
            .report_data()),
        HardwareEvidence::Tdx(evidence) => Ok(TdxQuote::parse(&evidence.quote)
            .map_err(Rejection::from)?
            .report_data()),
        HardwareEvidence::Tpm(_) => Err(RecordedError::NoReportData),
    }
}

/// Rules L1 to L4 with registers that nobody signed: what the log claims is asserted.
fn event_log(
    log: &[u8],
    kind: LogKind,
    registers: &BTreeMap<Bank, BTreeMap<u8, Vec<u8>>>,
    report: &mut Report,
) -> Result<(), RecordedError> {
    let replayed = replay(log, kind).map_err(Rejection::from)?;
    let events = replayed.events().len();
    report.pass(
        "evidence.L1",
        format!("event log of {events} events is well-formed"),
    );
    let own;
    let (against, registers) = if registers.is_empty() {
        own = own_registers(&replayed);
        ("compared with nothing:", &own)
    } else {
        ("replay gives the recorded", registers)
    };
    for (bank, values) in registers {
        let quoted = QuotedRegisters::unsigned(*bank, values.clone());
        let confirmed = replayed.confirm(&quoted).map_err(Rejection::from)?;
        let names: Vec<_> = confirmed
            .registers()
            .iter()
            .map(ToString::to_string)
            .collect();
        let text = format!("{against} {} of bank {bank}", names.join(", "));
        report.line(Outcome::Info, "evidence.L2", text);
        let claims = confirmed.claims().map_err(Rejection::from)?;
        let text = format!("{} claims hash to what was measured", claims.all().len());
        report.line(Outcome::Info, "evidence.L3", text);
    }
    report.looked();
    Ok(())
}

/// What the log itself gives, so that its data are still held against its digests.
fn own_registers(replayed: &Replay) -> BTreeMap<Bank, BTreeMap<u8, Vec<u8>>> {
    let of_bank = |bank: &Bank| {
        let registers = replayed.registers(*bank)?.iter();
        let values = registers.map(|(register, value)| (register.number(), value.clone()));
        Some((*bank, values.collect()))
    };
    replayed.banks().iter().filter_map(of_bank).collect()
}
