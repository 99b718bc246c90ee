//! A signed kernel out of Debian's packages, and the modules that the guest needs, in the order in which they load.
//!
//! Modules stay as they are packed and signed: the kernel unpacks them itself and checks their signatures under lockdown.

use std::collections::{BTreeMap, BTreeSet};

use crate::ImageError;
use crate::compressed::Compression;
use crate::deb::Package;
use crate::elf::Elf;

/// What the guest cannot do without: a network card, a disk, and the ways to the security processor.
pub const MODULES: [&str; 4] = ["virtio_net", "virtio_blk", "sev_guest", "tdx_guest"];

/// The first kernel whose packages have the drivers of SEV-SNP and TDX guests.
const OLDEST: (u32, u32) = (6, 12);
/// What a signed module ends with (kernel's Documentation/admin-guide/module-signing.rst).
const SIGNED: &[u8] = b"~Module signature appended~\n";
const MODULE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A kernel with its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    version: String,
    image: Vec<u8>,
    package: String,
    modules: BTreeMap<String, Module>,
    built_in: BTreeSet<String>,
}

/// A module as its package has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` for `-`.
    pub name: String,
    /// The file's name, as `virtio_net.ko.xz`.
    pub file: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// The package that it is from.
    pub package: String,
}

/// Whether a kernel is made of the file at this path of a package.
#[must_use]
pub fn is_wanted(path: &str) -> bool {
    image_version(path).is_some()
        || module_path(path).is_some()
        || path.ends_with("/modules.builtin")
}

impl Kernel {
    /// Puts a kernel together; Debian splits the newest over several packages.
    ///
    /// # Errors
    /// [`ImageError::Kernels`], [`ImageError::KernelTooOld`].
    pub fn new(packages: Vec<Package>) -> Result<Self, ImageError> {
        let files = |it| Package::paths(it).map(move |path| (it, path));
        let files = packages.iter().flat_map(files);
        let images = files.filter_map(|(it, path)| Some((image_version(path)?, it, path)));
        let images: Vec<_> = images.collect();
        let [(version, package, path)] = images.as_slice() else {
            return Err(ImageError::Kernels(images.len()));
        };
        let image = package.files.get(*path).cloned().unwrap_or_default();
        let (version, package) = ((*version).to_owned(), package.name.clone());
        if release(&version).is_none_or(|release| release < OLDEST) {
            return Err(ImageError::KernelTooOld(version));
        }
        let mut kernel = Self {
            version,
            image,
            package,
            modules: BTreeMap::new(),
            built_in: BTreeSet::new(),
        };
        packages
            .into_iter()
            .for_each(|package| kernel.take(package));
        Ok(kernel)
    }

    fn take(&mut self, package: Package) {
        for (path, bytes) in package.files {
            if let Some((version, file)) = module_path(&path) {
                if version == self.version {
                    let name = module_name(file);
                    let module = Module {
                        name: name.clone(),
                        file: file.to_owned(),
                        bytes,
                        package: package.name.clone(),
                    };
                    self.modules.insert(name, module);
                }
            } else if path.ends_with(&format!("/{}/modules.builtin", self.version)) {
                let listed = String::from_utf8_lossy(&bytes);
                let files = listed.lines().filter_map(|line| line.rsplit('/').next());
                self.built_in.extend(files.map(module_name));
            }
        }
    }

    /// As `uname -r` says it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The kernel's file.
    #[must_use]
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// The package that the kernel's file is from.
    #[must_use]
    pub fn package(&self) -> &str {
        &self.package
    }

    /// These modules and all that they need, each after what it needs. What is part of the kernel itself is left out.
    ///
    /// # Errors
    /// A module that is missing, is not signed, or is of another kernel.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<&Module>, ImageError> {
        let mut order = Order {
            kernel: self,
            done: Vec::new(),
            open: Vec::new(),
        };
        for name in wanted {
            order.add(&module_name(name))?;
        }
        Ok(order.done)
    }
}

