//! JSON as the protocol wants it (rules P-1, P-2): one object, every key once, nothing unknown, nothing behind it.
//!
//! A reader that forgives is a reader that two parties disagree about; therefore the whole document is walked before
//! it becomes a typed value. Types behind it use `deny_unknown_fields`, and [`required`] for fields that may be null.

mod plain;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The deepest nesting that is read.
pub const DEPTH_MAX: usize = 16;

/// Why a document was refused (rules P-1, P-2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// More bytes than the document's kind may have.
    #[error("document has {found} bytes, more than {limit}")]
    TooLong {
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The document is not one object from its first byte to its last.
    #[error("document is not one JSON object from its first byte to its last")]
    NotOneObject,
    /// A key occurs twice in one object.
    #[error("document is refused: key occurs twice in one object")]
    DuplicateKey,
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("document is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// Bad syntax, or a field that is unknown, missing or not what it must be. Holds a position, never a value.
    #[error("document is malformed at line {line}, column {column}: {rule}")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What was broken: syntax, or the shape of a field.
        rule: &'static str,
    },
    /// Every field is of its form, and together they break a rule of the document's kind.
    #[error("document breaks a rule of its form: {0}")]
    Form(&'static str),
    /// A value cannot be written as JSON.
    #[error("value cannot be written as JSON")]
    Unwritable,
}

/// Reads one strict document of at most `limit` bytes.
///
/// # Errors
/// [`JsonError`] for anything that is not exactly one well-formed `T`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, JsonError> {
    Walked::over(bytes, limit)?.read()
}

/// A document that was walked, and can be read as more than one type.
#[derive(Clone, Copy)]
pub(crate) struct Walked<'a>(&'a str);

impl<'a> Walked<'a> {
    /// Walks a document of at most `limit` bytes.
    ///
    /// # Errors
    /// [`JsonError`] for anything that is not one strict object.
    pub(crate) fn over(bytes: &'a [u8], limit: usize) -> Result<Self, JsonError> {
        if bytes.len() > limit {
            return Err(JsonError::TooLong {
                found: bytes.len(),
                limit,
            });
        }
        if bytes.first() != Some(&b'{') || bytes.last() != Some(&b'}') {
            return Err(JsonError::NotOneObject);
        }
        let text = std::str::from_utf8(bytes);
        if !text.is_ok_and(plain::is_strict) {
            walked_whole(bytes)?;
        }
        // Whatever was walked is text.
        text.map(Self).map_err(|_| JsonError::NotOneObject)
    }

    /// Reads it as a `T`.
    ///
    /// # Errors
    /// [`JsonError::Malformed`] when it is none.
    pub(crate) fn read<T: Deserialize<'a>>(self) -> Result<T, JsonError> {
        serde_json::from_str(self.0).map_err(|error| malformed(&error))
    }
}

/// A text of the document, which is copied only where it is written with escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// The walk of every document that is not plain, and of every one that is refused.
fn walked_whole(bytes: &[u8]) -> Result<(), JsonError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Walk { depth: 0 }
        .deserialize(&mut reader)
        .map_err(|error| walk_error(&error))?;
    reader.end().map_err(|_| JsonError::NotOneObject)
}

/// Writes a document that [`from_slice`] reads back.
///
/// # Errors
/// [`JsonError::Unwritable`] when `value` is not an object with text keys.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, JsonError> {
    serde_json::to_vec(value).map_err(|_| JsonError::Unwritable)
}

/// For fields that may be `null` but may not be missing: `#[serde(deserialize_with = "strict_json::required")]`.
///
/// # Errors
/// Those of `T`.
pub fn required<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)
}

/// Bytes as canonical base64 with padding (rule P-1): `#[serde(with = "strict_json::base64_bytes")]`.
pub mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes bytes as base64.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// Reads canonical base64; stray bits, missing padding and white space are refused.
    ///
    /// # Errors
    /// Names the rule, never the text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        STANDARD
            .decode(text.as_bytes())
            .map_err(|_| D::Error::custom("not canonical base64"))
    }
}

/// A list of [`base64_bytes`].
pub(crate) mod base64_list {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Item(#[serde(with = "super::base64_bytes")] Vec<u8>);

    pub(crate) fn serialize<S: Serializer>(
        items: &[Vec<u8>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(items.iter().map(|item| Item(item.clone())))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Vec<u8>>, D::Error> {
        let items = Vec::<Item>::deserialize(deserializer)?;
        Ok(items.into_iter().map(|item| item.0).collect())
    }
}

/// Register values by number: keys are numbers as they are usually written, values lower-case hexadecimal.
pub(crate) mod hex_registers {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(
        registers: &BTreeMap<u8, Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let texts = registers
            .iter()
            .map(|(number, value)| (number.to_string(), hex::encode(value)));
        serializer.collect_map(texts)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<u8, Vec<u8>>, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
        let entry = |(key, value): (String, String)| {
            let number: u8 = key.parse().ok()?;
            let lower = !value.bytes().any(|byte| byte.is_ascii_uppercase());
            let canonical = lower && number.to_string() == key;
            Some((number, hex::decode(&value).ok().filter(|_| canonical)?))
        };
        let registers = texts.into_iter().map(entry).collect::<Option<_>>();
        registers.ok_or_else(|| D::Error::custom("not registers by number in hexadecimal"))
    }
}

/// A fixed number of bytes as lower-case hexadecimal (rule P-1): `#[serde(with = "strict_json::hex_bytes")]`.
pub mod hex_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes bytes as lower-case hexadecimal.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    /// Reads exactly `N` bytes.
    ///
    /// # Errors
    /// Names the rule, never the text.
    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        crate::digest::hex_array("value", &text).map_err(D::Error::custom)
    }
}

const DUPLICATE: &str = "casemate: key occurs twice";
const DEEP: &str = "casemate: nested too deep";

/// Visits every value once and keeps nothing but the keys of the objects it stands in.
#[derive(Clone, Copy)]
struct Walk {
    depth: usize,
}

impl Walk {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(DEEP));
        }
        Ok(Self {
            depth: self.depth + 1,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        let mut keys = BTreeSet::new();
        while let Some(Text(key)) = map.next_key()? {
            if !keys.insert(key) {
                return Err(A::Error::custom(DUPLICATE));
            }
            map.next_value_seed(inside)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        while seq.next_element_seed(inside)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

fn walk_error(error: &serde_json::Error) -> JsonError {
    let text = error.to_string();
    if text.starts_with(DUPLICATE) {
        JsonError::DuplicateKey
    } else if text.starts_with(DEEP) {
        JsonError::TooDeep
    } else {
        malformed(error)
    }
}

fn malformed(error: &serde_json::Error) -> JsonError {
    let rule = match error.classify() {
        serde_json::error::Category::Data => "a field is unknown, missing or not of its form",
        serde_json::error::Category::Eof => "the document ends too early",
        _ => "not JSON",
    };
    JsonError::Malformed {
        line: error.line(),
        column: error.column(),
        rule,
    }
}
