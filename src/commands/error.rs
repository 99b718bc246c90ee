//! How a command fails: what is wrong, what to do, and the exit code that a script can rely on.

use std::fmt;

pub use casemate_client::exit::ExitCode;

/// A failed command. The message says what was found, the hint what to do about it.
#[derive(Debug)]
pub struct CommandError {
    code: ExitCode,
    message: String,
    hint: Option<String>,
}

impl CommandError {
    /// An error with `code`; `message` is shown after `error: `, with every cause of an error chain.
    pub fn new(code: ExitCode, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
            hint: None,
        }
    }

    /// Adds the line that tells the user what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// What was found.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The process's exit status.
    pub fn code(&self) -> ExitCode {
        self.code
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CommandError {}

/// Anything without a code of its own is unexpected; its whole chain of causes is shown.
impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self::new(ExitCode::Unexpected, format!("{error:#}"))
    }
}

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        Self::new(ExitCode::Unexpected, error)
    }
}
