//! GGUF, versions 2 and 3: what stands before the tensor data. The decoder is strict and bounded: every count is
//! compared with the bytes that are left before memory is taken, and nothing here panics on any input.
//!
//! Bytes: magic `GGUF`, version (u32), tensor count (u64), metadata count (u64), metadata (key, type, value),
//! tensor infos (name, dimensions, type, offset), padding up to `general.alignment`, tensor data. Little endian only.

mod cursor;
mod error;
pub(crate) mod finite;
mod tensor;
mod texts;
mod value;

use std::collections::HashMap;

use cursor::Cursor;
pub use error::GgufError;
pub use tensor::{TensorInfo, TensorType};
pub use texts::Texts;
pub use value::{Array, Value};

/// Bounds of a header. A real one has some hundred tensors and keys, and arrays as long as its vocabulary.
pub(crate) const TENSORS_MAX: u64 = 65_536;
const KEYS_MAX: u64 = 65_536;
const NAME_LEN_MAX: u64 = 256;
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 65_536;

/// The decoded header of a GGUF file: metadata and where each tensor lies. Says nothing about the tensors' content.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufHeader {
    metadata: HashMap<String, Value>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    data_offset: u64,
    data_len: u64,
}

impl GgufHeader {
    /// Decodes the header at the beginning of `bytes`; what follows it is not looked at, so a prefix of the file
    /// that holds the header is enough. The padding before the tensor data may be missing.
    ///
    /// # Errors
    /// [`GgufError::Truncated`] when a longer prefix may help, another variant when nothing will.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.array::<4>("magic")? != *b"GGUF" {
            return Err(GgufError::WrongMagic);
        }
        let version = cursor.u32("version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::UnsupportedVersion(version));
        }
        let tensor_count = cursor.count("tensor count", TENSORS_MAX, 24)?;
        let key_count = cursor.count("metadata count", KEYS_MAX, 13)?;
        let metadata = parse_metadata(&mut cursor, key_count)?;
        let alignment = alignment(&metadata)?;
        let (tensors, by_name) = parse_tensors(&mut cursor, tensor_count, alignment)?;
        let data_len = tensor::check_overlaps(&tensors)?;
        Ok(Self {
            metadata,
            tensors,
            by_name,
            data_offset: cursor.position().next_multiple_of(alignment),
            data_len,
        })
    }

    /// Where the tensor data begins, in bytes from the start of the file: also the header's length with padding.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// How many bytes of tensor data the tensors reach over. A shorter file is truncated.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Every tensor, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor's index in [`Self::tensors`].
    pub fn tensor_index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// A metadata value.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A metadata value that must be text if it is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "text", Value::as_text)
    }

    /// A metadata value that must be a non-negative integer if it is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a non-negative integer", Value::as_unsigned)
    }

    /// A metadata value that must be a number if it is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a number", Value::as_float)
    }

    /// A metadata value that must be true or false if it is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A metadata value that must be an array if it is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub fn array(&self, key: &str) -> Result<Option<&Array>, GgufError> {
        self.typed(key, "an array", Value::as_array)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| GgufError::WrongType {
                key: key.to_owned(),
                expected,
            }),
        }
    }
}

fn parse_metadata(
    cursor: &mut Cursor<'_>,
    count: usize,
) -> Result<HashMap<String, Value>, GgufError> {
    let mut metadata = HashMap::with_capacity(count);
    let mut elements_left = value::ELEMENTS_MAX;
    for _ in 0..count {
        let key = cursor.text("metadata key", NAME_LEN_MAX)?.to_owned();
        let value = Value::parse(cursor, &mut elements_left)?;
        if metadata.contains_key(&key) {
            return Err(GgufError::DuplicateKey(key));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn parse_tensors(
    cursor: &mut Cursor<'_>,
    count: usize,
    alignment: u64,
) -> Result<(Vec<TensorInfo>, HashMap<String, usize>), GgufError> {
    let mut tensors = Vec::with_capacity(count);
    let mut by_name = HashMap::with_capacity(count);
    for index in 0..count {
        let tensor = TensorInfo::parse(cursor, alignment)?;
        if by_name.insert(tensor.name().to_owned(), index).is_some() {
            return Err(GgufError::DuplicateTensor(tensor.name().to_owned()));
        }
        tensors.push(tensor);
    }
    Ok((tensors, by_name))
}

fn alignment(metadata: &HashMap<String, Value>) -> Result<u64, GgufError> {
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(ALIGNMENT_DEFAULT);
    };
    match value.as_unsigned() {
        Some(found) if found.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(&found) => Ok(found),
        _ => Err(GgufError::BadAlignment),
    }
}

#[cfg(test)]
mod tests;
