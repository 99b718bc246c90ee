//! Check lines of a verdict, in the order of the rules: what every appraisal writes down as it goes.

use crate::verify::{Check, CheckResult};

#[derive(Default)]
pub(crate) struct Lines(Vec<Check>);

impl Lines {
    pub(crate) fn pass(&mut self, id: &'static str, text: impl Into<String>) {
        self.add(id, CheckResult::Pass, text.into());
    }

    pub(crate) fn info(&mut self, id: &'static str, text: impl Into<String>) {
        self.add(id, CheckResult::Info, text.into());
    }

    fn add(&mut self, id: &'static str, result: CheckResult, text: String) {
        self.0.push(Check { id, result, text });
    }

    pub(crate) fn into_checks(self) -> Vec<Check> {
        self.0
    }
}
