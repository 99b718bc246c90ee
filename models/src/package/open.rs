//! Opening a package (rules PK-6, PK-40, PK-41): first without a key, then with one.

use std::fmt;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt as _};
use std::path::Path;

use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

use super::chunk::ChunkKey;
use super::error::PackageError;
use super::header::{ClearHeader, START_LEN, header_len};
use super::key::{DataKey, Part};
use super::manifest::{Manifest, PublisherKey, VerifiedManifest};
use super::read::PartReader;
use super::tree::{Hash, finish};
use crate::gguf::GgufHeader;
use crate::weights::{self, WeightError, WeightSource};

/// A package file of the right length, read without a key. Nothing of it is authenticated yet.
#[derive(Debug)]
pub struct SealedPackage {
    file: File,
    header: ClearHeader,
}

impl SealedPackage {
    /// Opens the file or disk at `path` and decodes its clear header. Nothing is ever mapped: each chunk is copied into this
    /// process's memory and authenticated there, so that whoever holds the disk cannot change it after the check.
    ///
    /// # Errors
    /// The rule of PK-1 to PK-6 that does not hold, or [`PackageError::Read`].
    pub fn open(path: &Path) -> Result<Self, PackageError> {
        Self::from_file(File::open(path)?)
    }

    /// The same for a file that is open already.
    ///
    /// # Errors
    /// As [`SealedPackage::open`].
    pub fn from_file(file: File) -> Result<Self, PackageError> {
        let (found, is_disk) = length(&file)?;
        let mut start = [0; START_LEN];
        let start = read_start(&file, found, &mut start)?;
        let len = header_len(start)?;
        if found < len as u64 {
            return Err(PackageError::Truncated {
                expected: len as u64,
                found,
            });
        }
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        let header = ClearHeader::parse(&bytes)?;
        let expected = header.file_len();
        match found.cmp(&expected) {
            std::cmp::Ordering::Less => Err(PackageError::Truncated { expected, found }),
            // A disk ends at a sector or later. What lies behind the package is never read.
            std::cmp::Ordering::Greater if is_disk => Ok(Self { file, header }),
            std::cmp::Ordering::Greater => Err(PackageError::TrailingBytes { expected, found }),
            std::cmp::Ordering::Equal => Ok(Self { file, header }),
        }
    }

    /// The clear header, by which a broker finds the key.
    pub fn header(&self) -> &ClearHeader {
        &self.header
    }

    /// Checks epoch, manifest, publisher and source header in the order of PK-40; only then are weights readable.
    ///
    /// # Errors
    /// [`PackageError::EpochBelowFloor`], [`PackageError::CannotOpen`], or what is wrong with the manifest.
    pub fn unlock(
        self,
        key: DataKey,
        publisher: &PublisherKey,
        epoch_floor: u64,
    ) -> Result<UnlockedPackage, PackageError> {
        let Self { file, header } = self;
        if header.epoch() < epoch_floor {
            let (found, floor) = (header.epoch(), epoch_floor);
            return Err(PackageError::EpochBelowFloor { found, floor });
        }
        let derive = |part| {
            ChunkKey::derive(&key, header.id(), header.epoch(), part)
                .map_err(|_| PackageError::CannotOpen)
        };
        let (manifest_key, weights_key) = (derive(Part::Manifest)?, derive(Part::Weights)?);
        let manifest_file = file.try_clone()?;
        let reader = PartReader::new(
            manifest_file,
            header.manifest_offset(),
            header.manifest(),
            manifest_key,
        );
        let plain = open_manifest(&reader, header.manifest_digest())?;
        let manifest = Manifest::parse(plain)?.verify(&header, publisher)?;
        let weights = PartReader::new(file, header.weights_offset(), header.weights(), weights_key);
        UnlockedPackage::new(header, manifest, weights)
    }
}

/// Bytes of a file, or of a disk, which has no length of its own in the file system.
fn length(mut file: &File) -> std::io::Result<(u64, bool)> {
    let about = file.metadata()?;
    match about.file_type().is_block_device() {
        true => Ok((file.seek(SeekFrom::End(0))?, true)),
        false => Ok((about.len(), false)),
    }
}

