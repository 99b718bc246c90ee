//! Signed documents of the organisation: what is in force, and the next number of each kind.
//!
//! A change is a new document with the next number. Numbers never go back, so a lost update shows.

use std::collections::BTreeSet;
use std::path::Path;

use casemate_attestation::tpm::Bank;
use casemate_attestation::{
    ChipId, FleetChip, FleetDevice, FleetList, Issue, Kind, NvidiaReference, Payload, Platform,
    PolicyPayload, Product, ReferenceValues, ReleasePublicKey, ReleaseSecretKey, Revocations,
    Sha256Digest, SignedDocument, SignedError, SnpMeasurement, SnpReference, TcbVersion,
    TdxReference, TpmMachine, TpmReference, UnixTime, Verified,
};
use serde::Deserialize;

use super::{OrgError, Organisation, files};
use crate::secrets::write_public_file;

/// How long a signed document is in force unless the officer says otherwise.
pub const DOCUMENT_DAYS: u32 = 90;
const DAY: u64 = 86_400;
const CLOCK_SKEW_SECONDS: u64 = 300;

/// File name of the document of a kind.
pub const fn file_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Fleet => files::FLEET,
        Kind::Reference => files::REFERENCE,
        Kind::Policy => files::POLICY,
        Kind::Revocation => files::REVOKED,
        Kind::Collateral => files::COLLATERAL,
        Kind::GpuReference => files::GPU_REFERENCE,
    }
}

/// Reads the document of kind `T` that is in force at `now`, with its bytes. For whoever decides by it.
///
/// # Errors
/// When the file cannot be read, or the document does not verify, is out of date, or is older than `floor`.
pub fn in_force<T: Payload>(
    folder: &Path,
    key: &ReleasePublicKey,
    floor: u64,
    now: UnixTime,
) -> Result<(Verified<T>, Vec<u8>), InForceError> {
    let file = file_of(T::KIND);
    let bytes = files::read(folder, file)?;
    let document = SignedDocument::open(&bytes, key, floor, now)
        .map_err(|source| InForceError::Signed { file, source })?;
    Ok((document, bytes))
}

/// Why no document of a kind is in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InForceError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] OrgError),
    /// The document is refused.
    #[error("{file}: {source}")]
    Signed {
        /// Its file name in the organisation's folder.
        file: &'static str,
        /// The rule that was broken.
        source: SignedError,
    },
}

/// Reads a document whose successor is to be signed. The signature must verify; the date may have passed.
///
/// # Errors
/// Names the file when it is damaged.
pub fn open_for_editing<T: Payload>(organisation: &Organisation) -> Result<Verified<T>, OrgError> {
    /// The one field that is needed before the signature is checked, at the document's own date.
    #[derive(Deserialize)]
    struct Dated {
        issued: UnixTime,
    }
    let folder = organisation.folder();
    let file = file_of(T::KIND);
    let bytes = files::read(folder, file)?;
    let dated: Dated = serde_json::from_slice(&bytes)
        .map_err(|_| files::damaged(folder, file, "not a signed document"))?;
    SignedDocument::open(&bytes, organisation.release_key(), 0, dated.issued)
        .map_err(|e| files::damaged(folder, file, e))
}

/// Signs `payload` as the next document of its kind, valid for `days`, and puts it in force. Returns its number.
///
/// # Errors
/// When the present document is damaged, or signing or writing fails.
pub fn sign_next<T: Payload>(
    organisation: &Organisation,
    payload: &T,
    days: u32,
    now: UnixTime,
) -> Result<u64, OrgError> {
    let exists = organisation.folder().join(file_of(T::KIND)).exists();
    let number = match exists {
        true => open_for_editing::<T>(organisation)?
            .number()
            .saturating_add(1),
        false => 1,
    };
    let key = organisation.release_secret()?;
    sign_into(
        organisation.folder(),
        payload,
        issue(number, days, now),
        &key,
    )?;
    Ok(number)
}

/// A document's number and dates: in force at once, also for clocks that are a little behind.
pub(super) fn issue(number: u64, days: u32, now: UnixTime) -> Issue {
    let expires = now.plus(u64::from(days) * DAY);
    Issue {
        number,
        issued: now.minus(CLOCK_SKEW_SECONDS),
        expires,
    }
}

