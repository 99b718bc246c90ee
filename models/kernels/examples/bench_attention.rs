//! Attention by kind of cache: one query row behind a long context, all layers in turn, and a prompt's rows.
//! `cargo run --release -p casemate-kernels --example bench_attention [THREADS [TOKENS]]`

use std::time::Instant;

use casemate_kernels::{Attention, Isa, KvKind, KvPages, KvShape, PAGE, Pool, Scoring, Span};

const LAYERS: usize = 16;
const HEADS: usize = 8;
const GROUP: usize = 4;
const HEAD_WIDTH: usize = 64;
const PROMPT: usize = 512;
const REPEATS: usize = 9;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let threads = numbers.next().unwrap_or(Ok(2))?;
    let tokens = numbers.next().unwrap_or(Ok(8192))?.max(PROMPT);
    let pool = Pool::new(threads)?;
    println!(
        "threads {threads}, {:?}, {tokens} tokens, medians of {REPEATS}",
        Isa::detect()
    );
    for kind in [KvKind::F16, KvKind::Q8] {
        let shape = KvShape {
            kind,
            layers: LAYERS,
            heads: HEADS,
            head_width: HEAD_WIDTH,
        };
        let pages: Vec<u32> = (0..tokens.div_ceil(PAGE) as u32).collect();
        let mut cache = KvPages::new(shape, pages.len())?;
        let some = |len: usize, seed: usize| -> Vec<f32> {
            (0..len)
                .map(|at| ((at * 7919 + seed * 31) % 1009) as f32 / 504.5 - 1.0)
                .collect()
        };
        let width = HEADS * HEAD_WIDTH;
        for before in (0..tokens).step_by(PROMPT) {
            let rows = PROMPT.min(tokens - before);
            let span = [Span {
                pages: &pages,
                before,
                rows,
            }];
            for layer in 0..LAYERS {
                let (keys, values) = (some(rows * width, before + layer), some(rows * width, 5));
                cache.store(layer, &span, &keys, &values, &pool)?;
            }
        }
        for (name, before, rows) in [("decode", tokens - 1, 1), ("prompt", 0, PROMPT)] {
            let span = [Span {
                pages: &pages,
                before,
                rows,
            }];
            let queries = some(rows * width * GROUP, 9);
            let mut out = vec![0.0; queries.len()];
            let mut times = Vec::new();
            for _ in 0..REPEATS {
                let started = Instant::now();
                for layer in 0..LAYERS {
                    let attention = Attention {
                        isa: Isa::detect(),
                        layer,
                        spans: &span,
                        scoring: Scoring {
                            scale: 0.125,
                            cap: None,
                            sight: usize::MAX,
                        },
                    };
                    cache.attend(&attention, &queries, &mut out, &pool)?;
                }
                times.push(started.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            let (best, median) = (times[0], times[REPEATS / 2]);
            let bytes = (pages.len() * shape.page_bytes()) as f64;
            print!(
                "{kind:?} {name}: {:.2} ms (best {:.2})",
                median * 1e3,
                best * 1e3
            );
            match rows {
                1 => println!(
                    ", {:.1} GB/s (best {:.1})",
                    bytes / median / 1e9,
                    bytes / best / 1e9
                ),
                _ => println!(),
            }
        }
    }
    Ok(())
}
