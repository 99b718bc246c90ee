//! What a closed process must not be able to do, tried. Each try that succeeds is a FAIL; one that cannot be made here is a SKIP.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use casemate_client::report::Outcome;
use rustix::net::{AddressFamily, SocketType};

use super::Finding;

/// What the process was left with, so that something else is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The port that it may listen on.
    pub listen: u16,
    /// The port that it may connect to.
    pub connect: u16,
}

/// Tries everything. Call it in a process of its own that was closed as the server is; it ends afterwards.
#[must_use]
pub fn probes(target: Target) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend([
        refused("try.process", "another program", start_program()),
        refused("try.mount", "a file system", mount()),
        refused("try.module", "a module of the kernel", module()),
        refused(
            "try.trace",
            "being traced",
            nix::sys::ptrace::traceme().map_err(io::Error::from),
        ),
        refused("try.namespace", "a namespace", namespace()),
        refused(
            "try.user",
            "another user",
            rustix::thread::set_thread_uid(rustix::fs::Uid::ROOT).map_err(io::Error::from),
        ),
        refused(
            "try.executable_memory",
            "memory that can be written and run",
            executable_memory(),
        ),
        refused("try.restart", "a restart", restart()),
    ]);
    found.extend(files());
    found.extend(sockets(target));
    found.push(core_dumps());
    found
}

/// The error of a try that was refused, in words.
fn refused<T>(id: &str, what: &str, tried: io::Result<T>) -> Finding {
    match tried {
        Ok(_) => Finding::of(false, id, format!("{what}: possible")),
        Err(error) if is_refusal(&error) => Finding::of(true, id, format!("{what}: {error}")),
        Err(error) => Finding::new(Outcome::Skip, id, format!("{what}: not tried, {error}")),
    }
}

/// Errors by which a kernel says no. That something is not there is no refusal, and asked for by [`absent_or_refused`].
fn is_refusal(error: &io::Error) -> bool {
    let raw = error.raw_os_error();
    error.kind() == io::ErrorKind::PermissionDenied
        || error.kind() == io::ErrorKind::ReadOnlyFilesystem
        || raw == Some(libc::ENOSYS)
        || raw == Some(libc::EAFNOSUPPORT)
}

fn absent_or_refused<T>(id: &str, what: &str, tried: io::Result<T>) -> Finding {
    match tried {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound)
                || matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) =>
        {
            Finding::of(true, id, format!("{what}: not there"))
        }
        tried => refused(id, what, tried),
    }
}

fn start_program() -> io::Result<()> {
    let own = Path::new("/proc/self/exe");
    let mut child = Command::new(own)
        .arg("--version")
        .env_clear()
        // What it has open already: opening something could be refused instead.
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .spawn()?;
    child.wait().map(|_| ())
}

fn mount() -> io::Result<()> {
    let flags = rustix::mount::MountFlags::NOSUID;
    Ok(rustix::mount::mount("none", "/tmp", "tmpfs", flags, None)?)
}

fn module() -> io::Result<()> {
    // No module at all: a kernel that takes modules looks at it, and finds that.
    match rustix::system::init_module(b"no module", c"") {
        Err(rustix::io::Errno::NOEXEC) => Ok(()),
        tried => Ok(tried?),
    }
}

fn namespace() -> io::Result<()> {
    let user = nix::sched::CloneFlags::CLONE_NEWUSER;
    nix::sched::unshare(user).map_err(io::Error::from)
}

