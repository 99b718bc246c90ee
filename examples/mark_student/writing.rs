//! Answers of a model, many side by side: to prompts that it begins by itself, marked or not.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use casemate::guard::mark::SUB_KEYS;
use casemate_models::LoadedModel;
use casemate_models::engine::sampler::Draws;
use casemate_models::engine::{
    EngineLimits, Event, FinishReason, GenerateRequest, MarkKey, SamplingParams, Tenant, Ticket,
};
use casemate_models::model::RunningModel;
use casemate_models::tokenizer::Tokenizer;
use casemate_models::weights::{GgufFile, WeightSource};

use super::{Answer, Options, answers, team};

const PROMPT_TOKENS: usize = 12;
const ANSWER_TOKENS: usize = 200;
/// Requests that run or wait at once: all places of the engine, and some behind them.
const SIDE_BY_SIDE: usize = 24;
/// Prompts that are begun before their answers are.
const ROUND: usize = 240;

/// Writes answers until there are as many tokens as asked for.
pub fn write(options: &Options) -> Result<()> {
    let file = GgufFile::open(&options.model)?;
    let limits = EngineLimits {
        threads: options.threads,
        ..EngineLimits::default()
    };
    let model = LoadedModel::load(&file, limits, &mut |_, _| {})?.spawn()?;
    let tokenizer = model.text().tokenizer();
    let special = tokenizer.special();
    let both = special.bos.zip(special.eos);
    let (bos, eos) = both.context("the model has no tokens for a text's beginning and end")?;
    // Some vocabularies say the end in letters.
    let end = String::from_utf8_lossy(tokenizer.token_bytes(eos)).into_owned();
    let mut out = create(options)?;
    let mut prompts = Prompts::new(options, bos)?;
    let mut keys = key_of_each_answer(options);
    let (mut tokens, mut count) = (0, 0);
    let began = Instant::now();
    while tokens < options.tokens {
        let asked = prompts.next(&model)?;
        let requests = asked.iter().map(|(_, ids)| {
            let ids = ids.clone();
            request(ids, ANSWER_TOKENS, options.temperature, None, keys())
        });
        let found = texts(&model, requests)?;
        for ((prompt, ids), (mut text, ended)) in asked.into_iter().zip(found) {
            let prompt_ids = ids.len();
            if let Some(kept) = text.strip_suffix(&end).filter(|_| ended) {
                text = kept.to_owned();
            }
            let mut ids = model.encode_text(&format!("{prompt}{text}"))?;
            tokens += ids.len().saturating_sub(prompt_ids);
            count += 1;
            if ended {
                ids.push(eos);
            }
            let answer = Answer {
                prompt,
                text,
                ids,
                prompt_ids,
            };
            line(&mut out, &answer)?;
        }
    }
    out.flush()?;
    let seconds = began.elapsed().as_secs_f64();
    let pace = tokens as f64 / seconds;
    eprintln!("{count} answers, {tokens} tokens in {seconds:.0} s, {pace:.0} a second");
    Ok(())
}

/// What is asked: prompts of other answers, or what the model begins by itself.
struct Prompts<'a> {
    options: &'a Options,
    bos: u32,
    points: Draws,
    given: Option<VecDeque<String>>,
}

impl<'a> Prompts<'a> {
    fn new(options: &'a Options, bos: u32) -> Result<Self> {
        let others = options.prompts.as_deref().map(answers).transpose()?;
        let given = others.map(|all| all.into_iter().map(|answer| answer.prompt).collect());
        Ok(Self {
            options,
            bos,
            points: Draws::new(options.seed),
            given,
        })
    }

    /// The next ones, with their tokens.
    fn next(&mut self, model: &RunningModel) -> Result<Vec<(String, Vec<u32>)>> {
        let prompts = match &mut self.given {
            Some(given) => given.drain(..given.len().min(ROUND)).collect(),
            None => self.begun(model)?,
        };
        ensure!(!prompts.is_empty(), "--prompts has too few of them");
        let with_ids = |prompt: String| Ok((prompt.clone(), model.encode_text(&prompt)?));
        prompts.into_iter().map(with_ids).collect()
    }

