//! A bounded reader of binary structures, for this crate and for whoever speaks to devices: every length is checked against what is left, nothing is indexed.

/// Bytes that were not read yet.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// What is left, which stays.
    #[must_use]
    pub const fn left(&self) -> &'a [u8] {
        self.left
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The next `length` bytes. `None`, and nothing is taken, when there are fewer.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(length)?;
        self.left = left;
        Some(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, the higher one first.
    pub fn be16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, the highest one first.
    pub fn be32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, the highest one first.
    pub fn be64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Two bytes, the lower one first.
    pub fn le16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes, the lowest one first.
    pub fn le32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, the lowest one first.
    pub fn le64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A TPM2B: a big-endian length of two bytes, at most `most`, and that many bytes.
    pub fn sized(&mut self, most: usize) -> Option<&'a [u8]> {
        let length = usize::from(self.be16()?);
        if length > most {
            return None;
        }
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_read_and_nothing_is_lost() {
        let mut reader = Reader::new(&[0, 2, 7, 8, 9]);
        assert_eq!(reader.clone().sized(1), None);
        assert_eq!(reader.sized(2), Some(&[7, 8][..]));
        assert_eq!(reader.be16(), None);
        assert_eq!(reader.left(), [9]);
        assert_eq!(reader.byte(), Some(9));
        assert!(reader.is_empty());
        assert_eq!(reader.byte(), None);
        assert_eq!(Reader::new(&[0xff, 0xff, 1]).sized(usize::MAX), None);
    }
}
