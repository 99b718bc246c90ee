//! What firmware, boot loader stub and kernel measure on the two ways in which our image is booted, as TPM registers 4, 8, 9,
//! 11, 12 and as TDX registers 1 and 2.
//!
//! Sources: TCG PC Client Platform Firmware Profile 1.06 §3.3.4; systemd.io/TPM2_PCR_MEASUREMENTS; the kernel's EFI stub, which
//! measures load options and initrd into register 9.

use crate::MeasureError;
use crate::pe::PeImage;
use crate::registers::{Hash, Register};

const STARTS: &[u8] = b"Calling EFI Application from Boot Option";
const LEAVES: [&[u8]; 2] = [
    b"Exit Boot Services Invocation",
    b"Exit Boot Services Returned with Success",
];
const SEPARATOR: [u8; 4] = [0; 4];
/// Longest command line of the x86 kernel.
const COMMAND_LINE_MAX: usize = 2047;

/// How firmware passes the initrd of a direct boot in the kernel's load options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadOptions {
    /// `<command line> initrd=initrd`: seen with OVMF 2022.11 and 2025.02.
    InitrdLast,
    /// `initrd=initrd <command line>`: seen with OVMF 2026.08.
    InitrdFirst,
}

/// systemd's stub in a unified kernel image; releases differ in what they measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stub {
    /// 252 (Debian 12): the kernel inside is measured as an image of its own; `.sbat` is not.
    V252,
    /// 257 (Debian 13): both are.
    V257,
    /// 262: `.sbat` is, the kernel inside is not.
    V262,
}

impl Stub {
    const fn measures_inner_kernel(self) -> bool {
        matches!(self, Self::V252 | Self::V257)
    }

    const fn measures_sbat(self) -> bool {
        matches!(self, Self::V257 | Self::V262)
    }
}

/// A direct boot: kernel, initrd and command line as QEMU is given them.
#[derive(Debug, Clone, Copy)]
pub struct DirectBoot<'a> {
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The initrd's file.
    pub initrd: &'a [u8],
    /// As given to `-append`.
    pub command_line: &'a str,
    /// What firmware makes of it.
    pub load_options: LoadOptions,
}

/// TPM registers, by number.
pub type Registers = std::collections::BTreeMap<u8, Vec<u8>>;

impl DirectBoot<'_> {
    /// TPM registers 4, 8, 9, 11 and 12, with QEMU 10 or newer, which hands firmware the kernel's file as it is.
    ///
    /// # Errors
    /// A kernel that is no PE image, or a command line that would be changed.
    pub fn registers(&self, hash: Hash) -> Result<Registers, MeasureError> {
        let kernel = PeImage::read(self.kernel)?.authenticode(hash)?;
        let loaded = [kernel, hash.of(STARTS), hash.of(&SEPARATOR)];
        Ok(registers(hash, &loaded, &self.kernel_events(hash)?, &[]))
    }

    /// TDX registers 1 and 2 (RTMR1, RTMR2).
    ///
    /// # Errors
    /// As [`DirectBoot::registers`].
    pub fn runtime_registers(&self) -> Result<[Vec<u8>; 2], MeasureError> {
        let hash = Hash::Sha384;
        let kernel = PeImage::read(self.kernel)?.authenticode(hash)?;
        let [invoked, returned] = LEAVES.map(|action| hash.of(action));
        let first = [
            kernel,
            hash.of(STARTS),
            hash.of(&SEPARATOR),
            invoked,
            returned,
        ];
        Ok([fold(hash, &first), fold(hash, &self.kernel_events(hash)?)])
    }

    fn kernel_events(&self, hash: Hash) -> Result<[Vec<u8>; 2], MeasureError> {
        let line = checked(self.command_line)?;
        let options = match self.load_options {
            LoadOptions::InitrdLast => format!("{line} initrd=initrd"),
            LoadOptions::InitrdFirst => format!("initrd=initrd {line}"),
        };
        Ok([hash.of(&utf16(&options)), hash.of(self.initrd)])
    }
}

