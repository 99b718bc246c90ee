//! Our side: what the parent starts, and what the child measures through the engine's trait.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use casemate_models::LoadedModel;
use casemate_models::engine::{
    DeviceChoice, Draw, Drawn, Engine, EngineLimits, Executor, KvKind, Opening, SamplingParams,
    SequenceId, Tenant, Work,
};
use casemate_models::weights::{GgufFile, WeightSource};

use crate::job::{
    BATCH_DECODED, CONTEXT_DECODED, CONTEXTS, CROSSINGS, DECODED, DEPTHS, Figures, Job,
    MEMORY_CONTEXT, PREFILL, PROMPT, REPETITIONS, cache_of, context_key,
};
use crate::options::Place;
use crate::row::median;
use crate::{Anyhow, process, throwaway};

/// How children are started.
pub struct Ours<'a> {
    /// On what it computes.
    pub place: Place,
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
        let threads = self.place.threads.to_string();
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["child", &job.name()])
            .arg(model)
            .arg(&threads)
            .arg(self.place.device.to_string())
            .arg(self.place.packed.to_string())
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
pub fn child(job: Job, model: &Path, place: Place) -> Anyhow<()> {
    let figures = match job {
        Job::Sealed => first_token(&throwaway::unlock(model)?, place)?,
        _ => plain(job, &GgufFile::open(model)?, place)?,
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

fn plain(job: Job, source: &dyn WeightSource, place: Place) -> Anyhow<Figures> {
    match job {
        Job::Decode => decode(source, place),
        Job::Batch(sequences) => batch(source, place, sequences),
        Job::Prefill => prefill(source, place),
        Job::Start | Job::Sealed => first_token(source, place),
        Job::Memory => memory(source, place),
        Job::Context | Job::ContextF16 => contexts(source, place, job, &CONTEXTS),
        Job::Depths => contexts(source, place, job, &DEPTHS),
    }
}

fn decode(source: &dyn WeightSource, place: Place) -> Anyhow<Figures> {
    let mut bench = Bench::load(source, PROMPT + DECODED, place)?;
    bench.decode_together(1, PROMPT)?;
    let speeds = (0..REPETITIONS).map(|_| bench.decode_together(1, DECODED));
    let figures = figure("decode", speeds.collect::<Anyhow<_>>()?)?;
    Ok(bench.with_crossings(figures))
}

fn batch(source: &dyn WeightSource, place: Place, sequences: usize) -> Anyhow<Figures> {
    // A GPU records what comes again: it is warm after as many tokens as are then timed.
    let warm_up = match place.device {
        DeviceChoice::Cpu => 2,
        DeviceChoice::Cuda(_) => BATCH_DECODED,
    };
    let mut bench = Bench::load(source, sequences * (PROMPT + BATCH_DECODED), place)?;
    bench.decode_together(sequences, warm_up)?;
    let speed = bench.decode_together(sequences, BATCH_DECODED)?;
    Ok(bench.with_crossings(figure("batch", vec![speed])?))
}

fn prefill(source: &dyn WeightSource, place: Place) -> Anyhow<Figures> {
    let mut bench = Bench::load(source, PREFILL, place)?;
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

fn first_token(source: &dyn WeightSource, place: Place) -> Anyhow<Figures> {
    let mut bench = Bench::load(source, PROMPT, place)?;
    let sequence = bench.open(PROMPT)?;
    bench.feed(sequence, PROMPT)?;
    Ok(Figures::new())
}

fn memory(source: &dyn WeightSource, place: Place) -> Anyhow<Figures> {
    let mut bench = Bench::load(source, MEMORY_CONTEXT, place)?;
    let sequence = bench.open(MEMORY_CONTEXT)?;
    bench.feed(sequence, MEMORY_CONTEXT)?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = process::peak_of(&status).ok_or("no peak in the status")?;
    figure("memory", vec![peak])
}

/// The contexts take turns, a quarter of the tokens at a time.
fn contexts(
    source: &dyn WeightSource,
    place: Place,
    job: Job,
    contexts: &[usize],
) -> Anyhow<Figures> {
    const TURNS: usize = 4;
    let capacity = |context: usize| context + CONTEXT_DECODED;
    let tokens = contexts.iter().copied().map(capacity).sum();
    let mut bench = Bench::with_cache(source, tokens, place, cache_of(job, place.device))?;
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
    /// Copies between host and device for each token that was decoded last, where there are any.
    crossings: f64,
}

impl Bench {
    /// Loads a model with room for `tokens` in all, to run on `place`.
    pub fn load(source: &dyn WeightSource, tokens: usize, place: Place) -> Anyhow<Self> {
        Self::with_cache(source, tokens, place, EngineLimits::default().cache)
    }

    /// The same, keys and values kept as `cache` says.
    pub fn with_cache(
        source: &dyn WeightSource,
        tokens: usize,
        place: Place,
        cache: KvKind,
    ) -> Anyhow<Self> {
        let limits = EngineLimits {
            sequences_max: 64,
            cache_tokens_max: tokens,
            prefill_tokens: PREFILL,
            threads: place.threads,
            device: place.device,
            executor: match place.packed {
                true => Executor::Packed,
                false => Executor::Best,
            },
            cache,
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
            crossings: 0.0,
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

    /// Tokens per second, of all sequences together. Where the engine draws by itself it does, as when it serves.
    fn decode(&mut self, sequences: &[SequenceId], tokens: usize) -> Anyhow<f64> {
        let params = SamplingParams::default();
        let crossed = |engine: &dyn Engine| {
            let crossings = engine.crossings();
            (crossings.uploads + crossings.downloads) as f64
        };
        let before = crossed(&*self.engine);
        let started = Instant::now();
        match self.engine.draws(&params) {
            0 => self.decode_by_logits(sequences, tokens)?,
            most => self.decode_drawn(sequences, tokens, (most, &params))?,
        }
        let seconds = started.elapsed().as_secs_f64();
        let decoded = (sequences.len() * tokens) as f64;
        self.crossings = (crossed(&*self.engine) - before) / decoded;
        Ok(decoded / seconds)
    }

    fn decode_by_logits(&mut self, sequences: &[SequenceId], tokens: usize) -> Anyhow<()> {
        for _ in 0..tokens {
            let drawn: Vec<[u32; 1]> = sequences.iter().map(|_| [self.token()]).collect();
            let work = sequences.iter().zip(&drawn).map(|(sequence, tokens)| Work {
                sequence: *sequence,
                tokens,
                logits: 1,
            });
            self.step(&work.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// So many tokens in a row at most, each the one that was drawn before.
    fn decode_drawn(
        &mut self,
        sequences: &[SequenceId],
        tokens: usize,
        (most, params): (usize, &SamplingParams),
    ) -> Anyhow<()> {
        let mut last: Vec<[u32; 1]> = sequences.iter().map(|_| [self.token()]).collect();
        let mut made = Drawn::default();
        let mut left = tokens;
        while left > 0 {
            let count = left.min(most);
            left -= count;
            let work = sequences.iter().zip(&last).map(|(sequence, tokens)| Work {
                sequence: *sequence,
                tokens,
                logits: 1,
            });
            let point = |at: usize| (at as f64 * 0.618).fract();
            let draws = (0..sequences.len()).map(|at| {
                Some(Draw {
                    params,
                    points: (0..count).map(|pass| point(at + left + pass)).collect(),
                })
            });
            let (work, draws) = (work.collect::<Vec<_>>(), draws.collect::<Vec<_>>());
            self.engine.step_drawing(&work, &draws, &mut made)?;
            let drawn = made.tokens.iter().flatten();
            let drawn = drawn.filter(|drawn| drawn.len() == count);
            last = drawn
                .filter_map(|drawn| drawn.last().map(|token| [*token]))
                .collect();
            if last.len() != sequences.len() {
                return Err("the engine drew fewer tokens than it was asked for".into());
            }
        }
        Ok(())
    }

    /// With the figure of the last decoding's crossings, where there were any.
    fn with_crossings(&self, mut figures: Figures) -> Figures {
        if self.crossings > 0.0 {
            figures.insert(CROSSINGS.to_owned(), self.crossings);
        }
        figures
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
