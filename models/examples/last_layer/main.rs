//! The attack on the last layer at night length, through what the product tells of each context (GUARD section 8, G2): of a random head
//! of 1,024 tokens and 64 columns, or of a real model in F32 after written contexts.
//!
//!     last_layer [--contexts 32768] [--model MODEL.gguf --texts CONTEXTS.jsonl]
//!
//! Fails where the width is found within a bound; how much of the layer is learned from so many contexts is told.

mod attack;
mod real;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use attack::{Found, Head, Seen, attack, bounded, unbounded};
use real::Real;

const VOCABULARY: usize = 1024;
const WIDTH: usize = 64;
const USAGE: &str =
    "usage: last_layer [--contexts N] [--model MODEL.gguf --texts CONTEXTS.jsonl], N at least 256";

struct Options {
    contexts: usize,
    model: Option<PathBuf>,
    texts: Option<PathBuf>,
}

fn options(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        contexts: 32_768,
        model: None,
        texts: None,
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--contexts" => {
                options.contexts = value.parse().ok().filter(|count| *count >= 256)?;
            }
            "--model" => options.model = Some(value.into()),
            "--texts" => options.texts = Some(value.into()),
            _ => return None,
        }
    }
    (options.model.is_some() == options.texts.is_some()).then_some(options)
}

/// What tells logits.
enum Victim {
    Random(Head),
    Real {
        model: Box<Real>,
        texts: Vec<String>,
        head: Head,
    },
}

impl Victim {
    fn new(options: &Options) -> Result<Self, Box<dyn Error>> {
        let (Some(model), Some(texts)) = (&options.model, &options.texts) else {
            return Ok(Self::Random(Head::new(VOCABULARY, WIDTH, 1)));
        };
        let model = Box::new(Real::open(model)?);
        Ok(Self::Real {
            head: Head::of(model.head.clone()),
            texts: real::texts(texts)?,
            model,
        })
    }

    fn head(&self) -> &Head {
        match self {
            Self::Random(head) | Self::Real { head, .. } => head,
        }
    }

    fn seen(
        &mut self,
        count: usize,
        of: impl Fn(&[f32]) -> Seen,
    ) -> Result<Vec<Seen>, Box<dyn Error>> {
        match self {
            Self::Random(head) => Ok((0..count).map(|_| of(&head.logits())).collect()),
            Self::Real { model, texts, .. } => {
                let mut seen = Vec::new();
                model.logits(texts, count, &mut |logits| seen.push(of(logits)))?;
                Ok(seen)
            }
        }
    }
}

fn main() -> ExitCode {
    let Some(options) = options(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let mut victim = Victim::new(options)?;
    let width = victim.head().weights.first().map_or(0, Vec::len);
    // The attack that sees everything needs no more.
    let all = victim.seen(4 * width, unbounded)?;
    let found = attack(victim.head(), &all, 0);
    let attacked = found.width == width && found.error < 1e-3;
    let mut good = line("everything", (all.len(), width), &found, attacked);
    for (known, least) in [(5, 0.90), (20, 0.75)] {
        // What the caps of a budget leave, bits for bits: the width squared, 7.2 for each value.
        let within = width * width * 10 / (known * 72);
        for count in [within, options.contexts] {
            let seen = victim.seen(count, |logits| bounded(logits, known))?;
            let found = attack(victim.head(), &seen, 10);
            let hidden = found.width != width && found.gap_at_width < 2.0;
            good &= line(
                &format!("the {known} likeliest"),
                (count, width),
                &found,
                hidden,
            );
            let holds = found.error >= least;
            let word = if holds { "holds" } else { "does not hold" };
            println!("INFO an error of at least {least} {word}");
        }
    }
    Ok(good)
}

fn line(what: &str, (contexts, width): (usize, usize), found: &Found, holds: bool) -> bool {
    println!(
        "{} {what} of {contexts} contexts: width {width} {} (steepest fall after {}, by {:.1}; after {width} by {:.2}), error {:.4}",
        if holds { "PASS" } else { "FAIL" },
        if found.width == width {
            "found"
        } else {
            "not found"
        },
        found.width,
        found.gap,
        found.gap_at_width,
        found.error,
    );
    holds
}
