//! Why the machine stops: one line on the console, one word that a program can rely on, and what to do about it.

use std::fmt;

/// What failed. The words are part of the format: `casemate: FAIL <word> <what was found>; <what to do>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The kernel's command line, `guest.toml`, or a file that it names.
    Config,
    /// A module that does not load.
    Modules,
    /// A device that the host has no business to add.
    Devices,
    /// The network device or its address.
    Network,
    /// Nobody gave an address.
    Dhcp,
    /// The host's clock.
    Clock,
    /// Too little of it.
    Memory,
    /// The kernel's random numbers.
    Entropy,
    /// A disk that is not there, or is not the one.
    Disk,
    /// What is on the disk.
    Package,
    /// The TPM.
    Tpm,
    /// The security processor.
    Attest,
    /// Nobody answers there, or not the broker.
    Broker,
    /// The broker said no.
    Refused,
    /// A document is out of date.
    Expired,
    /// A property of the closed machine that does not hold.
    Harden,
    /// The server itself.
    Server,
}

impl What {
    const fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Modules => "modules",
            Self::Devices => "devices",
            Self::Network => "network",
            Self::Dhcp => "dhcp",
            Self::Clock => "clock",
            Self::Memory => "memory",
            Self::Entropy => "entropy",
            Self::Disk => "disk",
            Self::Package => "package",
            Self::Tpm => "tpm",
            Self::Attest => "attest",
            Self::Broker => "broker",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Harden => "harden",
            Self::Server => "server",
        }
    }
}

/// Longest line about a failure, in characters.
const LINE_CHARS_MAX: usize = 600;

/// Why the machine stops, for the person before the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    what: What,
    found: String,
    hint: String,
}

impl Failure {
    /// A failure: what was found, and what to do about it.
    pub fn new(what: What, found: impl fmt::Display, hint: impl fmt::Display) -> Self {
        let (found, hint) = (found.to_string(), hint.to_string());
        Self { what, found, hint }
    }

    /// What failed.
    #[cfg(test)]
    pub fn what(&self) -> What {
        self.what
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}; {}", self.found, self.hint);
        let line = one_line(&text, LINE_CHARS_MAX);
        write!(f, "casemate: FAIL {} {line}", self.what.word())
    }
}

/// Text that may hold what the host wrote, as one line of printable characters.
pub fn one_line(text: &str, chars_max: usize) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(
            word.chars()
                .map(|it| if it.is_control() { '?' } else { it }),
        );
    }
    line.chars().take(chars_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_the_host_wrote() {
        let failure = Failure::new(What::Disk, "serial \u{1b}[2J\ncasemate: READY", "look");
        let line = failure.to_string();
        assert_eq!(
            line,
            "casemate: FAIL disk serial ?[2J casemate: READY; look"
        );
        let long = Failure::new(What::Disk, "x".repeat(10_000), "look").to_string();
        assert!(long.len() < 700);
    }
}
