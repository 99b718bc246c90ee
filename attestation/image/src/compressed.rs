//! Unpacks xz and zstd within bounds of length and memory.

use std::io::Read;

/// Most memory that a dictionary may take, in KiB; Debian's packages ask for 64 MiB.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const WINDOW_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Xz,
    Zstd,
}

impl Compression {
    /// By what follows `.tar` or `.ko` in a name.
    pub(crate) fn of_suffix(suffix: &str) -> Option<Self> {
        match suffix {
            "" => Some(Self::None),
            ".xz" => Some(Self::Xz),
            ".zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The bytes behind `bytes`, as they are read.
    pub(crate) fn reader<'a>(self, bytes: &'a [u8]) -> Result<Box<dyn Read + 'a>, String> {
        Ok(match self {
            Self::None => Box::new(bytes),
            Self::Xz => {
                let reader = lzma_rust2::XzReader::new_mem_limit(bytes, true, MEMORY_KIB_MAX);
                Box::new(reader)
            }
            Self::Zstd => {
                let reader = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    bytes,
                    WINDOW_BYTES_MAX,
                );
                Box::new(reader.map_err(|error| error.to_string())?)
            }
        })
    }

    /// All bytes behind `bytes`; `None` when they are damaged or more than `most`.
    pub(crate) fn unpack(self, bytes: &[u8], most: usize) -> Option<Vec<u8>> {
        let mut unpacked = Vec::new();
        let reader = self.reader(bytes).ok()?;
        let bound = u64::try_from(most).ok()?.checked_add(1)?;
        reader.take(bound).read_to_end(&mut unpacked).ok()?;
        (unpacked.len() <= most).then_some(unpacked)
    }
}