impl Package {
    fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }
}

struct Order<'a> {
    kernel: &'a Kernel,
    done: Vec<&'a Module>,
    /// Modules whose needs are being looked at, outermost first.
    open: Vec<String>,
}

impl Order<'_> {
    fn add(&mut self, name: &str) -> Result<(), ImageError> {
        if self.done.iter().any(|module| module.name == name) || self.kernel.built_in.contains(name)
        {
            return Ok(());
        }
        if self.open.iter().any(|open| open == name) {
            return Err(ImageError::ModuleCycle(name.into()));
        }
        let missing = || ImageError::ModuleMissing {
            kernel: self.kernel.version.clone(),
            module: name.into(),
            needed_by: self
                .open
                .last()
                .map_or_else(String::new, |by| format!(", which {by} needs")),
        };
        let module = self.kernel.modules.get(name).ok_or_else(missing)?;
        let needs = module.needs(&self.kernel.version)?;
        self.open.push(name.into());
        needs.iter().try_for_each(|needed| self.add(needed))?;
        self.open.pop();
        self.done.push(module);
        Ok(())
    }
}

impl Module {
    /// The names in its field `depends=`, after its signature and version were looked at.
    fn needs(&self, kernel: &str) -> Result<Vec<String>, ImageError> {
        let wrong = |what| ImageError::Module {
            module: self.name.clone(),
            what,
        };
        let suffix = self.file.split_once(".ko").map_or("", |parts| parts.1);
        let compression = Compression::of_suffix(suffix)
            .ok_or_else(|| wrong("is packed in a way that is not known"))?;
        let bytes = compression.unpack(&self.bytes, MODULE_BYTES_MAX);
        let bytes = bytes.ok_or_else(|| wrong("is damaged, or has more than 64 MiB"))?;
        if !bytes.ends_with(SIGNED) {
            return Err(wrong(
                "is not signed: the guest's kernel loads signed modules alone",
            ));
        }
        let info = Elf::read(&bytes).and_then(|elf| elf.section(".modinfo"));
        let info = info.ok_or_else(|| wrong("has no section .modinfo"))?;
        let field = |name: &str| {
            let fields = info.split(|byte| *byte == 0);
            let mut fields = fields.filter_map(|field| str::from_utf8(field).ok());
            fields.find_map(|field| field.strip_prefix(name))
        };
        let of_this = field("vermagic=").and_then(|magic| magic.split(' ').next()) == Some(kernel);
        if !of_this {
            return Err(wrong("was built for another kernel"));
        }
        let needs = field("depends=").ok_or_else(|| wrong("does not say what it needs"))?;
        let names = needs.split(',').filter(|name| !name.is_empty());
        Ok(names.map(module_name).collect())
    }
}

/// The version in the path of a kernel's file.
fn image_version(path: &str) -> Option<&str> {
    let direct = path.strip_prefix("boot/vmlinuz-");
    let beside = || {
        module_folder(path)
            .filter(|it| it.1 == "vmlinuz")
            .map(|it| it.0)
    };
    direct.or_else(beside)
}

/// Version and file name of a module's path.
fn module_path(path: &str) -> Option<(&str, &str)> {
    let (version, rest) = module_folder(path)?;
    let file = rest.strip_prefix("kernel/")?.rsplit('/').next()?;
    let known = [".ko", ".ko.xz", ".ko.zst"]
        .iter()
        .any(|end| file.ends_with(end));
    known.then_some((version, file))
}

/// What follows `lib/modules/`, parted after the version.
fn module_folder(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("usr/").unwrap_or(path);
    path.strip_prefix("lib/modules/")?.split_once('/')
}

/// The kernel writes `_` where file names have `-`.
fn module_name(file: &str) -> String {
    let name = file.split_once(".ko").map_or(file, |parts| parts.0);
    name.replace('-', "_")
}

/// The first two numbers of a version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
