//! The verifier: one way to say yes.

use crate::binding::Binding;
use crate::digest::{ChipId, Measurement, UnixTime};
use crate::envelope::Envelope;
use crate::expectations::Expectations;
use crate::provider::Platform;
use crate::rejection::Rejection;
use crate::snp::{Product, SnpVerdict, TcbVersion, verify_snp_report};
use crate::trust::TrustAnchors;

/// How a check ended. There is no "not checked": evidence that fails one check has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// The rule holds.
    Pass,
    /// The rule was satisfied in a way, or by an override, that a person should read.
    Info,
}

impl CheckResult {
    /// The word on a check line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Info => "INFO",
        }
    }
}

/// One line of a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The rule, such as `S5`.
    pub id: &'static str,
    /// How it ended.
    pub result: CheckResult,
    /// What was found.
    pub text: String,
}

/// Appraises evidence of one platform against roots and expectations.
#[derive(Debug, Clone)]
pub struct Verifier {
    anchors: TrustAnchors,
    expectations: Expectations,
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
        let (from, until) = self.expectations.validity();
        if now < from || now >= until {
            return Err(Rejection::ExpectationsNotInForce { from, until, now });
        }
        let report_data = envelope.report_data(binding);
        let (policy, roots) = (self.expectations.policy(), self.anchors.roots());
        let verdict = verify_snp_report(envelope.hardware(), &report_data, policy, roots, now)?;
        Ok(VerifiedEvidence { platform, verdict })
    }
}

/// Evidence that passed every check. [`Verifier::verify`] is its only constructor.
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
    verdict: SnpVerdict,
}

impl VerifiedEvidence {
    /// Under which roots it was verified.
    #[must_use]
    pub const fn platform(&self) -> Platform {
        self.platform
    }

    /// Whether a machine, and not a seed, vouches.
    #[must_use]
    pub const fn confidential(&self) -> bool {
        match self.platform {
            Platform::Snp => true,
            Platform::TestChip => false,
        }
    }

    /// The launch measurement.
    #[must_use]
    pub const fn measurement(&self) -> Measurement {
        self.verdict.measurement()
    }

    /// The chip, as the fleet list names it.
    #[must_use]
    pub const fn chip_id(&self) -> ChipId {
        self.verdict.chip_id()
    }

    /// The processor's family.
    #[must_use]
    pub const fn product(&self) -> Product {
        self.verdict.product()
    }

    /// The firmware that the endorsement key was derived for.
    #[must_use]
    pub const fn tcb(&self) -> TcbVersion {
        self.verdict.reported_tcb()
    }

    /// Every check that was passed, in order, for display.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        self.verdict.checks()
    }
}
