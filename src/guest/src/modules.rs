//! Kernel modules: those of the image, in the image's order, with the distribution's signature on each. Afterwards none.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::failure::{Failure, What};

/// The list, one path a line.
pub const LIST: &str = "/etc/casemate/modules";
/// Where modules lie.
const FOLDER: &str = "/lib/modules/";
const LIST_BYTES_MAX: usize = 16 * 1024;
const MODULES_MAX: usize = 64;
/// `MODULE_INIT_COMPRESSED_FILE` of `finit_module(2)`.
const COMPRESSED: i32 = 4;
/// Modules that are for one kind of machine and say `ENODEV` on every other.
const OF_ONE_PLATFORM: [&str; 2] = ["sev-guest", "tdx-guest"];

/// A module of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    path: PathBuf,
    name: String,
}

impl Module {
    /// Its name, without `.ko` and what follows.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Reads the list.
///
/// # Errors
/// [`What::Modules`] with the line that is wrong.
pub fn parse(text: &str) -> Result<Vec<Module>, Failure> {
    let wrong = |found: String| {
        let hint = "build the image again; its list has one path of /lib/modules a line";
        Failure::new(What::Modules, format!("{LIST}: {found}"), hint)
    };
    if text.len() > LIST_BYTES_MAX {
        return Err(wrong("is too long".into()));
    }
    let mut modules: Vec<Module> = Vec::new();
    for line in text.lines() {
        let module = module(line).ok_or_else(|| wrong(format!("{line:?} is no module's path")))?;
        if modules.iter().any(|other| other.name == module.name) {
            return Err(wrong(format!("{} stands there twice", module.name)));
        }
        modules.push(module);
    }
    if modules.len() > MODULES_MAX {
        return Err(wrong(format!("has more than {MODULES_MAX} modules")));
    }
    Ok(modules)
}

fn module(line: &str) -> Option<Module> {
    let (version, file) = line.strip_prefix(FOLDER)?.split_once('/')?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(fits);
    let name = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
        .iter()
        .find_map(|end| file.strip_suffix(end))?;
    (plain(version) && plain(name)).then(|| Module {
        path: PathBuf::from(line),
        name: name.to_owned(),
    })
}

/// Loads the modules of the image's list.
///
/// # Errors
/// [`What::Modules`] with the module that does not load.
pub fn load(list: &Path) -> Result<Vec<Module>, Failure> {
    let text = fs::read_to_string(list).map_err(|error| unreadable(list, &error))?;
    let modules = parse(&text)?;
    for module in &modules {
        load_one(module)?;
    }
    Ok(modules)
}

fn load_one(module: &Module) -> Result<(), Failure> {
    let file = File::open(&module.path).map_err(|error| unreadable(&module.path, &error))?;
    let plain = module.path.extension().is_some_and(|end| end == "ko");
    let flags = if plain { 0 } else { COMPRESSED };
    match rustix::system::finit_module(&file, c"", flags) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::NODEV | Errno::NXIO) if OF_ONE_PLATFORM.contains(&module.name()) => Ok(()),
        Err(error) => {
            let hint = match error {
                Errno::NOENT => {
                    "a module that it needs stands behind it; build the list in the order of `depends`"
                }
                Errno::KEYREJECTED | Errno::NOKEY | Errno::PERM => {
                    "take modules of the kernel's own package: their signature must be its"
                }
                _ => "take modules of the kernel's own package",
            };
            Err(Failure::new(
                What::Modules,
                format!("{} does not load: {error}", module.name),
                hint,
            ))
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let found = format!("cannot read {}: {error}", path.display());
    Failure::new(What::Modules, found, "build the image again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_in_its_order() {
        let text = "/lib/modules/6.12.95+deb12-cloud-amd64/failover.ko.xz\n/lib/modules/6.12.95+deb12-cloud-amd64/net_failover.ko.xz\n/lib/modules/6.1.0/virtio.ko\n";
        let names: Vec<String> = parse(text)
            .unwrap()
            .iter()
            .map(|it| it.name().to_owned())
            .collect();
        assert_eq!(names, ["failover", "net_failover", "virtio"]);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn anything_but_a_modules_path_is_refused() {
        for line in [
            "failover",
            "/lib/modules/6.12/../x.ko.xz",
            "/lib/modules//x.ko",
            "/lib/modules/6.12/a/b.ko",
            "/etc/x.ko",
            "/lib/modules/6.12/.ko",
            "/lib/modules/../x.ko",
            "/lib/modules/6.12/x.ko.lzma",
            "/lib/modules/6.12/x.ko ",
            "/lib/modules/6.12/x y.ko",
            "/lib/modules/6.12/\u{1b}.ko",
            "",
        ] {
            let text = format!("/lib/modules/6.12/a.ko\n{line}\n");
            assert_eq!(parse(&text).unwrap_err().what(), What::Modules, "{line:?}");
        }
        assert!(parse("/lib/modules/6/a.ko\n/lib/modules/6/a.ko.xz\n").is_err());
        let many: String = (0..65)
            .map(|it| format!("/lib/modules/6/m{it}.ko\n"))
            .collect();
        assert!(parse(&many).is_err());
        assert!(parse(&"x".repeat(20_000)).is_err());
    }
}
