//! Our side: what the parent starts, and what the child measures through the engine's trait.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use casemate_models::LoadedModel;
use casemate_models::engine::{Engine, EngineLimits, Opening, SequenceId, Tenant, Work};
use casemate_models::weights::{GgufFile, WeightSource};

use crate::job::{
    BATCH_DECODED, CONTEXT_DECODED, CONTEXTS, DECODED, DEPTHS, Figures, Job, MEMORY_CONTEXT,
    PREFILL, PROMPT, REPETITIONS, context_key,
};
use crate::row::median;
use crate::{Anyhow, process, throwaway};

/// How children are started.
pub struct Ours<'a> {
    /// Threads of the engine.
    pub threads: usize,
    /// The sealed model and its key, when it was sealed.
    pub sealed: Option<(PathBuf, &'a [u8; 32])>,
}

impl Ours<'_> {
    /// Has a child do `job`.
    pub fn measure(&self, job: Job, model: &Path) -> Anyhow<Figures> {
        let (model, key): (&Path, &[u8]) = match (job, &self.sealed) {
            (Job::Sealed, Some((path, key))) => (path, key.as_slice()),
            _ => (model, &[]),
        };
        let threads = self.threads.to_string();
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["child", &job.name()])
            .arg(model)
            .arg(&threads)
            .env("RAYON_NUM_THREADS", &threads)
            .env("CANDLE_NUM_THREADS", &threads);
        let finished = process::run(&mut command, key, false)?;
        let mut figures: Figures = serde_json::from_str(&finished.output)?;
        if matches!(job, Job::Start | Job::Sealed) {
            figures.insert("start".to_owned(), finished.first_line.as_secs_f64());
        }
        Ok(figures)
    }
}

