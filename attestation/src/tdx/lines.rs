//! Check lines of a verdict, in the order of the rules.

use crate::verify::{Check, CheckResult};

pub(crate) struct Lines(Vec<Check>);

impl Lines {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(32))
    }

    pub(crate) fn pass(&mut self, id: &'static str, text: impl Into<String>) {
        self.0.push(Check {
            id,
            result: CheckResult::Pass,
            text: text.into(),
        });
    }

    pub(crate) fn info(&mut self, id: &'static str, text: impl Into<String>) {
        self.0.push(Check {
            id,
            result: CheckResult::Info,
            text: text.into(),
        });
    }

    pub(crate) fn into_checks(self) -> Vec<Check> {
        self.0
    }
}
