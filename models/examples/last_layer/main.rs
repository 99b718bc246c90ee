//! The attack on the last layer at night length: `--contexts 32768` of a head of 1,024 tokens and 64 columns, through what the
//! product tells of each context. Prints one line for each bound, and fails where one does not hold (GUARD section 8, G2).

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
    let mut good = line(
        "everything",
        all.len(),
        &found,
        found.width == WIDTH && found.error < 1e-3,
    );
    for (known, least) in [(5, 0.90), (20, 0.75)] {
        let seen: Vec<_> = (0..contexts)
            .map(|_| bounded(&head.logits(), known))
            .collect();
        let found = attack(&head, &seen, 10);
        let holds = found.gap_at_width < 2.0 && found.error >= least;
        good &= line(&format!("the {known} likeliest"), contexts, &found, holds);
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
