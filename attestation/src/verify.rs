//! The verifier: one way to say yes.

use std::sync::Arc;

use crate::binding::Binding;
use crate::digest::{ChipId, Measurement, Sha256Digest, UnixTime};
use crate::envelope::Envelope;
use crate::eventlog::{LogKind, QuotedRegisters, replay};
use crate::expectations::{Expectations, PlatformPolicy, TpmExpectations};
use crate::hardware::{HardwareEvidence, TpmBoot};
use crate::images::Image;
use crate::nvidia::GpuSetVerdict;
use crate::provider::Platform;
use crate::rejection::Rejection;
use crate::snp::{SnpRejection, SnpVerdict, TcbVersion, verify_snp_report};
use crate::tdx::{
    self, KnownSignatures, TdxEvidence, TdxPolicy, TdxRejection, TdxRoot, TdxVerdict,
    verify_tdx_quote_knowing,
};
use crate::tpm::{TpmRejection, TpmVerdict, registers_digest, session_nonce, verify_tpm_quote};
use crate::trust::{Roots, TrustAnchors};
use crate::verdict::{Basis, Check, Lines};

/// Appraises evidence of one platform against roots and expectations.
#[derive(Debug, Clone)]
pub struct Verifier {
    anchors: TrustAnchors,
    expectations: Expectations,
    /// Copies of a verifier learn together.
    known: Arc<KnownSignatures>,
}

impl Verifier {
    /// Joins who may vouch with what must hold.
    ///
    /// # Errors
    /// [`Rejection::PlatformNotAccepted`] when the two are for different platforms.
    pub fn new(anchors: TrustAnchors, expectations: Expectations) -> Result<Self, Rejection> {
        let (found, expected) = (expectations.platform(), anchors.platform());
        if found != expected {
            return Err(Rejection::PlatformNotAccepted { found, expected });
        }
        Ok(Self {
            anchors,
            expectations,
            known: Arc::default(),
        })
    }

    /// What must hold.
    #[must_use]
    pub const fn expectations(&self) -> &Expectations {
        &self.expectations
    }

    /// Who may vouch.
    #[must_use]
    pub const fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// Appraises one envelope for the binding of this connection at the time `now`.
    ///
    /// # Errors
    /// [`Rejection`] names the first rule that does not hold.
    pub fn verify(
        &self,
        envelope: &Envelope,
        binding: &Binding,
        now: UnixTime,
    ) -> Result<VerifiedEvidence, Rejection> {
        let platform = self.anchors.platform();
        if envelope.platform() != platform {
            return Err(Rejection::PlatformNotAccepted {
                found: envelope.platform(),
                expected: platform,
            });
        }
        if envelope.direction() != binding.direction() {
            let (found, expected) = (envelope.direction(), binding.direction());
            return Err(Rejection::WrongDirection { found, expected });
        }
        let report_data = envelope.report_data(binding);
        let verified = self.appraise(envelope.hardware(), &report_data, now)?;
        self.with_devices(verified, envelope, binding, now)
    }

    /// Appraises evidence whose report data are known in another way than by a connection: recorded evidence, a look at a
    /// machine of one's own. The answer opens no session, for that [`Verifier::verify`] is the only way.
    ///
    /// # Errors
    /// [`Rejection`] names the first rule that does not hold.
    pub fn verify_recorded(
        &self,
        hardware: &HardwareEvidence,
        report_data: &[u8; 64],
        now: UnixTime,
    ) -> Result<RecordedEvidence, Rejection> {
        let verified = self.appraise(hardware, report_data, now)?;
        // What was recorded is of the machine alone, and there is no way to say "not checked".
        match self.expectations.devices(&verified.chip_id()) {
            Some(_) => Err(Rejection::DevicesMissing),
            None => Ok(RecordedEvidence(verified)),
        }
    }

    /// Appraises a whole envelope that was recorded together with what its binding is computed from, devices included. The answer
    /// opens no session.
    ///
    /// # Errors
    /// [`Rejection`] names the first rule that does not hold.
    pub fn verify_recorded_envelope(
        &self,
        envelope: &Envelope,
        binding: &Binding,
        now: UnixTime,
    ) -> Result<RecordedEvidence, Rejection> {
        self.verify(envelope, binding, now).map(RecordedEvidence)
    }

