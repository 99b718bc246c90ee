//! Why an image is not built.

/// What an input lacks, or what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A line of the pin file is not a digest and a name.
    #[error(
        "line {0} of the pins is not SHA-256 in lower-case hexadecimal, two spaces and a file name"
    )]
    PinLine(usize),
    /// A name is pinned twice.
    #[error("the pins name {0:?} twice")]
    PinnedTwice(String),
    /// A file that the pins do not name.
    #[error("the pins do not name {0:?}: an image is made of pinned inputs alone")]
    NotPinned(String),
    /// A file that is not the pinned one.
    #[error("{name:?} is not the pinned file: its SHA-256 is {found}, the pins say {pinned}")]
    OtherThanPinned {
        /// The file's name.
        name: String,
        /// Its digest.
        found: String,
        /// The digest that is pinned.
        pinned: String,
    },
    /// Not a Debian package, or a damaged one.
    #[error("not a Debian package: {0}")]
    Package(String),
    /// Contents that are longer than any input.
    #[error("{0} unpacks to more than {1} bytes")]
    TooLong(&'static str, u64),
    /// The packages hold no kernel, or more than one.
    #[error(
        "the packages hold {0} kernels (boot/vmlinuz-VERSION or usr/lib/modules/VERSION/vmlinuz): one is needed"
    )]
    Kernels(usize),
    /// A kernel without what SEV-SNP and TDX guests need.
    #[error(
        "kernel {0} is older than 6.12, the first whose packages have the drivers of SEV-SNP and TDX guests"
    )]
    KernelTooOld(String),
    /// A module that the guest needs is neither in the packages nor in the kernel.
    #[error("kernel {kernel} has no module {module:?}{needed_by}")]
    ModuleMissing {
        /// The kernel's version.
        kernel: String,
        /// The module's name.
        module: String,
        /// Empty, or the module that needs it.
        needed_by: String,
    },
    /// Modules that need each other.
    #[error("module {0:?} needs itself by way of others")]
    ModuleCycle(String),
    /// A module that is not what its place says.
    #[error("module {module:?}: {what}")]
    Module {
        /// The module's name.
        module: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The program cannot be the first process.
    #[error("the program cannot be the first process of the guest: {0}")]
    Program(&'static str),
    /// A line of the list of crates is none.
    #[error(
        "line {0} of the list of crates is not what scripts/build-guest writes: role, name, version, SHA-256 or own, licence"
    )]
    CratesLine(usize),
    /// A list of crates that was written for another program.
    #[error("the list of crates is of the program {named}, and this one is {found}")]
    CratesOfOther {
        /// The program's digest.
        found: String,
        /// The digest that the list names.
        named: String,
    },
    /// The configuration of the guest is not what its format says.
    #[error("the guest's configuration: {0}")]
    Configuration(String),
    /// A public file that the configuration names is not there, or is not one.
    #[error("trust/{name}: {what}")]
    Trust {
        /// The file's name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A name in the initrd that is empty, absolute, double or too long.
    #[error("{0:?} cannot be a name in the initrd")]
    Name(String),
    /// The boot stub cannot carry a kernel.
    #[error("the boot stub cannot be used: {0}")]
    Stub(&'static str),
    /// The stub's release is one whose measurements are not known.
    #[error("the boot stub says {0:?}: measurements are known of systemd-stub 252, 257 and 262")]
    StubRelease(String),
    /// Firmware of a release whose load options are not known.
    #[error(
        "firmware of edk2 {0} is not known: load options are known of 2022.11, 2025.02 and 2026.08"
    )]
    FirmwareRelease(String),
    /// A measurement cannot be predicted.
    #[error(transparent)]
    Measure(#[from] casemate_measure::MeasureError),
}
