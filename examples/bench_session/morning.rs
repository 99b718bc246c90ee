//! A fleet's morning: a thousand connections ask for evidence at once of a chip that takes 10 ms for each report.
//!
//! The peer is a report for each session, one after the other: the next session asks when the report before its own has
//! been begun, so that none can share and the chip need not wait.
//!
//! A session counts when its client has received the envelope and verified it, Merkle path included. Each client has a
//! machine of its own, so no client waits for another's verification: `own machines` adds to each session's arrival the
//! time of its own verification. `one machine` has all of them verify on the cores that the server runs on, before the
//! clock stops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use casemate_client::session::{Appraised, Challenged, Connected, now};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock::{self, median, ms};
use crate::place::{Place, Server};
use crate::report::{Bar, Row};

/// How many wait at once. The peer's rate does not depend on it, so fewer will do there.
const WAITING: usize = 1000;
const WAITING_PEER: usize = 100;
/// Connections that are being opened at once, before the clock starts.
const OPENING: usize = 32;

/// When the sessions ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    Together,
    OneByOne,
}

/// Where the clients verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clients {
    OwnMachines,
    OneMachine,
}

/// A connection that stays open until the clock has stopped.
enum Held {
    Received(Box<Challenged>),
    Verified(Box<Appraised>),
}

/// How fast the sessions of one turn came, and of how many reports.
struct Turn {
    sessions_per_s: f64,
    reports: f64,
    /// CPU time of server and clients for each session until the last envelope was received, the chip's left out.
    cpu_ms: f64,
}

/// One turn for each place where clients may verify.
struct Round {
    own_machines: Turn,
    one_machine: Turn,
}

pub async fn rows(
    place: &Place,
    rounds: usize,
    latency: Duration,
    ratio_min: f64,
) -> anyhow::Result<Vec<Row>> {
    let server = Arc::new(place.serve(latency).await?);
    let (mut together, mut apart) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        eprint!("\rreports: round {round} of {rounds} ");
        let ours = one_round(&server, WAITING, Asking::Together).await?;
        let peer = one_round(&server, WAITING_PEER, Asking::OneByOne).await?;
        let reports = peer.own_machines.reports;
        ensure!(
            reports == WAITING_PEER as f64,
            "{reports} reports for the peer"
        );
        // Round 0 warms caches up.
        if round > 0 {
            together.push(ours);
            apart.push(peer);
        }
    }
    eprintln!();
    Ok(describe(&together, &apart, ratio_min))
}

async fn one_round(server: &Arc<Server>, sessions: usize, asking: Asking) -> anyhow::Result<Round> {
    Ok(Round {
        own_machines: turn(server, sessions, asking, Clients::OwnMachines).await?,
        one_machine: turn(server, sessions, asking, Clients::OneMachine).await?,
    })
}

/// Lets `sessions` open connections ask, until the last of them is verified.
async fn turn(
    server: &Arc<Server>,
    sessions: usize,
    asking: Asking,
    clients: Clients,
) -> anyhow::Result<Turn> {
    let verifier = Arc::new(server.connector.appraiser(now())?.verifier);
    let connections = open(server, sessions).await?;
    server.chip.one_by_one();
    let (reports, chip) = (server.chip.reports(), server.chip.cpu());
    let (cpu, begun) = (clock::process_cpu(), Instant::now());
    let mut tasks = JoinSet::new();
    for connection in connections {
        let (chip, verifier) = (Arc::clone(&server.chip), Arc::clone(&verifier));
        tasks.spawn(async move {
            if asking == Asking::OneByOne {
                chip.turn().await?;
            }
            let challenged = connection.challenge().await?;
            let held = match clients {
                Clients::OwnMachines => Held::Received(Box::new(challenged)),
                Clients::OneMachine => {
                    Held::Verified(Box::new(challenged.verify(&verifier, now())?))
                }
            };
            anyhow::Ok((held, begun.elapsed()))
        });
    }
    let held: Vec<_> = tasks
        .join_all()
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    let reports = server.chip.reports() - reports;
    let chip = server.chip.cpu().saturating_sub(chip);
    let cpu = clock::process_cpu()
        .saturating_sub(cpu)
        .saturating_sub(chip);
    let mut last = Duration::ZERO;
    let mut open = Vec::new();
    for (held, arrived) in held {
        let begun = Instant::now();
        open.push(match held {
            Held::Received(challenged) => Box::new(challenged.verify(&verifier, now())?),
            Held::Verified(appraised) => appraised,
        });
        last = last.max(arrived + begun.elapsed());
    }
    drop(open);
    server.quiet().await?;
    Ok(Turn {
        sessions_per_s: sessions as f64 / last.as_secs_f64(),
        reports: reports as f64,
        cpu_ms: ms(cpu) / sessions as f64,
    })
}

/// Connections whose handshakes are done and that have asked for nothing yet.
async fn open(server: &Arc<Server>, connections: usize) -> anyhow::Result<Vec<Connected>> {
    let gate = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for _ in 0..connections {
        let (gate, server) = (Arc::clone(&gate), Arc::clone(server));
        opening.spawn(async move {
            let _permit = gate.acquire().await?;
            anyhow::Ok(server.connector.connect().await?)
        });
    }
    opening.join_all().await.into_iter().collect()
}

fn describe(together: &[Round], apart: &[Round], ratio_min: f64) -> Vec<Row> {
    let over = |rounds: &[Round], figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
    let own = |round: &Round| round.own_machines.sessions_per_s;
    let one = |round: &Round| round.one_machine.sessions_per_s;
    let reports = |round: &Round| round.own_machines.reports;
    let cpu = |round: &Round| round.own_machines.cpu_ms;
    vec![
        Row::compared(
            "sessions/s, chip of 10 ms, 1000 waiting (a)",
            over(together, own),
            over(apart, own),
        )
        .with_bar(Bar::RatioAtLeast(ratio_min)),
        Row::compared(
            "  CPU ms of one of them until received, both ends",
            over(together, cpu),
            over(apart, cpu),
        ),
        Row::compared(
            "  all clients verify on the server's cores",
            over(together, one),
            over(apart, one),
        ),
        Row::compared(
            "  reports of a round (sessions: 1000, peer 100)",
            over(together, reports),
            over(apart, reports),
        ),
    ]
}
