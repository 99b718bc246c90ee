//! QEMU's arguments for a machine: nothing by default, and only the devices that the guest binds.

use std::ffi::OsString;
use std::path::Path;

use super::machine::{Boot, Launch, Machine};

/// QEMU's arguments.
#[must_use]
pub fn arguments(machine: &Machine, launch: &Launch) -> Vec<OsString> {
    let mut it = Arguments(Vec::new());
    it.flags(&["-nodefaults", "-no-user-config", "-no-reboot"]);
    it.pair("-display", "none");
    it.pair("-serial", "stdio");
    it.pair("-cpu", &machine.cpu);
    it.pair("-smp", &machine.vcpus.to_string());
    it.pair("-m", &format!("{}M", machine.memory_mib));
    it.platform(machine);
    match machine.boot {
        Boot::Direct | Boot::Unified => it.pflash(launch),
        Boot::SnpTrial | Boot::Snp | Boot::Tdx => it.path("-bios", &launch.firmware),
    }
    if machine.boot == Boot::Unified {
        it.valued(
            "-drive",
            "if=none,id=boot,format=raw,readonly=on,file=fat:",
            &launch.boot_folder,
        );
        it.pair(
            "-device",
            "virtio-blk-pci,drive=boot,serial=boot,bootindex=0,romfile=",
        );
    } else {
        it.path("-kernel", &launch.kernel);
        it.path("-initrd", &launch.initrd);
        it.pair("-append", &launch.command_line);
    }
    if let Some((page, address)) = &launch.hash_page {
        let option = format!("loader,addr={address:#x},force-raw=on,file=");
        it.valued("-device", &option, page);
    }
    if machine.boot.has_tpm() {
        it.valued("-chardev", "socket,id=tpm,path=", &launch.tpm);
        it.pair("-tpmdev", "emulator,id=tpm0,chardev=tpm");
        it.pair("-device", "tpm-crb,tpmdev=tpm0");
    }
    it.devices(machine);
    it.0
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: &str) {
        self.flags(&[option, value]);
    }

    fn path(&mut self, option: &str, path: &Path) {
        self.0.extend([option.into(), path.into()]);
    }

    /// An option that ends with a path, in which QEMU wants a comma twice.
    fn valued(&mut self, option: &str, before: &str, path: &Path) {
        let path = path.to_string_lossy().replace(',', ",,");
        self.pair(option, &format!("{before}{path}"));
    }

    /// The board, and what makes it confidential.
    fn platform(&mut self, machine: &Machine) {
        let accelerator = &machine.accelerator;
        let memory = format!(
            "memory-backend-memfd,id=memory,size={}M,share=true",
            machine.memory_mib
        );
        match machine.boot {
            Boot::Direct | Boot::Unified | Boot::SnpTrial => {
                self.pair("-machine", &format!("q35,accel={accelerator}"));
            }
            Boot::Snp => {
                let board = "confidential-guest-support=snp,memory-backend=memory";
                self.pair("-machine", &format!("q35,accel={accelerator},{board}"));
                self.pair("-object", &memory);
                self.pair(
                    "-object",
                    "sev-snp-guest,id=snp,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on",
                );
            }
            Boot::Tdx => {
                let board =
                    "kernel-irqchip=split,confidential-guest-support=tdx,memory-backend=memory";
                self.pair("-machine", &format!("q35,accel={accelerator},{board}"));
                self.pair("-object", &memory);
                self.pair("-object", TDX);
            }
        }
    }

    fn pflash(&mut self, launch: &Launch) {
        self.valued(
            "-drive",
            "if=pflash,unit=0,format=raw,readonly=on,file=",
            &launch.firmware,
        );
        self.valued(
            "-drive",
            "if=pflash,unit=1,format=raw,file=",
            &launch.variables,
        );
    }

    fn devices(&mut self, machine: &Machine) {
        // Memory that a device may reach must be shared on purpose where processors encrypt it.
        let shared = if machine.boot.is_confidential() {
            ",disable-legacy=on,iommu_platform=true"
        } else {
            ""
        };
        if let Some((file, serial)) = &machine.disk {
            self.valued(
                "-drive",
                "if=none,id=model,format=raw,readonly=on,file=",
                file,
            );
            self.pair(
                "-device",
                &format!("virtio-blk-pci,drive=model,serial={serial},romfile={shared}"),
            );
        }
        let mut network = "user,id=network".to_owned();
        for forward in &machine.forwards {
            let (address, port) = (forward.host.ip(), forward.host.port());
            let address = match forward.host.is_ipv6() {
                true => format!("[{address}]"),
                false => address.to_string(),
            };
            network.push_str(&format!(",hostfwd=tcp:{address}:{port}-:{}", forward.guest));
        }
        self.pair("-netdev", &network);
        self.pair(
            "-device",
            &format!("virtio-net-pci,netdev=network,romfile={shared}"),
        );
    }
}

/// Quotes come from the service that listens on vsock port 4050 of the host.
const TDX: &str = r#"{"qom-type":"tdx-guest","id":"tdx","quote-generation-socket":{"type":"vsock","cid":"2","port":"4050"}}"#;

/// A command as a shell takes it, one option a line.
#[must_use]
pub fn shell(program: &str, arguments: &[OsString]) -> String {
    let mut text = quoted(program);
    for argument in arguments {
        let argument = argument.to_string_lossy();
        text.push_str(if argument.starts_with('-') {
            " \\\n  "
        } else {
            " "
        });
        text.push_str(&quoted(&argument));
    }
    text
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
