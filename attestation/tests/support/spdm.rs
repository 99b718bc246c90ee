//! A GPU for tests: it signs reports, well-formed or not, under certificates of a private root, right ones and wrong ones.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_attestation::UnixTime;
use casemate_attestation::nvidia::{
    AbsentFlag, DeviceEvidence, DriverMode, DriverState, FeatureFlag, GpuNonce, GpuPolicy,
    GpuPolicyParts, GpuReference, GpuSetVerdict, GpuVerdict, NvidiaRejection, OcspAnswers,
    PinnedGpuRoot, ReferenceKind, Revocation, verify_device, verify_devices,
};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};

/// 2026-03-01T00:00:00Z.
pub const NOW: UnixTime = UnixTime::from_secs(1_772_323_200);
/// 2024-01-01T00:00:00Z and 2044-01-01T00:00:00Z.
pub const FROM: (&str, UnixTime) = ("240101000000Z", UnixTime::from_secs(1_704_067_200));
pub const UNTIL: (&str, UnixTime) = ("440101000000Z", UnixTime::from_secs(2_335_219_200));
pub const NONCE: [u8; 32] = *b"thirty-two bytes of fresh nonce!";
pub const ON: DriverState = DriverState {
    mode: DriverMode::On,
};
pub const DRIVER: &str = "580.1.2";
pub const VBIOS: &str = "96.00.74.00.20";
pub const SWITCH: &str = "96.10.55.00.01";
pub const FIRMWARE: [u8; 48] = [0xf1; 48];

/// A P-384 key.
pub struct Key {
    fixed: EcdsaKeyPair,
    der: EcdsaKeyPair,
}

impl Key {
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random);
        let pkcs8 = pkcs8.unwrap();
        let pair = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random);
        Self {
            fixed: pair(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            der: pair(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap(),
        }
    }

    pub fn point(&self) -> &[u8] {
        self.fixed.public_key().as_ref()
    }

    /// As certificates and answers have it.
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.der.sign(&SystemRandom::new(), message);
        signature.unwrap().as_ref().to_vec()
    }

    /// r and s, as SPDM writes them.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.fixed.sign(&SystemRandom::new(), message);
        signature.unwrap().as_ref().to_vec()
    }
}

pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        long @ 0x80..=0xff => out.extend([0x81, long as u8]),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend(content);
    out
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

pub fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    sequence(&[&tlv(6, &[id]), critical, &tlv(4, &[value])])
}

pub const SHA384: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];

pub fn fwid(digest: &[u8]) -> Vec<u8> {
    sequence(&[&tlv(6, &[&SHA384]), &tlv(4, &[digest])])
}

pub const EC_PUBLIC_KEY: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
pub const P384: [u8; 5] = [0x2b, 0x81, 4, 0, 0x22];

pub fn spki(point: &[u8]) -> Vec<u8> {
    public_key(&EC_PUBLIC_KEY, &P384, point)
}

/// A key that says of itself that it is of this kind and on this curve.
pub fn public_key(kind: &[u8], curve: &[u8], point: &[u8]) -> Vec<u8> {
    let algorithm = sequence(&[&tlv(6, &[kind]), &tlv(6, &[curve])]);
    sequence(&[&algorithm, &tlv(3, &[&[0], point])])
}

/// Hopper's extension, 2.23.133.5.4.1.
pub fn composite(device: &[u8], digest: &[u8]) -> Vec<u8> {
    let value = sequence(&[&[2, 1, 1], &spki(device), &fwid(digest)]);
    extension(&[0x67, 0x81, 0x05, 5, 4, 1], false, &value)
}

/// Blackwell's, 2.23.133.5.4.1.1, with two firmware ids.
pub fn tcb_info(first: &[u8], second: &[u8]) -> Vec<u8> {
    let ids = tlv(0xa6, &[&fwid(first), &fwid(second)]);
    let value = sequence(&[&tlv(0x80, &[b"NVIDIA"]), &ids, &tlv(0x87, &[&[0; 5]])]);
    extension(&[0x67, 0x81, 0x05, 5, 4, 1, 1], false, &value)
}

