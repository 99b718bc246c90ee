//! Metadata values. Integers and floats of every width are widened; arrays hold one kind of element.

use super::cursor::Cursor;
use super::error::GgufError;
use super::texts::Texts;

/// Elements of all arrays of a header together: ten times the largest vocabulary in use, with its merges.
pub(super) const ELEMENTS_MAX: u64 = 8 << 20;
/// Bytes of one text: chat templates of known models have up to 30 KiB.
const TEXT_LEN_MAX: u64 = 1 << 20;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned width.
    Unsigned(u64),
    /// Any signed width.
    Signed(i64),
    /// Either float width.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// UTF-8 text.
    Text(String),
    /// Elements of one kind.
    Array(Array),
}

/// An array of metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Integers of any width that fit 64 signed bits; larger ones are clamped to the largest.
    Integers(Vec<i64>),
    /// Floats of either width.
    Floats(Vec<f64>),
    /// True and false.
    Bools(Vec<bool>),
    /// UTF-8 texts.
    Texts(Texts),
}

impl Value {
    pub(super) fn parse(
        cursor: &mut Cursor<'_>,
        elements_left: &mut u64,
    ) -> Result<Self, GgufError> {
        let kind = cursor.u32("metadata type")?;
        if kind == ARRAY {
            return Array::parse(cursor, elements_left).map(Self::Array);
        }
        scalar(cursor, kind)
    }

    /// The value if it is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value if it is an integer and not negative.
    pub fn as_unsigned(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(value) => Some(value),
            Self::Signed(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value if it is a number.
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Self::Float(value) => Some(value),
            Self::Unsigned(value) => Some(value as f64),
            Self::Signed(value) => Some(value as f64),
            _ => None,
        }
    }

    /// The value if it is true or false.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The value if it is an array.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl Array {
    fn parse(cursor: &mut Cursor<'_>, elements_left: &mut u64) -> Result<Self, GgufError> {
        let kind = cursor.u32("array type")?;
        let len_min = match kind {
            ARRAY => return Err(GgufError::NestedArray),
            TEXT => 8,
            _ => width(kind)?,
        };
        let count = cursor.count("metadata array", *elements_left, len_min)?;
        *elements_left -= count as u64;
        if kind == TEXT {
            return texts(cursor, count).map(Self::Texts);
        }
        let values = (0..count).map(|_| scalar(cursor, kind));
        match kind {
            BOOL => collect(values, |value| value.as_bool()).map(Self::Bools),
            FLOAT32 | FLOAT64 => collect(values, |value| value.as_float()).map(Self::Floats),
            _ => collect(values, |value| match value {
                Value::Unsigned(value) => Some(i64::try_from(value).unwrap_or(i64::MAX)),
                Value::Signed(value) => Some(value),
                _ => None,
            })
            .map(Self::Integers),
        }
    }

    /// The elements if they are texts.
    pub fn as_texts(&self) -> Option<&Texts> {
        match self {
            Self::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// The elements if they are floats.
    pub fn as_floats(&self) -> Option<&[f64]> {
        match self {
            Self::Floats(floats) => Some(floats),
            _ => None,
        }
    }

    /// The elements if they are integers.
    pub fn as_integers(&self) -> Option<&[i64]> {
        match self {
            Self::Integers(integers) => Some(integers),
            _ => None,
        }
    }
}

fn texts(cursor: &mut Cursor<'_>, count: usize) -> Result<Texts, GgufError> {
    let mut texts = Texts::with_capacity(count);
    for _ in 0..count {
        let text = cursor.text_or_empty(VALUE, TEXT_LEN_MAX)?;
        if !texts.push(text) {
            return Err(GgufError::TooMany {
                what: "metadata array",
                found: u64::from(u32::MAX) + 1,
                max: u32::MAX.into(),
            });
        }
    }
    texts.shrink();
    Ok(texts)
}

fn collect<T>(
    values: impl ExactSizeIterator<Item = Result<Value, GgufError>>,
    convert: impl Fn(Value) -> Option<T>,
) -> Result<Vec<T>, GgufError> {
    let mut all = Vec::with_capacity(values.len());
    for value in values {
        all.extend(convert(value?));
    }
    Ok(all)
}

fn scalar(cursor: &mut Cursor<'_>, kind: u32) -> Result<Value, GgufError> {
    Ok(match kind {
        0 => Value::Unsigned(u8::from_le_bytes(cursor.array(VALUE)?).into()),
        1 => Value::Signed(i8::from_le_bytes(cursor.array(VALUE)?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(cursor.array(VALUE)?).into()),
        3 => Value::Signed(i16::from_le_bytes(cursor.array(VALUE)?).into()),
        4 => Value::Unsigned(cursor.u32(VALUE)?.into()),
        5 => Value::Signed(i32::from_le_bytes(cursor.array(VALUE)?).into()),
        FLOAT32 => Value::Float(f32::from_le_bytes(cursor.array(VALUE)?).into()),
        BOOL => match cursor.array(VALUE)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return Err(GgufError::BadBoolean),
        },
        TEXT => Value::Text(cursor.text_or_empty(VALUE, TEXT_LEN_MAX)?.to_owned()),
        10 => Value::Unsigned(cursor.u64(VALUE)?),
        11 => Value::Signed(i64::from_le_bytes(cursor.array(VALUE)?)),
        FLOAT64 => Value::Float(f64::from_le_bytes(cursor.array(VALUE)?)),
        unknown => return Err(GgufError::UnknownValueType(unknown)),
    })
}

fn width(kind: u32) -> Result<u64, GgufError> {
    match kind {
        0 | 1 | BOOL => Ok(1),
        2 | 3 => Ok(2),
        4 | 5 | FLOAT32 => Ok(4),
        10 | 11 | FLOAT64 => Ok(8),
        unknown => Err(GgufError::UnknownValueType(unknown)),
    }
}

const VALUE: &str = "metadata value";
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;
const FLOAT64: u32 = 12;
