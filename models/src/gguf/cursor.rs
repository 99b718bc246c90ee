//! A reader over bytes that ends with [`GgufError::Truncated`] and never reserves more than the bytes can hold.

use super::error::GgufError;

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position as u64
    }

    pub(super) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], GgufError> {
        let end = self.position.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(self.position..end));
        let taken = taken.ok_or(GgufError::Truncated(what))?;
        self.position += len;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of items of at least `item_len_min` bytes each.
    pub(super) fn count(
        &mut self,
        what: &'static str,
        max: u64,
        item_len_min: u64,
    ) -> Result<usize, GgufError> {
        let found = self.u64(what)?;
        if found > max {
            return Err(GgufError::TooMany { what, found, max });
        }
        let left = (self.bytes.len() - self.position) as u64;
        if found.saturating_mul(item_len_min) > left {
            return Err(GgufError::Truncated(what));
        }
        Ok(found as usize)
    }

    /// Non-empty text with its length before it.
    pub(super) fn text(&mut self, what: &'static str, max: u64) -> Result<&'a str, GgufError> {
        match self.text_or_empty(what, max)? {
            "" => Err(GgufError::Empty(what)),
            text => Ok(text),
        }
    }

    /// Text with its length before it.
    pub(super) fn text_or_empty(
        &mut self,
        what: &'static str,
        max: u64,
    ) -> Result<&'a str, GgufError> {
        let len = self.count(what, max, 1)?;
        std::str::from_utf8(self.take(len, what)?).map_err(|_| GgufError::NotUtf8(what))
    }
}
