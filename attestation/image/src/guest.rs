//! Everything that is in the guest: one program, signed modules, their order, one configuration and the public files that it
//! names. No shell, no second program, no key.

use std::collections::{BTreeMap, BTreeSet};

use crate::ImageError;
use crate::cpio::{Archive, Entry};
use crate::kernel::{Kernel, MODULES, Module};
use crate::program::Program;

/// Command line of an image whose host sees nothing.
pub const COMMAND_LINE: &str = "panic=-1 quiet lockdown=confidentiality init_on_free=1";
/// What an image for trials has beside it: the host reads what the guest prints.
pub const CONSOLE: &str = "console=ttyS0";

/// Longest configuration, and longest public file that it names.
const CONFIGURATION_BYTES_MAX: usize = 256 * 1024;
const TRUST_BYTES_MAX: usize = 1024 * 1024;
const TRUST_FILES_MAX: usize = 64;
/// The tables of a guest's configuration.
const TABLES: [&str; 4] = ["network", "disk", "clock", "server"];
const FOLDER: &str = "etc/casemate";

/// The one configuration that goes in, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    bytes: Vec<u8>,
    trust: BTreeSet<String>,
}

impl Configuration {
    /// Looks at a configuration from outside: its tables, and the public files that its server section names by `trust/NAME`.
    /// What the values mean is judged by the guest.
    ///
    /// # Errors
    /// [`ImageError::Configuration`].
    pub fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let wrong = |what: String| ImageError::Configuration(what);
        if bytes.len() > CONFIGURATION_BYTES_MAX {
            return Err(wrong("it has more than 256 KiB".into()));
        }
        let text = str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".into()))?;
        let parsed: toml::Table = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        for table in TABLES {
            if !parsed.get(table).is_some_and(toml::Value::is_table) {
                return Err(wrong(format!("it has no table [{table}]")));
            }
        }
        if let Some(other) = parsed.keys().find(|key| !TABLES.contains(&key.as_str())) {
            return Err(wrong(format!("there is no table [{other}]")));
        }
        let mut trust = BTreeSet::new();
        if let Some(server) = parsed.get("server") {
            named_in(server, &mut trust);
        }
        if trust.len() > TRUST_FILES_MAX {
            return Err(wrong("it names more than 64 files in trust/".into()));
        }
        let bytes = bytes.to_vec();
        Ok(Self { bytes, trust })
    }

    /// Names of the files in `trust/` that it needs.
    #[must_use]
    pub const fn trust(&self) -> &BTreeSet<String> {
        &self.trust
    }

    /// As it was given.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Collects NAME of every text `trust/NAME` or `/etc/casemate/trust/NAME`.
fn named_in(value: &toml::Value, found: &mut BTreeSet<String>) {
    match value {
        toml::Value::String(text) => {
            let path = text.strip_prefix("/etc/casemate/").unwrap_or(text);
            found.extend(path.strip_prefix("trust/").map(str::to_owned));
        }
        toml::Value::Array(values) => values.iter().for_each(|value| named_in(value, found)),
        toml::Value::Table(table) => table.values().for_each(|value| named_in(value, found)),
        _ => {}
    }
}

/// Where a file of the image is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A Debian package, by its name.
    Package(String),
    /// The program that was given.
    Program,
    /// The configuration that was given, or a public file beside it.
    Configuration,
    /// Written by the builder.
    Builder,
}

/// The contents of the initrd.
#[derive(Debug, Clone)]
pub struct Guest<'a> {
    archive: Archive<'a>,
    origins: BTreeMap<String, Origin>,
    modules: Vec<&'a Module>,
}

/// Module list as the guest reads it, which must live as long as the [`Guest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOrder(String);

impl LoadOrder {
    /// One path a line, each after what it needs.
    #[must_use]
    pub fn of(kernel: &Kernel, modules: &[&Module]) -> Self {
        let line = |module: &&Module| format!("/{}/{}\n", folder_of(kernel), module.file);
        Self(modules.iter().map(line).collect())
    }
}

fn folder_of(kernel: &Kernel) -> String {
    format!("lib/modules/{}", kernel.version())
}

