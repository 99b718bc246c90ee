//! G3: whoever may bias tokens and compares logits with it, without ever being told a probability, is charged for each question
//! and ends where the budget for everybody does, a twentieth of the last layer's block away from anything.

use std::sync::Arc;

use casemate::guard::Holder;
use casemate::policy::{GuardMode, GuardPolicy};
use casemate::queue::Generator;
use casemate::serve::Served;
use serde_json::json;

use crate::guard::refused;
use crate::harness::{Server, Setup};
use crate::oracles::Model;
use crate::organisation::model;
use crate::raw::Raw;

const COMPLETIONS: &str = "/v1/completions";
/// Halvings of the difference of two logits, from the width of a bias that matters down to some hundredths of a nat.
const HALVINGS: u32 = 10;

/// The attack without probabilities: the likeliest token of a context against another one, with a bias on that one halved towards
/// the value at which both are alike.
struct Attacker<'a> {
    raw: &'a mut Raw,
    questions: u64,
}

impl Attacker<'_> {
    /// Whether `other` is taken when it is lifted by `bias`; nothing once the budget says no.
    async fn takes(&mut self, context: &str, other: u32, bias: f64) -> Option<String> {
        let body = json!({"model": "story", "prompt": context, "max_tokens": 1, "temperature": 0,
            "logit_bias": {other.to_string(): bias}});
        let answer = self.raw.post(COMPLETIONS, &body).await;
        if answer.status == 429 {
            refused(answer, 429, "guard_budget_spent");
            return None;
        }
        self.questions += 1;
        let answer = answer.ok();
        Some(answer["choices"][0]["text"].as_str().unwrap().to_owned())
    }

    /// How far below the likeliest token `other` is.
    async fn gap(&mut self, context: &str, other: u32) -> Option<f64> {
        let leader = self.takes(context, other, -100.0).await?;
        let (mut low, mut high) = (0.0, 24.0);
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            match self.takes(context, other, middle).await? == leader {
                true => low = middle,
                false => high = middle,
            }
        }
        Some(high)
    }
}

#[tokio::test]
async fn g3_a_logprob_free_attack_is_charged_and_ends_before_a_twentieth_of_the_block() {
    let Some(mut weights) = Model::load() else {
        return;
    };
    let generator = Arc::new(Served::new(weights.running.clone()));
    let width = generator.width();
    let server = Server::start(Setup {
        generator: Some(generator as Arc<dyn Generator>),
        guard: Some(GuardPolicy {
            mode: GuardMode::On,
            ..GuardPolicy::default()
        }),
        ..Setup::default()
    })
    .await;
    let mut raw = Raw::attested(&server, "ada").await;
    let mut attacker = Attacker {
        raw: &mut raw,
        questions: 0,
    };
    let (mut entries, mut exact) = (0_u64, 0_u64);
    'all: for number in 0..1000_u32 {
        let context = format!("It was day {number} and");
        let prompt = weights.running.encode_text(&context).unwrap();
        let row = weights.logits(&prompt);
        let leader = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for other in (300..340).map(|id| (id * 7 + number) % row.len() as u32) {
            let Some(gap) = attacker.gap(&context, other).await else {
                break 'all;
            };
            entries += 1;
            let truth = f64::from(leader - row[other as usize]);
            exact += u64::from((gap - truth).abs() < 0.1 || truth > 24.0);
        }
    }
    let block = ((width + 1) * (width + 1)) as u64;
    let used = server
        .service
        .sentry()
        .used(&Holder::organisation(), model());
    println!(
        "width {width}: {entries} of {block} entries with {} questions, {used:?}",
        attacker.questions
    );
    assert!(
        exact * 10 >= entries * 9 && entries > 10,
        "the attack works: {exact} of {entries}"
    );
    // Each question has two answers, and costs a bit or more.
    assert!(used.arranged_millibits >= attacker.questions * 1000);
    assert!(entries * 20 < block, "{entries} of {block}");
    // Nobody else has more of it, and text is given all the same.
    let mut other = Raw::attested(&server, "bob").await;
    let body =
        json!({"model": "story", "prompt": "It was", "max_tokens": 1, "logit_bias": {"7": 1}});
    refused(
        other.post(COMPLETIONS, &body).await,
        429,
        "guard_budget_spent",
    );
    let body = json!({"model": "story", "prompt": "It was", "max_tokens": 3});
    other.post(COMPLETIONS, &body).await.ok();
}
