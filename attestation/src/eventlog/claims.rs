//! What a confirmed log says, as typed claims (rules L3, L4): bytes that hash to a confirmed digest, in the register where
//! such bytes belong. Labels and types are not measured, and every claim says what it rests on.

use super::quoted::RegisterSource;
use super::rejection::LogRejection;
use super::replay::{Confirmed, ConfirmedLog, Register};
use super::types::{self, Hashed, SEPARATORS, hashed};
use super::variable::{
    GLOBAL, Variable, grub, image_path, is_partition_table, tagged, utf8, utf16,
};
use crate::digest::Sha256Digest;
use crate::tpm::Bank;
use crate::verdict::Basis;

const EXIT_INVOKED: &str = "Exit Boot Services Invocation";
const EXIT_SUCCEEDED: &str = "Exit Boot Services Returned with Success";

/// Who handed a command line to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// GRUB, in PCR 8.
    Grub,
    /// systemd-stub of a unified kernel image, in PCR 12.
    SystemdStub,
}

/// One thing that a log says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimValue {
    /// The firmware's version, as text.
    FirmwareVersion(String),
    /// Whether images had to be signed: the variable SecureBoot, measured before the separator.
    SecureBoot(bool),
    /// A variable of the secure boot configuration (PK, KEK, db, dbx, ...), measured before the separator.
    SecureBootVariable {
        /// Its name.
        name: String,
        /// SHA-256 of its value.
        value: Sha256Digest,
    },
    /// What vouched for an image: an entry of db, or shim's.
    Authority {
        /// The variable that held it.
        name: String,
        /// SHA-256 of the entry.
        value: Sha256Digest,
    },
    /// A boot option or the order of them. The name is a label.
    BootVariable {
        /// Its name.
        name: String,
        /// SHA-256 of its value.
        value: Sha256Digest,
    },
    /// The end of the firmware's own measurements into a register.
    Separator {
        /// Whether it marks an error.
        error: bool,
    },
    /// Something that the firmware says it did.
    Action(String),
    /// A partition table.
    PartitionTable(Sha256Digest),
    /// A loaded image, by the digest that was measured (Authenticode's). The path is a label.
    Image {
        /// The digest, in the bank confirmed.
        digest: Vec<u8>,
        /// Where it was loaded from.
        path: Option<String>,
    },
    /// A command of GRUB's configuration.
    GrubCommand(String),
    /// A command line for a kernel or a module.
    CommandLine {
        /// Who handed it over.
        loader: Loader,
        /// The text.
        text: String,
    },
    /// The name of a section of a unified kernel image, as systemd-stub measures it.
    UkiSection(String),
    /// Something measured by its digest alone: a file, a section, a list of keys, options, an initrd. The name is a label.
    Labelled {
        /// What the log calls it.
        label: String,
        /// The digest, in the bank confirmed.
        digest: Vec<u8>,
    },
}

/// A claim, where it stands and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The event's number in the log.
    pub event: usize,
    /// The register.
    pub register: Register,
    /// What it rests on.
    pub basis: Basis,
    /// What it says.
    pub value: ClaimValue,
}

/// Everything that a confirmed log says. [`ConfirmedLog::claims`] is its only constructor.
#[derive(Debug, Clone)]
pub struct Claims {
    claims: Vec<Claim>,
}

impl Claims {
    /// All of them, in the order of the log.
    #[must_use]
    pub fn all(&self) -> &[Claim] {
        &self.claims
    }

    /// Whether secure boot was on; `None` where the log does not show it. Only good with [`Basis::HardwareProven`].
    #[must_use]
    pub fn secure_boot(&self) -> Option<(bool, Basis)> {
        self.claims.iter().find_map(|claim| match claim.value {
            ClaimValue::SecureBoot(on) => Some((on, claim.basis)),
            _ => None,
        })
    }

    /// Command lines of kernels and modules, in order.
    pub fn command_lines(&self) -> impl Iterator<Item = (&str, Basis)> {
        self.claims.iter().filter_map(|claim| match &claim.value {
            ClaimValue::CommandLine { text, .. } => Some((text.as_str(), claim.basis)),
            _ => None,
        })
    }

