//! Switches of the kernel that an image sets before it serves, each with what it closes.

/// A switch below `/proc/sys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knob {
    /// Its name, as `kernel/modules_disabled`.
    pub name: &'static str,
    /// What is written, and must be read back.
    pub value: &'static str,
    /// What it closes.
    pub why: &'static str,
}

const fn knob(name: &'static str, value: &'static str, why: &'static str) -> Knob {
    Knob { name, value, why }
}

/// In the order in which they are set. Each stays as it is until the machine stops: nobody is left who may change it.
pub const SYSCTLS: &[Knob] = &[
    knob(
        "kernel/core_pattern",
        "|/nonexistent",
        "no core dump of any process",
    ),
    knob(
        "fs/suid_dumpable",
        "0",
        "no core dump of a process with other rights",
    ),
    knob("kernel/kexec_load_disabled", "1", "no other kernel"),
    knob("kernel/sysrq", "0", "no keys for the kernel"),
    knob("kernel/ctrl-alt-del", "0", "no restart by keys"),
    knob("kernel/dmesg_restrict", "1", "the kernel's log is root's"),
    knob("kernel/kptr_restrict", "2", "no addresses of the kernel"),
    knob("kernel/perf_event_paranoid", "3", "no counters"),
    knob(
        "kernel/unprivileged_bpf_disabled",
        "1",
        "no programs in the kernel",
    ),
    knob(
        "net/core/bpf_jit_harden",
        "2",
        "constants of such programs are blinded",
    ),
    knob(
        "kernel/io_uring_disabled",
        "2",
        "no second way to system calls",
    ),
    knob("kernel/yama/ptrace_scope", "3", "no process traces another"),
    knob(
        "user/max_user_namespaces",
        "0",
        "no namespaces with rights of their own",
    ),
    knob(
        "kernel/panic_on_oops",
        "1",
        "a kernel that is not sure of itself stops",
    ),
    knob(
        "kernel/randomize_va_space",
        "2",
        "addresses differ from start to start",
    ),
    knob(
        "fs/protected_symlinks",
        "1",
        "links in shared folders lead nowhere",
    ),
    knob("fs/protected_hardlinks", "1", "no links to files of others"),
    knob(
        "fs/protected_fifos",
        "2",
        "no pipes of others in shared folders",
    ),
    knob(
        "fs/protected_regular",
        "2",
        "no files of others in shared folders",
    ),
    knob("dev/tty/ldisc_autoload", "0", "no line disciplines"),
    knob(
        "vm/unprivileged_userfaultfd",
        "0",
        "no handling of page faults",
    ),
    knob("net/ipv6/conf/all/disable_ipv6", "1", "one protocol less"),
    knob(
        "net/ipv4/conf/all/accept_redirects",
        "0",
        "routes are not taken from the network",
    ),
    knob(
        "net/ipv4/conf/all/accept_source_route",
        "0",
        "senders choose no routes",
    ),
    knob(
        "net/ipv4/conf/all/rp_filter",
        "1",
        "answers leave where questions came in",
    ),
    knob("net/ipv4/ip_forward", "0", "no packets for others"),
    knob("kernel/modules_disabled", "1", "no module from here on"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_closed_last_and_every_switch_stands_there_once() {
        assert_eq!(SYSCTLS.last().unwrap().name, "kernel/modules_disabled");
        let names: std::collections::BTreeSet<_> = SYSCTLS.iter().map(|knob| knob.name).collect();
        assert_eq!(names.len(), SYSCTLS.len());
        assert!(
            names
                .iter()
                .all(|name| !name.contains("..") && !name.starts_with('/'))
        );
    }
}
