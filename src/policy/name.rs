//! Names that a policy gives: teams, model aliases, rules. Short words from a small alphabet, so that they can stand in
//! errors and audit records, and so that no wildcard or look-alike passes for a name.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The longest name, in bytes.
pub const NAME_LENGTH_MAX: usize = 64;

/// A word that cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a {0} is 1 to {NAME_LENGTH_MAX} characters of a-z, A-Z, 0-9, '.', '_', '-' and begins with a letter or digit; \
     wildcards are no names"
)]
pub struct NameError(&'static str);

fn well_formed(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    (1..=NAME_LENGTH_MAX).contains(&text.len())
        && text.starts_with(plain)
        && text
            .chars()
            .all(|c| plain(c) || matches!(c, '.' | '_' | '-'))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $spoken:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                if well_formed(text) { Ok(Self(text.into())) } else { Err(NameError($spoken)) }
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

name!(
    /// A team's name.
    TeamName,
    "team name"
);
name!(
    /// The name by which callers ask for a model.
    ModelName,
    "model name"
);
name!(
    /// The name of a declared workload.
    WorkloadName,
    "workload name"
);
name!(
    /// A rule's name: its `@id("…")`, or `policy` and its position from 0.
    RuleId,
    "rule id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s10_wildcards_and_look_alikes_are_no_names() {
        for text in [
            "",
            "*",
            "gpt-*",
            "a b",
            "modèle",
            "-x",
            "a/b",
            "a\n",
            &"a".repeat(65),
        ] {
            assert!(text.parse::<ModelName>().is_err(), "{text:?}");
        }
        for text in ["a", "tiny-1.1B_q8", &"a".repeat(64)] {
            assert_eq!(text.parse::<ModelName>().unwrap().as_str(), text);
        }
    }
}
