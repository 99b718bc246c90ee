//! The shape that a chat's answer is to have: OpenAI's `response_format`.

use casemate_models::grammar::Shape;
use serde_json::{Map, Value};

use super::ApiError;
use super::fields::{Fields, invalid};

const NAME: &str = "response_format";
/// The longest name of a schema, as OpenAI has it.
const NAME_LEN_MAX: usize = 64;

/// Takes `response_format` out of a request; nothing where any text will do.
///
/// # Errors
/// [`ApiError`] names the part that is wrong.
pub fn response_format(fields: &mut Fields) -> Result<Option<Shape>, ApiError> {
    let Some(value) = fields.take(NAME) else {
        return Ok(None);
    };
    let Value::Object(mut format) = value else {
        return Err(invalid(NAME, "an object"));
    };
    let kind = format.remove("type");
    let shape = match kind.as_ref().and_then(Value::as_str) {
        Some("text") => None,
        Some("json_object") => Some(Shape::Object),
        Some("json_schema") => Some(json_schema(&mut format)?),
        _ => {
            let expected = "text, json_object or json_schema";
            return Err(invalid(&part("type"), expected));
        }
    };
    nothing_left(&format, "")?;
    Ok(shape)
}

fn json_schema(format: &mut Map<String, Value>) -> Result<Shape, ApiError> {
    let Some(Value::Object(mut given)) = format.remove("json_schema") else {
        return Err(invalid(&part("json_schema"), "an object"));
    };
    // The name and the description are for the caller's own use.
    let name_fits = |name: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        (1..=NAME_LEN_MAX).contains(&name.len()) && name.chars().all(known)
    };
    match given.remove("name") {
        Some(Value::String(name)) if name_fits(&name) => {}
        None => return Err(missing("json_schema.name")),
        Some(_) => {
            let expected = format!("1 to {NAME_LEN_MAX} letters, digits, underscores and hyphens");
            return Err(invalid(&part("json_schema.name"), &expected));
        }
    }
    if !matches!(
        given.remove("description"),
        None | Some(Value::Null | Value::String(_))
    ) {
        return Err(invalid(&part("json_schema.description"), "a string"));
    }
    // Every schema is followed strictly here.
    if !matches!(
        given.remove("strict"),
        None | Some(Value::Null | Value::Bool(_))
    ) {
        return Err(invalid(&part("json_schema.strict"), "true or false"));
    }
    let schema = given
        .remove("schema")
        .ok_or_else(|| missing("json_schema.schema"))?;
    if !schema.is_object() {
        return Err(invalid(&part("json_schema.schema"), "an object"));
    }
    nothing_left(&given, "json_schema.")?;
    Ok(Shape::Schema(schema))
}

fn part(name: &str) -> String {
    format!("{NAME}.{name}")
}

fn missing(name: &str) -> ApiError {
    ApiError::Missing { param: part(name) }
}

fn nothing_left(fields: &Map<String, Value>, within: &str) -> Result<(), ApiError> {
    let left = fields.iter().find(|(_, value)| !value.is_null());
    match left {
        None => Ok(()),
        Some((name, _)) => {
            let name: String = name.chars().take(64).collect();
            Err(ApiError::Unsupported {
                param: part(&format!("{within}{name}")),
                hint: "",
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(format: &Value) -> Result<Option<Shape>, ApiError> {
        let body = json!({ NAME: format }).to_string();
        let mut fields = Fields::parse(body.as_bytes())?;
        let shape = response_format(&mut fields)?;
        fields.finish()?;
        Ok(shape)
    }

    #[test]
    fn the_three_kinds_are_taken() {
        assert_eq!(read(&Value::Null), Ok(None));
        assert_eq!(read(&json!({"type": "text"})), Ok(None));
        assert_eq!(
            read(&json!({"type": "json_object"})),
            Ok(Some(Shape::Object))
        );
        let schema = json!({"type": "object", "properties": {"a": {"type": "null"}}});
        for extra in [
            json!({}),
            json!({"strict": true}),
            json!({"strict": null, "description": "x"}),
        ] {
            let mut given = json!({"name": "a-b_1", "schema": schema});
            given
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            let shape = read(&json!({"type": "json_schema", "json_schema": given}));
            assert_eq!(shape, Ok(Some(Shape::Schema(schema.clone()))));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let schema = |given: Value| json!({"type": "json_schema", "json_schema": given});
        for (format, name) in [
            (json!("json"), ""),
            (json!({}), ".type"),
            (json!({"type": "grammar"}), ".type"),
            (json!({"type": "json_object", "schema": {}}), ".schema"),
            (json!({"type": "json_schema"}), ".json_schema"),
            (schema(json!({"schema": {}})), ".json_schema.name"),
            (
                schema(json!({"name": "a b", "schema": {}})),
                ".json_schema.name",
            ),
            (
                schema(json!({"name": "x".repeat(65), "schema": {}})),
                ".json_schema.name",
            ),
            (schema(json!({"name": "a"})), ".json_schema.schema"),
            (
                schema(json!({"name": "a", "schema": true})),
                ".json_schema.schema",
            ),
            (
                schema(json!({"name": "a", "schema": {}, "strict": 1})),
                ".json_schema.strict",
            ),
            (
                schema(json!({"name": "a", "schema": {}, "description": 1})),
                ".json_schema.description",
            ),
            (
                schema(json!({"name": "a", "schema": {}, "more": 1})),
                ".json_schema.more",
            ),
        ] {
            let expected = format!("{NAME}{name}");
            match read(&format) {
                Err(
                    ApiError::Invalid { param, .. }
                    | ApiError::Missing { param }
                    | ApiError::Unsupported { param, .. },
                ) => assert_eq!(param, expected),
                other => panic!("{format}: {other:?}"),
            }
        }
    }
}
