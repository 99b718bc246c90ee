//! The guest's machine from the host's side: an image's folder, how QEMU and libvirt start it, and what the guest says.
//!
//! Nothing here is trusted by anybody: what the host starts is proven by measurement, and what it reads is the guest's to print.

mod console;
mod folder;
mod held;
mod libvirt;
mod machine;
mod qemu;
mod run;

pub use console::{Console, Failure, Said};
pub use folder::{Folder, FolderError};
pub use held::become_program;
pub use libvirt::domain;
pub use machine::{Boot, Forward, ForwardError, Launch, Machine};
pub use qemu::{arguments, shell};
pub use run::{Ended, Hardware, RunError, launch_as_printed, run};
