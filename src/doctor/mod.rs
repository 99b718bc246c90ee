//! `casemate doctor --guest`: whether a machine is closed as an image should be. What the kernel says is read; what must not be
//! possible is tried, in a process that was closed as the server is.

mod machine;
mod probes;

use std::fmt;
use std::path::Path;

use casemate_client::report::{CheckLine, Outcome};
use serde::{Deserialize, Serialize};

use crate::harden::Confinement;

pub use probes::{Target, probes};

/// One property of a closed machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How it was found.
    #[serde(with = "word")]
    pub outcome: Outcome,
    /// A stable id, as `kernel.lockdown`.
    pub id: String,
    /// What was found.
    pub text: String,
}

impl Finding {
    fn new(outcome: Outcome, id: impl Into<String>, text: impl Into<String>) -> Self {
        let (id, text) = (id.into(), text.into());
        Self { outcome, id, text }
    }

    fn of(holds: bool, id: impl Into<String>, text: impl Into<String>) -> Self {
        let outcome = if holds { Outcome::Pass } else { Outcome::Fail };
        Self::new(outcome, id, text)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.outcome, self.id, self.text)
    }
}

impl From<Finding> for CheckLine {
    fn from(finding: Finding) -> Self {
        Self {
            outcome: finding.outcome,
            id: finding.id,
            text: finding.text,
            basis: None,
        }
    }
}

/// What the kernel below `root` (`/`, or a folder that stands in for it) says of the machine and of the process `pid` (`self` for the
/// one that asks).
#[must_use]
pub fn machine(root: &Path) -> Vec<Finding> {
    machine::findings(root)
}

/// What a process that was closed by `confinement` finds: the machine, itself, and what it tries. Where it could not be closed nothing
/// is tried, for the tries might succeed.
#[must_use]
pub fn closed(confinement: &Confinement) -> Vec<Finding> {
    let closed = confinement.close();
    let text = closed
        .as_ref()
        .map_or_else(ToString::to_string, |()| "done".into());
    let mut found = vec![Finding::of(closed.is_ok(), "process.closed", text)];
    found.extend(machine(Path::new("/")));
    match closed {
        Ok(()) => found.extend(probes(Target {
            listen: confinement.listen,
            connect: confinement.connect,
        })),
        Err(_) => found.push(Finding::new(
            Outcome::Skip,
            "try",
            "nothing was tried in a process that is not closed",
        )),
    }
    found
}

/// Outcomes as words, for the line between the process that tries and the one that asked.
mod word {
    use casemate_client::report::Outcome;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        outcome: &Outcome,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(outcome)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Outcome, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "PASS" => Ok(Outcome::Pass),
            "FAIL" => Ok(Outcome::Fail),
            "SKIP" => Ok(Outcome::Skip),
            "INFO" => Ok(Outcome::Info),
            _ => Err(D::Error::custom("no outcome")),
        }
    }
}
