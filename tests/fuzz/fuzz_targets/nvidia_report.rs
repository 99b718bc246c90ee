//! A GPU's report with its chain, through the whole appraisal. Input: the report's length in two
//! bytes, the report, and the chain in PEM. Nothing is accepted but what the test signer's device
//! signed. The seed is written by the signer of the tests, and its root lies beside the seeds.
#![no_main]

#[path = "../../../attestation/tests/support/spdm.rs"]
mod spdm;

use casemate_attestation::nvidia::{
    DeviceEvidence, GpuNonce, GpuPolicy, GpuReport, GpuSetVerdict, NvidiaRejection, OcspAnswers, PinnedGpuRoot,
    verify_devices,
};
use libfuzzer_sys::fuzz_target;

const DEVICE: &[u8] = include_bytes!("../seeds/nvidia_report/device");
const ROOT: &[u8] = include_bytes!("../seeds/nvidia-root.der");

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    if let Ok(report) = GpuReport::parse(bytes) {
        assert_eq!(report.signed().len() + 96 + report.unread(), bytes.len());
    }
    if let Ok(verdict) = appraise(&evidence(bytes), &[PinnedGpuRoot::private(ROOT)]) {
        let Ok(genuine) = GpuReport::parse(&evidence(DEVICE).report) else {
            panic!("the seed is out of date");
        };
        assert_eq!(verdict.devices()[0].report().signed(), genuine.signed());
    }
});

fn seeds() {
    let genuine = evidence(DEVICE);
    let judged = appraise(&genuine, &[PinnedGpuRoot::private(ROOT)]);
    assert!(judged.is_ok(), "the seed is out of date");
    assert!(appraise(&genuine, &[PinnedGpuRoot::nvidia()]).is_err());
}

fn evidence(bytes: &[u8]) -> DeviceEvidence {
    let (length, rest) = bytes.split_at(bytes.len().min(2));
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (report, chain) = rest.split_at(length.min(rest.len()));
    DeviceEvidence {
        report: report.to_vec(),
        chain: chain.to_vec(),
    }
}

fn appraise(
    evidence: &DeviceEvidence,
    roots: &[PinnedGpuRoot],
) -> Result<GpuSetVerdict, NvidiaRejection> {
    let Ok(policy) = GpuPolicy::new(spdm::parts()) else {
        panic!("a policy with one of everything");
    };
    let nonce = GpuNonce::recorded(spdm::NONCE);
    let one = std::slice::from_ref(evidence);
    verify_devices(one, &nonce, &policy, roots, &OcspAnswers::none(), spdm::ON, spdm::NOW)
}
