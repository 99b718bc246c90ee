//! Names that stand in paths and identities: short, plain, and never a way out of a folder.

use std::fmt;
use std::str::FromStr;

/// The longest name in bytes.
const LENGTH_MAX: usize = 63;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Letters, digits and inner `.`, `-`, `_` only.
    #[error(
        "name {0:?} must have 1 to {LENGTH_MAX} letters, digits, '.', '-' or '_' and begin with a letter or digit"
    )]
    Characters(String),
    /// A SPIFFE trust domain has lower-case letters only.
    #[error("organisation name {0:?} must be in lower case: it stands in identities")]
    UpperCase(String),
}

/// The name of an organisation, a team or a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The name of an organisation, which is the trust domain of its identities.
    ///
    /// # Errors
    /// As [`from_str`](Self::from_str), and for upper case.
    pub fn organisation(text: &str) -> Result<Self, NameError> {
        let name: Self = text.parse()?;
        match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Err(NameError::UpperCase(text.to_owned())),
            false => Ok(name),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let begins = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !begins || text.len() > LENGTH_MAX || !text.bytes().all(plain) {
            return Err(NameError::Characters(
                text.chars().take(LENGTH_MAX).collect(),
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k10_names_never_lead_out_of_a_folder() {
        for bad in [
            "", ".", "..", "../a", "a/b", "a\\b", "-a", "a b", "ä", "a\0", "a\n",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(64).parse::<Name>().is_err());
        for good in ["a", "Team-1", "maria.silva", "x_1"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        assert!(Name::organisation("Example").is_err());
    }
}
