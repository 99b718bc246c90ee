//! The file systems of the machine: the kernel's own, and one in memory that can be written. The root becomes unchangeable.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use casemate::config::{DISKS, GUEST_WRITABLE};
use rustix::mount::{MountFlags, mount, mount_remount};

use crate::disk::SERVER_ID;
use crate::failure::{Failure, What};

/// A file system with what it may hold.
struct Wanted {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    data: Option<&'static std::ffi::CStr>,
}

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
const NO_DEVICES: MountFlags = PLAIN.union(MountFlags::NODEV);

/// Processes of others are not there for the one that serves.
const PROC: Wanted = Wanted {
    kind: "proc",
    target: "/proc",
    flags: NO_DEVICES,
    data: Some(c"hidepid=invisible"),
};
const REST: [Wanted; 4] = [
    Wanted {
        kind: "sysfs",
        target: "/sys",
        flags: NO_DEVICES,
        data: None,
    },
    Wanted {
        kind: "devtmpfs",
        target: "/dev",
        flags: PLAIN,
        data: Some(c"mode=0755"),
    },
    Wanted {
        kind: "securityfs",
        target: "/sys/kernel/security",
        flags: NO_DEVICES,
        data: None,
    },
    Wanted {
        kind: "tmpfs",
        target: "/run",
        flags: NO_DEVICES,
        data: Some(c"mode=0755,size=25%,nr_inodes=4096"),
    },
];
const CONFIGFS: Wanted = Wanted {
    kind: "configfs",
    target: "/sys/kernel/config",
    flags: NO_DEVICES,
    data: None,
};

impl Wanted {
    fn mount(&self) -> Result<(), Failure> {
        mount(self.kind, self.target, self.kind, self.flags, self.data)
            .map_err(|error| failed(self.target, &error.into()))
    }
}

fn failed(target: &str, error: &io::Error) -> Failure {
    let hint =
        "build the image with the folders /proc /sys /dev /run /tmp, on a kernel of 6.12 or newer";
    Failure::new(
        What::Config,
        format!("{target} cannot be mounted: {error}"),
        hint,
    )
}

/// What shows the command line; nothing can be told before.
pub fn proc() -> Result<(), Failure> {
    PROC.mount()
}

/// The others.
pub fn others() -> Result<(), Failure> {
    REST.iter().try_for_each(Wanted::mount)
}

/// The security processors' interface, once its module is there.
pub fn configfs() -> Result<(), Failure> {
    match Path::new(CONFIGFS.target).is_dir() {
        true => CONFIGFS.mount(),
        false => Ok(()),
    }
}

/// Makes the folder in which the server writes.
pub fn writable() -> Result<(), Failure> {
    let made = || {
        fs::create_dir(GUEST_WRITABLE)?;
        fs::create_dir(Path::new(GUEST_WRITABLE).join("state"))?;
        fs::create_dir(DISKS)?;
        for folder in [
            GUEST_WRITABLE.into(),
            Path::new(GUEST_WRITABLE).join("state"),
        ] {
            fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
            chown(&folder, Some(SERVER_ID), Some(SERVER_ID))?;
        }
        Ok(())
    };
    made().map_err(|error: io::Error| failed(GUEST_WRITABLE, &error))
}

/// Takes the modules away, which are in the kernel by now, and makes everything that came from the image unchangeable.
pub fn seal_root() -> Result<(), Failure> {
    let sealed = || {
        fs::remove_dir_all("/lib")?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        io::Result::Ok(mount_remount("/", flags, "")?)
    };
    sealed().map_err(|error| {
        Failure::new(
            What::Harden,
            format!("the root stays open: {error}"),
            "use a kernel of 6.12 or newer",
        )
    })
}
