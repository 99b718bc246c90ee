//! Measures unsealing and sealed loading against plain loading of the same model; run by `scripts/bench-seal`.
//!
//! Each load is a child process of its own, so that peak memory (VmHWM) means something; plain and sealed loads
//! alternate, so that what else the machine does hits both. Files come from the page cache.

mod random_gguf;
mod throwaway;

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use candle_core::Device;
use candle_core::quantized::{QStorage, QTensor};
use casemate_models::package::UnlockedPackage;
use casemate_models::weights::{GgufFile, WeightSource};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::throwaway::{seal_model, unlock};

type Anyhow<T> = Result<T, Box<dyn Error>>;

const ROUNDS: usize = 9;
const THREADS: &str = "2";
/// Bars of the product's requirements.
const UNSEAL_GB_PER_S_MIN: f64 = 3.0;
const LOAD_RATIO_MAX: f64 = 1.25;
const MEMORY_MIB_MAX: f64 = 64.0;

fn main() -> Anyhow<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["plain", path] => load(|| Ok(GgufFile::open(Path::new(path))?)),
        ["sealed", path] => load(|| unlock(Path::new(path))),
        ["unseal", path] => unseal(&unlock(Path::new(path))?),
        [] => parent(false),
        ["--json"] => parent(true),
        _ => Err("usage: bench-seal [--json]".into()),
    }
}

/// What one child measured.
struct Measured {
    seconds: f64,
    peak_mib: f64,
    bytes: f64,
}

fn parent(as_json: bool) -> Anyhow<()> {
    let folder = tempfile::tempdir()?;
    let (plain, sealed) = (
        folder.path().join("m.gguf"),
        folder.path().join("m.casemate"),
    );
    eprintln!(
        "writing a random model of about 1 GiB in {}",
        folder.path().display()
    );
    random_gguf::write(&plain)?;
    let started = Instant::now();
    let key = seal_model(&plain, &sealed)?;
    let bytes = fs::metadata(&plain)?.len() as f64;
    let sealing = bytes / 1e9 / started.elapsed().as_secs_f64();
    let (mut unseals, mut plains, mut sealeds) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        eprint!("\rround {} of {ROUNDS} ", round + 1);
        unseals.push(spawn("unseal", &sealed, &key)?);
        plains.push(spawn("plain", &plain, &key)?);
        sealeds.push(spawn("sealed", &sealed, &key)?);
    }
    eprintln!();
    report(&rows(&unseals, &plains, &sealeds), sealing, as_json)
}

fn spawn(what: &str, path: &Path, key: &[u8; 32]) -> Anyhow<Measured> {
    let mut child = Command::new(own_path()?)
        .args([what.as_ref(), path.as_os_str()])
        .env("RAYON_NUM_THREADS", THREADS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(key)?;
    }
    let output = child.wait_with_output()?;
    let line = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    match numbers.as_slice() {
        [seconds, peak_mib, bytes] if output.status.success() => Ok(Measured {
            seconds: *seconds,
            peak_mib: *peak_mib,
            bytes: *bytes,
        }),
        _ => Err(format!("the {what} child failed: {line}").into()),
    }
}

fn own_path() -> Anyhow<PathBuf> {
    Ok(std::env::current_exe()?)
}

/// Opens and loads every tensor as the product's loader does: through one staging buffer into candle's tensors.
fn load<S: WeightSource>(open: impl FnOnce() -> Anyhow<S>) -> Anyhow<()> {
    let started = Instant::now();
    let source = open()?;
    let tensors = source.header().tensors();
    let longest = tensors
        .iter()
        .map(|tensor| tensor.byte_len())
        .max()
        .unwrap_or_default();
    let mut staging = Zeroizing::new(vec![0; longest as usize]);
    let mut loaded = Vec::new();
    let mut bytes = 0;
    for (index, tensor) in tensors.iter().enumerate() {
        let (into, _) = staging.split_at_mut(tensor.byte_len() as usize);
        source.read_tensor(index, into)?;
        let storage = QStorage::from_data((&*into).into(), &Device::Cpu, tensor.kind())?;
        loaded.push(QTensor::new(storage, tensor.shape())?);
        bytes += tensor.byte_len();
    }
    drop(staging);
    finish(started, bytes)
}

