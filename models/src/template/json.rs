//! `tojson` as Hugging Face defines it: Python's `json.dumps` without HTML escaping and with characters as they are.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

const DEPTH_MAX: usize = 64;

pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<Value> = options.get("ensure_ascii")?;
    let _: Option<Value> = options.get("separators")?;
    let _: Option<Value> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut out = String::new();
    write(value, indent.map(|indent| indent.min(16)), 0, &mut out)?;
    Ok(Value::from_safe_string(out))
}

fn write(
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a value is nested too deeply for tojson",
        ));
    }
    match value.kind() {
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter()?.collect();
            list('{', '}', &keys, indent, depth, out, |key, out| {
                string(&key.to_string(), out)?;
                out.push_str(": ");
                write(&value.get_item(key)?, indent, depth + 1, out)
            })
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            list('[', ']', &items, indent, depth, out, |item, out| {
                write(item, indent, depth + 1, out)
            })
        }
        ValueKind::String => string(value.as_str().unwrap_or_default(), out),
        _ => {
            let text = serde_json::to_string(value).map_err(|_| not_json())?;
            out.push_str(&text);
            Ok(())
        }
    }
}

fn list(
    open: char,
    close: char,
    items: &[Value],
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
    mut each: impl FnMut(&Value, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent.filter(|_| !items.is_empty()) {
            out.push('\n');
            out.push_str(&" ".repeat(indent * depth));
        }
    };
    out.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        line(depth + 1, out);
        each(item, out)?;
    }
    line(depth, out);
    out.push(close);
    Ok(())
}

fn string(text: &str, out: &mut String) -> Result<(), Error> {
    out.push_str(&serde_json::to_string(text).map_err(|_| not_json())?);
    Ok(())
}

fn not_json() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a value has no JSON form")
}
