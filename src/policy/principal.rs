//! Who is asking: one identity from a client certificate, and the patterns by which a policy names such identities.
//!
//! One certificate has one principal. Where two could be read from it, it has none.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The longest principal, in bytes.
pub const PRINCIPAL_LENGTH_MAX: usize = 512;

const SPIFFE: &str = "spiffe://";
const DNS: &str = "dns:";
const EMAIL: &str = "email:";
const SUBJECT: &str = "subject:";

/// Why a certificate has no principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrincipalError {
    /// Not an X.509 certificate, or its extensions cannot be read.
    #[error("certificate cannot be read")]
    Malformed,
    /// Two identities of the kind that counts.
    #[error("certificate names {count} {kind} identities; exactly one is needed")]
    Ambiguous {
        /// Which kind.
        kind: &'static str,
        /// How many there are.
        count: usize,
    },
    /// Text that is no identity of its kind.
    #[error("certificate's {0} identity is not well formed")]
    NotWellFormed(&'static str),
    /// Nothing that names anyone.
    #[error(
        "certificate has no SPIFFE, DNS or e-mail name, and its subject is not one common name"
    )]
    Nameless,
}

/// One identity: `spiffe://domain/path`, `dns:name`, `email:address`, or `subject:common name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Box<str>);

impl Principal {
    /// Reads the one identity of a certificate (DER): the SPIFFE URI first, then a DNS name, then an e-mail address,
    /// then a subject that is one common name. Says nothing about who signed the certificate.
    ///
    /// # Errors
    /// [`PrincipalError`], also where the kind that counts occurs twice.
    pub fn from_certificate(der: &[u8]) -> Result<Self, PrincipalError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| PrincipalError::Malformed)?;
        if !rest.is_empty() {
            return Err(PrincipalError::Malformed);
        }
        let alternatives = certificate
            .subject_alternative_name()
            .map_err(|_| PrincipalError::Malformed)?;
        let names = alternatives.map_or(&[][..], |san| san.value.general_names.as_slice());
        let uris = select(names, |name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        if uris.iter().any(|uri| uri.starts_with(SPIFFE)) {
            return only("SPIFFE", &uris).and_then(|uri| checked("SPIFFE", spiffe(uri)));
        }
        let dns = select(names, |name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        });
        if !dns.is_empty() {
            return only("DNS", &dns).and_then(|name| checked("DNS", dns_name(name)));
        }
        let email = select(names, |name| match name {
            GeneralName::RFC822Name(address) => Some(*address),
            _ => None,
        });
        if !email.is_empty() {
            return only("e-mail", &email).and_then(|a| checked("e-mail", email_address(a)));
        }
        subject(&certificate)
    }

    /// The identity as text: what policies, revocations and audit records name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Principal {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let canonical = if text.starts_with(SPIFFE) {
            spiffe(text)
        } else if let Some(name) = text.strip_prefix(DNS) {
            dns_name(name)
        } else if let Some(address) = text.strip_prefix(EMAIL) {
            email_address(address)
        } else if let Some(name) = text.strip_prefix(SUBJECT) {
            common_name(name)
        } else {
            None
        };
        canonical
            .filter(|canonical| &*canonical.0 == text)
            .ok_or(PatternError)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({})", self.0)
    }
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Text that names no principal and no group of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a principal is spiffe://domain/path, spiffe://domain/path/*, dns:name, email:address or subject:common name, \
     in canonical form; a wildcard stands only at the end of a SPIFFE path"
)]
pub struct PatternError;

/// Principals that belong to a team: one, or all below a SPIFFE path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalPattern {
    /// Exactly this one.
    One(Principal),
    /// Everything below a path; ends with `/`.
    Below(Box<str>),
}

impl PrincipalPattern {
    /// Whether the principal is meant.
    #[must_use]
    pub fn matches(&self, principal: &Principal) -> bool {
        match self {
            Self::One(one) => one == principal,
            Self::Below(path) => principal.as_str().starts_with(&**path),
        }
    }

