//! Sessions of honest users and of crawlers out of the shared traffic, read in place.

use std::fs;
use std::path::PathBuf;

use casemate::guard::{Background, GuardKey};
use serde_json::Value;

/// The traffic, or nothing where this machine lacks it: a failure where CI says that it must be there.
pub struct Traffic {
    pub adhoc: Vec<String>,
    pub questions: Vec<String>,
    /// The other half of the questions, and of the instructions: public text, and in no session.
    pub public: Vec<String>,
    pub instructions: Vec<String>,
    wrappers: Vec<&'static str>,
    pub scaffolds: Vec<String>,
    pub rotating: Vec<String>,
    pub jailbreaks: Vec<String>,
    pub lookalikes: Vec<String>,
    /// Template and text.
    pub templated: Vec<(String, String)>,
}

impl Traffic {
    /// What judges: every second question, text and wrapper.
    pub fn read() -> Option<Self> {
        Self::half(1)
    }

    /// What thresholds were set on: the other half of what honest people write. Nothing of it is in [`Self::read`].
    pub fn calibration() -> Option<Self> {
        Self::half(0)
    }

    fn half(which: usize) -> Option<Self> {
        let folder = folder();
        if !folder.is_dir() {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "the shared traffic is missing"
            );
            println!("SKIP: the shared traffic is not on this machine");
            return None;
        }
        let rows = |name: &str| -> Vec<Value> {
            let text = fs::read_to_string(folder.join(name)).unwrap();
            let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
            rows.collect()
        };
        let word = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let texts = |name: &str| -> Vec<String> {
            rows(name).iter().map(|row| word(row, "text")).collect()
        };
        let kind = |kind: &str| {
            let all = rows("attack_crawler_scaffolds.jsonl");
            let of_kind = all.iter().filter(|row| row["kind"] == kind);
            of_kind.map(|row| word(row, "text")).collect()
        };
        let turns = |row: &Value| row["turns"].as_array().unwrap().clone();
        let adhoc = rows("benign_adhoc.jsonl");
        let adhoc = adhoc.iter().flat_map(turns);
        let templated = rows("templated_tasks.jsonl");
        let templated = templated
            .iter()
            .map(|row| (word(row, "template"), word(row, "text")));
        let all: Vec<String> = texts("benign_questions.jsonl");
        let half = |odd| all.iter().skip(odd).step_by(2).cloned();
        let adhoc: Vec<String> = adhoc
            .map(|turn| turn.as_str().unwrap().to_owned())
            .collect();
        let adhoc_half = |odd| adhoc.iter().skip(odd).step_by(2).cloned();
        Some(Self {
            public: half(1 - which).collect(),
            instructions: adhoc_half(1 - which).collect(),
            adhoc: adhoc_half(which).collect(),
            questions: half(which).collect(),
            wrappers: WRAPPERS.into_iter().skip(which).step_by(2).collect(),
            scaffolds: kind("scaffold"),
            rotating: kind("rotating"),
            jailbreaks: texts("attack_jailbreak_sample.jsonl"),
            lookalikes: texts("benign_lookalikes.jsonl"),
            templated: templated.collect(),
        })
    }

    /// When requests came to a service, in seconds after the first one of their trace: these traces, in order.
    pub fn arrivals(traces: &[&str]) -> Vec<f64> {
        let rows = |trace: &&str| fs::read_to_string(folder().join(trace)).unwrap();
        let seconds = |row: &str| -> f64 { row.split(',').next().unwrap().parse().unwrap() };
        let mut all: Vec<f64> = Vec::new();
        for rows in traces.iter().map(rows) {
            all.extend(rows.lines().skip(1).map(seconds));
        }
        all.sort_by(f64::total_cmp);
        all
    }

    /// Texts that somebody wrote for themselves, in random order and each once: crawlers do not ask twice, and how often
    /// honest people do is said where they are simulated.
    pub fn plain(&self, count: usize, chance: &mut Chance) -> Vec<&str> {
        let all = self.adhoc.iter().chain(&self.questions);
        let mut all: Vec<&str> = all.map(String::as_str).collect();
        for at in 0..count {
            let other = at + chance.below(all.len() - at);
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }

    /// One honest session: each user has a wrapper of their own on up to 60 % of their prompts, and repeats a tenth of them.
    pub fn honest(&self, prompts: usize, chance: &mut Chance) -> Vec<String> {
        let wrapped = chance.below(601);
        let wrapper = self.wrappers[chance.below(self.wrappers.len())];
        self.session(prompts, (wrapper, wrapped), chance)
    }

    /// The session of somebody who puts this wrapper around so many of a thousand prompts.
    pub fn session(
        &self,
        prompts: usize,
        (wrapper, wrapped): (&str, usize),
        chance: &mut Chance,
    ) -> Vec<String> {
        let mut sent: Vec<String> = Vec::with_capacity(prompts);
        for text in self.plain(prompts, chance) {
            let next = if !sent.is_empty() && chance.below(10) == 0 {
                sent[chance.below(sent.len())].clone()
            } else if chance.below(1000) < wrapped {
                wrapper.replace("{slot}", text)
            } else {
                text.to_owned()
            };
            sent.push(next);
        }
        sent
    }

    /// A crawler's prompts: a scaffold around a question in `share` of a hundred, others as they are.
    pub fn crawl(
        &self,
        scaffolds: &[String],
        share: usize,
        prompts: usize,
        chance: &mut Chance,
    ) -> Vec<String> {
        let texts = self.plain(prompts, chance);
        let one = |text: &str| {
            if chance.below(100) < share {
                scaffolds[chance.below(scaffolds.len())].replace("{slot}", text)
            } else {
                text.to_owned()
            }
        };
        texts.into_iter().map(one).collect()
    }
}

/// A wrapper that only one person uses: nine words of their own.
pub fn own_wrapper(chance: &mut Chance) -> String {
    let words: Vec<String> = (0..9)
        .map(|_| format!("own{}", chance.below(5000)))
        .collect();
    format!("{} {{slot}}", words.join(" "))
}

/// What anybody asks, and how anybody begins to ask: both of the half that is in no session.
pub fn public(key: &GuardKey, traffic: &Traffic) -> (Background, Background) {
    let of = |lines: &[String]| Background::of_lines(key, lines.iter().map(String::as_str));
    (of(&traffic.public), of(&traffic.instructions))
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/traffic")
}

/// How single users write around what they ask; written for this test, apart from the rows of the attack files.
const WRAPPERS: [&str; 8] = [
    "Please put this into plain English for the newsletter: {slot}",
    "{slot}\n\nKeep it under two hundred words, and sign it with the name of our office.",
    "Summarise what follows for the weekly report of the harbour team.\n{slot}",
    "Could you have a look at the note below and tell me whether it is polite enough? {slot}",
    "Translate into Portuguese for a customer in Porto: {slot}",
    "For the minutes of today's meeting, in three short bullets please: {slot}",
    "My colleague asks the following and I have no idea what to say to her: {slot}",
    "Check the grammar, leave the tone as it is. {slot}",
];

/// Chance that is the same in every run.
pub struct Chance(u64, GuardKey);

impl Chance {
    pub fn new(seed: u8) -> Self {
        Self(0, GuardKey::new([seed; 16]))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 += 1;
        (self.1.hash_words(&[self.0]) % limit as u64) as usize
    }
}
