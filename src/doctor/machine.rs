//! What the kernel says of the machine: switches, lockdown, mounts, and the rights of the process that reads.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use casemate_client::report::Outcome;

use super::Finding;
use crate::harden::SYSCTLS;

/// Longest file that is read here: the table of mounts.
const BYTES_MAX: u64 = 256 * 1024;

/// Every property that can be read.
pub(super) fn findings(root: &Path) -> Vec<Finding> {
    let mut found = vec![lockdown(root), acpi(root), root_mount(root)];
    found.extend(writable_mounts(root));
    found.extend(SYSCTLS.iter().map(|knob| {
        let id = format!("sysctl.{}", knob.name.replace('/', "."));
        match read(root, &format!("proc/sys/{}", knob.name)) {
            Ok(value) => {
                let text = format!("{} ({})", value.trim(), knob.why);
                Finding::of(value.trim() == knob.value, id, text)
            }
            Err(error) => missing(id, &error, knob.why),
        }
    }));
    found.extend(process(root));
    found
}

fn read(root: &Path, path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(root.join(path))?;
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What this process may not look at is no pass.
fn missing(id: impl Into<String>, error: &io::Error, what: &str) -> Finding {
    let outcome = match error.kind() {
        io::ErrorKind::PermissionDenied => Outcome::Skip,
        _ => Outcome::Fail,
    };
    Finding::new(outcome, id, format!("cannot be read: {error} ({what})"))
}

fn lockdown(root: &Path) -> Finding {
    let id = "kernel.lockdown";
    match read(root, "sys/kernel/security/lockdown") {
        Ok(text) => {
            let chosen = text
                .split_ascii_whitespace()
                .find(|word| word.starts_with('['));
            let chosen = chosen.unwrap_or("[none]");
            Finding::of(
                chosen == "[confidentiality]",
                id,
                chosen.trim_matches(['[', ']']),
            )
        }
        Err(error) => missing(
            id,
            &error,
            "no reading and no changing of the kernel's memory",
        ),
    }
}

/// Nothing here closes this: whoever reads the list should know (attestation/LIMITS.md).
fn acpi(root: &Path) -> Finding {
    let id = "kernel.acpi";
    match root.join("sys/firmware/acpi").try_exists() {
        Ok(true) => {}
        Ok(false) => {
            return Finding::of(
                true,
                id,
                "off: no code of the host's tables runs in the kernel",
            );
        }
        Err(error) => return missing(id, &error, "no code of the host's tables in the kernel"),
    }
    let line = read(root, "proc/cmdline").unwrap_or_default();
    let tables = match line
        .split_ascii_whitespace()
        .any(|word| word == "acpi_no_static_ssdt")
    {
        true => "; its additional tables (SSDT) are left out",
        false => "",
    };
    let text = format!(
        "code in the host's ACPI tables runs with the kernel's rights and reaches all memory, which no measurement of SEV-SNP covers{tables}: \
        attestation/LIMITS.md"
    );
    Finding::new(Outcome::Info, id, text)
}

/// A line of `/proc/self/mounts`.
struct Mount {
    target: String,
    kind: String,
    options: Vec<String>,
}

impl Mount {
    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|it| it == option)
    }
}

fn mounts(root: &Path) -> io::Result<Vec<Mount>> {
    let text = read(root, "proc/self/mounts")?;
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (target, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Mount {
            target: target.to_owned(),
            kind: kind.to_owned(),
            options: options.split(',').map(str::to_owned).collect(),
        })
    };
    Ok(text.lines().filter_map(mount).collect())
}

fn root_mount(root: &Path) -> Finding {
    let id = "mount.root";
    match mounts(root) {
        // The last one lies above the others.
        Ok(mounts) => match mounts.iter().rev().find(|mount| mount.target == "/") {
            Some(mount) => Finding::of(mount.has("ro"), id, mount.options.join(",")),
            None => Finding::of(false, id, "no root is mounted"),
        },
        Err(error) => missing(id, &error, "the system cannot be written"),
    }
}

/// What can be written holds no programs, no devices and no rights.
fn writable_mounts(root: &Path) -> Vec<Finding> {
    let Ok(mounts) = mounts(root) else {
        return Vec::new();
    };
    let writable = mounts
        .iter()
        .filter(|mount| mount.target != "/" && !mount.has("ro"));
    let finding = |mount: &Mount| {
        let nodev = mount.kind == "devtmpfs" || mount.has("nodev");
        let holds = mount.has("nosuid") && mount.has("noexec") && nodev;
        let text = format!("{} {}", mount.kind, mount.options.join(","));
        Finding::of(holds, format!("mount.{}", mount.target), text)
    };
    writable.map(finding).collect()
}

