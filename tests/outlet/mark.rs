//! G8 and G10: marks in simulated and in real answers, found under the right key and under no other.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::mpsc::channel;

use casemate::guard::mark::{
    MarkRoot, TeamMark, Verdict, calibrate, look, p_values, pairs_needed, uniform_p,
};
use casemate_models::LoadedModel;
use casemate_models::engine::sampler::{self, Distribution, Draws, Past};
use casemate_models::engine::{
    EngineLimits, Event, Executor, GenerateRequest, MarkKey, SamplingParams, Tenant, mark,
};
use casemate_models::model::RunningModel;
use casemate_models::tokenizer::Tokenizer;
use casemate_models::weights::{GgufFile, WeightSource};

use crate::{shared, texts};

const VOCABULARY: usize = 400;

/// Answers of a model that does not exist: distributions of so many bits on average.
struct Simulated {
    draws: Draws,
    /// What logits are multiplied by.
    scale: f64,
    /// Bits of the distributions so far, and how many there were.
    bits: (f64, u32),
}

impl Simulated {
    fn new(seed: u64, scale: f64) -> Self {
        Self {
            draws: Draws::new(seed),
            scale,
            bits: (0.0, 0),
        }
    }

    fn answer(&mut self, tokens: usize, key: Option<&MarkKey>) -> Vec<u32> {
        let params = SamplingParams::default();
        let mut answer = Vec::new();
        for _ in 0..tokens {
            // Some places are open and most are not, as in text.
            let sharp = self.scale * (0.3 - self.draws.next_point().ln());
            let logits: Vec<f32> = (0..VOCABULARY)
                .map(|_| (-(-self.draws.next_point().ln()).ln() * sharp) as f32)
                .collect();
            let exact = Distribution::new(&logits, &params, Past::default()).unwrap();
            let parts = exact.tokens.iter().filter(|(_, p)| *p > 0.0);
            self.bits.0 -= parts.map(|(_, p)| p * p.log2()).sum::<f64>();
            self.bits.1 += 1;
            let point = self.draws.next_point();
            let marked = key.zip(mark::context(&answer));
            let token = match marked {
                None => sampler::draw(&logits, &params, Past::default(), point),
                Some((key, context)) => mark::draw(
                    &logits,
                    &params,
                    Past::default(),
                    &key.noise(context),
                    point,
                ),
            };
            answer.push(token.unwrap());
        }
        answer
    }

    fn mean_bits(&self) -> f64 {
        self.bits.0 / f64::from(self.bits.1)
    }
}

/// 64 teams of 16 keys: 1,024.
fn teams() -> Vec<TeamMark> {
    let root = MarkRoot::new([5; 32], 1);
    (0..64).map(|at| root.team(&format!("team-{at}"))).collect()
}

/// How many of `count` simulated answers of `tokens` tokens are told, all of them of the right team; and their bits.
fn told(count: usize, tokens: usize, scale: f64) -> (usize, f64) {
    let teams = teams();
    let mut simulated = Simulated::new(tokens as u64, scale);
    let mut told = 0;
    for at in 0..count {
        let team = &teams[at * 7 % teams.len()];
        let answer = simulated.answer(tokens, Some(&team.sub_key(at as u8)));
        // The verdict alone is asked about here, so the length is taken as enough.
        let report = look(&[answer], &teams, 2.0);
        if let Verdict::Marked { team: found, .. } = &report.verdict {
            assert_eq!(found, team.team());
            told += 1;
        }
    }
    (told, simulated.mean_bits())
}

/// How many times as many answers are judged as on every run: `CASEMATE_MARK_ROUNDS`, for a night.
fn rounds() -> usize {
    let asked = std::env::var("CASEMATE_MARK_ROUNDS");
    asked.map_or(1, |rounds| rounds.parse().unwrap())
}

#[test]
fn marked_answers_are_told_at_the_length_that_is_said_to_be_needed() {
    for (count, tokens, scale, bits) in [(100, 300, 4.3, 1.0), (20, 2500, 11.0, 0.30)] {
        let count = count * rounds();
        let (found, mean) = told(count, tokens, scale);
        println!(
            "{tokens} tokens of {mean:.2} bits: {found} of {count} told, {} needed",
            pairs_needed(mean, 1024)
        );
        assert!((mean / bits - 1.0).abs() < 0.25, "{mean} bits");
        assert!(found * 100 >= count * 95, "{found} of {count}");
    }
}

