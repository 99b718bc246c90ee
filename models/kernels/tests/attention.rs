//! Attention over pages against sums in double precision, and rows alone against rows in a batch.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use casemate_kernels::{Attention, Isa, KvKind, KvPages, KvShape, PAGE, Pool, Scoring, Span};

const HEADS: usize = 2;
const GROUP: usize = 3;

fn attention<'a>(isa: Isa, layer: usize, spans: &'a [Span<'a>], scoring: Scoring) -> Attention<'a> {
    Attention {
        isa,
        layer,
        spans,
        scoring,
    }
}

/// Numbers from -1 to 1 that only their place decides.
fn number(at: usize) -> f32 {
    let mixed = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    mixed as f32 / (1 << 23) as f32 - 1.0
}

struct Sequence {
    pages: Vec<u32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
}

fn sequence(seed: usize, tokens: usize, pages: Vec<u32>, head_width: usize) -> Sequence {
    let some =
        |from: usize, len: usize| (from..from + len).map(|at| number(at * 7 + seed)).collect();
    Sequence {
        pages,
        keys: some(0, tokens * HEADS * head_width),
        values: some(90_000, tokens * HEADS * head_width),
        queries: some(180_000, tokens * HEADS * GROUP * head_width),
    }
}

/// Columns of a key, and of a query, that share a scale.
fn of_keys(head_width: usize) -> usize {
    if head_width.is_multiple_of(32) {
        32
    } else {
        16
    }
}

/// Columns of a value that share a scale.
fn of_values(head_width: usize) -> usize {
    match head_width {
        ..=128 => head_width,
        _ => 128,
    }
}

/// Queries as the kernels multiply them.
fn rounded(kind: KvKind, head_width: usize, exact: &[f32]) -> Vec<f64> {
    let group = |exact: &[f32]| -> Vec<f64> {
        let largest = exact.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let step = |x: &f32| match kind {
            KvKind::F16 => f64::from(*x),
            KvKind::Q8 => {
                f64::from((x * (16_256.0 / largest)).round_ties_even() * (largest / 16_256.0))
            }
        };
        exact.iter().map(step).collect()
    };
    exact.chunks(of_keys(head_width)).flat_map(group).collect()
}

/// Keys or values as the pages hold them.
fn kept(kind: KvKind, scaled: usize, exact: &[f32]) -> Vec<f64> {
    let group = |exact: &[f32]| -> Vec<f64> {
        let largest = exact.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let step = |x: &f32| match kind {
            KvKind::F16 => half::f16::from_f32(*x).to_f64(),
            KvKind::Q8 => {
                let scale = half::f16::from_f32(largest / 127.0).to_f32();
                f64::from((x * (1.0 / scale)).round_ties_even().clamp(-127.0, 127.0))
                    * f64::from(scale)
            }
        };
        exact.iter().map(step).collect()
    };
    exact.chunks(scaled).flat_map(group).collect()
}

/// One query's result in double precision, of keys and values as they are kept and queries as they are multiplied; and
/// how far each column may be off if of each page's shares, times the scales of values, the largest is 255 steps.
fn exact(
    sequence: &Sequence,
    [queries, keys, values]: [&[f64]; 3],
    head_width: usize,
    token: usize,
    head: usize,
    scoring: Scoring,
) -> Vec<(f64, f64)> {
    let at = |all: &[f64], token: usize, column: usize| {
        all[(token * HEADS + head / GROUP) * head_width + column]
    };
    let query = &queries[(token * HEADS * GROUP + head) * head_width..][..head_width];
    let seen = (token + 1).saturating_sub(scoring.sight)..token + 1;
    let score = |other: usize| {
        let sum: f64 = query
            .iter()
            .enumerate()
            .map(|(column, q)| q * at(keys, other, column))
            .sum();
        let sum = sum * f64::from(scoring.scale);
        scoring
            .cap
            .map_or(sum, |cap| f64::from(cap) * (sum / f64::from(cap)).tanh())
    };
    let weights: Vec<f64> = seen.clone().map(|other| score(other).exp()).collect();
    let total: f64 = weights.iter().sum();
    let scaled = of_values(head_width);
    let shares: Vec<(usize, f64)> = seen
        .zip(weights.iter().map(|weight| weight / total))
        .collect();
    // Of the columns of a scale: half a step for each token, of a product that is 255 times as large.
    let off = |group: usize| -> f64 {
        let mut pages = std::collections::BTreeMap::<usize, (f64, f64)>::new();
        for (other, share) in &shares {
            let place = (other * HEADS + head / GROUP) * head_width + group * scaled;
            let columns = sequence.values[place..place + scaled].iter();
            let largest = columns.fold(0.0_f32, |max, x| max.max(x.abs()));
            let page = pages.entry(other / PAGE).or_default();
            *page = (page.0.max(share * f64::from(largest)), page.1 + 1.0);
        }
        let of_pages = pages
            .values()
            .map(|(largest, tokens)| largest * 0.51 / 255.0 * tokens);
        of_pages.sum()
    };
    let offs: Vec<f64> = (0..head_width / scaled).map(off).collect();
    let result = |column: usize| {
        let of_tokens = shares
            .iter()
            .map(|(other, share)| share * at(values, *other, column));
        (of_tokens.sum(), offs[column / scaled])
    };
    (0..head_width).map(result).collect()
}

fn run(isa: Isa, kind: KvKind, head_width: usize, scoring: Scoring) {
    let pool = Pool::new(2).unwrap();
    let shape = KvShape {
        kind,
        layers: 2,
        heads: HEADS,
        head_width,
    };
    let mut cache = KvPages::new(shape, 16).unwrap();
    let tokens = [70, 45];
    let sequences = [
        sequence(1, tokens[0], vec![3, 0, 7], head_width),
        sequence(2, tokens[1], vec![5, 1], head_width),
    ];
    let (kv, qw) = (HEADS * head_width, HEADS * GROUP * head_width);
    // Both together: a long chunk of each, then token by token.
    let mut done = [0, 0];
    let mut results = [Vec::new(), Vec::new()];
    for chunk in [[33, 40], [20, 1], [1, 1], [1, 1], [15, 2]] {
        let spans: Vec<Span<'_>> = (0..2)
            .map(|at| Span {
                pages: &sequences[at].pages,
                before: done[at],
                rows: chunk[at],
            })
            .collect();
        let rows = |all: fn(&Sequence) -> &Vec<f32>, width: usize| -> Vec<f32> {
            (0..2)
                .flat_map(|at| {
                    all(&sequences[at])[done[at] * width..(done[at] + chunk[at]) * width].to_vec()
                })
                .collect()
        };
        let (keys, values) = (rows(|s| &s.keys, kv), rows(|s| &s.values, kv));
        cache.store(1, &spans, &keys, &values, &pool).unwrap();
        let queries = rows(|s| &s.queries, qw);
        let mut out = vec![f32::NAN; queries.len()];
        cache
            .attend(
                &attention(isa, 1, &spans, scoring),
                &queries,
                &mut out,
                &pool,
            )
            .unwrap();
        let (first, second) = out.split_at(chunk[0] * qw);
        results[0].extend_from_slice(first);
        results[1].extend_from_slice(second);
        for at in 0..2 {
            done[at] += chunk[at];
        }
    }
    assert_eq!(done, tokens);
    for (sequence, results) in sequences.iter().zip(&results) {
        let queries = rounded(kind, head_width, &sequence.queries);
        let keys = kept(kind, of_keys(head_width), &sequence.keys);
        let values = kept(kind, of_values(head_width), &sequence.values);
        let all = [&queries[..], &keys, &values];
        let (mut squares, mut columns) = (0.0, 0);
        for (token, row) in results.chunks(qw).enumerate() {
            for (head, found) in row.chunks(head_width).enumerate() {
                let exact = exact(sequence, all, head_width, token, head, scoring);
                for (found, (exact, off)) in found.iter().zip(exact) {
                    // Sums of wider heads are rounded more often.
                    let rounding = 1e-5 * (head_width as f64 / 64.0).max(1.0);
                    let bound = match kind {
                        KvKind::F16 => rounding,
                        KvKind::Q8 => rounding + off,
                    };
                    let error = (f64::from(*found) - exact).abs();
                    assert!(
                        error < bound,
                        "{isa:?} token {token}: {found} is not {exact} ({bound})"
                    );
                    (squares, columns) = (squares + error * error, columns + 1);
                }
            }
        }
        // Rounding errors have all signs: together they are far below what the bound allows to each.
        let typical = (squares / f64::from(columns)).sqrt();
        assert!(typical < 2e-3, "{isa:?} {kind:?} {head_width}: {typical}");
    }
    // The same sequence in one piece, alone: the same bits.
    let span = [Span {
        pages: &[9, 10, 11],
        before: 0,
        rows: tokens[0],
    }];
    cache
        .store(1, &span, &sequences[0].keys, &sequences[0].values, &pool)
        .unwrap();
    let mut out = vec![f32::NAN; results[0].len()];
    cache
        .attend(
            &attention(isa, 1, &span, scoring),
            &sequences[0].queries,
            &mut out,
            &pool,
        )
        .unwrap();
    assert!(
        out.iter()
            .zip(&results[0])
            .all(|(a, b)| a.to_bits() == b.to_bits()),
        "{isa:?}"
    );
}

#[test]
fn every_set_gives_the_exact_result_whatever_the_batch() {
    let plain = Scoring {
        scale: 0.4,
        cap: None,
        sight: usize::MAX,
    };
    for isa in Isa::available() {
        for head_width in [16, 48, 64, 128, 256] {
            run(isa, KvKind::F16, head_width, plain);
            run(isa, KvKind::Q8, head_width, plain);
        }
        run(isa, KvKind::F16, 64, Scoring { sight: 1, ..plain });
        run(isa, KvKind::F16, 64, Scoring { sight: 37, ..plain });
        run(
            isa,
            KvKind::F16,
            64,
            Scoring {
                cap: Some(2.0),
                ..plain
            },
        );
    }
}

#[test]
fn pages_that_are_not_there_are_refused() {
    let pool = Pool::new(1).unwrap();
    let shape = KvShape {
        kind: KvKind::F16,
        layers: 1,
        heads: 1,
        head_width: 16,
    };
    let mut cache = KvPages::new(shape, 2).unwrap();
    let row = vec![1.0; 16];
    let mut store = |layer, pages: &[u32], before| {
        cache
            .store(
                layer,
                &[Span {
                    pages,
                    before,
                    rows: 1,
                }],
                &row,
                &row,
                &pool,
            )
            .is_ok()
    };
    assert!(store(0, &[1], 0));
    assert!(!store(1, &[1], 0));
    assert!(!store(0, &[2], 0));
    assert!(!store(0, &[1], PAGE));
    assert!(!store(0, &[], 0));
    assert!(
        KvPages::new(
            KvShape {
                head_width: 20,
                ..shape
            },
            1
        )
        .is_err()
    );
}

#[test]
fn a_wiped_page_holds_nothing() {
    let pool = Pool::new(1).unwrap();
    let shape = KvShape {
        kind: KvKind::F16,
        layers: 1,
        heads: 1,
        head_width: 16,
    };
    let mut cache = KvPages::new(shape, 2).unwrap();
    let span = [Span {
        pages: &[1],
        before: 0,
        rows: 1,
    }];
    let value = |cache: &KvPages| {
        let mut out = vec![f32::NAN; 16];
        let scoring = Scoring {
            scale: 1.0,
            cap: None,
            sight: 9,
        };
        cache
            .attend(
                &attention(Isa::detect(), 0, &span, scoring),
                &[1.0; 16],
                &mut out,
                &pool,
            )
            .unwrap();
        out[3]
    };
    cache
        .store(0, &span, &[1.0; 16], &[2.5; 16], &pool)
        .unwrap();
    assert_eq!(value(&cache), 2.5);
    cache.wipe(1);
    assert_eq!(value(&cache), 0.0);
}
