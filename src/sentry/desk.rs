//! The guard's thread: it alone knows wording, moves ladders, records each step, and writes the ledger once a second.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use casemate_attestation::UnixTime;

use super::disclosure::Asked;
use super::ledger::{Changes, Found, Ledger, LedgerError, Loss};
use super::report::{Explanation, Released, Spent, Standing as Reported, Status};
use super::{Decision, Order, Reader, Seen, Shared, Standing, Unrecorded, lock, random};
use crate::audit::{AuditEvent, AuditLog, band};
use crate::guard::{Change, Note, Pace, Sighting, Step, Terms, Watch};
use crate::policy::{Principal, TeamName};
use crate::session::now;

/// How often the ledger is written, where there is something to write.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Evidence below this is not worth a row: it would be as soon back.
const EVIDENCE_KEPT: f64 = 0.05;
/// Notes that the ledger holds. Beyond them only who stands on a step, which takes many prompts, gets one.
const NOTES_MAX: usize = 65_536;
/// Principals of a report.
const REPORTED_MAX: usize = 1000;

/// Notes of an earlier process. Where the ledger is whole everybody stands where he stood, with the wealth of his bets; only the
/// wording must be seen anew. After a loss everybody who is known stands one step higher.
pub(super) fn resumed(
    notes: Vec<(String, Note)>,
    pace: &Pace,
    (found, now): (Found, u64),
) -> HashMap<String, Note> {
    let resumed = |(name, note): (String, Note)| match found.is_loss() {
        true => (name, note.recovered(pace, now)),
        false => (name, note),
    };
    notes.into_iter().map(resumed).collect()
}

/// Where somebody stands of whom nothing is known: one step up for one quiet time after a loss.
pub(super) fn unknown(loss: &Loss, pace: &Pace, now: u64) -> Option<Note> {
    let fresh = loss.at > 0 && now.saturating_sub(loss.at) < pace.quiet.as_secs();
    fresh.then(|| Note {
        reference: format!("loss-{}", loss.at),
        ..Note::blank(loss.at).recovered(pace, loss.at)
    })
}

/// What the desk keeps things in.
pub(super) struct Kept {
    pub(super) ledger: Box<dyn Ledger>,
    pub(super) audit: AuditLog,
    pub(super) days_file: Option<PathBuf>,
}

pub(super) struct Desk {
    pub(super) watch: Watch,
    /// What is known of principals that are not in the watch, or were written of those that are.
    notes: HashMap<String, Note>,
    unknown: Option<Note>,
    /// Principals whose notes may have changed since the ledger was written.
    touched: BTreeSet<String>,
    pub(super) ledger: Box<dyn Ledger>,
    pub(super) shared: Arc<Shared>,
    pub(super) audit: AuditLog,
    pub(super) days_file: Option<PathBuf>,
    pub(super) reader: Reader,
    pub(super) asked: Asked,
    written_at: Instant,
    begun: Instant,
}

impl Desk {
    pub(super) fn new(
        watch: Watch,
        notes: HashMap<String, Note>,
        unknown: Option<Note>,
        (kept, reader): (Kept, Reader),
        shared: Arc<Shared>,
    ) -> Self {
        let Kept {
            ledger,
            audit,
            days_file,
        } = kept;
        let touched = notes.keys().cloned().collect();
        Self {
            watch,
            notes,
            unknown,
            touched,
            ledger,
            shared,
            audit,
            days_file,
            reader,
            asked: Asked::default(),
            written_at: Instant::now(),
            begun: Instant::now(),
        }
    }