/// Sections that the stub measures, in its order.
const MEASURED: [&str; 4] = [".linux", ".cmdline", ".initrd", ".uname"];
/// Sections that change what else is measured: the stub turns them into files for the initrd, or chooses by them.
const UNEXPECTED: [&str; 10] = [
    ".osrel", ".ucode", ".splash", ".dtb", ".pcrsig", ".pcrpkey", ".profile", ".dtbauto", ".hwids",
    ".efifw",
];

/// TPM registers 4, 8, 9, 11 and 12 after firmware started a unified kernel image with systemd's stub and nothing was passed to
/// it, before any boot phase of systemd's.
///
/// # Errors
/// An image that is not one, or that has sections which are not predicted.
pub fn unified_registers(image: &[u8], stub: Stub, hash: Hash) -> Result<Registers, MeasureError> {
    let pe = PeImage::read(image)?;
    let sections = pe.sections()?;
    let find = |name: &str| sections.iter().find(|section| section.name == name);
    if let Some(other) = UNEXPECTED.into_iter().find(|name| find(name).is_some()) {
        return Err(MeasureError::UnexpectedSection(other.into()));
    }
    if stub == Stub::V252 && find(".uname").is_some() {
        return Err(MeasureError::UnexpectedSection(".uname".into()));
    }
    let needed = |name| find(name).ok_or(MeasureError::MissingSection(name));
    let (kernel, initrd) = (needed(".linux")?.data, needed(".initrd")?.data);
    let line = str::from_utf8(needed(".cmdline")?.data);
    let line = checked(line.map_err(|_| MeasureError::CommandLine)?)?;

    let mut loaded = vec![hash.of(STARTS), hash.of(&SEPARATOR), pe.authenticode(hash)?];
    if stub.measures_inner_kernel() {
        loaded.push(PeImage::read(kernel)?.authenticode(hash)?);
    }
    let sbat = stub.measures_sbat().then_some(".sbat");
    let measured = MEASURED.into_iter().chain(sbat).filter_map(find);
    let measured: Vec<_> = measured.collect();
    if measured.iter().any(|it| it.data.len() != it.size_in_memory) {
        return Err(MeasureError::Pe(
            "a measured section is longer in memory than in the file",
        ));
    }
    let measured = measured.iter().map(|it| (it.name, it.data));
    let kernel_events = [hash.of(&utf16(line)), hash.of(initrd)];
    let stub_events = section_events(measured, hash);
    Ok(registers(hash, &loaded, &kernel_events, &stub_events))
}

/// Events of register 11: for each section its name with a zero byte, then its contents.
pub fn section_events<'a>(
    sections: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    hash: Hash,
) -> Vec<Vec<u8>> {
    let events = |(name, data): (&str, &[u8])| {
        let name = [name.as_bytes(), b"\0"].concat();
        [hash.of(&name), hash.of(data)]
    };
    sections.into_iter().flat_map(events).collect()
}

/// A register after `events`.
#[must_use]
pub fn fold(hash: Hash, events: &[Vec<u8>]) -> Vec<u8> {
    let events = events.iter().map(Vec::as_slice);
    Register::after(hash, events).value().to_vec()
}

/// Register 8 belongs to GRUB and 12 to what is passed to the stub from outside: both must stay zero.
fn registers(
    hash: Hash,
    loaded: &[Vec<u8>],
    kernel_events: &[Vec<u8>],
    stub_events: &[Vec<u8>],
) -> Registers {
    let events: [(u8, &[Vec<u8>]); 5] = [
        (4, loaded),
        (8, &[]),
        (9, kernel_events),
        (11, stub_events),
        (12, &[]),
    ];
    let value = |(number, events): (u8, &[Vec<u8>])| (number, fold(hash, events));
    events.into_iter().map(value).collect()
}

/// A command line that reaches the kernel as it is.
fn checked(line: &str) -> Result<&str, MeasureError> {
    let plain = line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let fits = line.len() <= COMMAND_LINE_MAX;
    (plain && fits)
        .then_some(line)
        .ok_or(MeasureError::CommandLine)
}

/// UTF-16, little-endian, with a zero at its end.
fn utf16(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]);
    units.flat_map(u16::to_le_bytes).collect()
}