impl<'a> Guest<'a> {
    /// The modules of a kernel that the guest loads.
    ///
    /// # Errors
    /// What [`Kernel::modules`] says of them.
    pub fn modules(kernel: &'a Kernel) -> Result<Vec<&'a Module>, ImageError> {
        kernel.modules(&MODULES)
    }

    /// Puts the guest together. `trust` holds exactly the files that the configuration names.
    ///
    /// # Errors
    /// [`ImageError::Trust`] for a file that is missing or is not public, [`ImageError::Name`] for one that has no plain name.
    pub fn new(
        program: Program<'a>,
        kernel: &'a Kernel,
        modules: &[&'a Module],
        order: &'a LoadOrder,
        configuration: &'a Configuration,
        trust: &'a BTreeMap<String, Vec<u8>>,
    ) -> Result<Self, ImageError> {
        let mut guest = Self {
            archive: Archive::default(),
            origins: BTreeMap::new(),
            modules: modules.to_vec(),
        };
        guest.folders(kernel)?;
        guest.file("init", 0o555, program.bytes(), Origin::Program)?;
        for module in modules {
            let name = format!("{}/{}", folder_of(kernel), module.file);
            let origin = Origin::Package(module.package.clone());
            guest.file(&name, 0o444, &module.bytes, origin)?;
        }
        let listed = format!("{FOLDER}/modules");
        guest.file(&listed, 0o444, order.0.as_bytes(), Origin::Builder)?;
        let settings = format!("{FOLDER}/guest.toml");
        guest.file(
            &settings,
            0o444,
            configuration.bytes(),
            Origin::Configuration,
        )?;
        for name in &configuration.trust {
            let bytes = public(name, trust)?;
            let path = format!("{FOLDER}/trust/{name}");
            guest.file(&path, 0o444, bytes, Origin::Configuration)?;
        }
        Ok(guest)
    }

    fn folders(&mut self, kernel: &Kernel) -> Result<(), ImageError> {
        let modules = folder_of(kernel);
        let trust = format!("{FOLDER}/trust");
        let read_only = ["dev", "etc", FOLDER, &trust, "lib", "lib/modules", &modules];
        let read_only = read_only.into_iter().chain(["proc", "sys"]);
        let all = read_only.map(|name| (name, 0o555));
        for (name, mode) in all.chain([("run", 0o755), ("tmp", 0o1777)]) {
            self.archive.add(name, Entry::Directory(mode))?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        name: &str,
        mode: u32,
        bytes: &'a [u8],
        origin: Origin,
    ) -> Result<(), ImageError> {
        self.archive.add(name, Entry::File(mode, bytes))?;
        self.origins.insert(name.to_owned(), origin);
        Ok(())
    }

    /// The initrd.
    #[must_use]
    pub fn initrd(&self, epoch: u32) -> Vec<u8> {
        self.archive.to_bytes(epoch)
    }

    /// Every file with its contents and where it is from, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &'a [u8], &Origin)> {
        let files = self
            .archive
            .entries()
            .filter_map(|(name, entry)| match entry {
                Entry::File(_, bytes) => Some((name.to_owned(), bytes)),
                Entry::Directory(_) => None,
            });
        files.filter_map(|(name, bytes)| {
            let (name, origin) = self.origins.get_key_value(&name)?;
            Some((name.as_str(), bytes, origin))
        })
    }

    /// Names of the modules in the order in which they load.
    pub fn module_names(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(|module| module.name.as_str())
    }
}

/// A file that the configuration names, when it is there and holds no secret.
fn public<'a>(name: &str, trust: &'a BTreeMap<String, Vec<u8>>) -> Result<&'a [u8], ImageError> {
    let wrong = |what| ImageError::Trust {
        name: name.into(),
        what,
    };
    let bytes = trust
        .get(name)
        .ok_or_else(|| wrong("the configuration names it, but it is not there"))?;
    if name.contains('/') {
        return Err(wrong("it lies in a folder; put it into trust/ itself"));
    }
    if bytes.len() > TRUST_BYTES_MAX {
        return Err(wrong("it has more than 1 MiB"));
    }
    let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    if has(b"PRIVATE KEY") {
        return Err(wrong("it holds a private key, and an image is public"));
    }
    Ok(bytes)
}

/// The kernel's command line.
#[must_use]
pub fn command_line(console: bool) -> String {
    match console {
        true => format!("{CONSOLE} {COMMAND_LINE}"),
        false => COMMAND_LINE.to_owned(),
    }
}
