//! The wording of a shared template, for two officers: the first asks, the second opens, and both stand in the audit log. For one
//! alone nothing is opened, however often he asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use casemate_attestation::UnixTime;
use serde::{Deserialize, Serialize};

use super::desk::Desk;
use super::lock;
use super::report::Shared as SharedTemplate;
use crate::audit::{AuditEvent, band};
use crate::guard::scaffold::Wording;
use crate::policy::Principal;

/// How long what an officer asked for waits for a second one, seconds.
const WAITING_SECONDS_MAX: u64 = 3600;
/// What may wait at once.
const WAITING_MAX: usize = 64;
/// Shared templates of a report.
const REPORTED_MAX: usize = 100;

/// What two officers see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disclosed {
    /// Which template.
    pub family: String,
    /// Who asked beside the one that this is for.
    pub second: String,
    /// Runs of three words, in no order, each of them in 20 distinct prompts or more.
    pub shingles: Vec<String>,
}

/// Why nothing is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Undisclosed {
    /// Policy does not let anybody.
    #[error(
        "policy does not grant disclosure, and no wording is kept; it does with `disclosure = true` in [guard]"
    )]
    NotGranted,
    /// No family has this name: its wording has not come from enough principals.
    #[error("no shared template of this name has tripped; /guard/status names those that have")]
    NotTripped,
    /// It has no wording that common.
    #[error(
        "none of its wording was seen in 20 distinct prompts and kept; ask again after more of them"
    )]
    TooRare,
    /// This officer has asked; another one must.
    #[error("asked for; another officer has to ask for the same within the hour")]
    Waiting,
    /// The same officer asked again.
    #[error("you have asked already; the second person must be another officer")]
    SamePerson,
    /// Too many wait.
    #[error(
        "too many disclosures wait for a second officer; open those first, or ask again in an hour"
    )]
    TooMany,
    /// It cannot be recorded, and is therefore not opened.
    #[error(
        "the disclosure could not be recorded and does not take place; the log of the server says why"
    )]
    Unrecorded,
}

/// Who has asked for what.
#[derive(Debug, Default)]
pub(super) struct Asked(HashMap<String, (Principal, u64)>);

impl Asked {
    /// Who else asked for it within the hour; otherwise this officer has now.
    fn second(
        &mut self,
        family: &str,
        officer: &Principal,
        now: u64,
    ) -> Result<Principal, Undisclosed> {
        // A clock that goes back makes nothing older.
        self.0
            .retain(|_, (_, at)| now.saturating_sub(*at) < WAITING_SECONDS_MAX);
        match self.0.get(family) {
            Some((first, _)) if first == officer => Err(Undisclosed::SamePerson),
            Some((first, _)) => Ok(first.clone()),
            None if self.0.len() >= WAITING_MAX => Err(Undisclosed::TooMany),
            None => {
                self.0.insert(family.to_owned(), (officer.clone(), now));
                Err(Undisclosed::Waiting)
            }
        }
    }
}

impl Desk {
    /// Keeps words that came with a prompt, and says which are wanted next.
    pub(super) fn keep(&mut self, wording: &[Wording]) {
        let keeps = self.shared.keeps_wording.load(Ordering::Relaxed);
        let families = self.watch.families_mut();
        match keeps {
            true => families.keep(wording),
            false => families.forget_wording(),
        }
        let wanted = match keeps {
            true => families.wanted(),
            false => Default::default(),
        };
        let mut known = lock(&self.shared.wanted);
        if **known != wanted {
            *known = Arc::new(wanted);
        }
    }

    pub(super) fn disclose(
        &mut self,
        name: &str,
        officer: Principal,
        now: u64,
    ) -> Result<Disclosed, Undisclosed> {
        if !self.shared.keeps_wording.load(Ordering::Relaxed) {
            return Err(Undisclosed::NotGranted);
        }
        let family = self.watch.family(name).ok_or(Undisclosed::NotTripped)?;
        let words: Vec<Wording> = family.wording().collect();
        if words.is_empty() {
            return Err(Undisclosed::TooRare);
        }
        let family = name.to_owned();
        let record = |desk: &Self, event| {
            let recorded = desk.audit.record_blocking(UnixTime::from_secs(now), event);
            recorded.map(|_| ()).map_err(|error| {
                tracing::error!(%error, "nothing is disclosed, because it cannot be recorded");
                Undisclosed::Unrecorded
            })
        };
        let second = match self.asked.second(name, &officer, now) {
            Ok(second) => second,
            Err(Undisclosed::Waiting) => {
                let event = AuditEvent::GuardDisclosureAsked {
                    family: family.clone(),
                    officer,
                };
                if let Err(error) = record(self, event) {
                    self.asked.0.remove(&family);
                    return Err(error);
                }
                return Err(Undisclosed::Waiting);
            }
            Err(error) => return Err(error),
        };
        let event = AuditEvent::GuardDisclosed {
            family: family.clone(),
            officer,
            second: second.clone(),
            shingles: words.len() as u64,
        };
        record(self, event)?;
        self.asked.0.remove(&family);
        let mut shingles: Vec<String> = words
            .iter()
            .filter_map(|words| self.reader.open(words))
            .collect();
        shingles.sort_unstable();
        Ok(Disclosed {
            family,
            second: second.as_str().to_owned(),
            shingles,
        })
    }

    /// The shared templates that a report names.
    pub(super) fn shared_templates(&self) -> Vec<SharedTemplate> {
        let mut all: Vec<_> = self.watch.families().families().iter().collect();
        all.sort_by_key(|family| std::cmp::Reverse(family.prompts()));
        let told = all
            .into_iter()
            .take(REPORTED_MAX)
            .map(|family| SharedTemplate {
                reference: self.watch.name_of(family),
                prompts_band: band(family.prompts().into()),
                principals_band: band(family.principals().count().into()),
                shingles: family.wording().count() as u64,
            });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_person_is_never_two_and_an_hour_is_all_the_time_there_is() {
        let (olga, otto): (Principal, Principal) = (
            "spiffe://acme/security/olga".parse().unwrap(),
            "spiffe://acme/security/otto".parse().unwrap(),
        );
        let mut asked = Asked::default();
        assert_eq!(asked.second("a", &olga, 10), Err(Undisclosed::Waiting));
        for later in [10, 11, 3609] {
            let again = asked.second("a", &olga, later);
            assert_eq!(again, Err(Undisclosed::SamePerson));
        }
        assert_eq!(asked.second("b", &otto, 11), Err(Undisclosed::Waiting));
        assert_eq!(asked.second("a", &otto, 3609), Ok(olga.clone()));
        assert_eq!(asked.second("a", &otto, 3610), Err(Undisclosed::Waiting));
        for n in asked.0.len()..WAITING_MAX {
            let name = format!("f{n}");
            assert_eq!(asked.second(&name, &olga, 3610), Err(Undisclosed::Waiting));
        }
        assert_eq!(asked.second("more", &olga, 3610), Err(Undisclosed::TooMany));
    }
}
