//! Disks by the serial that the configuration names, and what is seen of a package before any key is asked for.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use casemate::config::{DiskName, DiskSerial};
use casemate_models::package::{PackageError, SealedPackage};

use crate::failure::{Failure, What};
use crate::machine::{Tree, meminfo};

/// The user that serves.
pub const SERVER_ID: u32 = 65534;
/// Largest disk that is looked at, in sectors of 512 bytes: 16 TiB.
const SECTORS_MAX: u64 = 1 << 35;
/// Memory that is left for everything but the weights, in bytes.
const BESIDE_WEIGHTS: u64 = 64 << 20;

/// Finds each disk of the configuration. Returns its node below `/dev`.
///
/// # Errors
/// [`What::Disk`] for one that is missing, is there twice, or has a size that no disk has.
pub fn find(
    tree: &Tree,
    wanted: &BTreeMap<DiskName, DiskSerial>,
) -> Result<Vec<(DiskName, PathBuf)>, Failure> {
    let mut there = Vec::new();
    let names = tree.names("/sys/block").map_err(|error| {
        Failure::new(
            What::Disk,
            format!("disks cannot be listed: {error}"),
            "start the machine with fewer",
        )
    })?;
    // virtio's disks alone: `vd` and letters. Nothing else has a driver here.
    let is_virtio = |name: &str| {
        let letters = name.strip_prefix("vd").unwrap_or_default();
        !letters.is_empty() && letters.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    for name in names.into_iter().filter(|name| is_virtio(name)) {
        let serial = tree
            .attribute(&format!("/sys/block/{name}/serial"))
            .unwrap_or_default();
        there.push((name, serial));
    }
    let node = |serial: &DiskSerial| {
        let mut found = there.iter().filter(|(_, it)| it == serial.as_str());
        let (first, second) = (found.next(), found.next());
        match (first, second) {
            (Some((name, _)), None) => Ok(name.clone()),
            (Some(_), Some(_)) => {
                let found = format!("two disks have the serial {serial}");
                Err(Failure::new(
                    What::Disk,
                    found,
                    "start the machine with one of them",
                ))
            }
            (None, _) => {
                let list: Vec<&str> = there.iter().map(|(_, serial)| serial.as_str()).collect();
                let found = format!("no disk has the serial {serial}; there are: {list:?}");
                let hint =
                    "start the machine with -device virtio-blk-pci,serial=NAME as [disk] says";
                Err(Failure::new(What::Disk, found, hint))
            }
        }
    };
    let mut disks = Vec::new();
    for (name, serial) in wanted {
        let node = node(serial)?;
        let sectors = tree.attribute(&format!("/sys/block/{node}/size")).ok();
        let sectors: Option<u64> = sectors.and_then(|text| text.parse().ok());
        if !sectors.is_some_and(|sectors| (1..=SECTORS_MAX).contains(&sectors)) {
            let found = format!("disk {name} (serial {serial}) is empty, or larger than any disk");
            return Err(Failure::new(
                What::Disk,
                found,
                "give the machine the package as a raw disk",
            ));
        }
        disks.push((name.clone(), Path::new("/dev").join(node)));
    }
    Ok(disks)
}

/// Makes the disks visible by their names, and readable to the server alone.
///
/// # Errors
/// [`What::Disk`].
pub fn offer(disks: &[(DiskName, PathBuf)]) -> Result<(), Failure> {
    for (name, node) in disks {
        let done = std::fs::set_permissions(node, Permissions::from_mode(0o440))
            .and_then(|()| chown(node, Some(0), Some(SERVER_ID)))
            .and_then(|()| symlink(node, name.path()));
        done.map_err(|error| {
            let found = format!("disk {name} cannot be offered: {error}");
            Failure::new(What::Disk, found, "start the machine again")
        })?;
    }
    Ok(())
}

/// What can be said of a package without its key: that it is one, whole, and that its weights fit. Every byte is the host's.
///
/// # Errors
/// [`What::Package`] for what is no package, [`What::Memory`] for one that does not fit.
pub fn look(tree: &Tree, name: &DiskName, node: &Path) -> Result<(), Failure> {
    let package = SealedPackage::open(node).map_err(|error| refused(name, &error))?;
    let needed = package
        .header()
        .content_len()
        .saturating_add(BESIDE_WEIGHTS);
    let available = meminfo(tree, "MemAvailable:").unwrap_or(0);
    if needed > available {
        let found = format!(
            "disk {name}: its model needs {} MiB and {} MiB are free",
            needed >> 20,
            available >> 20
        );
        return Err(Failure::new(
            What::Memory,
            found,
            "give the machine more memory, or take a smaller model",
        ));
    }
    Ok(())
}

fn refused(name: &DiskName, error: &PackageError) -> Failure {
    let found = format!("disk {name}: {error}");
    let hint = "give the machine the file of `casemate model seal` as a raw disk, and check it with: casemate model verify";
    let is_read =
        matches!(error, PackageError::Read(error) if error.kind() != io::ErrorKind::UnexpectedEof);
    Failure::new(
        if is_read { What::Disk } else { What::Package },
        found,
        hint,
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use casemate_models::package::{Publisher, PublisherKey, SealOptions, seal};
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    fn wanted(of: &[(&str, &str)]) -> BTreeMap<DiskName, DiskSerial> {
        of.iter()
            .map(|(name, serial)| (name.parse().unwrap(), serial.parse().unwrap()))
            .collect()
    }

    fn machine(disks: &[(&str, &str, &str)]) -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().unwrap();
        for (name, serial, sectors) in disks {
            let disk = folder.path().join("sys/block").join(name);
            fs::create_dir_all(&disk).unwrap();
            fs::write(disk.join("serial"), serial).unwrap();
            fs::write(disk.join("size"), sectors).unwrap();
        }
        let tree = Tree::at(folder.path());
        (folder, tree)
    }

    #[test]
    fn disks_are_found_by_serial_whatever_their_order() {
        let (_folder, tree) = machine(&[
            ("vda", "other", "8"),
            ("vdb", "draft-1", "8"),
            ("vdc", "casemate-model", "2048"),
            ("loop0", "x", "8"),
            ("sda", "y", "8"),
        ]);
        let found = find(
            &tree,
            &wanted(&[("model", "casemate-model"), ("draft", "draft-1")]),
        )
        .unwrap();
        let found: Vec<String> = found
            .iter()
            .map(|(name, node)| format!("{name} {}", node.display()))
            .collect();
        assert_eq!(found, ["draft /dev/vdb", "model /dev/vdc"]);
    }

    #[test]
    fn a_disk_that_is_missing_doubled_empty_or_of_another_kind_is_refused() {
        let model = wanted(&[("model", "casemate-model")]);
        for disks in [
            vec![],
            vec![("vda", "casemate", "8")],
            vec![("vda", "casemate-model2", "8")],
            vec![
                ("vda", "casemate-model", "8"),
                ("vdb", "casemate-model", "8"),
            ],
            vec![("vda", "casemate-model", "0")],
            vec![("vda", "casemate-model", "-1")],
            vec![("vda", "casemate-model", "99999999999999999999")],
            vec![("vda", "casemate-model", "34359738369")],
            vec![("sda", "casemate-model", "8")],
            vec![("vd", "casemate-model", "8")],
            vec![("vda1", "casemate-model", "8")],
        ] {
            let (_folder, tree) = machine(&disks);
            assert_eq!(
                find(&tree, &model).unwrap_err().what(),
                What::Disk,
                "{disks:?}"
            );
        }
    }

    fn look_at(bytes: &[u8]) -> Failure {
        let folder = tempfile::tempdir().unwrap();
        let node = folder.path().join("vda");
        fs::write(&node, bytes).unwrap();
        look(&Tree::at(folder.path()), &"model".parse().unwrap(), &node).unwrap_err()
    }

    /// A LUKS2 header as `cryptsetup luksFormat` writes it, with the null cipher and a key slot that the host made.
    fn luks2() -> Vec<u8> {
        let mut disk = vec![0; 32 * 1024];
        disk[..8].copy_from_slice(b"LUKS\xba\xbe\x00\x02");
        disk[8..16].copy_from_slice(&16_384_u64.to_be_bytes());
        let json = br#"{"keyslots":{"0":{"type":"luks2","key_size":64,"area":{"type":"raw","encryption":"cipher_null-ecb"}}},"segments":{"0":{"type":"crypt","offset":"16384","size":"dynamic","encryption":"cipher_null-ecb"}},"digests":{}}"#;
        disk[4096..4096 + json.len()].copy_from_slice(json);
        disk
    }

    /// A dm-verity superblock (`verity\0\0`, version 1) with block sizes, a salt and a number of blocks of the host's choice.
    fn verity(blocks: u64, salt: u8) -> Vec<u8> {
        let mut disk = vec![0; 16 * 1024];
        disk[..8].copy_from_slice(b"verity\0\0");
        disk[8..12].copy_from_slice(&1_u32.to_le_bytes());
        disk[12..16].copy_from_slice(&1_u32.to_le_bytes());
        disk[32..38].copy_from_slice(b"sha256");
        disk[64..68].copy_from_slice(&4096_u32.to_le_bytes());
        disk[68..72].copy_from_slice(&4096_u32.to_le_bytes());
        disk[72..80].copy_from_slice(&blocks.to_le_bytes());
        disk[80..82].copy_from_slice(&32_u16.to_le_bytes());
        disk[88..120].fill(salt);
        disk
    }

    #[test]
    fn k01_a_luks_header_with_a_null_cipher_is_no_package() {
        let failure = look_at(&luks2());
        assert_eq!(failure.what(), What::Package);
        assert!(
            failure.to_string().contains("not a Casemate package"),
            "{failure}"
        );
    }

    #[test]
    fn k03_verity_parameters_of_the_host_are_not_read() {
        for (blocks, salt) in [(1, 0), (u64::MAX, 0), (4, 0xff)] {
            let failure = look_at(&verity(blocks, salt));
            assert_eq!(failure.what(), What::Package);
            assert!(
                failure.to_string().contains("not a Casemate package"),
                "{failure}"
            );
        }
    }

    /// The product's own small model, sealed into a folder under a key that nobody keeps.
    fn sealed(folder: &Path) -> PathBuf {
        let model = "../../models/default/casemate-default-Q8_0.gguf";
        let mut model = fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(model)).unwrap();
        let options = SealOptions {
            name: "default".into(),
            version: "1".into(),
            epoch: 1,
            key_id: "nobody".into(),
        };
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let publisher = Publisher {
            public_key: PublisherKey::from_bytes(key.public_key().as_ref().try_into().unwrap()),
            sign: &|message| key.sign(message).as_ref().try_into().unwrap(),
        };
        let node = folder.join("vda");
        seal(&mut model, &node, &options, &publisher, &|_| ()).unwrap();
        node
    }

    #[test]
    fn too_little_memory_is_told_in_numbers_before_any_key_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let node = sealed(folder.path());
        let content = SealedPackage::open(&node).unwrap().header().content_len();
        let needed_kib = (content + BESIDE_WEIGHTS).div_ceil(1024);
        let name: DiskName = "model".parse().unwrap();
        let look = |meminfo: &str| {
            fs::create_dir_all(folder.path().join("proc")).unwrap();
            fs::write(folder.path().join("proc/meminfo"), meminfo).unwrap();
            look(&Tree::at(folder.path()), &name, &node)
        };
        let free = |kib: u64| format!("MemTotal: 999999 kB\nMemAvailable:   {kib} kB\n");
        assert_eq!(look(&free(needed_kib)), Ok(()));
        let failure = look(&free(needed_kib - 1)).unwrap_err();
        assert_eq!(failure.what(), What::Memory);
        let failure = look(&free(10 * 1024)).unwrap_err().to_string();
        let numbers = format!(
            "its model needs {} MiB and 10 MiB are free",
            (content + BESIDE_WEIGHTS) >> 20
        );
        assert!(failure.contains(&numbers), "{failure}");
        // A kernel that does not say how much there is has none to give.
        assert_eq!(
            look("MemTotal: 999999 kB\n").unwrap_err().what(),
            What::Memory
        );
    }

    #[test]
    fn an_empty_disk_a_beginning_and_noise_are_no_package() {
        for bytes in [
            &b""[..],
            b"CASEMATE",
            b"CASEMATE\0\0\0\x01\xff\xff\xff\xff",
            &[0; 512],
            &[0xa5; 4096],
            b"GGUF\x03\0\0\0",
        ] {
            assert_eq!(look_at(bytes).what(), What::Package, "{bytes:?}");
        }
    }
}
