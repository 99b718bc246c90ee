//! The kernels' sources (`cuda/packed.cu`, `cuda/decode.cu`), compiled for this processor (`tests/emulated`) and held against
//! the file's blocks. What they compute is tested so on every machine with a C++ compiler; how a GPU runs them is not.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::plan::{Plan, ROWS};
use super::tests::{assert_gated, assert_near, blocks, numbers, product, values, widened};
use super::*;

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
        "tests/emulated/packed.cpp",
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

fn rounded(program: &Path, x: &[f32], columns: usize) -> Vec<u8> {
    let (rows, units) = (x.len() / columns, columns / UNIT);
    let blocks = (rows * units).div_ceil(4);
    Launch::new(program, "casemate_round", [blocks, 1, 1], 128)
        .floats(x)
        .out(rows * rounded_bytes(columns))
        .int(rows)
        .int(units)
        .run()
        .remove(0)
}

#[test]
fn rows_are_rounded_to_a_part_in_254_of_a_units_largest() {
    let Some(program) = program() else { return };
    let (rows, columns) = (3, 320);
    let mut x = numbers(rows * columns);
    x[..UNIT].fill(0.0);
    x[UNIT] = 1e-40;
    let found = widened(&rounded(&program, &x, columns), columns);
    for (unit, found) in x.chunks_exact(UNIT).zip(found.chunks_exact(UNIT)) {
        let largest = unit.iter().fold(0.0_f32, |most, one| most.max(one.abs()));
        for (expected, found) in unit.iter().zip(found) {
            assert!((expected - found).abs() <= largest / 253.0);
        }
    }
}

#[test]
fn every_kind_is_multiplied_whatever_stands_beside_a_row() {
    let Some(program) = program() else { return };
    for kind in PlaneKind::ALL {
        for (columns, heights) in [(256, 33), (2304, 6), (4608, 9)] {
            let what = format!("{kind:?}, {heights} × {columns}");
            let file = blocks(kind, heights * columns / kind.kind().file_block());
            let (expected, planes) = (values(kind, &file), kind.sort(&file));
            let mut alone = Vec::new();
            for rows in [1, 2, 3, 8, 11] {
                let plan = Plan::multiply(rows, heights, columns);
                let x = rounded(&program, &numbers(rows * columns), columns);
                let kernel = format!("casemate_multiply_{}_{}", kind.name(), ROWS[plan.which]);
                let launch = Launch::new(&program, &kernel, [plan.blocks, 1, 1], plan.threads);
                let launch = launch.bytes(&x).matrix(&planes, (heights, columns));
                let launch = launch.out(rows * heights * 4).int(rows);
                let made = launch.int(plan.chunks).int(plan.share).run().remove(0);
                let made = floats(&made);
                let seen = widened(&x, columns);
                assert_near(&made, &product(&seen, &expected, columns), &what);
                let first = &made[..heights];
                alone.extend((rows == 1).then(|| first.to_vec()).into_iter().flatten());
                assert_eq!(first, alone, "{what}: beside {rows} rows");
            }
        }
    }
}

#[test]
fn gates_are_multiplied_and_rounded_at_once() {
    let Some(program) = program() else { return };
    for kind in PlaneKind::ALL {
        for (columns, width, rows) in [(256, 64, 1), (512, 32, 2), (1280, 32, 4), (256, 32, 13)] {
            let what = format!("{kind:?}, {rows} rows, {width} × {columns}");
            let heights = 2 * width;
            let file = blocks(kind, heights * columns / kind.kind().file_block());
            let (expected, planes) = (values(kind, &file), kind.sort(&file));
            let plan = Plan::gated(rows, heights);
            // Gates that neither vanish nor saturate.
            let x: Vec<f32> = numbers(rows * columns).iter().map(|x| x / 50.0).collect();
            let x = rounded(&program, &x, columns);
            let kernel = format!(
                "casemate_multiply_gated_{}_{}",
                kind.name(),
                ROWS[plan.which]
            );
            let launch = Launch::new(&program, &kernel, [plan.blocks, 1, 1], plan.threads);
            let launch = launch.bytes(&x).matrix(&planes, (heights, columns));
            let launch = launch.out(rows * rounded_bytes(width)).int(rows);
            let made = launch.int(plan.chunks).run().remove(0);
            let both = product(&widened(&x, columns), &expected, columns);
            assert_gated(&widened(&made, width), &both, width, &what);
        }
    }
}

