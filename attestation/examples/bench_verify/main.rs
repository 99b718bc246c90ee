//! How many pieces of evidence one core verifies in a second, beside the library that people would use alone; run by
//! `scripts/bench-verify`.
//!
//! Both sides get the same bytes and take turns, and CPU time is counted, so that what else the machine does hits neither. Ours
//! judges by a whole policy; the libraries check signatures and chains, and (TDX) Intel's levels.

mod inputs;
mod nvidia;
mod report;
mod snp;
mod tdx;
mod tpm;
mod turns;

use std::process::ExitCode;

use anyhow::bail;
use report::Row;

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
        _ => bail!("usage: bench-verify [--json]"),
    };
    let mut rows = snp::chip_rows()?;
    match inputs::shared() {
        Some(evidence) => {
            rows.extend(snp::rows(&evidence)?);
            rows.extend(tdx::rows(&evidence)?);
            rows.extend(tpm::rows(&evidence)?);
            rows.extend(nvidia::rows(&evidence)?);
        }
        None => eprintln!("SKIP the shared evidence is missing: only the test chip was measured"),
    }
    report::print(&rows, as_json)?;
    Ok(rows.iter().all(Row::is_met))
}