#[test]
fn without_a_mark_nobody_is_named_and_p_values_are_uniform() {
    let teams = teams();
    let mut simulated = Simulated::new(9, 4.3);
    let mut all = Vec::new();
    for at in 0..40 * rounds() {
        let answer = simulated.answer(300, None);
        let report = look(std::slice::from_ref(&answer), &teams, 2.0);
        assert_eq!(report.verdict, Verdict::NotMarked);
        all.extend(p_values(&[answer], &[teams[at % teams.len()].sub_key(0)]));
    }
    assert!(uniform_p(&all) > 0.01, "{}", uniform_p(&all));
}

fn tokenizer(name: &str) -> Option<Tokenizer> {
    let file = GgufFile::open(&shared(name)?).unwrap();
    Some(Tokenizer::from_header(file.header()).unwrap())
}

/// G8, the null: honest answers of another model, cut by real vocabularies, score like chance under every key.
#[test]
fn honest_answers_have_uniform_p_values() {
    let Some(answers) = texts("traffic/benign_answers.jsonl") else {
        return;
    };
    let keys: Vec<MarkKey> = (0..8).map(|at| teams()[at].sub_key(at as u8)).collect();
    for vocabulary in ["llama-bpe", "llama-spm"] {
        let name = format!("tokenizers/ggml-vocab-{vocabulary}.gguf");
        let Some(tokenizer) = tokenizer(&name) else {
            return;
        };
        let mut all = Vec::new();
        for answer in &answers {
            let tokens = tokenizer.encode_text(answer).unwrap();
            // Of few pairs p-values are uniform, too; of none they are 1.
            if tokens.len() > 12 {
                all.extend(p_values(&[tokens], &keys));
            }
        }
        let low = all.iter().filter(|p| **p < 1e-3).count() as f64;
        let expected = all.len() as f64 * 1e-3;
        println!(
            "{vocabulary}: {} p-values, KS p = {:.3}, {low} below 0.001 of {expected:.1} expected",
            all.len(),
            uniform_p(&all)
        );
        assert!(uniform_p(&all) > 0.01, "{vocabulary}: {}", uniform_p(&all));
        assert!(
            low <= expected + 3.3 * expected.sqrt(),
            "{vocabulary}: {low} of {expected}"
        );
    }
}

fn stories() -> Option<RunningModel> {
    let file = GgufFile::open(&shared("models/stories260K/stories260K-F32.gguf")?).unwrap();
    let limits = EngineLimits {
        executor: Executor::Reference,
        threads: 1,
        cache_tokens_max: 4096,
        ..EngineLimits::default()
    };
    let loaded = LoadedModel::load(&file, limits, &mut |_, _| {}).unwrap();
    Some(loaded.spawn().unwrap())
}

/// Texts of a story, side by side.
fn write(
    model: &RunningModel,
    beginning: &str,
    marks: &[Option<MarkKey>],
    tokens: usize,
) -> Vec<String> {
    let start = |mark: &Option<MarkKey>| {
        let (sender, events) = channel();
        let request = GenerateRequest {
            tenant: Tenant([0; 32]),
            weight: 1,
            prompt: model.encode_text(beginning).unwrap(),
            sampling: SamplingParams::default(),
            tokens_max: Some(tokens),
            stop: Vec::new(),
            seed: None,
            grammar: None,
            logprobs: None,
            mark: mark.clone(),
            repetition: None,
            deadline: None,
        };
        let sink = Box::new(move |event| {
            let _ = sender.send(event);
            ControlFlow::Continue(())
        });
        (events, model.engine().submit(request, sink).unwrap())
    };
    let mut all = Vec::new();
    for marks in marks.chunks(16) {
        let running: Vec<_> = marks.iter().map(start).collect();
        for (events, _ticket) in &running {
            let mut text = String::new();
            loop {
                match events.recv().unwrap() {
                    Event::Text { text: more, .. } => text += &more,
                    Event::Finished { .. } => break,
                    Event::Failed { reason, .. } => panic!("{reason}"),
                }
            }
            all.push(text);
        }
    }
    all
}

