//! GPUs that are none: a seed becomes a private device root that certifies them, and each signs well-formed SPDM reports.
//!
//! Whoever knows the seed can forge every report. The same seed is the same root and the same GPUs in every process and version,
//! so that a root can be pinned and a GPU enrolled. A GPU answers whatever it is asked.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use ring::digest::{SHA384, digest};

use super::certificates::{VALID_FROM, VALID_UNTIL};
use super::der::{
    OCTET_STRING, SET, UTF8_STRING, bits, boolean_true, explicit, integer, oid, sequence, time, tlv,
};
use super::p384_key;
use crate::collateral::{GpuList, IndexValues};
use crate::digest::{Measurement, Sha256Digest};
use crate::nvidia::{DeviceEvidence, DeviceKind, FeatureFlag, GpuNonce, ReferenceKind};
use crate::reference::NvidiaReference;

/// The driver that reports name.
pub const DRIVER: &str = "0.0.1-test";
/// The VBIOS that reports name.
pub const VBIOS: &str = "00.00.00.01.00";

const ROOT: &str = "Casemate test device root, NOT CONFIDENTIAL";
const AUTHORITY: &str = "Casemate test provisioner, NOT CONFIDENTIAL";
/// Measurements of a report, in SPDM numbers from 1.
const MEASUREMENTS: u8 = 16;
/// Manifest indices of the two lists, whose values reports have one number later.
const DRIVER_INDICES: [u8; 3] = [7, 9, 11];
const VBIOS_INDICES: [u8; 3] = [0, 8, 12];
/// Bits of key usage.
const SIGNS: u8 = 0x80;
const CERTIFIES: u8 = 0x04;

/// One GPU of a seed.
#[derive(Clone)]
pub struct TestGpu {
    leaf: SigningKey,
    chain: Vec<u8>,
    device_key: Sha256Digest,
}

impl TestGpu {
    /// Derives GPU `number` of a seed.
    #[must_use]
    pub fn of_seed(seed: &[u8; 32], number: u32) -> Self {
        let maker = Maker::of_seed(seed);
        let device = p384_key(seed, &format!("gpu/{number}/device"));
        let leaf = p384_key(seed, &format!("gpu/{number}/leaf"));
        let subject = format!("Casemate test GPU {number}, NOT CONFIDENTIAL");
        let certificate = Form {
            serial: &[&[1][..], &number.to_be_bytes()].concat(),
            subject: "Casemate test GPU firmware",
            issuer: &subject,
            usage: SIGNS,
            authority: false,
            extension: composite(&device),
        };
        let own = Form::authority(
            &[&[2][..], &number.to_be_bytes()].concat(),
            &subject,
            AUTHORITY,
        )
        .issue(&device, &maker.authority);
        let above = Form::authority(&[3], AUTHORITY, ROOT).issue(&maker.authority, &maker.root);
        let chain = [
            certificate.issue(&leaf, &device),
            own,
            above,
            maker.root_der(),
        ];
        Self {
            chain: pem(&chain),
            device_key: Sha256Digest::of(&point(&device)),
            leaf,
        }
    }

    /// The root certificate (DER) of a seed's GPUs, for [`PinnedGpuRoot::private`](crate::nvidia::PinnedGpuRoot::private).
    #[must_use]
    pub fn root_der(seed: &[u8; 32]) -> Vec<u8> {
        Maker::of_seed(seed).root_der()
    }

    /// What the fleet list calls the GPU.
    #[must_use]
    pub const fn device_key(&self) -> Sha256Digest {
        self.device_key
    }

    /// What it is.
    pub const KIND: DeviceKind = DeviceKind::Gpu;

    /// The GPU's answer.
    #[must_use]
    pub fn evidence(&self, nonce: &GpuNonce) -> DeviceEvidence {
        DeviceEvidence {
            report: self.report(nonce.as_bytes()),
            chain: self.chain.clone(),
        }
    }

