//! Signed documents (rules O-1 to O-3): fleet list, reference values, policy, revocations, collateral and lists of GPUs'
//! measurements, by the release key.
//!
//! [`SignedDocument::open`] is the only way to a [`Verified`] payload.

use std::fmt;

use ring::rand::SecureRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::digest::{HexError, Sha256Digest, UnixTime, hex_array};
use crate::framing;
use crate::strict_json::{self, JsonError, base64_bytes};

/// The most bytes that a signed document may have.
pub const SIGNED_BYTES_MAX: usize = 4 * 1024 * 1024;

const FORMAT: &str = "casemate/signed/v1";

/// What a document is about. One of a kind never passes as another (rule O-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The chips that the organisation owns.
    Fleet,
    /// Measurements, floors and the privilege level that are right.
    Reference,
    /// What teams may do. Opaque to this crate.
    Policy,
    /// What is no longer valid.
    Revocation,
    /// What vendors sign about machines, so that whoever verifies asks nobody.
    Collateral,
    /// What drivers and firmware of GPUs measure, converted from manifests.
    GpuReference,
}

impl Kind {
    /// The word that is signed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Reference => "reference",
            Self::Policy => "policy",
            Self::Revocation => "revocation",
            Self::Collateral => "collateral",
            Self::GpuReference => "gpu-reference",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a signed document can carry.
pub trait Payload: Sized {
    /// The one kind under which it is signed.
    const KIND: Kind;

    /// Reads the payload's bytes, strictly.
    ///
    /// # Errors
    /// [`JsonError`] where the bytes are not such a payload.
    fn from_payload(bytes: &[u8]) -> Result<Self, JsonError>;

    /// Writes the payload's bytes.
    ///
    /// # Errors
    /// [`JsonError::Unwritable`].
    fn to_payload(&self) -> Result<Vec<u8>, JsonError>;
}

/// Why a signed document was refused, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedError {
    /// Rule O-1: not such a document.
    #[error("signed document: {0}")]
    Json(#[from] JsonError),
    /// Rule O-1: another format.
    #[error("signed document has a format other than {FORMAT}")]
    Format,
    /// Rule O-2: a document of another kind.
    #[error("signed document is of kind {found} where {expected} is needed")]
    WrongKind {
        /// The kind in the document.
        found: Kind,
        /// The kind asked for.
        expected: Kind,
    },
    /// Rule O-1: names another key than the organisation's release key.
    #[error("signed document names release key {found}, not the organisation's")]
    WrongKey {
        /// The key it names.
        found: Sha256Digest,
    },
    /// Rule O-2: the signature is not by the release key over these bytes.
    #[error("signature of the {0} document is not the release key's over its content")]
    BadSignature(Kind),
    /// Rule O-3: a number that was already passed.
    #[error("{kind} document has number {found}, older than {floor} that was seen before")]
    RolledBack {
        /// Which kind.
        kind: Kind,
        /// Its number.
        found: u64,
        /// The lowest acceptable.
        floor: u64,
    },
    /// Rule O-3: before its time.
    #[error("{kind} document is valid from {issued}, now is {now}")]
    NotYetValid {
        /// Which kind.
        kind: Kind,
        /// When it begins.
        issued: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule O-3: past its time. The organisation signs a new one.
    #[error("{kind} document expired at {expires}, now is {now}; sign a new one")]
    Expired {
        /// Which kind.
        kind: Kind,
        /// When it ended.
        expires: UnixTime,
        /// The time given.
        now: UnixTime,
    },
    /// Rule O-4: the signed payload is not of its form.
    #[error("payload of the {kind} document: {error}")]
    Payload {
        /// Which kind.
        kind: Kind,
        /// What is wrong with it.
        error: JsonError,
    },
    /// The secret key is not an Ed25519 key in PKCS#8.
    #[error("release key is not an Ed25519 key in PKCS#8 form")]
    MalformedKey,
    /// The random source gave nothing.
    #[error("random source failed")]
    Random,
}

/// The organisation's release key, public half: 32 bytes of Ed25519.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleasePublicKey([u8; 32]);

impl ReleasePublicKey {
    /// A key from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A key from `release/public.key`: 64 lower-case hexadecimal digits; one line end may follow.
    ///
    /// # Errors
    /// [`HexError`].
    pub fn from_hex(text: &str) -> Result<Self, HexError> {
        hex_array("release key", text.strip_suffix('\n').unwrap_or(text)).map(Self)
    }

    /// The bytes themselves.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Lower-case hexadecimal, as the file has it.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// What documents call it: SHA-256 of its bytes (rule O-1).
    #[must_use]
    pub fn id(&self) -> Sha256Digest {
        Sha256Digest::of(&self.0)
    }
}

/// The organisation's release key, secret half. Wiped when dropped; `Debug` prints its name.
pub struct ReleaseSecretKey {
    pkcs8: Zeroizing<Vec<u8>>,
}

impl ReleaseSecretKey {
    /// Draws a new key from `random`.
    ///
    /// # Errors
    /// [`SignedError::Random`].
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, SignedError> {
        let document = Ed25519KeyPair::generate_pkcs8(random).map_err(|_| SignedError::Random)?;
        Ok(Self {
            pkcs8: Zeroizing::new(document.as_ref().to_vec()),
        })
    }

    /// Reads a key from PKCS#8 (DER).
    ///
    /// # Errors
    /// [`SignedError::MalformedKey`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SignedError> {
        let key = Self {
            pkcs8: Zeroizing::new(der.to_vec()),
        };
        key.pair().map(|_| key)
    }

    /// The key as PKCS#8 (DER), to be written with mode 0600.
    #[must_use]
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }

