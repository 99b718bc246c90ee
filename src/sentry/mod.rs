//! The extraction guard at work in a server. It is asked before the queue where a principal stands and what is left of its
//! budgets, and told after an answer what was asked; a thread of its own does the judging, so that no request waits for it.
//!
//! Nothing of a prompt but keyed hashes reaches it, and they are gone after one look.

mod cipher;
mod days;
mod desk;
mod disclosure;
mod ledger;
mod report;
mod store;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use casemate_attestation::Sha256Digest;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

pub use disclosure::{Disclosed, Undisclosed};
pub use ledger::{Book, Changes, Floor, Found, Given, Ledger, LedgerError, Loss};
pub use report::{
    Explanation, Released, Shared as SharedTemplate, Spent, Standing as ReportedStanding, Status,
};
pub use store::{LedgerKey, Store};

use crate::audit::AuditLog;
use crate::guard::counters::Day;
use crate::guard::scaffold::{Seals, Wording};
use crate::guard::{
    AccountId, Accounts, Background, Counters, Families, GuardKey, Meter, MeterError, Pace, People,
    Prompt, Step, Tally, Terms, Wants, Watch,
};
use crate::policy::{GuardMode, GuardPolicy, Principal, TeamName, Workload, WorkloadName};
use desk::Desk;

/// Prompts and requests that may wait for the thread.
const WAITING_MAX: usize = 4096;
/// Seconds that the ledger may refuse to be written before nothing more is given.
const UNWRITTEN_SECONDS_MAX: u64 = 60;

/// Bounds and beginnings of a guard.
pub struct Setup {
    /// Where it keeps what must outlive it.
    pub ledger: Box<dyn Ledger>,
    /// In what state that was found.
    pub found: Found,
    /// Principals whose sketches are kept at once; 24 KiB each.
    pub principals_max: usize,
    /// Texts that anybody writes, a line each.
    pub background: Vec<String>,
    /// How anybody begins to ask, a line each.
    pub instructions: Vec<String>,
    /// How ladders move, for those of whom something is known already.
    pub pace: Pace,
    /// Where steps are recorded.
    pub audit: AuditLog,
    /// Whether policy wants counters of each day.
    pub counts_days: bool,
    /// Whether policy lets two officers open wording of shared templates.
    pub keeps_wording: bool,
    /// Where what is told of days is written for whoever watches the machine.
    pub days_file: Option<PathBuf>,
    /// Seconds since 1970.
    pub now: u64,
}

/// Why a guard does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SentryError {
    /// What must outlive a server.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No randomness, or no thread.
    #[error("the system gives the guard no {0}")]
    System(&'static str),
}

/// Where a principal stands, as a request finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Which measures hold.
    pub step: Step,
    /// Since when, seconds.
    pub since: u64,
    /// Names it towards the principal and the officer.
    pub reference: String,
    /// Whether it was taken while the guard only watched.
    pub(crate) shadow: bool,
}

/// A prompt that was answered.
pub struct Seen {
    /// Words of it that are to be kept, sealed.
    pub wording: Vec<Wording>,
    /// Whose.
    pub principal: Principal,
    /// Its team.
    pub team: TeamName,
    /// What it says of its sender.
    pub prompt: Prompt,
    /// What policy says.
    pub terms: Terms,
    /// Seconds since 1970.
    pub now: u64,
}

/// What the thread is told.
enum Order {
    Seen(Box<Seen>),
    /// A request was refused because of a step.
    Knock(Principal, TeamName, Terms, u64),
    Status(u64, oneshot::Sender<Status>),
    Explain(Principal, oneshot::Sender<Explanation>),
    Decide(
        Box<Decision>,
        oneshot::Sender<Result<Option<Released>, Unrecorded>>,
    ),
    /// What is kept of wording may have changed by policy.
    Wording,
    Disclose(
        String,
        Box<Principal>,
        u64,
        oneshot::Sender<Result<Disclosed, Undisclosed>>,
    ),
    /// See whether the day is over: seconds since 1970, and of a clock that nobody can set.
    CloseDay(u64, u64, oneshot::Sender<()>),
    /// Write what must outlive the server now.
    Flush(oneshot::Sender<Result<(), LedgerError>>),
}

/// An officer's decision that could not be recorded, and therefore does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the decision could not be recorded and does not hold")]
pub struct Unrecorded;

