//! `sbom.json`: every file of the guest with its origin and digest (CycloneDX 1.6, ECMA-424).
//!
//! Packages are components; the files that come out of them are components inside. So are the crates and libraries that the program was
//! compiled of, where their list is given. No time and no random number is in it.

use serde_json::{Value, json};

use crate::crates::{Component, Crates, Role};
use crate::guest::{Guest, Origin};
use crate::kernel::Kernel;
use crate::manifest::Input;
use crate::sha256;

/// The list of parts of an image.
#[must_use]
pub fn sbom(
    release: &str,
    guest: &Guest<'_>,
    kernel: &Kernel,
    crates: Option<&Crates>,
    inputs: &[Input],
) -> Value {
    let parts = |wanted: &dyn Fn(&Origin) -> bool| -> Vec<Value> {
        let files = guest.files().filter(|(_, _, origin)| wanted(origin));
        files
            .map(|(name, bytes, _)| file(&format!("/{name}"), bytes))
            .collect()
    };
    let package = |input: &Input| {
        let mut inside = parts(&|origin| *origin == Origin::Package(input.package.clone()));
        if input.package == kernel.package() {
            inside.push(file("vmlinuz", kernel.image()));
        }
        json!({
            "type": "operating-system",
            "bom-ref": input.file,
            "name": input.package,
            "version": input.version,
            "purl": purl(input),
            "hashes": [{"alg": "SHA-256", "content": input.sha256}],
            "components": inside,
        })
    };
    let own = |name: &str, kind: &str, origin: Origin| {
        let mut inside = parts(&|it| *it == origin);
        if origin == Origin::Program {
            inside.extend(crates.into_iter().flat_map(Crates::iter).map(compiled));
        }
        json!({
            "type": kind,
            "bom-ref": name,
            "name": name,
            "components": inside,
        })
    };
    let mut components: Vec<Value> = inputs.iter().map(package).collect();
    components.push(own("program", "application", Origin::Program));
    components.push(own("configuration", "data", Origin::Configuration));
    components.push(own("builder", "data", Origin::Builder));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {
            "type": "operating-system",
            "bom-ref": "image",
            "name": "casemate guest image",
            "version": release,
        }},
        "components": components,
    })
}

fn file(name: &str, bytes: &[u8]) -> Value {
    json!({
        "type": "file",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": sha256(bytes)}],
    })
}

/// What the program was compiled of. What only ran while it was compiled is not in it: scope `excluded`.
fn compiled(component: &Component) -> Value {
    let (name, version) = (&component.name, &component.version);
    let scope = match component.role {
        Role::Linked | Role::System => "required",
        Role::Building => "excluded",
    };
    let mut made = json!({
        "type": "library",
        "bom-ref": format!("{scope} {name} {version}"),
        "name": name,
        "version": version,
        "scope": scope,
    });
    let Some(fields) = made.as_object_mut() else {
        return made;
    };
    if let Some(digest) = &component.sha256 {
        fields.insert(
            "hashes".into(),
            json!([{"alg": "SHA-256", "content": digest}]),
        );
        if component.role != Role::System {
            let purl = format!("pkg:cargo/{name}@{}", escaped(version));
            fields.insert("purl".into(), purl.into());
        }
    }
    if !component.licence.is_empty() {
        fields.insert(
            "licenses".into(),
            json!([{"expression": component.licence}]),
        );
    }
    made
}

/// A package's address in its distribution (package-url, type deb).
fn purl(input: &Input) -> String {
    let (name, architecture) = (&input.package, &input.architecture);
    let version = escaped(&input.version);
    format!("pkg:deb/debian/{name}@{version}?arch={architecture}")
}

/// A version as an address has it.
fn escaped(version: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~".contains(&byte);
    let escaped = version.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    escaped.collect()
}
