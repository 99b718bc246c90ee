//! Tensor infos: name, type, shape and place. A parsed info has whole blocks and an end that fits 63 bits.

use candle_core::quantized::GgmlDType;

use super::cursor::Cursor;
use super::error::GgufError;

const NAME_LEN_MAX: u64 = 127;
const DIMENSIONS_MAX: u32 = 4;
/// Elements of one tensor: eight times the largest matrix known.
const ELEMENTS_MAX: u64 = 1 << 38;

/// How a tensor's elements are stored.
pub type TensorType = GgmlDType;

/// One tensor: what it is and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    name: String,
    kind: TensorType,
    shape: Vec<usize>,
    offset: u64,
    len: u64,
}

impl TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its elements are stored.
    pub fn kind(&self) -> TensorType {
        self.kind
    }

    /// Rows first: the reverse of the file's order, whose first dimension runs fastest.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where it begins, in bytes from the beginning of the tensor data.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its length in bytes.
    pub fn byte_len(&self) -> u64 {
        self.len
    }

    pub(super) fn parse(cursor: &mut Cursor<'_>, alignment: u64) -> Result<Self, GgufError> {
        let name = cursor.text("tensor name", NAME_LEN_MAX)?.to_owned();
        let (shape, elements) = match parse_shape(cursor)? {
            Some(shape) => shape,
            None => return Err(GgufError::BadShape(name)),
        };
        let id = cursor.u32("tensor type")?;
        let offset = cursor.u64("tensor offset")?;
        let Some(kind) = kind_from_id(id) else {
            return Err(GgufError::UnknownTensorType {
                name,
                kind: foreign_kind(id),
            });
        };
        let block = kind.block_size() as u64;
        let row = shape.last().copied().unwrap_or_default() as u64;
        if !row.is_multiple_of(block) {
            return Err(GgufError::PartialBlock(name));
        }
        let len = elements / block * kind.type_size() as u64;
        let end = offset.checked_add(len);
        if !offset.is_multiple_of(alignment) || end.is_none_or(|end| end > i64::MAX as u64) {
            return Err(GgufError::BadOffset(name));
        }
        Ok(Self {
            name,
            kind,
            shape,
            offset,
            len,
        })
    }
}

/// The shape, rows first, and its number of elements; `None` if it is out of bounds.
fn parse_shape(cursor: &mut Cursor<'_>) -> Result<Option<(Vec<usize>, u64)>, GgufError> {
    let dimensions = cursor.u32("tensor dimensions")?;
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Ok(None);
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    let mut elements = 1_u64;
    for _ in 0..dimensions {
        let dimension = cursor.u64("tensor dimension")?;
        elements = match elements.checked_mul(dimension) {
            Some(product) if product > 0 && product <= ELEMENTS_MAX => product,
            _ => return Ok(None),
        };
        shape.push(dimension as usize);
    }
    shape.reverse();
    Ok(Some((shape, elements)))
}

fn kind_from_id(id: u32) -> Option<TensorType> {
    Some(match id {
        0 => TensorType::F32,
        1 => TensorType::F16,
        2 => TensorType::Q4_0,
        3 => TensorType::Q4_1,
        6 => TensorType::Q5_0,
        7 => TensorType::Q5_1,
        8 => TensorType::Q8_0,
        10 => TensorType::Q2K,
        11 => TensorType::Q3K,
        12 => TensorType::Q4K,
        13 => TensorType::Q5K,
        14 => TensorType::Q6K,
        30 => TensorType::BF16,
        _ => return None,
    })
}

/// What ggml calls a type that is not read here.
fn foreign_kind(id: u32) -> String {
    let name = match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        42 => "Q2_0",
        _ => return format!("{id}, which ggml does not know"),
    };
    name.to_owned()
}

/// Refuses tensors that share bytes; answers where the last one ends.
pub(super) fn check_overlaps(tensors: &[TensorInfo]) -> Result<u64, GgufError> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    let mut last: Option<&TensorInfo> = None;
    let mut end = 0;
    for tensor in order {
        if let Some(last) = last.filter(|_| tensor.offset < end) {
            return Err(GgufError::Overlap(last.name.clone(), tensor.name.clone()));
        }
        end = tensor.offset + tensor.len;
        last = Some(tensor);
    }
    Ok(end)
}
