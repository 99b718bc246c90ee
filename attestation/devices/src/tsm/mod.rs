//! Linux's common interface to guests' security processors: configfs-tsm (kernel documentation, ABI/testing/configfs-tsm-report).
//!
//! One folder is one request. The kernel counts every write to it: a report counts as ours only if, when it had been read, nobody
//! but us had written. The folder is removed whatever happens.

mod certificates;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::DeviceError;
use crate::files::Files;

pub use certificates::{CERTIFICATES_MAX, CertificateKind, CertificateTable, TableError};

/// Where the kernel mounts it.
pub const REPORTS: &str = "/sys/kernel/config/tsm/report";
/// Longest report or table that is read: the kernel's own bound (TSM_REPORT_OUTBLOB_MAX) was 32 KiB, and is 16 MiB for tables
/// that no machine has.
pub const BLOB_BYTES_MAX: usize = 64 * 1024;

const DEVICE: &str = "configfs-tsm";
const NUMBER_BYTES_MAX: usize = 64;
const SNP_REPORT_BYTES: usize = 1184;

/// Counts our entries: two threads of one process never choose the same name.
static ENTRIES: AtomicU64 = AtomicU64::new(0);

/// Who answers behind the interface. The names are the kernel drivers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TsmProvider {
    /// AMD SEV-SNP: an attestation report, with the host's table of certificates beside it.
    SevGuest,
    /// Intel TDX: a quote.
    TdxGuest,
}

impl TsmProvider {
    /// The kernel's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SevGuest => "sev_guest",
            Self::TdxGuest => "tdx_guest",
        }
    }

    fn of(text: &[u8]) -> Option<Self> {
        [Self::SevGuest, Self::TdxGuest]
            .into_iter()
            .find(|it| it.as_str().as_bytes() == text.trim_ascii())
    }
}

/// What one request gave. Bytes of the device and of the host: nothing of it was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TsmReport {
    /// Who made it.
    pub provider: TsmProvider,
    /// An attestation report of 1184 bytes, or a quote as the driver gave it: zeros may follow it.
    pub report: Vec<u8>,
    /// The host's certificates, raw; empty when there are none.
    pub certificates: Vec<u8>,
}

impl TsmReport {
    /// The table of certificates beside an SNP report.
    ///
    /// # Errors
    /// [`DeviceError::Malformed`].
    pub fn certificate_table(&self) -> Result<CertificateTable, DeviceError> {
        CertificateTable::parse(&self.certificates).map_err(|error| DeviceError::Malformed {
            device: DEVICE,
            what: error.what(),
        })
    }
}

/// The interface, at the place where the kernel mounts it.
#[derive(Debug, Clone)]
pub struct Tsm<F> {
    files: F,
    reports: PathBuf,
}

impl<F: Files> Tsm<F> {
    /// At [`REPORTS`].
    pub fn new(files: F) -> Self {
        Self::at(files, Path::new(REPORTS))
    }

    /// At another place, as a test or a container has it.
    pub fn at(files: F, reports: &Path) -> Self {
        let reports = reports.to_owned();
        Self { files, reports }
    }

    /// Whether the kernel has it.
    pub fn is_there(&self) -> bool {
        self.files.is_there(&self.reports)
    }

    /// One report over `data`, from privilege level `level` where that applies (SEV-SNP: 0 to 3) and the driver's own otherwise.
    ///
    /// # Errors
    /// [`DeviceError`]; busy when another request is before ours, [`DeviceError::NotOurs`] when somebody wrote to our entry.
    pub fn report(&self, data: &[u8; 64], level: Option<u8>) -> Result<TsmReport, DeviceError> {
        let entry = Entry::make(&self.files, &self.reports)?;
        let provider = entry.provider()?;
        let before = entry.generation()?;
        entry.write("inblob", data)?;
        let mut writes = 1_u64;
        if let (Some(level), TsmProvider::SevGuest) = (level, provider) {
            entry.write("privlevel", level.to_string().as_bytes())?;
            writes = 2;
        }
        let ours = before
            .checked_add(writes)
            .ok_or_else(|| malformed("its generation is beyond 64 bits"))?;
        entry.must_be_at(ours)?;
        let report = entry.read("outblob", BLOB_BYTES_MAX)?;
        let certificates = match provider {
            TsmProvider::SevGuest => entry.read_if_there("auxblob", BLOB_BYTES_MAX)?,
            TsmProvider::TdxGuest => Vec::new(),
        };
        entry.must_be_at(ours)?;
        if entry.provider()? != provider {
            return Err(not_ours("another driver took the request over"));
        }
        let report = well_formed(provider, report, data)?;
        Ok(TsmReport {
            provider,
            report,
            certificates,
        })
    }
}

