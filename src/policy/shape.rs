//! What an eavesdropper sees of a team's answers: the profile that policy chooses for it, and its numbers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guard::shape::{Shape, ShapeError};

/// Cells of an answer where policy names none: each is twice the one before, from one second to two minutes at the ordinary
/// tick.
const LENGTHS: [u32; 8] = [10, 20, 40, 80, 160, 320, 640, 1280];

/// How much of its answers' sizes and times a team hides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Nothing: pieces leave as they come.
    #[default]
    Open,
    /// All but which of at most eight lengths an answer has.
    Bucketed,
    /// All: every answer has the same length.
    Fixed,
}

/// A team's profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapeRule {
    /// Which.
    pub profile: Profile,
    /// Cells that an answer may have: one number for `fixed`, up to eight for `bucketed`. A longer answer is cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<u32>,
    /// Between two cells.
    #[serde(default = "tick")]
    pub tick_milliseconds: u32,
    /// From a request to the first cell; where it takes longer, a multiple of it.
    #[serde(default = "first")]
    pub first_milliseconds: u32,
}

const fn tick() -> u32 {
    100
}

const fn first() -> u32 {
    250
}

impl ShapeRule {
    /// What it says; nothing where answers are not shaped.
    ///
    /// # Errors
    /// The rule that is broken.
    pub(super) fn shape(&self) -> Result<Option<Shape>, String> {
        let lengths = match (self.profile, self.cells.as_slice()) {
            (Profile::Open, []) => return Ok(None),
            (Profile::Open, _) => return Err("is open, which has no lengths in cells".into()),
            (Profile::Bucketed, []) => LENGTHS.to_vec(),
            (Profile::Bucketed, lengths) => lengths.to_vec(),
            (Profile::Fixed, [length]) => vec![*length],
            (Profile::Fixed, _) => return Err("is fixed, which has one length in cells".into()),
        };
        let milliseconds = |number: u32| Duration::from_millis(number.into());
        let (tick, first) = (self.tick_milliseconds, self.first_milliseconds);
        Shape::new(lengths, milliseconds(tick), milliseconds(first))
            .map(Some)
            .map_err(|error: ShapeError| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> ShapeRule {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn profiles_have_the_lengths_that_they_need_and_bounds() {
        let open = rule(r#"{"profile":"open"}"#);
        assert_eq!(open.shape(), Ok(None));
        let bucketed = rule(r#"{"profile":"bucketed"}"#).shape().unwrap().unwrap();
        assert_eq!((bucketed.length(1), bucketed.longest()), (10, 1280));
        assert_eq!(bucketed.tick(), Duration::from_millis(100));
        let fixed = rule(r#"{"profile":"fixed","cells":[300],"tick_milliseconds":50}"#);
        assert_eq!(fixed.shape().unwrap().unwrap().length(1), 300);
        for (text, word) in [
            (r#"{"profile":"open","cells":[10]}"#, "open"),
            (r#"{"profile":"fixed"}"#, "fixed"),
            (r#"{"profile":"fixed","cells":[10,20]}"#, "fixed"),
            (r#"{"profile":"bucketed","cells":[20,10]}"#, "ascend"),
            (
                r#"{"profile":"bucketed","tick_milliseconds":5}"#,
                "tick_milliseconds",
            ),
            (r#"{"profile":"fixed","cells":[4]}"#, "4 cells"),
        ] {
            let complaint = rule(text).shape().unwrap_err();
            assert!(complaint.contains(word), "{text}: {complaint}");
        }
        for text in [
            r#"{"profile":"closed"}"#,
            "{}",
            r#"{"profile":"open","more":1}"#,
        ] {
            assert!(serde_json::from_str::<ShapeRule>(text).is_err(), "{text}");
        }
    }
}
