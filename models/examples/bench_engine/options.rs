//! The command line.

use std::path::PathBuf;
use std::slice::Iter;

use casemate_models::engine::{DeviceChoice, KvKind};

use crate::Anyhow;
use crate::job::Job;

/// What `--help` prints.
pub const USAGE: &str = "\
usage: bench-engine --model FILE.gguf [--model FILE.gguf ...] [options]
  --llama-cpp DIR    folder with llama-bench and llama-batched-bench; without it the peer's columns are empty
  --threads N        threads of both (2)
  --device DEVICE    where ours computes: cpu, cuda or cuda:N (cpu)
  --packed           on a GPU: products of packed weights by our own kernels
  --rounds N         rounds in which ours and the peer take turns (5)
  --rows A,B,...     decode, batch (or batch-2, -4, -8, -16, -32), prefill, start, sealed, memory,
                     context (keys and values in 8 bits), context-f16 (all);
                     and depths: contexts of 128 to 16384 (only where it is named)
  --int8-peak GOPS   the machine's peak, for prefill's share of it
  --json             rows for machines
usage: bench-engine --compare LOGITS --tokens FILE --model FILE.gguf [--threads N] [--cache f16|q8] [--json]
  compares our logits with those of another program (u32 positions, u32 vocabulary, f32 rows; little endian)
  for the same token ids (numbers between white space), our keys and values kept as --cache says (f16)
Exit code 1 when a bar is missed.";

/// On what ours computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Threads of the engine.
    pub threads: usize,
    /// Where.
    pub device: DeviceChoice,
    /// Whether a GPU's products are by kernels of ours.
    pub packed: bool,
}

/// What is to be done.
pub enum Task {
    /// Say how to call it.
    Help,
    /// Measure one thing in this process; what the parent starts.
    Child {
        /// What.
        job: Job,
        /// Of which model.
        model: PathBuf,
        /// On what.
        place: Place,
    },
    /// Compare logits.
    Compare(Comparison),
    /// Measure.
    Bench(Options),
}

/// What to compare.
pub struct Comparison {
    /// Of which model.
    pub model: PathBuf,
    /// The other program's logits.
    pub logits: PathBuf,
    /// The token ids that they are of.
    pub tokens: PathBuf,
    /// On what ours computes.
    pub place: Place,
    /// How our keys and values are kept.
    pub cache: KvKind,
    /// Whether the answer is for machines.
    pub json: bool,
}

/// What to measure, and how.
pub struct Options {
    /// Of which models.
    pub models: Vec<PathBuf>,
    /// Where llama.cpp's programs are.
    pub peer: Option<PathBuf>,
    /// Threads of both.
    pub threads: usize,
    /// Where ours computes.
    pub device: DeviceChoice,
    /// Whether a GPU's products are by kernels of ours.
    pub packed: bool,
    /// Rounds in which both take turns.
    pub rounds: usize,
    /// What.
    pub jobs: Vec<Job>,
    /// The machine's peak in billions of 8-bit operations per second.
    pub int8_peak: Option<f64>,
    /// Whether the answer is for machines.
    pub json: bool,
}

impl Options {
    /// On what ours computes.
    pub const fn place(&self) -> Place {
        Place {
            threads: self.threads,
            device: self.device,
            packed: self.packed,
        }
    }
}