#[test]
fn matrices_are_unpacked_and_their_rows_looked_up() {
    let Some(program) = program() else { return };
    for kind in PlaneKind::ALL {
        let (columns, heights) = (512, 6);
        let file = blocks(kind, heights * columns / kind.kind().file_block());
        let (expected, planes) = (values(kind, &file), kind.sort(&file));
        let unpacked = |what: &str, ids: Option<&[u32]>, rows: usize, size: usize| {
            let kernel = format!("casemate_{what}_{}", kind.name());
            let blocks = (rows * columns / UNIT).div_ceil(128);
            let launch = Launch::new(&program, &kernel, [blocks, 1, 1], 128);
            let launch = launch.matrix(&planes, (heights, columns));
            let launch = match ids {
                Some(ids) => launch.places(ids),
                None => launch.word("null"),
            };
            let launch = launch.out(rows * columns * size).int(rows);
            launch.run().remove(0)
        };
        let halves = unpacked("halves", None, heights, 2);
        for (found, expected) in halves.chunks_exact(2).zip(&expected) {
            let found = half::f16::from_le_bytes([found[0], found[1]]).to_f32();
            let off = (found - expected).abs();
            assert!(
                off <= expected.abs() / 1000.0 + 1e-3,
                "{kind:?}: {found} {expected}"
            );
        }
        let ids = [2, 0, u32::MAX, 5];
        let found = floats(&unpacked("floats", Some(&ids), ids.len(), 4));
        let named = ids.map(|id| (id as usize).min(heights - 1));
        let rows = named.map(|row| &expected[row * columns..][..columns]);
        for (found, expected) in found.iter().zip(rows.concat()) {
            let off = (found - expected).abs();
            assert!(
                off <= 1e-4 * expected.abs() + 1e-4,
                "{kind:?}: {found} {expected}"
            );
        }
    }
}

#[test]
fn a_norm_that_is_rounded_is_the_norm() {
    let Some(program) = program() else { return };
    let (rows, columns) = (2, 2112);
    let (x, y, factors) = (
        numbers(rows * columns),
        vec![0.25; rows * columns],
        numbers(columns),
    );
    let run = |is_rounded: bool| {
        let launch = Launch::new(&program, "casemate_add_norm", [rows, 1, 1], 512);
        let launch = launch.floats(&x).floats(&y).floats(&factors).float(1e-5);
        let launch = launch.out(rows * columns * 4);
        let launch = match is_rounded {
            true => launch.word("null").out(rows * rounded_bytes(columns)),
            false => launch.out(rows * columns * 4).word("null"),
        };
        launch.int(columns).run()
    };
    let (numbers, rounded) = (run(false), run(true));
    assert_eq!(numbers[0], rounded[0]);
    let exact = floats(&numbers[1]);
    for (row, (x, found)) in x
        .chunks_exact(columns)
        .zip(exact.chunks_exact(columns))
        .enumerate()
    {
        let squares = x.iter().map(|x| f64::from(x + 0.25).powi(2)).sum::<f64>();
        let scale = 1.0 / (squares / columns as f64 + 1e-5).sqrt();
        for ((x, factor), found) in x.iter().zip(&factors).zip(found) {
            let expected = f64::from(x + 0.25) * scale * f64::from(*factor);
            let off = (expected - f64::from(*found)).abs();
            assert!(
                off < 1e-4 * expected.abs() + 1e-6,
                "row {row}: {found} {expected}"
            );
        }
    }
    for (exact, found) in exact
        .chunks_exact(UNIT)
        .zip(widened(&rounded[1], columns).chunks_exact(UNIT))
    {
        let largest = exact.iter().fold(0.0_f32, |most, one| most.max(one.abs()));
        for (exact, found) in exact.iter().zip(found) {
            assert!((exact - found).abs() <= largest / 253.0);
        }
    }
}