    /// Rules P-37 to P-39, once the machine itself was verified: its report signs what its context says of devices.
    fn with_devices(
        &self,
        mut verified: VerifiedEvidence,
        envelope: &Envelope,
        binding: &Binding,
        now: UnixTime,
    ) -> Result<VerifiedEvidence, Rejection> {
        let signed = binding.device_evidence();
        let expected = self.expectations.devices(&verified.chip_id());
        let (expected, sent) = match (expected, envelope.devices()) {
            (None, None) if signed == Sha256Digest::absent() => return Ok(verified),
            (None, None) => return Err(Rejection::DevicesNotInContext),
            (None, Some(_)) => return Err(Rejection::DevicesNotExpected),
            (Some(_), None) => return Err(Rejection::DevicesMissing),
            (Some(expected), Some(sent)) => (expected, sent),
        };
        if sent.digest() != signed {
            return Err(Rejection::DevicesNotInContext);
        }
        let roots = self.anchors.gpu_roots();
        let (verdict, checks) = expected.judge(sent, binding.device_nonce(), roots, now)?;
        let found = &mut verified.found;
        found.until = found.until.min(verdict.until().unwrap_or(found.until));
        found.checks.extend(checks);
        found.devices = Some(Box::new(verdict));
        Ok(verified)
    }

    fn appraise(
        &self,
        hardware: &HardwareEvidence,
        report_data: &[u8; 64],
        now: UnixTime,
    ) -> Result<VerifiedEvidence, Rejection> {
        let platform = self.anchors.platform();
        let (from, until) = self.expectations.validity();
        if now < from || now >= until {
            return Err(Rejection::ExpectationsNotInForce { from, until, now });
        }
        let mut found = match (hardware, self.expectations.policy(), self.anchors.roots()) {
            (HardwareEvidence::Snp(evidence), PlatformPolicy::Snp(policy), Roots::Amd(roots)) => {
                let verdict = verify_snp_report(evidence, report_data, policy, roots, now)?;
                Found::of_snp(verdict)
            }
            (HardwareEvidence::Tdx(evidence), PlatformPolicy::Tdx(policy), Roots::Intel(root)) => {
                trust_domain(evidence, report_data, policy, root, &self.known, now)?
            }
            (HardwareEvidence::Tpm(boot), PlatformPolicy::Tpm(expected), Roots::Enrolment) => {
                measured_boot(boot, report_data, expected, now)?
            }
            _ => {
                let kind = hardware.kind();
                return Err(Rejection::OtherKind { platform, kind });
            }
        };
        let image = self.image(&found.verdict, now)?;
        found.until = found.until.min(until).min(image.until.unwrap_or(until));
        found.image = image.id;
        Ok(VerifiedEvidence { platform, found })
    }

    /// Rule O-5: the entry of the reference values by which a verdict is right.
    fn image(&self, verdict: &Verdict, now: UnixTime) -> Result<&Image, Rejection> {
        let image = self.expectations.images().accepting(verdict);
        // The platform's own rules have looked already; whatever they found is no answer without an entry.
        let image = image.ok_or_else(|| match verdict {
            Verdict::Snp(found) => SnpRejection::MeasurementUnknown(found.measurement()).into(),
            Verdict::Tdx(found) => TdxRejection::MrtdUnknown(found.measurement()).into(),
            Verdict::Tpm(_) => Rejection::from(TpmRejection::KeyNotEnrolled),
        })?;
        match image.until {
            Some(until) if now >= until => Err(Rejection::MeasurementEnded { until, now }),
            _ => Ok(image),
        }
    }

    /// Whether evidence that was verified before would still be accepted: its documents are not out of date, and these
    /// expectations, which may be newer ones, still list its machine and what runs there (rule P-52).
    ///
    /// # Errors
    /// [`Rejection`] names what no longer holds.
    pub fn still_counts(
        &self,
        evidence: &VerifiedEvidence,
        now: UnixTime,
    ) -> Result<(), Rejection> {
        let until = evidence.until();
        if now >= until {
            return Err(Rejection::EvidenceOutOfDate { until, now });
        }
        let (found, expected) = (evidence.platform(), self.anchors.platform());
        let other = Rejection::PlatformNotAccepted { found, expected };
        if found != expected {
            return Err(other);
        }
        let chip = evidence.chip_id();
        match (self.expectations.devices(&chip), evidence.devices()) {
            (None, None) => {}
            (None, Some(_)) => return Err(Rejection::DevicesNotExpected),
            (Some(_), None) => return Err(Rejection::DevicesMissing),
            (Some(expected), Some(devices)) => expected.still_lists(devices)?,
        }
        match (evidence.verdict(), self.expectations.policy()) {
            (Verdict::Snp(verdict), PlatformPolicy::Snp(policy)) => {
                Ok(policy.still_lists(chip, verdict.measurement())?)
            }
            (Verdict::Tdx(verdict), PlatformPolicy::Tdx(policy)) => {
                Ok(tdx::still_listed(verdict.quote(), chip, policy)?)
            }
            (Verdict::Tpm(verdict), PlatformPolicy::Tpm(expected)) => {
                Ok(expected.still_lists(chip, verdict)?)
            }
            _ => Err(other),
        }?;
        self.image(evidence.verdict(), now).map(drop)
    }
}

