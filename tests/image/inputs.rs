//! `scripts/image-inputs` with an archive of our own: what is pinned is taken, also when only this machine still has it; what the archive
//! dropped is said aloud; and nothing that the archive's key did not sign comes in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casemate_image::sha256;
use tempfile::TempDir;

/// A package in the archive: release, name, version, and what it depends on.
type Package = (&'static str, &'static str, &'static str, &'static str);

const FIRST: [Package; 6] = [
    (
        "trixie",
        "linux-image-cloud-amd64",
        "6.12.1-1",
        "linux-image-6.12.1-cloud-amd64",
    ),
    ("trixie", "linux-image-6.12.1-cloud-amd64", "6.12.1-1", ""),
    ("trixie", "systemd-boot-efi", "257.1-1", ""),
    ("trixie", "ovmf", "2025.02-8", ""),
    ("sid", "ovmf-amdsev", "1:2026.08-2", ""),
    ("sid", "ovmf-generic", "1:2026.08-2", ""),
];
/// The archive later: a newer kernel, which is a package of another name, and a newer stub.
const LATER: [Package; 6] = [
    (
        "trixie",
        "linux-image-cloud-amd64",
        "6.12.2-1",
        "linux-image-6.12.2-cloud-amd64",
    ),
    ("trixie", "linux-image-6.12.2-cloud-amd64", "6.12.2-1", ""),
    ("trixie", "systemd-boot-efi", "257.2-1", ""),
    FIRST[3],
    FIRST[4],
    FIRST[5],
];
const KERNEL: &str = "linux-image-6.12.1-cloud-amd64_6.12.1-1_amd64.deb";
const NEWER_KERNEL: &str = "linux-image-6.12.2-cloud-amd64_6.12.2-1_amd64.deb";
const STUB: &str = "systemd-boot-efi_257.1-1_amd64.deb";
const FIRMWARE: &str = "ovmf-amdsev_1%3a2026.08-2_amd64.deb";

fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    let ended = command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(ended.status.success(), "{program} {arguments:?}: {ended:?}");
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("SKIP {program} is missing: the archive of this test wants it");
    }
    found
}

/// An archive, the folder of what was fetched, and its pins.
struct Archive(TempDir);

impl Archive {
    fn new() -> Option<Self> {
        if !["apt-get", "dpkg-deb", "gpg"].into_iter().all(has) {
            return None;
        }
        let archive = Self(tempfile::tempdir().unwrap());
        fs::write(archive.path("pins"), "").unwrap();
        archive.key("archive");
        archive.holds(&FIRST, "archive");
        Some(archive)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A key that signs, with its public half in a file of its name.
    fn key(&self, name: &str) {
        let home = self.path(&format!("{name}.home"));
        fs::create_dir(&home).unwrap();
        run("chmod", &["700", home.to_str().unwrap()]);
        let home = ["--homedir", home.to_str().unwrap(), "--batch", "--quiet"];
        let made = [
            "--passphrase",
            "",
            "--quick-gen-key",
            name,
            "ed25519",
            "sign",
            "never",
        ];
        run("gpg", &[&home[..], &made].concat());
        let file = self.path(name);
        run(
            "gpg",
            &[&home[..], &["--output", file.to_str().unwrap(), "--export"]].concat(),
        );
    }

    /// Makes the archive anew, of these packages alone, signed with this key.
    fn holds(&self, packages: &[Package], key: &str) {
        let root = self.path("debian");
        let _ = fs::remove_dir_all(&root);
        for release in ["trixie", "sid"] {
            let index: String = packages
                .iter()
                .filter(|package| package.0 == release)
                .map(|package| entry(&root, package))
                .collect();
            let folder = root.join("dists").join(release);
            fs::create_dir_all(folder.join("main/binary-amd64")).unwrap();
            fs::write(folder.join("main/binary-amd64/Packages"), &index).unwrap();
            let (digest, length) = (sha256(index.as_bytes()), index.len());
            let text = format!(
                "Suite: {release}\nCodename: {release}\nDate: Fri, 27 Nov 2026 12:00:00 UTC\nArchitectures: amd64\nComponents: main\n\
                SHA256:\n {digest} {length} main/binary-amd64/Packages\n"
            );
            fs::write(folder.join("Release"), text).unwrap();
            let home = self.path(&format!("{key}.home"));
            let (home, out) = (home.to_str().unwrap(), folder.join("InRelease"));
            let signed = ["--output", out.to_str().unwrap(), "--clearsign"];
            let text = folder.join("Release");
            let gpg = ["--homedir", home, "--batch", "--quiet"];
            run(
                "gpg",
                &[&gpg[..], &signed, &[text.to_str().unwrap()]].concat(),
            );
        }
    }

    /// Runs the script. Returns what it says.
    fn fetch(&self, more: &[&str]) -> String {
        let mut command = Command::new("scripts/image-inputs");
        let (uri, folder) = (
            format!("file:{}", self.path("debian").display()),
            self.path("inputs"),
        );
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(more)
            .args(["--archive", &uri])
            .args([self.path("archive"), folder, self.path("pins")]);
        let ended = command.output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        String::from_utf8(ended.stdout).unwrap()
    }

    fn fetched(&self, name: &str) -> PathBuf {
        self.path("inputs").join(name)
    }

    /// Names that were fetched, each of which is what the list beside them says.
    fn listed(&self) -> Vec<String> {
        let list = fs::read_to_string(self.fetched("pins")).unwrap();
        let mut names = Vec::new();
        for line in list.lines().filter(|line| !line.starts_with('#')) {
            let (digest, name) = line.split_once("  ").unwrap();
            assert_eq!(
                digest,
                sha256(&fs::read(self.fetched(name)).unwrap()),
                "{name}"
            );
            names.push(name.to_owned());
        }
        names
    }
}

/// Agents of the keys wait for more to sign.
impl Drop for Archive {
    fn drop(&mut self) {
        for key in ["archive", "stranger"] {
            let home = self.path(&format!("{key}.home"));
            let mut command = Command::new("gpgconf");
            let _ = command
                .arg("--homedir")
                .arg(home)
                .args(["--kill", "all"])
                .output();
        }
    }
}

/// Puts a package's file into the archive, and says what its index has about it. Nobody unpacks it here.
fn entry(root: &Path, (release, name, version, depends): &Package) -> String {
    let bytes = format!("{release} {name} {version}");
    // Names of files in an archive have no epoch; names that apt gives have it.
    let plain = version.split_once(':').map_or(*version, |(_, plain)| plain);
    let place = format!("pool/{name}_{plain}_amd64.deb");
    let file = root.join(&place);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, &bytes).unwrap();
    let (length, digest) = (bytes.len(), sha256(bytes.as_bytes()));
    let depends = match depends.is_empty() {
        true => String::new(),
        false => format!("Depends: {depends}\n"),
    };
    format!(
        "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody\n{depends}Filename: {place}\nSize: {length}\n\
        SHA256: {digest}\nDescription: nothing\n\n"
    )
}

