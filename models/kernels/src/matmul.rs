//! Matrix products on all threads: activations times packed weights.

use crate::activations::{Activations, GROUP_MAX, Group};
use crate::format::Kind;
use crate::isa::{Isa, TILE};
use crate::packed::Packed;
use crate::pool::{Pool, Start};
use crate::product::{Kernel, kernel};
use crate::wide;

/// Words of activations that stay in a core's own cache while tiles pass by. Outputs of as many rows lie a page or more
/// apart: with half as many words again a core misses translations (Q4_K: 355 instead of 410 GOPS).
const WORDS_CACHED: usize = 64 << 10;
/// Columns that a prompt's rows are cut into: a group's share of them and a widened tile's stay close to a core.
const SLICE_COLUMNS: usize = 2048;
/// Groups of rows from which on it is a prompt: fewer do not pay for slices, nor for weights that are unpacked once for all.
const PROMPT_GROUPS: usize = 3;
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

/// How a part goes through its blocks and groups of rows.
struct Course {
    /// Blocks that are gone through before the next ones: a prompt's rows are longer than caches.
    slice: usize,
    /// Groups of rows that stay in a core's cache while tiles pass by.
    groups: usize,
    /// Whether tiles are [widened](wide).
    wide: bool,
}

impl Course {
    fn of(activations: &Activations, weights: &Packed) -> Self {
        let (kind, blocks) = (weights.kind(), weights.blocks());
        let prompt = activations.groups().len() >= PROMPT_GROUPS;
        // Sums of F32 are made in two halves, which only a whole row adds up.
        let slice = match prompt && kind != Kind::F32 {
            true => (SLICE_COLUMNS / kind.block()).min(blocks).max(1),
            false => blocks,
        };
        let words = slice * kind.precision().words() * GROUP_MAX;
        Self {
            slice,
            groups: (WORDS_CACHED / words.max(1)).max(1),
            wide: prompt && wide::pays(kind),
        }
    }
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
    let (kind, blocks, tile_len) = (weights.kind(), weights.blocks(), weights.tile_len());
    let (width, block_words) = (weights.rows(), kind.precision().words());
    let course = Course::of(activations, weights);
    let kernels: [Option<Kernel>; GROUP_MAX + 1] = std::array::from_fn(|size| {
        let wanted = activations.groups().iter().any(|group| group.size == size);
        wanted.then(|| kernel(isa, kind, size, course.wide))
    });
    let wide_len = if course.wide {
        wide::tile_len(kind, course.slice)
    } else {
        0
    };
    let mut widened = vec![0; wide_len];
    for from in (0..blocks).step_by(course.slice) {
        let count = course.slice.min(blocks - from);
        let slice = from * kind.packed_bytes()..(from + count) * kind.packed_bytes();
        for groups in activations.groups().chunks(course.groups) {
            for tile in part.first..part.first + part.tiles {
                let whole = weights.bytes().get(tile * tile_len..(tile + 1) * tile_len);
                let Some(mut packed) = whole.and_then(|whole| whole.get(slice.clone())) else {
                    return;
                };
                if course.wide {
                    wide::widen(isa, kind, packed, &mut widened);
                    packed = &widened;
                }
                for group in groups {
                    let Some(kernel) = kernels[group.size] else {
                        continue;
                    };
                    let words = &activations.words()[group.start..];
                    let words = &words[from * block_words * group.size..];
                    let words = &words[..count * block_words * group.size];
                    let outputs = Outputs {
                        first: tile * TILE,
                        len: TILE.min(width - tile * TILE),
                        width,
                    };
                    // SAFETY: tile, wide or not, and group have these blocks; who has an `Isa` has a processor with the
                    // set; outputs are this part's, and what is added to was written by the slice before.
                    // JUSTIFICATION: kernels read by pointer, since a check of bounds would cost more than a product.
                    unsafe {
                        let kernel = |sums| kernel(packed.as_ptr(), words.as_ptr(), count, sums);
                        outputs.add(*group, from > 0, out, kernel);
                    }
                }
            }
        }
    }
}

/// The outputs of a tile, in rows of `width`.
struct Outputs {
    first: usize,
    len: usize,
    width: usize,
}

impl Outputs {
    /// Has a kernel make a group's sums, which go on from what is in `out` or from nothing.
    ///
    /// # Safety
    /// Rows of the group and these outputs lie inside `out` and are nobody else's, and hold numbers if sums `go_on`; the
    /// kernel takes groups of this size.
    #[inline(always)]
    unsafe fn add(
        &self,
        group: Group,
        go_on: bool,
        out: &Start<f32>,
        kernel: impl FnOnce(*mut f32),
    ) {
        let mut sums = [[0.0_f32; TILE]; GROUP_MAX];
        let at = |row: usize| (group.first + row) * self.width + self.first;
        if go_on {
            for (row, sums) in sums.iter_mut().take(group.rows).enumerate() {
                // SAFETY: the caller says that they are there.
                // JUSTIFICATION: threads write columns of a row-major matrix, which no safe split can express.
                unsafe {
                    let from = out.get().add(at(row));
                    sums.as_mut_ptr().copy_from_nonoverlapping(from, self.len);
                }
            }
        }
        kernel(sums.as_mut_ptr().cast());
        for (row, sums) in sums.iter().take(group.rows).enumerate() {
            // SAFETY: as above, and the JUSTIFICATION too.
            unsafe {
                let to = out.get().add(at(row));
                match self.len {
                    // A copy of known length is one instruction.
                    TILE => to.copy_from_nonoverlapping(sums.as_ptr(), TILE),
                    len => to.copy_from_nonoverlapping(sums.as_ptr(), len),
                }
            }
        }
    }
}
