//! The sections of reference values that `casemate org reference --section` signs, out of an image's manifest.

use casemate_attestation::{ReferenceValues, SnpReference};
use casemate_image::manifest::Manifest;
use casemate_image::prediction::{Snp, Tdx, Tpm};
use serde_json::{Value, json};

use crate::commands::CommandError;

/// A file's name and what is in it, one for each platform that was predicted.
pub(super) fn of(
    manifest: &Manifest,
    collateral_floor: Option<u32>,
) -> Result<Vec<(&'static str, ReferenceValues)>, CommandError> {
    let mut sections = Vec::new();
    let initrd = manifest
        .files
        .get("initrd.cpio")
        .map_or("", |file| file.sha256.as_str());
    let label = format!("{}: initrd {initrd}", manifest.release);
    if let Some(snp) = &manifest.snp {
        sections.push(("snp.json", of_snp(snp, &label)?));
    }
    match (&manifest.tdx, collateral_floor) {
        (Some(tdx), Some(floor)) => sections.push(("tdx.json", of_tdx(tdx, floor, &label)?)),
        (Some(_), None) => eprintln!("no reference values for TDX: they need --collateral-floor"),
        (None, _) => {}
    }
    if !manifest.tpm.is_empty() {
        sections.push(("tpm.json", of_tpm(&manifest.tpm, &label)?));
    }
    Ok(sections)
}

fn values(value: Value) -> Result<ReferenceValues, CommandError> {
    Ok(serde_json::from_value(value).map_err(anyhow::Error::from)?)
}

fn of_snp(snp: &Snp, label: &str) -> Result<ReferenceValues, CommandError> {
    let mut section = serde_json::to_value(SnpReference::default()).map_err(anyhow::Error::from)?;
    let mut measurements: Vec<Value> = Vec::new();
    for it in &snp.digests {
        let label = format!(
            "{label}: QEMU, {} x {}, features {}",
            it.vcpus, it.cpu, it.features
        );
        // Models of one generation have one signature, and the same digest.
        if !measurements
            .iter()
            .any(|kept| kept["measurement"] == it.digest.as_str())
        {
            measurements.push(json!({"measurement": it.digest, "label": label}));
        }
    }
    if let Some(list) = section.get_mut("measurements") {
        *list = measurements.into();
    }
    values(json!({"snp": section}))
}

fn of_tdx(tdx: &Tdx, collateral_floor: u32, label: &str) -> Result<ReferenceValues, CommandError> {
    let machine = |mrtd: &str, host: &str| {
        json!({
            "mrtd": mrtd,
            "rtmrs": [null, [tdx.rtmr1], [tdx.rtmr2], ["0".repeat(96)]],
            "label": format!("{label}: direct boot, {host}"),
        })
    };
    let machines = [
        machine(&tdx.mrtd, "host measures each page as it is added"),
        machine(
            &tdx.mrtd_two_pass,
            "host measures pages after all were added",
        ),
    ];
    values(json!({"tdx": {"machines": machines, "collateral_floor": collateral_floor}}))
}

fn of_tpm(ways: &[Tpm], label: &str) -> Result<ReferenceValues, CommandError> {
    let machine = |it: &Tpm| {
        let label = format!("{label}: {} boot, rules of {}", it.boot, it.release);
        json!({"registers": it.registers, "label": label})
    };
    let machines: Vec<_> = ways.iter().map(machine).collect();
    values(json!({"tpm": {"bank": "sha256", "machines": machines}}))
}