/// A cell's attention over pages, in `splits`, by kernel and in 64-bit floats.
#[test]
fn queries_find_what_is_expected_in_pages_split_or_not_and_rounded_or_not() {
    const PAGE: usize = 32;
    let Some(program) = program() else { return };
    let (share, groups, columns, slots) = (4, 2, 64, 6 * PAGE);
    let pages = [4_u32, 1, 3];
    let (lag, heads) = (70_usize, share * groups);
    let queries = numbers(heads * columns);
    let memory: Vec<f32> = numbers(2 * groups * slots * columns)
        .iter()
        .map(|x| half::f16::from_f32(*x).to_f32())
        .collect();
    let halves: Vec<u8> = memory
        .iter()
        .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
        .collect();
    let mut expected = Vec::new();
    for head in 0..heads {
        let query = &queries[head * columns..][..columns];
        let start = |slot: usize, part: usize| {
            let place = pages[slot / PAGE] as usize * PAGE + slot % PAGE;
            ((part * groups + head / share) * slots + place) * columns
        };
        let at = |slot: usize, part: usize| &memory[start(slot, part)..][..columns];
        let score = |slot: usize| product(query, at(slot, 0), columns)[0];
        let most = (0..=lag).map(score).fold(f64::MIN, f64::max);
        let weights: Vec<f64> = (0..=lag).map(|slot| (score(slot) - most).exp()).collect();
        let all: f64 = weights.iter().sum();
        expected.extend((0..columns).map(|column| {
            let sum = weights.iter().enumerate();
            sum.map(|(slot, weight)| weight * f64::from(at(slot, 1)[column]))
                .sum::<f64>()
                / all
        }));
    }
    for (splits, is_rounded) in [(1, false), (1, true), (2, false), (2, true)] {
        let told = |launch: Launch, parts: Option<&[u8]>| {
            let launch = launch.word("{").floats(&queries).bytes(&halves);
            let launch = launch.places(&[0]).places(&[lag as u32; 4]).places(&pages);
            let launch = match is_rounded {
                true => launch.word("null").out(rounded_bytes(heads * columns)),
                false => launch.out(heads * columns * 4).word("null"),
            };
            let launch = match parts {
                Some(parts) => launch.bytes(parts),
                None => launch.out(groups * splits * share * (columns + 2) * 4),
            };
            let launch = launch.float(0.0).int(1).int(1).int(pages.len()).int(slots);
            let launch = launch.int(groups).int(share).int(columns).int(splits);
            launch.int(u32::MAX as usize).word("}").run()
        };
        let grid = [1, groups, splits];
        let launch = Launch::new(&program, "casemate_attend_64_4", grid, 256);
        let mut left = told(launch, None);
        if splits > 1 {
            let launch = Launch::new(&program, "casemate_join", [1, groups, 1], 256);
            left = told(launch, Some(&left[1]));
        }
        let what = format!("{splits} splits, rounded: {is_rounded}");
        if is_rounded {
            let found = widened(&left[0], heads * columns);
            for (expected, found) in expected.chunks_exact(UNIT).zip(found.chunks_exact(UNIT)) {
                let largest = expected
                    .iter()
                    .fold(0.0_f64, |most, one| most.max(one.abs()));
                for (expected, found) in expected.iter().zip(found) {
                    let off = (expected - f64::from(*found)).abs();
                    assert!(off <= largest / 250.0, "{what}: {found} {expected}");
                }
            }
        } else {
            assert_near(&floats(&left[0]), &expected, &what);
        }
    }
}
