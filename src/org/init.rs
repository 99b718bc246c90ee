//! `casemate org init`: a new organisation, whole or not at all.
//!
//! Everything is made in a folder beside the target, which is renamed when it is complete.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use casemate_attestation::{FleetList, ReferenceValues, ReleaseSecretKey, Revocations, UnixTime};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::authority::{Authority, broker_identity};
use super::{ABOUT_FORMAT, About, Name, OrgError, Organisation, documents, files, write_identity};
use crate::secrets::{FileError, write_public_file, write_secret_file};

/// What `org init` is told.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Name of the organisation.
    pub name: Name,
    /// Names of the broker's certificate.
    pub broker_names: Vec<String>,
    /// Whether to make a test chip, which proves nothing about a machine.
    pub test_chip: bool,
    /// How long the first documents are in force.
    pub days: u32,
}

/// Makes an organisation in the new or empty folder `folder`.
///
/// # Errors
/// When there is something in `folder`, or writing fails; then nothing is left behind.
pub fn init(folder: &Path, options: &InitOptions, now: UnixTime) -> Result<Organisation, OrgError> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file() {
        return Err(OrgError::Exists(folder.to_owned()));
    }
    let scratch = scratch_folder(folder)?;
    let made = fill(&scratch, options, now)
        .and_then(|()| fs::rename(&scratch, folder).map_err(|e| io_error("create", folder, e)));
    if let Err(error) = made {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&scratch);
        return Err(error);
    }
    Organisation::open(folder)
}

fn fill(folder: &Path, options: &InitOptions, now: UnixTime) -> Result<(), OrgError> {
    let name = options.name.as_str();
    for (sub, title) in [
        (files::CLIENT_CA, "client CA"),
        (files::ENCLAVE_CA, "enclave CA"),
    ] {
        let sub = new_folder(folder, sub)?;
        let (_, identity) = Authority::generate(&format!("{name} {title}"), now.secs())?;
        write_identity(&sub, &identity)?;
    }
    let broker = new_folder(folder, "broker")?;
    let (authority, identity) = broker_identity(name, &options.broker_names, now.secs())?;
    write_identity(&broker, &identity)?;
    write_public_file(&folder.join(files::BROKER_CA), authority.as_bytes())?;

    let release = ReleaseSecretKey::generate(&SystemRandom::new()).map_err(OrgError::Sign)?;
    new_folder(folder, "release")?;
    let public = release.public().map_err(OrgError::Sign)?.to_hex() + "\n";
    write_public_file(&folder.join(files::RELEASE_PUBLIC), public.as_bytes())?;
    write_secret_file(&folder.join(files::RELEASE_SECRET), &release.to_pkcs8())?;
    write_secret_file(&folder.join(files::KEK), &*random_bytes()?)?;
    if options.test_chip {
        make_test_chip(folder, now)?;
    }
    sign_empty_documents(folder, options.days, now, &release)?;
    new_folder(folder, files::TEAMS)?;
    write_about(folder, name, now)
}

#[cfg(feature = "test-chip")]
fn make_test_chip(folder: &Path, now: UnixTime) -> Result<(), OrgError> {
    let seed = random_bytes()?;
    let chip = casemate_attestation::test_chip::TestChip::from_seed(&seed, now);
    new_folder(folder, "test-chip")?;
    write_secret_file(&folder.join(files::TEST_CHIP_SEED), &*seed)?;
    write_public_file(
        &folder.join(files::TEST_GPU_ROOT),
        &casemate_attestation::test_chip::TestGpu::root_der(&seed),
    )?;
    Ok(write_public_file(
        &folder.join(files::TEST_CHIP_ROOT),
        chip.root_der(),
    )?)
}

#[cfg(not(feature = "test-chip"))]
fn make_test_chip(folder: &Path, _: UnixTime) -> Result<(), OrgError> {
    Err(OrgError::NoTestChip(folder.to_owned()))
}

/// Empty lists: no chip, no measurement, no floor. Empty means none.
fn sign_empty_documents(
    folder: &Path,
    days: u32,
    now: UnixTime,
    key: &ReleaseSecretKey,
) -> Result<(), OrgError> {
    let issue = documents::issue(1, days, now);
    documents::sign_into(folder, &FleetList { chips: Vec::new() }, issue, key)?;
    documents::sign_into(folder, &ReferenceValues::default(), issue, key)?;
    let none = Revocations {
        certificates: Vec::new(),
        principals: Vec::new(),
    };
    documents::sign_into(folder, &none, issue, key)
}

fn write_about(folder: &Path, name: &str, now: UnixTime) -> Result<(), OrgError> {
    let about = About {
        format: ABOUT_FORMAT.into(),
        name: name.into(),
        made: now.secs(),
    };
    let text = toml::to_string(&about).map_err(|e| files::damaged(folder, files::ABOUT, e))?;
    Ok(write_public_file(
        &folder.join(files::ABOUT),
        text.as_bytes(),
    )?)
}

fn random_bytes() -> Result<Zeroizing<[u8; 32]>, OrgError> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    SystemRandom::new()
        .fill(&mut *bytes)
        .map_err(|_| OrgError::NoRandomness)?;
    Ok(bytes)
}

