//! The attack on the last layer at night length: `--contexts 32768` of a head of 1,024 tokens and 64 columns, through what the
//! product tells of each context (GUARD section 8, G2). Fails where the width is found within a bound; how much of the layer
//! is learned from so many contexts is told.

mod attack;

use std::process::ExitCode;

use attack::{Found, Head, attack, bounded, unbounded};

const VOCABULARY: usize = 1024;
const WIDTH: usize = 64;
/// Contexts of the attack that sees everything: it needs no more.
const UNBOUNDED_CONTEXTS: usize = 256;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let contexts = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Some(32_768),
        (Some("--contexts"), Some(count)) => count.parse().ok().filter(|count| *count >= 256),
        _ => None,
    };
    let Some(contexts) = contexts else {
        eprintln!("usage: last_layer [--contexts N], N at least 256");
        return ExitCode::from(2);
    };
    let mut head = Head::new(VOCABULARY, WIDTH, 1);
    let all: Vec<_> = (0..UNBOUNDED_CONTEXTS)
        .map(|_| unbounded(&head.logits()))
        .collect();
    let found = attack(&head, &all, 0);
    let attacked = found.width == WIDTH && found.error < 1e-3;
    let mut good = line("everything", all.len(), &found, attacked);
    for (known, least) in [(5, 0.90), (20, 0.75)] {
        // What the caps of a budget leave, bits for bits: the width squared, 7.2 for each value.
        let within = WIDTH * WIDTH * 10 / (known * 72);
        for count in [within, contexts] {
            let seen: Vec<_> = (0..count).map(|_| bounded(&head.logits(), known)).collect();
            let found = attack(&head, &seen, 10);
            let hidden = found.width != WIDTH && found.gap_at_width < 2.0;
            good &= line(&format!("the {known} likeliest"), count, &found, hidden);
            let holds = found.error >= least;
            let word = if holds { "holds" } else { "does not hold" };
            println!("INFO an error of at least {least} {word}");
        }
    }
    match good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn line(what: &str, contexts: usize, found: &Found, holds: bool) -> bool {
    println!(
        "{} {what} of {contexts} contexts: width {WIDTH} {} (steepest fall after {}, by {:.1}; after {WIDTH} by {:.2}), error {:.4}",
        if holds { "PASS" } else { "FAIL" },
        if found.width == WIDTH {
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
