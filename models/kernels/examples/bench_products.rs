//! Matrix products by kind, set and rows: milliseconds and GOPS of one 8192 × 2048 matrix, copies cycled so that weights
//! come from memory. `cargo run --release -p casemate-kernels --example bench_products [THREADS]`

use std::time::Instant;

use casemate_kernels::{Activations, Isa, Kind, Packed, Pool, Product, multiply};

const OUTPUTS: usize = 8192;
const COLUMNS: usize = 2048;
const COPIES: usize = 24;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |text| text.parse())?;
    let pool = Pool::new(threads)?;
    println!("threads {threads}, {:?}; ms (GOPS)", Isa::detect());
    for kind in [
        Kind::Q4K,
        Kind::Q6K,
        Kind::Q8_0,
        Kind::Q4_0,
        Kind::Q5K,
        Kind::F16,
        Kind::BF16,
    ] {
        // Scales that are no subnormal numbers, which some processors multiply a hundred times slower.
        let bytes = vec![0x2c; OUTPUTS * COLUMNS / kind.file_block() * kind.file_bytes()];
        let started = Instant::now();
        let copies = (0..COPIES).map(|_| Packed::new(kind, OUTPUTS, COLUMNS, &bytes, &pool));
        let copies = copies.collect::<Result<Vec<_>, _>>()?;
        let packing = (bytes.len() * COPIES) as f64 / started.elapsed().as_secs_f64() / 1e9;
        print!("{kind:?}: packs {packing:.2} GB/s;");
        for rows in [1, 2, 4, 8, 16, 64, 512] {
            let mut activations = Activations::new(kind.precision());
            let mut out = vec![0.0; rows * OUTPUTS];
            let mut times = Vec::new();
            let repeats = if rows > 64 { 6 } else { 2 * COPIES };
            for weights in copies.iter().cycle().take(repeats) {
                let started = Instant::now();
                let filled = activations.fill(rows, COLUMNS, &pool, |row, out| {
                    for (at, out) in out.iter_mut().enumerate() {
                        *out = (at * 7 % 31 + row) as f32 - 15.0;
                    }
                });
                assert!(filled);
                let products = &mut [Product {
                    weights,
                    out: &mut out,
                }];
                multiply(Isa::detect(), &activations, products, &pool)?;
                times.push(started.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            let gops = 2.0 * (rows * OUTPUTS * COLUMNS) as f64 / median / 1e9;
            print!(" m{rows} {:.3} ({gops:.0})", median * 1e3);
        }
        println!();
    }
    Ok(())
}