/// Text goes out, and is cut into tokens again by whoever looks: the mark survives that, and tells the team.
#[test]
fn a_real_models_answers_tell_their_team() {
    let Some(model) = stories() else { return };
    let teams = teams();
    let tokens = |text: &String| model.text().tokenizer().encode_text(text).unwrap();
    let mut right = 0;
    const STORIES: usize = 24;
    let marks: Vec<Option<MarkKey>> = (0..STORIES)
        .map(|at| Some(teams[at].sub_key(at as u8)))
        .collect();
    for (at, text) in write(&model, "Once upon a time", &marks, 450)
        .iter()
        .enumerate()
    {
        let report = look(&[tokens(text)], &teams, 1.0);
        match &report.verdict {
            Verdict::Marked { team, .. } => {
                assert_eq!(team, teams[at].team());
                right += 1;
            }
            Verdict::NotMarked => println!("{} pairs, {:?}", report.pairs, report.findings[0]),
            Verdict::TooShort => println!("{} pairs are too few", report.pairs),
        }
        if at == 0 {
            let calibration = calibrate(&[tokens(text)], 200).unwrap();
            assert!(calibration.uniform_p > 1e-4, "{calibration:?}");
        }
    }
    println!("{right} of {STORIES} told");
    assert!(right * 10 >= STORIES * 9);
    let plain = write(&model, "Once upon a time", &vec![None; 8], 450);
    let report = look(&plain.iter().map(tokens).collect::<Vec<_>>(), &teams, 1.0);
    assert_eq!(report.verdict, Verdict::NotMarked);
}

/// G10: a prompt that is asked fifty times gets as many different answers as without a mark.
#[test]
fn repeats_of_a_prompt_stay_different() {
    let Some(model) = stories() else { return };
    let team = MarkRoot::new([6; 32], 1).team("red");
    let distinct = |marks: &[Option<MarkKey>]| {
        let texts = write(&model, "Lily saw a", marks, 40);
        texts.into_iter().collect::<HashSet<_>>().len()
    };
    let marked: Vec<_> = (0..50).map(|at| Some(team.sub_key(at % 16))).collect();
    let (marked, plain) = (distinct(&marked), distinct(&vec![None; 50]));
    println!("{marked} different answers with a mark, {plain} without");
    assert!(marked * 100 >= plain * 95);
}

/// G10: what is drawn with a mark is as likely under the model as what is drawn without.
#[test]
fn perplexity_is_the_models_own() {
    let Some(path) = shared("models/stories260K/stories260K-F32.gguf") else {
        return;
    };
    let file = GgufFile::open(&path).unwrap();
    let limits = EngineLimits {
        executor: Executor::Reference,
        threads: 1,
        ..EngineLimits::default()
    };
    let loaded = LoadedModel::load(&file, limits, &mut |_, _| {}).unwrap();
    let text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. \
        One day, she saw a big dog and a small cat.";
    let ids = loaded.text().encode_text(text).unwrap();
    let rows = mark_rows(loaded, &ids);
    let key = MarkRoot::new([6; 32], 1).team("red").sub_key(3);
    let params = SamplingParams::default();
    let mut points = Draws::new(1);
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
    for (at, logits) in rows.iter().enumerate() {
        let exact = Distribution::new(logits, &params, Past::default()).unwrap();
        let own: std::collections::HashMap<u32, f64> = exact.tokens.iter().copied().collect();
        let parts = exact.tokens.iter().filter(|(_, p)| *p > 0.0);
        let entropy = -parts.map(|(_, p)| p * p.ln()).sum::<f64>();
        for turn in 0..24_000 {
            let noise = key.noise([at as u32, turn, 1, 2]);
            let token = mark::draw(
                logits,
                &params,
                Past::default(),
                &noise,
                points.next_point(),
            );
            // Beside what is expected in the same place: paired.
            let off = -own[&token.unwrap()].ln() - entropy;
            sum += off;
            squares += off * off;
            count += 1.0;
        }
    }
    let mean: f64 = sum / count;
    let error = (squares / count - mean * mean).sqrt() / f64::sqrt(count);
    println!(
        "perplexity off by {:.3} % ± {:.3} %",
        mean * 100.0,
        error * 196.0
    );
    assert!(mean.abs() + 1.96 * error < 0.005, "{mean} ± {error}");
}

/// Logits after each token.
fn mark_rows(loaded: LoadedModel, ids: &[u32]) -> Vec<Vec<f32>> {
    use casemate_models::engine::{Opening, SequenceId, Work};
    let mut engine = loaded.into_engine();
    let sequence = SequenceId::new(0);
    let opening = Opening {
        tenant: Tenant([0; 32]),
        tokens: &[],
        capacity: ids.len(),
    };
    engine.open(sequence, opening).unwrap();
    let work = Work {
        sequence,
        tokens: ids,
        logits: ids.len(),
    };
    let mut logits = Vec::new();
    engine.step(&[work], &mut logits).unwrap();
    let rows = logits.chunks(engine.vocabulary());
    rows.map(<[f32]>::to_vec).collect()
}