/// An officer's word about a principal.
pub struct Decision {
    /// Whose case.
    pub principal: Principal,
    /// Where it stands from now on.
    pub to: Step,
    /// Who says so.
    pub officer: Principal,
    /// What policy says of the principal's team.
    pub terms: Terms,
    /// Seconds since 1970.
    pub now: u64,
}

/// What requests and the thread share. No lock is held for longer than a few look-ups.
struct Shared {
    standings: Mutex<HashMap<String, Standing>>,
    /// Where those stand of whom nothing is known; above the first step after a loss.
    unknown: Option<Standing>,
    meter: Mutex<Meter>,
    declared: Mutex<HashMap<WorkloadName, (u64, u64)>>,
    counters: Mutex<Counters>,
    /// What was told of days, oldest first.
    days: Mutex<Vec<Day>>,
    /// Shingles whose words are to be kept.
    wanted: Mutex<Arc<HashSet<u64>>>,
    keeps_wording: AtomicBool,
    generation: AtomicU64,
    /// Since when the ledger refuses, seconds; 0 while it does not.
    unwritten_since: AtomicU64,
    /// Prompts that came while the thread was too busy.
    missed: AtomicU64,
}

/// Takes prompts apart. Cheap to clone.
#[derive(Clone)]
pub struct Reader(Arc<Glass>);

struct Glass {
    key: GuardKey,
    background: Background,
    seals: Seals,
    shared: Arc<Shared>,
}

impl Reader {
    /// What a text says of its sender; and, sealed, the words of shingles that two officers may open.
    #[must_use]
    pub fn read(&self, text: &str) -> (Prompt, Vec<Wording>) {
        let Glass {
            key,
            background,
            seals,
            shared,
        } = &*self.0;
        let prompt = Prompt::read(key, background, text);
        let wanted = Arc::clone(&lock(&shared.wanted));
        // The fewer are looked for among the more: a family wants the words of sixteen, and a prompt has hundreds.
        let all = prompt.shingles();
        let any = if wanted.len() < all.len() {
            wanted.iter().any(|one| all.binary_search(one).is_ok())
        } else {
            all.iter().any(|one| wanted.contains(one))
        };
        let wording = match any {
            true => seals.wording(key, text, &wanted),
            false => Vec::new(),
        };
        (prompt, wording)
    }

    fn hash(&self, principal: &Principal) -> u64 {
        self.0.key.hash(principal.as_str().as_bytes())
    }

    fn open(&self, wording: &Wording) -> Option<String> {
        self.0.seals.open(wording)
    }
}

/// The guard of one server.
pub struct Sentry {
    shared: Arc<Shared>,
    reader: Reader,
    orders: SyncSender<Order>,
}

impl std::fmt::Debug for Sentry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sentry(..)")
    }
}

impl Sentry {
    /// Reads the ledger, makes a key, and starts the thread. It ends when the guard is dropped.
    ///
    /// # Errors
    /// [`SentryError`].
    pub fn start(mut setup: Setup) -> Result<Self, SentryError> {
        let book = setup.ledger.read()?;
        let key = GuardKey::new(random()?);
        let lines = |lines: &[String]| Background::of_lines(&key, lines.iter().map(String::as_str));
        let seals = Seals::new(&Zeroizing::new(random()?)).ok_or(SentryError::System("cipher"))?;
        let families = Families::new(lines(&setup.instructions), setup.now);
        let background = lines(&setup.background);
        let watch = Watch::new(key.clone(), People::new(setup.principals_max), families);
        let notes = desk::resumed(book.notes, &setup.pace, (setup.found, setup.now));
        let unknown = desk::unknown(&book.loss, &setup.pace, setup.now);
        let standings = notes.iter().filter_map(|(name, note)| {
            let standing = Standing::of_note(note);
            (standing.step > Step::Open).then(|| (name.clone(), standing))
        });
        let shared = Arc::new(Shared {
            standings: Mutex::new(standings.collect()),
            unknown: unknown.as_ref().map(Standing::of_note),
            meter: Mutex::new(Meter::of_rows(book.accounts, book.loss.floors)),
            declared: Mutex::default(),
            counters: Mutex::new(Counters::new(
                setup.counts_days,
                setup.now,
                book.days.iter().map(|day| day.begins).max(),
            )),
            days: Mutex::new(book.days),
            wanted: Mutex::default(),
            keeps_wording: AtomicBool::new(setup.keeps_wording),
            generation: AtomicU64::new(setup.ledger.generation()),
            unwritten_since: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        });
        let (orders, waiting) = sync_channel(WAITING_MAX);
        let kept = desk::Kept {
            ledger: setup.ledger,
            audit: setup.audit,
            days_file: setup.days_file,
        };
        let reader = Reader(Arc::new(Glass {
            key,
            background,
            seals,
            shared: Arc::clone(&shared),
        }));
        let kept = (kept, reader.clone());
        let desk = Desk::new(watch, notes, unknown, kept, Arc::clone(&shared));
        spawn(desk, waiting)?;
        Ok(Self {
            shared,
            reader,
            orders,
        })
    }