    /// Whether one principal could be meant by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::One(one), pattern) | (pattern, Self::One(one)) => pattern.matches(one),
            (Self::Below(a), Self::Below(b)) => a.starts_with(&**b) || b.starts_with(&**a),
        }
    }
}

impl FromStr for PrincipalPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        match text.strip_suffix("/*") {
            Some(path) if path.starts_with(SPIFFE) => {
                path.parse::<Principal>()?;
                Ok(Self::Below(format!("{path}/").into()))
            }
            Some(_) => Err(PatternError),
            None => text.parse().map(Self::One),
        }
    }
}

impl fmt::Display for PrincipalPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(one) => one.fmt(f),
            Self::Below(path) => write!(f, "{path}*"),
        }
    }
}

impl Serialize for PrincipalPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PrincipalPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

fn select<'a>(
    names: &'a [GeneralName<'a>],
    wanted: impl Fn(&'a GeneralName<'a>) -> Option<&'a str>,
) -> Vec<&'a str> {
    names.iter().filter_map(wanted).collect()
}

fn only<'a>(kind: &'static str, names: &[&'a str]) -> Result<&'a str, PrincipalError> {
    match names {
        [one] => Ok(one),
        _ => Err(PrincipalError::Ambiguous {
            kind,
            count: names.len(),
        }),
    }
}

fn checked(kind: &'static str, found: Option<Principal>) -> Result<Principal, PrincipalError> {
    found.ok_or(PrincipalError::NotWellFormed(kind))
}

fn principal(text: String) -> Option<Principal> {
    (text.len() <= PRINCIPAL_LENGTH_MAX).then(|| Principal(text.into()))
}

/// SPIFFE-ID §2: a trust domain of lower-case letters, digits, `.`, `-`, `_`, and a path without empty or relative segments.
fn spiffe(uri: &str) -> Option<Principal> {
    let (domain, path) = uri.strip_prefix(SPIFFE)?.split_once('/')?;
    let domain_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let path_char = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let segment = |s: &str| !matches!(s, "" | "." | "..") && s.chars().all(path_char);
    let fits =
        !domain.is_empty() && domain.chars().all(domain_char) && path.split('/').all(segment);
    fits.then(|| uri.to_owned()).and_then(principal)
}

/// A host name without a wildcard; case does not tell names apart.
fn dns_name(name: &str) -> Option<Principal> {
    let name = name.to_ascii_lowercase();
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.split('.')
        .all(label)
        .then(|| format!("{DNS}{name}"))
        .and_then(principal)
}

/// A plain address; the case of the domain does not tell addresses apart, the case of the mailbox may.
fn email_address(address: &str) -> Option<Principal> {
    let (mailbox, domain) = address.split_once('@')?;
    let domain = dns_name(domain)?;
    let domain = domain.0.strip_prefix(DNS)?;
    let mailbox_char = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    let fits = !mailbox.is_empty() && mailbox.chars().all(mailbox_char);
    fits.then(|| format!("{EMAIL}{mailbox}@{domain}"))
        .and_then(principal)
}

/// Printable ASCII without the characters that structure a distinguished name.
fn common_name(name: &str) -> Option<Principal> {
    let fits = |c: char| (c.is_ascii_graphic() || c == ' ') && !",+=\"\\<>;#*".contains(c);
    let trimmed = name.trim() == name && !name.is_empty();
    (trimmed && name.chars().all(fits))
        .then(|| format!("{SUBJECT}{name}"))
        .and_then(principal)
}

fn subject(certificate: &X509Certificate<'_>) -> Result<Principal, PrincipalError> {
    let subject = certificate.subject();
    let mut attributes = subject.iter_attributes();
    let mut names = subject.iter_common_name();
    match (attributes.next(), attributes.next(), names.next()) {
        (Some(_), None, Some(name)) => {
            let name = name
                .as_str()
                .map_err(|_| PrincipalError::NotWellFormed("subject"))?;
            checked("subject", common_name(name))
        }
        _ => Err(PrincipalError::Nameless),
    }
}

#[cfg(test)]
#[path = "principal_tests.rs"]
mod tests;
