//! Rows of figures, for people or as JSON.

use serde::Serialize;

/// What the names are too short for.
const NOTE: &str = "(a) peer: one report for each session, one after the other, measured over 100 sessions as its rate is \
    constant; the test chip signs in software on top of the 10 ms; clients are machines of their own";

/// What a figure must keep to.
#[derive(Debug, Clone, Copy)]
pub enum Bar {
    AtMost(f64),
    RatioAtLeast(f64),
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub struct Row {
    name: &'static str,
    ours: f64,
    peer: Option<f64>,
    ratio: Option<f64>,
    bar: Option<String>,
    pass: Option<bool>,
}

#[derive(Serialize)]
struct Document<'a> {
    cores: usize,
    architecture: &'static str,
    note: &'static str,
    rows: &'a [Row],
}

impl Row {
    /// Two figures side by side.
    pub fn compared(name: &'static str, ours: f64, peer: f64) -> Self {
        Self {
            name,
            ours,
            peer: Some(peer),
            ratio: Some(ours / peer),
            bar: None,
            pass: None,
        }
    }

    /// A figure by itself.
    pub fn alone(name: &'static str, ours: f64) -> Self {
        Self {
            name,
            ours,
            peer: None,
            ratio: None,
            bar: None,
            pass: None,
        }
    }

    /// Holds the row to a bar. What cannot be compared misses it.
    pub fn with_bar(mut self, bar: Bar) -> Self {
        let (text, pass) = match bar {
            Bar::AtMost(limit) => (format!("<= {limit}"), self.ours <= limit),
            Bar::RatioAtLeast(limit) => (
                format!("ratio >= {limit}"),
                self.ratio.is_some_and(|ratio| ratio >= limit),
            ),
        };
        self.bar = Some(text);
        self.pass = Some(pass);
        self
    }
}

/// Whether no row misses its bar.
pub fn all_met(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.pass != Some(false))
}

/// Writes the rows to standard output.
pub fn print(rows: &[Row], as_json: bool) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let architecture = std::env::consts::ARCH;
    if as_json {
        let document = Document {
            cores,
            architecture,
            note: NOTE,
            rows,
        };
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    println!("{cores} cores, {architecture}; medians of the rounds");
    println!(
        "{:<50} {:>9} {:>9} {:>7}  {:<12} pass",
        "name", "ours", "peer", "ratio", "bar"
    );
    for row in rows {
        let number = |figure: Option<f64>| figure.map_or("-".into(), |f| format!("{f:.2}"));
        let pass = match row.pass {
            Some(true) => "PASS",
            Some(false) => "FAIL",
            None => "-",
        };
        println!(
            "{:<50} {:>9} {:>9} {:>7}  {:<12} {pass}",
            row.name,
            number(Some(row.ours)),
            number(row.peer),
            number(row.ratio),
            row.bar.as_deref().unwrap_or("-"),
        );
    }
    println!("{NOTE}");
    Ok(())
}
