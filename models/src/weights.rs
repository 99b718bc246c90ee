//! Where weights come from: a plain GGUF file, or a sealed package. Matrices are made as their bytes are read, some
//! megabytes at a time: there are never two plaintext copies of a model, nor of a tensor.

mod bytes;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use candle_core::quantized::{QStorage, QTensor};
use rayon::prelude::*;

pub(crate) use bytes::Rows;

use crate::gguf::{GgufError, GgufHeader, TensorInfo};

/// A model's header and the bytes of its tensors.
pub trait WeightSource: Sync {
    /// Metadata and tensor infos.
    fn header(&self) -> &GgufHeader;

    /// The model's name: what the publisher called it, or the file's name.
    fn name(&self) -> &str;

    /// How many tensors there are.
    fn tensor_count(&self) -> usize {
        self.header().tensors().len()
    }

    /// Reads the whole of tensor `index` into `into`, which has exactly its length.
    ///
    /// # Errors
    /// [`WeightError`]; what `into` holds is then undefined and is not used.
    fn read_tensor(&self, index: usize, into: &mut [u8]) -> Result<(), WeightError> {
        self.read_part(index, 0, into)
    }

    /// Fills `into` with what tensor `index` holds from `offset` on. Threads may read at once.
    ///
    /// # Errors
    /// As [`Self::read_tensor`], also when the tensor ends before.
    fn read_part(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), WeightError>;
}

/// Why a tensor could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// The header is refused.
    #[error(transparent)]
    Header(#[from] GgufError),
    /// The file could not be read.
    #[error("the model file cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The file ends before its last tensor does.
    #[error("the model file is truncated: its tensors need {expected} bytes and it has {found}")]
    Truncated {
        /// Bytes from the beginning of the file to the end of the last tensor.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// The header is longer than any known model's.
    #[error("the model file's header is longer than {0} bytes")]
    HeaderTooLong(u64),
    /// A tensor that the architecture needs.
    #[error("the model has no tensor {0:?}")]
    Missing(String),
    /// A tensor that the architecture does not know, such as a bias.
    #[error("the model has tensor {0:?}, which its architecture does not use here")]
    Unexpected(String),
    /// A tensor whose shape does not fit the metadata.
    #[error("tensor {name:?} has shape {found:?} and the metadata asks for {expected:?}")]
    WrongShape {
        /// The tensor.
        name: String,
        /// Its shape, rows first.
        found: Vec<usize>,
        /// What was expected.
        expected: Vec<usize>,
    },
    /// A sealed source refused: a chunk was altered, or its package closed.
    #[error("sealed weights are refused: {0}")]
    Sealed(String),
    /// It cannot be packed.
    #[error(transparent)]
    Packing(#[from] casemate_kernels::PackError),
    /// The tensor library refused.
    #[error("tensor {name:?} cannot be made: {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What the library said.
        reason: String,
    },
}

/// A plain GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    file: File,
    header: GgufHeader,
    name: String,
}

const FIRST_READ: u64 = 16 << 20;
const HEADER_LEN_MAX: u64 = 256 << 20;
/// Bytes that one thread reads at a time.
const READ_PIECE: usize = 4 << 20;

impl GgufFile {
    /// Opens `path` and decodes its header.
    ///
    /// # Errors
    /// [`WeightError::Io`], [`WeightError::Header`] or [`WeightError::Truncated`].
    pub fn open(path: &Path) -> Result<Self, WeightError> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::from_file(File::open(path)?, name.into_owned())
    }

    /// As [`Self::open`], of a file that is open already.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_file(file: File, name: String) -> Result<Self, WeightError> {
        let found = file.metadata()?.len();
        let header = read_header(&file, found)?;
        let expected = header.data_offset().saturating_add(header.data_len());
        if header.data_len() > 0 && found < expected {
            return Err(WeightError::Truncated { expected, found });
        }
        Ok(Self { file, header, name })
    }
}

