//! Exit codes of every command (DESIGN section 10). A script may branch on them; they never change meaning.

/// What the process's exit status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Verified, or done.
    Done = 0,
    /// Something nobody expected, such as a server that cannot be reached.
    Unexpected = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A configuration file, or a file that it names, is wrong.
    Configuration = 3,
    /// Evidence, a certificate or a signature did not verify.
    Rejected = 10,
    /// Policy says no.
    Denied = 11,
    /// Revoked or expired.
    Expired = 12,
    /// Not supported here.
    Unsupported = 20,
    /// Bytes that are not what they claim to be.
    Malformed = 30,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
