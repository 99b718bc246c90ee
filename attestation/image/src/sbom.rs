//! `sbom.json`: every file of the guest with its origin and digest (CycloneDX 1.6, ECMA-424).
//!
//! Packages are components; the files that come out of them are components inside. No time and no random number is in it.

use serde_json::{Value, json};

use crate::guest::{Guest, Origin};
use crate::manifest::Input;
use crate::sha256;

/// The list of parts of an image.
#[must_use]
pub fn sbom(
    release: &str,
    guest: &Guest<'_>,
    kernel: &[u8],
    kernel_package: &str,
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
        if input.package == kernel_package {
            inside.push(file("vmlinuz", kernel));
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
        json!({
            "type": kind,
            "bom-ref": name,
            "name": name,
            "components": parts(&|it| *it == origin),
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

/// A package's address in its distribution (package-url, type deb).
fn purl(input: &Input) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~".contains(&byte);
    let version = input.version.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    let version: String = version.collect();
    let (name, architecture) = (&input.package, &input.architecture);
    format!("pkg:deb/debian/{name}@{version}?arch={architecture}")
}
