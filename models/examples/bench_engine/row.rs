//! Rows: medians over rounds, the bars they are held to, and how they are printed. Shared with `bench-serve`.

use std::fmt;
use std::fs;

use serde_json::{Value, json};

/// What a row is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// Ours divided by the peer's is at least this.
    RatioAtLeast(f64),
    /// Ours divided by the peer's is at most this.
    RatioAtMost(f64),
    /// Our figure is at least this.
    AtLeast(f64),
    /// Our figure is at most this.
    AtMost(f64),
    /// Ours is more than the peer's by this at most.
    OverPeerAtMost(f64),
}

impl Bar {
    /// Whether the bar is met; nothing where there is no peer to compare with.
    fn met(self, ours: f64, ratio: Option<f64>, over: Option<f64>) -> Option<bool> {
        match self {
            Self::RatioAtLeast(least) => ratio.map(|ratio| ratio >= least),
            Self::RatioAtMost(most) => ratio.map(|ratio| ratio <= most),
            Self::AtLeast(least) => Some(ours >= least),
            Self::AtMost(most) => Some(ours <= most),
            Self::OverPeerAtMost(most) => over.map(|over| over <= most),
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RatioAtLeast(least) => write!(f, "ratio >= {least}"),
            Self::RatioAtMost(most) => write!(f, "ratio <= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::OverPeerAtMost(most) => write!(f, "<= peer + {most}"),
        }
    }
}

/// The figures of a round: ours, and the peer's.
pub type Pair = (Option<f64>, Option<f64>);

/// A line of the answer.
pub struct Row {
    model: String,
    name: String,
    unit: &'static str,
    bars: Vec<Bar>,
    pairs: Vec<Pair>,
    ours: Option<f64>,
    peer: Option<f64>,
    ratio: Option<f64>,
    over: Option<f64>,
}

impl Row {
    /// A row of the figures of both, round by round. The ratio is the median of the rounds' ratios, and so is the difference: both
    /// of a pair were measured one after the other, while the machine was busy alike.
    pub fn new(
        model: &str,
        name: &str,
        unit: &'static str,
        bars: Vec<Bar>,
        pairs: Vec<Pair>,
    ) -> Self {
        let middle =
            |figure: fn(&Pair) -> Option<f64>| median(pairs.iter().filter_map(figure).collect());
        let (ours, peer) = (middle(|pair| pair.0), middle(|pair| pair.1));
        let ratio = middle(|pair| Some(pair.0? / pair.1?));
        let over = middle(|pair| Some(pair.0? - pair.1?));
        Self {
            model: model.to_owned(),
            name: name.to_owned(),
            unit,
            bars,
            ours,
            peer,
            ratio,
            over,
            pairs,
        }
    }

    /// Whether all bars are met; nothing where there is no bar, or one that needs a peer and the others are met.
    fn pass(&self) -> Option<bool> {
        let ours = self.ours?;
        let met: Vec<Option<bool>> = self
            .bars
            .iter()
            .map(|bar| bar.met(ours, self.ratio, self.over))
            .collect();
        match met.as_slice() {
            [] => None,
            met if met.contains(&Some(false)) => Some(false),
            met if met.contains(&None) => None,
            _ => Some(true),
        }
    }

    fn status(&self) -> &'static str {
        match self.pass() {
            Some(true) => "PASS",
            Some(false) => "FAIL",
            None if self.bars.is_empty() => "-",
            None => "SKIP",
        }
    }

    fn bar(&self) -> Option<String> {
        let bars: Vec<String> = self.bars.iter().map(Bar::to_string).collect();
        (!bars.is_empty()).then(|| bars.join(", "))
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let ours: Vec<_> = self.pairs.iter().map(|pair| pair.0).collect();
        let peer: Vec<_> = self.pairs.iter().map(|pair| pair.1).collect();
        json!({
            "model": self.model, "name": self.name, "unit": self.unit, "ours": self.ours,
            "peer": self.peer, "ratio": self.ratio, "bar": self.bar(), "pass": self.pass(),
            "status": self.status(), "rounds": {"ours": ours, "peer": peer},
        })
    }
}