/// A certificate to be issued.
#[derive(Clone)]
pub struct Template {
    pub version: u8,
    pub serial: Vec<u8>,
    pub subject: String,
    pub issuer: String,
    pub from: &'static str,
    pub until: &'static str,
    /// Whether an authority, and how long a path may be below it.
    pub authority: Option<(bool, Option<u8>)>,
    /// Bits of key usage: 0x80 signing, 0x04 certificates.
    pub usage: Option<u8>,
    pub extensions: Vec<Vec<u8>>,
    /// Outside the signed part, if not the algorithm inside.
    pub algorithm_outside: Option<Vec<u8>>,
    /// The key, if not a P-384 point.
    pub key: Option<Vec<u8>>,
}

/// ecdsa-with-SHA384.
pub fn ecdsa_sha384() -> Vec<u8> {
    sequence(&[&tlv(6, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]])])
}

impl Template {
    pub fn authority(subject: &str, issuer: &str) -> Self {
        Self {
            version: 2,
            serial: vec![1],
            subject: subject.to_owned(),
            issuer: issuer.to_owned(),
            from: FROM.0,
            until: UNTIL.0,
            authority: Some((true, None)),
            usage: Some(0x04),
            extensions: Vec::new(),
            algorithm_outside: None,
            key: None,
        }
    }

    pub fn issue(&self, key: &Key, signer: &Key) -> Vec<u8> {
        let name = |text: &str| {
            let pair = sequence(&[&tlv(6, &[&[0x55, 4, 3]]), &tlv(0x0c, &[text.as_bytes()])]);
            sequence(&[&tlv(0x31, &[&pair])])
        };
        let date = |text: &str| tlv(0x17, &[text.as_bytes()]);
        let mut extensions = Vec::new();
        if let Some((authority, path)) = self.authority {
            let flag: &[u8] = if authority { &[1, 1, 0xff] } else { &[] };
            let path = path.map(|length| vec![2, 1, length]).unwrap_or_default();
            let value = sequence(&[flag, &path]);
            extensions.extend(extension(&[0x55, 0x1d, 19], true, &value));
        }
        if let Some(bits) = self.usage {
            let value = [3, 2, bits.trailing_zeros() as u8, bits];
            extensions.extend(extension(&[0x55, 0x1d, 15], true, &value));
        }
        extensions.extend(self.extensions.concat());
        let algorithm = ecdsa_sha384();
        let key = self.key.clone().unwrap_or_else(|| spki(key.point()));
        let tbs = sequence(&[
            &tlv(0xa0, &[&[2, 1, self.version]]),
            &tlv(2, &[&self.serial]),
            &algorithm,
            &name(&self.issuer),
            &sequence(&[&date(self.from), &date(self.until)]),
            &name(&self.subject),
            &key,
            &tlv(0xa3, &[&sequence(&[&extensions])]),
        ]);
        let signature = signer.der.sign(&SystemRandom::new(), &tbs).unwrap();
        let outside = self.algorithm_outside.as_ref().unwrap_or(&algorithm);
        sequence(&[&tbs, outside, &tlv(3, &[&[0], signature.as_ref()])])
    }
}

/// A maker with its root, and the devices that it makes.
pub struct Maker {
    pub root: Key,
    pub authority: Key,
}

pub const ROOT: &str = "Test device root";
pub const AUTHORITY: &str = "Test provisioner";

impl Maker {
    pub fn new() -> Self {
        Self {
            root: Key::new(),
            authority: Key::new(),
        }
    }

    pub fn root_der(&self) -> Vec<u8> {
        Template::authority(ROOT, ROOT).issue(&self.root, &self.root)
    }

    pub fn device(&self, number: u8) -> Device {
        let device = Key::new();
        let subject = format!("Test device {number}");
        let leaf = Template {
            serial: vec![0x10, number],
            authority: None,
            usage: Some(0x80),
            extensions: vec![composite(device.point(), &FIRMWARE)],
            ..Template::authority("Test firmware", &subject)
        };
        Device {
            key: Key::new(),
            device_template: Template::authority(&subject, AUTHORITY),
            authority_template: Template::authority(AUTHORITY, ROOT),
            leaf,
            device,
        }
    }
}

