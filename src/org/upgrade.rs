//! A newer image takes the place of the present ones: both are accepted for a while, and the older ends by itself (rule O-5).

use casemate_attestation::{
    Platform, ReferenceValues, SnpMeasurement, TdxMachine, TpmMachine, UnixTime,
};

use super::documents::{ReferenceSection, open_for_editing, sign_next};
use super::{OrgError, Organisation};

/// An entry of reference values that can end.
trait Entry {
    fn is_same(&self, other: &Self) -> bool;
    fn label(&self) -> &str;
    fn until(&self) -> Option<UnixTime>;
    fn end(&mut self, until: Option<UnixTime>);
}

macro_rules! entry {
    ($kind:ty: $one:ident, $other:ident, $same:expr) => {
        impl Entry for $kind {
            fn is_same(&self, $other: &Self) -> bool {
                let $one = self;
                $same
            }
            fn label(&self) -> &str {
                &self.label
            }
            fn until(&self) -> Option<UnixTime> {
                self.until
            }
            fn end(&mut self, until: Option<UnixTime>) {
                self.until = until;
            }
        }
    };
}
entry!(SnpMeasurement: one, other, one.measurement == other.measurement);
entry!(TdxMachine: one, other, one.mrtd == other.mrtd && one.rtmrs == other.rtmrs);
entry!(TpmMachine: one, other, one.registers == other.registers);

/// Accepts the images of `section` and lets every other image of its platform end at `end`. Of the section only its images are taken:
/// floors and whatever else the platform's section says stay. Returns the new number, and the platform's images as they are accepted now.
///
/// # Errors
/// [`OrgError::NothingNewer`] where the section has no image that is not accepted already, [`OrgError::ImageEnding`] for one that
/// has ended or is to end, [`OrgError::NoUpgrade`] for a section that has no images, [`OrgError::OtherRegisters`] for a TPM's with
/// others, or when signing fails.
pub fn upgrade(
    organisation: &Organisation,
    section: ReferenceSection,
    end: UnixTime,
    days: u32,
    now: UnixTime,
) -> Result<(u64, Vec<casemate_attestation::Image>), OrgError> {
    let mut values = open_for_editing::<ReferenceValues>(organisation)?.into_payload();
    let platform = match section {
        ReferenceSection::Snp(newer) => {
            let section = values.snp.get_or_insert_default();
            replace(&mut section.measurements, newer.measurements, end)?;
            Platform::Snp
        }
        ReferenceSection::Tdx(newer) => {
            match &mut values.tdx {
                Some(section) => replace(&mut section.machines, newer.machines, end)?,
                none => *none = Some(newer),
            }
            Platform::Tdx
        }
        ReferenceSection::Tpm(newer) => {
            match &mut values.tpm {
                Some(section) => {
                    let registers = |machines: &[TpmMachine]| -> Vec<Vec<u8>> {
                        let all = machines.iter();
                        all.map(|machine| machine.registers.keys().copied().collect())
                            .collect()
                    };
                    let mut all = registers(&section.machines);
                    all.extend(registers(&newer.machines));
                    all.dedup();
                    if section.bank != newer.bank || all.len() > 1 {
                        return Err(OrgError::OtherRegisters);
                    }
                    replace(&mut section.machines, newer.machines, end)?;
                }
                none => *none = Some(newer),
            }
            Platform::Tpm
        }
        ReferenceSection::Nvidia(_) => return Err(OrgError::NoUpgrade),
    };
    let number = sign_next(organisation, &values, days, now)?;
    Ok((number, values.images(platform)))
}

