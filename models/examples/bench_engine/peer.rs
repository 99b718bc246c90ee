//! The peer's side: llama.cpp's own benchmark programs, and how their answers are read.
//!
//! Decoding of one sequence and prompts are measured by `llama-bench`, sequences together by `llama-batched-bench`, both
//! with their defaults; of a prompt's two settings (with and without repacked weights) the better one counts.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::job::{
    BATCH_DECODED, CONTEXT_DECODED, CONTEXTS, DECODED, DEPTHS, Figures, Job, MEMORY_CONTEXT,
    PREFILL, PROMPT, REPETITIONS, context_key,
};
use crate::process::Finished;
use crate::row::median;
use crate::{Anyhow, process};

/// Keys and values in 8 bits; values need its flash attention for that.
const EIGHT_BITS: [&str; 6] = ["-ctk", "q8_0", "-ctv", "q8_0", "-fa", "1"];

/// Where the programs are.
pub struct Peer {
    bench: PathBuf,
    batched: PathBuf,
}

impl Peer {
    /// Finds the programs in a folder.
    ///
    /// # Errors
    /// Naming the one that is not there.
    pub fn find(folder: &Path) -> Anyhow<Self> {
        let program = |name: &str| -> Anyhow<PathBuf> {
            let path = folder.join(name);
            match path.is_file() {
                true => Ok(path.canonicalize()?),
                false => Err(format!("{} is not there", path.display()).into()),
            }
        };
        Ok(Self {
            bench: program("llama-bench")?,
            batched: program("llama-batched-bench")?,
        })
    }

    /// Has the peer do `job`.
    pub fn measure(&self, job: Job, model: &Path, threads: usize) -> Anyhow<Figures> {
        let repetitions = REPETITIONS.to_string();
        let (depth, decoded) = (PROMPT.to_string(), DECODED.to_string());
        let prompt = PREFILL.to_string();
        let bench = |words: &[&str]| self.bench(model, threads, words);
        let one = |name: &str, value: f64| Ok(Figures::from([(name.to_owned(), value)]));
        match job {
            Job::Decode => {
                let words = ["-p", "0", "-n", &decoded, "-d", &depth, "-r", &repetitions];
                one("decode", best(&read_bench(&bench(&words)?.output)?)?)
            }
            Job::Prefill => {
                let words = [
                    "-p",
                    &prompt,
                    "-n",
                    "0",
                    "-r",
                    &repetitions,
                    "--repack",
                    "0,1",
                ];
                one("prefill", best(&read_bench(&bench(&words)?.output)?)?)
            }
            Job::Start | Job::Sealed => {
                let words = ["-p", &depth, "-n", "0", "-r", "1", "--no-warmup"];
                one("start", bench(&words)?.first_line.as_secs_f64())
            }
            Job::Context => self.contexts(model, threads, &CONTEXTS, &EIGHT_BITS),
            Job::ContextF16 => self.contexts(model, threads, &CONTEXTS, &[]),
            Job::Depths => self.contexts(model, threads, &DEPTHS, &[]),
            Job::Batch(sequences) => {
                let context = sequences * (PROMPT + BATCH_DECODED);
                let (decoded, size) = (BATCH_DECODED.to_string(), sequences.to_string());
                let words = ["-npp", &depth, "-ntg", &decoded, "-npl", &size];
                let answer = self.batched(model, threads, context, &words, false)?;
                let rows = read_batched(&answer.output)?;
                let row = rows.iter().find(|row| row.pl == sequences);
                one("batch", row.ok_or("another batch was measured")?.speed_tg)
            }
            Job::Memory => {
                // Its cache is cleared when it is made, so that all of it counts although one chunk is used.
                let words = ["-npp", &prompt, "-ntg", &depth, "-npl", "1"];
                let answer = self.batched(model, threads, MEMORY_CONTEXT, &words, true)?;
                one("memory", answer.peak_mib.ok_or("no peak was seen")?)
            }
        }
    }

    fn contexts(
        &self,
        model: &Path,
        threads: usize,
        contexts: &[usize],
        cache: &[&str],
    ) -> Anyhow<Figures> {
        let depths: Vec<String> = contexts.iter().map(usize::to_string).collect();
        let (depths, decoded) = (depths.join(","), CONTEXT_DECODED.to_string());
        let repetitions = REPETITIONS.to_string();
        let words = ["-p", "0", "-n", &decoded, "-d", &depths, "-r", &repetitions];
        let words = [&words, cache].concat();
        let tests = read_bench(&self.bench(model, threads, &words)?.output)?;
        let figures = tests.iter().map(|test| {
            let speed = test.median().ok_or("a test without samples")?;
            Ok((context_key(test.n_depth), speed))
        });
        figures.collect()
    }