/// Rights of the process that reads.
fn process(root: &Path) -> Vec<Finding> {
    let status = match read(root, "proc/self/status") {
        Ok(status) => status,
        Err(error) => return vec![missing("process.status", &error, "its rights")],
    };
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    };
    let is = |id: &str, name: &str, right: &dyn Fn(&str) -> bool, what: &str| match field(name) {
        Some(value) => Finding::of(right(&value), id, format!("{value} ({what})")),
        None => Finding::of(false, id, format!("the kernel does not say ({what})")),
    };
    let zero = |value: &str| !value.is_empty() && value.bytes().all(|byte| byte == b'0');
    let unprivileged = |value: &str| {
        let mut ids = value.split_ascii_whitespace();
        ids.clone().count() == 4 && ids.all(|id| id == "65534")
    };
    let locked = |value: &str| {
        value
            .trim_end_matches(" kB")
            .parse()
            .is_ok_and(|kib: u64| kib > 0)
    };
    vec![
        is("process.user", "Uid", &unprivileged, "nobody"),
        is("process.group", "Gid", &unprivileged, "nogroup"),
        is(
            "process.groups",
            "Groups",
            &str::is_empty,
            "no other groups",
        ),
        is("process.capabilities", "CapEff", &zero, "no rights of root"),
        is(
            "process.capabilities_later",
            "CapPrm",
            &zero,
            "and none to take",
        ),
        is(
            "process.no_new_privileges",
            "NoNewPrivs",
            &|value| value == "1",
            "no program gives rights",
        ),
        is(
            "process.system_calls",
            "Seccomp",
            &|value| value == "2",
            "filtered",
        ),
        is(
            "process.memory_locked",
            "VmLck",
            &locked,
            "no page reaches a disk",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MOUNTS: &str = "rootfs / rootfs ro,nosuid,nodev,size=1k 0 0\nproc /proc proc rw,nosuid,nodev,noexec,relatime,hidepid=invisible 0 0\ndevtmpfs /dev devtmpfs rw,nosuid,noexec 0 0\ntmpfs /run tmpfs rw,nosuid,nodev,noexec 0 0\n";
    const STATUS: &str = "Name:\tinit\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nGroups:\t \nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nVmLck:\t    9000 kB\n";

    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new() -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            fake.put(
                "sys/kernel/security/lockdown",
                "none integrity [confidentiality]\n",
            );
            fake.put("proc/self/mounts", MOUNTS);
            fake.put("proc/self/status", STATUS);
            for knob in SYSCTLS {
                fake.put(
                    &format!("proc/sys/{}", knob.name),
                    &format!("{}\n", knob.value),
                );
            }
            fake
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn fails(&self) -> Vec<String> {
            let found = findings(self.0.path()).into_iter();
            found
                .filter(|it| it.outcome != Outcome::Pass)
                .map(|it| it.id)
                .collect()
        }
    }

    #[test]
    fn a_closed_machine_passes() {
        assert_eq!(Fake::new().fails(), Vec::<String>::new());
    }

    #[test]
    fn b21_what_the_hosts_acpi_code_can_do_is_said_and_is_no_pass() {
        let fake = Fake::new();
        fake.put("sys/firmware/acpi/pm_profile", "0\n");
        let said = |fake: &Fake| {
            let found = findings(fake.0.path()).into_iter();
            let found = found
                .filter(|it| it.id == "kernel.acpi")
                .collect::<Vec<_>>();
            assert!(
                found.len() == 1 && found[0].outcome == Outcome::Info,
                "{found:?}"
            );
            found[0].text.clone()
        };
        let text = said(&fake);
        for part in [
            "runs with the kernel's rights",
            "no measurement of SEV-SNP",
            "attestation/LIMITS.md",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("SSDT"));
        fake.put("proc/cmdline", "quiet acpi_no_static_ssdt\n");
        assert!(said(&fake).contains("additional tables (SSDT) are left out"));
    }

    #[test]
    fn each_property_that_does_not_hold_is_named() {
        for (path, text, id) in [
            (
                "sys/kernel/security/lockdown",
                "none [integrity] confidentiality",
                "kernel.lockdown",
            ),
            ("sys/kernel/security/lockdown", "", "kernel.lockdown"),
            (
                "proc/self/mounts",
                &MOUNTS.replace("rootfs ro", "rootfs rw"),
                "mount.root",
            ),
            (
                "proc/self/mounts",
                &format!("{MOUNTS}x / tmpfs rw 0 0\n"),
                "mount.root",
            ),
            (
                "proc/self/mounts",
                &MOUNTS.replace("rw,nosuid,nodev,noexec 0", "rw,nosuid,nodev 0"),
                "mount./run",
            ),
            (
                "proc/self/mounts",
                &MOUNTS.replace("devtmpfs rw,nosuid", "devtmpfs rw"),
                "mount./dev",
            ),
            (
                "proc/sys/kernel/modules_disabled",
                "0",
                "sysctl.kernel.modules_disabled",
            ),
            (
                "proc/sys/kernel/yama/ptrace_scope",
                "1",
                "sysctl.kernel.yama.ptrace_scope",
            ),
            (
                "proc/self/status",
                &STATUS.replace("Uid:\t65534\t65534\t65534", "Uid:\t0\t65534\t65534"),
                "process.user",
            ),
            (
                "proc/self/status",
                &STATUS.replace("Groups:\t ", "Groups:\t0 "),
                "process.groups",
            ),
            (
                "proc/self/status",
                &STATUS.replace("CapEff:\t00", "CapEff:\t01"),
                "process.capabilities",
            ),
            (
                "proc/self/status",
                &STATUS.replace("CapPrm:\t00", "CapPrm:\t01"),
                "process.capabilities_later",
            ),
            (
                "proc/self/status",
                &STATUS.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
                "process.no_new_privileges",
            ),
            (
                "proc/self/status",
                &STATUS.replace("Seccomp:\t2", "Seccomp:\t0"),
                "process.system_calls",
            ),
            (
                "proc/self/status",
                &STATUS.replace("    9000 kB", "       0 kB"),
                "process.memory_locked",
            ),
        ] {
            let fake = Fake::new();
            fake.put(path, text);
            assert_eq!(fake.fails(), [id], "{path}");
        }
        let fake = Fake::new();
        fs::remove_file(fake.0.path().join("proc/sys/kernel/sysrq")).unwrap();
        assert_eq!(fake.fails(), ["sysctl.kernel.sysrq"]);
    }
}
