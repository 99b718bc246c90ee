//! The guard when its ledger fails, when its thread is busy, and what it tells of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::audit::Durability;
use crate::guard::{Allowance, Holder, Note};
use crate::session;

/// A ledger that refuses to be written while it is told to.
struct Flaky {
    refuses: Arc<AtomicBool>,
    tokens: Arc<AtomicU64>,
}

impl Ledger for Flaky {
    fn read(&mut self) -> Result<Book, LedgerError> {
        Ok(Book::default())
    }

    fn write(&mut self, changes: &Changes) -> Result<Vec<(AccountId, Tally)>, LedgerError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(LedgerError::Database("as told".into()));
        }
        let of_all = |(id, tally): &(AccountId, Tally)| {
            let organisation = id.0 == Holder::organisation();
            let tokens = if organisation { tally.tokens } else { 0 };
            self.tokens.fetch_add(tokens, Ordering::SeqCst);
            (id.clone(), *tally)
        };
        Ok(changes.given.iter().map(of_all).collect())
    }

    fn generation(&self) -> u64 {
        1
    }
}

struct Place {
    sentry: Sentry,
    refuses: Arc<AtomicBool>,
    tokens: Arc<AtomicU64>,
    folder: tempfile::TempDir,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let (refuses, tokens) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let ledger = Flaky {
        refuses: Arc::clone(&refuses),
        tokens: Arc::clone(&tokens),
    };
    let setup = Setup {
        ledger: Box::new(ledger),
        found: Found::First,
        principals_max: 10,
        background: Vec::new(),
        instructions: Vec::new(),
        pace: Pace::default(),
        audit: AuditLog::open(&folder.path().join("audit"), Durability::System).unwrap(),
        keeps_wording: true,
        counts_days: true,
        days_file: Some(folder.path().join("days.jsonl")),
        now: 0,
    };
    Place {
        sentry: Sentry::start(setup).unwrap(),
        refuses,
        tokens,
        folder,
    }
}

#[tokio::test]
async fn what_could_not_be_written_is_written_once_later_and_meanwhile_nothing_is_given_for_long() {
    let place = place();
    let model = Sha256Digest::of(b"model");
    let accounts = Accounts::new(model, "ada", "writers", [Allowance::default(); 3]);
    place.sentry.room(&accounts, Wants::default()).unwrap();
    place.sentry.charge(&accounts, Tally::of_text(5)).unwrap();
    let now = session::now().secs();
    assert!(place.sentry.writes(now));
    assert!(place.sentry.flush().await.is_err());
    assert!(place.sentry.writes(now + 30), "a disk may be slow");
    assert!(!place.sentry.writes(now + 120));
    place.sentry.charge(&accounts, Tally::of_text(2)).unwrap();
    assert!(place.sentry.flush().await.is_err());
    let status = place.sentry.status(now + 120).await.unwrap();
    assert!(
        (100..=121).contains(&status.unwritten_seconds),
        "{status:?}"
    );

    place.refuses.store(false, Ordering::SeqCst);
    place.sentry.flush().await.unwrap();
    place.sentry.flush().await.unwrap();
    assert_eq!(place.tokens.load(Ordering::SeqCst), 7);
    assert!(place.sentry.writes(now + 120));
    assert_eq!(place.sentry.used(&Holder::organisation(), model).tokens, 7);
}

#[test]
fn a_floor_has_teams_and_everybody_and_no_principal() {
    let place = place();
    let model = Sha256Digest::of(b"model");
    let accounts = Accounts::new(model, "ada", "writers", [Allowance::default(); 3]);
    place.sentry.room(&accounts, Wants::default()).unwrap();
    place.sentry.charge(&accounts, Tally::of_text(3)).unwrap();
    place
        .sentry
        .charge(&accounts, Tally::of_text(1).telling(1, 2))
        .unwrap();
    let floor = place.sentry.floor();
    let given = |holder| {
        let given = Given {
            millibits: 4000 + 14_476,
            told_millibits: 14_476,
            arranged_millibits: 0,
        };
        ((holder, model), given)
    };
    let expected = [
        given(Holder::organisation()),
        given(Holder::team("writers")),
    ];
    assert_eq!(floor.given, expected);
}