/// Does `job` in this process and prints its figures as one line, which in [`Job::Start`] says that the first token is
/// there.
pub fn child(job: Job, model: &Path, threads: usize) -> Anyhow<()> {
    let figures = match job {
        Job::Sealed => first_token(&throwaway::unlock(model)?, threads)?,
        _ => plain(job, &GgufFile::open(model)?, threads)?,
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn plain(job: Job, source: &dyn WeightSource, threads: usize) -> Anyhow<Figures> {
    match job {
        Job::Decode => decode(source, threads),
        Job::Batch(sequences) => batch(source, threads, sequences),
        Job::Prefill => prefill(source, threads),
        Job::Start | Job::Sealed => first_token(source, threads),
        Job::Memory => memory(source, threads),
        Job::Context => contexts(source, threads, &CONTEXTS),
        Job::Depths => contexts(source, threads, &DEPTHS),
    }
}

fn decode(source: &dyn WeightSource, threads: usize) -> Anyhow<Figures> {
    let mut bench = Bench::load(source, PROMPT + DECODED, threads)?;
    bench.decode_together(1, PROMPT)?;
    let speeds = (0..REPETITIONS).map(|_| bench.decode_together(1, DECODED));
    figure("decode", speeds.collect::<Anyhow<_>>()?)
}

fn batch(source: &dyn WeightSource, threads: usize, sequences: usize) -> Anyhow<Figures> {
    const WARM_UP: usize = 2;
    let mut bench = Bench::load(source, sequences * (PROMPT + BATCH_DECODED), threads)?;
    bench.decode_together(sequences, WARM_UP)?;
    let speed = bench.decode_together(sequences, BATCH_DECODED)?;
    figure("batch", vec![speed])
}

fn prefill(source: &dyn WeightSource, threads: usize) -> Anyhow<Figures> {
    let mut bench = Bench::load(source, PREFILL, threads)?;
    let mut speeds = Vec::new();
    for _ in 0..=REPETITIONS {
        let sequence = bench.open(PREFILL)?;
        let started = Instant::now();
        bench.feed(sequence, PREFILL)?;
        speeds.push(PREFILL as f64 / started.elapsed().as_secs_f64());
        bench.close(sequence);
    }
    // The first was to warm up.
    figure("prefill", speeds.split_off(1))
}

fn first_token(source: &dyn WeightSource, threads: usize) -> Anyhow<Figures> {
    let mut bench = Bench::load(source, PROMPT, threads)?;
    let sequence = bench.open(PROMPT)?;
    bench.feed(sequence, PROMPT)?;
    Ok(Figures::new())
}

fn memory(source: &dyn WeightSource, threads: usize) -> Anyhow<Figures> {
    let mut bench = Bench::load(source, MEMORY_CONTEXT, threads)?;
    let sequence = bench.open(MEMORY_CONTEXT)?;
    bench.feed(sequence, MEMORY_CONTEXT)?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = process::peak_of(&status).ok_or("no peak in the status")?;
    figure("memory", vec![peak])
}

/// The contexts take turns, a quarter of the tokens at a time.
fn contexts(source: &dyn WeightSource, threads: usize, contexts: &[usize]) -> Anyhow<Figures> {
    const TURNS: usize = 4;
    let capacity = |context: usize| context + CONTEXT_DECODED;
    let tokens = contexts.iter().copied().map(capacity).sum();
    let mut bench = Bench::load(source, tokens, threads)?;
    let mut sequences = Vec::new();
    for &context in contexts {
        let sequence = bench.open(capacity(context))?;
        bench.feed(sequence, context)?;
        sequences.push((context, sequence));
    }
    let mut speeds: HashMap<usize, Vec<f64>> = HashMap::new();
    for _ in 0..TURNS {
        for (context, sequence) in &sequences {
            let speed = bench.decode(&[*sequence], CONTEXT_DECODED / TURNS)?;
            speeds.entry(*context).or_default().push(speed);
        }
    }
    let figures = speeds
        .into_iter()
        .filter_map(|(context, speeds)| median(speeds).map(|speed| (context_key(context), speed)));
    Ok(figures.collect())
}

fn figure(name: &str, values: Vec<f64>) -> Anyhow<Figures> {
    let value = median(values).ok_or("nothing was measured")?;
    Ok(Figures::from([(name.to_owned(), value)]))
}

/// An engine and what it is fed: tokens at random, all sequences different.
pub struct Bench {
    engine: Box<dyn Engine>,
    logits: Vec<f32>,
    vocabulary: u64,
    sequences: u64,
    random: u64,
}

impl Bench {
    /// Loads a model with room for `tokens` in all, to run on `threads`.
    pub fn load(source: &dyn WeightSource, tokens: usize, threads: usize) -> Anyhow<Self> {
        let limits = EngineLimits {
            sequences_max: 64,
            cache_tokens_max: tokens,
            prefill_tokens: PREFILL,
            threads,
            ..EngineLimits::default()
        };
        let model = LoadedModel::load(source, limits, &mut |_, _| ())?;
        let vocabulary = model.text().tokenizer().len() as u64;
        Ok(Self {
            engine: model.into_engine(),
            logits: Vec::new(),
            vocabulary,
            sequences: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    /// Opens a sequence of at most `capacity` tokens.
    pub fn open(&mut self, capacity: usize) -> Anyhow<SequenceId> {
        if capacity > self.engine.context_length() {
            return Err(format!("the model has no context of {capacity} tokens").into());
        }
        let sequence = SequenceId::new(self.sequences);
        self.sequences += 1;
        // No tokens: nothing that was computed before is to be found again.
        let opening = Opening {
            tenant: Tenant([0; 32]),
            tokens: &[],
            capacity,
        };
        self.engine.open(sequence, opening)?;
        Ok(sequence)
    }

    /// Closes a sequence.
    pub fn close(&mut self, sequence: SequenceId) {
        self.engine.close(sequence);
    }

    /// One step; the logits of each piece of work.
    pub fn step(&mut self, work: &[Work<'_>]) -> Anyhow<Vec<&[f32]>> {
        self.engine.step(work, &mut self.logits)?;
        let wanted: usize = work.iter().map(|one| one.logits).sum();
        match self.logits.len() == wanted * self.engine.vocabulary() {
            true => Ok(self.logits.chunks_exact(self.engine.vocabulary()).collect()),
            false => Err("the engine answered another number of rows than was asked for".into()),
        }
    }

    /// Takes a sequence through a prompt, [`PREFILL`] tokens at a time, up to the logits after its last.
    fn feed(&mut self, sequence: SequenceId, tokens: usize) -> Anyhow<()> {
        let mut left = tokens;
        while left > 0 {
            let chunk: Vec<u32> = (0..left.min(PREFILL)).map(|_| self.token()).collect();
            left -= chunk.len();
            self.step(&[Work {
                sequence,
                tokens: &chunk,
                logits: usize::from(left == 0),
            }])?;
        }
        Ok(())
    }

    /// Tokens per second, of all sequences together.
    fn decode(&mut self, sequences: &[SequenceId], tokens: usize) -> Anyhow<f64> {
        let started = Instant::now();
        for _ in 0..tokens {
            let drawn: Vec<[u32; 1]> = sequences.iter().map(|_| [self.token()]).collect();
            let work = sequences.iter().zip(&drawn).map(|(sequence, tokens)| Work {
                sequence: *sequence,
                tokens,
                logits: 1,
            });
            self.step(&work.collect::<Vec<_>>())?;
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok((sequences.len() * tokens) as f64 / seconds)
    }

    /// Opens so many sequences, gives each a prompt, and decodes so many tokens of each together; only that is timed.
    fn decode_together(&mut self, sequences: usize, tokens: usize) -> Anyhow<f64> {
        let opened = (0..sequences).map(|_| {
            let sequence = self.open(PROMPT + tokens)?;
            self.feed(sequence, PROMPT)?;
            Ok(sequence)
        });
        let opened = opened.collect::<Anyhow<Vec<_>>>()?;
        let speed = self.decode(&opened, tokens)?;
        opened.iter().for_each(|sequence| self.close(*sequence));
        Ok(speed)
    }

    /// xorshift64*.
    fn token(&mut self) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let drawn = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (drawn % self.vocabulary.max(1)) as u32
    }
}
