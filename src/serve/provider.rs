//! What vouches for this machine, by configuration.

use std::path::Path;
use std::sync::Arc;

use casemate_attestation::tpm::Bank;
use casemate_attestation::{EvidenceProvider, Platform, ReleasePublicKey, UnixTime};
use casemate_client::config::OwnSection;
use casemate_devices::files::SystemFiles;
use casemate_devices::sev_guest::SevDevice;
use casemate_devices::tpm::{self, Attester, DeviceFile, KeyKind, Measured, Tpm, Transport};
use casemate_devices::{
    Collateral, CollateralFolder, DeviceError, Machine, Retry, SnpProvider, SystemTime,
    TdxProvider, TpmProvider,
};

use super::ServeError;
use super::collateral::SignedCollateral;
use crate::config::{AttestationSection, TpmSection};

/// The privilege level that reports are asked from: the kernel's own.
const LEVEL: u8 = 0;

/// The provider that the configuration names. Its device is opened here, so that a server without one does not start.
///
/// # Errors
/// [`ServeError::NoProvider`] for a platform that this build cannot ask, [`ServeError::Device`] for one that this machine is
/// not, [`ServeError::File`] for the test chip's seed.
pub(super) fn provider(
    section: &AttestationSection,
    key: ReleasePublicKey,
    now: UnixTime,
) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    let none = ServeError::NoProvider(section.platform);
    match section.platform {
        Platform::TestChip => match &section.test_chip_seed {
            Some(seed) => test_chip(seed, now),
            None => Err(none),
        },
        Platform::Snp => snp(collateral(section.collateral.as_deref().ok_or(none)?, key)),
        Platform::Tdx => tdx(collateral(section.collateral.as_deref().ok_or(none)?, key)),
        Platform::Tpm => measured_boot(section.tpm.as_ref().ok_or(none)?),
    }
}

/// A folder of single files, or the bundle that the organisation signed.
fn collateral(path: &Path, key: ReleasePublicKey) -> Box<dyn Collateral> {
    if path.is_dir() {
        Box::new(CollateralFolder::new(path))
    } else {
        Box::new(SignedCollateral::new(path, key))
    }
}

/// A processor's provider, for its enrolment.
///
/// # Errors
/// [`ServeError::Device`] for one that this machine is not, [`ServeError::NoProvider`] for what is no processor.
pub(crate) fn of_processor(
    platform: Platform,
    collateral: Box<dyn Collateral>,
) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    match platform {
        Platform::Snp => snp(collateral),
        Platform::Tdx => tdx(collateral),
        Platform::Tpm | Platform::TestChip => Err(ServeError::NoProvider(platform)),
    }
}

/// The provider of a client's own machine: a TPM, or the test chip for trials.
///
/// # Errors
/// As [`provider`]; [`ServeError::NoProvider`] where what the platform needs is not given.
pub(crate) fn of_client(
    section: &OwnSection,
    now: UnixTime,
) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    let none = ServeError::NoProvider(section.platform);
    match (section.platform, &section.test_chip_seed) {
        (Platform::TestChip, Some(seed)) => test_chip(seed, now),
        (Platform::Tpm, None) if !section.registers.is_empty() => measured_boot(&TpmSection {
            registers: section.registers.clone(),
            software: section.software,
        }),
        _ => Err(none),
    }
}

/// A way to a TPM.
pub(crate) type TpmTransport = Box<dyn Transport + Send>;

/// The way to the machine's TPM, or to a software TPM at this address.
///
/// # Errors
/// [`DeviceError`].
pub(crate) fn transport(
    software: Option<std::net::SocketAddr>,
) -> Result<TpmTransport, DeviceError> {
    let opened = match software {
        None => DeviceFile::open(Path::new(tpm::PATH)).map(|device| Box::new(device) as _),
        Some(address) => self::software(address),
    };
    opened.map_err(|error| DeviceError::of_system("the TPM", &error))
}

fn snp(collateral: Box<dyn Collateral>) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    if Machine::detect(&SystemFiles).configfs_tsm {
        return Ok(Arc::new(SnpProvider::tsm(LEVEL, collateral)));
    }
    let device = Box::new(SevDevice::open()?);
    Ok(Arc::new(SnpProvider::device(device, LEVEL, collateral)))
}

fn tdx(collateral: Box<dyn Collateral>) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    if !Machine::detect(&SystemFiles).configfs_tsm {
        return Err(ServeError::Device(DeviceError::Unavailable {
            device: "configfs-tsm",
            why: format!("{} is not there", casemate_devices::tsm::REPORTS),
        }));
    }
    Ok(Arc::new(TdxProvider::new(collateral)))
}

fn measured_boot(section: &TpmSection) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    let attester = |transport| {
        let measured = Measured {
            bank: Bank::Sha256,
            registers: section.registers.clone(),
        };
        let (kind, retry, time) = (KeyKind::P256, Retry::default(), SystemTime::new());
        Attester::<TpmTransport>::start(Tpm::new(transport), kind, measured, retry, &time)
    };
    let attester = attester(transport(section.software)?)?;
    Ok(match section.software {
        None => Arc::new(TpmProvider::of_machine(attester)),
        Some(_) => Arc::new(TpmProvider::apart(attester)),
    })
}

/// A software TPM's socket.
#[cfg(feature = "test-chip")]
fn software(address: std::net::SocketAddr) -> std::io::Result<Box<dyn Transport + Send>> {
    /// Software answers at once; a machine under load may take a while.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
    Ok(Box::new(tpm::Socket::connect(address, PATIENCE)?))
}

#[cfg(not(feature = "test-chip"))]
fn software(_: std::net::SocketAddr) -> std::io::Result<Box<dyn Transport + Send>> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(not(feature = "test-chip"))]
fn test_chip(_: &Path, _: UnixTime) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    Err(ServeError::NoProvider(Platform::TestChip))
}

#[cfg(feature = "test-chip")]
fn test_chip(seed: &Path, now: UnixTime) -> Result<Arc<dyn EvidenceProvider>, ServeError> {
    let chip = casemate_attestation::test_chip::TestChip::from_seed(&*test_seed(seed)?, now);
    Ok(Arc::new(chip))
}

/// The seed of the test chip and its GPUs.
#[cfg(feature = "test-chip")]
pub(super) fn test_seed(file: &Path) -> Result<zeroize::Zeroizing<[u8; 32]>, ServeError> {
    let bytes = crate::secrets::read_secret_file(file)?;
    let seed = <[u8; 32]>::try_from(bytes.as_slice());
    seed.map(zeroize::Zeroizing::new)
        .map_err(|_| ServeError::Seed(file.to_owned()))
}
