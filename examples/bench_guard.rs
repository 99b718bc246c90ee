//! What the extraction guard costs per prompt, in processor time of the thread that asks it: `cargo run --release --example
//! bench_guard`. The goal is 100 microseconds (G16).
//!
//! Prompts are made up here: every one is a template around words that never come again, the dearest case for the sketches.

use std::alloc::System;
use std::hint::black_box;

use casemate::guard::{Background, Families, GuardKey, Prompt, Sketch, Wager};
use rustix::time::{ClockId, clock_gettime};
use zeroizing_alloc::ZeroAlloc;

/// The product's allocator wipes what it frees, which costs time here as there.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

const PRINCIPALS: usize = 256;
const PROMPTS: usize = 4096;
const ROUNDS: usize = 9;
const GOAL_MICROSECONDS: f64 = 100.0;

/// Processor time of this thread, microseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of one process are far below 2^52"
)]
fn spent() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Text of Han characters, each a word: the most shingles that so many bytes hold in ordinary use.
const DENSE: usize = 0;

fn han(at: usize) -> Option<char> {
    char::from_u32(0x4e00 + u32::try_from(at * at % 20_000).ok()?)
}

fn prompt(n: usize, words: usize) -> String {
    if words == DENSE {
        let letters = (n..n + 2048).map(han);
        return letters.flatten().collect();
    }
    let slot: Vec<String> = (0..words).map(|word| format!("w{n}x{word}")).collect();
    format!(
        "Explain in many small steps and plain words why: {}",
        slot.join(" ")
    )
}

/// Microseconds per prompt of the principals' part and of the organisation's.
#[expect(clippy::cast_precision_loss, reason = "a few thousand prompts")]
fn round(texts: &[String]) -> [f64; 2] {
    let key = GuardKey::new([1; 16]);
    let background = Background::of_lines(&key, ["what is the capital of France"]);
    let mut people = vec![(Sketch::new(0), Wager::default()); PRINCIPALS];
    let mut families = Families::new(Background::default(), 0);
    let mut microseconds = [0.0; 2];
    let people_in_turn = (0..PRINCIPALS).cycle();
    for (text, who) in texts.iter().zip(people_in_turn) {
        let begin = spent();
        let prompt = Prompt::read(&key, &background, text);
        if let Some((sketch, wager)) = people.get_mut(who) {
            black_box(wager.observe(sketch.observe(&prompt, 0)));
        }
        let middle = spent();
        black_box(families.observe(&prompt, key.hash_words(&[who as u64]), 0));
        microseconds = [
            microseconds[0] + middle - begin,
            microseconds[1] + spent() - middle,
        ];
    }
    microseconds.map(|sum| sum / texts.len() as f64)
}

fn main() {
    println!(
        "words  bytes  sketch and wager  families  both (microseconds of processor time, median of {ROUNDS})"
    );
    for words in [20, 100, 400, 2000, DENSE] {
        let texts: Vec<String> = (0..PROMPTS).map(|n| prompt(n, words)).collect();
        let mut rounds: Vec<[f64; 2]> = (0..ROUNDS).map(|_| round(&texts)).collect();
        rounds.sort_by(|one, other| one.iter().sum::<f64>().total_cmp(&other.iter().sum()));
        let [sketch, families] = rounds.get(ROUNDS / 2).copied().unwrap_or_default();
        let bytes = texts.last().map_or(0, String::len);
        let both = sketch + families;
        let verdict = if both <= GOAL_MICROSECONDS {
            "met"
        } else {
            "missed"
        };
        println!("{words:5}  {bytes:5}  {sketch:16.1}  {families:8.1}  {both:4.1} {verdict}");
    }
    println!(
        "bytes: {} per principal, {} per organisation at most",
        size_of::<Sketch>() + size_of::<Wager>(),
        Families::bytes_max()
    );
}