    /// The public half.
    ///
    /// # Errors
    /// [`SignedError::MalformedKey`].
    pub fn public(&self) -> Result<ReleasePublicKey, SignedError> {
        let pair = self.pair()?;
        pair.public_key()
            .as_ref()
            .try_into()
            .map(ReleasePublicKey)
            .map_err(|_| SignedError::MalformedKey)
    }

    fn pair(&self) -> Result<Ed25519KeyPair, SignedError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&self.pkcs8)
            .map_err(|_| SignedError::MalformedKey)
    }
}

impl fmt::Debug for ReleaseSecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReleaseSecretKey(..)")
    }
}

/// Number and validity of a document that is being signed.
#[derive(Debug, Clone, Copy)]
pub struct Issue {
    /// Grows with every document of its kind.
    pub number: u64,
    /// First second of validity.
    pub issued: UnixTime,
    /// First second after it.
    pub expires: UnixTime,
}

/// Opens and makes signed documents.
#[derive(Debug)]
pub struct SignedDocument;

impl SignedDocument {
    /// Checks a document and hands out its payload.
    ///
    /// `floor` is the highest number of this kind seen before (0 if none); the caller keeps it.
    ///
    /// # Errors
    /// [`SignedError`] names the rule that was broken.
    pub fn open<T: Payload>(
        bytes: &[u8],
        key: &ReleasePublicKey,
        floor: u64,
        now: UnixTime,
    ) -> Result<Verified<T>, SignedError> {
        let wire: Wire = strict_json::from_slice(bytes, SIGNED_BYTES_MAX)?;
        let kind = T::KIND;
        if wire.format != FORMAT {
            return Err(SignedError::Format);
        }
        if wire.kind != kind {
            return Err(SignedError::WrongKind {
                found: wire.kind,
                expected: kind,
            });
        }
        if !bool::from(wire.key.as_bytes().ct_eq(key.id().as_bytes())) {
            return Err(SignedError::WrongKey { found: wire.key });
        }
        UnparsedPublicKey::new(&ED25519, key.as_bytes())
            .verify(&message(kind, wire.issue(), &wire.payload), &wire.signature)
            .map_err(|_| SignedError::BadSignature(kind))?;
        in_force(kind, wire.issue(), floor, now)?;
        let payload =
            T::from_payload(&wire.payload).map_err(|error| SignedError::Payload { kind, error })?;
        Ok(Verified {
            payload,
            issue: wire.issue(),
            digest: Sha256Digest::of(bytes),
        })
    }