    fn bench(&self, model: &Path, threads: usize, words: &[&str]) -> Anyhow<Finished> {
        let mut command = Command::new(&self.bench);
        command.arg("-m").arg(model).args(["-o", "jsonl", "-t"]);
        command.arg(threads.to_string()).args(words);
        process::run(&mut command, b"", false)
    }

    fn batched(
        &self,
        model: &Path,
        threads: usize,
        context: usize,
        words: &[&str],
        watch_memory: bool,
    ) -> Anyhow<Finished> {
        let mut command = Command::new(&self.batched);
        command
            .arg("-m")
            .arg(model)
            .args(["-t", &threads.to_string()]);
        command.args(["-c", &context.to_string(), "--output-format", "jsonl"]);
        process::run(command.args(words), b"", watch_memory)
    }
}

/// A test of `llama-bench`, as far as it is used here.
#[derive(Debug, Deserialize)]
struct BenchTest {
    n_depth: usize,
    samples_ts: Vec<f64>,
}

impl BenchTest {
    fn median(&self) -> Option<f64> {
        median(self.samples_ts.clone())
    }
}

/// A line of `llama-batched-bench`, as far as it is used here.
#[derive(Debug, Deserialize)]
struct BatchedRow {
    pl: usize,
    speed_tg: f64,
}

/// Reads `llama-bench -o jsonl`, or the array that `-o json` writes.
fn read_bench(text: &str) -> Anyhow<Vec<BenchTest>> {
    if text.trim_start().starts_with('[') {
        return Ok(serde_json::from_str(text)?);
    }
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let tests: Vec<BenchTest> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    match tests.is_empty() {
        true => Err("llama-bench answered no test".into()),
        false => Ok(tests),
    }
}

/// Reads `llama-batched-bench --output-format jsonl`, among whose lines are others.
fn read_batched(text: &str) -> Anyhow<Vec<BatchedRow>> {
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let rows: Vec<BatchedRow> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    match rows.is_empty() {
        true => Err("llama-batched-bench answered no row".into()),
        false => Ok(rows),
    }
}

fn best(tests: &[BenchTest]) -> Anyhow<f64> {
    let best = tests.iter().filter_map(BenchTest::median).reduce(f64::max);
    best.ok_or_else(|| "a test without samples".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"
{"build_commit": "x", "n_threads": 2, "repack": false, "n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 150.0, "samples_ns": [ 1, 2, 3 ],"samples_ts": [ 170.0, 100.0, 180.0 ]}
{"build_commit": "x", "n_threads": 2, "repack": true, "n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 120.0, "samples_ns": [ 1, 2, 3 ],"samples_ts": [ 120.0, 121.0, 119.0 ]}
"#;

    #[test]
    fn the_better_median_counts_and_not_the_better_mean() {
        assert_eq!(best(&read_bench(LINES).unwrap()).unwrap(), 170.0);
    }

    #[test]
    fn an_array_is_read_like_lines() {
        let array = format!("[{}]", LINES.trim().replace('\n', ","));
        assert_eq!(best(&read_bench(&array).unwrap()).unwrap(), 170.0);
    }

    #[test]
    fn depths_are_told_apart() {
        let text = r#"{"n_depth": 128, "samples_ts": [30.0]}
{"n_depth": 8192, "samples_ts": [20.0]}"#;
        let depths: Vec<usize> = read_bench(text)
            .unwrap()
            .iter()
            .map(|t| t.n_depth)
            .collect();
        assert_eq!(depths, [128, 8192]);
    }

    #[test]
    fn batched_rows_are_read_among_other_lines() {
        let text = "\n{\"n_kv_max\": 2560, \"flash_attn\": -1, \"pp\": 16, \"tg\": 64, \"pl\": 8, \"n_kv\": 640, \
             \"t_pp\": 1.0, \"speed_pp\": 128.0, \"t_tg\": 10.0, \"speed_tg\": 51.2, \"t\": 11.0, \"speed\": 58.0}\n\n\
             llama_perf_context_print: load time = 1 ms\n";
        let rows = read_batched(text).unwrap();
        assert_eq!((rows.len(), rows[0].pl, rows[0].speed_tg), (1, 8, 51.2));
    }

    #[test]
    fn answers_without_figures_are_errors() {
        assert!(read_bench("").is_err());
        assert!(read_bench("{\"n_depth\": 0}").is_err());
        assert!(read_batched("no model").is_err());
        assert!(best(&read_bench(r#"{"n_depth": 0, "samples_ts": []}"#).unwrap()).is_err());
    }
}
