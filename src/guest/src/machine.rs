//! What the host built around the processor, as the kernel lists it. All of it is the host's word: names are bounded and printed
//! as plain text, and only the devices that an image needs keep a driver.
//!
//! Reads a tree of files, so that tests can stand in for `/sys` and `/proc`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, What, one_line};

/// Kinds of virtio devices (Virtual I/O Device 1.2, 5).
const NETWORK: u32 = 1;
const BLOCK: u32 = 2;
/// Drivers that a PCI device may keep: virtio itself, and bridges, which move no data of their own.
const PCI_DRIVERS: [&str; 3] = ["virtio-pci", "pcieport", "shpchp"];
/// More devices of one bus than any image has.
const DEVICES_MAX: usize = 256;
/// Disks that are looked at: those of the configuration may stand between others.
const DISKS_MAX: usize = 16;
/// Longest attribute that is read.
const ATTRIBUTE_BYTES_MAX: u64 = 4096;
/// Less memory than this holds no kernel, program and model.
const MEMORY_BYTES_MIN: u64 = 96 << 20;

/// A file system that the kernel writes, or a test.
#[derive(Debug, Clone)]
pub struct Tree(PathBuf);

impl Tree {
    /// The machine's own, or a folder that stands in for it.
    pub fn at(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// A path in it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// A short attribute as trimmed text; whatever the host put into it is no more than one printable line.
    pub fn attribute(&self, path: &str) -> io::Result<String> {
        Ok(one_line(&self.text(path, ATTRIBUTE_BYTES_MAX)?, 256))
    }

    /// A file of at most `most` bytes.
    pub fn text(&self, path: &str, most: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(self.path(path))?
            .take(most.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Writes an attribute with one call.
    pub fn write(&self, path: &str, text: &str) -> io::Result<()> {
        fs::write(self.path(path), text)
    }

    /// Names in a folder, sorted; none where there is no such folder.
    pub fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            if names.len() >= DEVICES_MAX {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// The last part of where a link leads.
    fn link(&self, path: &str) -> Option<String> {
        let leads = fs::read_link(self.path(path)).ok()?;
        Some(leads.file_name()?.to_string_lossy().into_owned())
    }
}

fn unlisted(what: &str, error: &io::Error) -> Failure {
    let hint = "start the machine with the devices that docs/formats/guest.md names";
    Failure::new(
        What::Devices,
        format!("{what} cannot be listed: {error}"),
        hint,
    )
}

/// Takes the driver from every device that an image does not need. Called before the image's own modules are loaded, so that
/// those bind nothing by themselves either: see [`bind`].
///
/// # Errors
/// [`What::Devices`] where a device keeps a driver that it should not have.
pub fn release_others(tree: &Tree) -> Result<Vec<String>, Failure> {
    let mut released = Vec::new();
    let virtio = "/sys/bus/virtio/drivers_autoprobe";
    if tree.path(virtio).exists() {
        tree.write(virtio, "0")
            .map_err(|error| unlisted(virtio, &error))?;
    }
    for bus in ["pci", "virtio"] {
        let folder = format!("/sys/bus/{bus}/devices");
        for device in tree
            .names(&folder)
            .map_err(|error| unlisted(&folder, &error))?
        {
            let Some(driver) = tree.link(&format!("{folder}/{device}/driver")) else {
                continue;
            };
            if bus == "pci" && PCI_DRIVERS.contains(&driver.as_str()) {
                continue;
            }
            let device = one_line(&device, 64);
            let unbind = format!("/sys/bus/{bus}/drivers/{driver}/unbind");
            tree.write(&unbind, &device).map_err(|error| {
                let found = format!("{bus} device {device} keeps its driver {driver}: {error}");
                Failure::new(What::Devices, found, "start the machine without it")
            })?;
            released.push(format!("{bus} {device} ({driver})"));
        }
    }
    Ok(released)
}

/// Gives their drivers to the network device and the disks, and to no other virtio device.
///
/// # Errors
/// [`What::Network`] without exactly one network device, [`What::Disk`] without a disk, [`What::Devices`] with more disks than any
/// image has.
pub fn bind(tree: &Tree) -> Result<(), Failure> {
    let folder = "/sys/bus/virtio/devices";
    let (mut networks, mut disks) = (Vec::new(), Vec::new());
    for device in tree
        .names(folder)
        .map_err(|error| unlisted(folder, &error))?
    {
        let kind = tree.attribute(&format!("{folder}/{device}/device"));
        match kind.ok().and_then(|kind| number(&kind)) {
            Some(NETWORK) => networks.push(device),
            Some(BLOCK) => disks.push(device),
            _ => {}
        }
    }
    if networks.len() != 1 {
        let found = format!("{} virtio network devices are there", networks.len());
        let hint = "start the machine with exactly one: -device virtio-net-pci";
        return Err(Failure::new(What::Network, found, hint));
    }
    if disks.is_empty() {
        let hint = "start the machine with the model's disk: -device virtio-blk-pci,serial=NAME";
        return Err(Failure::new(What::Disk, "no virtio disk is there", hint));
    }
    if disks.len() > DISKS_MAX {
        let found = format!("{} virtio disks are there", disks.len());
        return Err(Failure::new(
            What::Devices,
            found,
            format!("start the machine with at most {DISKS_MAX}"),
        ));
    }
    for (what, driver, devices) in [
        (What::Network, "virtio_net", networks),
        (What::Disk, "virtio_blk", disks),
    ] {
        for device in devices {
            let to = format!("/sys/bus/virtio/drivers/{driver}/bind");
            tree.write(&to, &device).map_err(|error| {
                let found = format!("{driver} does not take {device}: {error}");
                Failure::new(
                    what,
                    found,
                    "have the module in the image, and the device as QEMU makes it",
                )
            })?;
        }
    }
    Ok(())
}

/// A number as sysfs writes identifiers.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Bytes of memory, and whether the processor has random numbers of its own.
///
/// # Errors
/// [`What::Memory`] for less than any image needs, [`What::Entropy`] where the kernel's numbers would come from the host alone.
pub fn check_processor_and_memory(tree: &Tree) -> Result<(), Failure> {
    let memory = meminfo(tree, "MemTotal:").unwrap_or(0);
    if memory < MEMORY_BYTES_MIN {
        let found = format!("the machine has {} MiB of memory", memory >> 20);
        let hint = format!(
            "give it {} MiB and what the model needs",
            MEMORY_BYTES_MIN >> 20
        );
        return Err(Failure::new(What::Memory, found, hint));
    }
    let about = tree.text("/proc/cpuinfo", 8 << 20).unwrap_or_default();
    let mut processors = about.lines().filter(|line| line.starts_with("flags"));
    let has = |line: &str| line.split_ascii_whitespace().any(|flag| flag == "rdrand");
    if !processors.next().is_some_and(has) || !processors.all(has) {
        let hint = "start the machine with a processor that has RDRAND, as -cpu EPYC-v4 or max";
        return Err(Failure::new(
            What::Entropy,
            "the processor has no random numbers of its own",
            hint,
        ));
    }
    Ok(())
}

/// Bytes that `/proc/meminfo` names.
pub fn meminfo(tree: &Tree, name: &str) -> Option<u64> {
    let text = tree.text("/proc/meminfo", 64 * 1024).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder like `/sys` and `/proc` of a machine with these virtio devices and these bound PCI devices.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new(virtio: &[(&str, &str)], pci: &[(&str, &str)]) -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(fake.tree().path("/sys/bus/virtio/devices")).unwrap();
            fake.put("/sys/bus/virtio/drivers_autoprobe", "1");
            for driver in ["virtio_net", "virtio_blk"] {
                fake.put(&format!("/sys/bus/virtio/drivers/{driver}/bind"), "");
            }
            for (device, kind) in virtio {
                fake.put(&format!("/sys/bus/virtio/devices/{device}/device"), kind);
            }
            for (device, driver) in pci {
                fake.driver("pci", device, driver);
            }
            fake
        }

        fn tree(&self) -> Tree {
            Tree::at(self.0.path())
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.tree().path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn driver(&self, bus: &str, device: &str, driver: &str) {
            self.put(&format!("/sys/bus/{bus}/drivers/{driver}/unbind"), "");
            let folder = self
                .tree()
                .path(&format!("/sys/bus/{bus}/devices/{device}"));
            fs::create_dir_all(&folder).unwrap();
            symlink(format!("../../drivers/{driver}"), folder.join("driver")).unwrap();
        }

        fn read(&self, path: &str) -> String {
            self.tree().attribute(path).unwrap()
        }
    }

    const NET_AND_DISK: [(&str, &str); 2] = [("virtio0", "0x0001\n"), ("virtio1", "0x0002\n")];

    #[test]
    fn b21_only_the_named_kinds_of_devices_get_a_driver() {
        let others = [
            ("virtio2", "0x0003"),
            ("virtio3", "0x0004"),
            ("virtio4", "0x0005"),
            ("virtio5", "0x0009"),
            ("virtio6", "0x0013"),
            ("virtio7", "0x001a"),
            ("virtio8", "no number"),
        ];
        let virtio: Vec<_> = NET_AND_DISK.into_iter().chain(others).collect();
        let fake = Fake::new(&virtio, &[]);
        assert_eq!(release_others(&fake.tree()).unwrap(), Vec::<String>::new());
        bind(&fake.tree()).unwrap();
        assert_eq!(fake.read("/sys/bus/virtio/drivers_autoprobe"), "0");
        assert_eq!(
            fake.read("/sys/bus/virtio/drivers/virtio_net/bind"),
            "virtio0"
        );
        assert_eq!(
            fake.read("/sys/bus/virtio/drivers/virtio_blk/bind"),
            "virtio1"
        );
        let bound = fake.tree().names("/sys/bus/virtio/drivers").unwrap();
        assert_eq!(
            bound,
            ["virtio_blk", "virtio_net"],
            "no other driver was written to"
        );
    }

    #[test]
    fn b21_a_device_that_was_added_loses_the_driver_that_the_kernel_brought() {
        let fake = Fake::new(
            &NET_AND_DISK,
            &[
                ("0000:00:01.0", "virtio-pci"),
                ("0000:00:02.0", "pcieport"),
                ("0000:00:1f.2", "ahci"),
                ("0000:00:09.0", "nvme"),
            ],
        );
        fake.driver("virtio", "virtio9", "virtio_console");
        let released = release_others(&fake.tree()).unwrap();
        assert_eq!(
            released,
            [
                "pci 0000:00:09.0 (nvme)",
                "pci 0000:00:1f.2 (ahci)",
                "virtio virtio9 (virtio_console)"
            ]
        );
        assert_eq!(
            fake.read("/sys/bus/pci/drivers/nvme/unbind"),
            "0000:00:09.0"
        );
        assert_eq!(fake.read("/sys/bus/pci/drivers/virtio-pci/unbind"), "");
        // One that cannot be taken away stops the machine.
        fs::remove_file(fake.tree().path("/sys/bus/pci/drivers/ahci/unbind")).unwrap();
        fs::create_dir(fake.tree().path("/sys/bus/pci/drivers/ahci/unbind")).unwrap();
        assert_eq!(
            release_others(&fake.tree()).unwrap_err().what(),
            What::Devices
        );
    }

    #[test]
    fn a_machine_with_other_devices_than_an_image_has_is_refused() {
        let without =
            |virtio: &[(&str, &str)]| bind(&Fake::new(virtio, &[]).tree()).unwrap_err().what();
        assert_eq!(without(&[]), What::Network);
        assert_eq!(without(&[("virtio1", "0x0002")]), What::Network);
        assert_eq!(
            without(&[
                ("virtio0", "0x0001"),
                ("virtio1", "0x0001"),
                ("virtio2", "0x0002")
            ]),
            What::Network
        );
        assert_eq!(without(&[("virtio0", "0x0001")]), What::Disk);
        let names: Vec<String> = (0..17).map(|it| format!("virtio{it}")).collect();
        let many: Vec<(&str, &str)> = names
            .iter()
            .map(|name| (name.as_str(), "0x0002"))
            .chain([("virtio99", "0x0001")])
            .collect();
        assert_eq!(without(&many), What::Devices);
        let endless: Vec<String> = (0..300).map(|it| format!("virtio{it}")).collect();
        let endless: Vec<(&str, &str)> = endless
            .iter()
            .map(|name| (name.as_str(), "0x0004"))
            .collect();
        assert_eq!(without(&endless), What::Devices);
    }

    #[test]
    fn too_little_memory_and_a_processor_without_random_numbers_are_told() {
        let fake = Fake::new(&[], &[]);
        let check = |memory: &str, flags: &str| {
            fake.put("/proc/meminfo", memory);
            fake.put("/proc/cpuinfo", flags);
            check_processor_and_memory(&fake.tree()).map_err(|failure| failure.what())
        };
        let enough = "MemTotal:         524288 kB\n";
        assert_eq!(
            check(enough, "flags\t\t: fpu rdrand\n\nflags\t\t: fpu rdrand\n"),
            Ok(())
        );
        assert_eq!(
            check("MemTotal:       65536 kB\n", "flags: rdrand\n"),
            Err(What::Memory)
        );
        assert_eq!(
            check("MemTotal:       nonsense\n", "flags: rdrand\n"),
            Err(What::Memory)
        );
        assert_eq!(check(enough, "flags: fpu\n"), Err(What::Entropy));
        assert_eq!(
            check(enough, "flags: rdrand\nflags: fpu\n"),
            Err(What::Entropy)
        );
        assert_eq!(check(enough, ""), Err(What::Entropy));
    }

    #[test]
    fn what_the_host_wrote_is_printed_as_one_plain_line() {
        let fake = Fake::new(&[], &[]);
        fake.put("/sys/block/vda/serial", "a\u{1b}[31m\nb");
        assert_eq!(fake.read("/sys/block/vda/serial"), "a?[31m b");
        fake.put("/sys/block/vda/serial", &"x".repeat(5000));
        assert!(fake.tree().attribute("/sys/block/vda/serial").is_err());
    }
}
