//! G5: twenty-five identities that send one scaffolded prompt a day each, among thousands of others.

use std::collections::BTreeSet;

use casemate::guard::{Background, Families, GuardKey, Prompt};

use crate::traffic::{Chance, Traffic, own_wrapper, public};

const PRINCIPALS: usize = 260;
const CRAWLERS: usize = 25;
const PROMPTS_EACH: usize = 50;
const DAY: u64 = 86_400;

/// What everybody sends on a day, in mixed order: who, and what.
fn day(traffic: &Traffic, scaffold: Option<&str>, chance: &mut Chance) -> Vec<(u64, String)> {
    let mut sent = Vec::new();
    for who in 0..PRINCIPALS {
        let (wrapper, wrapped) = (own_wrapper(chance), chance.below(601));
        for text in traffic.plain(PROMPTS_EACH, chance) {
            let text = if chance.below(1000) < wrapped {
                wrapper.replace("{slot}", text)
            } else {
                text.to_owned()
            };
            sent.push((who as u64, text));
        }
    }
    if let Some(scaffold) = scaffold {
        for (who, text) in traffic.plain(CRAWLERS, chance).into_iter().enumerate() {
            sent.push((who as u64, scaffold.replace("{slot}", text)));
        }
    }
    for at in 0..sent.len() {
        let other = at + chance.below(sent.len() - at);
        sent.swap(at, other);
    }
    sent
}

fn watch(families: &mut Families, background: &Background, sent: &[(u64, String)], now: u64) {
    let key = GuardKey::new([9; 16]);
    for (who, text) in sent {
        let prompt = Prompt::read(&key, background, text);
        families.observe(&prompt, key.hash_words(&[*who]), now);
    }
}

#[test]
fn s20_g5_one_prompt_a_day_from_each_of_many_identities_is_a_family() {
    let Some(traffic) = Traffic::read() else {
        return;
    };
    let key = GuardKey::new([9; 16]);
    let (background, instructions) = public(&key, &traffic);
    let mut chance = Chance::new(4);
    let (mut found, mut others) = (0, 0);
    let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
    for run in 0..100 {
        let scaffold = &traffic.scaffolds[run % traffic.scaffolds.len()];
        let sent = day(&traffic, Some(scaffold), &mut chance);
        let mut families = Families::new(instructions.clone(), 0);
        watch(&mut families, &background, &sent, 0);
        let all = families.families();
        others += all.len().saturating_sub(1);
        let prompts = all.iter().map(|one| one.prompts()).max().unwrap_or(0);
        let share = f64::from(prompts) / CRAWLERS as f64;
        if share >= 0.8 {
            found += 1;
            (least, most) = (least.min(share), most.max(share));
        }
    }
    println!("families: {found} of 100 days, {least} to {most} gathered, {others} others");
    assert!(found >= 95, "{found} of 100 days");
    assert!(others <= 5, "{others} false families in 100 days");
}

#[test]
fn g5_honest_weeks_have_no_families() {
    let Some(traffic) = Traffic::read() else {
        return;
    };
    let key = GuardKey::new([9; 16]);
    let (background, instructions) = public(&key, &traffic);
    let (mut chance, mut families) = (Chance::new(5), Families::new(instructions, 0));
    let mut ever = BTreeSet::new();
    for n in 0..28 {
        let sent = day(&traffic, None, &mut chance);
        watch(&mut families, &background, &sent, n * DAY);
        ever.extend(families.families().iter().map(|one| one.marks().to_vec()));
    }
    println!(
        "families: {} false ones in 28 honest days on end",
        ever.len()
    );
    assert!(ever.len() <= 1, "{}", ever.len());
}

/// A week's days of people who ask few questions often, each in several wrappers of their own with the slot anywhere: harder than
/// what judges, and of the half that it does not have. The share of new things that a family needs was set here.
#[test]
fn g5_honest_calibration_days_with_few_questions_have_no_families() {
    let Some(traffic) = Traffic::calibration() else {
        return;
    };
    let key = GuardKey::new([9; 16]);
    let (background, instructions) = public(&key, &traffic);
    let all: Vec<&String> = traffic.adhoc.iter().chain(&traffic.questions).collect();
    let few: Vec<&str> = all.into_iter().step_by(2).map(String::as_str).collect();
    let mut chance = Chance::new(6);
    let mut ever = BTreeSet::new();
    for wrappers in [1, 3, 6] {
        let mut families = Families::new(instructions.clone(), 0);
        let wrapper = |chance: &mut Chance| {
            let words = own_wrapper(chance).replace(" {slot}", "");
            let words: Vec<&str> = words.split(' ').collect();
            let (before, after) = words.split_at(chance.below(words.len() + 1));
            format!("{} {{slot}} {}", before.join(" "), after.join(" "))
        };
        let people: Vec<(Vec<String>, usize)> = (0..225)
            .map(|_| {
                let own = (0..wrappers).map(|_| wrapper(&mut chance)).collect();
                (own, chance.below(601))
            })
            .collect();
        for day in 0..7 {
            let sent: Vec<(u64, String)> = (0..18_800)
                .map(|_| {
                    let who = chance.below(people.len());
                    let (own, wrapped) = &people[who];
                    let text = few[chance.below(few.len())];
                    let text = match chance.below(1000) < *wrapped {
                        true => own[chance.below(own.len())].replace("{slot}", text),
                        false => text.to_owned(),
                    };
                    (who as u64, text)
                })
                .collect();
            watch(&mut families, &background, &sent, day * DAY);
            ever.extend(families.families().iter().map(|one| one.marks().to_vec()));
        }
    }
    println!(
        "families: {} false ones in 21 harder calibration days",
        ever.len()
    );
    assert!(ever.len() <= 1, "{}", ever.len());
}

#[test]
fn s20_g5_a_family_that_is_known_is_gathered_from_its_first_prompt_of_a_day() {
    let Some(traffic) = Traffic::read() else {
        return;
    };
    let key = GuardKey::new([9; 16]);
    let (background, instructions) = public(&key, &traffic);
    let mut chance = Chance::new(8);
    for scaffold in &traffic.scaffolds {
        let mut families = Families::new(instructions.clone(), 0);
        for today in 0..2 {
            let sent = day(&traffic, Some(scaffold), &mut chance);
            watch(&mut families, &background, &sent, today * DAY);
        }
        let gathered: u32 = families.families().iter().map(|one| one.prompts()).sum();
        let share = f64::from(gathered) / (2 * CRAWLERS) as f64;
        println!("families: {share} of two days gathered");
        assert!(share >= 0.8, "{share}");
    }
}
