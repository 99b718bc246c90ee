//! Runs a child and watches it: when its first line came, what it said, how much memory it had.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Anyhow;

/// Time between two looks at a child's memory. Its kernel keeps the peak, so that only what a child takes in its last
/// moment is missed.
const MEMORY_LOOK: Duration = Duration::from_millis(2);

/// A child that ended well.
pub struct Finished {
    /// Its standard output.
    pub output: String,
    /// From its start to the end of its first line.
    pub first_line: Duration,
    /// Its peak memory, if that was asked for.
    pub peak_mib: Option<f64>,
}

/// Runs `command` to its end.
///
/// # Errors
/// When it does not start or fails, with the end of what it said on standard error.
pub fn run(command: &mut Command, input: &[u8], watch_memory: bool) -> Anyhow<Finished> {
    let program = command.get_program().to_string_lossy().into_owned();
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program} does not start: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that reads nothing may have closed its end.
        stdin.write_all(input).ok();
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = (stdout.ok_or("no output")?, stderr.ok_or("no errors")?);
    let output = thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut text = String::new();
        reader.read_line(&mut text)?;
        let first_line = started.elapsed();
        reader.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>((text, first_line))
    });
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        BufReader::new(stderr).read_to_end(&mut text).ok();
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut peak_mib = None;
    if watch_memory {
        let path = format!("/proc/{}/status", child.id());
        while child.try_wait()?.is_none() {
            let status = fs::read_to_string(&path).unwrap_or_default();
            peak_mib = peak_of(&status).or(peak_mib);
            thread::sleep(MEMORY_LOOK);
        }
    }
    let status = child.wait()?;
    let (output, first_line) = output.join().map_err(|_| "the reader failed")??;
    let errors = errors.join().map_err(|_| "the reader failed")?;
    if !status.success() {
        let lines: Vec<&str> = errors.lines().rev().take(8).collect();
        let tail: Vec<&str> = lines.into_iter().rev().collect();
        return Err(format!("{program} failed ({status}):\n{}", tail.join("\n")).into());
    }
    Ok(Finished {
        output,
        first_line,
        peak_mib,
    })
}

/// Peak memory in MiB from the text of a process's status.
pub fn peak_of(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_found_in_a_status() {
        let status = "Name:\tx\nVmPeak:\t 9999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(peak_of(status), Some(2.0));
        assert_eq!(peak_of("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn a_child_that_fails_is_an_error_with_its_words() {
        let mut command = Command::new("sh");
        let error = run(command.args(["-c", "echo why >&2; exit 3"]), b"", true).err();
        assert!(error.unwrap().to_string().contains("why"));
    }
}