    /// Request and response (DSP0274 1.1, GET_MEASUREMENTS and MEASUREMENTS), signed.
    fn report(&self, nonce: &[u8; 32]) -> Vec<u8> {
        let record: Vec<u8> = (1..=MEASUREMENTS).flat_map(block).collect();
        let opaque = opaque();
        let mut out = vec![0x11, 0xe0, 1, 0xff];
        out.extend(nonce);
        out.extend([0, 0x11, 0x60, 0, 0, MEASUREMENTS]);
        out.extend(little(record.len()).iter().take(3));
        out.extend(record);
        // A device's own nonce; this one has no use for it.
        out.extend([0; 32]);
        out.extend(little(opaque.len()).iter().take(2));
        out.extend(opaque);
        let signature: Signature = self.leaf.sign(&out);
        out.extend(signature.to_bytes());
        out
    }

    /// The section of reference values that accepts these GPUs. Nobody answers about revocation of their certificates.
    #[must_use]
    pub fn reference() -> NvidiaReference {
        let list = |kind, version: &str, indices: &[u8]| {
            let right = |index: &u8| IndexValues {
                index: *index,
                digests: vec![Measurement::from_bytes(value(index.saturating_add(1)))],
            };
            GpuList {
                kind,
                version: version.to_owned(),
                product: "test".to_owned(),
                manifest: Sha256Digest::of(version.as_bytes()),
                values: indices.iter().map(right).collect(),
            }
        };
        NvidiaReference {
            lists: vec![
                list(ReferenceKind::Driver, DRIVER, &DRIVER_INDICES),
                list(ReferenceKind::Vbios, VBIOS, &VBIOS_INDICES),
            ],
            driver_versions: [DRIVER.to_owned()].into(),
            vbios_versions: [VBIOS.to_owned()].into(),
            switch_versions: [].into(),
            mode: FeatureFlag::SingleGpu,
            absent_mode_accepted: false,
            revocation_not_judged_accepted: true,
        }
    }
}

impl std::fmt::Debug for TestGpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestGpu({}, ..)", self.device_key)
    }
}

/// Who certifies a seed's GPUs.
struct Maker {
    root: SigningKey,
    authority: SigningKey,
}

impl Maker {
    fn of_seed(seed: &[u8; 32]) -> Self {
        Self {
            root: p384_key(seed, "gpu/root"),
            authority: p384_key(seed, "gpu/authority"),
        }
    }

    fn root_der(&self) -> Vec<u8> {
        Form::authority(&[4], ROOT, ROOT).issue(&self.root, &self.root)
    }
}

/// What differs between certificates.
struct Form<'a> {
    serial: &'a [u8],
    subject: &'a str,
    issuer: &'a str,
    usage: u8,
    authority: bool,
    extension: Vec<u8>,
}

impl<'a> Form<'a> {
    const fn authority(serial: &'a [u8], subject: &'a str, issuer: &'a str) -> Self {
        Self {
            serial,
            subject,
            issuer,
            usage: CERTIFIES,
            authority: true,
            extension: Vec::new(),
        }
    }

    fn issue(&self, key: &SigningKey, signer: &SigningKey) -> Vec<u8> {
        let algorithm = sequence(&[&oid(1, 2, &[840, 10_045, 4, 3, 3])]);
        let usage = sequence(&[
            &oid(2, 5, &[29, 15]),
            &boolean_true(),
            &tlv(OCTET_STRING, &[&usage(self.usage)]),
        ]);
        let mut extensions = usage;
        if self.authority {
            let constraints = sequence(&[&boolean_true()]);
            extensions.extend(sequence(&[
                &oid(2, 5, &[29, 19]),
                &boolean_true(),
                &tlv(OCTET_STRING, &[&constraints]),
            ]));
        }
        extensions.extend(&self.extension);
        let tbs = sequence(&[
            &explicit(0, &integer(&[2])),
            &integer(self.serial),
            &algorithm,
            &name(self.issuer),
            &sequence(&[&time(VALID_FROM), &time(VALID_UNTIL)]),
            &name(self.subject),
            &spki(key),
            &explicit(3, &sequence(&[&extensions])),
        ]);
        let signature: Signature = signer.sign(&tbs);
        let (r, s) = signature.split_bytes();
        let signature = sequence(&[&integer(&r), &integer(&s)]);
        sequence(&[&tbs, &algorithm, &bits(&signature)])
    }
}

