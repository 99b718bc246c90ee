//! What a host lacks to start guests with SEV-SNP, TDX or a TPM: read from the kernel's own files below a root folder, so that a
//! tree recorded elsewhere is judged the same way.
//!
//! A host's word about itself. What a guest may believe is measured and quoted, and never taken from here.

mod facts;
mod firmware;
mod platforms;

use casemate_client::report::Outcome;
use serde::Serialize;

pub use facts::{Facts, Version};
pub use platforms::{Wanted, check};

/// One line, with what to do where something is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it ended.
    pub outcome: Outcome,
    /// A stable name, as `snp.processor`.
    pub id: &'static str,
    /// What was found.
    pub text: String,
    /// One thing to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
}

impl Finding {
    fn pass(id: &'static str, text: impl Into<String>) -> Self {
        Self::new(Outcome::Pass, id, text, None)
    }

    fn info(id: &'static str, text: impl Into<String>) -> Self {
        Self::new(Outcome::Info, id, text, None)
    }

    fn fail(id: &'static str, text: impl Into<String>, hint: &'static str) -> Self {
        Self::new(Outcome::Fail, id, text, Some(hint))
    }

    fn skip(id: &'static str, text: impl Into<String>, hint: &'static str) -> Self {
        Self::new(Outcome::Skip, id, text, Some(hint))
    }

    fn new(
        outcome: Outcome,
        id: &'static str,
        text: impl Into<String>,
        hint: Option<&'static str>,
    ) -> Self {
        let text = text.into();
        Self {
            outcome,
            id,
            text,
            hint,
        }
    }
}