/// Reads the command line.
///
/// # Errors
/// A word that means nothing here, with the usage.
pub fn parse(words: &[String]) -> Anyhow<Task> {
    let mut options = Options {
        models: Vec::new(),
        peer: None,
        threads: 2,
        device: DeviceChoice::Cpu,
        packed: false,
        rounds: 5,
        jobs: Job::all(),
        int8_peak: None,
        json: false,
    };
    let (mut logits, mut tokens, mut cache) = (None, None, KvKind::F16);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(Task::Help),
            "child" => {
                let jobs = Job::named(&value(word, &mut words)?)?;
                let [job] = *jobs else {
                    return Err("a child does one thing".into());
                };
                let model = value(word, &mut words)?.into();
                let place = Place {
                    threads: count("a child", &mut words)?,
                    device: value("a child", &mut words)?.parse()?,
                    packed: value("a child", &mut words)?.parse()?,
                };
                return Ok(Task::Child { job, model, place });
            }
            "--model" => options.models.push(value(word, &mut words)?.into()),
            "--llama-cpp" => options.peer = Some(value(word, &mut words)?.into()),
            "--threads" => options.threads = count(word, &mut words)?,
            "--device" => options.device = value(word, &mut words)?.parse()?,
            "--packed" => options.packed = true,
            "--rounds" => options.rounds = count(word, &mut words)?,
            "--rows" => {
                let names = value(word, &mut words)?;
                let jobs = names.split(',').map(Job::named);
                options.jobs = jobs.collect::<Anyhow<Vec<_>>>()?.concat();
            }
            "--int8-peak" => options.int8_peak = Some(value(word, &mut words)?.parse()?),
            "--json" => options.json = true,
            "--cache" => {
                cache = match value(word, &mut words)?.as_str() {
                    "f16" => KvKind::F16,
                    "q8" => KvKind::Q8,
                    other => return Err(format!("no cache is named {other:?}\n{USAGE}").into()),
                }
            }
            "--compare" => logits = Some(PathBuf::from(value(word, &mut words)?)),
            "--tokens" => tokens = Some(PathBuf::from(value(word, &mut words)?)),
            other => return Err(format!("{other:?} means nothing here\n{USAGE}").into()),
        }
    }
    match (logits, tokens, options.models.as_slice()) {
        (_, _, []) => Err(format!("no model is named\n{USAGE}").into()),
        (None, None, _) => Ok(Task::Bench(options)),
        (Some(logits), Some(tokens), [model]) => Ok(Task::Compare(Comparison {
            model: model.clone(),
            logits,
            tokens,
            place: options.place(),
            cache,
            json: options.json,
        })),
        _ => Err(format!("a comparison needs one model, logits and tokens\n{USAGE}").into()),
    }
}

fn value(option: &str, words: &mut Iter<'_, String>) -> Anyhow<String> {
    let next = words.next().cloned();
    next.ok_or_else(|| format!("{option} needs a value\n{USAGE}").into())
}

fn count(option: &str, words: &mut Iter<'_, String>) -> Anyhow<usize> {
    match value(option, words)?.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("{option} needs a number of at least one\n{USAGE}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(line: &str) -> Anyhow<Task> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn rows_and_models_are_taken_in_order() {
        let line = "--model a.gguf --model b.gguf --rows prefill,batch-8 --rounds 3 --json";
        let Ok(Task::Bench(options)) = task(line) else {
            panic!("a benchmark was asked for")
        };
        assert_eq!(options.models, ["a.gguf", "b.gguf"].map(PathBuf::from));
        assert_eq!(options.jobs, [Job::Prefill, Job::Batch(8)]);
        assert_eq!((options.rounds, options.threads), (3, 2));
        assert!(options.json);
        assert_eq!(options.device, DeviceChoice::Cpu);
        let Ok(Task::Bench(options)) = task("--model a.gguf --device cuda:1") else {
            panic!("a benchmark was asked for")
        };
        assert_eq!(options.place().device, DeviceChoice::Cuda(1));
        let Ok(Task::Child { place, .. }) = task("child decode a.gguf 3 cuda:2 true") else {
            panic!("a child was asked for")
        };
        assert_eq!((place.threads, place.device), (3, DeviceChoice::Cuda(2)));
        assert!(place.packed);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "",
            "--model",
            "--model a.gguf --rounds 0",
            "--model a.gguf --device gpu",
            "--model a.gguf --rows speed",
            "--model a.gguf --compare l.bin",
            "--model a.gguf --compare l.bin --tokens t.txt --cache f32",
            "--model a.gguf --model b.gguf --compare l.bin --tokens t.txt",
            "a.gguf",
        ] {
            assert!(task(line).is_err(), "{line:?} was accepted");
        }
    }
}
