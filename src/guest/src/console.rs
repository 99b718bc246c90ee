//! Where the machine says what becomes of it. The host reads every console, so that an image for production has none.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};

/// The console of an image for looking at, or nothing.
pub struct Console(Option<File>);

impl Console {
    /// Opens it, and makes it this process's standard output and error; without one both go nowhere.
    pub fn open(is_wanted: bool) -> Self {
        let own = is_wanted.then(|| OpenOptions::new().write(true).open("/dev/console").ok());
        let own = own.flatten();
        let nowhere = || OpenOptions::new().read(true).write(true).open("/dev/null");
        let redirected = nowhere().and_then(|nowhere| {
            let out = own.as_ref().unwrap_or(&nowhere);
            rustix::stdio::dup2_stdin(&nowhere)?;
            rustix::stdio::dup2_stdout(out)?;
            Ok(rustix::stdio::dup2_stderr(out)?)
        });
        // Without `/dev/null` the kernel's console stays standard output, of which nothing is written then.
        let console = Self(own.filter(|_| redirected.is_ok()));
        // Firmware leaves its last line open.
        console.line("");
        console
    }

    /// Writes one line.
    pub fn line(&self, text: &str) {
        if let Some(console) = &self.0 {
            // A console that is full or gone changes nothing.
            let _ = write_line(console, text);
        }
    }
}

fn write_line(mut console: &File, text: &str) -> io::Result<()> {
    console.write_all(format!("{text}\n").as_bytes())
}