    /// Takes prompts apart, away from here.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Where a principal stands. Nothing holds while policy only watches.
    #[must_use]
    pub fn standing(&self, mode: GuardMode, principal: &Principal) -> Standing {
        let open = Standing::open;
        if mode != GuardMode::On {
            return open();
        }
        let standings = lock(&self.shared.standings);
        let known = standings.get(principal.as_str()).cloned();
        let standing = known
            .or_else(|| self.shared.unknown.clone())
            .unwrap_or_else(open);
        if standing.shadow { open() } else { standing }
    }

    /// Whether one more token may be given to a request that wants this.
    ///
    /// # Errors
    /// [`MeterError`].
    pub fn room(&self, accounts: &Accounts, wants: Wants) -> Result<(), MeterError> {
        lock(&self.shared.meter).room(accounts, wants)
    }

    /// Counts what was given. An error says that nothing more may follow.
    ///
    /// # Errors
    /// [`MeterError`].
    pub fn charge(&self, accounts: &Accounts, tally: Tally) -> Result<(), MeterError> {
        lock(&self.shared.meter).charge(accounts, tally)
    }

    /// Whether what is given can still be written down.
    #[must_use]
    pub fn writes(&self, now: u64) -> bool {
        let since = self.shared.unwritten_since.load(Ordering::Relaxed);
        since == 0 || now.saturating_sub(since) < UNWRITTEN_SECONDS_MAX
    }

    /// Counts a prompt of a declared workload. False where its rate is used up: the prompt is not declared then.
    #[must_use]
    pub fn declared(&self, name: &WorkloadName, workload: &Workload, now: u64) -> bool {
        let length = u64::from(workload.window_seconds).max(1);
        let window = now / length;
        let mut declared = lock(&self.shared.declared);
        let (in_window, count) = declared.entry(name.clone()).or_insert((window, 0));
        // A clock that goes back begins nothing anew.
        if window > *in_window {
            (*in_window, *count) = (window, 0);
        }
        let fits = *count < workload.prompts;
        *count = count.saturating_add(u64::from(fits));
        fits
    }

    /// Tells of a prompt that was answered. Never waits: while the thread is that far behind, the prompt is missed and counted.
    pub fn observe(&self, seen: Seen) {
        self.send(Order::Seen(Box::new(seen)));
    }

    /// Tells of a request that was refused because of a step: time passes for the ladder all the same.
    pub fn knock(&self, principal: &Principal, team: &TeamName, terms: Terms, now: u64) {
        self.refused(principal, now);
        self.send(Order::Knock(principal.clone(), team.clone(), terms, now));
    }

    /// Counts an answer of so many tokens, prompt and answer together, among those of its day.
    pub fn answered(&self, principal: &Principal, tokens: u64, now: u64) {
        let name = self.reader.hash(principal);
        lock(&self.shared.counters).answered(name, tokens, now);
    }

    /// Counts that the guard refused a principal something that day.
    pub fn refused(&self, principal: &Principal, now: u64) {
        let name = self.reader.hash(principal);
        lock(&self.shared.counters).refused(name, now);
    }

    /// What policy wants from now on: counters of each day, and wording of shared templates for two officers.
    pub fn follow(&self, policy: &GuardPolicy) {
        lock(&self.shared.counters).switch(policy.counts_days());
        let keeps = policy.keeps_wording();
        self.shared.keeps_wording.store(keeps, Ordering::Relaxed);
        self.send(Order::Wording);
    }

