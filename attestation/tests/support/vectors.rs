//! Folders of the shared evidence: their files, their `expected.json`, their time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_attestation::UnixTime;
use serde_json::Value;

/// A vector's folder.
pub struct Folder {
    pub name: String,
    pub path: PathBuf,
    pub expected: Value,
}

impl Folder {
    /// All of a platform, by name.
    pub fn all(platform: &Path) -> Vec<Self> {
        let mut paths: Vec<_> = fs::read_dir(platform)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir() && path.join("expected.json").is_file())
            .collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    pub fn read(path: &Path) -> Self {
        let expected = fs::read(path.join("expected.json")).unwrap();
        Self {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            path: path.to_owned(),
            expected: serde_json::from_slice(&expected).unwrap(),
        }
    }

    pub fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.path.join(name)).unwrap_or_else(|_| panic!("{}/{name}", self.name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.path.join(name).is_file()
    }

    pub fn verdict(&self) -> &str {
        self.expected["verdict"].as_str().unwrap()
    }

    /// `verify_at`, or the epoch.
    pub fn now(&self) -> UnixTime {
        let at = self.expected.get("verify_at").and_then(Value::as_str);
        UnixTime::from_secs(at.map_or(0, seconds))
    }

    /// The vector that this one was derived from.
    pub fn genuine(&self) -> Self {
        let origins = self.expected["origin"][0]["path"].as_str().unwrap();
        let origin = origins.split(", ").next().unwrap();
        Self::read(&self.path.join("../..").join(origin))
    }

    /// Register values by number.
    pub fn registers(&self, name: &str) -> BTreeMap<u8, Vec<u8>> {
        let values: BTreeMap<String, String> = serde_json::from_slice(&self.file(name)).unwrap();
        let parse = |(number, value): (String, String)| {
            (number.parse().unwrap(), hex::decode(value).unwrap())
        };
        values.into_iter().map(parse).collect()
    }

    /// A PEM file's DER.
    pub fn pem(&self, name: &str) -> Vec<u8> {
        let text = String::from_utf8(self.file(name)).unwrap();
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        STANDARD.decode(body).unwrap()
    }
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{key} is no text"))
}

/// A list of register numbers.
pub fn numbers(value: &Value) -> Vec<u8> {
    let numbers = value.as_array().unwrap().iter();
    numbers
        .map(|number| u8::try_from(number.as_u64().unwrap()).unwrap())
        .collect()
}

/// `2026-03-07T02:05:07Z` in seconds.
pub fn seconds(text: &str) -> u64 {
    let number = |range: std::ops::Range<usize>| text.get(range).unwrap().parse::<u64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    days * 86_400 + number(11..13) * 3600 + number(14..16) * 60 + number(17..19)
}
