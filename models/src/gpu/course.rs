//! What a step does on the device, told apart from the numbers that it does it with: steps of one course differ in what is
//! sent and in nothing else, so that what one of them had the device do can be recorded and played again.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::batch::Pass;
use super::draw::{Drawer, Draws};
use super::link::Link;
use super::memory::KvMemory;
use super::network::Network;

/// Passes in a row and their draws, by where their numbers stand in what is sent.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Course {
    pub(super) passes: Vec<(Pass, Option<Draws>)>,
    /// The first pass's tokens.
    pub(super) tokens: Range<usize>,
    /// Numbers and rules that are sent, so that nobody is played with fewer than were recorded.
    pub(super) sent: (usize, usize),
}

/// What a step sends.
pub(super) struct Sent {
    pub(super) numbers: Tensor,
    /// None: nothing is drawn by a temperature.
    pub(super) rules: Option<Tensor>,
}

/// What the passes left on the device.
pub(super) struct Left {
    /// Logits of each pass, rows × vocabulary.
    pub(super) logits: Vec<Tensor>,
    /// What each pass drew: tokens, and behind them what each tells.
    pub(super) answers: Vec<Tensor>,
}

/// What passes run on.
pub(super) struct Ground<'a> {
    pub(super) network: &'a Network,
    pub(super) drawer: Option<&'a Drawer>,
    pub(super) memory: &'a KvMemory,
    pub(super) link: &'a Link,
}

impl Course {
    /// Takes the passes one after another, each fed with what the one before drew.
    pub(super) fn take(&self, ground: &Ground<'_>, sent: &Sent) -> Result<Left> {
        let Ground {
            network,
            drawer,
            memory,
            link,
        } = ground;
        let numbers = &sent.numbers;
        let mut tokens = numbers.narrow(0, self.tokens.start, self.tokens.len())?;
        let mut left = Left {
            logits: Vec::new(),
            answers: Vec::new(),
        };
        for (pass, draws) in &self.passes {
            let logits = network.forward(link, memory, numbers, pass, &tokens)?;
            let Some(logits) = logits else { continue };
            if let (Some(draws), Some(drawer)) = (draws, drawer) {
                let drawn = drawer.draw(link, &logits, draws, numbers, sent.rules.as_ref())?;
                left.answers.push(drawn.answers);
                tokens = drawn.fed;
            }
            left.logits.push(logits);
        }
        Ok(left)
    }

    /// Whether every sequence has few rows in every pass.
    pub(super) fn generates(&self) -> bool {
        self.passes.iter().all(|(pass, _)| pass.shared().is_some())
    }

    /// Rows of each pass, and those whose logits are wanted.
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.passes
            .iter()
            .map(|(pass, _)| (pass.rows, pass.wanted.len()))
    }
}
