//! Why a measurement cannot be predicted from the files given.

/// What a file lacks, or what was asked that no machine does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// The firmware is empty, larger than 64 MiB or no whole number of pages.
    #[error(
        "firmware of {0} bytes is no image for a guest: a whole number of 4096-byte pages is expected, 64 MiB at most"
    )]
    FirmwareSize(usize),
    /// The firmware has no table of GUIDs before its reset vector.
    #[error(
        "the firmware has no GUID table 32 bytes before its end: it is no OVMF built for guests"
    )]
    NoGuidTable,
    /// A table or section points outside of the firmware, or its length is wrong.
    #[error("the firmware's {0} is cut off or overlaps its end")]
    FirmwareCut(&'static str),
    /// The firmware was built without what the platform needs.
    #[error("the firmware has no {0}: use one that was built for this platform")]
    FirmwareLacks(&'static str),
    /// A section of the firmware's metadata has a type, place or size that is not known.
    #[error(
        "the firmware's metadata has a section that is not known: type {kind:#x}, address {at:#x}, {size} bytes"
    )]
    Section {
        /// Its type as the firmware gives it.
        kind: u32,
        /// Address in guest memory.
        at: u64,
        /// Bytes.
        size: u64,
    },
    /// A kernel was given, but the firmware would not check it.
    #[error(
        "the firmware has no section for kernel hashes, so that a kernel, initrd and command line would not be measured: use OVMF.amdsev.fd"
    )]
    NoKernelHashes,
    /// The number of processors is zero or beyond what QEMU starts.
    #[error("{0} processors cannot be launched: 1 to 4096 can")]
    Processors(u32),
    /// The guest features lack the bit that says SNP.
    #[error("guest features {0:#x} lack bit 0 (SNP active), without which no SNP guest starts")]
    Features(u64),
    /// The processor model is not one of QEMU's.
    #[error(
        "there is no processor model {0:?}: models are EPYC, EPYC-v4, EPYC-Rome, EPYC-Milan, EPYC-Genoa, EPYC-Turin and their versions"
    )]
    Model(String),
    /// The file is not a PE image, or is cut off.
    #[error("not a PE image for UEFI: {0}")]
    Pe(&'static str),
    /// A section of a unified kernel image would change what else is measured.
    #[error(
        "the unified kernel image has a section {0:?}, which this boot path does not predict: build it without"
    )]
    UnexpectedSection(String),
    /// A unified kernel image lacks a section.
    #[error("the unified kernel image has no section {0:?}")]
    MissingSection(&'static str),
    /// A command line that the loader would cut or change.
    #[error("the command line must be one line of ASCII without NUL, 2047 bytes at most")]
    CommandLine,
}
