//! The attack range: published attacks against a server that the user names, with his own identities, and a table of what
//! each obtained (docs/formats/range.md). A server is anything with OpenAI's API at a base URL: the loopback endpoint of
//! `casemate connect`, or another product for comparison.
//!
//! **An attack is one file.** It has `pub(super) async fn run(turn: &mut Turn<'_>) -> Result<(), Halt>`, asks with
//! [`Turn::ask`], which counts, waits and bounds, and hands in each row of the table with [`Turn::close`]; `?` on a [`Halt`]
//! ends it early, and the table says so. To add one: write the file, name it in [`Attack`] with a word and a sentence, and
//! call it in `Attack::run`. What it needs at the socket is in [`Endpoint`]; who does without [`Turn::ask`] calls
//! [`Turn::spend`] before each request. Texts come from [`Corpora`]; nothing that a server said may stand in a row.

mod answer;
mod cache;
mod chance;
mod control;
mod corpus;
mod crawler;
mod eavesdropper;
mod last_layer;
mod oracles;
mod prompt;
mod repetition;
mod row;
mod spectrum;
mod target;
mod told;
mod traces;
mod turn;
mod wire;
mod words;

pub use answer::{Answer, Place, Refusal, Told};
pub use corpus::{Corpora, Extraction, Injection, SystemPrompt};
pub use row::{Row, Verdict};
pub use target::{Endpoint, Failure, Target};
pub use traces::{Findings, Labelled, Trace};
pub use turn::{Halt, Turn};
pub use wire::Wire;

use std::path::PathBuf;
use std::time::Duration;

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The address is none of a plain endpoint.
    #[error(
        "{0:?} is no base URL of a plain endpoint, such as http://127.0.0.1:11434/v1; \
         a Casemate server is reached through casemate connect, or with --as"
    )]
    Url(String),
    /// Attacks are for one's own machine, unless the user says otherwise.
    #[error(
        "{0} is not on this machine; attack others only with their consent, and --allow-remote"
    )]
    NotLoopback(String),
    /// Nobody to ask.
    #[error("name a base URL, or a client's configuration with --as")]
    NoTarget,
    /// A file of the corpora.
    #[error("{file}: {reason}")]
    Corpus {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server does not say which models it has.
    #[error("{endpoint} names no model ({reason}); name one with --model")]
    NoModel {
        /// Whom it was asked.
        endpoint: String,
        /// What came instead.
        reason: String,
    },
    /// An attack that does not exist.
    #[error("there is no attack {0:?}; there are {names}", names = Attack::names())]
    NoAttack(String),
    /// The file for answers.
    #[error("{file}: {reason}")]
    Answers {
        /// The file.
        file: String,
        /// What the system says.
        reason: String,
    },
}

/// How far each attack goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests of one attack.
    pub requests: u32,
    /// Time of one attack.
    pub time: Duration,
    /// Time of one request.
    pub request_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: 5000,
            time: Duration::from_secs(900),
            request_time: Duration::from_secs(60),
        }
    }
}

/// What the user says of the server and of the attacks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The model's width, where he knows it: whether a width that was found is right.
    pub width: Option<usize>,
    /// The largest width that is looked for.
    pub width_max: usize,
    /// Prompts of each crawler, and of the honest user beside it.
    pub prompts: usize,
    /// Timed pairs of the cache attack, and pairs of answers that the eavesdropper sees.
    pub samples: usize,
    /// The system prompt is the server's own: it is looked for in answers, and not sent.
    pub server_has_prompt: bool,
    /// How far each attack goes.
    pub limits: Limits,
    /// Where answers are written down, if anywhere.
    pub answers: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            width: None,
            width_max: 256,
            prompts: 96,
            samples: 60,
            server_has_prompt: false,
            limits: Limits::default(),
            answers: None,
        }
    }
}

/// Everything that attacks are given.
#[derive(Debug)]
pub struct Range {
    /// Whom they ask, as whom.
    pub target: Target,
    /// What they say.
    pub corpora: Corpora,
    /// How far they go.
    pub settings: Settings,
}

/// The attacks, in the order in which they run: those that leave a record with the server's guard come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attack {
    /// Recovery of the last layer from probabilities.
    LastLayer,
    /// Options that tell of a chosen token.
    Oracles,
    /// The system prompt, asked for.
    Prompt,
    /// Control tokens in a user's text.
    ControlTokens,
    /// Repeated-word divergence.
    Repetition,
    /// Topics from sizes and times.
    Eavesdropper,
    /// Times of a shared cache.
    CacheTiming,
    /// Collecting answers for distillation.
    Crawler,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::LastLayer,
        Self::Oracles,
        Self::Prompt,
        Self::ControlTokens,
        Self::Repetition,
        Self::Eavesdropper,
        Self::CacheTiming,
        Self::Crawler,
    ];

    /// Its word on the command line and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LastLayer => "last-layer",
            Self::Oracles => "oracles",
            Self::Prompt => "prompt",
            Self::ControlTokens => "control-tokens",
            Self::Repetition => "repetition",
            Self::Eavesdropper => "eavesdropper",
            Self::CacheTiming => "cache-timing",
            Self::Crawler => "crawler",
        }
    }

    /// What it tries, in a sentence.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::LastLayer => "recover the model's last layer, and its width, from probabilities",
            Self::Oracles => {
                "make options tell the probability of a token of the attacker's choice"
            }
            Self::Prompt => "ask for the system prompt, in all disguises and in fragments",
            Self::ControlTokens => "write control tokens into a user's text",
            Self::Eavesdropper => {
                "tell topics apart by sizes and times of what crosses the network"
            }
            Self::CacheTiming => "learn from times what another identity asked",
            Self::Crawler => "collect answers for distillation, as one identity and as many",
            Self::Repetition => {
                "make the model repeat a word until it falls into what it was trained on"
            }
        }
    }

    async fn run(self, turn: &mut Turn<'_>) -> Result<(), Halt> {
        match self {
            Self::LastLayer => last_layer::run(turn).await,
            Self::Oracles => oracles::run(turn).await,
            Self::Prompt => prompt::run(turn).await,
            Self::ControlTokens => control::run(turn).await,
            Self::Repetition => repetition::run(turn).await,
            Self::Eavesdropper => eavesdropper::run(turn).await,
            Self::CacheTiming => cache::run(turn).await,
            Self::Crawler => crawler::run(turn).await,
        }
    }

    /// The attack of a word.
    ///
    /// # Errors
    /// [`RangeError::NoAttack`], which names those that there are.
    pub fn of_name(name: &str) -> Result<Self, RangeError> {
        let found = Self::ALL.into_iter().find(|attack| attack.name() == name);
        found.ok_or_else(|| RangeError::NoAttack(name.to_owned()))
    }

    /// The words of all attacks.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl Range {
    /// Runs `attacks` one after the other; `hear` is given each row as it is known.
    ///
    /// # Errors
    /// [`RangeError::Answers`]. An attack that ends early is a row that says so.
    pub async fn run(
        &self,
        attacks: &[Attack],
        mut hear: impl FnMut(&Row),
    ) -> Result<Vec<Row>, RangeError> {
        let mut rows = Vec::new();
        for attack in attacks {
            let mut turn = Turn::begin(self, attack.name())?;
            let ended = attack.run(&mut turn).await;
            if let Err(halt) = ended {
                let row = Row::skipped("rest", format!("ended early: {halt}"));
                turn.close(row);
            }
            let new = turn.into_rows();
            new.iter().for_each(&mut hear);
            rows.extend(new);
        }
        Ok(rows)
    }
}
