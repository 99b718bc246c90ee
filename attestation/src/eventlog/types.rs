//! Event types, and which bytes each type's digest is over (PC Client PFP 1.05, 10.4.1; rule L4).
//!
//! A type is not measured: it only says which hash to try. What does not hash to the digest gives no claim, and where a
//! type promises that it does, the log is refused (rule L3). A type that is not in this table gives no claim at all.

pub(super) const NO_ACTION: u32 = 0x3;
pub(super) const SEPARATOR: u32 = 0x4;
pub(super) const ACTION: u32 = 0x5;
pub(super) const EVENT_TAG: u32 = 0x6;
pub(super) const CRTM_VERSION: u32 = 0x8;
pub(super) const IPL: u32 = 0xd;
pub(super) const EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
pub(super) const EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
pub(super) const EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
pub(super) const EFI_BOOT_SERVICES_DRIVER: u32 = 0x8000_0004;
pub(super) const EFI_RUNTIME_SERVICES_DRIVER: u32 = 0x8000_0005;
pub(super) const EFI_GPT_EVENT: u32 = 0x8000_0006;
pub(super) const EFI_ACTION: u32 = 0x8000_0007;
pub(super) const EFI_PLATFORM_FIRMWARE_BLOB: u32 = 0x8000_0008;
pub(super) const EFI_PLATFORM_FIRMWARE_BLOB2: u32 = 0x8000_000a;
pub(super) const EFI_VARIABLE_BOOT2: u32 = 0x8000_000c;
pub(super) const EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;

/// What a type's digest is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hashed {
    /// The event's data, always: anything else is an edited log.
    Data,
    /// The variable's value alone, or the event's data: firmware differs. Neither is an edited log.
    ValueOrData,
    /// The event's data with firmware that does as it should; with other firmware, something else.
    PerhapsData,
    /// The text behind a label, for a boot loader's commands; for anything else, bytes that are not in the log.
    Text,
    /// Bytes that are not in the log: an image, a blob, a file. The data is a label.
    Elsewhere,
    /// Not known.
    Unknown,
}

pub(super) const fn hashed(event_type: u32) -> Hashed {
    match event_type {
        SEPARATOR | ACTION | EFI_VARIABLE_DRIVER_CONFIG | EFI_GPT_EVENT | EFI_ACTION => {
            Hashed::Data
        }
        EFI_VARIABLE_BOOT | EFI_VARIABLE_BOOT2 => Hashed::ValueOrData,
        // Old versions of shim and of firmware hash the certificate without its owner.
        EFI_VARIABLE_AUTHORITY | CRTM_VERSION => Hashed::PerhapsData,
        IPL => Hashed::Text,
        EVENT_TAG
        | EFI_BOOT_SERVICES_APPLICATION
        | EFI_BOOT_SERVICES_DRIVER
        | EFI_RUNTIME_SERVICES_DRIVER
        | EFI_PLATFORM_FIRMWARE_BLOB
        | EFI_PLATFORM_FIRMWARE_BLOB2 => Hashed::Elsewhere,
        _ => Hashed::Unknown,
    }
}

/// Data of a separator: of a normal boot (either form), and after an error.
pub(super) const SEPARATORS: [([u8; 4], bool); 3] = [
    ([0, 0, 0, 0], false),
    ([0xff, 0xff, 0xff, 0xff], false),
    ([1, 0, 0, 0], true),
];
