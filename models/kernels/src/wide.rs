//! A tile whose weights are bytes: a prompt's many rows share the work of unpacking them.
//!
//! The layout is that of [`crate::format`], but for units, which are eight vectors whatever a weight's bits are.

use crate::format::{Kind, UNIT, VECTOR};
use crate::isa::Isa;
use crate::product::unpacker;

/// Whether unpacking is dear enough: where a weight's bits lie in two vectors (Q6_K: 335 instead of 300 GOPS a core).
/// Those of Q4_K are unpacked in less time than bytes are read.
pub(crate) const fn pays(kind: Kind) -> bool {
    matches!(kind.bits(), 3 | 5 | 6)
}

/// Bytes of a widened tile of `blocks` blocks.
pub(crate) const fn tile_len(kind: Kind, blocks: usize) -> usize {
    blocks * block_len(kind)
}

const fn block_len(kind: Kind) -> usize {
    kind.head_bytes() + kind.block() / UNIT * 8 * VECTOR
}

/// Widens a tile of whole blocks into `wide`, as many of them as it has room for.
pub(crate) fn widen(isa: Isa, kind: Kind, tile: &[u8], wide: &mut [u8]) {
    let unpack = unpacker(isa, kind);
    let packed = tile.chunks_exact(kind.packed_bytes());
    for (packed, wide) in packed.zip(wide.chunks_exact_mut(block_len(kind))) {
        let (head, units) = packed.split_at(kind.head_bytes());
        let (to_head, to_units) = wide.split_at_mut(kind.head_bytes());
        to_head.copy_from_slice(head);
        // SAFETY: both hold this many units, and who has an `Isa` has a processor with the set.
        // JUSTIFICATION: unpacking is a kernel's, and kernels take pointers.
        unsafe { unpack(units.as_ptr(), kind.block() / UNIT, to_units.as_mut_ptr()) };
    }
}