#[test]
fn after_a_loss_everybody_is_one_step_up_for_one_quiet_time() {
    let pace = Pace::default();
    let loss = Loss {
        at: 1000,
        floors: Vec::new(),
    };
    let quiet = pace.quiet.as_secs();
    let step = |now| desk::unknown(&loss, &pace, now).map(|note| note.step);
    assert_eq!(step(1000), Some(Step::OptionsWithheld));
    assert_eq!(step(999 + quiet), Some(Step::OptionsWithheld));
    assert_eq!(step(1000 + quiet), None);
    assert_eq!(
        desk::unknown(&Loss::default(), &pace, 5),
        None,
        "never lost"
    );

    let mut slowed = Note::blank(5);
    slowed.step = Step::OptionsWithheld;
    let notes = || {
        vec![
            ("ada".to_owned(), slowed.clone()),
            ("bob".to_owned(), Note::blank(5)),
        ]
    };
    let steps = |found| {
        let notes = desk::resumed(notes(), &pace, (found, 2000));
        [notes["ada"].step, notes["bob"].step]
    };
    assert_eq!(steps(Found::Whole), [Step::OptionsWithheld, Step::Open]);
    for found in [Found::Lost, Found::RolledBack, Found::Edited] {
        assert_eq!(
            steps(found),
            [Step::ReasoningWithheld, Step::OptionsWithheld]
        );
    }
}

#[test]
fn s23_a_rate_is_used_up_and_begins_anew_with_its_window_alone() {
    let place = place();
    let name: WorkloadName = "tickets".parse().unwrap();
    let workload = Workload {
        owner: crate::policy::Owner::Team("writers".parse().unwrap()),
        template: crate::guard::Template::of_text("one two three four five six {{x}}").unwrap(),
        prompts: 2,
        window_seconds: 100,
        expires: casemate_attestation::UnixTime::from_secs(u64::MAX),
    };
    let sent = |now| place.sentry.declared(&name, &workload, now);
    assert_eq!([sent(100), sent(150), sent(199)], [true, true, false]);
    assert!(!sent(50), "a clock that goes back");
    assert!(sent(200));
}

#[tokio::test]
async fn a_thread_that_is_gone_gives_nothing_more() {
    let mut place = place();
    let (orders, waiting) = std::sync::mpsc::sync_channel(1);
    drop(waiting);
    place.sentry.orders = orders;
    let (ada, writers) = (
        "dns:ada.example".parse().unwrap(),
        "writers".parse().unwrap(),
    );
    let terms = crate::policy::GuardPolicy::unspoken().terms(&writers);
    place.sentry.knock(&ada, &writers, terms, 0);
    assert!(!place.sentry.writes(session::now().secs()));
    assert!(place.sentry.status(0).await.is_none());
}

#[tokio::test]
async fn a_decision_that_cannot_be_recorded_does_not_hold() {
    let place = place();
    let writers = "writers".parse().unwrap();
    let ada: Principal = "dns:ada.example".parse().unwrap();
    let decide = |to| {
        place.sentry.decide(Decision {
            principal: ada.clone(),
            to,
            officer: "dns:olga.example".parse().unwrap(),
            terms: crate::policy::GuardPolicy::unspoken().terms(&writers),
            now: 5,
        })
    };
    assert_eq!(
        decide(Step::Slowed).await.unwrap().unwrap().to,
        Step::Slowed
    );
    assert_eq!(decide(Step::Slowed).await, Ok(None));
    let explained = async || place.sentry.explain(ada.clone()).await.unwrap();
    let before = explained().await;
    let log = place.folder.path().join("audit");
    std::fs::rename(&log, log.with_extension("1")).unwrap();
    std::fs::create_dir(&log).unwrap();
    assert_eq!(decide(Step::Open).await, Err(Unrecorded));
    assert_eq!(explained().await, before);
}

#[tokio::test]
async fn a_day_that_cannot_be_written_down_is_told_to_nobody() {
    const DAY: u64 = 86_400;
    let place = place();
    place.sentry.close_day(DAY, DAY).await;
    assert_eq!(place.sentry.days(), []);
    assert!(!place.folder.path().join("days.jsonl").exists());
    // Not later either: what it would say then had other noise.
    place.refuses.store(false, Ordering::SeqCst);
    place.sentry.close_day(DAY + 1, DAY + 1).await;
    assert_eq!(place.sentry.days(), []);
    place.sentry.close_day(2 * DAY, 2 * DAY).await;
    let days = place.sentry.days();
    assert_eq!((days.len(), days[0].begins), (1, DAY));
}