/// An error when a bar was missed.
///
/// # Errors
/// See above.
pub fn verdict(rows: &[Row]) -> Result<(), String> {
    match rows.iter().filter(|row| row.pass() == Some(false)).count() {
        0 => Ok(()),
        1 => Err("a bar was missed".into()),
        more => Err(format!("{more} bars were missed")),
    }
}

/// Prints the rows for people, and what else the machine was busy with.
pub fn print_table(rows: &[Row]) {
    let show = |value: Option<f64>| value.map_or("-".to_owned(), |number| format!("{number:.2}"));
    let mut model = None;
    for row in rows {
        if model != Some(&row.model) {
            println!(
                "{:<44} {:>9} {:>9} {:>6} {:<6} {:<24}",
                row.model, "ours", "peer", "ratio", "unit", "bar"
            );
            model = Some(&row.model);
        }
        println!(
            "  {:<42} {:>9} {:>9} {:>6} {:<6} {:<24} {}",
            row.name,
            show(row.ours),
            show(row.peer),
            show(row.ratio),
            row.unit,
            row.bar().unwrap_or_default(),
            row.status()
        );
    }
    if let Some(load) = load_average() {
        println!("load average at the end: {load}");
    }
}

/// The middle of some figures.
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let upper = *figures.get(middle)?;
    match figures.len() % 2 {
        1 => Some(upper),
        _ => figures.get(middle - 1).map(|lower| (lower + upper) / 2.0),
    }
}

/// Processes that want to run, over the last minute.
pub fn load_average() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0, 9.0, 2.0]), Some(3.0));
    }

    fn row(bars: Vec<Bar>, pairs: Vec<Pair>) -> Row {
        Row::new("m", "n", "tok/s", bars, pairs)
    }

    #[test]
    fn the_ratio_is_the_median_of_the_pairs() {
        let pairs = [(20.0, 10.0), (10.0, 4.0), (30.0, 10.0)];
        let pairs = pairs.map(|(ours, peer)| (Some(ours), Some(peer)));
        let row = row(vec![Bar::RatioAtLeast(2.5)], pairs.to_vec());
        assert_eq!(
            (row.ours, row.peer, row.ratio),
            (Some(20.0), Some(10.0), Some(2.5))
        );
        assert_eq!((row.pass(), row.status()), (Some(true), "PASS"));
    }

    #[test]
    fn what_is_more_than_the_peers_is_the_median_of_the_pairs() {
        let pairs = [(20.0, 10.0), (10.0, 4.0), (31.0, 10.0)];
        let pairs = pairs.map(|(ours, peer)| (Some(ours), Some(peer))).to_vec();
        let within = |most| row(vec![Bar::OverPeerAtMost(most)], pairs.clone()).status();
        assert_eq!((within(10.0), within(9.9)), ("PASS", "FAIL"));
        let alone = row(vec![Bar::OverPeerAtMost(9.0)], vec![(Some(1.0), None)]);
        assert_eq!(alone.status(), "SKIP");
    }

    #[test]
    fn without_a_peer_a_ratio_is_skipped_and_never_met() {
        let row = row(vec![Bar::RatioAtLeast(1.25)], vec![(Some(9.0), None)]);
        assert_eq!((row.pass(), row.status()), (None, "SKIP"));
    }

    #[test]
    fn without_a_peer_an_own_bar_is_still_missed() {
        let bars = vec![Bar::AtMost(1.0), Bar::RatioAtMost(1.0)];
        assert_eq!(row(bars, vec![(Some(1.5), None)]).status(), "FAIL");
    }

    #[test]
    fn exactly_at_a_bar_is_met() {
        let bars = vec![Bar::AtLeast(0.8), Bar::AtMost(0.8)];
        assert_eq!(row(bars, vec![(Some(0.8), None)]).status(), "PASS");
        assert_eq!(row(vec![], vec![(Some(0.8), None)]).status(), "-");
    }
}
