//! Fixed-length values that travel as lower-case hexadecimal (rule P-1), and time as an argument (rule P-4).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Text is not lower-case hexadecimal of the expected length (rule P-1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is not {expected} bytes of lower-case hexadecimal (found {found} characters)")]
pub struct HexError {
    /// The value's name, for the reader of the message.
    pub name: &'static str,
    /// How many bytes it should have.
    pub expected: usize,
    /// How many characters the text has.
    pub found: usize,
}

/// Reads exactly `N` bytes of lower-case hexadecimal; anything else is refused.
///
/// # Errors
/// [`HexError`] for another length, an upper-case digit or any other character.
pub fn hex_array<const N: usize>(name: &'static str, text: &str) -> Result<[u8; N], HexError> {
    let mut bytes = [0_u8; N];
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) if lower => Ok(bytes),
        _ => Err(HexError {
            name,
            expected: N,
            found: text.len(),
        }),
    }
}

macro_rules! hex_value {
    ($(#[$doc:meta])* $name:ident, $length:expr, $spoken:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $length]);

        impl $name {
            /// Wraps bytes that are already such a value.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The bytes themselves.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                hex_array($spoken, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

hex_value!(
    /// A SHA-256 digest.
    Sha256Digest,
    32,
    "digest"
);
hex_value!(
    /// A challenge's nonce. Drawn at the edge, used once (rules P-40, P-50).
    Nonce,
    32,
    "nonce"
);
hex_value!(
    /// An SNP launch measurement.
    Measurement,
    48,
    "measurement"
);
hex_value!(
    /// CHIP_ID as an SNP report carries it. A Turin chip's eight bytes are followed by zeros.
    ChipId,
    64,
    "chip id"
);

impl Sha256Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut out = [0_u8; 32];
        out.copy_from_slice(digest.as_ref());
        Self(out)
    }

    /// What stands for something absent: the digest of the empty string, never zeros (rule P-5).
    #[must_use]
    pub fn absent() -> Self {
        Self::of(b"")
    }
}

impl ChipId {
    /// Whether the chip hid its identity. Such an id names every masked chip at once, therefore none.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

/// Seconds since 1970-01-01T00:00:00Z (rule P-4). This crate never reads a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(u64);

impl UnixTime {
    /// A time from its seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs)
    }

    /// Seconds since the epoch.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0
    }

    /// The time `secs` later, or the end of time.
    #[must_use]
    pub const fn plus(self, secs: u64) -> Self {
        Self(self.0.saturating_add(secs))
    }

    /// The time `secs` earlier, or the epoch.
    #[must_use]
    pub const fn minus(self, secs: u64) -> Self {
        Self(self.0.saturating_sub(secs))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl From<std::time::SystemTime> for UnixTime {
    /// A time before 1970 becomes the epoch, at which nothing is valid.
    fn from(time: std::time::SystemTime) -> Self {
        Self(
            time.duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        )
    }
}