/// Signs `payload` and puts it into `folder` under its kind's name.
pub(super) fn sign_into<T: Payload>(
    folder: &Path,
    payload: &T,
    issue: Issue,
    key: &ReleaseSecretKey,
) -> Result<(), OrgError> {
    let bytes = SignedDocument::sign(payload, issue, key).map_err(OrgError::Sign)?;
    Ok(write_public_file(&folder.join(file_of(T::KIND)), &bytes)?)
}

/// Adds a chip to the fleet list. Returns the new number.
///
/// # Errors
/// When the chip is listed, has no name, or signing fails.
pub fn enrol(
    organisation: &Organisation,
    chip: FleetChip,
    days: u32,
    now: UnixTime,
) -> Result<u64, OrgError> {
    if chip.names.is_empty() {
        return Err(OrgError::NoNames);
    }
    let mut fleet = open_for_editing::<FleetList>(organisation)?.into_payload();
    if fleet.chip(chip.platform, &chip.chip_id).is_some() {
        return Err(OrgError::ChipEnrolled(chip.chip_id.to_string()));
    }
    free(&fleet, &chip.devices)?;
    fleet.chips.push(chip);
    sign_next(organisation, &fleet, days, now)
}

/// Puts other devices in the place of those that the fleet list gives a machine. Returns the new number.
///
/// # Errors
/// When the machine is not listed, another one has one of the devices, or signing fails.
pub fn replace_devices(
    organisation: &Organisation,
    (platform, id): (Platform, ChipId),
    devices: Vec<FleetDevice>,
    days: u32,
    now: UnixTime,
) -> Result<u64, OrgError> {
    let mut fleet = open_for_editing::<FleetList>(organisation)?.into_payload();
    let listed = |chip: &&mut FleetChip| chip.platform == platform && chip.chip_id == id;
    let unknown = || OrgError::ChipUnknown(id.to_string());
    fleet
        .chips
        .iter_mut()
        .find(listed)
        .ok_or_else(unknown)?
        .devices
        .clear();
    free(&fleet, &devices)?;
    let chip = fleet.chips.iter_mut().find(listed);
    chip.ok_or_else(unknown)?.devices = devices;
    sign_next(organisation, &fleet, days, now)
}

/// No device is in two places.
fn free(fleet: &FleetList, devices: &[FleetDevice]) -> Result<(), OrgError> {
    let listed = fleet.chips.iter().flat_map(|chip| &chip.devices);
    let mut seen: BTreeSet<Sha256Digest> = listed.map(|it| it.device_key).collect();
    let taken = devices.iter().find(|it| !seen.insert(it.device_key));
    taken.map_or(Ok(()), |it| {
        Err(OrgError::DeviceEnrolled(it.device_key.to_string()))
    })
}

/// Whether the reference values in the folder say what GPUs must measure; without it no machine with devices is accepted.
///
/// # Errors
/// When the present document is damaged.
pub fn judges_devices(organisation: &Organisation) -> Result<bool, OrgError> {
    let values = open_for_editing::<ReferenceValues>(organisation)?.into_payload();
    Ok(values.nvidia.is_some())
}

/// Changes the section of a platform whose evidence is an SNP report; one that was not there begins with nothing in it.
/// Returns the new number.
///
/// # Errors
/// What `change` refuses, [`OrgError::OtherEvidence`] for other platforms, or when signing fails.
fn edit_snp(
    organisation: &Organisation,
    platform: Platform,
    days: u32,
    now: UnixTime,
    change: impl FnOnce(&mut SnpReference) -> Result<(), OrgError>,
) -> Result<u64, OrgError> {
    let mut values = open_for_editing::<ReferenceValues>(organisation)?.into_payload();
    let section = values
        .snp_reports_mut(platform)
        .ok_or(OrgError::OtherEvidence(platform))?;
    change(section.get_or_insert_default())?;
    sign_next(organisation, &values, days, now)
}

/// Adds a launch measurement to the reference values. Returns the new number.
///
/// # Errors
/// When it is listed, the platform writes no SNP reports, or signing fails.
pub fn add_measurement(
    organisation: &Organisation,
    platform: Platform,
    measurement: SnpMeasurement,
    days: u32,
    now: UnixTime,
) -> Result<u64, OrgError> {
    edit_snp(organisation, platform, days, now, |section| {
        let known = section.measurements.iter();
        if known
            .clone()
            .any(|known| known.measurement == measurement.measurement)
        {
            let listed = measurement.measurement.to_string();
            return Err(OrgError::MeasurementListed(listed));
        }
        section.measurements.push(measurement);
        Ok(())
    })
}

