//! Measures the engine and llama.cpp side by side in one run; run by `scripts/bench-engine`.
//!
//! Every measurement is a child process of its own, so that peak memory and start-up mean something and neither engine
//! runs while the other is timed. In each round ours and the peer take turns, the first of the two changing from round
//! to round. Models come from the page cache. Ours is measured through [`LoadedModel`](casemate_models::LoadedModel) and
//! the [`Engine`](casemate_models::engine::Engine) trait alone: whatever engine stands behind them is what is measured.

mod compare;
mod facts;
mod job;
mod machine;
mod options;
mod ours;
mod peer;
mod process;
mod report;
#[allow(
    dead_code,
    reason = "a bar beside a peer's figure is only in bench-guard"
)]
mod row;
mod rows;
#[path = "../bench_seal/throwaway.rs"]
mod throwaway;

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::facts::Facts;
use crate::job::{Figures, Job};
use crate::options::{Options, Task, USAGE};
use crate::ours::Ours;
use crate::peer::Peer;
use crate::report::Round;

type Anyhow<T> = Result<T, Box<dyn Error>>;

fn main() -> Anyhow<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match options::parse(&arguments)? {
        Task::Help => {
            println!("{USAGE}");
            Ok(())
        }
        Task::Child { job, model, place } => ours::child(job, &model, place),
        Task::Compare(wanted) => compare::run(&wanted),
        Task::Bench(options) => bench(&options),
    }
}

fn bench(options: &Options) -> Anyhow<()> {
    let peer = options.peer.as_deref().map(Peer::find).transpose()?;
    let mut rows = Vec::new();
    for model in &options.models {
        let facts = Facts::read(model)?;
        std::io::copy(&mut File::open(model)?, &mut std::io::sink())?;
        let sealed = Sealed::of(model, options)?;
        let ours = Ours {
            place: options.place(),
            sealed: sealed.as_ref().map(|sealed| (sealed.path(), &*sealed.key)),
        };
        for job in &options.jobs {
            let rounds = measure(*job, model, options, &ours, peer.as_ref())?;
            rows.extend(rows::of(*job, &facts, &rounds, options));
        }
    }
    report::print(&rows, options)
}

/// The model, sealed by a publisher of the moment, for as long as it is measured.
struct Sealed {
    folder: tempfile::TempDir,
    key: zeroize::Zeroizing<[u8; 32]>,
}

impl Sealed {
    fn of(model: &Path, options: &Options) -> Anyhow<Option<Self>> {
        if !options.jobs.contains(&Job::Sealed) {
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        eprintln!("sealing {} in {}", model.display(), folder.path().display());
        let key = throwaway::seal_model(model, &folder.path().join("m.casemate"))?;
        Ok(Some(Self { folder, key }))
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("m.casemate")
    }
}

/// Ours and the peer in turn, as often as the job is worth.
fn measure(
    job: Job,
    model: &Path,
    options: &Options,
    ours: &Ours<'_>,
    peer: Option<&Peer>,
) -> Anyhow<Vec<Round>> {
    let rounds = options.rounds.min(job.rounds_max());
    let from_start = matches!(job, Job::Start | Job::Sealed);
    let length = std::fs::metadata(model)?.len();
    // As much as either may take: the model, and what is beside it.
    let needed = usize::try_from(length + length / 2)?;
    let ready = || match from_start {
        true => machine::touch(needed),
        false => Ok(()),
    };
    let mut done = Vec::new();
    for round in 0..rounds {
        let bandwidth = match job {
            Job::Decode => Some(machine::read_gigabytes_per_second(options.threads)),
            _ => None,
        };
        let of_peer = || -> Anyhow<Figures> {
            ready()?;
            peer.map_or(Ok(Figures::new()), |peer| {
                peer.measure(job, model, options.threads)
            })
        };
        let (ours, peer) = if round % 2 == 0 {
            ready()?;
            let first = ours.measure(job, model)?;
            (first, of_peer()?)
        } else {
            let first = of_peer()?;
            ready()?;
            (ours.measure(job, model)?, first)
        };
        let name = model.file_stem().unwrap_or_default().to_string_lossy();
        let (job, round) = (job.name(), round + 1);
        eprintln!("{name}: {job}, round {round} of {rounds}: ours {ours:.2?}, peer {peer:.2?}");
        done.push(Round {
            ours,
            peer,
            bandwidth,
        });
    }
    Ok(done)
}
