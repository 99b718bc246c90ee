//! What the guest prints: lines of its own making, of which two say how it is. A host shows them and believes them only as far as
//! its exit code.

use casemate_client::exit::ExitCode;

/// Longest line that is shown.
const LINE_BYTES_MAX: usize = 4096;
const OURS: &str = "casemate: ";
const ESCAPE: char = '\u{1b}';

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It serves, at the address that follows.
    Ready(String),
    /// It stops without having released anything.
    Failed(Failure),
    /// Anything else.
    Other,
}

/// Why a guest stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One word, as `disk`.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl Failure {
    /// The exit code for a word; words that are not known are unexpected.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        match self.what.as_str() {
            "config" | "modules" | "disk" | "devices" => ExitCode::Configuration,
            "clock" | "expired" => ExitCode::Expired,
            "memory" | "tpm" | "attest" | "entropy" => ExitCode::Unsupported,
            "package" => ExitCode::Malformed,
            "refused" => ExitCode::Rejected,
            _ => ExitCode::Unexpected,
        }
    }
}

/// Cuts what is read into lines.
#[derive(Debug, Default)]
pub struct Console {
    rest: Vec<u8>,
}

impl Console {
    /// The lines that `bytes` complete, fit for a terminal: without control characters, cut to a length.
    pub fn lines(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => lines.push(self.take()),
                _ if self.rest.len() < LINE_BYTES_MAX => self.rest.push(*byte),
                _ => {}
            }
        }
        lines
    }

    /// What was begun when the guest ended.
    pub fn rest(&mut self) -> Option<String> {
        Some(self.take()).filter(|line| !line.is_empty())
    }

    fn take(&mut self) -> String {
        let bytes = std::mem::take(&mut self.rest);
        let text = String::from_utf8_lossy(&bytes);
        let mut shown = String::with_capacity(text.len());
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            // What firmware paints its screen with: ESC [ up to a letter.
            if character == ESCAPE && characters.next_if_eq(&'[').is_some() {
                let _ = characters.find(char::is_ascii_alphabetic);
            } else if !character.is_control() {
                shown.push(character);
            }
        }
        shown
    }
}

impl Said {
    /// Looks at a line.
    #[must_use]
    pub fn by(line: &str) -> Self {
        // The kernel's own lines and a boot menu's leftovers may stand before ours on the same line.
        let Some((_, ours)) = line.split_once(OURS) else {
            return Self::Other;
        };
        let (word, rest) = ours.split_once(' ').unwrap_or((ours, ""));
        match word {
            "READY" => Self::Ready(rest.trim().to_owned()),
            "FAIL" => {
                let (what, hint) = rest.split_once(' ').unwrap_or((rest, ""));
                Self::Failed(Failure {
                    what: what.to_owned(),
                    hint: hint.trim().to_owned(),
                })
            }
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_cannot_steer_a_terminal() {
        let mut console = Console::default();
        assert!(console.lines(b"\x1b[2Jcase").is_empty());
        let lines = console.lines(b"mate: READY 0.0.0.0:8443\r\nx\xff\n");
        assert_eq!(lines, ["casemate: READY 0.0.0.0:8443", "x\u{fffd}"]);
        assert_eq!(
            console.lines(b"\x1b[01;01Ha\x1b[\x1bb\n\x1b[12\n"),
            ["a", ""]
        );
        assert_eq!(Said::by(&lines[0]), Said::Ready("0.0.0.0:8443".into()));
        assert_eq!(console.lines(&[b'a'; 10_000]), Vec::<String>::new());
        assert_eq!(console.rest().map(|line| line.len()), Some(LINE_BYTES_MAX));
        assert_eq!(console.rest(), None);
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        let code = |line: &str| match Said::by(line) {
            Said::Failed(failure) => Some(failure.code() as u8),
            _ => None,
        };
        for (what, expected) in [
            ("config", 3),
            ("modules", 3),
            ("disk", 3),
            ("devices", 3),
            ("clock", 12),
            ("expired", 12),
            ("memory", 20),
            ("tpm", 20),
            ("attest", 20),
            ("entropy", 20),
            ("package", 30),
            ("refused", 10),
            ("network", 1),
            ("dhcp", 1),
            ("broker", 1),
            ("server", 1),
            ("harden", 1),
            ("else", 1),
        ] {
            assert_eq!(
                code(&format!("casemate: FAIL {what} do this")),
                Some(expected),
                "{what}"
            );
        }
        assert_eq!(code("casemate: FAIL"), Some(1));
        assert_eq!(code("[    1.0] casemate: loaded tsm"), None);
        assert_eq!(code("FAIL disk"), None);
        let Said::Failed(failure) =
            Said::by("casemate: FAIL disk attach one with serial=casemate-model")
        else {
            panic!("no failure");
        };
        assert_eq!(
            (failure.what.as_str(), failure.hint.as_str()),
            ("disk", "attach one with serial=casemate-model")
        );
    }
}
