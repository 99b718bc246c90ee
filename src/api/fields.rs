//! The top object of a request, field by field: what is known is taken, what is harmless is dropped, and whatever is left is
//! refused by its name. Values never enter an error.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::ApiError;

/// The deepest nesting of a request.
pub const DEPTH_MAX: usize = 64;

/// The longest field name that is repeated in an error.
const NAME_SHOWN_MAX: usize = 64;

/// Fields of a request that nobody has taken yet. A `null` is as good as nothing.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads one JSON object in which every key stands once.
    ///
    /// # Errors
    /// [`ApiError::MalformedJson`], [`ApiError::TooDeep`], [`ApiError::NotOneObject`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        if depth(bytes) > DEPTH_MAX {
            return Err(ApiError::TooDeep { limit: DEPTH_MAX });
        }
        match serde_json::from_slice::<Object>(bytes) {
            Ok(Object(fields)) => Ok(Self(fields)),
            Err(error) if error.is_data() => Err(ApiError::NotOneObject),
            Err(error) => Err(ApiError::MalformedJson {
                line: error.line(),
                column: error.column(),
            }),
        }
    }

    /// Takes a field out.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a text.
    ///
    /// # Errors
    /// [`ApiError::Invalid`].
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(name, "a string")),
        }
    }

    /// Takes a truth value.
    ///
    /// # Errors
    /// [`ApiError::Invalid`].
    pub fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(invalid(name, "true or false")),
        }
    }

    /// Takes a number from `low` to `high`.
    ///
    /// # Errors
    /// [`ApiError::Invalid`].
    pub fn number(&mut self, name: &str, low: f64, high: f64) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .filter(|number| (low..=high).contains(number));
        number
            .map(Some)
            .ok_or_else(|| invalid(name, &format!("a number from {low} to {high}")))
    }

    /// Takes a whole number of at least `low`.
    ///
    /// # Errors
    /// [`ApiError::Invalid`].
    pub fn count(&mut self, name: &str, low: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let count = value.as_u64().filter(|count| *count >= low);
        count
            .map(Some)
            .ok_or_else(|| invalid(name, &format!("a whole number of at least {low}")))
    }

    /// Takes a whole number from `low` to `high`.
    ///
    /// # Errors
    /// [`ApiError::Invalid`].
    pub fn whole(&mut self, name: &str, low: u64, high: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = value
            .as_u64()
            .filter(|number| (low..=high).contains(number));
        number
            .map(Some)
            .ok_or_else(|| invalid(name, &format!("a whole number from {low} to {high}")))
    }

    /// Drops fields that change nothing here.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// Drops the field if it says what happens anyway; otherwise refuses it by name.
    ///
    /// # Errors
    /// [`ApiError::Unsupported`].
    pub fn only(
        &mut self,
        name: &str,
        hint: &'static str,
        harmless: impl Fn(&Value) -> bool,
    ) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !harmless(&value) => Err(ApiError::Unsupported {
                param: name.to_owned(),
                hint,
            }),
            _ => Ok(()),
        }
    }

    /// Refuses whatever was not taken.
    ///
    /// # Errors
    /// [`ApiError::Unsupported`] with the first name.
    pub fn finish(mut self) -> Result<(), ApiError> {
        self.0.retain(|_, value| !value.is_null());
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let param = name.chars().take(NAME_SHOWN_MAX).collect();
                Err(ApiError::Unsupported { param, hint: "" })
            }
        }
    }
}

/// The error for a value that a parameter cannot have.
pub fn invalid(param: &str, expected: &str) -> ApiError {
    ApiError::Invalid {
        param: param.to_owned(),
        expected: expected.to_owned(),
    }
}

struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let (mut fields, mut seen) = (Map::new(), HashSet::new());
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom("key twice"));
                    }
                    fields.insert(key, value);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// How deep brackets nest outside strings. Counts before any parser recurses.
fn depth(bytes: &[u8]) -> usize {
    let (mut now, mut deepest) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_string = false,
            (false, b'"') => in_string = true,
            (false, b'{' | b'[') => {
                now = now.saturating_add(1);
                deepest = deepest.max(now);
            }
            (false, b'}' | b']') => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