    /// Digests of loaded images, in order.
    pub fn images(&self) -> impl Iterator<Item = (&[u8], Basis)> {
        self.claims.iter().filter_map(|claim| match &claim.value {
            ClaimValue::Image { digest, .. } => Some((digest.as_slice(), claim.basis)),
            _ => None,
        })
    }

    /// Whether the firmware left: exit from boot services was asked for, and succeeded after that.
    #[must_use]
    pub fn left_boot_services(&self) -> Option<Basis> {
        let says = |claim: &Claim, text: &str| matches!(&claim.value, ClaimValue::Action(found) if found == text);
        let asked = self
            .claims
            .iter()
            .rposition(|claim| says(claim, EXIT_INVOKED))?;
        let mut since = self.claims.iter().skip(asked);
        let left = since.rfind(|claim| says(claim, EXIT_SUCCEEDED))?;
        Some(left.basis)
    }
}

impl ConfirmedLog<'_> {
    /// What the log says (rules L3, L4).
    ///
    /// # Errors
    /// The variants of [`LogRejection`] that belong to L3: an edited log.
    pub fn claims(&self) -> Result<Claims, LogRejection> {
        let judge = Judge {
            bank: self.bank(),
            // What collides, and what the host could have written itself, proves nothing.
            proven: match self.source() {
                RegisterSource::Tdx => self.bank() != Bank::Sha1,
                RegisterSource::Tpm(at) => self.bank() != Bank::Sha1 && !at.host_could_lie(),
                RegisterSource::Unsigned => false,
            },
        };
        let mut claims: Vec<Claim> = Vec::new();
        // Registers whose configuration has ended, and by what.
        let mut separated: Vec<(Register, Mark)> = Vec::new();
        for event in self.events() {
            if let Some(mark) = judge.separates(&event)? {
                separated.push((event.register, mark));
            }
            let early = !separated
                .iter()
                .any(|(register, _)| *register == event.register);
            if let Some((basis, value)) = judge.claim(&event, early)? {
                let again = matches!(value, ClaimValue::SecureBoot(_))
                    && claims
                        .iter()
                        .any(|c| matches!(c.value, ClaimValue::SecureBoot(_)));
                if again {
                    return Err(LogRejection::SecureBootTwice(event.number));
                }
                let basis = if judge.proven { basis } else { Basis::Asserted };
                claims.push(Claim {
                    event: event.number,
                    register: event.register,
                    basis,
                    value,
                });
            }
        }
        // A configuration that no separator closes, or one that marks an error, is not the one that was booted with.
        claims.retain(|claim| {
            let mut marks = separated.iter();
            let first = marks.find(|(register, _)| *register == claim.register);
            !claim.value.needs_separator() || first.is_some_and(|(_, mark)| *mark == Mark::Good)
        });
        Ok(Claims { claims })
    }
}

impl ClaimValue {
    const fn needs_separator(&self) -> bool {
        matches!(self, Self::SecureBoot(_) | Self::SecureBootVariable { .. })
    }
}

/// What ended a register's configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// The separator of a normal boot.
    Good,
    /// The separator after an error.
    Error,
    /// A boot option's value with a separator's bytes: it ends nothing, and what comes after it is not trusted as before.
    Alike,
}

/// Looks at events of one bank.
struct Judge {
    bank: Bank,
    proven: bool,
}

type Found = Option<(Basis, ClaimValue)>;

impl Judge {
    fn hashes(&self, event: &Confirmed<'_>, bytes: &[u8]) -> bool {
        self.bank.digest(bytes) == event.digest
    }