    /// Works until nobody can send an order any more, then writes a last time.
    pub(super) fn work(&mut self, waiting: &Receiver<Order>) {
        self.show_days();
        loop {
            match waiting.recv_timeout(WRITE_EVERY) {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.written_at.elapsed() >= WRITE_EVERY {
                let _ = self.write();
                self.close_day(now().secs(), self.begun.elapsed().as_secs());
            }
        }
        let _ = self.write();
    }

    fn take(&mut self, order: Order) {
        // An answer that nobody waits for any more is no loss.
        match order {
            Order::Seen(seen) => self.see(&seen),
            Order::Knock(principal, team, terms, now) => self.knock(principal, team, terms, now),
            Order::Status(now, reply) => drop(reply.send(self.status(now))),
            Order::Explain(principal, reply) => drop(reply.send(self.explain(&principal))),
            Order::Decide(decision, reply) => drop(reply.send(self.decide(*decision))),
            Order::Wording => self.keep(&[]),
            Order::Disclose(family, officer, now, reply) => {
                drop(reply.send(self.disclose(&family, *officer, now)));
            }
            Order::CloseDay(now, uptime, reply) => {
                self.close_day(now, uptime);
                let _ = reply.send(());
            }
            Order::Flush(reply) => drop(reply.send(self.write())),
        }
    }

    fn see(&mut self, seen: &Seen) {
        let Seen {
            wording,
            principal,
            team,
            prompt,
            terms,
            now,
        } = seen;
        let Some(chance) = chance() else { return };
        let sighting = Sighting {
            principal: principal.as_str(),
            prompt,
            terms,
            now: *now,
            chance,
        };
        let known = known(&self.notes, &self.unknown, principal);
        let change = self.watch.observe(&sighting, known);
        self.keep(wording);
        self.after(principal, team, terms, (change, *now));
    }

    fn knock(&mut self, principal: Principal, team: TeamName, terms: Terms, now: u64) {
        let Some(chance) = chance() else { return };
        let known = known(&self.notes, &self.unknown, &principal);
        let change = self
            .watch
            .knock(principal.as_str(), &terms, (now, chance), known);
        self.after(&principal, &team, &terms, (change, now));
    }

    fn after(
        &mut self,
        principal: &Principal,
        team: &TeamName,
        terms: &Terms,
        (change, now): (Option<Change>, u64),
    ) {
        self.touched.insert(principal.as_str().to_owned());
        self.stand(principal);
        let Some(change) = change else { return };
        let event = self.event(principal, team, terms, &change);
        self.audit.note(UnixTime::from_secs(now), event);
        // A step is worth a commit of its own: a crash must not take it back.
        let _ = self.write();
    }

    /// Tells requests where a principal stands now.
    fn stand(&self, principal: &Principal) {
        let Some(person) = self.watch.people().of(principal.as_str()) else {
            return;
        };
        let standing = Standing::of_note(&person.note());
        let mut standings = lock(&self.shared.standings);
        if standing.step > Step::Open || self.unknown.is_some() {
            standings.insert(principal.as_str().to_owned(), standing);
        } else {
            standings.remove(principal.as_str());
        }
    }

    fn event(
        &self,
        principal: &Principal,
        team: &TeamName,
        terms: &Terms,
        change: &Change,
    ) -> AuditEvent {
        let note = self
            .watch
            .people()
            .of(principal.as_str())
            .map(|person| person.note());
        AuditEvent::GuardStep {
            principal: principal.clone(),
            team: team.clone(),
            shadow: terms.shadow,
            from: change.from.code(),
            to: change.to.code(),
            reason: change.reason.map_or("quiet", |reason| reason.code()),
            reference: note
                .as_ref()
                .map(|note| note.reference.clone())
                .unwrap_or_default(),
            prompts_band: band(note.map_or(0, |note| note.prompts)),
            families_band: band(self.watch.families_of(principal.as_str()) as u64),
        }
    }

    /// Writes what is fresh. After an error it is as fresh as before, and tried again.
    fn write(&mut self) -> Result<(), LedgerError> {
        self.written_at = Instant::now();
        let fresh = lock(&self.shared.meter).fresh();
        let notes: Vec<(String, Option<Note>)> = self
            .touched
            .iter()
            .filter_map(|name| Some((name.clone(), self.kept(name)?)))
            .collect();
        let changes = Changes {
            given: fresh,
            notes,
            ..Changes::default()
        };
        if changes.is_nothing() {
            return Ok(());
        }
        match self.ledger.write(&changes) {
            Ok(totals) => {
                let mut meter = lock(&self.shared.meter);
                for ((id, added), (_, total)) in changes.given.iter().zip(&totals) {
                    meter.settle(id, *added, *total);
                }
                drop(meter);
                for (name, note) in changes.notes {
                    match note {
                        Some(note) => self.notes.insert(name, note),
                        None => self.notes.remove(&name),
                    };
                }
                self.touched.clear();
                self.note_generation();
                self.shared.unwritten_since.store(0, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "what was given cannot be written down");
                let since = now().secs().max(1);
                let first = &self.shared.unwritten_since;
                let _ = first.compare_exchange(0, since, Ordering::Relaxed, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Tells others that the ledger went on.
    pub(super) fn note_generation(&self) {
        let generation = self.ledger.generation();
        self.shared.generation.store(generation, Ordering::Relaxed);
    }

    /// What the ledger is to hold of somebody: `None` if what it holds is right.
    fn kept(&self, name: &str) -> Option<Option<Note>> {
        let written = self.notes.get(name);
        let Some(person) = self.watch.people().of(name) else {
            return written.map(|note| Some(note.clone()));
        };
        let note = person.note();
        let room = written.is_some() || self.notes.len() < NOTES_MAX;
        let matters = self.unknown.is_some() || person.evidence() >= EVIDENCE_KEPT;
        let worth = note.step > Step::Open || (matters && room);
        match (worth, written) {
            (true, _) => Some(Some(note)),
            (false, Some(_)) => Some(None),
            (false, None) => None,
        }
    }

    fn status(&self, now: u64) -> Status {
        let mut standing: Vec<Reported> = lock(&self.shared.standings)
            .iter()
            .filter(|(_, standing)| standing.step > Step::Open)
            .map(|(name, standing)| Reported {
                principal: name.clone(),
                step: standing.step,
                since: standing.since,
                shadow: standing.shadow,
                reference: standing.reference.clone(),
            })
            .collect();
        standing
            .sort_by(|one, other| (other.step, &one.principal).cmp(&(one.step, &other.principal)));
        standing.truncate(REPORTED_MAX);
        let look = self.watch.to_look_at();
        let look_at = look
            .iter()
            .take(REPORTED_MAX)
            .map(|(name, _)| (*name).to_owned());
        let organisation = crate::guard::Holder::organisation();
        let meter = lock(&self.shared.meter);
        let given = meter
            .all()
            .filter(|((holder, _), _)| *holder == organisation);
        let since = self.shared.unwritten_since.load(Ordering::Relaxed);
        Status {
            principals: self.watch.people().len() as u64,
            standing,
            look_at: look_at.collect(),
            families: self.watch.families().families().len() as u64,
            shared: self.shared_templates(),
            given: given
                .map(|((_, model), tally)| Spent::of(*model, &tally))
                .collect(),
            missed_prompts: self.shared.missed.load(Ordering::Relaxed),
            unwritten_seconds: if since == 0 {
                0
            } else {
                now.saturating_sub(since)
            },
        }
    }

    fn explain(&self, principal: &Principal) -> Explanation {
        let name = principal.as_str();
        let known = self
            .watch
            .people()
            .of(name)
            .map(|person| (person.note(), person.evidence()));
        let kept = || {
            let note = self.notes.get(name).or(self.unknown.as_ref());
            note.map(|note| (note.clone(), 0.0))
        };
        let (note, evidence) = known.or_else(kept).unwrap_or_else(|| (Note::blank(0), 0.0));
        let holder = crate::guard::Holder::principal(name);
        let meter = lock(&self.shared.meter);
        let given = meter.all().filter(|((known, _), _)| *known == holder);
        Explanation {
            principal: name.to_owned(),
            step: note.step,
            since: note.since,
            shadow: note.shadow,
            reason: note.reason.map(|reason| reason.code().to_owned()),
            reference: note.reference,
            evidence_percent: percent(evidence),
            prompts_band: band(note.prompts),
            families_band: band(self.watch.families_of(name) as u64),
            given: given
                .map(|((_, model), tally)| Spent::of(*model, &tally))
                .collect(),
        }
    }

    fn decide(&mut self, decision: Decision) -> Result<Option<Released>, Unrecorded> {
        let Decision {
            principal,
            to,
            officer,
            terms,
            now,
        } = decision;
        let name = principal.as_str();
        let chance = chance().ok_or(Unrecorded)?;
        let known = || known(&self.notes, &self.unknown, &principal)();
        let here = self.watch.people().of(name).map(|person| person.note());
        let before = here.or_else(known).unwrap_or_else(|| Note::blank(now));
        let change = self.watch.decide(name, to, &terms, (now, chance), known);
        let Some(change) = change else {
            return Ok(None);
        };
        let after = self.watch.people().of(name).map(|person| person.note());
        let reference = after.map(|note| note.reference).unwrap_or_default();
        let event = AuditEvent::GuardDecided {
            principal: principal.clone(),
            officer,
            from: change.from.code(),
            to: change.to.code(),
            reference: reference.clone(),
        };
        // Nobody is released, or closed, whose record is not written.
        let recorded = self.audit.record_blocking(UnixTime::from_secs(now), event);
        if let Err(error) = recorded {
            tracing::error!(%error, "an officer's decision is taken back, because it cannot be recorded");
            self.watch.put_back(name, &before);
            return Err(Unrecorded);
        }
        self.touched.insert(name.to_owned());
        self.stand(&principal);
        // What is not written now is tried again each second.
        let _ = self.write();
        Ok(Some(Released {
            principal: name.to_owned(),
            from: change.from,
            to: change.to,
            reference,
        }))
    }
}

/// What is known of somebody who is not in the watch.
fn known<'a>(
    notes: &'a HashMap<String, Note>,
    unknown: &'a Option<Note>,
    principal: &'a Principal,
) -> impl FnOnce() -> Option<Note> + 'a {
    move || notes.get(principal.as_str()).or(unknown.as_ref()).cloned()
}

/// Fresh randomness; without it nothing is judged, and the log says so.
fn chance() -> Option<u64> {
    match random::<8>() {
        Ok(bytes) => Some(u64::from_le_bytes(bytes)),
        Err(error) => {
            tracing::error!(%error, "a prompt was not judged");
            None
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to a range that fits"
)]
fn percent(evidence: f64) -> u64 {
    (evidence * 100.0).clamp(0.0, 100.0) as u64
}
