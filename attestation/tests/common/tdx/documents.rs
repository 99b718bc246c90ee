//! TCB info and QE identity of the platform, as JSON that a test can change before it is signed.

#![allow(dead_code, reason = "each test file uses its own part")]

use serde_json::{Value, json};

use super::EVALUATION;

fn components(values: &[u8]) -> Value {
    let value = |index| json!({"svn": values.get(index).copied().unwrap_or(0)});
    (0..16).map(value).collect()
}

/// A level of the TCB info.
pub fn level(sgx: u8, pce: u16, tdx: &[u8], status: &str, advisories: &[&str]) -> Value {
    json!({
        "tcb": {
            "sgxtcbcomponents": components(&[sgx; 16]),
            "pcesvn": pce,
            "tdxtcbcomponents": components(tdx),
        },
        "tcbDate": "2025-08-13T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": advisories,
    })
}

/// A level of the module or the quoting enclave.
pub fn part_level(version: u16, status: &str, advisories: &[&str]) -> Value {
    json!({
        "tcb": {"isvsvn": version},
        "tcbDate": "2025-08-13T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": advisories,
    })
}

pub(super) fn tcb_info() -> Value {
    let (signer, attributes) = ("00".repeat(48), "0000000000000000");
    let mask = "FFFFFFFFFFFFFFFF";
    json!({
        "id": "TDX",
        "version": 3,
        "issueDate": "2026-02-20T00:00:00Z",
        "nextUpdate": "2026-03-22T00:00:00Z",
        "fmspc": "90C06F000000",
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION,
        "tdxModule": {"mrsigner": signer, "attributes": attributes, "attributesMask": mask},
        "tdxModuleIdentities": [{
            "id": "TDX_01",
            "mrsigner": signer,
            "attributes": attributes,
            "attributesMask": mask,
            "tcbLevels": [
                part_level(6, "UpToDate", &[]),
                part_level(4, "OutOfDate", &["INTEL-SA-00002"]),
            ],
        }],
        "tcbLevels": [
            level(5, 13, &[0, 0, 3], "UpToDate", &[]),
            level(4, 11, &[0, 0, 2], "OutOfDate", &["INTEL-SA-00001"]),
        ],
    })
}

pub(super) fn qe_identity() -> Value {
    json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": "2026-02-20T00:00:00Z",
        "nextUpdate": "2026-03-22T00:00:00Z",
        "tcbEvaluationDataNumber": EVALUATION,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "DC".repeat(32),
        "isvprodid": 2,
        "tcbLevels": [
            part_level(8, "UpToDate", &[]),
            part_level(6, "OutOfDate", &["INTEL-SA-00003"]),
        ],
    })
}
