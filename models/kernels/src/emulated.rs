//! The GPU kernels' sources (`cuda/packed.cu`, `cuda/decode.cu`), compiled for this processor (`tests/emulated`) and held
//! against sums in 64 bits. What they compute is tested so on every machine with a C++ compiler; how a GPU runs them is not.

mod decode;
mod packed;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::planes::UNIT;

/// The program that runs them; none without a compiler.
fn program() -> Option<PathBuf> {
    static MADE: OnceLock<Option<PathBuf>> = OnceLock::new();
    MADE.get_or_init(make).clone()
}

/// Makes it, if none was made of these sources.
fn make() -> Option<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let sources = [
        "tests/emulated/kernels.cpp",
        "tests/emulated/include/cuda_emulated.h",
        "src/cuda/packed.cu",
        "src/cuda/decode.cu",
        "src/cuda/common.cuh",
    ];
    let changed = |source| home.join(source).metadata().unwrap().modified().unwrap();
    let newest = sources.map(changed).into_iter().max().unwrap();
    let own = std::env::current_exe().unwrap();
    let made = own.with_file_name("casemate_emulated");
    if made
        .metadata()
        .is_ok_and(|made| made.modified().unwrap() > newest)
    {
        return Some(made);
    }
    let part = own.with_file_name(format!("casemate_emulated.{}", std::process::id()));
    let compiled = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-x", "c++", "-fno-strict-aliasing"])
        .args(["-ffp-contract=off", "-w", "-I"])
        .arg(home.join("tests/emulated/include"))
        .arg("-o")
        .args([&part, &home.join(sources[0])])
        .output();
    match compiled {
        Ok(compiled) => {
            let said = String::from_utf8_lossy(&compiled.stderr);
            assert!(compiled.status.success(), "{compiler}: {said}");
        }
        Err(error) => {
            println!("SKIP: kernels for GPUs are not emulated: {compiler}: {error}");
            return None;
        }
    }
    std::fs::rename(part, &made).unwrap();
    Some(made)
}

/// A launch in the making.
struct Launch {
    command: Command,
    input: Vec<u8>,
    outputs: Vec<usize>,
}

impl Launch {
    fn new(program: &Path, kernel: &str, grid: [usize; 3], threads: usize) -> Self {
        let mut command = Command::new(program);
        command
            .arg(kernel)
            .args(grid.map(|blocks| blocks.to_string()));
        command.arg(threads.to_string());
        Self {
            command,
            input: Vec::new(),
            outputs: Vec::new(),
        }
    }

    fn word(mut self, word: &str) -> Self {
        self.command.arg(word);
        self
    }

    fn int(self, number: usize) -> Self {
        self.word(&format!("i:{number}"))
    }

    fn float(self, number: f32) -> Self {
        self.word(&format!("f:{number:e}"))
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.input.extend(bytes);
        self.word(&format!("in:{}", bytes.len()))
    }

    fn floats(self, floats: &[f32]) -> Self {
        let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    fn places(self, places: &[u32]) -> Self {
        let bytes: Vec<u8> = places.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    fn out(mut self, bytes: usize) -> Self {
        self.outputs.push(bytes);
        self.word(&format!("out:{bytes}"))
    }

    fn matrix(self, planes: &[u8], (heights, columns): (usize, usize)) -> Self {
        let start = self.word("{").bytes(planes);
        start.int(heights).int(columns / UNIT).word("}")
    }

    /// What it left, buffer by buffer.
    fn run(mut self) -> Vec<Vec<u8>> {
        let pipes = self.command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&self.input).unwrap();
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        let mut rest = done.stdout.as_slice();
        let left = self.outputs.iter().map(|len| {
            let (own, after) = rest.split_at(*len);
            rest = after;
            own.to_vec()
        });
        let left = left.collect();
        assert!(rest.is_empty());
        left
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let four = bytes.chunks_exact(4);
    four.map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect()
}
