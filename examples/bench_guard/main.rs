//! What the extraction guard costs: a prompt and a principal, and a token on its way out. Run by `scripts/bench-guard`, which adds
//! the throughput of a server with the guard on and off (G16).

mod charges;
mod kinds;
mod prompts;
mod scans;
mod tokens;

use std::alloc::System;
use std::fs;
use std::process::ExitCode;

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use zeroizing_alloc::ZeroAlloc;

#[allow(
    dead_code,
    reason = "bars of figures that have a peer are only in bench-serve"
)]
#[path = "../../models/examples/bench_engine/row.rs"]
mod row;

use row::Row;

/// The product's allocator wipes what it frees, which costs time here as there.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

const USAGE: &str = "\
usage: bench-guard [--json] [--with FILE]
  --with FILE    rows that bench-serve wrote with --json, to be shown with these
  --json         rows for machines
Exit code 1 when a bar is missed.";

/// Processor time of this thread, microseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of one process are far below 2^52"
)]
fn spent() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

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
    let (mut for_machines, mut with) = (false, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => for_machines = true,
            "--with" => {
                with = Some(words.next().context("--with needs a file")?);
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => anyhow::bail!("{other:?} means nothing here\n{USAGE}"),
        }
    }
    let others: Vec<Value> = match with {
        None => Vec::new(),
        Some(file) => {
            let mut document: Value = serde_json::from_slice(&fs::read(&file)?)?;
            let rows = document.get_mut("rows").map(Value::take);
            serde_json::from_value(rows.unwrap_or_default())?
        }
    };
    let mut rows = prompts::rows()?;
    rows.extend(tokens::rows()?);
    if for_machines {
        let own = rows.iter().map(Row::json);
        let all: Vec<Value> = others.iter().cloned().chain(own).collect();
        let document = json!({"rows": all, "load_average": row::load_average()});
        println!("{document:#}");
    } else {
        for other in &others {
            let field = |name: &str| other.get(name).cloned().unwrap_or_default();
            println!(
                "{}: ours {}, peer {}, ratio {}, {} {}",
                field("name"),
                field("ours"),
                field("peer"),
                field("ratio"),
                field("bar"),
                field("status")
            );
        }
        row::print_table(&rows);
    }
    let missed = others
        .iter()
        .any(|row| row.get("pass") == Some(&Value::Bool(false)));
    anyhow::ensure!(!missed, "a bar was missed");
    row::verdict(&rows).map_err(anyhow::Error::msg)
}