/// Puts a whole section of the reference values in the place of the one before. Returns the new number.
///
/// # Errors
/// When the present document is damaged, or signing fails.
pub fn replace_section(
    organisation: &Organisation,
    section: ReferenceSection,
    days: u32,
    now: UnixTime,
) -> Result<u64, OrgError> {
    let mut values = open_for_editing::<ReferenceValues>(organisation)?.into_payload();
    match section {
        ReferenceSection::Snp(section) => values.snp = Some(section),
        ReferenceSection::Tdx(section) => values.tdx = Some(section),
        ReferenceSection::Tpm(section) => values.tpm = Some(section),
        ReferenceSection::Nvidia(section) => values.nvidia = Some(section),
    }
    sign_next(organisation, &values, days, now)
}

/// Whether [`add_tpm_machine`] would take it: all machines of a section are quoted with the same registers.
///
/// # Errors
/// [`OrgError::OtherRegisters`], or when the present document is damaged.
pub fn can_add_tpm_machine(
    organisation: &Organisation,
    machine: &TpmMachine,
) -> Result<(), OrgError> {
    let Some(section) = open_for_editing::<ReferenceValues>(organisation)?
        .into_payload()
        .tpm
    else {
        return Ok(());
    };
    let same = |known: &TpmMachine| known.registers.keys().eq(machine.registers.keys());
    match section.bank == Bank::Sha256 && section.machines.iter().all(same) {
        true => Ok(()),
        false => Err(OrgError::OtherRegisters),
    }
}

/// Adds a machine to the section of measured boot; one that is listed with the same registers is not listed twice. Returns the
/// number of the document in force.
///
/// # Errors
/// [`OrgError::OtherRegisters`] when the machines that are listed show other registers, or when signing fails.
pub fn add_tpm_machine(
    organisation: &Organisation,
    machine: TpmMachine,
    days: u32,
    now: UnixTime,
) -> Result<u64, OrgError> {
    can_add_tpm_machine(organisation, &machine)?;
    let document = open_for_editing::<ReferenceValues>(organisation)?;
    let number = document.number();
    let mut values = document.into_payload();
    let section = values.tpm.get_or_insert_with(|| TpmReference {
        bank: Bank::Sha256,
        machines: Vec::new(),
    });
    let mut listed = section.machines.iter();
    if listed.any(|known| known.registers == machine.registers) {
        return Ok(number);
    }
    section.machines.push(machine);
    sign_next(organisation, &values, days, now)
}

/// Accepts a product whose root of trust is broken, which every verdict then says. Returns the new number.
///
/// # Errors
/// When the present document is damaged, or signing fails.
pub fn allow_despite_broken_root(
    organisation: &Organisation,
    product: Product,
    days: u32,
    now: UnixTime,
) -> Result<u64, OrgError> {
    edit_snp(organisation, Platform::Snp, days, now, |section| {
        section.families_allowed_despite_broken_root.push(product);
        Ok(())
    })
}

/// Whether the reference values in the folder name this product as accepted despite its broken root.
///
/// # Errors
/// When the present document is damaged.
pub fn allows_despite_broken_root(
    organisation: &Organisation,
    product: Product,
) -> Result<bool, OrgError> {
    let values = open_for_editing::<ReferenceValues>(organisation)?.into_payload();
    let named = values
        .snp
        .map(|section| section.families_allowed_despite_broken_root);
    Ok(named.is_some_and(|named| named.contains(&product)))
}

/// Reference values of one platform.
#[derive(Clone, Debug)]
pub enum ReferenceSection {
    /// AMD SEV-SNP.
    Snp(SnpReference),
    /// Intel TDX.
    Tdx(TdxReference),
    /// Measured boot.
    Tpm(TpmReference),
    /// GPUs and switches beside a platform.
    Nvidia(NvidiaReference),
}

