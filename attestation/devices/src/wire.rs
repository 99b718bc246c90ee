//! Reading and writing of the devices' binary structures: every length is checked against what is left, nothing is indexed.

/// Bytes that were not read yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(crate) const fn left(&self) -> &'a [u8] {
        self.left
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The next `length` bytes. `None`, and nothing is taken, when there are fewer.
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(length)?;
        self.left = left;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn be16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn be32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn le16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn le32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A TPM2B: a big-endian length of two bytes, at most `most`, and that many bytes.
    pub(crate) fn sized(&mut self, most: usize) -> Option<&'a [u8]> {
        let length = usize::from(self.be16()?);
        if length > most {
            return None;
        }
        self.take(length)
    }
}

/// A TPM2B: the length, then the bytes. Everything that is written here is shorter than 64 KiB; a longer one would be cut, and
/// the TPM refuses a structure that does not add up.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
        .to_vec();
    out.extend_from_slice(bytes);
    out
}
