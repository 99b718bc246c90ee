//! Check lines and a verdict, for people and, as JSON, for programs. A skip is never a pass, and the test chip is never
//! confidential.

use std::fmt::{self, Write as _};

use casemate_attestation::look::Look;
use casemate_attestation::nvidia::DeviceLook;
use casemate_attestation::{
    Basis, Check, CheckResult, Platform, RecordedEvidence, VerifiedEvidence,
};
use serde::Serialize;

use crate::error::ConnectError;
use crate::exit::ExitCode;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// It was not made. Never a pass.
    Skip,
    /// Nothing to hold or fail; somebody should read it.
    Info,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
            Self::Info => "INFO",
        })
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckLine {
    /// How it ended.
    pub outcome: Outcome,
    /// A stable id, such as `tls.server_certificate`.
    pub id: String,
    /// What was found.
    pub text: String,
    /// What it rests on, where evidence was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
}

impl fmt::Display for CheckLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.outcome, self.id, self.text)
    }
}

/// What all lines together mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A machine vouches, and everything holds.
    Confidential,
    /// Everything holds, and memory is not kept from the host: a TPM vouches, or nobody but a test chip.
    NotConfidential,
    /// The evidence is what its hardware signed, and nobody said what it should be compared with.
    Genuine,
    /// Something does not hold. Nothing was sent.
    Refused,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Confidential => "VERIFIED: the server's machine vouches for what it runs",
            Self::NotConfidential => "NOT CONFIDENTIAL: every check passed, and what they prove is less, see evidence.platform",
            Self::Genuine => "GENUINE: the hardware signed this; INFO lines say what was compared with nothing (--policy)",
            Self::Refused => "REFUSED: nothing is sent on such evidence",
        })
    }
}

/// Lines in the order in which checks were made.
#[derive(Clone, Debug, Default)]
pub struct Report {
    lines: Vec<CheckLine>,
    confidential: Option<bool>,
    looked: bool,
    failure: Option<ExitCode>,
}

impl Report {
    /// Adds a line.
    pub fn line(&mut self, outcome: Outcome, id: &str, text: impl Into<String>) {
        self.lines.push(CheckLine {
            outcome,
            id: id.to_owned(),
            text: text.into(),
            basis: None,
        });
    }

    fn check(&mut self, check: &Check) {
        let outcome = match check.result {
            CheckResult::Pass => Outcome::Pass,
            CheckResult::Info => Outcome::Info,
        };
        self.lines.push(CheckLine {
            outcome,
            id: format!("evidence.{}", check.id),
            text: check.text.clone(),
            basis: Some(check.basis),
        });
    }

    /// Adds a line for a check that holds.
    pub fn pass(&mut self, id: &str, text: impl Into<String>) {
        self.line(Outcome::Pass, id, text);
    }

    /// Ends the report: `id` failed with `error`, and what comes after it was not checked.
    pub fn fail(&mut self, id: &str, error: &ConnectError, not_reached: &[&str]) {
        self.refuse(id, error, error.exit_code());
        for id in not_reached {
            self.line(Outcome::Skip, id, "not reached");
        }
    }

    /// Ends the report: `id` failed with `error`, which means `code`.
    pub fn refuse(&mut self, id: &str, error: &dyn fmt::Display, code: ExitCode) {
        self.line(Outcome::Fail, id, error.to_string());
        self.failure = Some(code);
    }

    /// Adds the lines of a look at recorded evidence.
    pub fn looked_at(&mut self, look: &Look) {
        self.more(&look.checks);
        self.looked();
    }

    /// Adds the lines of a look at one recorded device.
    pub fn looked_at_device(&mut self, look: &DeviceLook) {
        self.more(&look.checks);
        self.looked();
    }

    /// Adds lines of what stands beside evidence that was judged.
    pub fn more(&mut self, checks: &[Check]) {
        for check in checks {
            self.check(check);
        }
    }

    /// Says that evidence was looked at, and compared with nothing.
    pub const fn looked(&mut self) {
        self.looked = true;
    }

    /// Adds the verifier's own lines.
    pub fn evidence(&mut self, evidence: &VerifiedEvidence) {
        self.judged(evidence.platform(), evidence.checks());
    }

    /// The same of evidence that was recorded.
    pub fn recorded(&mut self, evidence: &RecordedEvidence) {
        self.judged(evidence.platform(), evidence.checks());
    }

    fn judged(&mut self, platform: Platform, checks: &[Check]) {
        self.more(checks);
        self.confidential = Some(platform.confidential());
        if let Some(caveat) = platform.caveat() {
            self.line(
                Outcome::Info,
                "evidence.platform",
                format!("NOT CONFIDENTIAL ({caveat})"),
            );
        }
    }

    /// The lines so far.
    #[must_use]
    pub fn lines(&self) -> &[CheckLine] {
        &self.lines
    }

    /// What they mean. Without verified evidence the answer is no.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.failure, self.confidential) {
            (None, Some(true)) => Verdict::Confidential,
            (None, Some(false)) => Verdict::NotConfidential,
            (None, None) if self.looked => Verdict::Genuine,
            _ => Verdict::Refused,
        }
    }

    /// The process's exit status.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match (self.failure, self.verdict()) {
            (Some(code), _) => code,
            (None, Verdict::Refused) => ExitCode::Rejected,
            (None, _) => ExitCode::Done,
        }
    }

    /// The lines with what each rests on, for `--explain`.
    #[must_use]
    pub fn explained(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let basis = line.basis.map_or("", Basis::as_str);
            // Writing into a string cannot fail.
            let _ = writeln!(
                text,
                "{:4} {:22} {basis:15} {}",
                line.outcome.to_string(),
                line.id,
                line.text
            );
        }
        let _ = write!(
            text,
            "hardware-proven: bytes that the hardware's own key signed; derived: certificates, dates and signed lists; \
             asserted: somebody's word\nVERDICT {}",
            self.verdict()
        );
        text
    }

    /// One JSON object with the lines, the verdict and the exit code.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::json!({
            "checks": self.lines,
            "verdict": self.verdict(),
            "confidential": self.verdict() == Verdict::Confidential,
            "exit_code": self.exit_code() as u8,
        })
        .to_string()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        write!(f, "VERDICT {}", self.verdict())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_verified_evidence_is_a_refusal() {
        let mut report = Report::default();
        report.pass("tls.handshake", "TLS 1.3");
        assert_eq!(report.verdict(), Verdict::Refused);
        assert_eq!(report.exit_code(), ExitCode::Rejected);
    }

    #[test]
    fn what_was_not_reached_is_a_skip_and_the_exit_code_is_the_failures() {
        let mut report = Report::default();
        report.fail(
            "session.challenge",
            &ConnectError::Stale,
            &["session.confirm"],
        );
        assert_eq!(report.exit_code(), ExitCode::Expired);
        let text = report.to_string();
        assert!(text.contains("FAIL session.challenge"), "{text}");
        assert!(text.contains("SKIP session.confirm not reached"), "{text}");
        assert!(
            text.ends_with("VERDICT REFUSED: nothing is sent on such evidence"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["exit_code"], 12);
        assert_eq!(json["checks"][1]["outcome"], "SKIP");
    }
}
