//! Making a package (rules PK-50, PK-51): one pass over the source, nothing left behind on failure.

use std::fs::{File, Permissions};
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use rayon::prelude::*;
use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

use super::chunk::{ChunkKey, Cut, TAG_LEN};
use super::error::SealError;
use super::header::{self, ClearHeader, PackageDigest, PackageId};
use super::key::{DataKey, FreshKey, Part};
use super::manifest::{self, PublisherKey, check_signature, signature_message};
use super::source::{self, SourceHeader};
use super::tree::{self, Hash};
use super::{CHUNK_LEN, Progress};

/// Chunks hashed and sealed at once.
const BATCH_CHUNKS: usize = 8;

/// What the publisher decides about a package.
#[derive(Debug, Clone)]
pub struct SealOptions {
    /// Model name, shown to operators and clients.
    pub name: String,
    /// Model version.
    pub version: String,
    /// Epoch: readers refuse packages below their floor.
    pub epoch: u64,
    /// Which key-encryption key wraps the data key.
    pub key_id: String,
}

/// The organisation's release key: its public half, and whatever signs with the other.
pub struct Publisher<'a> {
    /// The key that readers pin.
    pub public_key: PublisherKey,
    /// Ed25519 over the message; the secret stays where the caller keeps it.
    pub sign: &'a dyn Fn(&[u8]) -> [u8; 64],
}

/// A package that was made, and the key that opens it.
#[derive(Debug)]
pub struct Sealed {
    /// The package's id.
    pub id: PackageId,
    /// The model's digest (rule PK-5).
    pub digest: PackageDigest,
    /// To be wrapped and registered: without it the package is lost.
    pub key: DataKey,
}

/// Seals the GGUF file `source` into a new file `out`, under an id and a data key that are drawn for it
/// (rule PK-10). Bytes of content are reported to `progress`.
///
/// # Errors
/// See [`SealError`]; whatever it is, no file is left at `out`.
pub fn seal(
    source: &mut (impl Read + Seek),
    out: &Path,
    options: &SealOptions,
    publisher: &Publisher<'_>,
    progress: &Progress<'_>,
) -> Result<Sealed, SealError> {
    check_options(options)?;
    if out.exists() {
        return Err(SealError::OutputExists(out.display().to_string()));
    }
    let header = source::read_header(source)?;
    if header.tensors == 0 {
        return Err(SealError::NoTensors);
    }
    let fresh = FreshKey::generate()?;
    seal_under(fresh, &header, source, out, options, publisher, progress)
}

/// Seals the content behind `header`, where `source` stands, under a given id and key, which it uses up.
pub(super) fn seal_under(
    fresh: FreshKey,
    header: &SourceHeader,
    source: &mut impl Read,
    out: &Path,
    options: &SealOptions,
    publisher: &Publisher<'_>,
    progress: &Progress<'_>,
) -> Result<Sealed, SealError> {
    let weights = Cut::of_plain(header.content_len).ok_or(SealError::TooLarge("tensor data"))?;
    let FreshKey { id, key } = fresh;
    let draft = header::Draft {
        id,
        epoch: options.epoch,
        key_id: &options.key_id,
        weights,
    };
    let layout = Layout::plan(&draft, options, header, publisher)?;
    let target = Target::create(out)?;
    let subkey =
        |part| ChunkKey::derive(&key, id, options.epoch, part).map_err(|_| SealError::Crypto);
    let mut sealer = Sealer::new(
        target.file(),
        layout.weights_offset,
        weights,
        subkey(Part::Weights)?,
    );
    sealer.source_hash.update(&header.bytes);
    sealer.seal_content(source, progress)?;
    let (tree_hash, source_hash) = sealer.finish();
    let manifest = manifest_draft(options, header, publisher, &tree_hash, &source_hash);
    let plain = signed_manifest(&draft, &manifest, publisher)?;
    let sealed = seal_manifest(&subkey(Part::Manifest)?, layout.manifest, &plain)?;
    let clear = draft.finish(layout.manifest, &tree::sha256(&[&sealed]));
    let digest = ClearHeader::parse(&clear)
        .map_err(|_| SealError::Crypto)?
        .digest();
    target.write_at(&clear, 0)?;
    target.write_at(&sealed, clear.len() as u64)?;
    target.publish(out)?;
    Ok(Sealed { id, digest, key })
}

fn manifest_draft<'a>(
    options: &'a SealOptions,
    source: &'a SourceHeader,
    publisher: &'a Publisher<'_>,
    tree_hash: &'a Hash,
    source_hash: &'a Hash,
) -> manifest::Draft<'a> {
    manifest::Draft {
        name: &options.name,
        version: &options.version,
        source_header: &source.bytes,
        content_len: source.content_len,
        tree_hash,
        source_hash,
        publisher: &publisher.public_key,
    }
}

fn check_options(options: &SealOptions) -> Result<(), SealError> {
    header::key_id(options.key_id.as_bytes()).ok_or(SealError::BadKeyId)?;
    manifest::text(options.name.as_bytes()).ok_or(SealError::BadText("name"))?;
    manifest::text(options.version.as_bytes()).ok_or(SealError::BadText("version"))?;
    Ok(())
}

/// Where everything will lie. Only the hashes in a manifest are unknown beforehand, and they have fixed lengths.
struct Layout {
    manifest: Cut,
    weights_offset: u64,
}

impl Layout {
    fn plan(
        draft: &header::Draft<'_>,
        options: &SealOptions,
        source: &SourceHeader,
        publisher: &Publisher<'_>,
    ) -> Result<Self, SealError> {
        let empty = manifest_draft(options, source, publisher, &[0; 32], &[0; 32]);
        let plain = manifest::finish(empty.signed_bytes(), &[0; 64]);
        let plain_len = plain.ok_or(SealError::TooLarge("header"))?.len() as u64;
        let manifest = Cut::of_plain(plain_len).ok_or(SealError::TooLarge("header"))?;
        let weights_offset = draft.header_len() as u64 + manifest.sealed_len();
        Ok(Self {
            manifest,
            weights_offset,
        })
    }
}

