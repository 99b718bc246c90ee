//! Measures attested sessions against plain TLS connections, and batch reports against one report each; run by
//! `scripts/bench-session`.
//!
//! Server and clients are the product's own code, joined by loopback sockets inside this process. Ours and peer take
//! turns in each round, so that what else the machine does hits both.

mod chip;
mod clock;
mod morning;
mod place;
mod report;
mod rsa;
mod setup;

use std::alloc::System;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use report::Row;
use zeroizing_alloc::ZeroAlloc;

/// The product's allocator wipes what it frees, which costs time here as there.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Bars of the product's requirements.
const EXTRA_CPU_MS_MAX: f64 = 1.5;
const BATCH_RATIO_MIN: f64 = 50.0;
/// What a security processor takes for one report.
const LATENCY: Duration = Duration::from_millis(10);
/// Rounds in which both sides take a turn, after one that is not counted.
const SETUP_ROUNDS: usize = 21;
const MORNING_ROUNDS: usize = 5;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("a bar was missed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every bar was met.
fn run() -> anyhow::Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let as_json = match words.as_slice() {
        [] => false,
        ["--json"] => true,
        _ => bail!("usage: bench-session [--json]"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let rows = runtime.block_on(measure())?;
    report::print(&rows, as_json)?;
    Ok(report::all_met(&rows))
}

async fn measure() -> anyhow::Result<Vec<Row>> {
    let place = place::Place::make()?;
    let mut rows = setup::rows(&place, SETUP_ROUNDS, EXTRA_CPU_MS_MAX).await?;
    rows.extend(morning::rows(&place, MORNING_ROUNDS, LATENCY, BATCH_RATIO_MIN).await?);
    Ok(rows)
}