/// Sets the lowest firmware of a product. Returns the new number.
///
/// # Errors
/// When the present document is damaged, or signing fails.
pub fn set_floor(
    organisation: &Organisation,
    product: Product,
    floor: TcbVersion,
    days: u32,
    now: UnixTime,
) -> Result<u64, OrgError> {
    edit_snp(organisation, Platform::Snp, days, now, |section| {
        section.tcb_floor.insert(product, floor);
        Ok(())
    })
}

/// What is to be revoked.
#[derive(Clone, Debug)]
pub enum Revocation {
    /// One leaf, by the SHA-256 of its DER.
    Certificate(Sha256Digest),
    /// Every certificate of a principal.
    Principal(String),
}

/// Adds to the revocation list. Returns the new number.
///
/// # Errors
/// When it is listed already, or signing fails.
pub fn revoke(
    organisation: &Organisation,
    what: Revocation,
    days: u32,
    now: UnixTime,
) -> Result<u64, OrgError> {
    let mut list = open_for_editing::<Revocations>(organisation)?.into_payload();
    match what {
        Revocation::Certificate(digest) if list.certificates.contains(&digest) => {
            return Err(OrgError::RevokedAlready(digest.to_string()));
        }
        Revocation::Principal(name) if list.principals.contains(&name) => {
            return Err(OrgError::RevokedAlready(name));
        }
        Revocation::Certificate(digest) => list.certificates.push(digest),
        Revocation::Principal(name) => list.principals.push(name),
    }
    sign_next(organisation, &list, days, now)
}

/// Signs every document again, unchanged, with the next number and a new date. Returns the kinds and numbers.
///
/// # Errors
/// When a document is damaged, or signing fails.
pub fn renew(
    organisation: &Organisation,
    days: u32,
    now: UnixTime,
) -> Result<Vec<(Kind, u64)>, OrgError> {
    let mut numbers = vec![
        renew_one::<FleetList>(organisation, days, now)?,
        renew_one::<ReferenceValues>(organisation, days, now)?,
        renew_one::<Revocations>(organisation, days, now)?,
    ];
    if organisation.folder().join(files::POLICY).exists() {
        numbers.push(renew_one::<PolicyPayload>(organisation, days, now)?);
    }
    Ok(numbers)
}