/// Decrypts all of the content into one buffer that is used again and again: no tensors, no page faults.
fn unseal(package: &UnlockedPackage) -> Anyhow<()> {
    let len = package.clear_header().content_len();
    let mut buffer = Zeroizing::new(vec![1; 64 << 20]);
    let started = Instant::now();
    let mut at = 0;
    while at < len {
        let (window, _) = buffer.split_at_mut((len - at).min(64 << 20) as usize);
        package.read_content(at, window)?;
        at += window.len() as u64;
    }
    finish(started, len)
}

fn finish(started: Instant, bytes: u64) -> Anyhow<()> {
    let seconds = started.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = peak
        .and_then(|text| text.split_whitespace().next())
        .ok_or("no VmHWM")?
        .parse()?;
    println!("{seconds} {} {bytes}", kib / 1024.0);
    Ok(())
}

/// Best and median of some figures, the best being the least.
fn best_and_median(mut figures: Vec<f64>) -> (f64, f64) {
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(figures.len() / 2))
}

fn seconds(measured: &[Measured]) -> (f64, f64) {
    best_and_median(measured.iter().map(|one| one.seconds).collect())
}

fn rows(unseals: &[Measured], plains: &[Measured], sealeds: &[Measured]) -> Vec<Value> {
    let gigabytes = unseals.first().map_or(f64::NAN, |one| one.bytes / 1e9);
    let speed = seconds(unseals);
    let unseal = gigabytes / speed.0;
    let (plain, sealed) = (seconds(plains), seconds(sealeds));
    let peak =
        |measured: &[Measured]| best_and_median(measured.iter().map(|one| one.peak_mib).collect());
    let (plain_peak, sealed_peak) = (peak(plains).1, peak(sealeds).1);
    let ratio = sealed.0 / plain.0;
    vec![
        json!({"name": "unseal, 2 threads, GB/s", "ours": unseal, "median": gigabytes / speed.1, "peer": null,
            "ratio": null, "bar": format!(">= {UNSEAL_GB_PER_S_MIN}"), "pass": unseal >= UNSEAL_GB_PER_S_MIN}),
        json!({"name": "load into tensors, s (peer: plain GGUF)", "ours": sealed.0, "median": sealed.1, "peer": plain.0,
            "peer_median": plain.1, "ratio": ratio, "median_ratio": sealed.1 / plain.1,
            "bar": format!("ratio <= {LOAD_RATIO_MAX}"), "pass": ratio <= LOAD_RATIO_MAX}),
        json!({"name": "peak memory, MiB (peer: plain GGUF)", "ours": sealed_peak, "peer": plain_peak,
            "ratio": sealed_peak / plain_peak, "bar": format!("difference <= {MEMORY_MIB_MAX}"),
            "pass": sealed_peak - plain_peak <= MEMORY_MIB_MAX}),
    ]
}

fn report(rows: &[Value], sealing: f64, as_json: bool) -> Anyhow<()> {
    if as_json {
        println!(
            "{:#}",
            json!({"rows": rows, "rounds": ROUNDS, "sealing_gb_per_s": sealing})
        );
    } else {
        let show = |value: &Value| {
            value
                .as_f64()
                .map_or("-".into(), |number| format!("{number:.2}"))
        };
        println!(
            "{:<42} {:>9} {:>9} {:>6}  {:<18} pass",
            "name (best of rounds)", "ours", "peer", "ratio", "bar"
        );
        for row in rows {
            let (ours, peer, ratio) = (show(&row["ours"]), show(&row["peer"]), show(&row["ratio"]));
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            let pass = if row["pass"] == true { "PASS" } else { "FAIL" };
            println!(
                "{:<42} {ours:>9} {peer:>9} {ratio:>6}  {:<18} {pass}",
                text("name"),
                text("bar")
            );
        }
        println!("sealing: {sealing:.2} GB/s, syncing to disk included");
    }
    match rows.iter().all(|row| row["pass"] == true) {
        true => Ok(()),
        false => Err("a bar was missed".into()),
    }
}
