//! Matrix products on all threads: activations times packed weights.

use crate::activations::{Activations, GROUP_MAX};
use crate::isa::{Isa, TILE};
use crate::packed::Packed;
use crate::pool::{Pool, Start};
use crate::product::{Kernel, kernel};

/// Words of activations that stay in a core's own cache while tiles pass by.
const WORDS_CACHED: usize = 96 << 10;
/// Parts that each thread's share of the tiles is cut into, so that none waits long for another.
const PARTS_PER_THREAD: usize = 8;
/// Bytes of tiles below which a part is not cut further.
const PART_BYTES_MIN: usize = 16 << 10;

/// A matrix and where its products go: rows of [`Packed::rows`] numbers, one for each row of activations.
pub struct Product<'a> {
    /// The matrix.
    pub weights: &'a Packed,
    /// The products.
    pub out: &'a mut [f32],
}

/// Activations and a matrix, or its place, that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a matrix product's shapes do not fit")]
pub struct ShapeError;

/// A part of the work: some tiles of one product.
#[derive(Clone, Copy)]
struct Part {
    product: usize,
    first: usize,
    tiles: usize,
}

/// Multiplies `activations` with several matrices in one parallel region.
///
/// # Errors
/// [`ShapeError`] when widths, roundings or lengths differ; nothing is written then.
pub fn multiply(
    isa: Isa,
    activations: &Activations,
    products: &mut [Product<'_>],
    pool: &Pool,
) -> Result<(), ShapeError> {
    let rows = activations.rows();
    let fits = |product: &Product<'_>| {
        product.weights.columns() == activations.columns()
            && product.weights.kind().precision() == activations.precision()
            && Some(product.out.len()) == product.weights.rows().checked_mul(rows)
    };
    if !products.iter().all(fits) {
        return Err(ShapeError);
    }
    let parts = cut(products, pool.threads());
    let targets: Vec<(&Packed, Start<f32>)> = products
        .iter_mut()
        .map(|product| (product.weights, Start(product.out.as_mut_ptr())))
        .collect();
    pool.run(parts.len(), &|part| {
        if let Some(part) = parts.get(part)
            && let Some((weights, out)) = targets.get(part.product)
        {
            // SAFETY: `out` is this product's, with a row of outputs for each row of activations (checked above);
            // parts name tiles of their product, each once, so no two threads write the same outputs. Who has an `Isa`
            // has a processor with the set.
            // JUSTIFICATION: threads own columns of a row-major matrix, which no safe split can express.
            unsafe { multiply_tiles(isa, activations, weights, *part, out) }
        }
    });
    Ok(())
}

fn cut(products: &[Product<'_>], threads: usize) -> Vec<Part> {
    let bytes: usize = products
        .iter()
        .map(|product| product.weights.bytes().len())
        .sum();
    let goal = (bytes / (threads * PARTS_PER_THREAD).max(1)).max(PART_BYTES_MIN);
    let mut parts = Vec::new();
    for (index, product) in products.iter().enumerate() {
        let all = product.weights.rows().div_ceil(TILE);
        let tiles = (goal / product.weights.tile_len().max(1)).clamp(1, all);
        parts.extend((0..all).step_by(tiles).map(|first| Part {
            product: index,
            first,
            tiles: tiles.min(all - first),
        }));
    }
    parts
}

/// # Safety
/// `out` must hold `weights.rows()` numbers for each row of `activations`, and nobody else may write what belongs to
/// this part's tiles. Widths and roundings must fit, and the processor must have `isa`.
unsafe fn multiply_tiles(
    isa: Isa,
    activations: &Activations,
    weights: &Packed,
    part: Part,
    out: &Start<f32>,
) {
    let (blocks, tile_len) = (weights.blocks(), weights.tile_len());
    let width = weights.rows();
    let row_words = blocks * weights.kind().precision().words();
    let groups_cached = (WORDS_CACHED / (row_words * GROUP_MAX).max(1)).max(1);
    let mut sums = [0.0_f32; GROUP_MAX * TILE];
    let bytes = weights.bytes();
    for groups in activations.groups().chunks(groups_cached) {
        let kernels: [Option<Kernel>; GROUP_MAX + 1] = std::array::from_fn(|size| {
            let wanted = groups.iter().any(|group| group.size == size);
            wanted.then(|| kernel(isa, weights.kind(), size))
        });
        for tile in part.first..part.first + part.tiles {
            let Some(packed) = bytes.get(tile * tile_len..(tile + 1) * tile_len) else {
                return;
            };
            let first = tile * TILE;
            let outputs = TILE.min(width - first);
            for group in groups {
                let Some(kernel) = kernels[group.size] else {
                    continue;
                };
                let words = &activations.words()[group.start..][..group.size * row_words];
                // SAFETY: the tile and the group have these lengths, `sums` has room for the largest group, and who has
                // an `Isa` has a processor with the set.
                // JUSTIFICATION: kernels read by pointer, since a check of bounds would cost more than a product.
                unsafe { kernel(packed.as_ptr(), words.as_ptr(), blocks, sums.as_mut_ptr()) };
                for (row, sums) in sums.chunks_exact(TILE).take(group.rows).enumerate() {
                    let at = (group.first + row) * width + first;
                    // SAFETY: row `group.first + row` and outputs from `first` on lie inside `out`, and are this
                    // part's alone.
                    // JUSTIFICATION: threads write columns of a row-major matrix, which no safe split can express.
                    unsafe {
                        let to = out.get().add(at);
                        match outputs {
                            // A copy of known length is one instruction.
                            TILE => to.copy_from_nonoverlapping(sums.as_ptr(), TILE),
                            _ => to.copy_from_nonoverlapping(sums.as_ptr(), outputs),
                        }
                    }
                }
            }
        }
    }
}