/// Length, and that the report is over our data: an answer to another request is not handed on, whatever the counters say.
fn well_formed(
    provider: TsmProvider,
    report: Vec<u8>,
    data: &[u8; 64],
) -> Result<Vec<u8>, DeviceError> {
    let signed = match provider {
        TsmProvider::SevGuest if report.len() != SNP_REPORT_BYTES => {
            return Err(malformed("the attestation report has not 1184 bytes"));
        }
        TsmProvider::SevGuest => report.get(0x50..0x90),
        TsmProvider::TdxGuest => crate::tdx::report_data(&report),
    };
    match signed {
        None => Err(malformed("the quote ends before its report data")),
        Some(signed) if signed == data => Ok(report),
        Some(_) => Err(not_ours("the report is over other data")),
    }
}

/// A request's folder; removed when dropped.
struct Entry<'f, F: Files> {
    files: &'f F,
    path: PathBuf,
}

impl<'f, F: Files> Entry<'f, F> {
    fn make(files: &'f F, reports: &Path) -> Result<Self, DeviceError> {
        let number = ENTRIES.fetch_add(1, Ordering::Relaxed);
        let path = reports.join(format!("casemate-{}-{number}", std::process::id()));
        match files.make_folder(&path) {
            Ok(()) => Ok(Self { files, path }),
            // Left over by a process of our number that was killed: the next name is free.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(DeviceError::Busy { device: DEVICE })
            }
            Err(error) => Err(DeviceError::of_system(DEVICE, &error)),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DeviceError> {
        self.files
            .write(&self.path.join(name), bytes)
            .map_err(|error| gone_or(&error))
    }

    fn read(&self, name: &str, most: usize) -> Result<Vec<u8>, DeviceError> {
        self.files
            .read(&self.path.join(name), most)
            .map_err(|error| match error.kind() {
                io::ErrorKind::FileTooLarge => malformed("it is longer than 64 KiB"),
                _ => gone_or(&error),
            })
    }

    /// Drivers without the attribute, and hosts without certificates, have nothing there.
    fn read_if_there(&self, name: &str, most: usize) -> Result<Vec<u8>, DeviceError> {
        if self.files.is_there(&self.path.join(name)) {
            self.read(name, most)
        } else {
            Ok(Vec::new())
        }
    }

    fn provider(&self) -> Result<TsmProvider, DeviceError> {
        let text = self.read("provider", NUMBER_BYTES_MAX)?;
        TsmProvider::of(&text).ok_or_else(|| DeviceError::Unavailable {
            device: DEVICE,
            why: "its driver is neither sev_guest nor tdx_guest".into(),
        })
    }

    fn generation(&self) -> Result<u64, DeviceError> {
        let text = self.read("generation", NUMBER_BYTES_MAX)?;
        std::str::from_utf8(text.trim_ascii())
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| malformed("its generation is not a number"))
    }

    fn must_be_at(&self, expected: u64) -> Result<(), DeviceError> {
        if self.generation()? == expected {
            Ok(())
        } else {
            Err(not_ours("somebody else wrote to the entry meanwhile"))
        }
    }
}

impl<F: Files> Drop for Entry<'_, F> {
    fn drop(&mut self) {
        // Somebody may have removed it before us. What stays behind is an empty entry that no later request uses.
        let _ = self.files.remove_folder(&self.path);
    }
}

/// Within an entry that we made, "not found" is no missing device: the entry was taken away under us.
fn gone_or(error: &io::Error) -> DeviceError {
    if error.kind() == io::ErrorKind::NotFound {
        not_ours("the entry was removed under us")
    } else {
        DeviceError::of_system(DEVICE, error)
    }
}

const fn malformed(what: &'static str) -> DeviceError {
    DeviceError::Malformed {
        device: DEVICE,
        what,
    }
}

const fn not_ours(what: &'static str) -> DeviceError {
    DeviceError::NotOurs {
        device: DEVICE,
        what,
    }
}
