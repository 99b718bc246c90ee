//! Images as reference values list them: what each is, and until when it is accepted. An image that a newer one replaces ends by
//! itself (rule O-5).

use std::collections::BTreeMap;

use crate::digest::{Measurement, Sha256Digest, UnixTime};
use crate::framing;
use crate::provider::Platform;
use crate::reference::ReferenceValues;
use crate::tdx::Expected;
use crate::tpm::Bank;
use crate::verify::Verdict;

/// One entry of the reference values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Names what it accepts, whatever its label and end: the same entry has the same id in every document.
    pub id: Sha256Digest,
    /// For people.
    pub label: String,
    /// The first second at which it is accepted no more; `None` while nothing newer takes its place.
    pub until: Option<UnixTime>,
}

/// What one entry accepts.
#[derive(Debug, Clone)]
enum Accepts {
    Snp(Measurement),
    Tdx(Measurement, [Expected; 4]),
    Tpm(Bank, BTreeMap<u8, Vec<u8>>),
}

impl Accepts {
    fn is(&self, verdict: &Verdict) -> bool {
        match (self, verdict) {
            (Self::Snp(value), Verdict::Snp(found)) => *value == found.measurement(),
            (Self::Tdx(mrtd, rtmrs), Verdict::Tdx(found)) => {
                let mut both = rtmrs.iter().zip(found.rtmrs());
                *mrtd == found.measurement() && both.all(|(value, found)| value.accepts(&found))
            }
            (Self::Tpm(bank, values), Verdict::Tpm(found)) => {
                *bank == found.bank() && values == found.registers()
            }
            _ => false,
        }
    }

    /// SHA-256 of `casemate/image/v1` and, framed, the platform and every value with its place.
    fn id(&self, platform: Platform) -> Sha256Digest {
        let mut items = vec![platform.as_str().as_bytes().to_vec()];
        match self {
            Self::Snp(value) => items.push(value.as_bytes().to_vec()),
            Self::Tdx(mrtd, rtmrs) => {
                items.push(mrtd.as_bytes().to_vec());
                for expected in rtmrs {
                    items.push(match expected {
                        Expected::NotJudged => b"any".to_vec(),
                        Expected::OneOf(values) => {
                            let mut values: Vec<_> =
                                values.iter().map(Measurement::as_bytes).collect();
                            values.sort();
                            values.into_iter().flatten().copied().collect()
                        }
                    });
                }
            }
            Self::Tpm(bank, values) => {
                items.push(bank.to_string().into_bytes());
                for (register, value) in values {
                    items.push(vec![*register]);
                    items.push(value.clone());
                }
            }
        }
        let items: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
        Sha256Digest::of(&framing::labelled("casemate/image/v1", &items))
    }
}

/// The entries of one platform.
#[derive(Debug, Clone)]
pub(crate) struct Images(Vec<(Accepts, Image)>);

impl Images {
    pub(crate) fn of(platform: Platform, values: &ReferenceValues) -> Self {
        let mut images = Vec::new();
        let mut add = |accepts: Accepts, label: &String, until| {
            let image = Image {
                id: accepts.id(platform),
                label: label.clone(),
                until,
            };
            images.push((accepts, image));
        };
        match platform {
            Platform::Snp | Platform::TestChip => {
                let sections = values.snp_reports(platform).into_iter();
                for entry in sections.flat_map(|section| &section.measurements) {
                    add(Accepts::Snp(entry.measurement), &entry.label, entry.until);
                }
            }
            Platform::Tdx => {
                for entry in values.tdx.iter().flat_map(|section| &section.machines) {
                    let accepts = Accepts::Tdx(entry.mrtd, entry.rtmrs.clone());
                    add(accepts, &entry.label, entry.until);
                }
            }
            Platform::Tpm => {
                if let Some(section) = &values.tpm {
                    for entry in &section.machines {
                        let accepts = Accepts::Tpm(section.bank, entry.registers.clone());
                        add(accepts, &entry.label, entry.until);
                    }
                }
            }
        }
        Self(images)
    }

    /// The entry that accepts what was found; of several the one that ends last. None accepts what passed only with nothing listed.
    pub(crate) fn accepting(&self, verdict: &Verdict) -> Option<&Image> {
        let never = UnixTime::from_secs(u64::MAX);
        let accepting = self.0.iter().filter(|(accepts, _)| accepts.is(verdict));
        accepting
            .map(|(_, image)| image)
            .max_by_key(|image| image.until.unwrap_or(never))
    }
}

impl ReferenceValues {
    /// What is accepted of a platform, with its end.
    #[must_use]
    pub fn images(&self, platform: Platform) -> Vec<Image> {
        let images = Images::of(platform, self).0.into_iter();
        images.map(|(_, image)| image).collect()
    }
}
