//! Products of packed matrices, against the file's blocks.

use std::path::Path;

use super::{Launch, UNIT, floats, program};
use crate::planes::plan::{Plan, ROWS};
use crate::planes::tests::{assert_gated, assert_near, blocks, numbers, product, values, widened};
use crate::planes::{PlaneKind, rounded_bytes};

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