    fn begun(&mut self, model: &RunningModel) -> Result<Vec<String>> {
        let requests = (0..ROUND).map(|_| {
            // No prompt may be marked, so a seed does no harm.
            let seed = (self.points.next_point() * 2_f64.powi(53)) as u64;
            let temperature = self.options.temperature;
            request(vec![self.bos], PROMPT_TOKENS, temperature, Some(seed), None)
        });
        let all = texts(model, requests.collect::<Vec<_>>())?.into_iter();
        let goes_on = all.filter(|(_, ended)| !ended);
        Ok(goes_on.map(|(prompt, _)| prompt).collect())
    }
}

/// Writes answers again with the tokens of their texts as these are now.
pub fn cut(options: &Options) -> Result<()> {
    let source = GgufFile::open(&options.model)?;
    let tokenizer = Tokenizer::from_header(source.header())?;
    let eos = tokenizer.special().eos;
    let path = options
        .file
        .as_deref()
        .context("a file of answers is missing")?;
    let mut out = create(options)?;
    for mut answer in answers(path)? {
        let ended = answer.ids.last().copied().filter(|id| eos == Some(*id));
        answer.ids = tokenizer.encode_text(&format!("{}{}", answer.prompt, answer.text))?;
        answer.ids.extend(ended);
        line(&mut out, &answer)?;
    }
    out.flush()?;
    Ok(())
}

fn create(options: &Options) -> Result<BufWriter<File>> {
    let path = options.out.as_ref().context("--out is missing")?;
    let file = File::create(path).with_context(|| path.display().to_string())?;
    Ok(BufWriter::new(file))
}

fn line(out: &mut impl Write, answer: &Answer) -> Result<()> {
    serde_json::to_writer(&mut *out, answer)?;
    Ok(out.write_all(b"\n")?)
}

/// As in the server: one of the team's sub-keys for each request, at random.
fn key_of_each_answer(options: &Options) -> impl FnMut() -> Option<MarkKey> {
    let team = options.team.as_deref().map(team);
    let mut points = Draws::new(!options.seed);
    move || {
        let number = (points.next_point() * f64::from(SUB_KEYS)) as u8;
        Some(team.as_ref()?.sub_key(number))
    }
}

fn request(
    prompt: Vec<u32>,
    tokens: usize,
    temperature: f64,
    seed: Option<u64>,
    mark: Option<MarkKey>,
) -> GenerateRequest {
    GenerateRequest {
        tenant: Tenant([0; 32]),
        weight: 1,
        prompt,
        sampling: SamplingParams {
            temperature,
            ..SamplingParams::default()
        },
        tokens_max: Some(tokens),
        stop: Vec::new(),
        seed,
        grammar: None,
        logprobs: None,
        mark,
        repetition: None,
        deadline: None,
    }
}

/// The texts that are answered, in order, and whether the model ended them.
fn texts(
    model: &RunningModel,
    requests: impl IntoIterator<Item = GenerateRequest>,
) -> Result<Vec<(String, bool)>> {
    let mut requests = requests.into_iter();
    let mut running: VecDeque<(Receiver<Event>, Ticket)> = VecDeque::new();
    let mut all = Vec::new();
    loop {
        while running.len() < SIDE_BY_SIDE {
            let Some(request) = requests.next() else {
                break;
            };
            let (sender, events) = channel();
            let sink = Box::new(move |event| {
                let _ = sender.send(event);
                ControlFlow::Continue(())
            });
            running.push_back((events, model.engine().submit(request, sink)?));
        }
        match running.pop_front() {
            Some((events, _ticket)) => all.push(whole(&events)?),
            None => return Ok(all),
        }
    }
}

fn whole(events: &Receiver<Event>) -> Result<(String, bool)> {
    let mut text = String::new();
    loop {
        match events.recv()? {
            Event::Text { text: more, .. } => text += &more,
            Event::Finished { reason, .. } => return Ok((text, reason == FinishReason::Stop)),
            Event::Failed { reason, .. } => bail!("{reason}"),
        }
    }
}