    /// Whether an event ends a register's configuration, by its digest; refuses where the type says otherwise.
    fn separates(&self, event: &Confirmed<'_>) -> Result<Option<Mark>, LogRejection> {
        // Others than the firmware have separators of their own, such as Windows in PCR 12 and above.
        if !belongs(event.register, Part::Firmware) {
            return Ok(None);
        }
        let mut known = SEPARATORS.iter();
        let is = known.find(|(data, _)| self.hashes(event, data));
        let (data, event_type) = (event.event.data.as_slice(), event.event.event_type);
        if event_type == types::SEPARATOR {
            let error = match is {
                Some((known, error)) if known == data => *error,
                _ => return Err(LogRejection::SeparatorDigest(event.number)),
            };
            return Ok(Some(if error { Mark::Error } else { Mark::Good }));
        }
        let Some((known, _)) = is else {
            return Ok(None);
        };
        // An order of boot options of which the first two are number 0 has the same bytes, and firmware hashes them alone.
        let boot = hashed(event_type) == Hashed::ValueOrData
            && belongs(event.register, Part::BootOptions)
            && Variable::parse(data).is_some_and(|variable| variable.value == known);
        if boot {
            return Ok(Some(Mark::Alike));
        }
        let event = event.number;
        Err(LogRejection::SeparatorType { event, event_type })
    }

    fn claim(&self, event: &Confirmed<'_>, early: bool) -> Result<Found, LogRejection> {
        let (data, event_type) = (event.event.data.as_slice(), event.event.event_type);
        let edited = || LogRejection::DataNotDigest {
            event: event.number,
            event_type,
        };
        let whole = self.hashes(event, data);
        Ok(match hashed(event_type) {
            Hashed::Unknown => None,
            Hashed::Data if whole => self_described(event, early),
            Hashed::Data => return Err(edited()),
            Hashed::ValueOrData => {
                let value = Variable::parse(data).ok_or_else(edited)?;
                if !whole && !self.hashes(event, value.value) {
                    return Err(edited());
                }
                boot_variable(event.register, &value)
            }
            Hashed::PerhapsData if whole => perhaps(event),
            Hashed::PerhapsData => None,
            Hashed::Text => match grub(data) {
                Some((_, text)) if !self.hashes(event, text) => return Err(edited()),
                Some((label, text)) => grub_text(event.register, label, text),
                None => self.boot_text(event, whole),
            },
            Hashed::Elsewhere => elsewhere(event),
        })
    }

    /// A boot loader's text or label without a prefix of GRUB's.
    fn boot_text(&self, event: &Confirmed<'_>, whole: bool) -> Found {
        let data = event.event.data.as_slice();
        if whole && belongs(event.register, Part::StubCommandLine) {
            let (loader, text) = (Loader::SystemdStub, utf16(data)?);
            return Some((Basis::Derived, ClaimValue::CommandLine { loader, text }));
        }
        let label = utf16(data).filter(|text| text.is_ascii());
        let label = label.or_else(|| utf8(data))?;
        if belongs(event.register, Part::Uki) && self.hashes(event, &terminated(&label)) {
            return Some((Basis::HardwareProven, ClaimValue::UkiSection(label)));
        }
        labelled(event, label)
    }
}

/// The register's parts that matter here. A trust domain has one register for several PCRs (UEFI confidential computing
/// protocol: PCR 1 and 7 in RTMR 0, PCR 2 to 6 in RTMR 1, PCR 8 to 15 in RTMR 2).
#[derive(Clone, Copy)]
enum Part {
    Firmware,
    FirmwareVersion,
    SecureBoot,
    Images,
    Partitions,
    BootOptions,
    GrubText,
    Uki,
    StubCommandLine,
}

const fn belongs(register: Register, part: Part) -> bool {
    matches!(
        (part, register),
        (Part::Firmware, Register::Pcr(0..=7) | Register::Rtmr(0 | 1))
            | (Part::FirmwareVersion, Register::Pcr(0) | Register::Rtmr(0))
            | (Part::SecureBoot, Register::Pcr(7) | Register::Rtmr(0))
            | (Part::Images, Register::Pcr(2 | 4) | Register::Rtmr(1))
            | (Part::Partitions, Register::Pcr(5) | Register::Rtmr(1))
            | (Part::BootOptions, Register::Pcr(1) | Register::Rtmr(0))
            | (Part::GrubText, Register::Pcr(8) | Register::Rtmr(2))
            | (Part::Uki, Register::Pcr(11) | Register::Rtmr(2))
            | (Part::StubCommandLine, Register::Pcr(12) | Register::Rtmr(2))
    )
}

