//! Seeds of the targets `collateral_bundle` and `ocsp_response`: a bundle of everything by the tests' signers, and an answer with
//! the certificates that it is about.

use casemate_attestation::collateral::{GpuList, IndexValues, Packer};
use casemate_attestation::nvidia::ReferenceKind;
use casemate_attestation::test_chip::TestChip;
use casemate_attestation::{Measurement, Payload as _, Sha256Digest};

use super::{Outcome, ocsp, spdm, tdx, write};

pub fn write_all(chip: &TestChip) -> Outcome {
    let mut device = spdm::case();
    device.device.authority_template.serial = vec![9];
    let ders = device.ders();
    let [_, own, authority, root] = ders.as_slice() else {
        return Err("a chain of four".into());
    };
    let answer = |certificate: &[u8], issuer: &[u8], key: &spdm::Key| {
        ocsp::Answer::of_issuer(ocsp::Line::good(certificate, issuer), issuer).sign(key)
    };
    let of_device = answer(own, authority, &device.maker.authority);
    let of_authority = answer(authority, root, &device.maker.root);
    write("ocsp_response/good", &of_authority)?;
    write("ocsp-authority.der", authority)?;
    write("ocsp-root.der", root)?;

    let platform = tdx::Platform::new();
    let held = chip.collateral();
    let mut packer = Packer::new();
    for file in [
        held.vek.clone(),
        held.intermediate.clone(),
        held.crl.clone(),
        platform.collateral().to_json()?,
        platform.pck_chain().into_bytes(),
        spdm::pem(&ders),
        of_device,
        of_authority,
    ] {
        packer.add(&file)?;
    }
    packer.add_lists(&[GpuList {
        kind: ReferenceKind::Driver,
        version: "580.1".to_owned(),
        product: "GH100".to_owned(),
        manifest: Sha256Digest::of(b"manifest"),
        values: vec![IndexValues {
            index: 7,
            digests: vec![Measurement::from_bytes([1; 48])],
        }],
    }]);
    write("collateral_bundle/everything.json", &packer.finish()?.to_payload()?)
}