/// The manifest with the publisher's signature, which must verify before anything is published.
fn signed_manifest(
    draft: &header::Draft<'_>,
    manifest: &manifest::Draft<'_>,
    publisher: &Publisher<'_>,
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let signed = manifest.signed_bytes();
    let message = signature_message(&draft.signed_bytes(), &signed);
    let signature = (publisher.sign)(&message);
    check_signature(&publisher.public_key, &message, &signature).ok_or(SealError::BadSignature)?;
    manifest::finish(signed, &signature).ok_or(SealError::TooLarge("header"))
}

fn seal_manifest(key: &ChunkKey, cut: Cut, plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut sealed = Vec::with_capacity(cut.sealed_len() as usize);
    for (index, chunk) in (0..).zip(plain.chunks(CHUNK_LEN)) {
        let start = sealed.len();
        sealed.extend_from_slice(chunk);
        let chunk = sealed.get_mut(start..).unwrap_or_default();
        let tag = key
            .seal(index, cut.is_last(index), chunk)
            .map_err(|_| SealError::Crypto)?;
        sealed.extend_from_slice(tag.as_ref());
    }
    Ok(sealed)
}

/// Seals a content that streams by.
struct Sealer<'a> {
    file: &'a File,
    start: u64,
    cut: Cut,
    key: ChunkKey,
    source_hash: Context,
    leaves: Vec<Hash>,
}

impl<'a> Sealer<'a> {
    fn new(file: &'a File, start: u64, cut: Cut, key: ChunkKey) -> Self {
        let source_hash = Context::new(&SHA256);
        Self {
            file,
            start,
            cut,
            key,
            source_hash,
            leaves: Vec::new(),
        }
    }

    fn seal_content(
        &mut self,
        source: &mut impl Read,
        progress: &Progress<'_>,
    ) -> Result<(), SealError> {
        let mut buffer = Zeroizing::new(vec![0; BATCH_CHUNKS * CHUNK_LEN]);
        let mut left = self.cut.plain_len();
        let mut first = 0;
        while first < self.cut.chunks() {
            let size = left.min(buffer.len() as u64) as usize;
            let (batch, _) = buffer.split_at_mut(size);
            source
                .read_exact(batch)
                .map_err(|error| match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => SealError::SourceChanged,
                    _ => SealError::Source(error),
                })?;
            self.seal_batch(first, batch)?;
            progress(size as u64);
            left -= size as u64;
            first += BATCH_CHUNKS as u64;
        }
        match source.read(&mut [0]).map_err(SealError::Source)? {
            0 => Ok(()),
            _ => Err(SealError::SourceChanged),
        }
    }

    /// Hashes, seals and writes the chunks from `first` on.
    fn seal_batch(&mut self, first: u64, batch: &mut [u8]) -> Result<(), SealError> {
        let leaves = &mut self.leaves;
        let source_hash = &mut self.source_hash;
        let plain: &[u8] = batch;
        rayon::join(
            || source_hash.update(plain),
            || leaves.par_extend(plain.par_chunks(CHUNK_LEN).map(tree::leaf)),
        );
        if batch.is_empty() {
            leaves.push(tree::leaf(&[]));
            return self.seal_chunk(first, &mut []);
        }
        (batch.par_chunks_mut(CHUNK_LEN).enumerate())
            .try_for_each(|(index, chunk)| self.seal_chunk(first + index as u64, chunk))
    }

    fn seal_chunk(&self, index: u64, chunk: &mut [u8]) -> Result<(), SealError> {
        let last = self.cut.is_last(index);
        let tag = self
            .key
            .seal(index, last, chunk)
            .map_err(|_| SealError::Crypto)?;
        let at = self.start + Cut::sealed_offset(index);
        self.file
            .write_all_at(chunk, at)
            .map_err(SealError::Write)?;
        let tag: &[u8] = tag.as_ref();
        debug_assert_eq!(tag.len(), TAG_LEN);
        self.file
            .write_all_at(tag, at + chunk.len() as u64)
            .map_err(SealError::Write)
    }

    fn finish(self) -> (Hash, Hash) {
        (tree::root(self.leaves), tree::finish(self.source_hash))
    }
}

/// A temporary file beside the target; dropped unpublished, it is removed.
struct Target {
    file: tempfile::NamedTempFile,
    folder: std::path::PathBuf,
}

impl Target {
    fn create(out: &Path) -> Result<Self, SealError> {
        let folder = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => ".".into(),
        };
        // Sealed bytes are no secret: whoever serves the package reads it, as the umask allows.
        let file = tempfile::Builder::new()
            .prefix(".casemate-seal-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&folder)
            .map_err(SealError::Write)?;
        Ok(Self { file, folder })
    }

    fn file(&self) -> &File {
        self.file.as_file()
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), SealError> {
        self.file()
            .write_all_at(bytes, at)
            .map_err(SealError::Write)
    }

    /// Gives the complete file its name, unless something has that name already.
    fn publish(self, out: &Path) -> Result<(), SealError> {
        self.file().sync_all().map_err(SealError::Write)?;
        self.file
            .persist_noclobber(out)
            .map_err(|failed| match failed.error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    SealError::OutputExists(out.display().to_string())
                }
                _ => SealError::Write(failed.error),
            })?;
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| {
            // Not known to survive a power cut, so not done; the first error is the one to report.
            let _ = std::fs::remove_file(out);
            SealError::Write(error)
        })
    }
}
