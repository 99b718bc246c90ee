//! The system calls that a server makes, each with what it is for. Measured with `strace -f -c` over a server that starts, loads a
//! sealed model, answers, streams, renews its documents and stops; a call that was not seen is here only with its reason.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

/// With which arguments a call is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// With any.
    Always,
    /// Memory that is not executable.
    NotExecutable,
    /// A thread of this process, no process.
    Thread,
    /// A socket of one of these families.
    Family(&'static [i32]),
    /// With one of these values in the argument of this place.
    OneOf(u8, &'static [i32]),
}

/// A call with its reason.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// Its number.
    pub call: c_long,
    /// Its name.
    pub name: &'static str,
    /// With which arguments.
    pub when: When,
    /// What it is for.
    pub why: &'static str,
}

macro_rules! calls {
    ($($why:literal: $($call:ident $(($when:expr))?),+;)+) => {
        &[$($(Allowed {
            call: libc::$call,
            name: stringify!($call),
            when: calls!(@ $($when)?),
            why: $why,
        }),+),+]
    };
    (@) => { When::Always };
    (@ $when:expr) => { $when };
}

/// Names of threads and of anonymous memory, and whether others may look; nothing else of `prctl`.
const PRCTL: &[i32] = &[libc::PR_SET_NAME, libc::PR_SET_VMA, libc::PR_GET_DUMPABLE];

/// Every call that is left, beside [`OLDER`]. The order is of no matter.
pub const ALLOWED: &[Allowed] = calls! {
    "files of the configuration, models and records":
        SYS_openat, SYS_close, SYS_read, SYS_write, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_lseek, SYS_fstat,
        SYS_newfstatat, SYS_statx, SYS_fsync, SYS_fdatasync, SYS_ftruncate, SYS_flock, SYS_getdents64, SYS_mkdirat, SYS_renameat2,
        SYS_unlinkat, SYS_fchmod, SYS_fcntl;
    "memory; never executable, so that nothing new can be run":
        SYS_mmap(When::NotExecutable), SYS_mprotect(When::NotExecutable), SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk;
    "threads": SYS_clone(When::Thread), SYS_clone3, SYS_futex, SYS_set_robust_list, SYS_rseq, SYS_exit, SYS_exit_group,
        SYS_gettid, SYS_getpid, SYS_sched_yield, SYS_sched_getaffinity, SYS_prctl(When::OneOf(0, PRCTL));
    "sockets of this machine's network, and pairs of sockets inside the process":
        SYS_socket(When::Family(&[libc::AF_INET])), SYS_socketpair(When::Family(&[libc::AF_UNIX])), SYS_bind, SYS_listen,
        SYS_accept4, SYS_connect, SYS_getsockname, SYS_getpeername, SYS_setsockopt, SYS_getsockopt, SYS_sendto,
        SYS_recvfrom, SYS_shutdown, SYS_ioctl(When::OneOf(1, &[FIONBIO]));
    "waiting": SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_eventfd2, SYS_ppoll, SYS_pipe2, SYS_nanosleep,
        SYS_clock_nanosleep, SYS_restart_syscall;
    "time and randomness, where the kernel does not give them without a call":
        SYS_clock_gettime, SYS_gettimeofday, SYS_getrandom;
    "signals of its own": SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_tgkill;
    "what it is and how much it may take": SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_prlimit64, SYS_uname;
};

/// The same by names that only older architectures have, and that the C library takes there.
#[cfg(target_arch = "x86_64")]
pub const OLDER: &[Allowed] = calls! {
    "files": SYS_mkdir, SYS_rename, SYS_unlink, SYS_stat, SYS_access;
    "waiting": SYS_epoll_wait, SYS_poll;
};
/// None here.
#[cfg(not(target_arch = "x86_64"))]
pub const OLDER: &[Allowed] = &[];

/// A socket that does not block. The number is the same on every architecture of ours.
const FIONBIO: i32 = 0x5421;

/// [`ALLOWED`] as the filter wants it.
pub(super) fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules = BTreeMap::new();
    for allowed in ALLOWED.iter().chain(OLDER) {
        rules.insert(allowed.call, conditions(allowed.when)?);
    }
    Ok(rules)
}

fn conditions(when: When) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |place, operator, value: i32| {
        let (length, value) = (SeccompCmpArgLen::Dword, u64::from(value.unsigned_abs()));
        let condition = SeccompCondition::new(place, length, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    let any = |place, values: &[i32]| {
        let rules = values
            .iter()
            .map(|value| rule(place, SeccompCmpOp::Eq, *value));
        rules.collect::<Result<Vec<_>, _>>()
    };
    match when {
        When::Always => Ok(Vec::new()),
        When::NotExecutable => {
            let bits = u64::from(libc::PROT_EXEC.unsigned_abs());
            Ok(vec![rule(2, SeccompCmpOp::MaskedEq(bits), 0)?])
        }
        When::Thread => {
            let bits = u64::from(libc::CLONE_THREAD.unsigned_abs());
            Ok(vec![rule(
                0,
                SeccompCmpOp::MaskedEq(bits),
                libc::CLONE_THREAD,
            )?])
        }
        When::Family(families) => any(0, families),
        When::OneOf(place, values) => any(place, values),
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_allowed_that_makes_a_process_loads_code_or_looks_into_another() {
        for forbidden in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_open_tree,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_kexec_load,
            libc::SYS_kexec_file_load,
            libc::SYS_reboot,
            libc::SYS_setuid,
            libc::SYS_setresuid,
            libc::SYS_capset,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_memfd_create,
            libc::SYS_memfd_secret,
            libc::SYS_pkey_mprotect,
            libc::SYS_shmat,
            libc::SYS_iopl,
            libc::SYS_ioperm,
            libc::SYS_mknod,
            libc::SYS_mknodat,
            libc::SYS_symlink,
            libc::SYS_link,
            libc::SYS_swapon,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_personality,
            libc::SYS_seccomp,
            libc::SYS_syslog,
            libc::SYS_chmod,
            libc::SYS_chown,
            libc::SYS_open_by_handle_at,
            libc::SYS_name_to_handle_at,
            libc::SYS_sendfile,
            libc::SYS_splice,
        ] {
            assert!(
                ALLOWED
                    .iter()
                    .chain(OLDER)
                    .all(|allowed| allowed.call != forbidden),
                "{forbidden}"
            );
        }
    }

    #[test]
    fn every_call_stands_there_once_and_becomes_a_rule() {
        let all = ALLOWED.len() + OLDER.len();
        assert_eq!(rules().unwrap().len(), all);
        assert!(all <= 90, "{all}");
        let bounded = |name: &str| {
            let allowed = ALLOWED.iter().find(|allowed| allowed.name == name);
            allowed.is_some_and(|allowed| allowed.when != When::Always)
        };
        for name in [
            "SYS_mmap",
            "SYS_mprotect",
            "SYS_clone",
            "SYS_socket",
            "SYS_socketpair",
            "SYS_ioctl",
            "SYS_prctl",
        ] {
            assert!(bounded(name), "{name}");
        }
    }
}
