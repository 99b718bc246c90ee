//! A GPU's report with lists of what it measured. Nothing to compare with: NVIDIA's verifier is a Python program and a service.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use casemate_attestation::UnixTime;
use casemate_attestation::nvidia::{
    AbsentFlag, DeviceEvidence, DriverMode, DriverState, FeatureFlag, GpuNonce, GpuPolicy,
    GpuPolicyParts, GpuReference, GpuReport, OcspAnswers, PinnedGpuRoot, ReferenceKind, Revocation,
    verify_device,
};

use super::inputs::Vector;
use super::report::Row;
use super::turns::rates;

const ON: DriverState = DriverState {
    mode: DriverMode::On,
};

/// 2026-03-01, when the vector is to be judged.
const VERIFY_AT: u64 = 1_772_323_200;

/// One row.
pub fn rows(evidence: &Path) -> anyhow::Result<Vec<Row>> {
    let name = "hopper-550";
    let vector = Vector::read(evidence, &format!("nvidia/{name}"))?;
    let device = DeviceEvidence {
        report: vector.file("report.bin")?,
        chain: vector.file("chain.pem")?,
    };
    let nonce = hex::decode(vector.text("/request/nonce")?)?;
    let nonce = nonce
        .try_into()
        .map_err(|_| anyhow!("a nonce has 32 bytes"))?;
    let nonce = GpuNonce::recorded(nonce);
    let policy = policy(&GpuReport::parse(&device.report)?)?;
    let root = [PinnedGpuRoot::nvidia()];
    let now = UnixTime::from_secs(VERIFY_AT);
    let judge = || {
        verify_device(
            &device,
            &nonce,
            &policy,
            &root,
            &OcspAnswers::none(),
            ON,
            now,
        )?;
        Ok(())
    };
    let [ours] = rates([&judge])?;
    Ok(vec![Row::alone(format!("nvidia, {name}"), ours)])
}

/// Exactly what this GPU measured.
fn policy(report: &GpuReport) -> anyhow::Result<GpuPolicy> {
    let opaque = report.opaque();
    let driver = opaque.driver_version().context("a driver version")?;
    let vbios = opaque.vbios_version().context("a VBIOS version")?;
    let list = |kind, version: &str, keep: fn(u8) -> bool| -> anyhow::Result<GpuReference> {
        let measured: BTreeMap<u8, Vec<[u8; 48]>> = report
            .measurements()
            .iter()
            .filter_map(|(spdm, value)| Some((spdm.checked_sub(1)?, vec![*value])))
            .filter(|(index, _)| keep(*index))
            .collect();
        Ok(GpuReference::new(kind, version, measured)?)
    };
    let spare = BTreeMap::from([(0, vec![[0; 48]])]);
    Ok(GpuPolicy::new(GpuPolicyParts {
        references: vec![
            list(ReferenceKind::Driver, driver, |it| it == 7 || it > 12)?,
            list(ReferenceKind::Vbios, vbios, |it| it != 7 && it <= 12)?,
            GpuReference::new(ReferenceKind::Switch, "0.spare", spare)?,
        ],
        driver_versions: [driver.to_owned()].into(),
        vbios_versions: [vbios.to_owned()].into(),
        switch_versions: ["1".to_owned()].into(),
        gpus: 1,
        switches: 0,
        mode: opaque.feature_flag().unwrap_or(FeatureFlag::SingleGpu),
        absent_flag: AbsentFlag::AcceptedFromOldDrivers,
        revocation: Revocation::NotJudgedAccepted,
    })?)
}
