//! The attack on the last layer (GUARD section 8, G2), at a size that every run can afford: it finds everything where nothing
//! is bounded, and nothing within the bound. `examples/last_layer` runs it at night length.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "../examples/last_layer/attack.rs"]
mod attack;

use attack::{Head, Seen, attack, bounded, unbounded};

const VOCABULARY: usize = 512;
const WIDTH: usize = 32;

fn seen(head: &mut Head, count: usize, of: impl Fn(&[f32]) -> Seen) -> Vec<Seen> {
    (0..count).map(|_| of(&head.logits())).collect()
}

#[test]
fn s05_the_attack_finds_the_last_layer_where_everything_is_told() {
    let mut head = Head::new(VOCABULARY, WIDTH, 1);
    let contexts = seen(&mut head, 128, unbounded);
    let found = attack(&head, &contexts, 0);
    assert_eq!(found.width, WIDTH, "{found:?}");
    assert!(found.gap > 1e3 && found.error < 1e-3, "{found:?}");
}

#[test]
fn s05_rounding_alone_is_no_defence() {
    let mut head = Head::new(VOCABULARY, WIDTH, 1);
    let rounded = |logits: &[f32]| {
        let exact = unbounded(logits).into_iter();
        exact
            .map(|(id, value)| (id, (value * 10.0).round() / 10.0))
            .collect()
    };
    let contexts = seen(&mut head, 1024, rounded);
    let found = attack(&head, &contexts, 0);
    assert_eq!(found.width, WIDTH, "{found:?}");
    assert!(found.error < 0.05, "{found:?}");
}

#[test]
fn s05_within_the_bound_the_attack_finds_neither_width_nor_layer() {
    // 5 is the default, and 7 the most for this width: below a quarter of it.
    for known in [5, 7] {
        let mut head = Head::new(VOCABULARY, WIDTH, 1);
        let contexts = seen(&mut head, 4096, |logits| bounded(logits, known));
        let found = attack(&head, &contexts, 6);
        println!("{known} likeliest: {found:?}");
        assert_ne!(found.width, WIDTH, "{known}: {found:?}");
        assert!(found.gap_at_width < 1.2, "{known}: {found:?}");
        // Leading directions can be learned from many contexts, even so: the width squared in bits, 36 for a context with
        // five values, is what a budget should allow (GUARD section 2).
        assert!(found.error >= 0.70, "{known}: {found:?}");
    }
}

#[test]
fn s05_within_bound_and_budget_the_attack_finds_hardly_more_than_chance() {
    let mut head = Head::new(VOCABULARY, WIDTH, 1);
    let contexts = seen(&mut head, WIDTH * WIDTH / 36, |logits| bounded(logits, 5));
    let found = attack(&head, &contexts, 6);
    println!("within the budget: {found:?}");
    assert_ne!(found.width, WIDTH, "{found:?}");
    assert!(found.error >= 0.90, "{found:?}");
}