    /// Opens the wording of a shared template for an officer, if another one asked for it within the hour; otherwise this one has
    /// asked now. `None` where the guard is too busy.
    pub async fn disclose(
        &self,
        family: String,
        officer: Principal,
        now: u64,
    ) -> Option<Result<Disclosed, Undisclosed>> {
        let (reply, answer) = oneshot::channel();
        self.orders
            .try_send(Order::Disclose(family, Box::new(officer), now, reply))
            .ok()?;
        answer.await.ok()
    }

    /// What was told of days, oldest first.
    #[must_use]
    pub fn days(&self) -> Vec<Day> {
        lock(&self.shared.days).clone()
    }

    /// Closes the day if it is over, as the guard's thread does each second: `uptime` is of a clock that nobody can set.
    pub async fn close_day(&self, now: u64, uptime: u64) {
        let (reply, done) = oneshot::channel();
        self.send(Order::CloseDay(now, uptime, reply));
        let _ = done.await;
    }

    fn send(&self, order: Order) {
        match self.orders.try_send(order) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.shared.missed.fetch_add(1, Ordering::Relaxed);
            }
            // Its thread has died: nothing is written down any more, so that nothing more is given.
            Err(TrySendError::Disconnected(_)) => {
                let since = &self.shared.unwritten_since;
                let _ = since.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// What an officer may see of all.
    pub async fn status(&self, now: u64) -> Option<Status> {
        let (reply, answer) = oneshot::channel();
        self.orders.try_send(Order::Status(now, reply)).ok()?;
        answer.await.ok()
    }

    /// What an officer may see of one principal.
    pub async fn explain(&self, principal: Principal) -> Option<Explanation> {
        let (reply, answer) = oneshot::channel();
        self.orders
            .try_send(Order::Explain(principal, reply))
            .ok()?;
        answer.await.ok()
    }

    /// Puts a principal where an officer says, and records it before it holds. `None` where it stood there already.
    ///
    /// # Errors
    /// [`Unrecorded`], also where the guard is too busy to decide.
    pub async fn decide(&self, decision: Decision) -> Result<Option<Released>, Unrecorded> {
        let (reply, answer) = oneshot::channel();
        self.orders
            .try_send(Order::Decide(Box::new(decision), reply))
            .map_err(|_| Unrecorded)?;
        answer.await.map_err(|_| Unrecorded)?
    }

    /// Writes what must outlive the server. For an orderly end.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn flush(&self) -> Result<(), LedgerError> {
        let (reply, answer) = oneshot::channel();
        let gone = || LedgerError::Database("its thread has ended".into());
        self.orders.send(Order::Flush(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// What the broker is to hold as a floor: commits of the ledger, and what teams and everybody were given.
    #[must_use]
    pub fn floor(&self) -> Floor {
        let generation = self.shared.generation.load(Ordering::Relaxed);
        let meter = lock(&self.shared.meter);
        let shared = meter
            .all()
            .filter(|((holder, _), _)| !holder.as_str().starts_with("principal/"));
        let mut given: Vec<(AccountId, Given)> = shared
            .map(|(id, tally)| (id.clone(), Given::of(&tally)))
            .collect();
        given.sort_by(|(one, _), (other, _)| one.cmp(other));
        Floor { generation, given }
    }

    /// What a holder was given of a model.
    #[must_use]
    pub fn used(&self, holder: &crate::guard::Holder, model: Sha256Digest) -> Tally {
        lock(&self.shared.meter).used(holder, model)
    }
}

impl Standing {
    fn open() -> Self {
        Self {
            step: Step::Open,
            since: 0,
            reference: String::new(),
            shadow: false,
        }
    }

    fn of_note(note: &crate::guard::Note) -> Self {
        Self {
            step: note.step,
            since: note.since,
            reference: note.reference.clone(),
            shadow: note.shadow,
        }
    }
}

fn spawn(mut desk: Desk, waiting: Receiver<Order>) -> Result<(), SentryError> {
    let work = move || desk.work(&waiting);
    let started = thread::Builder::new().name("guard".into()).spawn(work);
    started.map(drop).map_err(|_| SentryError::System("thread"))
}

fn random<const N: usize>() -> Result<[u8; N], SentryError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled
        .map(|()| bytes)
        .map_err(|_| SentryError::System("randomness"))
}

/// No table is left half-changed by a panic: each change is one insertion or a saturating addition.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