/// Rules T1 to T19, and L1 to L4 where a log came along.
fn trust_domain(
    evidence: &TdxEvidence,
    report_data: &[u8; 64],
    policy: &TdxPolicy,
    root: &TdxRoot,
    known: &KnownSignatures,
    now: UnixTime,
) -> Result<Found, Rejection> {
    let (quote, collateral) = (&evidence.quote, &evidence.collateral);
    let verdict =
        verify_tdx_quote_knowing(quote, collateral, report_data, policy, root, known, now)?;
    let mut checks = verdict.checks().to_vec();
    let quoted = QuotedBy::Tdx(&verdict);
    checks.extend(event_log_lines(&evidence.event_log, LogKind::Ccel, quoted)?);
    Ok(Found {
        measurement: verdict.measurement(),
        chip_id: verdict.platform_id(),
        // The window names its last second.
        until: verdict.collateral().until.plus(1),
        checks,
        verdict: Verdict::Tdx(Box::new(verdict)),
        image: Sha256Digest::absent(),
        devices: None,
    })
}

/// Rules P1 to P6, and L1 to L4 where a log came along. One of the machines must match as a whole.
fn measured_boot(
    boot: &TpmBoot,
    report_data: &[u8; 64],
    expected: &TpmExpectations,
    now: UnixTime,
) -> Result<Found, Rejection> {
    let nonce = session_nonce(report_data);
    let mut refusal = None;
    let judged = expected.machines.iter().find_map(|policy| {
        match verify_tpm_quote(&boot.quote, &nonce, policy, &expected.anchors, now) {
            Ok(verdict) => Some(verdict),
            Err(rejection) => {
                refusal = Some(rejection);
                None
            }
        }
    });
    let verdict = judged.ok_or_else(|| refusal.unwrap_or(TpmRejection::KeyNotEnrolled))?;
    let owner = expected.owner(verdict.key());
    let chip_id = owner.ok_or(TpmRejection::KeyNotEnrolled)?;
    let mut checks = verdict.checks().to_vec();
    let quoted = QuotedBy::Tpm(&verdict);
    checks.extend(event_log_lines(&boot.event_log, LogKind::Tcg2, quoted)?);
    Ok(Found {
        measurement: registers_digest(verdict.bank(), verdict.registers()),
        chip_id,
        until: UnixTime::from_secs(u64::MAX),
        checks,
        verdict: Verdict::Tpm(Box::new(verdict)),
        image: Sha256Digest::absent(),
        devices: None,
    })
}

/// Whose registers a log is compared with.
#[derive(Clone, Copy)]
pub(crate) enum QuotedBy<'a> {
    Tdx(&'a TdxVerdict),
    Tpm(&'a TpmVerdict),
}

/// Rules L1 to L4. Registers decide; a log says what their values mean, and one that says otherwise is refused.
pub(crate) fn event_log_lines(
    log: &[u8],
    kind: LogKind,
    quoted: QuotedBy<'_>,
) -> Result<Vec<Check>, Rejection> {
    let (quoted, host_could_lie) = match quoted {
        QuotedBy::Tdx(verdict) => (QuotedRegisters::of_tdx(verdict), false),
        QuotedBy::Tpm(verdict) => (verdict.quoted(), verdict.location().host_could_lie()),
    };
    let mut lines = Lines::default();
    event_log(log, kind, &quoted, &mut lines)?;
    if host_could_lie {
        // A log says what registers mean; it is worth no more than they are.
        lines.rest_at_most_on(Basis::Asserted);
    }
    Ok(lines.into_checks())
}

fn event_log(
    log: &[u8],
    kind: LogKind,
    quoted: &QuotedRegisters,
    lines: &mut Lines,
) -> Result<(), Rejection> {
    if log.is_empty() {
        lines.info(
            "L1",
            "no event log came along: registers are known by value alone",
        );
        return Ok(());
    }
    let replayed = replay(log, kind)?;
    let confirmed = replayed.confirm(quoted)?;
    let registers: Vec<String> = confirmed
        .registers()
        .iter()
        .map(ToString::to_string)
        .collect();
    let events = replayed.events().len();
    lines.pass("L1", format!("event log of {events} events is well-formed"));
    lines.pass(
        "L2",
        format!("replay gives the quoted {}", registers.join(", ")),
    );
    let claims = confirmed.claims()?;
    lines.pass(
        "L3",
        format!("{} claims hash to what was measured", claims.all().len()),
    );
    if let Some((on, basis)) = claims.secure_boot() {
        let state = if on { "on" } else { "off" };
        lines.info_resting_on("L4", basis, format!("secure boot is {state}"));
    }
    Ok(())
}

/// What one appraisal gave.
#[derive(Debug, Clone)]
struct Found {
    verdict: Verdict,
    /// The entry of the reference values, once it was looked for.
    image: Sha256Digest,
    measurement: Measurement,
    chip_id: ChipId,
    until: UnixTime,
    checks: Vec<Check>,
    devices: Option<Box<GpuSetVerdict>>,
}

impl Found {
    fn of_snp(verdict: SnpVerdict) -> Self {
        Self {
            measurement: verdict.measurement(),
            chip_id: verdict.chip_id(),
            until: verdict.until(),
            checks: verdict.checks().to_vec(),
            verdict: Verdict::Snp(Box::new(verdict)),
            image: Sha256Digest::absent(),
            devices: None,
        }
    }
}

/// The verdict of the platform's own rules.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Verdict {
    /// On an SNP report, of a machine or of the test chip.
    Snp(Box<SnpVerdict>),
    /// On a TDX quote.
    Tdx(Box<TdxVerdict>),
    /// On a TPM's quote.
    Tpm(Box<TpmVerdict>),
}