fn renew_one<T: Payload>(
    organisation: &Organisation,
    days: u32,
    now: UnixTime,
) -> Result<(Kind, u64), OrgError> {
    let payload = open_for_editing::<T>(organisation)?.into_payload();
    Ok((T::KIND, sign_next(organisation, &payload, days, now)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::org::{InitOptions, init};
    use casemate_attestation::Measurement;
    use casemate_attestation::nvidia::DeviceKind;

    const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);
    const DAYS: u32 = 90;

    fn organisation(parent: &Path) -> Organisation {
        let options = InitOptions {
            name: "example".parse().unwrap(),
            broker_names: vec!["localhost".into()],
            test_chip: false,
            days: DAYS,
        };
        init(&parent.join("org"), &options, NOW).unwrap()
    }

    fn chip(platform: Platform, names: &[&str]) -> FleetChip {
        FleetChip {
            platform,
            chip_id: ChipId::from_bytes([7; 64]),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            label: String::new(),
            tpm: None,
            devices: Vec::new(),
        }
    }

    #[test]
    fn a_chip_is_enrolled_once_and_with_a_name() {
        let parent = tempfile::tempdir().unwrap();
        let organisation = organisation(parent.path());
        let add = |chip| enrol(&organisation, chip, DAYS, NOW);
        let nameless = add(chip(Platform::Snp, &[])).unwrap_err();
        assert!(matches!(nameless, OrgError::NoNames), "{nameless}");
        assert_eq!(add(chip(Platform::Snp, &["a"])).unwrap(), 2);
        let again = add(chip(Platform::Snp, &["b"])).unwrap_err();
        assert!(matches!(again, OrgError::ChipEnrolled(_)), "{again}");
        assert_eq!(add(chip(Platform::TestChip, &["b"])).unwrap(), 3);
    }

    #[test]
    fn g05_a_device_is_in_one_machine_and_can_be_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let organisation = organisation(parent.path());
        let device = |name: &str| FleetDevice {
            kind: DeviceKind::Gpu,
            device_key: Sha256Digest::of(name.as_bytes()),
            label: String::new(),
        };
        let machine = |platform, names: &[&str]| FleetChip {
            devices: names.iter().map(|name| device(name)).collect(),
            ..chip(platform, &["a"])
        };
        let add = |chip| enrol(&organisation, chip, DAYS, NOW);
        let taken = |result: Result<u64, OrgError>| {
            let error = result.unwrap_err();
            assert!(matches!(error, OrgError::DeviceEnrolled(_)), "{error}");
        };
        taken(add(machine(Platform::Snp, &["one", "one"])));
        add(machine(Platform::Snp, &["one", "two"])).unwrap();
        taken(add(machine(Platform::Tdx, &["two"])));
        add(machine(Platform::Tdx, &["three"])).unwrap();
        let id = ChipId::from_bytes([7; 64]);
        let replace = |platform, names: &[&str]| {
            let devices = names.iter().map(|name| device(name)).collect();
            replace_devices(&organisation, (platform, id), devices, DAYS, NOW)
        };
        taken(replace(Platform::Snp, &["one", "three"]));
        replace(Platform::Snp, &["one", "four"]).unwrap();
        replace(Platform::Tdx, &["two"]).unwrap();
        replace(Platform::Tdx, &[]).unwrap();
        let unknown = replace(Platform::Tpm, &[]).unwrap_err();
        assert!(matches!(unknown, OrgError::ChipUnknown(_)), "{unknown}");
        let fleet = open_for_editing::<FleetList>(&organisation).unwrap();
        let listed = |platform| fleet.payload().chip(platform, &id).unwrap().devices.clone();
        assert_eq!(listed(Platform::Snp), [device("one"), device("four")]);
        assert_eq!(listed(Platform::Tdx), []);
    }

    #[test]
    fn a_measurement_is_listed_once_for_each_platform() {
        let parent = tempfile::tempdir().unwrap();
        let organisation = organisation(parent.path());
        let add = |platform| {
            let measurement = SnpMeasurement {
                measurement: Measurement::from_bytes([3; 48]),
                label: String::new(),
                until: None,
            };
            add_measurement(&organisation, platform, measurement, DAYS, NOW)
        };
        assert_eq!(add(Platform::Snp).unwrap(), 2);
        let again = add(Platform::Snp).unwrap_err();
        assert!(matches!(again, OrgError::MeasurementListed(_)), "{again}");
        assert_eq!(add(Platform::TestChip).unwrap(), 3);
        let other = add(Platform::Tdx).unwrap_err();
        assert!(matches!(other, OrgError::OtherEvidence(_)), "{other}");
    }

    #[test]
    fn what_is_revoked_stays_in_the_list_and_is_revoked_once() {
        let parent = tempfile::tempdir().unwrap();
        let organisation = organisation(parent.path());
        let certificate = Sha256Digest::of(b"leaf");
        let principal = "spiffe://example/team/a/b".to_owned();
        for what in [
            Revocation::Certificate(certificate),
            Revocation::Principal(principal.clone()),
        ] {
            revoke(&organisation, what.clone(), DAYS, NOW).unwrap();
            let again = revoke(&organisation, what, DAYS, NOW).unwrap_err();
            assert!(matches!(again, OrgError::RevokedAlready(_)), "{again}");
        }
        let list = open_for_editing::<Revocations>(&organisation).unwrap();
        assert_eq!(list.payload().certificates, [certificate]);
        assert_eq!(list.payload().principals, [principal]);
    }

    #[test]
    fn k02_a_document_below_the_floor_is_not_in_force() {
        let parent = tempfile::tempdir().unwrap();
        let organisation = organisation(parent.path());
        let renewed = renew(&organisation, DAYS, NOW).unwrap();
        assert!(
            renewed.iter().all(|(_, number)| *number == 2),
            "{renewed:?}"
        );
        let (folder, key) = (organisation.folder(), organisation.release_key());
        let read = |floor, now| in_force::<FleetList>(folder, key, floor, now).map(drop);
        read(2, NOW).unwrap();
        let older = read(3, NOW).unwrap_err().to_string();
        assert!(
            older.contains("fleet.json") && older.contains("older than"),
            "{older}"
        );
        let expired = read(2, NOW.plus(u64::from(DAYS) * DAY)).unwrap_err();
        assert!(expired.to_string().contains("expired"), "{expired}");
    }
}
