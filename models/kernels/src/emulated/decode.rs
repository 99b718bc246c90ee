//! What rows that generate need besides products with packed matrices.

use super::{Launch, UNIT, floats, program};
use crate::planes::rounded_bytes;
use crate::planes::tests::{assert_near, numbers, product, widened};

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

/// Cosines and sines of a table: places × half of the columns that are rotated.
fn table(places: usize, half: usize) -> (Vec<f32>, Vec<f32>) {
    let angles = (0..places * half).map(|at| (at / half) as f32 * 0.3 / (1 + at % half) as f32);
    angles.map(|angle| (angle.cos(), angle.sin())).unzip()
}

/// How heads are turned in a test.
#[derive(Clone, Copy)]
struct Turning {
    columns: usize,
    turned: usize,
    neighbours: bool,
    is_normed: bool,
}

const PLACES: usize = 9;

impl Turning {
    const ALL: [Self; 4] = [
        Self::new(64, 64, false, false),
        Self::new(64, 64, true, true),
        Self::new(80, 40, false, true),
        Self::new(32, 16, true, false),
    ];

    const fn new(columns: usize, turned: usize, neighbours: bool, is_normed: bool) -> Self {
        Self {
            columns,
            turned,
            neighbours,
            is_normed,
        }
    }

    fn factors(self) -> Vec<f32> {
        numbers(self.columns)
    }

    fn word(self, launch: Launch) -> Launch {
        let (cosines, sines) = table(PLACES, self.turned / 2);
        let launch = launch.word("{").floats(&cosines).floats(&sines);
        let launch = match self.is_normed {
            true => launch.floats(&self.factors()),
            false => launch.word("null"),
        };
        let launch = launch.float(1e-5).int(PLACES).int(self.turned);
        launch.int(self.neighbours.into()).word("}")
    }

    /// A head at a place beyond the table stands at its last.
    fn expected(self, head: &[f32], place: usize) -> Vec<f64> {
        let squares = head.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let scale = 1.0 / (squares / head.len() as f64 + 1e-5).sqrt();
        let factors = self.factors();
        let normed = head.iter().zip(&factors);
        let normed: Vec<f64> = normed
            .map(|(x, factor)| match self.is_normed {
                true => f64::from(*x) * scale * f64::from(*factor),
                false => f64::from(*x),
            })
            .collect();
        let half = self.turned / 2;
        let (cosines, sines) = table(PLACES, half);
        let mut out = normed.clone();
        for pair in 0..half {
            let at = place.min(PLACES - 1) * half + pair;
            let (cosine, sine) = (f64::from(cosines[at]), f64::from(sines[at]));
            let (a, b) = match self.neighbours {
                true => (2 * pair, 2 * pair + 1),
                false => (pair, half + pair),
            };
            out[a] = normed[a] * cosine - normed[b] * sine;
            out[b] = normed[b] * cosine + normed[a] * sine;
        }
        out
    }
}

#[test]
fn queries_are_normalised_turned_and_grown() {
    let Some(program) = program() else { return };
    let (rows, heads, places) = (2, 3, [4_u32, 70]);
    for turning in Turning::ALL {
        let (columns, stride) = (turning.columns, heads * turning.columns + 8);
        let x = numbers(rows * stride);
        let growth: Vec<f32> = (0..PLACES).map(|place| 1.0 + place as f32).collect();
        let launch = Launch::new(&program, "casemate_turn", [2, 1, 1], 128).floats(&x);
        let launch = launch.out(rows * heads * columns * 4).places(&places);
        let launch = turning.word(launch).floats(&growth).float(0.125);
        let launch = launch.int(rows).int(heads).int(columns).int(stride);
        let found = floats(&launch.run()[0]);
        let mut expected = Vec::new();
        for (row, place) in places.iter().enumerate() {
            let factor = 0.125 * f64::from(growth[(*place as usize).min(PLACES - 1)]);
            for head in 0..heads {
                let head = &x[row * stride + head * columns..][..columns];
                let turned = turning.expected(head, *place as usize);
                expected.extend(turned.iter().map(|x| x * factor));
            }
        }
        assert_near(&found, &expected, "turned queries");
    }
}

#[test]
fn keys_and_values_come_into_their_slots_and_no_others() {
    let Some(program) = program() else { return };
    // The last row's slot is none.
    let (rows, heads, slots) = (3, 2, 5);
    let (places, slots_of) = ([0_u32, 8, 3], [4_u32, 1, 5]);
    for turning in Turning::ALL {
        let columns = turning.columns;
        let stride = heads * columns;
        let (keys, values) = (numbers(rows * stride), numbers(2 * rows * stride));
        let launch = Launch::new(&program, "casemate_store", [2, 1, 1], 128);
        let launch = launch.floats(&keys).floats(&values);
        let launch = launch.out(2 * heads * slots * columns * 2).places(&places);
        let launch = turning.word(launch.places(&slots_of));
        let launch = launch.int(rows).int(heads).int(columns).int(slots);
        let stored = launch.int(stride).int(2 * stride).run().remove(0);
        let found: Vec<f32> = stored
            .chunks_exact(2)
            .map(|two| half::f16::from_le_bytes([two[0], two[1]]).to_f32())
            .collect();
        let mut expected = vec![0.0; 2 * heads * slots * columns];
        for row in 0..2 {
            for head in 0..heads {
                let key = &keys[row * stride + head * columns..][..columns];
                let key = turning.expected(key, places[row] as usize);
                let value = &values[2 * row * stride + head * columns..][..columns];
                let at = (head * slots + slots_of[row] as usize) * columns;
                expected[at..at + columns].copy_from_slice(&key);
                let behind = heads * slots * columns + at;
                for (place, value) in expected[behind..].iter_mut().zip(value) {
                    *place = f64::from(*value);
                }
            }
        }
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let off = (f64::from(*found) - expected).abs();
            assert!(
                off <= expected.abs() / 1000.0 + 1e-3,
                "{at}: {found} {expected}"
            );
        }
    }
}

