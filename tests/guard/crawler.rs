//! G4 and what of G6, G7 and G16 one principal's sketch decides. Thresholds come from the honest calibration half alone.

use std::collections::BTreeMap;

use casemate::guard::{Background, GuardKey, Prompt, Sketch, Wager};

use crate::traffic::{Chance, Traffic};

fn key() -> GuardKey {
    GuardKey::new([9; 16])
}

/// Prompts up to and with the one that alarmed.
fn alarm_after(background: &Background, prompts: &[String]) -> Option<usize> {
    let key = key();
    let (mut sketch, mut wager) = (Sketch::new(0), Wager::default());
    let alarms =
        |text: &String| wager.observe(sketch.observe(&Prompt::read(&key, background, text), 0));
    prompts.iter().position(alarms).map(|at| at + 1)
}

/// The share of runs that alarm within `prompts`, and the median of those that do.
fn found(
    traffic: &Traffic,
    runs: usize,
    prompts: usize,
    mut one: impl FnMut(usize) -> Vec<String>,
) -> (f64, usize) {
    let public = traffic.public.iter().map(String::as_str);
    let background = Background::of_lines(&key(), public);
    let after = (0..runs).map(|run| alarm_after(&background, &one(run)));
    let mut within: Vec<usize> = after.flatten().filter(|at| *at <= prompts).collect();
    within.sort_unstable();
    let median = within.get(within.len() / 2).copied().unwrap_or(0);
    (within.len() as f64 / runs as f64, median)
}

#[test]
fn g4_honest_sessions_are_rarely_taken_for_crawlers() {
    let Some(traffic) = Traffic::read() else {
        return;
    };
    let mut chance = Chance::new(1);
    let (share, _) = found(&traffic, 5000, 512, |_| traffic.honest(512, &mut chance));
    println!("honest: {share} of 5000 sessions of 512 prompts alarm; the goal is 0.001");
    assert!(share <= 0.001, "{share}");
}

/// The thresholds were set on this half, before the other was judged.
#[test]
fn g4_honest_calibration_sessions_keep_the_goal() {
    let Some(traffic) = Traffic::calibration() else {
        return;
    };
    let mut chance = Chance::new(7);
    let (share, _) = found(&traffic, 5000, 512, |_| traffic.honest(512, &mut chance));
    println!("calibration: {share} of 5000 sessions of 512 prompts alarm");
    assert!(share <= 0.001, "{share}");
}

#[test]
fn g4_a_crawler_of_one_identity_is_found() {
    let Some(traffic) = Traffic::read() else {
        return;
    };
    let mut chance = Chance::new(2);
    let scaffold = |run: usize| std::slice::from_ref(&traffic.scaffolds[run % 16]);
    let rows = [
        (
            "one scaffold",
            0.99,
            found(&traffic, 800, 64, |run| {
                traffic.crawl(scaffold(run), 100, 64, &mut chance)
            }),
        ),
        (
            "8 rewordings",
            0.99,
            found(&traffic, 400, 64, |_| {
                traffic.crawl(&traffic.rotating, 100, 64, &mut chance)
            }),
        ),
        (
            "16 scaffolds",
            0.99,
            found(&traffic, 400, 128, |_| {
                traffic.crawl(&traffic.scaffolds, 100, 128, &mut chance)
            }),
        ),
        (
            "at 75 %",
            0.95,
            found(&traffic, 800, 64, |run| {
                traffic.crawl(scaffold(run), 75, 64, &mut chance)
            }),
        ),
    ];
    for (name, _, (share, median)) in rows {
        println!("{name}: {share}, median {median}");
    }
    for (name, bar, (share, _)) in rows {
        assert!(share >= bar, "{name}: {share}");
    }
}

#[test]
fn g6_pipelines_that_nobody_declared_are_flagged_and_odd_prompts_are_not() {
    let Some(traffic) = Traffic::read() else {
        return;
    };
    let mut templates: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (template, text) in &traffic.templated {
        templates.entry(template).or_default().push(text.clone());
    }
    let pipelines: Vec<Vec<String>> = templates.into_values().collect();
    let (share, median) = found(&traffic, pipelines.len(), 512, |run| pipelines[run].clone());
    println!(
        "undeclared pipelines: {share} of {}, median {median}",
        pipelines.len()
    );
    assert!(share >= 0.9, "{share}");
    for odd in [&traffic.jailbreaks, &traffic.lookalikes] {
        let (share, _) = found(&traffic, 1, 512, |_| odd.clone());
        assert!(share == 0.0, "an alarm on prompts that are no extraction");
    }
}

/// When one of these fails, the guard has learned to see more: move the row to the goals.
#[test]
fn known_misses_of_one_principals_sketch_are_still_missed() {
    let Some(traffic) = Traffic::read() else {
        return;
    };
    let mut chance = Chance::new(3);
    let scaffold = |run: usize| std::slice::from_ref(&traffic.scaffolds[run % 16]);
    let (half, _) = found(&traffic, 200, 64, |run| {
        traffic.crawl(scaffold(run), 50, 64, &mut chance)
    });
    let (bare, _) = found(&traffic, 200, 512, |_| {
        traffic.crawl(&traffic.scaffolds, 0, 512, &mut chance)
    });
    let without_wording = "kilt_tasks_hotpotqa_straighforward_qa";
    let of_it = |(template, _): &&(String, String)| template == without_wording;
    let texts = traffic.templated.iter().filter(of_it);
    let texts: Vec<String> = texts.map(|(_, text)| text.clone()).collect();
    let (pipeline, _) = found(&traffic, 1, 512, |_| texts.clone());
    println!(
        "known misses: half diluted {half}, no template {bare}, pipeline of bare questions {pipeline}"
    );
    assert!(half < 0.5 && bare == 0.0 && pipeline == 0.0);
}

#[test]
fn g16_a_principal_costs_a_bounded_sketch() {
    let size = size_of::<Sketch>() + size_of::<Wager>();
    assert!(size <= 24 * 1024, "{size} bytes");
}
