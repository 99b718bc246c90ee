//! Measures the whole product over its own HTTP against llama.cpp's server; run by `scripts/bench-serve`.
//!
//! Broker, server, connect and the peer are processes of their own, joined by sockets. All are up during the whole run,
//! and only the one whose turn it is has anything to do. In each round ours and the peer are given the same texts, and
//! the first of the two changes from round to round.

mod bare;
mod load;
mod looping;
mod options;
mod peer;
mod place;
mod process;
mod prompts;
#[allow(
    dead_code,
    reason = "bars of figures that have no peer are only in bench-engine"
)]
#[path = "../../models/examples/bench_engine/row.rs"]
mod row;
mod rows;
mod sse;

use std::alloc::System;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use zeroizing_alloc::ZeroAlloc;

use crate::bare::Bare;
use crate::load::{Load, Turn};
use crate::options::{Options, RowKind, Task, USAGE};
use crate::peer::Peer;
use crate::place::{GUESS, MODEL, Place, Product};
use crate::prompts::{Length, Words};
use crate::row::Row;
use crate::rows::Measured;

/// The product's allocator wipes what it frees, which costs time here as there.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Streams at once where the bar on the product's own cost is.
const COST_STREAMS: usize = 16;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match options::parse(&arguments)? {
        Task::Help => {
            println!("{USAGE}");
            return Ok(());
        }
        Task::Bench(options) => options,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let rows = runtime.block_on(bench(&options))?;
    print(&rows, &options);
    row::verdict(&rows).map_err(anyhow::Error::msg)
}

async fn bench(options: &Options) -> anyhow::Result<Vec<Row>> {
    let place = Place::make(options).await.context("the organisation")?;
    let mut measured = Vec::new();
    let plain = [RowKind::Clients, RowKind::One, RowKind::Cost];
    if plain.iter().any(|kind| options.rows.contains(kind)) {
        measured.extend(plain_rows(&place, options).await?);
    }
    if options.rows.contains(&RowKind::Guess) {
        measured.push((RowKind::Guess, guess_rounds(&place, options).await?));
    }
    drop(place);
    for kind in [RowKind::Guard, RowKind::Marks, RowKind::Same] {
        if options.rows.contains(&kind) {
            measured.push((kind, guard_rounds(kind, options).await?));
        }
    }
    let rows = measured
        .iter()
        .flat_map(|(kind, rounds)| rows::of(*kind, rounds, options));
    Ok(rows.collect())
}

/// What is measured with texts that do not repeat. The product guesses nothing meanwhile: what random weights say may
/// repeat, and guesses would then look better than they are.
async fn plain_rows(
    place: &Place,
    options: &Options,
) -> anyhow::Result<Vec<(RowKind, Vec<Measured>)>> {
    let product = place.start_product(MODEL, "plain", false).await?;
    let ours = product.target();
    let with_peer = options.rows.iter().any(|kind| kind.has_peer());
    let peer = match &options.llama_cpp {
        Some(folder) if with_peer => Some(Peer::start(folder, place, options).await?),
        _ => None,
    };
    let bare = match options.rows.contains(&RowKind::Cost) {
        true => Some(Bare::load(&options.model, options).context("the bare engine")?),
        false => None,
    };
    let mut words = Words::calibrated(&ours, options).await?;
    let mut all = Vec::new();
    for kind in [RowKind::Clients, RowKind::One, RowKind::Cost] {
        if !options.rows.contains(&kind) {
            continue;
        }
        let (streams, length) = match kind {
            RowKind::Clients => (options.clients, Length::Asked),
            RowKind::One => (1, Length::Asked),
            _ => (COST_STREAMS, Length::Short),
        };
        let other = match kind {
            RowKind::Cost => Other::Bare(bare.as_ref()),
            _ => Other::Peer(peer.as_ref()),
        };
        let mut rounds = Vec::new();
        for round in 0..options.rounds {
            let prompts = words.prompts(streams * options.requests, length);
            let load = Load::new(prompts, streams, options);
            let turns = take_turns(
                round + usize::from(options.peer_first),
                &product,
                &other,
                &load,
            )
            .await?;
            eprintln!(
                "{}, round {} of {}: {turns}",
                kind.name(),
                round + 1,
                options.rounds
            );
            turns.check(options)?;
            rounds.push(turns);
        }
        all.push((kind, rounds));
    }
    Ok(all)
}