fn scratch_folder(folder: &Path) -> Result<PathBuf, OrgError> {
    let parent = folder
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| io_error("create", parent, e))?;
    let random = random_bytes()?;
    let (short, _) = random.split_at(6);
    new_folder(parent, &format!(".casemate-org-{}.tmp", hex::encode(short)))
}

/// Only its owner gets into the folder: most of what lies in it is secret.
fn new_folder(parent: &Path, name: &str) -> Result<PathBuf, OrgError> {
    let folder = parent.join(name);
    let made = fs::DirBuilder::new().mode(0o700).create(&folder);
    made.map_err(|e| io_error("create", &folder, e))?;
    Ok(folder)
}

fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> OrgError {
    FileError::Io {
        action,
        path: path.to_owned(),
        source,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn options(test_chip: bool) -> InitOptions {
        let name = Name::organisation("example").unwrap();
        InitOptions {
            name,
            broker_names: vec!["localhost".into()],
            test_chip,
            days: 90,
        }
    }

    fn now() -> UnixTime {
        UnixTime::from(std::time::SystemTime::now())
    }

    fn all_files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => found.extend(all_files(&path)),
                false => found.push(path),
            }
        }
        found
    }

    #[test]
    fn k08_secret_files_of_a_new_organisation_are_for_the_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("org");
        let organisation = init(&folder, &options(true), now()).unwrap();
        let (team, member) = ("blue".parse().unwrap(), "ada".parse().unwrap());
        organisation
            .issue(&team, &member, 30, now().secs())
            .unwrap();
        let mut secrets = 0;
        for path in all_files(&folder) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let secret = name.ends_with("key.pem")
                || name == "seed"
                || name == "kek.key"
                || name == "secret.key";
            if secret {
                secrets += 1;
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "{}", path.display());
            } else {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                assert!(!text.contains("PRIVATE"), "{}", path.display());
            }
        }
        assert_eq!(secrets, 7);
        assert_eq!(
            fs::read_dir(parent.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn nothing_is_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("org");
        init(&folder, &options(false), now()).unwrap();
        let before = fs::read(folder.join(files::KEK)).unwrap();
        let error = init(&folder, &options(false), now()).unwrap_err();
        assert!(matches!(error, OrgError::Exists(_)), "{error}");
        assert_eq!(fs::read(folder.join(files::KEK)).unwrap(), before);
    }

    #[test]
    fn every_missing_or_altered_file_is_reported_by_name() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("org");
        init(&folder, &options(true), now()).unwrap();
        for path in all_files(&folder) {
            let good = fs::read(&path).unwrap();
            let name = path
                .strip_prefix(&folder)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            fs::remove_file(&path).unwrap();
            let missing = Organisation::open(&folder).unwrap_err().to_string();
            // Without org.toml the folder is no organisation's at all.
            assert!(
                missing.contains(&name) || name == files::ABOUT,
                "{name}: {missing}"
            );

            // A random key cannot be told from another one by itself: only its length is checked here.
            let cut = &good[..good.len() - 7];
            let write = |bytes: &[u8]| match name.ends_with("cert.pem") {
                true => write_public_file(&path, bytes).unwrap(),
                false => write_secret_file(&path, bytes).unwrap(),
            };
            write(cut);
            let error = Organisation::open(&folder).unwrap_err().to_string();
            assert!(error.contains(&name), "{name}: {error}");
            write(&good);
            Organisation::open(&folder).unwrap();
        }
    }

    #[test]
    fn files_of_another_organisation_are_reported() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, other) = (parent.path().join("org"), parent.path().join("other"));
        init(&folder, &options(false), now()).unwrap();
        init(&other, &options(false), now()).unwrap();
        let organisation = || Organisation::open(&folder);
        let mut swapped = 0;
        for path in all_files(&folder) {
            let name = path.strip_prefix(&folder).unwrap();
            // Nothing else in the folder says which key-encryption key is ours, or when it was made.
            if name == Path::new(files::KEK) || name == Path::new(files::ABOUT) {
                continue;
            }
            let good = fs::read(&path).unwrap();
            fs::copy(other.join(name), &path).unwrap();
            let error = organisation().unwrap_err().to_string();
            assert!(error.contains("damaged"), "{}: {error}", name.display());
            fs::write(&path, good).unwrap();
            organisation().unwrap();
            swapped += 1;
        }
        assert!(swapped >= 11, "{swapped}");

        let about = fs::read_to_string(folder.join(files::ABOUT)).unwrap();
        let newer = about.replace("organisation/v1", "organisation/v2");
        assert_ne!(about, newer);
        fs::write(folder.join(files::ABOUT), newer).unwrap();
        let error = organisation().unwrap_err().to_string();
        assert!(error.contains("org.toml"), "{error}");
        fs::write(folder.join(files::ABOUT), about).unwrap();

        let keys = folder.join("keys");
        fs::create_dir_all(&keys).unwrap();
        fs::write(keys.join("00.json"), "{}").unwrap();
        let error = organisation().unwrap_err().to_string();
        assert!(error.contains("00.json"), "{error}");
    }
}
