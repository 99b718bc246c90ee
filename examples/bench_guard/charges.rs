//! What it costs to charge a token to three accounts, of many, and to put a piece of an answer into cells.

use std::hint::black_box;

use casemate::guard::shape::{Cells, Filler};
use casemate::guard::{Accounts, Allowance, Meter, Tally, Wants};
use casemate_attestation::Sha256Digest;
use casemate_models::engine::Learnt;

use crate::row::Row;
use crate::tokens::{ROUNDS, alone, row, timed};

const PRINCIPALS: u32 = 10_000;
/// An event of a stream with a token's text.
const EVENT: [u8; 240] = [b'x'; 240];

/// What a token takes in each round, and rows.
pub fn rows() -> anyhow::Result<(Vec<f64>, Vec<Row>)> {
    let charges: Vec<f64> = (0..ROUNDS).map(|_| charge()).collect::<Result<_, _>>()?;
    let cells: Vec<f64> = (0..ROUNDS).map(|_| cell()).collect();
    let rows = vec![
        row(
            "a token is charged, 10,000 principals",
            alone(&charges),
            None,
        ),
        row("a cell of a shaped answer", alone(&cells), None),
    ];
    Ok((charges, rows))
}

fn charge() -> anyhow::Result<f64> {
    let mut meter = Meter::default();
    let wants = Wants {
        told: false,
        arranged: false,
    };
    let limited = Allowance {
        bits: Some(u64::MAX >> 20),
        ..Allowance::default()
    };
    let accounts: Vec<Accounts> = (0..PRINCIPALS)
        .map(|n| {
            let name = format!("spiffe://organisation.example/team/research/member-{n:06}");
            Accounts::new(Sha256Digest::of(b"model"), &name, "research", [limited; 3])
        })
        .collect();
    for accounts in &accounts {
        meter.room(accounts, wants)?;
    }
    let learnt = Learnt {
        millibits: 900,
        arranged_millibits: 0,
    };
    let mut all = accounts.iter().cycle();
    Ok(timed(|_| {
        let charged = all
            .next()
            .map(|one| meter.charge(one, Tally::of_tokens(1, learnt)));
        black_box(charged.is_some_and(|charged| charged.is_ok()));
    }))
}

fn cell() -> f64 {
    let mut cells = Cells::new(Filler::Comments);
    timed(|_| {
        cells.push(&EVENT);
        black_box(cells.take());
    })
}
