//! What the guard costs a prompt: processor time of the thread that judges, and memory per principal.
//!
//! Prompts are made up here: each is a template around words that never come again, and five kinds are dearer than those: Han,
//! each character of which is a word, source code, the lines of which tell something too, and long lists of which all but a line
//! was sent before, so that many know every bit of them, also of words that have to be read in lower case, and the wide letters of
//! East Asian keyboards.

use std::fs;
use std::hint::black_box;
use std::time::Duration;

use casemate::guard::{
    Background, Families, GuardKey, Honest, Pace, People, Prompt, Sighting, Step, Template, Terms,
    Watch, Wording,
};

use crate::row::{Bar, Row};
use crate::spent;

const PRINCIPALS: usize = 256;
const PRINCIPALS_KEPT: usize = 10_000;
const PROMPTS: usize = 4096;
/// Some 600,000 shingles, and the most workloads that a policy declares.
const BACKGROUND_LINES: usize = 60_000;
const DECLARED: usize = 256;
const ROUNDS: usize = 9;
const MICROSECONDS_MAX: f64 = 100.0;
const BYTES_MAX: f64 = 24.0 * 1024.0;

const TERMS: Terms = Terms {
    honest: Honest {
        templated: 0.6,
        repeated: 0.1,
    },
    pace: Pace {
        delay_prompts_max: 16,
        quiet: Duration::from_secs(7 * 86_400),
        highest: Step::Slowed,
    },
    shadow: true,
};

/// Prompts that cost differently.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Words(usize),
    Han,
    Code,
    List,
    Names,
    Wide,
}

const KINDS: [Kind; 9] = [
    Kind::Words(20),
    Kind::Words(100),
    Kind::Words(400),
    Kind::Words(2000),
    Kind::Han,
    Kind::Code,
    Kind::List,
    Kind::Names,
    Kind::Wide,
];

impl Kind {
    fn name(self) -> String {
        match self {
            Self::Words(words) => format!("{words} words"),
            Self::Han => "2,048 characters of Han".to_owned(),
            Self::Code => "source code of 120 lines".to_owned(),
            Self::List => "a list of 400 lines, 399 of them known".to_owned(),
            Self::Names => "200 lines of Cyrillic names, 199 of them known".to_owned(),
            Self::Wide => "2000 words of full-width letters".to_owned(),
        }
    }

    /// The prompt `n` of this kind.
    fn prompt(self, n: usize) -> String {
        let lines = |many: usize| n..n + many;
        match self {
            Self::Words(words) => {
                let slot: Vec<String> = (0..words).map(|word| format!("w{n}x{word}")).collect();
                format!(
                    "Explain in many small steps and plain words why: {}",
                    slot.join(" ")
                )
            }
            Self::Han => lines(2048).filter_map(han).collect(),
            Self::Code => (0..120)
                .map(|at| format!("        let v{n}_{at} = self.f{at}(a{n}, &b)?;\n"))
                .collect(),
            Self::List => lines(400).map(|at| format!("- a: b{at} c\n")).collect(),
            Self::Names => lines(200)
                .map(|at| format!("Имя: Слово{at} Дела\n"))
                .collect(),
            Self::Wide => lines(2000).map(|at| format!("Ｗｏｒｄ{at} ")).collect(),
        }
    }
}

fn han(at: usize) -> Option<char> {
    char::from_u32(0x4e00 + u32::try_from(at * at % 20_000).ok()?)
}

/// Public wording, as much of it as is told from other wording.
fn background(key: &GuardKey) -> Background {
    let line = |n: usize| format!("what is the thing {n} of a{n} and b{n} in c{n} to d{n}");
    let lines: Vec<String> = (0..BACKGROUND_LINES).map(line).collect();
    Background::of_lines(key, lines.iter().map(String::as_str))
}

fn watch(key: &GuardKey, people: usize, instructions: &Background) -> Watch {
    let families = Families::new(instructions.clone(), 0);
    Watch::new(key.clone(), People::new(people), families)
}

/// Microseconds per prompt: compared with what is declared, read, scored, bet on and counted for the organisation.
#[expect(clippy::cast_precision_loss, reason = "a few thousand prompts")]
fn round(texts: &[String], key: &GuardKey, background: &Background, declared: &[Template]) -> f64 {
    let mut watch = watch(key, PRINCIPALS, background);
    let names: Vec<String> = (0..PRINCIPALS).map(name).collect();
    let begin = spent();
    for (text, principal) in texts.iter().zip(names.iter().cycle()) {
        if !declared.is_empty() {
            let wording = Wording::of(text);
            black_box(declared.iter().any(|one| one.is_in(&wording)));
        }
        let prompt = Prompt::read(key, background, text);
        let sighting = Sighting {
            principal,
            prompt: &prompt,
            terms: &TERMS,
            now: 0,
            chance: 0,
        };
        black_box(watch.observe(&sighting, || None));
    }
    (spent() - begin) / texts.len() as f64
}

fn name(n: usize) -> String {
    format!("spiffe://organisation.example/team/research/member-{n:06}")
}

/// Bytes of this process that are in memory.
fn resident() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u32 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(f64::from(kib) * 1024.0)
}

/// Bytes per principal with as many of them as a server keeps, each with prompts of its own.
fn memory(key: &GuardKey, background: &Background) -> Option<f64> {
    let mut watch = watch(key, PRINCIPALS_KEPT, background);
    let before = resident()?;
    for n in 0..PRINCIPALS_KEPT {
        let principal = name(n);
        for of_them in 0..2 {
            let text = Kind::Words(20).prompt(2 * n + of_them);
            let prompt = Prompt::read(key, background, &text);
            let sighting = Sighting {
                principal: &principal,
                prompt: &prompt,
                terms: &TERMS,
                now: 0,
                chance: 0,
            };
            watch.observe(&sighting, || None);
        }
    }
    let after = resident()?;
    black_box(&watch);
    let people = u32::try_from(watch.people().len()).ok()?;
    // The counts of the organisation are in it: they are touched for the first time here.
    Some((after - before) / f64::from(people))
}

/// Rows of prompts and of memory.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let key = GuardKey::new([1; 16]);
    let background = background(&key);
    let template = |n: usize| {
        format!("Translate the paragraph {n} of book b{n} and keep its style c{n}: {{{{text}}}}")
    };
    let declared = (0..DECLARED).map(|n| Template::of_text(&template(n)));
    let declared: Vec<Template> = declared.collect::<Result<_, _>>()?;
    let mut rows = Vec::new();
    let mut of_kind = |kind: Kind, what: &str, declared: &[Template]| {
        let texts: Vec<String> = (0..PROMPTS).map(|n| kind.prompt(n)).collect();
        let round = |_| (Some(round(&texts, &key, &background, declared)), None);
        let rounds = (0..ROUNDS).map(round).collect();
        rows.push(Row::new(
            "guard",
            &format!("processor time per prompt, {}{what}", kind.name()),
            "us",
            vec![Bar::AtMost(MICROSECONDS_MAX)],
            rounds,
        ));
    };
    for kind in KINDS {
        of_kind(kind, "", &[]);
    }
    let what = format!(", beside {DECLARED} declared workloads");
    of_kind(Kind::Words(400), &what, &declared);
    let name = "memory per principal, 10,000 of them";
    let bars = vec![Bar::AtMost(BYTES_MAX)];
    rows.push(Row::new(
        "guard",
        name,
        "bytes",
        bars,
        vec![(memory(&key, &background), None)],
    ));
    Ok(rows)
}