/// Whom the product is compared with.
enum Other<'a> {
    Peer(Option<&'a Peer>),
    Bare(Option<&'a Bare>),
    Without(&'a Product),
}

impl Other<'_> {
    async fn turn(&self, load: &Load) -> anyhow::Result<Option<Turn>> {
        match self {
            Self::Peer(None) | Self::Bare(None) => Ok(None),
            Self::Peer(Some(peer)) => load.run(&peer.target()).await.map(Some),
            Self::Bare(Some(bare)) => bare.run(load).map(Some),
            Self::Without(product) => load.run(&product.target()).await.map(Some),
        }
    }
}

async fn take_turns(
    turn: usize,
    product: &Product,
    other: &Other<'_>,
    load: &Load,
) -> anyhow::Result<Measured> {
    let target = product.target();
    let ours_turn = async || -> anyhow::Result<_> {
        let before = product.cpu()?;
        let turn = load.run(&target).await.context("ours")?;
        Ok((turn, before, product.cpu()?))
    };
    let (ours, other) = if turn.is_multiple_of(2) {
        let first = ours_turn().await?;
        (first, other.turn(load).await.context("the other")?)
    } else {
        let first = other.turn(load).await.context("the other")?;
        (ours_turn().await?, first)
    };
    let (ours, before, after) = ours;
    let mut measured = Measured {
        ours,
        other,
        beside_engine: None,
    };
    measured.note_cpu(before, after);
    Ok(measured)
}

/// The same repetitive requests with guesses and without.
async fn guess_rounds(place: &Place, options: &Options) -> anyhow::Result<Vec<Measured>> {
    let with: Product = place.start_product(GUESS, "guess", true).await?;
    let without: Product = place.start_product(GUESS, "no-guess", false).await?;
    for target in [with.target(), without.target()] {
        // Not a text that counts: beginnings are kept.
        let prompts = prompts::repetitive(options.rounds, 1);
        let load = Load::new(prompts, 1, options);
        load.run(&target).await.context("warm-up")?;
    }
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        let prompts = prompts::repetitive(round, options.requests);
        // A quotation is about as long as what it quotes.
        let load = Load::new(prompts, 1, options).answers_of(2 * options.answer);
        let turns = take_turns(round, &with, &Other::Without(&without), &load).await?;
        eprintln!("guess, round {} of {}: {turns}", round + 1, options.rounds);
        if !turns.same_text() {
            bail!("guesses changed an answer");
        }
        rounds.push(turns);
    }
    Ok(rounds)
}

/// Everything of the guard: it acts, counts bits against a limit, and compares prompts with a declared workload.
const GUARD_ON: &str = "[guard]\nmode = \"on\"\n\n\
    [guard.budgets]\norganisation = { bits = 1000000000000, told_bits = 1000000000000 }\n\n\
    [guard.workloads.other]\nowner = { team = \"load\" }\nprompts = 1000000\nwindow_seconds = 86400\n\
    expires = 4000000000\n\
    template = \"0000000000000001000000000000000200000000000000030000000000000004\"\n";
const GUARD_OFF: &str = "[guard]\nmode = \"off\"\n";
/// What changes the tokens that are drawn. These requests have no system prompt that answers could be searched for.
const MARKED: &str = "[team.load.output]\nmark = \"on\"\n\n";

/// Rounds after which both servers are started anew, so that nothing counts that one of two processes happens to have to its end.
const ROUNDS_TOGETHER: usize = 20;

/// The same requests with the guard and without, in two organisations that differ in nothing else.
async fn guard_rounds(kind: RowKind, options: &Options) -> anyhow::Result<Vec<Measured>> {
    let mut rounds = Vec::new();
    while rounds.len() < options.rounds {
        guard_rounds_together(kind, &mut rounds, options).await?;
    }
    let (name, sureness) = (kind.name(), rows::sureness(&rounds));
    eprintln!("{name}: {sureness}");
    Ok(rounds)
}

/// Some rounds more. The first of the two to be started changes, too.
async fn guard_rounds_together(
    kind: RowKind,
    rounds: &mut Vec<Measured>,
    options: &Options,
) -> anyhow::Result<()> {
    let guard_on = match kind {
        RowKind::Marks => format!("{MARKED}{GUARD_ON}"),
        RowKind::Same => GUARD_OFF.to_owned(),
        _ => GUARD_ON.to_owned(),
    };
    let start = async |name, policy: &str| -> anyhow::Result<_> {
        let place = Place::guarded(options, policy).await?;
        let product = place.start_product(MODEL, name, false).await?;
        anyhow::Ok((place, product))
    };
    let with_first = (rounds.len() / ROUNDS_TOGETHER).is_multiple_of(2);
    let ((_with_place, with), (_without_place, without)) = if with_first {
        let with = start("guard", &guard_on).await?;
        (with, start("free", GUARD_OFF).await?)
    } else {
        let without = start("free", GUARD_OFF).await?;
        (start("guard", &guard_on).await?, without)
    };
    let temperature = match kind {
        RowKind::Marks => 1.0,
        _ => 0.0,
    };
    // Both: a longer prompt than those that count makes what comes after it faster by a twentieth in so small a model.
    Words::calibrated(&without.target(), options).await?;
    let mut words = Words::calibrated(&with.target(), options).await?;
    let mut load = || {
        let prompts = words.prompts(options.clients * options.requests, Length::Asked);
        Load::new(prompts, options.clients, options).at_temperature(temperature)
    };
    let warm_up = load();
    for target in [with.target(), without.target()] {
        warm_up.run(&target).await.context("warm-up")?;
    }
    for _ in 0..ROUNDS_TOGETHER.min(options.rounds - rounds.len()) {
        let turns = take_turns(rounds.len(), &with, &Other::Without(&without), &load()).await?;
        let (name, round) = (kind.name(), rounds.len() + 1);
        eprintln!("{name}, round {round} of {}: {turns}", options.rounds);
        let marked = kind == RowKind::Marks;
        if turns.same_text() == marked {
            bail!(match marked {
                true =>
                    "marks changed no answer: does policy mark, and does the model have a choice?",
                false => "the guard changed an answer",
            });
        }
        rounds.push(turns);
    }
    Ok(())
}

fn print(rows: &[Row], options: &Options) {
    if options.json {
        let all: Vec<serde_json::Value> = rows.iter().map(Row::json).collect();
        let document = serde_json::json!({"rows": all, "threads": options.threads, "rounds": options.rounds,
            "clients": options.clients, "requests_per_client": options.requests,
            "prompt_tokens": options.prompt, "answer_tokens": options.answer, "load_average": row::load_average()});
        println!("{document:#}");
    } else {
        row::print_table(rows);
    }
}
