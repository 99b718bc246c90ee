//! The GGUF file that a package is made from: where its header ends, and that its tensors fit (rule PK-31).

use std::io::{Read, Seek, SeekFrom};

use zeroize::Zeroizing;

use super::error::{PackageError, SealError};
use super::header::MANIFEST_LEN_MAX;
use crate::gguf::{GgufError, GgufHeader};

/// First try at a header's length; a real vocabulary takes some megabytes.
const FIRST_READ: u64 = 1 << 20;

/// A source's header: everything before its tensor data.
pub(super) struct SourceHeader {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) content_len: u64,
    pub(super) tensors: usize,
}

/// Reads the header of a GGUF file and leaves `source` where the tensor data begins.
pub(super) fn read_header(source: &mut (impl Read + Seek)) -> Result<SourceHeader, SealError> {
    let file_len = source.seek(SeekFrom::End(0)).map_err(SealError::Source)?;
    let (gguf, bytes) = parse_growing(source, file_len)?;
    let header_len = gguf.data_offset();
    let (expected, found) = (gguf.data_len(), file_len.saturating_sub(header_len));
    if found < expected {
        return Err(SealError::SourceTruncated { expected, found });
    }
    source
        .seek(SeekFrom::Start(header_len))
        .map_err(SealError::Source)?;
    Ok(SourceHeader {
        bytes,
        content_len: found,
        tensors: gguf.tensors().len(),
    })
}

/// Decodes ever longer beginnings of the file until one holds the whole header.
fn parse_growing(
    source: &mut (impl Read + Seek),
    file_len: u64,
) -> Result<(GgufHeader, Zeroizing<Vec<u8>>), SealError> {
    let bound = file_len.min(MANIFEST_LEN_MAX);
    let mut len = FIRST_READ.min(bound);
    loop {
        let mut bytes = Zeroizing::new(vec![0; len as usize]);
        source.seek(SeekFrom::Start(0)).map_err(SealError::Source)?;
        source.read_exact(&mut bytes).map_err(SealError::Source)?;
        match GgufHeader::parse(&bytes) {
            Ok(gguf) if gguf.data_offset() <= len => {
                bytes.truncate(gguf.data_offset() as usize);
                return Ok((gguf, bytes));
            }
            // Nothing follows such a header, not even padding: the file is whole.
            Ok(gguf) if gguf.tensors().is_empty() && len == file_len => {
                return Err(SealError::NoTensors);
            }
            Ok(gguf) if len == file_len => {
                let expected = gguf.data_len();
                return Err(SealError::SourceTruncated { expected, found: 0 });
            }
            Err(error) if len == file_len || !matches!(error, GgufError::Truncated(_)) => {
                return Err(error.into());
            }
            _ if len == bound => return Err(SealError::TooLarge("header")),
            _ => len = (len * 4).min(bound),
        }
    }
}

/// Rule PK-31: a source header ends where the tensor data begins, and the tensors lie inside the content.
pub(super) fn check_layout(
    gguf: &GgufHeader,
    header_len: usize,
    content_len: u64,
) -> Result<(), PackageError> {
    if gguf.data_offset() != header_len as u64 {
        return Err(PackageError::MalformedManifest(
            "source header does not end at the tensor data",
        ));
    }
    if gguf.data_len() > content_len {
        return Err(PackageError::MalformedManifest(
            "a tensor lies outside the content",
        ));
    }
    Ok(())
}
