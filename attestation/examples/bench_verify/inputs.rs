//! The shared evidence, read in place.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde_json::Value;

/// The folder with a subfolder for each platform.
pub fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/evidence");
    folder.is_dir().then_some(folder)
}

/// One vector with what its `expected.json` says.
pub struct Vector {
    path: PathBuf,
    expected: Value,
}

impl Vector {
    pub fn read(evidence: &Path, name: &str) -> anyhow::Result<Self> {
        let path = evidence.join(name);
        let expected = fs::read(path.join("expected.json")).with_context(|| name.to_owned())?;
        let expected = serde_json::from_slice(&expected)?;
        Ok(Self { path, expected })
    }

    pub fn file(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        fs::read(self.path.join(name)).with_context(|| name.to_owned())
    }

    /// A value of `expected.json` by its JSON pointer.
    pub fn value(&self, pointer: &str) -> anyhow::Result<&Value> {
        let missing = || anyhow!("{} has no {pointer}", self.path.display());
        self.expected.pointer(pointer).ok_or_else(missing)
    }

    pub fn text(&self, pointer: &str) -> anyhow::Result<&str> {
        self.value(pointer)?.as_str().context("not a text")
    }

    pub fn number(&self, pointer: &str) -> anyhow::Result<u64> {
        self.value(pointer)?.as_u64().context("not a number")
    }

    /// Register values by number.
    pub fn registers(&self, name: &str) -> anyhow::Result<BTreeMap<u8, Vec<u8>>> {
        let values: BTreeMap<String, String> = serde_json::from_slice(&self.file(name)?)?;
        let parsed = values
            .into_iter()
            .map(|(number, value)| Ok((number.parse()?, hex::decode(value)?)));
        parsed.collect()
    }
}
