//! Some rows of a tensor, still where they came from: read when somebody makes a matrix of them, and checked then.

use std::ops::Range;

use zeroize::Zeroizing;

use super::{WeightError, WeightSource};
use crate::gguf::{TensorType, finite};

/// Alignment that every block type is content with.
const ALIGNMENT: usize = 64;

/// Rows of a tensor.
pub(crate) struct Rows<'a> {
    source: &'a dyn WeightSource,
    index: usize,
    name: &'a str,
    kind: TensorType,
    columns: usize,
    rows: Range<usize>,
}

impl<'a> Rows<'a> {
    /// All rows of tensor `index`, `columns` each.
    pub(super) fn all(source: &'a dyn WeightSource, index: usize, columns: usize) -> Option<Self> {
        let info = source.header().tensors().get(index)?;
        let row_len = columns / info.kind().block_size() * info.kind().type_size();
        let rows = info.byte_len() as usize / row_len.max(1);
        Some(Self {
            source,
            index,
            name: info.name(),
            kind: info.kind(),
            columns,
            rows: 0..rows,
        })
    }

    /// Some of them.
    pub(crate) fn part(&self, rows: &Range<usize>) -> Option<Self> {
        let inside = rows.start <= rows.end && rows.end <= self.rows.len();
        inside.then(|| Self {
            rows: self.rows.start + rows.start..self.rows.start + rows.end,
            ..*self
        })
    }

    /// How they are stored.
    pub(crate) fn kind(&self) -> TensorType {
        self.kind
    }

    /// How many rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// How long each is.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    fn row_len(&self) -> usize {
        self.columns / self.kind.block_size() * self.kind.type_size()
    }

    /// Fills `into`, which begins and ends with a row, with the bytes from `offset` on. Threads may read at once.
    ///
    /// # Errors
    /// [`WeightError`], also when a number is not finite.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), WeightError> {
        let start = self.rows.start * self.row_len() + offset;
        self.source.read_part(self.index, start as u64, into)?;
        finite::check(self.kind, into).map_err(|reason| self.error(reason))
    }

    /// Has `make` make something of all bytes, which are wiped afterwards.
    ///
    /// # Errors
    /// [`WeightError`].
    pub(crate) fn with_bytes<T>(
        &self,
        make: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, WeightError> {
        let len = self.rows.len() * self.row_len();
        let mut staging = Zeroizing::new(vec![0; len + ALIGNMENT]);
        let start = staging.as_ptr().align_offset(ALIGNMENT);
        let Some(bytes) = staging.get_mut(start..start.saturating_add(len)) else {
            return Err(self.error("it does not fit into memory".to_owned()));
        };
        self.read(0, bytes)?;
        make(bytes).map_err(|reason| self.error(reason))
    }

    /// Says that no matrix can be made of them.
    pub(crate) fn error(&self, reason: String) -> WeightError {
        WeightError::Tensor {
            name: self.name.to_owned(),
            reason,
        }
    }
}
