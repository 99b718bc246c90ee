//! What rounds measured, and how the rows that came of them are answered.

use serde_json::{Value, json};

use crate::Anyhow;
use crate::job::{self, Figures};
use crate::options::Options;
use crate::row::{self, Row};

/// What a round measured.
pub struct Round {
    /// Our figures.
    pub ours: Figures,
    /// The peer's: none without a peer.
    pub peer: Figures,
    /// Memory bandwidth at the time, in GB/s.
    pub bandwidth: Option<f64>,
}

/// Prints the rows.
///
/// # Errors
/// When a bar was missed.
pub fn print(rows: &[Row], options: &Options) -> Anyhow<()> {
    if options.json {
        let jobs: Vec<String> = options.jobs.iter().map(|job| job.name()).collect();
        let all: Vec<Value> = rows.iter().map(Row::json).collect();
        println!(
            "{:#}",
            json!({"rows": all, "threads": options.threads, "rounds": options.rounds, "jobs": jobs,
                "load_average": row::load_average(), "repetitions": job::REPETITIONS})
        );
    } else {
        row::print_table(rows);
    }
    Ok(row::verdict(rows)?)
}
