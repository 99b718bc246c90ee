//! Framed bytes (rule P-3): every item is preceded by its length, so that no two lists of items read alike.

use ring::digest::{Context, SHA512};

/// Appends `item` with its length as a 32-bit big-endian integer before it.
///
/// Items of this crate are digests and documents of at most a few MiB; a longer length could not be written in 32
/// bits and is capped, which makes the two lists differ from each other by their bytes.
pub(crate) fn append(out: &mut Vec<u8>, item: &[u8]) {
    out.extend_from_slice(&length(item));
    out.extend_from_slice(item);
}

/// A label followed by framed items.
pub(crate) fn labelled(label: &str, items: &[&[u8]]) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(label.len() + items.iter().map(|item| item.len() + 4).sum::<usize>());
    out.extend_from_slice(label.as_bytes());
    for item in items {
        append(&mut out, item);
    }
    out
}

/// SHA-512 of a label followed by framed items.
pub(crate) fn sha512(label: &str, items: &[&[u8]]) -> [u8; 64] {
    let mut context = Context::new(&SHA512);
    context.update(label.as_bytes());
    for item in items {
        context.update(&length(item));
        context.update(item);
    }
    let mut out = [0_u8; 64];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn length(item: &[u8]) -> [u8; 4] {
    u32::try_from(item.len()).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k09_items_that_concatenate_alike_are_framed_apart() {
        assert_ne!(labelled("l", &[b"ab", b"c"]), labelled("l", &[b"a", b"bc"]));
        assert_ne!(sha512("l", &[b"ab", b"c"]), sha512("l", &[b"a", b"bc"]));
        assert_ne!(sha512("l", &[b""]), sha512("l", &[]));
        assert_eq!(
            labelled("l", &[b"ab", b""]),
            b"l\x00\x00\x00\x02ab\x00\x00\x00\x00"
        );
    }
}