fn name(text: &str) -> Vec<u8> {
    let pair = sequence(&[&oid(2, 5, &[4, 3]), &tlv(UTF8_STRING, &[text.as_bytes()])]);
    sequence(&[&tlv(SET, &[&pair])])
}

/// A bit string of one byte without the zeros at its end.
fn usage(flags: u8) -> Vec<u8> {
    let unused = u8::try_from(flags.trailing_zeros()).unwrap_or_default();
    vec![0x03, 0x02, unused, flags]
}

fn point(key: &SigningKey) -> Vec<u8> {
    key.verifying_key().to_sec1_point(false).as_bytes().to_vec()
}

fn spki(key: &SigningKey) -> Vec<u8> {
    let curve = sequence(&[&oid(1, 2, &[840, 10_045, 2, 1]), &oid(1, 3, &[132, 0, 34])]);
    sequence(&[&curve, &bits(&point(key))])
}

/// CompositeDeviceID as Hopper's leaves have it: version, device key, firmware id.
fn composite(device: &SigningKey) -> Vec<u8> {
    let firmware = sequence(&[
        &oid(2, 16, &[840, 1, 101, 3, 4, 2, 2]),
        &tlv(OCTET_STRING, &[&firmware_id()]),
    ]);
    let value = sequence(&[&integer(&[1]), &spki(device), &firmware]);
    sequence(&[&oid(2, 23, &[133, 5, 4, 1]), &tlv(OCTET_STRING, &[&value])])
}

fn pem(chain: &[Vec<u8>]) -> Vec<u8> {
    let block = |der: &Vec<u8>| {
        let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
        for (place, letter) in STANDARD.encode(der).chars().enumerate() {
            if place > 0 && place % 64 == 0 {
                text.push('\n');
            }
            text.push(letter);
        }
        text + "\n-----END CERTIFICATE-----\n"
    };
    chain.iter().map(block).collect::<String>().into_bytes()
}

fn firmware_id() -> [u8; 48] {
    sha384("firmware")
}

/// What stands in measurement `number`. It measures nothing.
fn value(number: u8) -> [u8; 48] {
    sha384(&format!("measurement/{number}"))
}

fn sha384(what: &str) -> [u8; 48] {
    let text = format!("casemate/test-gpu/v1/{what}");
    let mut out = [0; 48];
    out.copy_from_slice(digest(&SHA384, text.as_bytes()).as_ref());
    out
}

/// One measurement in the DMTF's form.
fn block(number: u8) -> Vec<u8> {
    [&[number, 1, 51, 0, 1, 48, 0][..], &value(number)].concat()
}

/// NVIDIA's fields: VBIOS, driver, decoder off, firmware id, not protected PCIe, version 1, a single GPU.
fn opaque() -> Vec<u8> {
    let fields: [(u16, &[u8]); 7] = [
        (6, &[1, 0, 0, 0, 0, 0, 0, 0]),
        (3, DRIVER.as_bytes()),
        (11, &[0x55]),
        (20, &firmware_id()),
        (21, &[0x55]),
        (34, &[1, 0]),
        (36, &[0, 0]),
    ];
    let field = |(id, value): &(u16, &[u8])| {
        let length = little(value.len());
        let length = length.iter().take(2).copied();
        let head: Vec<u8> = id.to_le_bytes().into_iter().chain(length).collect();
        [&head, *value].concat()
    };
    fields.iter().flat_map(field).collect()
}

fn little(length: usize) -> [u8; 8] {
    u64::try_from(length).unwrap_or(u64::MAX).to_le_bytes()
}
