//! The same on a machine: questions on standard input, one a line; answers as JSON strings, one a line.

use std::io::{BufRead as _, Write as _};

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let answer = casemate_verify_wasm::answer(line?.as_bytes());
        writeln!(out, "{}", serde_json::Value::from(answer))?;
    }
    out.flush()
}