/// Events whose data hashes to the digest and says itself what it is.
fn self_described(event: &Confirmed<'_>, early: bool) -> Found {
    let data = event.event.data.as_slice();
    let value = match event.event.event_type {
        types::SEPARATOR if belongs(event.register, Part::Firmware) => ClaimValue::Separator {
            error: SEPARATORS
                .iter()
                .any(|(known, error)| *error && data == known),
        },
        // Any of these types can be written over another: the data must say itself what it is.
        types::EFI_GPT_EVENT
            if belongs(event.register, Part::Partitions) && is_partition_table(data) =>
        {
            ClaimValue::PartitionTable(Sha256Digest::of(data))
        }
        types::ACTION | types::EFI_ACTION if belongs(event.register, Part::Firmware) => {
            ClaimValue::Action(utf8(data)?)
        }
        // Behind the separator others than the firmware measure too, and could imitate it.
        types::EFI_VARIABLE_DRIVER_CONFIG if early => return secure_boot_variable(event),
        _ => return None,
    };
    Some((Basis::HardwareProven, value))
}

fn secure_boot_variable(event: &Confirmed<'_>) -> Found {
    if !belongs(event.register, Part::SecureBoot) {
        return None;
    }
    let variable = Variable::parse(&event.event.data)?;
    let name = variable.name()?;
    let basis = said_itself(variable.is_configuration());
    let value = if name == "SecureBoot" && variable.vendor == GLOBAL {
        ClaimValue::SecureBoot(variable.value == [1])
    } else {
        let value = Sha256Digest::of(variable.value);
        ClaimValue::SecureBootVariable { name, value }
    };
    Some((basis, value))
}

/// What a variable is worth: proven where its own bytes say what kind it is, and derived where only the event's type does.
const fn said_itself(clear: bool) -> Basis {
    if clear {
        Basis::HardwareProven
    } else {
        Basis::Derived
    }
}

/// Types whose data hashes to the digest with most firmware, and here does.
fn perhaps(event: &Confirmed<'_>) -> Found {
    let data = event.event.data.as_slice();
    if event.event.event_type == types::CRTM_VERSION {
        let text = belongs(event.register, Part::FirmwareVersion).then(|| utf16(data))??;
        return Some((Basis::Derived, ClaimValue::FirmwareVersion(text)));
    }
    let variable = Variable::parse(data).filter(|_| belongs(event.register, Part::SecureBoot))?;
    let (name, value) = (variable.name()?, Sha256Digest::of(variable.value));
    let basis = said_itself(variable.is_authority());
    Some((basis, ClaimValue::Authority { name, value }))
}

/// A boot option, whose name is a label where the value alone was hashed.
fn boot_variable(register: Register, variable: &Variable<'_>) -> Found {
    if !belongs(register, Part::BootOptions) {
        return None;
    }
    let (name, value) = (variable.name()?, Sha256Digest::of(variable.value));
    Some((Basis::Derived, ClaimValue::BootVariable { name, value }))
}

/// The text was hashed, the label before it was not: which of GRUB's texts it is stays a label.
fn grub_text(register: Register, label: &[u8], text: &[u8]) -> Found {
    let text = utf8(text).filter(|_| belongs(register, Part::GrubText))?;
    let value = if label == b"grub_cmd: " {
        ClaimValue::GrubCommand(text)
    } else {
        let loader = Loader::Grub;
        ClaimValue::CommandLine { loader, text }
    };
    Some((Basis::Derived, value))
}

/// Events whose digest is over bytes that the log does not have.
fn elsewhere(event: &Confirmed<'_>) -> Found {
    let data = event.event.data.as_slice();
    match event.event.event_type {
        types::EVENT_TAG => labelled(event, tagged(data)?.1),
        types::EFI_BOOT_SERVICES_APPLICATION
        | types::EFI_BOOT_SERVICES_DRIVER
        | types::EFI_RUNTIME_SERVICES_DRIVER => belongs(event.register, Part::Images).then(|| {
            let (digest, path) = (event.digest.to_vec(), image_path(data));
            (Basis::Derived, ClaimValue::Image { digest, path })
        }),
        _ => None,
    }
}

fn labelled(event: &Confirmed<'_>, label: String) -> Found {
    let digest = event.digest.to_vec();
    Some((Basis::Asserted, ClaimValue::Labelled { label, digest }))
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}