/// The first bytes of the file. A file too short to hold them still shows whether it is a package at all.
fn read_start<'a>(
    file: &File,
    found: u64,
    start: &'a mut [u8; START_LEN],
) -> Result<&'a [u8], PackageError> {
    let there = found.min(START_LEN as u64) as usize;
    let (read, _) = start.split_at_mut(there);
    file.read_exact_at(read, 0)?;
    if there < START_LEN && b"CASEMATE".starts_with(read.get(..8).unwrap_or(read)) {
        return Err(PackageError::Truncated {
            expected: START_LEN as u64,
            found,
        });
    }
    Ok(read)
}

/// Reads and opens the manifest; what was read must be what the clear header names (PK-5).
fn open_manifest(reader: &PartReader, digest: &Hash) -> Result<Zeroizing<Vec<u8>>, PackageError> {
    let cut = reader.cut();
    let mut plain = Zeroizing::new(vec![0; cut.plain_len() as usize]);
    let mut sealed = Context::new(&SHA256);
    let mut rest = plain.as_mut_slice();
    let mut opened = Ok(());
    for index in 0..cut.chunks() {
        let (chunk, behind) = rest.split_at_mut(cut.chunk_len(index));
        let tag = reader.read_sealed(index, chunk)?;
        sealed.update(chunk);
        sealed.update(&tag);
        opened = opened.and_then(|()| reader.open_sealed(index, chunk, tag));
        rest = behind;
    }
    opened?;
    if finish(sealed) == *digest {
        Ok(plain)
    } else {
        Err(PackageError::CannotOpen)
    }
}

/// A package whose key, publisher and epoch were checked; its weights can be read.
pub struct UnlockedPackage {
    header: ClearHeader,
    name: String,
    version: String,
    gguf: GgufHeader,
    pub(super) weights: PartReader,
    pub(super) tree_hash: Hash,
    pub(super) source_hash: Hash,
    /// SHA-256 of the source file up to its content: what `verify` goes on from.
    pub(super) source_start: Context,
}

impl UnlockedPackage {
    fn new(
        header: ClearHeader,
        manifest: VerifiedManifest,
        weights: PartReader,
    ) -> Result<Self, PackageError> {
        let source = manifest.source_header();
        let gguf = GgufHeader::parse(source)?;
        super::source::check_layout(&gguf, source.len(), header.content_len())?;
        let mut source_start = Context::new(&SHA256);
        source_start.update(source);
        Ok(Self {
            name: manifest.name().to_owned(),
            version: manifest.version().to_owned(),
            gguf,
            weights,
            tree_hash: manifest.tree_hash(),
            source_hash: manifest.source_hash(),
            source_start,
            header,
        })
    }

    /// The clear header, now authenticated.
    pub fn clear_header(&self) -> &ClearHeader {
        &self.header
    }

    /// The model's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// SHA-256 of the GGUF file, as the publisher signed it; compared with the content by `verify` only.
    pub fn source_hash(&self) -> &[u8; 32] {
        &self.source_hash
    }

    /// Fills `into` with the tensor data that begins at `offset`, decrypting on all threads; every chunk is
    /// authenticated first. On an error `into` is wiped.
    ///
    /// # Errors
    /// [`PackageError::CannotOpen`] when a chunk was altered.
    pub fn read_content(&self, offset: u64, into: &mut [u8]) -> Result<(), PackageError> {
        self.weights.read_at(offset, into)
    }
}

impl WeightSource for UnlockedPackage {
    fn header(&self) -> &GgufHeader {
        &self.gguf
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_part(&self, index: usize, offset: u64, into: &mut [u8]) -> Result<(), WeightError> {
        let start = weights::place(&self.gguf, index, offset, into.len())?;
        let read = self.read_content(start, into);
        read.map_err(|error| WeightError::Sealed(error.to_string()))
    }
}

impl fmt::Debug for UnlockedPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnlockedPackage({})", self.header.digest())
    }
}
