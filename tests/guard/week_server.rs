//! G17: one of its weeks through what a server has, and quiet weeks behind it. Every step of the ladder has its record in
//! the audit log, and its way back: a quiet week for each, and an officer for those of the last two steps.
//!
//! The guard's key and the delays of its steps are the system's, as in a server: what is asserted here does not depend on them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use casemate::audit::{AuditLog, Durability};
use casemate::guard::{Pace, Step, Terms};
use casemate::policy::{GuardMode, Principal, TeamName};
use casemate::sentry::{Decision, Floor, LedgerKey, Seen, Sentry, Setup, Store};
use serde_json::Value;
use tempfile::TempDir;

use crate::traffic::{Chance, Traffic};
use crate::week::{BEGIN, BOTH, DAY, MORNING, Role, Week, name, terms, working_day};

const WEEK: u64 = 7 * DAY;
/// Days from the end of the week on in which everybody asks a few plain questions a day.
const QUIET_DAYS: u64 = 35;
const QUIET_PROMPTS: u64 = 5;

const ABOVE_OPEN: [Step; 5] = [
    Step::OptionsWithheld,
    Step::ReasoningWithheld,
    Step::Slowed,
    Step::SteppedUp,
    Step::Closed,
];

/// Somebody went from one step to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Move {
    who: String,
    at: u64,
    from: String,
    to: String,
}

impl Move {
    fn is_back(&self) -> bool {
        Step::of_code(&self.to) < Step::of_code(&self.from)
    }
}

/// A guard with its thread, its ledger and its records, and what was seen of it from outside.
struct Server {
    sentry: Sentry,
    folder: TempDir,
    team: TeamName,
    terms: Terms,
    stands: BTreeMap<usize, Step>,
    moves: Vec<Move>,
}

impl Server {
    fn start(traffic: &Traffic) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = LedgerKey::new([3; 32]);
        let ledger = folder.path().join("guard");
        let (store, found) = Store::open(
            &ledger,
            &key,
            "dns:server.example",
            &Floor::default(),
            BEGIN,
        )
        .unwrap();
        let setup = Setup {
            ledger: Box::new(store),
            found,
            principals_max: 1000,
            background: traffic.public.clone(),
            instructions: traffic.instructions.clone(),
            pace: Pace::default(),
            audit: AuditLog::open(&folder.path().join("audit"), Durability::System).unwrap(),
            counts_days: false,
            keeps_wording: false,
            days_file: None,
            now: BEGIN,
        };
        Self {
            sentry: Sentry::start(setup).unwrap(),
            folder,
            team: "writers".parse().unwrap(),
            terms: terms(),
            stands: BTreeMap::new(),
            moves: Vec::new(),
        }
    }

    fn stands(&self, who: usize) -> Step {
        self.stands.get(&who).copied().unwrap_or(Step::Open)
    }

    /// A prompt as a server takes it: who is on one of the last two steps is refused.
    async fn ask(&mut self, who: usize, text: &str, now: u64) {
        let principal = principal(who);
        if self.stands(who) >= Step::SteppedUp {
            self.sentry.knock(&principal, &self.team, self.terms, now);
        } else {
            let (prompt, wording) = self.sentry.reader().read(text);
            self.sentry.observe(Seen {
                wording,
                principal: principal.clone(),
                team: self.team.clone(),
                prompt,
                terms: self.terms,
                now,
            });
        }
        let explained = self.sentry.explain(principal).await.unwrap();
        self.note(who, explained.step, now);
    }

    async fn decide(&mut self, who: usize, to: Step, now: u64) {
        let decision = Decision {
            principal: principal(who),
            to,
            officer: "dns:olga.example".parse().unwrap(),
            terms: self.terms,
            now,
        };
        let released = self.sentry.decide(decision).await.unwrap().unwrap();
        assert_eq!((released.from, released.to), (self.stands(who), to));
        self.note(who, to, now);
    }

    fn note(&mut self, who: usize, step: Step, now: u64) {
        let from = self.stands(who);
        if from != step {
            self.stands.insert(who, step);
            self.moves.push(Move {
                who: name(who),
                at: now,
                from: from.code().to_owned(),
                to: step.code().to_owned(),
            });
        }
    }

    /// Records of steps, with what they give as the reason. An officer's decision, which is written when it is taken, is the last.
    fn recorded(&self) -> Vec<(Move, String)> {
        let text = fs::read_to_string(self.folder.path().join("audit")).unwrap();
        let records = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let word = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let steps =
            records.filter(|one| one["kind"] == "guard_step" || one["kind"] == "guard_decided");
        let of = |record: Value| {
            assert_ne!(word(&record, "reference"), "");
            let reason = match record["kind"] == "guard_decided" {
                true => word(&record, "officer"),
                false => word(&record, "reason"),
            };
            let moved = Move {
                who: word(&record, "principal"),
                at: record["time"].as_u64().unwrap(),
                from: word(&record, "from"),
                to: word(&record, "to"),
            };
            (moved, reason)
        };
        steps.map(of).collect()
    }
}

fn principal(who: usize) -> Principal {
    name(who).parse().unwrap()
}

async fn quiet_days(server: &mut Server, week: &Week, traffic: &Traffic, days: (u64, u64)) {
    let mut chance = Chance::new(19);
    for day in days.0..days.1 {
        for n in 0..QUIET_PROMPTS {
            let now = BEGIN + WEEK + day * DAY + MORNING + n * 3600;
            let texts = traffic.plain(week.roles.len(), &mut chance);
            for (who, text) in texts.into_iter().enumerate() {
                server.ask(who, text, now).await;
            }
        }
    }
}