    /// Signs a payload and writes the document.
    ///
    /// # Errors
    /// [`SignedError::MalformedKey`], [`SignedError::Payload`], or [`JsonError::TooLong`].
    pub fn sign<T: Payload>(
        payload: &T,
        issue: Issue,
        key: &ReleaseSecretKey,
    ) -> Result<Vec<u8>, SignedError> {
        let kind = T::KIND;
        let payload = payload
            .to_payload()
            .map_err(|error| SignedError::Payload { kind, error })?;
        let signature = key
            .pair()?
            .sign(&message(kind, issue, &payload))
            .as_ref()
            .to_vec();
        let Issue {
            number,
            issued,
            expires,
        } = issue;
        let format = FORMAT.to_owned();
        let wire = Wire {
            format,
            kind,
            number,
            issued,
            expires,
            payload,
            key: key.public()?.id(),
            signature,
        };
        let bytes = strict_json::to_vec(&wire)?;
        if bytes.len() > SIGNED_BYTES_MAX {
            return Err(JsonError::TooLong {
                found: bytes.len(),
                limit: SIGNED_BYTES_MAX,
            }
            .into());
        }
        Ok(bytes)
    }
}

/// A payload that the release key signed, that is in force, and that is no older than what was seen before.
///
/// ```compile_fail
/// use casemate_attestation::{Verified, FleetList};
/// let fleet = FleetList { chips: Vec::new() };
/// let _: Verified<FleetList> = Verified { payload: fleet };
/// ```
///
/// ```
/// use casemate_attestation::{FleetList, ReleasePublicKey, SignedDocument, SignedError, UnixTime, Verified};
/// fn fleet(bytes: &[u8], key: &ReleasePublicKey, now: UnixTime) -> Result<Verified<FleetList>, SignedError> {
///     SignedDocument::open(bytes, key, 0, now)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Verified<T> {
    payload: T,
    issue: Issue,
    digest: Sha256Digest,
}

impl<T> Verified<T> {
    /// What was signed.
    #[must_use]
    pub const fn payload(&self) -> &T {
        &self.payload
    }

    /// What was signed, by value.
    #[must_use]
    pub fn into_payload(self) -> T {
        self.payload
    }

    /// The document's number, to be kept as the next floor.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.issue.number
    }

    /// First second of validity.
    #[must_use]
    pub const fn issued(&self) -> UnixTime {
        self.issue.issued
    }

    /// First second after it.
    #[must_use]
    pub const fn expires(&self) -> UnixTime {
        self.issue.expires
    }

    /// SHA-256 of the document as read: for a policy, what the binding carries.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: String,
    kind: Kind,
    number: u64,
    issued: UnixTime,
    expires: UnixTime,
    #[serde(with = "base64_bytes")]
    payload: Vec<u8>,
    key: Sha256Digest,
    #[serde(with = "base64_bytes")]
    signature: Vec<u8>,
}

impl Wire {
    const fn issue(&self) -> Issue {
        Issue {
            number: self.number,
            issued: self.issued,
            expires: self.expires,
        }
    }
}

fn message(kind: Kind, issue: Issue, payload: &[u8]) -> Vec<u8> {
    framing::labelled(
        FORMAT,
        &[
            kind.as_str().as_bytes(),
            &issue.number.to_be_bytes(),
            &issue.issued.secs().to_be_bytes(),
            &issue.expires.secs().to_be_bytes(),
            payload,
        ],
    )
}

fn in_force(kind: Kind, issue: Issue, floor: u64, now: UnixTime) -> Result<(), SignedError> {
    let Issue {
        number,
        issued,
        expires,
    } = issue;
    if number < floor {
        return Err(SignedError::RolledBack {
            kind,
            found: number,
            floor,
        });
    }
    if now < issued {
        return Err(SignedError::NotYetValid { kind, issued, now });
    }
    if now >= expires {
        return Err(SignedError::Expired { kind, expires, now });
    }
    Ok(())
}