/// Evidence that passed every check, bound to no connection: it can be told about and opens no session.
///
/// ```compile_fail
/// use casemate_attestation::{RecordedEvidence, VerifiedEvidence};
/// fn session(recorded: RecordedEvidence) -> VerifiedEvidence {
///     recorded.into()
/// }
/// ```
#[derive(Debug, Clone)]
pub struct RecordedEvidence(VerifiedEvidence);

impl RecordedEvidence {
    /// Under which roots it was verified.
    #[must_use]
    pub const fn platform(&self) -> Platform {
        self.0.platform()
    }

    /// The machine, as the fleet list names it.
    #[must_use]
    pub const fn chip_id(&self) -> ChipId {
        self.0.chip_id()
    }

    /// What the platform's own rules found.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        self.0.verdict()
    }

    /// Every check that was passed, in order, for display.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        self.0.checks()
    }
}

/// Evidence that passed every check on its connection. [`Verifier::verify`] is its only maker.
///
/// ```compile_fail
/// use casemate_attestation::{Platform, VerifiedEvidence};
/// let evidence = VerifiedEvidence { platform: Platform::Snp };
/// ```
///
/// ```compile_fail
/// let evidence = casemate_attestation::VerifiedEvidence::default();
/// ```
///
/// ```
/// use casemate_attestation::{Binding, Envelope, Rejection, UnixTime, VerifiedEvidence, Verifier};
/// fn evidence(v: &Verifier, e: &Envelope, b: &Binding, now: UnixTime) -> Result<VerifiedEvidence, Rejection> {
///     v.verify(e, b, now)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct VerifiedEvidence {
    platform: Platform,
    found: Found,
}

impl VerifiedEvidence {
    /// Under which roots it was verified.
    #[must_use]
    pub const fn platform(&self) -> Platform {
        self.platform
    }

    /// Whether the machine that vouches keeps its memory from its host.
    #[must_use]
    pub const fn confidential(&self) -> bool {
        self.platform.confidential()
    }

    /// What runs: the launch measurement of an SNP guest, the MRTD of a trust domain, and of a TPM
    /// [`registers_digest`]. What else a platform measures is in its [`Verdict`].
    #[must_use]
    pub const fn measurement(&self) -> Measurement {
        self.found.measurement
    }

    /// The machine, as the fleet list names it.
    #[must_use]
    pub const fn chip_id(&self) -> ChipId {
        self.found.chip_id
    }

    /// SNP firmware that the endorsement key was derived for; `None` on other platforms.
    #[must_use]
    pub const fn tcb(&self) -> Option<TcbVersion> {
        match &self.found.verdict {
            Verdict::Snp(verdict) => Some(verdict.reported_tcb()),
            Verdict::Tdx(_) | Verdict::Tpm(_) => None,
        }
    }

    /// First second at which some document that was judged is out of date: evidence counts no longer than that.
    #[must_use]
    pub const fn until(&self) -> UnixTime {
        self.found.until
    }

    /// Which entry of the reference values it is: [`Image::id`](crate::Image::id).
    #[must_use]
    pub const fn image(&self) -> Sha256Digest {
        self.found.image
    }

    /// What the platform's own rules found.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        &self.found.verdict
    }

    /// The machine's devices; `None` where it has none.
    #[must_use]
    pub fn devices(&self) -> Option<&GpuSetVerdict> {
        self.found.devices.as_deref()
    }

    /// Every check that was passed, in order, for display.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.found.checks
    }
}
