//! Rows of figures, for people or as JSON.

use serde::Serialize;

/// What the names are too short for.
const NOTE: &str = "verifications in a second of one core's CPU time, medians of 9 turns; peers check less: sev the chain and the \
    report's signature, dcap-qvl no measurement, no binding and no enrolment";

/// What a row must keep to: at least so many in a second, and at least this share of the peer's rate.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    pub rate: Option<f64>,
    pub ratio: Option<f64>,
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub struct Row {
    name: String,
    ours: f64,
    peer: Option<f64>,
    ratio: Option<f64>,
    bar: Option<String>,
    pass: Option<bool>,
}

#[derive(Serialize)]
struct Document<'a> {
    architecture: &'static str,
    note: &'static str,
    rows: &'a [Row],
}

impl Row {
    /// A figure by itself.
    pub fn alone(name: impl Into<String>, ours: f64) -> Self {
        Self {
            name: name.into(),
            ours,
            peer: None,
            ratio: None,
            bar: None,
            pass: None,
        }
    }

    /// Two figures side by side, held to `bar`.
    pub fn compared(name: impl Into<String>, [ours, peer]: [f64; 2], bar: Bar) -> Self {
        let ratio = ours / peer;
        let holds = |limit: Option<f64>, figure: f64| limit.is_none_or(|limit| figure >= limit);
        let words = [
            bar.rate.map(|rate| format!(">= {rate}")),
            bar.ratio.map(|ratio| format!("ratio >= {ratio}")),
        ];
        Self {
            name: name.into(),
            ours,
            peer: Some(peer),
            ratio: Some(ratio),
            bar: Some(words.into_iter().flatten().collect::<Vec<_>>().join(", ")),
            pass: Some(holds(bar.rate, ours) && holds(bar.ratio, ratio)),
        }
    }

    /// Whether it does not miss its bar.
    pub fn is_met(&self) -> bool {
        self.pass != Some(false)
    }
}

/// Writes the rows to standard output.
pub fn print(rows: &[Row], as_json: bool) -> anyhow::Result<()> {
    let architecture = std::env::consts::ARCH;
    if as_json {
        let document = Document {
            architecture,
            note: NOTE,
            rows,
        };
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    println!(
        "{:<42} {:>8} {:>8} {:>6}  {:<22} pass",
        "name", "ours", "peer", "ratio", "bar"
    );
    for row in rows {
        let number = |figure: Option<f64>, places: usize| {
            figure.map_or("-".into(), |figure| format!("{figure:.places$}"))
        };
        let pass = match row.pass {
            Some(true) => "PASS",
            Some(false) => "FAIL",
            None => "-",
        };
        println!(
            "{:<42} {:>8} {:>8} {:>6}  {:<22} {pass}",
            row.name,
            number(Some(row.ours), 0),
            number(row.peer, 0),
            number(row.ratio, 2),
            row.bar.as_deref().unwrap_or("-"),
        );
    }
    println!("{NOTE}");
    Ok(())
}