/// One device's keys and what its certificates say.
pub struct Device {
    pub key: Key,
    pub device: Key,
    pub leaf: Template,
    pub device_template: Template,
    pub authority_template: Template,
}

impl Device {
    /// Leaf, device, authority, root.
    pub fn chain(&self, maker: &Maker, root: &[u8]) -> Vec<Vec<u8>> {
        vec![
            self.leaf.issue(&self.key, &self.device),
            self.device_template.issue(&self.device, &maker.authority),
            self.authority_template.issue(&maker.authority, &maker.root),
            root.to_vec(),
        ]
    }
}

pub fn pem(chain: &[Vec<u8>]) -> Vec<u8> {
    let block = |der: &Vec<u8>| {
        let text = STANDARD.encode(der);
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        let body = lines.join("\n");
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    chain.iter().map(block).collect::<String>().into_bytes()
}

/// A report to be signed.
#[derive(Clone)]
pub struct Report {
    /// Version, code, attributes, operation.
    pub request: [u8; 4],
    pub nonce: [u8; 32],
    pub slot: u8,
    /// Version, code, total, slot.
    pub response: [u8; 4],
    pub blocks: Vec<Vec<u8>>,
    /// What the report says, if not what it has.
    pub count: Option<u8>,
    pub record: Option<u32>,
    pub fields: Vec<(u16, Vec<u8>)>,
    /// Instead of the fields.
    pub opaque: Option<Vec<u8>>,
    /// Behind the signature.
    pub behind: Vec<u8>,
}

pub fn block(index: u8, value: [u8; 48]) -> Vec<u8> {
    [&[index, 1, 51, 0, 1, 48, 0][..], &value].concat()
}

/// What the test device measured at a manifest index.
pub fn value(index: u8) -> [u8; 48] {
    [index.wrapping_mul(3) | 1; 48]
}

impl Report {
    pub fn gpu() -> Self {
        Self {
            request: [0x11, 0xe0, 1, 0xff],
            nonce: NONCE,
            slot: 0,
            response: [0x11, 0x60, 0, 0],
            blocks: (0..64)
                .map(|index| block(index + 1, value(index)))
                .collect(),
            count: None,
            record: None,
            fields: vec![
                (6, vec![0, 0x74, 0, 0x96, 0x20, 0, 0, 0]),
                (3, format!("{DRIVER}\0").into_bytes()),
                (11, vec![0x55]),
                (12, vec![0; 256]),
                (20, FIRMWARE.to_vec()),
                (21, vec![0x55]),
                (34, vec![1, 0]),
                (36, vec![0, 0]),
            ],
            opaque: None,
            behind: Vec::new(),
        }
    }

    /// A GPU linked to these switches in protected PCIe mode. A GPU writes identifiers in reverse.
    pub fn protected_gpu(switches: &[[u8; 8]]) -> Self {
        let mut report = Self::gpu();
        let turned = |pdi: &[u8; 8]| pdi.iter().rev().copied().collect::<Vec<u8>>();
        report.set(21, &[0xaa]);
        report.set(36, &[2, 0]);
        report.set(22, &switches.iter().flat_map(turned).collect::<Vec<_>>());
        report
    }

    /// A switch linked to these eight GPUs.
    pub fn switch(own: [u8; 8], gpus: &[[u8; 8]]) -> Self {
        let mut report = Self::gpu();
        report.blocks.truncate(31);
        report.fields = vec![
            (6, SWITCH.as_bytes().to_vec()),
            (22, own.to_vec()),
            (12, vec![0; 104]),
            (26, [gpus.concat(), vec![0xff; 64]].concat()),
        ];
        report
    }

    pub fn set(&mut self, field: u16, value: &[u8]) {
        self.drop(field);
        self.fields.push((field, value.to_vec()));
    }

    pub fn drop(&mut self, field: u16) {
        self.fields.retain(|(id, _)| *id != field);
    }

    pub fn sign(&self, key: &Key) -> Vec<u8> {
        let record = self.blocks.concat();
        let length = self.record.unwrap_or(record.len() as u32).to_le_bytes();
        let count = self.count.unwrap_or(self.blocks.len() as u8);
        let field = |(id, value): &(u16, Vec<u8>)| {
            let length = (value.len() as u16).to_le_bytes();
            [&id.to_le_bytes()[..], &length, value].concat()
        };
        let fields = self.fields.iter().flat_map(field).collect();
        let opaque = self.opaque.clone().unwrap_or(fields);
        let mut out = [&self.request[..], &self.nonce, &[self.slot], &self.response].concat();
        out.push(count);
        out.extend(&length[..3]);
        out.extend(record);
        out.extend([0x5c; 32]);
        out.extend((opaque.len() as u16).to_le_bytes());
        out.extend(opaque);
        let signature = key.sign(&out);
        out.extend(signature);
        out.extend(&self.behind);
        out
    }
}

/// The indices of the lists, of manifests' size.
pub const DRIVER_INDICES: [u8; 4] = [7, 21, 35, 40];
pub const VBIOS_INDICES: [u8; 3] = [0, 8, 12];

pub fn list(kind: ReferenceKind, version: &str, indices: &[u8]) -> GpuReference {
    let values: BTreeMap<_, _> = indices
        .iter()
        .map(|index| (*index, vec![[0xee; 48], value(*index)]))
        .collect();
    GpuReference::new(kind, version, values).unwrap()
}

/// A policy for one GPU that accepts [`Report::gpu`].
pub fn parts() -> GpuPolicyParts {
    let set = |version: &str| [version.to_owned()].into();
    GpuPolicyParts {
        references: vec![
            list(ReferenceKind::Driver, DRIVER, &DRIVER_INDICES),
            list(ReferenceKind::Vbios, VBIOS, &VBIOS_INDICES),
            list(ReferenceKind::Switch, SWITCH, &[0, 30]),
        ],
        driver_versions: set(DRIVER),
        vbios_versions: set(VBIOS),
        switch_versions: set(SWITCH),
        gpus: 1,
        switches: 0,
        mode: FeatureFlag::SingleGpu,
        absent_flag: AbsentFlag::Refused,
        revocation: Revocation::NotJudgedAccepted,
    }
}

/// One GPU, all that is judged, and who judges.
pub struct Case {
    pub maker: Maker,
    pub root: Vec<u8>,
    pub device: Device,
    pub report: Report,
    /// Instead of the device's own.
    pub chain: Option<Vec<u8>>,
    /// Instead of the device's own key.
    pub signer: Option<Key>,
    pub parts: GpuPolicyParts,
    pub answers: OcspAnswers,
    pub nonce: GpuNonce,
    pub driver: DriverState,
    pub now: UnixTime,
}

pub fn case() -> Case {
    let maker = Maker::new();
    Case {
        root: maker.root_der(),
        device: maker.device(1),
        maker,
        report: Report::gpu(),
        chain: None,
        signer: None,
        parts: parts(),
        answers: OcspAnswers::none(),
        nonce: GpuNonce::recorded(NONCE),
        driver: ON,
        now: NOW,
    }
}

impl Case {
    pub fn roots(&self) -> Vec<PinnedGpuRoot> {
        vec![PinnedGpuRoot::nvidia(), PinnedGpuRoot::private(&self.root)]
    }

    pub fn ders(&self) -> Vec<Vec<u8>> {
        self.device.chain(&self.maker, &self.root)
    }

    pub fn evidence(&self) -> DeviceEvidence {
        let key = self.signer.as_ref().unwrap_or(&self.device.key);
        DeviceEvidence {
            report: self.report.sign(key),
            chain: self.chain.clone().unwrap_or_else(|| pem(&self.ders())),
        }
    }

    pub fn judge(&self) -> Result<GpuVerdict, NvidiaRejection> {
        let policy = GpuPolicy::new(self.parts.clone()).unwrap();
        let (roots, nonce) = (self.roots(), &self.nonce);
        verify_device(
            &self.evidence(),
            nonce,
            &policy,
            &roots,
            &self.answers,
            self.driver,
            self.now,
        )
    }

    pub fn judge_all(&self, all: &[DeviceEvidence]) -> Result<GpuSetVerdict, NvidiaRejection> {
        let policy = GpuPolicy::new(self.parts.clone()).unwrap();
        verify_devices(
            all,
            &self.nonce,
            &policy,
            &self.roots(),
            &self.answers,
            self.driver,
            self.now,
        )
    }
}