/// The archive has nothing newer, or this machine has what it dropped.
fn what_is_pinned_is_taken(archive: &Archive, first: &[String]) {
    // A file that is lost or altered here is fetched again while the archive has it.
    fs::remove_file(archive.fetched(STUB)).unwrap();
    fs::write(archive.fetched(FIRMWARE), "altered").unwrap();
    let said = archive.fetch(&[]);
    assert!(!said.contains("NOTE") && !said.contains("SKIP"), "{said}");
    assert_eq!(archive.listed(), first);
    archive.holds(&LATER, "archive");
    assert!(!archive.fetch(&[]).contains("NOTE"));
    assert_eq!(archive.listed(), first);
}

#[test]
fn what_is_pinned_is_taken_and_what_is_gone_is_said_aloud() {
    let Some(archive) = Archive::new() else {
        return;
    };
    let said = archive.fetch(&["--repin"]);
    let first = archive.listed();
    assert!(
        first.len() == 5 && !said.contains("SKIP"),
        "{said} {first:?}"
    );
    assert!(
        [KERNEL, STUB, FIRMWARE]
            .iter()
            .all(|it| first.contains(&(*it).to_owned())),
        "{first:?}"
    );
    let pins = fs::read(archive.path("pins")).unwrap();
    assert_eq!(pins, fs::read(archive.fetched("pins")).unwrap());

    what_is_pinned_is_taken(&archive, &first);
    // Neither has the stub, and then the kernel.
    fs::remove_file(archive.fetched(STUB)).unwrap();
    let said = archive.fetch(&[]);
    let gone = |name: &str| {
        format!(
            "{name} is no longer in the archive; the newest of trixie is taken, which is not what is pinned"
        )
    };
    assert!(
        said.contains(&gone(STUB)) && !said.contains(&gone(KERNEL)),
        "{said}"
    );
    assert!(archive.listed().contains(&KERNEL.to_owned()));
    fs::remove_file(archive.fetched(KERNEL)).unwrap();
    let said = archive.fetch(&[]);
    assert!(
        said.contains(&gone(KERNEL)) && said.contains(&gone(STUB)),
        "{said}"
    );
    let later = archive.listed();
    assert!(
        later.len() == 5 && later.contains(&NEWER_KERNEL.to_owned()),
        "{later:?}"
    );
    assert!(
        later.contains(&FIRMWARE.to_owned()),
        "what is still there is still the pinned one"
    );
    assert_eq!(
        fs::read(archive.path("pins")).unwrap(),
        pins,
        "pins change by --repin alone"
    );
    archive.fetch(&["--repin"]);
    assert_ne!(fs::read(archive.path("pins")).unwrap(), pins);
    assert!(!archive.fetched(KERNEL).exists());
}

#[test]
fn what_the_archives_key_did_not_sign_is_not_taken() {
    let Some(archive) = Archive::new() else {
        return;
    };
    // A file that is not what the signed index says.
    let stub = archive.path("debian/pool").join(STUB);
    fs::write(&stub, "trixie systemd-boot-efi 257.1-2").unwrap();
    let said = archive.fetch(&[]);
    assert!(
        said.contains("SKIP boot stub: systemd-boot-efi of trixie cannot be had"),
        "{said}"
    );
    assert!(!archive.fetched(STUB).exists() && archive.listed().len() == 4);
    // An index that somebody else signed.
    archive.key("stranger");
    archive.holds(&LATER, "stranger");
    let said = archive.fetch(&[]);
    assert!(
        said.contains("SKIP kernel, boot stub, firmware: the archive cannot be reached"),
        "{said}"
    );
    assert!(!archive.fetched(NEWER_KERNEL).exists());
}