#[test]
fn a_softmax_is_over_what_a_query_sees() {
    let Some(program) = program() else { return };
    let (heads, slots, lags) = (2, 300, [0_u32, 40, 299, 1000]);
    let scores = numbers(heads * lags.len() * slots);
    for (sight, cap) in [(u32::MAX as usize, 0.0), (33, 0.0), (200, 5.0)] {
        let grid = [heads * lags.len(), 1, 1];
        let launch = Launch::new(&program, "casemate_soften", grid, 128).floats(&scores);
        let launch = launch.out(scores.len() * 4).places(&lags);
        let launch = launch.int(lags.len()).int(slots).int(sight).float(cap);
        let found = floats(&launch.run()[0]);
        let mut expected = Vec::new();
        for (row, scores) in scores.chunks_exact(slots).enumerate() {
            let lag = (lags[row % lags.len()] as usize).min(slots - 1);
            let weights: Vec<f64> = scores
                .iter()
                .enumerate()
                .map(|(slot, score)| {
                    let score = f64::from(*score);
                    let bent = match cap {
                        0.0 => score,
                        cap => f64::from(cap) * (score / f64::from(cap)).tanh(),
                    };
                    match slot <= lag && lag - slot < sight {
                        true => bent.exp(),
                        false => 0.0,
                    }
                })
                .collect();
            let all: f64 = weights.iter().sum();
            expected.extend(weights.iter().map(|weight| weight / all));
        }
        assert_near(&found, &expected, "a softmax");
        assert!(
            found
                .iter()
                .zip(&expected)
                .all(|(a, b)| (*a == 0.0) == (*b == 0.0))
        );
    }
}

#[test]
fn gates_of_numbers_are_multiplied_at_their_own_strides() {
    let Some(program) = program() else { return };
    let (rows, columns, gate_stride, up_stride) = (3, 300, 300, 310);
    let (gate, up) = (numbers(rows * gate_stride), numbers(rows * up_stride));
    let launch = Launch::new(&program, "casemate_gated", [2, rows, 1], 256);
    let launch = launch.floats(&gate).floats(&up).out(rows * columns * 4);
    let launch = launch
        .int(rows)
        .int(columns)
        .int(gate_stride)
        .int(up_stride);
    let found = floats(&launch.run()[0]);
    let mut expected = Vec::new();
    for row in 0..rows {
        for column in 0..columns {
            let gate = f64::from(gate[row * gate_stride + column]);
            let up = f64::from(up[row * up_stride + column]);
            expected.push(gate / (1.0 + (-gate).exp()) * up);
        }
    }
    assert_near(&found, &expected, "gates");
}

#[test]
fn matrices_of_halves_are_multiplied_by_few_rows() {
    let Some(program) = program() else { return };
    let (heights, columns) = (7, 264);
    let matrix = numbers(heights * columns);
    for kind in ["f16", "bf16"] {
        let bits = |x: &f32| match kind {
            "f16" => half::f16::from_f32(*x).to_bits(),
            _ => half::bf16::from_f32(*x).to_bits(),
        };
        let value = |bits: u16| match kind {
            "f16" => half::f16::from_bits(bits).to_f32(),
            _ => half::bf16::from_bits(bits).to_f32(),
        };
        let halves: Vec<u16> = matrix.iter().map(bits).collect();
        let bytes: Vec<u8> = halves.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let known: Vec<f32> = halves.into_iter().map(value).collect();
        for (rows, most) in [(1, 1), (2, 2), (3, 4), (8, 8)] {
            let x = numbers(rows * columns);
            let kernel = format!("casemate_product_{kind}_{most}");
            let launch = Launch::new(&program, &kernel, [heights.div_ceil(4), 1, 1], 256);
            let launch = launch.floats(&x).bytes(&bytes).out(rows * heights * 4);
            let found = launch.int(rows).int(heights).int(columns).run().remove(0);
            let expected = product(&x, &known, columns);
            assert_near(&floats(&found), &expected, &format!("{kind}, {rows} rows"));
        }
    }
}

#[test]
fn rows_shrink_to_halves_that_do_not_overflow_and_widen_again() {
    let Some(program) = program() else { return };
    let columns = 300;
    let mut x = numbers(3 * columns);
    x[..columns].iter_mut().for_each(|x| *x *= 1e8);
    x[columns..2 * columns].fill(0.0);
    let launch = Launch::new(&program, "casemate_shrink", [3, 1, 1], 128).floats(&x);
    let launch = launch.out(3 * columns * 2).out(3 * 4).int(columns);
    let left = launch.run();
    let factors = floats(&left[1]);
    assert!(factors[1] == 1.0 && factors.iter().all(|factor| *factor > 0.0));
    for two in left[0].chunks_exact(2) {
        assert!(half::f16::from_le_bytes([two[0], two[1]]).to_f32().abs() <= 16.0);
    }
    let launch = Launch::new(
        &program,
        "casemate_widen",
        [3, columns.div_ceil(128), 1],
        128,
    );
    let launch = launch.bytes(&left[0]).floats(&factors).out(3 * columns * 4);
    let found = floats(&launch.int(columns).run()[0]);
    for (found, expected) in found.chunks_exact(columns).zip(x.chunks_exact(columns)) {
        let largest = expected
            .iter()
            .fold(0.0_f32, |most, one| most.max(one.abs()));
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() <= largest / 2000.0,
                "{found} {expected}"
            );
        }
    }
}