/// Puts the newer entries beside the present ones, which end no later than `end`.
fn replace<E: Entry>(present: &mut Vec<E>, newer: Vec<E>, end: UnixTime) -> Result<(), OrgError> {
    for entry in &newer {
        let ending = present
            .iter()
            .find(|known| known.is_same(entry) && known.until().is_some());
        if let Some(known) = ending {
            return Err(OrgError::ImageEnding(known.label().to_owned()));
        }
    }
    let known = |entry: &E| present.iter().any(|known| known.is_same(entry));
    if newer.iter().all(known) {
        return Err(OrgError::NothingNewer);
    }
    let mut accepted = newer;
    for mut entry in std::mem::take(present) {
        if !accepted.iter().any(|newer| newer.is_same(&entry)) {
            entry.end(Some(entry.until().map_or(end, |until| until.min(end))));
            present.push(entry);
        }
    }
    accepted.iter_mut().for_each(|entry| entry.end(None));
    present.append(&mut accepted);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use casemate_attestation::tpm::Bank;
    use casemate_attestation::{Measurement, SnpReference, TpmReference};

    use super::*;
    use crate::org::{InitOptions, init};

    const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);
    const DAY: u64 = 86_400;

    fn organisation(parent: &Path) -> Organisation {
        let options = InitOptions {
            name: "example".parse().unwrap(),
            broker_names: vec!["localhost".into()],
            test_chip: false,
            days: 90,
        };
        init(&parent.join("org"), &options, NOW).unwrap()
    }

    fn snp(values: &[u8]) -> ReferenceSection {
        let measurements = values.iter().map(|byte| SnpMeasurement {
            measurement: Measurement::from_bytes([*byte; 48]),
            label: format!("release {byte}"),
            until: None,
        });
        ReferenceSection::Snp(SnpReference {
            measurements: measurements.collect(),
            ..SnpReference::default()
        })
    }

    fn tpm(registers: &[(u8, u8)]) -> ReferenceSection {
        ReferenceSection::Tpm(TpmReference {
            bank: Bank::Sha256,
            machines: vec![TpmMachine {
                registers: registers
                    .iter()
                    .map(|(it, byte)| (*it, vec![*byte; 32]))
                    .collect(),
                label: "release".into(),
                until: None,
            }],
        })
    }

    fn ends(images: &[casemate_attestation::Image]) -> Vec<(&str, Option<u64>)> {
        let end = |until: UnixTime| until.secs() - NOW.secs();
        images
            .iter()
            .map(|image| (image.label.as_str(), image.until.map(end)))
            .collect()
    }

    #[test]
    fn two_images_are_accepted_for_a_while_and_the_older_has_an_end() {
        let parent = tempfile::tempdir().unwrap();
        let organisation = organisation(parent.path());
        let to =
            |section, days: u64| upgrade(&organisation, section, NOW.plus(days * DAY), 90, NOW);
        let (number, images) = to(snp(&[1]), 14).unwrap();
        assert_eq!((number, ends(&images)), (2, vec![("release 1", None)]));
        let (number, images) = to(snp(&[2]), 14).unwrap();
        let both = vec![("release 1", Some(14 * DAY)), ("release 2", None)];
        assert_eq!((number, ends(&images)), (3, both));
        // A third one before the first has ended: its end does not move, and the second ends too.
        let (_, images) = to(snp(&[3]), 30).unwrap();
        let three = vec![
            ("release 1", Some(14 * DAY)),
            ("release 2", Some(30 * DAY)),
            ("release 3", None),
        ];
        assert_eq!(ends(&images), three);
    }

    #[test]
    fn k02_an_image_that_is_to_end_is_not_made_the_newer_one() {
        let parent = tempfile::tempdir().unwrap();
        let organisation = organisation(parent.path());
        let to = |section| upgrade(&organisation, section, NOW.plus(DAY), 90, NOW);
        to(snp(&[1])).unwrap();
        to(snp(&[2])).unwrap();
        let back = to(snp(&[1])).unwrap_err();
        assert!(matches!(back, OrgError::ImageEnding(_)), "{back}");
        let same = to(snp(&[2])).unwrap_err();
        assert!(matches!(same, OrgError::NothingNewer), "{same}");
        let none = to(snp(&[])).unwrap_err();
        assert!(matches!(none, OrgError::NothingNewer), "{none}");
    }

    #[test]
    fn a_tpms_images_show_the_same_registers() {
        let parent = tempfile::tempdir().unwrap();
        let organisation = organisation(parent.path());
        let to = |section| upgrade(&organisation, section, NOW.plus(DAY), 90, NOW);
        to(tpm(&[(4, 1), (9, 1)])).unwrap();
        let (_, images) = to(tpm(&[(4, 1), (9, 2)])).unwrap();
        assert_eq!(ends(&images), [("release", Some(DAY)), ("release", None)]);
        let other = to(tpm(&[(4, 1)])).unwrap_err();
        assert!(matches!(other, OrgError::OtherRegisters), "{other}");
    }
}