/// The shortest time, in days, from a move that `from` chooses to the next one of the same principal, which quiet took back.
fn least_quiet(records: &[(Move, String)], from: impl Fn(&(Move, String)) -> bool) -> f64 {
    let mut of_each: BTreeMap<&str, Vec<&(Move, String)>> = BTreeMap::new();
    for record in records {
        of_each.entry(&record.0.who).or_default().push(record);
    }
    let pairs = of_each.values().flat_map(|moves| moves.windows(2));
    let pairs = pairs.filter(|pair| from(pair[0]) && pair[1].1 == "quiet");
    let seconds = pairs.map(|pair| pair[1].0.at - pair[0].0.at).min();
    seconds.unwrap_or(u64::MAX) as f64 / DAY as f64
}

#[tokio::test]
async fn g17_every_step_has_its_record_and_its_way_back() {
    let Some(traffic) = Traffic::read() else {
        return;
    };
    let mut chance = Chance::new(18);
    let week = Week::draw(&traffic, &working_day(BOTH), 0, &mut chance);
    let mut server = Server::start(&traffic);
    for sent in &week.sent {
        server.ask(sent.who, &sent.text, sent.at).await;
    }
    let on_a_step = |server: &Server, role: fn(&Role) -> bool| {
        let of_role = (0..).zip(&week.roles).filter(|(_, one)| role(one));
        let of_role: Vec<usize> = of_role.map(|(who, _)| who).collect();
        let above = of_role
            .iter()
            .filter(|who| server.stands(**who) > Step::Open);
        format!("{} of {}", above.count(), of_role.len())
    };
    println!(
        "G17, in a server: after the week {} crawlers, {} members of the family and {} honest people stand on a step",
        on_a_step(&server, |role| matches!(role, Role::Crawler(_))),
        on_a_step(&server, |role| *role == Role::Member),
        on_a_step(&server, |role| *role == Role::Honest),
    );

    // The officer: two are released by a person, one of each of the last two steps; of the same steps two are left alone.
    let crawlers = (0..)
        .zip(&week.roles)
        .filter(|(_, role)| **role == Role::Crawler(0));
    let crawlers: Vec<usize> = crawlers.map(|(who, _)| who).collect();
    let evening = BEGIN + WEEK;
    for (crawler, to) in
        crawlers
            .iter()
            .zip([Step::SteppedUp, Step::Closed, Step::SteppedUp, Step::Closed])
    {
        server.decide(*crawler, to, evening).await;
    }
    quiet_days(&mut server, &week, &traffic, (0, 2)).await;
    server
        .decide(crawlers[0], Step::Open, evening + 2 * DAY)
        .await;
    server
        .decide(crawlers[1], Step::Open, evening + 2 * DAY)
        .await;
    quiet_days(&mut server, &week, &traffic, (2, QUIET_DAYS)).await;
    let (alone, closed) = (server.stands(crawlers[2]), server.stands(crawlers[3]));
    println!(
        "left alone for {QUIET_DAYS} quiet days: stepped_up is now {}, closed is now {}",
        alone.code(),
        closed.code()
    );
    assert_eq!(
        closed,
        Step::Closed,
        "what a person closed only a person opens"
    );
    server
        .decide(crawlers[3], Step::Open, evening + QUIET_DAYS * DAY)
        .await;

    let records = server.recorded();
    let status = server.sentry.status(evening).await.unwrap();
    assert_eq!(status.missed_prompts, 0);
    for who in 0..week.roles.len() {
        let told = server.sentry.standing(GuardMode::On, &principal(who));
        assert_eq!(told.step, Step::Open, "{} has no way back", name(who));
    }
    let mut moves: Vec<Move> = records.iter().map(|(moved, _)| moved.clone()).collect();
    assert_eq!(moves.len(), server.moves.len(), "records and moves");
    moves.sort();
    server.moves.sort();
    assert_eq!(
        moves, server.moves,
        "every move has its record, and no other has one"
    );

    for step in ABOVE_OPEN {
        let to = moves
            .iter()
            .filter(|one| one.to == step.code() && !one.is_back());
        let reasons = |back: bool| -> BTreeSet<&str> {
            let here = |moved: &Move| if back { &moved.from } else { &moved.to } == step.code();
            let all = records
                .iter()
                .filter(|(one, _)| one.is_back() == back && here(one));
            all.map(|(_, reason)| reason.as_str()).collect()
        };
        let (up, back) = (reasons(false), reasons(true));
        println!(
            "| {:<18} | {:>3} times up to it, by {up:?} | back from it by {back:?} |",
            step.code(),
            to.count()
        );
        assert!(!up.is_empty() && !back.is_empty(), "{}", step.code());
        let officer = back.contains("dns:olga.example");
        let quiet = back.contains("quiet");
        assert!(
            if step >= Step::SteppedUp {
                officer
            } else {
                quiet
            },
            "{}",
            step.code()
        );
    }
    let after_back = least_quiet(&records, |(_, reason)| reason == "quiet");
    let after_up = least_quiet(&records, |(moved, _)| !moved.is_back());
    println!(
        "{} records; between two steps back at least {after_back:.2} days, between a step up and its step back at least {after_up:.2} days",
        records.len()
    );
    assert!(after_back >= 7.0, "{after_back} days");
    assert!(after_up >= 7.0, "{after_up} days");
}