impl WeightSource for GgufFile {
    fn header(&self) -> &GgufHeader {
        &self.header
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_part(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), WeightError> {
        let start = self.header.data_offset() + place(&self.header, index, offset, into.len())?;
        let read = |(piece, bytes): (usize, &mut [u8])| {
            let offset = start + piece as u64 * READ_PIECE as u64;
            let read = self.file.read_exact_at(bytes, offset);
            read.map_err(WeightError::Io)
        };
        // Whoever reads little at a time has threads of its own.
        match into.len() <= READ_PIECE {
            true => read((0, into)),
            false => into
                .par_chunks_mut(READ_PIECE)
                .enumerate()
                .try_for_each(read),
        }
    }
}

/// Where a part of a tensor begins, in bytes from the beginning of the tensor data; it must lie inside the tensor.
pub(crate) fn place(
    header: &GgufHeader,
    index: usize,
    offset: u64,
    len: usize,
) -> Result<u64, WeightError> {
    let missing = || WeightError::Missing(index.to_string());
    let tensor = header.tensors().get(index).ok_or_else(missing)?;
    let end = offset.checked_add(len as u64);
    match end.is_some_and(|end| end <= tensor.byte_len()) {
        true => Ok(tensor.offset() + offset),
        false => Err(WeightError::Tensor {
            name: tensor.name().to_owned(),
            reason: "it ends before the part that is read".to_owned(),
        }),
    }
}

/// Decodes ever longer beginnings of the file until one holds the header.
fn read_header(file: &File, file_len: u64) -> Result<GgufHeader, WeightError> {
    let mut bytes = Vec::new();
    let mut goal = FIRST_READ;
    loop {
        let missing = goal.min(file_len).saturating_sub(bytes.len() as u64);
        bytes.reserve_exact(usize::try_from(missing).unwrap_or_default());
        let read = file.take(missing).read_to_end(&mut bytes)?;
        match GgufHeader::parse(&bytes) {
            Ok(header) => return Ok(header),
            Err(GgufError::Truncated(_)) if goal >= HEADER_LEN_MAX => {
                return Err(WeightError::HeaderTooLong(HEADER_LEN_MAX));
            }
            Err(GgufError::Truncated(_)) if read > 0 && (bytes.len() as u64) < file_len => {
                goal *= 4
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Told the bytes that are loaded and the bytes that there are.
pub type LoadProgress<'a> = &'a mut dyn FnMut(u64, u64);

/// Takes tensors out of a source by name and shape, and counts.
pub(crate) struct Loader<'a> {
    source: &'a dyn WeightSource,
    taken: HashSet<usize>,
    done: u64,
    total: u64,
    progress: LoadProgress<'a>,
    given_up: &'a AtomicBool,
}

impl<'a> Loader<'a> {
    /// Takes no tensor any more once `given_up` is true.
    pub(crate) fn new(
        source: &'a dyn WeightSource,
        progress: LoadProgress<'a>,
        given_up: &'a AtomicBool,
    ) -> Self {
        let lens = source.header().tensors().iter().map(TensorInfo::byte_len);
        Self {
            source,
            taken: HashSet::new(),
            done: 0,
            total: lens.sum(),
            progress,
            given_up,
        }
    }

    /// Whether the source has a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.source.header().tensor_index(name).is_some()
    }

    /// Finds a tensor that must be there with this shape, rows first, and has `make` make something of its rows.
    ///
    /// # Errors
    /// [`WeightError`].
    pub(crate) fn take<T>(
        &mut self,
        name: &str,
        shape: &[usize],
        make: impl FnOnce(Rows<'a>) -> Result<T, WeightError>,
    ) -> Result<T, WeightError> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(WeightError::Io(std::io::ErrorKind::Interrupted.into()));
        }
        let missing = || WeightError::Missing(name.to_owned());
        let header = self.source.header();
        let index = header.tensor_index(name).ok_or_else(missing)?;
        let info = header.tensors().get(index).ok_or_else(missing)?;
        if info.shape() != shape {
            return Err(WeightError::WrongShape {
                name: name.to_owned(),
                found: info.shape().to_vec(),
                expected: shape.to_vec(),
            });
        }
        let columns = shape.last().copied().unwrap_or_default();
        let rows = Rows::all(self.source, index, columns).ok_or_else(missing)?;
        let made = make(rows)?;
        self.taken.insert(index);
        self.done += info.byte_len();
        (self.progress)(self.done, self.total);
        Ok(made)
    }

    /// A short vector of numbers.
    pub(crate) fn floats(&mut self, name: &str, len: usize) -> Result<Vec<f32>, WeightError> {
        self.take(name, &[len], |rows| {
            rows.with_bytes(|bytes| {
                let storage = QStorage::from_data(bytes.into(), &Device::Cpu, rows.kind());
                let tensor = storage.and_then(|storage| QTensor::new(storage, len));
                let floats = tensor.and_then(|tensor| tensor.dequantize(&Device::Cpu)?.to_vec1());
                floats.map_err(|error| error.to_string())
            })
        })
    }

    /// Says that the architecture has all that it needs: what is left would change what the model computes.
    pub(crate) fn finish(&self) -> Result<(), WeightError> {
        let mut tensors = self.source.header().tensors().iter().enumerate();
        match tensors.find(|(index, _)| !self.taken.contains(index)) {
            Some((_, left)) => Err(WeightError::Unexpected(left.name().to_owned())),
            None => Ok(()),
        }
    }
}
