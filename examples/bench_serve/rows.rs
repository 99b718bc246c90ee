//! From the turns of some rounds to rows with the product's bars. Pure.

use std::fmt;

use anyhow::bail;

use crate::load::Turn;
use crate::options::{Options, RowKind};
use crate::process::Cpu;
use crate::row::{Bar, Pair, Row};

/// A round: ours, and whom it is compared with.
pub struct Measured {
    /// The product.
    pub ours: Turn,
    /// The peer, the bare engine, or the product without guesses; none without a peer.
    pub other: Option<Turn>,
    /// What part of the product's CPU time was not the engine's, where that was looked at.
    pub beside_engine: Option<f64>,
}

impl Measured {
    /// Notes what came of the CPU times before and after ours had its turn.
    pub fn note_cpu(&mut self, before: Cpu, after: Cpu) {
        let all = after.all - before.all;
        let computing = after.computing - before.computing;
        // Both are counted differently: a little less than nothing is nothing.
        self.beside_engine = (all > 0.0).then(|| ((all - computing) / all).max(0.0));
    }
}

impl Measured {
    /// Checks that all answers have the tokens that were asked for: a side that ends early would look fast.
    ///
    /// # Errors
    /// When one has not.
    pub fn check(&self, options: &Options) -> anyhow::Result<()> {
        let both = self.ours.answers.iter();
        let both = both.chain(self.other.iter().flat_map(|other| &other.answers));
        match both
            .into_iter()
            .find(|answer| answer.tokens != options.answer)
        {
            Some(answer) => bail!(
                "an answer has {} tokens and not {}: the model ends by itself; take one with random weights",
                answer.tokens,
                options.answer
            ),
            None => Ok(()),
        }
    }

    /// Whether both gave the same texts.
    pub fn same_text(&self) -> bool {
        let texts = |turn: &Turn| -> Vec<String> {
            turn.answers.iter().map(|one| one.text.clone()).collect()
        };
        let ours = texts(&self.ours);
        self.other.as_ref().is_none_or(|other| texts(other) == ours)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prompts = self.ours.answers.iter().map(|answer| answer.prompt);
        let (least, most) = (prompts.clone().min(), prompts.max());
        write!(
            f,
            "prompts of {} to {} tokens; ",
            least.unwrap_or(0),
            most.unwrap_or(0)
        )?;
        write!(f, "ours {}", self.ours)?;
        if let Some(other) = &self.other {
            write!(f, "; other {other}")?;
        }
        match self.beside_engine {
            Some(share) => write!(f, "; {:.2} % of CPU beside the engine", share * 100.0),
            None => Ok(()),
        }
    }
}

/// The rows of what was measured.
pub fn of(kind: RowKind, rounds: &[Measured], options: &Options) -> Vec<Row> {
    let model = options
        .model
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    let speeds = || pairs(rounds, |turn| Some(turn.speed()));
    let row = |name: &str, unit, bars, pairs| Row::new(&model, name, unit, bars, pairs);
    match kind {
        RowKind::Clients => {
            // The product's bars are those of eight clients.
            let bars = |bar| {
                if options.clients == 8 {
                    vec![bar]
                } else {
                    vec![]
                }
            };
            let clients = options.clients;
            let firsts = pairs(rounds, Turn::first);
            let (faster, sooner) = (Bar::RatioAtLeast(2.0), Bar::RatioAtMost(0.5));
            vec![
                row(
                    &format!("{clients} clients"),
                    "tok/s",
                    bars(faster),
                    speeds(),
                ),
                row(
                    &format!("{clients} clients, median to first token"),
                    "s",
                    bars(sooner),
                    firsts,
                ),
            ]
        }
        RowKind::One => vec![
            row("1 client", "tok/s", vec![], speeds()),
            row(
                "1 client, to first token",
                "s",
                vec![],
                pairs(rounds, Turn::first),
            ),
        ],
        RowKind::Cost => {
            let share = rounds.iter().map(|round| (round.beside_engine, None));
            vec![
                row(
                    "16 streams (peer: our engine alone)",
                    "tok/s",
                    vec![Bar::RatioAtLeast(0.98)],
                    speeds(),
                ),
                row(
                    "16 streams, CPU time beside the engine's",
                    "of 1",
                    vec![Bar::AtMost(0.02)],
                    share.collect(),
                ),
            ]
        }
        RowKind::Guard | RowKind::Marks | RowKind::Same => {
            let (what, bars) = match kind {
                RowKind::Guard => ("guard on", vec![Bar::RatioAtLeast(0.98)]),
                RowKind::Marks => ("marked", vec![Bar::RatioAtLeast(0.98)]),
                _ => ("guard off", vec![]),
            };
            let name = format!("{} clients, {what} (peer: off)", options.clients);
            vec![row(&name, "tok/s", bars, speeds())]
        }
        RowKind::Guess => vec![row(
            "repetitive text, guesses (peer: without)",
            "tok/s",
            vec![Bar::RatioAtLeast(1.3)],
            speeds(),
        )],
    }
}

/// How far the rounds' ratios tell the one that would come of as many as one likes. Of their logarithms: as much as one side is
/// faster, the other one is slower.
pub fn sureness(rounds: &[Measured]) -> String {
    let ratio = |round: &Measured| Some(round.ours.speed() / round.other.as_ref()?.speed());
    let logarithms: Vec<f64> = rounds.iter().filter_map(ratio).map(f64::ln).collect();
    let count = logarithms.len() as f64;
    let mean = logarithms.iter().sum::<f64>() / count;
    let square = |logarithm: &f64| (logarithm - mean).powi(2);
    let variance = logarithms.iter().map(square).sum::<f64>() / count;
    let (mean, error) = (mean.exp(), (variance / count).sqrt());
    format!(
        "the ratios of {count} rounds have a geometric mean of {mean:.4}, give or take {error:.4}"
    )
}

fn pairs(rounds: &[Measured], figure: impl Fn(&Turn) -> Option<f64>) -> Vec<Pair> {
    let pair = |round: &Measured| (figure(&round.ours), round.other.as_ref().and_then(&figure));
    rounds.iter().map(pair).collect()
}
