//! The kernel's command line: measured, and yet reviewed. What would open the machine is refused even if somebody measured it.

use crate::failure::{Failure, What};

/// Words that an image may have: alone, or up to and with the `=`. Firmware adds `initrd=` itself.
const ALLOWED: [&str; 12] = [
    "panic=",
    "quiet",
    "lockdown=",
    "console=",
    "initrd=",
    "acpi_no_static_ssdt",
    "random.trust_cpu=on",
    "random.trust_bootloader=off",
    "init_on_alloc=1",
    "init_on_free=1",
    "swiotlb=",
    "loglevel=",
];
/// Longest command line of this architecture (`COMMAND_LINE_SIZE`).
pub const BYTES_MAX: usize = 2048;

/// A command line that was reviewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandLine {
    /// Whether somebody is meant to read the console. Only an image that was made for looking at has one, and it measures otherwise.
    pub debug: bool,
}

/// Whether the console may be written to, before anything was reviewed.
pub fn has_console(text: &str) -> bool {
    text.split_ascii_whitespace()
        .any(|word| word.starts_with("console="))
}

/// Reviews what the kernel was started with.
///
/// # Errors
/// [`What::Config`], with the word that may not stand there or is missing.
pub fn review(text: &str) -> Result<CommandLine, Failure> {
    let wrong = |found: String| {
        let hint = "build the image with: panic=-1 quiet lockdown=confidentiality";
        Failure::new(What::Config, format!("kernel command line: {found}"), hint)
    };
    if text.len() > BYTES_MAX
        || !text
            .bytes()
            .all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte))
    {
        return Err(wrong("is not printable or too long".into()));
    }
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let allowed = |word: &&&str| {
        ALLOWED.iter().any(|known| match known.ends_with('=') {
            true => word.len() > known.len() && word.starts_with(known),
            false => **word == *known,
        })
    };
    if let Some(word) = words.iter().find(|word| !allowed(word)) {
        return Err(wrong(format!("{word} may not stand there")));
    }
    for name in ["panic", "lockdown"] {
        let of_name = |word: &&&str| word.split('=').next() == Some(name);
        if words.iter().filter(of_name).count() > 1 {
            return Err(wrong(format!("{name} stands there twice")));
        }
    }
    for needed in ["panic=-1", "lockdown=confidentiality"] {
        if !words.contains(&needed) {
            return Err(wrong(format!("{needed} is missing")));
        }
    }
    Ok(CommandLine {
        debug: has_console(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCTION: &str = "panic=-1 quiet lockdown=confidentiality\n";

    #[test]
    fn the_images_own_lines_pass_and_a_console_makes_a_debug_image() {
        assert_eq!(review(PRODUCTION), Ok(CommandLine { debug: false }));
        for firmware in [
            "initrd=initrd panic=-1 quiet lockdown=confidentiality",
            "panic=-1 quiet lockdown=confidentiality initrd=initrd",
        ] {
            assert_eq!(review(firmware), Ok(CommandLine { debug: false }));
        }
        let debug = format!("{} console=ttyS0", PRODUCTION.trim());
        assert_eq!(review(&debug), Ok(CommandLine { debug: true }));
    }

    #[test]
    fn b20_what_opens_the_machine_is_refused_by_name() {
        for word in [
            "init=/bin/sh",
            "rdinit=/x",
            "module.sig_enforce=0",
            "mitigations=off",
            "nokaslr",
            "iomem=relaxed",
            "debug",
            "single",
            "earlyprintk=serial",
            "LD_PRELOAD=/tmp/x.so",
            "ima_policy=tcb",
            "mem=1G",
            "acpi=off",
            "panic=0",
            "lockdown=none",
            "efi=debug",
            "random.trust_cpu=off",
            "kgdboc=ttyS0",
            "memmap=1G!4G",
            "initrd=",
            "--",
            "serve",
        ] {
            let text = format!("{} {word}", PRODUCTION.trim());
            let failure = review(&text).unwrap_err();
            assert_eq!(failure.what(), What::Config);
        }
        for text in [
            "",
            "quiet",
            "panic=-1 quiet",
            "quiet lockdown=confidentiality",
            "panic=-1 quiet lockdown=integrity",
            "panic=-1 lockdown=confidentiality \u{1}",
        ] {
            assert!(review(text).is_err(), "{text}");
        }
        assert!(
            review(&format!(
                "{} loglevel={}",
                PRODUCTION.trim(),
                "x".repeat(3000)
            ))
            .is_err()
        );
    }
}
