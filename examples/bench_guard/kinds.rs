//! Kinds of draws: what a request may ask for, as far as it makes a difference to what its tokens cost.

use casemate_models::engine::sampler::Draws;
use casemate_models::engine::{DryParams, SamplingParams};
use casemate_models::grammar::Follows;

/// Temperature and top-p.
const RULES: [(f64, f64); 6] = [
    (0.0, 1.0),
    (0.3, 1.0),
    (0.7, 1.0),
    (1.0, 1.0),
    (0.7, 0.95),
    (1.0, 0.95),
];

/// What a request asks for.
pub struct Kind {
    pub name: String,
    pub params: SamplingParams,
    /// What a grammar leaves.
    pub follows: Option<Follows>,
    /// Whether answers of this kind are marked where policy says so: not beside biases, penalties and grammars.
    pub marked: bool,
}

impl Kind {
    fn by(name: &str, temperature: f64, change: impl FnOnce(&mut SamplingParams)) -> Self {
        let mut params = SamplingParams {
            temperature,
            ..SamplingParams::default()
        };
        change(&mut params);
        Self {
            name: name.to_owned(),
            params,
            follows: None,
            marked: false,
        }
    }

    fn marked(self) -> Self {
        Self {
            marked: true,
            ..self
        }
    }
}

/// A few likely tokens and a long tail.
pub fn logits(vocabulary: usize) -> Vec<f32> {
    let mut draws = Draws::new(5);
    (0..vocabulary)
        .map(|_| (-(1.0 - draws.next_point()).ln() * 1.4) as f32)
        .collect()
}

/// Tokens before the draw: a repetition that DRY sees, and what penalties move.
pub fn past() -> Vec<u32> {
    (0..200).map(|at| at % 40).collect()
}

/// All of them, over these logits.
pub fn all(logits: &[f32]) -> Vec<Kind> {
    let rules = RULES.iter().map(|(temperature, top_p)| {
        let name = format!("temperature {temperature}, top-p {top_p}");
        Kind::by(&name, *temperature, |params| params.top_p = *top_p).marked()
    });
    let mut kinds: Vec<Kind> = rules.collect();
    kinds.extend([
        Kind::by("top-k 40", 0.7, |params| params.top_k = 40).marked(),
        Kind::by("min-p 0.05", 0.7, |params| params.min_p = 0.05).marked(),
        Kind::by("typical-p 0.9", 0.7, |params| params.typical_p = 0.9).marked(),
    ]);
    for temperature in [0.0, 0.7] {
        let name = |what: &str| format!("temperature {temperature}, {what}");
        let penalties = name("penalties");
        kinds.push(Kind::by(&penalties, temperature, |params| {
            (params.frequency_penalty, params.presence_penalty) = (0.3, 0.5);
        }));
        let penalties = name("penalties and top-p 0.95");
        kinds.push(Kind::by(&penalties, temperature, |params| {
            (params.presence_penalty, params.top_p) = (0.5, 0.95);
        }));
        kinds.push(Kind::by(&name("DRY"), temperature, |params| {
            params.dry = DryParams {
                multiplier: 0.8,
                ..DryParams::default()
            };
        }));
        kinds.push(Kind::by(&name("biases"), temperature, |params| {
            params.logit_bias = (0..100).map(|id| (id, 2.0)).collect();
        }));
        let leader = leader(logits);
        kinds.push(Kind::by(
            &name("the leader forbidden"),
            temperature,
            |params| {
                params.logit_bias = vec![(leader, -100.0)];
            },
        ));
        let keeps: [(&str, &dyn Fn(u32) -> bool); 5] = [
            ("a grammar leaves text", &|id| id % 50 != 0 || id == leader),
            ("a grammar leaves half", &|id| id % 2 == 0),
            ("a grammar leaves few", &|id| id % 500 == 0 || id == leader),
            ("a grammar leaves few others", &|id| {
                id % 500 == 1 && id != leader
            }),
            ("a grammar leaves one", &|id| id == leader),
        ];
        for (what, keep) in keeps {
            let mut kind = Kind::by(&name(what), temperature, |_| ());
            kind.follows = Some(follows(logits.len(), keep));
            kinds.push(kind);
        }
    }
    kinds
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a vocabulary's ids have 32 bits"
)]
fn leader(logits: &[f32]) -> u32 {
    let ranked = (0..logits.len()).zip(logits);
    let leads = ranked.max_by(|a, b| a.1.total_cmp(b.1));
    leads.map_or(0, |(id, _)| id as u32)
}

fn follows(vocabulary: usize, keep: &dyn Fn(u32) -> bool) -> Follows {
    let word = |first: u32| {
        let bits = (0..u32::BITS).filter(|bit| keep(first + bit));
        bits.fold(0_u32, |word, bit| word | 1 << bit)
    };
    let firsts = (0_u32..).step_by(u32::BITS as usize);
    let words = firsts.take(vocabulary.div_ceil(u32::BITS as usize));
    Follows::of_words(words.map(word).collect())
}