fn executable_memory() -> io::Result<()> {
    match region::alloc(1, region::Protection::READ_WRITE_EXECUTE) {
        Ok(_) => Ok(()),
        Err(region::Error::SystemCall(error)) => Err(io::Error::from_raw_os_error(error)),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

fn restart() -> io::Result<()> {
    // The mildest of its commands: keys do not restart the machine.
    Ok(rustix::system::reboot(
        rustix::system::RebootCommand::CadOff,
    )?)
}

/// Files that are not for a server.
fn files() -> Vec<Finding> {
    let read = |path: &str| File::open(path).map(|_| ());
    let write = |path: &str| OpenOptions::new().append(true).open(path).map(|_| ());
    let made = |path: &str| {
        let tried = File::create_new(path);
        if tried.is_ok() {
            // Whoever could make it can remove it.
            let _ = fs::remove_file(path);
        }
        tried.map(|_| ())
    };
    vec![
        absent_or_refused(
            "try.memory_device",
            "the machine's memory",
            read("/dev/mem"),
        ),
        absent_or_refused(
            "try.kernel_memory",
            "the kernel's memory",
            read("/proc/kcore"),
        ),
        absent_or_refused(
            "try.first_process",
            "the first process's memory",
            read("/proc/1/mem"),
        ),
        refused(
            "try.own_memory",
            "its memory as a file",
            OpenOptions::new()
                .write(true)
                .open("/proc/self/mem")
                .map(|_| ()),
        ),
        absent_or_refused("try.kernel_log", "the kernel's log", read("/dev/kmsg")),
        absent_or_refused("try.tpm", "the TPM", write("/dev/tpmrm0")),
        absent_or_refused(
            "try.tsm",
            "the security processor",
            fs::create_dir("/sys/kernel/config/tsm/report/doctor"),
        ),
        refused(
            "try.switches",
            "a switch of the kernel",
            write("/proc/sys/kernel/core_pattern"),
        ),
        refused(
            "try.system",
            "a file of the system",
            made("/etc/casemate-doctor"),
        ),
        refused(
            "try.temporary",
            "a file outside of its folder",
            made("/tmp/casemate-doctor"),
        ),
    ]
}

fn sockets(target: Target) -> Vec<Finding> {
    let open = |family, kind| rustix::net::socket(family, kind, None).map_err(io::Error::from);
    let other = |port: u16| if port == 9 { 10 } else { 9 };
    let here = |port| SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    // Above the ports that need rights, so that it is Landlock that says no.
    let port = if target.listen == 20_009 {
        20_010
    } else {
        20_009
    };
    let second = Duration::from_secs(1);
    vec![
        refused(
            "try.packets",
            "packets of the network",
            open(AddressFamily::PACKET, SocketType::RAW),
        ),
        refused(
            "try.raw",
            "raw sockets",
            rustix::net::socket(
                AddressFamily::INET,
                SocketType::RAW,
                Some(rustix::net::ipproto::ICMP),
            )
            .map_err(io::Error::from),
        ),
        refused(
            "try.ipv6",
            "another protocol",
            open(AddressFamily::INET6, SocketType::STREAM),
        ),
        refused(
            "try.routes",
            "the routing tables",
            open(AddressFamily::NETLINK, SocketType::RAW),
        ),
        refused(
            "try.listen",
            "listening elsewhere",
            TcpListener::bind(here(port)),
        ),
        refused(
            "try.connect",
            "connecting elsewhere",
            TcpStream::connect_timeout(&here(other(target.connect)), second),
        ),
    ]
}

fn core_dumps() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
    let dumpable = rustix::process::dumpable_behavior();
    let none = limit.current == Some(0) && limit.maximum == Some(0);
    let kept = matches!(dumpable, Ok(rustix::process::DumpableBehavior::NotDumpable));
    let id = "process.core_dumps";
    match (none, kept) {
        (true, true) => Finding::of(true, id, "none, and nobody may look"),
        _ => Finding::of(false, id, "its memory can be written to a disk"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_process_is_told_as_open() {
        let found = core_dumps();
        assert_eq!(found.id, "process.core_dumps");
        assert_eq!(
            found.outcome,
            Outcome::Fail,
            "this process was not closed: {found}"
        );
    }

    #[test]
    fn only_a_refusal_is_a_pass() {
        let from = |raw| Err::<(), _>(io::Error::from_raw_os_error(raw));
        for (raw, outcome) in [
            (libc::EPERM, Outcome::Pass),
            (libc::EACCES, Outcome::Pass),
            (libc::ENOSYS, Outcome::Pass),
            (libc::EROFS, Outcome::Pass),
            (libc::ENOENT, Outcome::Skip),
            (libc::ENOEXEC, Outcome::Skip),
            (libc::ECONNREFUSED, Outcome::Skip),
            (libc::ENOMEM, Outcome::Skip),
        ] {
            assert_eq!(refused("try.x", "x", from(raw)).outcome, outcome, "{raw}");
        }
        assert_eq!(refused("try.x", "x", Ok(())).outcome, Outcome::Fail);
        assert_eq!(
            absent_or_refused("try.x", "x", from(libc::ENOENT)).outcome,
            Outcome::Pass
        );
        assert_eq!(
            absent_or_refused("try.x", "x", from(libc::EIO)).outcome,
            Outcome::Skip
        );
    }
}
