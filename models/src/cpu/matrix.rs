//! Matrices on packed weights, and the rounded inputs that they are multiplied with.

use casemate_kernels::{Activations, Isa, Kind, Packed, Pool, Precision, Product, multiply};

use crate::decoder::weights::Matrix;
use crate::engine::StepError;
use crate::gguf::TensorType;
use crate::weights::{Rows, WeightError};

/// A packed matrix.
pub(crate) struct CpuMatrix(Packed);

impl CpuMatrix {
    /// Outputs.
    pub(super) fn rows(&self) -> usize {
        self.0.rows()
    }

    /// Bytes that such a matrix takes.
    pub(super) fn byte_len(kind: TensorType, rows: usize, columns: usize) -> usize {
        kind_of(kind).map_or(0, |kind| Packed::byte_len(kind, rows, columns))
    }

    /// One row's weights. False when there is no such row.
    #[must_use]
    pub(super) fn row(&self, row: usize, out: &mut [f32]) -> bool {
        self.0.row(row, out)
    }
}

/// The kernels' name of a kind; none where they have none.
pub(crate) fn kind_of(kind: TensorType) -> Option<Kind> {
    Some(match kind {
        TensorType::F32 => Kind::F32,
        TensorType::F16 => Kind::F16,
        TensorType::BF16 => Kind::BF16,
        TensorType::Q4_0 => Kind::Q4_0,
        TensorType::Q4_1 => Kind::Q4_1,
        TensorType::Q5_0 => Kind::Q5_0,
        TensorType::Q5_1 => Kind::Q5_1,
        TensorType::Q8_0 => Kind::Q8_0,
        TensorType::Q2K => Kind::Q2K,
        TensorType::Q3K => Kind::Q3K,
        TensorType::Q4K => Kind::Q4K,
        TensorType::Q5K => Kind::Q5K,
        TensorType::Q6K => Kind::Q6K,
        TensorType::Q8_1 | TensorType::Q8K => return None,
    })
}

impl Matrix for CpuMatrix {
    type Maker = Pool;

    fn fits(kind: TensorType, _rows: usize, columns: usize) -> bool {
        kind_of(kind).is_some_and(|kind| Packed::fits(kind, columns))
    }

    fn make(pool: &Pool, rows: &Rows<'_>) -> Result<Self, WeightError> {
        let unsupported = || rows.error(format!("{:?} weights are not supported", rows.kind()));
        let kind = kind_of(rows.kind()).ok_or_else(unsupported)?;
        let read = |offset: usize, into: &mut [u8]| rows.read(offset, into);
        Packed::read(kind, rows.rows(), rows.columns(), pool, read).map(Self)
    }
}

/// Rounded inputs, one set for each precision that matrices ask for. Memory is kept from step to step.
pub(super) struct Inputs {
    sets: [Activations; 4],
}

impl Inputs {
    pub(super) fn new() -> Self {
        let of = |precision| Activations::new(precision);
        Self {
            sets: [
                of(Precision::Bytes256),
                of(Precision::Bytes32),
                of(Precision::Fixed32),
                of(Precision::Float),
            ],
        }
    }

    /// Multiplies `rows` inputs of `columns` with several matrices. `row` writes an input where it is told to; it is
    /// called once for each precision.
    pub(super) fn multiply(
        &mut self,
        (isa, pool): (Isa, &Pool),
        (rows, columns): (usize, usize),
        row: impl Fn(usize, &mut [f32]) + Sync,
        products: Vec<(&CpuMatrix, &mut [f32])>,
    ) -> Result<(), StepError> {
        let mut left = products;
        for set in &mut self.sets {
            let precision = set.precision();
            let fits = |matrix: &CpuMatrix| matrix.0.kind().precision() == precision;
            let (now, later) = left
                .into_iter()
                .partition::<Vec<_>, _>(|(matrix, _)| fits(matrix));
            left = later;
            if now.is_empty() {
                continue;
            }
            if !set.fill(rows, columns, pool, &row) {
                return Err(StepError("inputs are no whole blocks".into()));
            }
            let mut products: Vec<Product<'_>> = now
                .into_iter()
                .map(|(CpuMatrix(weights), out)| Product { weights, out })
                .collect();
            multiply(isa, set, &mut products, pool)
                .map_err(|error| StepError(error.to_string()))?;
        }
        Ok(())
    }
}
