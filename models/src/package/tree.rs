//! The Merkle tree over a content's chunks (rule PK-32): leaves can be hashed in any order.

use ring::digest::{Context, SHA256};

/// A SHA-256 value.
pub(super) type Hash = [u8; 32];

/// SHA-256 of the items one after the other.
pub(super) fn sha256(items: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for item in items {
        context.update(item);
    }
    finish(context)
}

/// The hash of what a context was fed.
pub(super) fn finish(context: Context) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// A chunk's leaf.
pub(super) fn leaf(chunk: &[u8]) -> Hash {
    sha256(&[&[0], chunk])
}

/// The root over leaves in order. A content has at least one chunk, so at least one leaf.
pub(super) fn root(mut level: Vec<Hash>) -> Hash {
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => sha256(&[&[1], left, right]),
                [alone] => *alone,
                _ => [0; 32],
            })
            .collect();
    }
    level.pop().unwrap_or_default()
}
