//! How large a schema may be. What is refused here would make the library work or recurse without a bound of its own: the
//! intersection of many patterns, multiples of a large number, long chains of references.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::GrammarError;

/// Bytes of a schema.
pub const SCHEMA_LEN_MAX: usize = 32 * 1024;
/// Objects in a schema: about as many as it has parts.
pub const OBJECTS_MAX: usize = 1_000;
/// How deep a schema nests.
const DEPTH_MAX: usize = 64;
/// Regular expressions: `pattern` and the names of `patternProperties`. Where they meet, their product is built.
pub const PATTERNS_MAX: usize = 8;
/// Bytes of a regular expression.
pub const PATTERN_LEN_MAX: usize = 256;
/// The product of the different `multipleOf`, without regard to the decimal point: as many states has a number.
pub const MULTIPLE_MAX: usize = 10_000;

const fn too_large(what: &'static str, limit: usize) -> GrammarError {
    GrammarError::TooLarge { what, limit }
}

/// Checks a schema before anything is done with it.
///
/// # Errors
/// [`GrammarError::NotAnObject`], [`GrammarError::TooLarge`], [`GrammarError::UnknownKeyword`].
pub fn check(schema: &Value) -> Result<(), GrammarError> {
    let Value::Object(root) = schema else {
        return Err(GrammarError::NotAnObject);
    };
    // The library's own options, which would replace those that are set here.
    if root.contains_key("x-guidance") {
        return Err(GrammarError::UnknownKeyword);
    }
    let mut seen = Seen::default();
    seen.value(schema, 0)?;
    if schema.to_string().len() > SCHEMA_LEN_MAX {
        return Err(too_large("bytes", SCHEMA_LEN_MAX));
    }
    let product = seen.multiples.iter().try_fold(1_u64, |product, multiple| {
        product
            .checked_mul(*multiple)
            .filter(|product| *product <= MULTIPLE_MAX as u64)
    });
    match product {
        Some(_) => Ok(()),
        None => Err(too_large(
            "as the product of its 'multipleOf'",
            MULTIPLE_MAX,
        )),
    }
}

#[derive(Default)]
struct Seen {
    objects: usize,
    patterns: usize,
    multiples: BTreeSet<u64>,
}

impl Seen {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), GrammarError> {
        if depth > DEPTH_MAX {
            return Err(too_large("levels", DEPTH_MAX));
        }
        match value {
            Value::Object(fields) => self.object(fields, depth),
            Value::Array(items) => items
                .iter()
                .try_for_each(|item| self.value(item, depth + 1)),
            _ => Ok(()),
        }
    }

    fn object(&mut self, fields: &Map<String, Value>, depth: usize) -> Result<(), GrammarError> {
        self.objects += 1;
        if self.objects > OBJECTS_MAX {
            return Err(too_large("objects", OBJECTS_MAX));
        }
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("pattern", Value::String(pattern)) => self.pattern(pattern)?,
                ("patternProperties", Value::Object(patterns)) => {
                    patterns.keys().try_for_each(|name| self.pattern(name))?;
                }
                ("multipleOf", Value::Number(number)) => {
                    let digits = number.as_f64().and_then(digits);
                    let limit = too_large("as the product of its 'multipleOf'", MULTIPLE_MAX);
                    self.multiples.insert(digits.ok_or(limit)?);
                }
                _ => {}
            }
            self.value(value, depth + 1)?;
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), GrammarError> {
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX {
            return Err(too_large("regular expressions", PATTERNS_MAX));
        }
        if pattern.len() > PATTERN_LEN_MAX {
            return Err(too_large("bytes in a regular expression", PATTERN_LEN_MAX));
        }
        Ok(())
    }
}

/// A positive number's digits as a whole number: 0.05 is 5, 250 is 250.
fn digits(number: f64) -> Option<u64> {
    let digits: String = number
        .to_string()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    let digits = digits.parse().ok();
    digits.filter(|digits| *digits > 0 && number > 0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_at_a_bound_passes_and_one_more_does_not() {
        let patterns = |count: usize, len: usize| {
            let text = "a".repeat(len);
            let each = (0..count).map(|_| json!({"type": "string", "pattern": text}));
            json!({"anyOf": each.collect::<Vec<_>>()})
        };
        let too_large = |schema: &Value| match check(schema) {
            Err(GrammarError::TooLarge { what, .. }) => what,
            Ok(()) => "",
            Err(_) => "another error",
        };
        assert_eq!(too_large(&patterns(PATTERNS_MAX, PATTERN_LEN_MAX)), "");
        assert_eq!(
            too_large(&patterns(PATTERNS_MAX + 1, 1)),
            "regular expressions"
        );
        assert_eq!(
            too_large(&patterns(1, PATTERN_LEN_MAX + 1)),
            "bytes in a regular expression"
        );
        let named = |count: usize| {
            let names = (0..count).map(|at| (format!("^{at}$"), json!({})));
            json!({"patternProperties": names.collect::<Map<_, _>>()})
        };
        assert_eq!(too_large(&named(PATTERNS_MAX)), "");
        assert_eq!(too_large(&named(PATTERNS_MAX + 1)), "regular expressions");
        let objects = |count: usize| json!({"anyOf": vec![json!({}); count - 1]});
        assert_eq!(too_large(&objects(OBJECTS_MAX)), "");
        assert_eq!(too_large(&objects(OBJECTS_MAX + 1)), "objects");
        let sized = |len: usize| json!({"const": "x".repeat(len - 12)});
        assert_eq!(sized(SCHEMA_LEN_MAX).to_string().len(), SCHEMA_LEN_MAX);
        assert_eq!(too_large(&sized(SCHEMA_LEN_MAX)), "");
        assert_eq!(too_large(&sized(SCHEMA_LEN_MAX + 1)), "bytes");
        let deep = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!([inner]));
        assert_eq!(too_large(&json!({"default": deep(DEPTH_MAX - 1)})), "");
        assert_eq!(too_large(&json!({"default": deep(DEPTH_MAX)})), "levels");
    }

    #[test]
    fn multiples_count_by_their_product_without_the_decimal_point() {
        let with = |multiples: &[f64]| {
            let each = multiples
                .iter()
                .map(|of| json!({"type": "number", "multipleOf": of}));
            check(&json!({"anyOf": each.collect::<Vec<_>>()})).is_ok()
        };
        assert!(with(&[10_000.0]) && with(&[100.0, 100.0, 0.01, 0.5, 2.0]));
        for bad in [
            &[10_001.0][..],
            &[101.0, 100.0],
            &[1e300],
            &[0.12345],
            &[0.0],
            &[-1.0],
        ] {
            assert!(!with(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_schema_is_an_object_and_sets_no_option_of_the_library() {
        for bad in [json!([]), json!(true), json!("object"), Value::Null] {
            assert_eq!(check(&bad), Err(GrammarError::NotAnObject));
        }
        let options = json!({"type": "string", "x-guidance": {"lenient": true}});
        assert_eq!(check(&options), Err(GrammarError::UnknownKeyword));
    }
}
