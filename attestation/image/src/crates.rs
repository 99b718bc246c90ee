//! What the program was compiled of, as `scripts/build-guest` writes it down beside the program: crates, and libraries of the machine
//! that compiled it. The first line binds the list to the program.

use std::collections::BTreeSet;

use crate::{ImageError, sha256};

/// What the first word of a list is.
const FORMAT: &str = "casemate/crates/v1";
/// Longest list.
pub const BYTES_MAX: usize = 1024 * 1024;
const LINES_MAX: usize = 10_000;
/// Longest name, version or licence.
const TEXT_BYTES_MAX: usize = 400;

/// What part a component has in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A crate whose code is in the program.
    Linked,
    /// A crate that ran while the program was compiled: a macro, or what a build script uses.
    Building,
    /// A library that came with a compiler or the system.
    System,
}

/// A component of the program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    /// Its part in the program.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the package in the registry, or of the library's file. Crates of this source tree have none.
    pub sha256: Option<String>,
    /// Expression of SPDX; empty where the package does not say.
    pub licence: String,
}

/// The components of one program, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crates(BTreeSet<Component>);

impl Crates {
    /// Reads the list of `program`: a line `casemate/crates/v1 SHA-256`, then lines `ROLE NAME VERSION SHA-256|own LICENCE`.
    ///
    /// # Errors
    /// [`ImageError::CratesOfOther`] for the list of another program, [`ImageError::CratesLine`] for what is none.
    pub fn read(text: &str, program: &[u8]) -> Result<Self, ImageError> {
        if text.len() > BYTES_MAX {
            return Err(ImageError::CratesLine(1));
        }
        let mut lines = text.lines();
        let named = lines.next().and_then(|line| line.strip_prefix(FORMAT));
        let named = named.and_then(|rest| rest.strip_prefix(' '));
        let named = named.filter(|digest| is_digest(digest));
        let named = named.ok_or(ImageError::CratesLine(1))?;
        let found = sha256(program);
        if found != named {
            let named = named.to_owned();
            return Err(ImageError::CratesOfOther { found, named });
        }
        let mut components = BTreeSet::new();
        for (index, line) in lines.enumerate() {
            let component = component(line).filter(|_| index < LINES_MAX);
            let is_new = component.is_some_and(|it| components.insert(it));
            if !is_new {
                return Err(ImageError::CratesLine(index + 2));
            }
        }
        Ok(Self(components))
    }

    /// Every component: what is linked first, by name and version.
    pub fn iter(&self) -> impl Iterator<Item = &Component> {
        self.0.iter()
    }
}

fn component(line: &str) -> Option<Component> {
    let mut words = line.splitn(5, ' ');
    let role = match words.next()? {
        "linked" => Role::Linked,
        "building" => Role::Building,
        "system" => Role::System,
        _ => return None,
    };
    let (name, version, digest) = (words.next()?, words.next()?, words.next()?);
    let licence = words.next().unwrap_or_default();
    let sha256 = match digest {
        "own" => None,
        digest => Some(digest.to_owned())
            .filter(|it| is_digest(it))
            .map(Some)?,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+~:".contains(&byte);
    let is_word =
        |text: &str| !text.is_empty() && text.len() <= TEXT_BYTES_MAX && text.bytes().all(plain);
    let is_licence = licence.len() <= TEXT_BYTES_MAX
        && licence
            .bytes()
            .all(|byte| plain(byte) || b" ()/".contains(&byte));
    (is_word(name) && is_word(version) && is_licence).then(|| Component {
        role,
        name: name.into(),
        version: version.into(),
        sha256,
        // What cargo took before licences were expressions.
        licence: licence.replace(" / ", " OR ").replace('/', " OR "),
    })
}

fn is_digest(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &[u8] = b"program";

    fn list(lines: &str) -> String {
        format!("{FORMAT} {}\n{lines}", sha256(PROGRAM))
    }

    #[test]
    fn a_list_is_of_one_program_and_sorted_whatever_its_order() {
        let digest = sha256(b"crate");
        let lines = [
            format!("linked ring 0.17.14 {digest} Apache-2.0 AND ISC"),
            "linked casemate 0.1.0 own Apache-2.0 OR MIT".to_owned(),
            format!("building cc 1.2.3+4 {digest} MIT/Apache-2.0"),
            format!("system glibc 2.36-9+deb12u14 {digest} LGPL-2.1-or-later"),
            "linked no-licence 1.0.0 own".to_owned(),
        ];
        let read = Crates::read(&list(&lines.join("\n")), PROGRAM).unwrap();
        let other_order: Vec<_> = lines.iter().rev().map(String::as_str).collect();
        let other_order = Crates::read(&list(&other_order.join("\n")), PROGRAM);
        assert_eq!(other_order, Ok(read.clone()));
        let names: Vec<_> = read.iter().map(|it| (it.role, it.name.as_str())).collect();
        let (linked, building, system) = (Role::Linked, Role::Building, Role::System);
        assert_eq!(
            names,
            [
                (linked, "casemate"),
                (linked, "no-licence"),
                (linked, "ring"),
                (building, "cc"),
                (system, "glibc")
            ]
        );
        let cc = read.iter().find(|it| it.name == "cc").unwrap();
        assert_eq!(cc.licence, "MIT OR Apache-2.0");
        assert_eq!(cc.sha256.as_deref(), Some(digest.as_str()));
        let named = sha256(PROGRAM);
        let found = sha256(b"another");
        assert_eq!(
            Crates::read(&list(""), b"another"),
            Err(ImageError::CratesOfOther { found, named })
        );
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let digest = sha256(b"crate");
        for line in [
            "",
            "linked",
            "linked ring 0.17.14",
            "linked ring 0.17.14 0000 MIT",
            "linked  0.17.14 own MIT",
            "other ring 0.17.14 own MIT",
            "linked ring\u{1b} 0.17.14 own MIT",
            "linked ring 0.17.14 own MIT\"",
            &format!("linked {} 1 own MIT", "x".repeat(401)),
            &format!("linked ring 1 {} MIT", digest.to_uppercase()),
        ] {
            let text = list(&format!("linked first 1 own MIT\n{line}\n"));
            assert_eq!(
                Crates::read(&text, PROGRAM),
                Err(ImageError::CratesLine(3)),
                "{line}"
            );
        }
        let twice = list("linked a 1 own MIT\nlinked a 1 own MIT\n");
        assert_eq!(
            Crates::read(&twice, PROGRAM),
            Err(ImageError::CratesLine(3))
        );
        for text in [
            "",
            "casemate/crates/v1",
            "casemate/crates/v1 0",
            "casemate/crates/v2 ",
        ] {
            assert_eq!(Crates::read(text, PROGRAM), Err(ImageError::CratesLine(1)));
        }
        let long = list(&"x".repeat(BYTES_MAX));
        assert_eq!(Crates::read(&long, PROGRAM), Err(ImageError::CratesLine(1)));
    }
}
