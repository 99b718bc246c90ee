//! A platform that is not one: a private PKI shaped like Intel's, its collateral, and quotes signed under it.
//!
//! Everything a test may want to be wrong is a field or a tree that it can change before it is signed. What comes out is
//! well-formed; the real verifier judges it with another root. Fixed dates, fresh keys.

#![allow(dead_code, reason = "each test file uses its own part")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_attestation::tdx::{
    Expected, TdxCollateral, TdxMeasurement, TdxPolicy, TdxRejection, TdxRoot, TdxVerdict,
    verify_tdx_quote,
};
use casemate_attestation::{ChipId, Measurement, Sha256Digest, UnixTime};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use serde_json::{Value, json};

use super::der::{Der, extension};

/// 2026-03-01T00:00:00Z.
pub const NOW: UnixTime = UnixTime::from_secs(1_772_323_200);
pub const DAY: u64 = 86_400;
/// Certificates are valid in these years, lists and documents from nine days before [`NOW`] to 21 days after.
pub const CERTIFICATE_FROM: (&str, u64) = ("250101000000Z", 1_735_689_600);
pub const CERTIFICATE_UNTIL: (&str, u64) = ("330101000000Z", 1_988_150_400);
pub const ISSUED: UnixTime = NOW.minus(9 * DAY);
pub const DUE: UnixTime = NOW.plus(21 * DAY);

pub const REPORT_DATA: [u8; 64] = [0x44; 64];
pub const PPID: [u8; 16] = [0xa1; 16];
pub const INSTANCE: [u8; 16] = [0xb2; 16];
pub const EVALUATION: u32 = 20;

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
pub const SGX: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];

/// A P-256 key that signs both as certificates want it and as quotes want it.
pub struct Key {
    der: EcdsaKeyPair,
    fixed: EcdsaKeyPair,
}

impl Key {
    pub fn generate() -> Self {
        let random = SystemRandom::new();
        let secret =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = |form| EcdsaKeyPair::from_pkcs8(form, secret.as_ref(), &random).unwrap();
        Self {
            der: pair(&ECDSA_P256_SHA256_ASN1_SIGNING),
            fixed: pair(&ECDSA_P256_SHA256_FIXED_SIGNING),
        }
    }

    /// The uncompressed point, 65 bytes.
    pub fn point(&self) -> &[u8] {
        self.der.public_key().as_ref()
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.der
            .sign(&SystemRandom::new(), message)
            .unwrap()
            .as_ref()
            .to_vec()
    }

    /// R and S, 32 bytes each.
    pub fn sign_fixed(&self, message: &[u8]) -> Vec<u8> {
        self.fixed
            .sign(&SystemRandom::new(), message)
            .unwrap()
            .as_ref()
            .to_vec()
    }
}

/// Somebody with a name, a serial number and a key.
pub struct Identity {
    pub name: &'static str,
    pub serial: u8,
    pub key: Key,
}

impl Identity {
    pub fn new(name: &'static str, serial: u8) -> Self {
        let key = Key::generate();
        Self { name, serial, key }
    }
}

/// What a certificate allows.
#[derive(Clone, Copy)]
pub enum Rank {
    /// With so many authorities below.
    Authority(u8),
    Leaf,
}

fn oid(bytes: &[u8]) -> Der {
    Der::primitive(0x06, bytes)
}

fn bits(bytes: &[u8]) -> Der {
    Der::primitive(0x03, &[&[0], bytes].concat())
}

fn constructed(tag: u8, parts: Vec<Der>) -> Der {
    Der {
        tag,
        ..Der::sequence(parts)
    }
}

fn name(common: &str) -> Der {
    let pair = vec![oid(COMMON_NAME), Der::primitive(0x0c, common.as_bytes())];
    Der::sequence(vec![constructed(0x31, vec![Der::sequence(pair)])])
}

fn time(text: &str) -> Der {
    Der::primitive(0x17, text.as_bytes())
}

fn algorithm() -> Der {
    Der::sequence(vec![oid(ECDSA_SHA256)])
}

/// Signs the inner part of a certificate or list.
fn signed(inner: &Der, algorithm: &Der, key: &Key) -> Vec<u8> {
    let signature = bits(&key.sign(&inner.write()));
    Der::sequence(vec![inner.clone(), algorithm.clone(), signature]).write()
}

/// Changes what is signed and the algorithm beside it, and signs again.
pub fn altered(key: &Key, der: &[u8], change: impl FnOnce(&mut Der, &mut Der)) -> Vec<u8> {
    let mut whole = Der::read(der);
    assert_eq!(whole.write(), der);
    let [inner, algorithm, _] = whole.parts.as_mut_slice() else {
        panic!("three parts");
    };
    change(inner, algorithm);
    signed(inner, algorithm, key)
}

/// Positions inside what is signed of a certificate.
pub const VERSION: [usize; 2] = [0, 0];
pub const SUBJECT_NAME: [usize; 4] = [5, 0, 0, 1];
pub const NOT_BEFORE: [usize; 2] = [4, 0];
pub const NOT_AFTER: [usize; 2] = [4, 1];
pub const CURVE: [usize; 3] = [6, 0, 1];
pub const EXTENSIONS: [usize; 2] = [7, 0];

/// A certificate as Intel makes them.
pub fn certificate(issuer: &Identity, subject: &Identity, rank: Rank, more: Vec<Der>) -> Vec<u8> {
    let (constraints, usage) = match rank {
        Rank::Authority(depth) => (
            vec![
                Der::primitive(0x01, &[0xff]),
                Der::primitive(0x02, &[depth]),
            ],
            [1, 0x06],
        ),
        Rank::Leaf => (Vec::new(), [6, 0xc0]),
    };
    let mut extensions = vec![
        extension(BASIC_CONSTRAINTS, true, &Der::sequence(constraints).write()),
        extension(KEY_USAGE, true, &Der::primitive(0x03, &usage).write()),
    ];
    extensions.extend(more);
    let key = Der::sequence(vec![
        Der::sequence(vec![oid(EC_PUBLIC_KEY), oid(PRIME256V1)]),
        bits(subject.key.point()),
    ]);
    let inner = Der::sequence(vec![
        constructed(0xa0, vec![Der::primitive(0x02, &[2])]),
        Der::primitive(0x02, &[subject.serial]),
        algorithm(),
        name(issuer.name),
        Der::sequence(vec![time(CERTIFICATE_FROM.0), time(CERTIFICATE_UNTIL.0)]),
        name(subject.name),
        key,
        constructed(0xa3, vec![Der::sequence(extensions)]),
    ]);
    signed(&inner, &algorithm(), &issuer.key)
}

/// A revocation list that names these serial numbers.
pub fn crl(issuer: &Identity, revoked: &[u8]) -> Vec<u8> {
    let mut parts = vec![
        Der::primitive(0x02, &[1]),
        algorithm(),
        name(issuer.name),
        time("260220000000Z"),
        time("260322000000Z"),
    ];
    let entry = |serial: &u8| {
        Der::sequence(vec![
            Der::primitive(0x02, &[*serial]),
            time("260220000000Z"),
        ])
    };
    if !revoked.is_empty() {
        parts.push(Der::sequence(revoked.iter().map(entry).collect()));
    }
    let number = extension(CRL_NUMBER, false, &Der::primitive(0x02, &[1]).write());
    parts.push(constructed(0xa0, vec![Der::sequence(vec![number])]));
    signed(&Der::sequence(parts), &algorithm(), &issuer.key)
}

/// A pair of the SGX extension: Intel's numbers and a value.
pub fn sgx_entry(number: &[u8], value: Der) -> Der {
    Der::sequence(vec![oid(&[SGX, number].concat()), value])
}

/// The SGX extension of the platform: PPID, firmware, PCE id, FMSPC, type, instance, configuration, in this order.
pub fn sgx_extension() -> Der {
    let octets = |bytes: &[u8]| Der::primitive(0x04, bytes);
    let number = |value: u8| Der::primitive(0x02, &[value]);
    let mut tcb: Vec<_> = (1..=16)
        .map(|index| sgx_entry(&[2, index], number(5)))
        .collect();
    tcb.push(sgx_entry(&[2, 17], number(13)));
    tcb.push(sgx_entry(&[2, 18], octets(&[5; 16])));
    let flags = [0xff, 0xff, 0].iter().zip(1_u8..);
    let flags = flags.map(|(flag, index)| sgx_entry(&[7, index], Der::primitive(0x01, &[*flag])));
    Der::sequence(vec![
        sgx_entry(&[1], octets(&PPID)),
        sgx_entry(&[2], Der::sequence(tcb)),
        sgx_entry(&[3], octets(&[0, 0])),
        sgx_entry(&[4], octets(&[0x90, 0xc0, 0x6f, 0, 0, 0])),
        sgx_entry(&[5], Der::primitive(0x0a, &[1])),
        sgx_entry(&[6], octets(&INSTANCE)),
        sgx_entry(&[7], Der::sequence(flags.collect())),
    ])
}

pub fn pem(certificates: &[&[u8]]) -> String {
    let block = |der: &&[u8]| {
        let text = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    certificates.iter().map(block).collect()
}

/// What a quote says before it is signed.
#[derive(Clone)]
pub struct Quote {
    pub version: u16,
    pub key_type: u16,
    pub tee: u32,
    pub reserved: [u8; 4],
    pub vendor: [u8; 16],
    pub body_type: u16,
    pub body_size: u32,
    pub body: Vec<u8>,
    pub qe_report: [u8; 384],
    pub auth_data: Vec<u8>,
    pub outer_type: u16,
    pub inner_type: u16,
    pub behind: Vec<u8>,
}

/// Offsets in the body.
pub const TEE_TCB_SVN: usize = 0;
pub const MR_SEAM: usize = 16;
pub const MR_SIGNER_SEAM: usize = 64;
pub const SEAM_ATTRIBUTES: usize = 112;
pub const TD_ATTRIBUTES: usize = 120;
pub const XFAM: usize = 128;
pub const MRTD: usize = 136;
pub const MR_CONFIG_ID: usize = 184;
pub const MR_OWNER: usize = 232;
pub const MR_OWNER_CONFIG: usize = 280;
pub const RTMR0: usize = 328;
pub const REPORT_DATA_AT: usize = 520;
pub const TEE_TCB_SVN_2: usize = 584;
pub const MR_SERVICE_TD: usize = 600;
/// Offsets in the QE report.
pub const QE_MISC_SELECT: usize = 16;
pub const QE_ATTRIBUTES: usize = 48;
pub const QE_MR_SIGNER: usize = 128;
pub const QE_PRODUCT: usize = 256;
pub const QE_VERSION: usize = 258;

pub fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

impl Quote {
    fn new() -> Self {
        let mut body = vec![0; 648];
        put(&mut body, TEE_TCB_SVN, &[6, 1, 3]);
        put(&mut body, MR_SEAM, &[0x11; 48]);
        put(&mut body, TD_ATTRIBUTES, &(1_u64 << 28).to_le_bytes());
        put(&mut body, XFAM, &0x0006_02e7_u64.to_le_bytes());
        put(&mut body, MRTD, &[0x22; 48]);
        for register in 0..4 {
            put(
                &mut body,
                RTMR0 + 48 * register,
                &[0x30 + register as u8; 48],
            );
        }
        put(&mut body, REPORT_DATA_AT, &REPORT_DATA);
        put(&mut body, TEE_TCB_SVN_2, &[7, 1, 3]);
        let mut qe_report = [0; 384];
        put(
            &mut qe_report,
            QE_ATTRIBUTES,
            &[0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7],
        );
        put(&mut qe_report, QE_MR_SIGNER, &[0xdc; 32]);
        put(&mut qe_report, QE_PRODUCT, &[2, 0, 8, 0]);
        Self {
            version: 5,
            key_type: 2,
            tee: 0x81,
            reserved: [0; 4],
            vendor: [
                0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f,
                0x06, 0x07,
            ],
            body_type: 3,
            body_size: 648,
            body,
            qe_report,
            auth_data: (0..32).collect(),
            outer_type: 6,
            inner_type: 5,
            behind: Vec::new(),
        }
    }

    /// Writes into the body.
    pub fn body(&mut self, offset: usize, value: &[u8]) {
        put(&mut self.body, offset, value);
    }

    /// A body of TDX 1.0 in version 4.
    pub fn version_4(&mut self) {
        self.version = 4;
        self.body.truncate(584);
    }

    /// A body of type 4; `extension` is what stands behind the 648 bytes of type 3.
    pub fn extended(&mut self, extension: &[u8; 237]) {
        (self.body_type, self.body_size) = (4, 885);
        self.body.extend(extension);
    }

    fn signed_part(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.version.to_le_bytes());
        out.extend(self.key_type.to_le_bytes());
        out.extend(self.tee.to_le_bytes());
        out.extend(self.reserved);
        out.extend(self.vendor);
        out.extend([0x77; 20]);
        if self.version == 5 {
            out.extend(self.body_type.to_le_bytes());
            out.extend(self.body_size.to_le_bytes());
        }
        out.extend(&self.body);
        out
    }
}

/// Everybody who signs, what was issued, and what is signed on demand.
pub struct Platform {
    pub root: Identity,
    pub authority: Identity,
    pub pck: Identity,
    pub info_signer: Identity,
    pub qe_signer: Identity,
    pub attestation: Key,
    pub root_der: Vec<u8>,
    pub authority_der: Vec<u8>,
    pub pck_der: Vec<u8>,
    pub info_signer_der: Vec<u8>,
    pub qe_signer_der: Vec<u8>,
    pub root_crl: Vec<u8>,
    pub pck_crl: Vec<u8>,
    pub tcb_info: Value,
    pub qe_identity: Value,
    pub quote: Quote,
}

impl Platform {
    pub fn new() -> Self {
        let root = Identity::new("Intel SGX Root CA", 1);
        let authority = Identity::new("Intel SGX PCK Platform CA", 2);
        let pck = Identity::new("Intel SGX PCK Certificate", 3);
        let info_signer = Identity::new("Intel SGX TCB Signing", 4);
        let qe_signer = Identity::new("Intel SGX TCB Signing", 5);
        let sgx = extension(SGX, false, &sgx_extension().write());
        Self {
            root_der: certificate(&root, &root, Rank::Authority(1), Vec::new()),
            authority_der: certificate(&root, &authority, Rank::Authority(0), Vec::new()),
            pck_der: certificate(&authority, &pck, Rank::Leaf, vec![sgx]),
            info_signer_der: certificate(&root, &info_signer, Rank::Leaf, Vec::new()),
            qe_signer_der: certificate(&root, &qe_signer, Rank::Leaf, Vec::new()),
            root_crl: crl(&root, &[]),
            pck_crl: crl(&authority, &[0x66]),
            tcb_info: tcb_info(),
            qe_identity: qe_identity(),
            quote: Quote::new(),
            attestation: Key::generate(),
            root,
            authority,
            pck,
            info_signer,
            qe_signer,
        }
    }

    pub fn trusted(&self) -> TdxRoot {
        TdxRoot::private(&self.root_der)
    }

    /// The PCK certificate with another SGX extension.
    pub fn describe(&mut self, change: impl FnOnce(&mut Der)) {
        let mut sgx = sgx_extension();
        change(&mut sgx);
        let sgx = extension(SGX, false, &sgx.write());
        self.pck_der = certificate(&self.authority, &self.pck, Rank::Leaf, vec![sgx]);
    }

    pub fn pck_chain(&self) -> String {
        pem(&[&self.pck_der, &self.authority_der, &self.root_der])
    }

    /// Signs the quote.
    pub fn signed_quote(&self) -> Vec<u8> {
        let quote = &self.quote;
        let key = &self.attestation.point()[1..];
        let mut report = quote.qe_report;
        if report[320..] == [0; 64] {
            let named = Sha256Digest::of(&[key, &quote.auth_data].concat());
            put(&mut report, 320, named.as_bytes());
        }
        let chain = self.pck_chain();
        let mut inside = report.to_vec();
        inside.extend(self.pck.key.sign_fixed(&report));
        inside.extend((quote.auth_data.len() as u16).to_le_bytes());
        inside.extend(&quote.auth_data);
        inside.extend(quote.inner_type.to_le_bytes());
        inside.extend((chain.len() as u32).to_le_bytes());
        inside.extend(chain.as_bytes());
        let mut out = quote.signed_part();
        let signature = self.attestation.sign_fixed(&out);
        let length = 64 + 64 + 6 + inside.len();
        out.extend((length as u32).to_le_bytes());
        out.extend(signature);
        out.extend(key);
        out.extend(quote.outer_type.to_le_bytes());
        out.extend((inside.len() as u32).to_le_bytes());
        out.extend(inside);
        out.extend(&quote.behind);
        out
    }

    /// Signs the documents and writes the collateral down.
    pub fn collateral_json(&self) -> Value {
        let (info, identity) = (self.tcb_info.to_string(), self.qe_identity.to_string());
        json!({
            "pck_crl_issuer_chain": pem(&[&self.authority_der, &self.root_der]),
            "root_ca_crl": hex::encode(&self.root_crl),
            "pck_crl": hex::encode(&self.pck_crl),
            "tcb_info_issuer_chain": pem(&[&self.info_signer_der, &self.root_der]),
            "tcb_info_signature": hex::encode(self.info_signer.key.sign_fixed(info.as_bytes())),
            "tcb_info": info,
            "qe_identity_issuer_chain": pem(&[&self.qe_signer_der, &self.root_der]),
            "qe_identity_signature": hex::encode(self.qe_signer.key.sign_fixed(identity.as_bytes())),
            "qe_identity": identity,
        })
    }

    pub fn collateral(&self) -> TdxCollateral {
        TdxCollateral::from_json(self.collateral_json().to_string().as_bytes()).unwrap()
    }

    /// Judges everything with the policy that fits and the platform's own root.
    pub fn judge(&self) -> Result<TdxVerdict, TdxRejection> {
        self.judge_under(&policy())
    }

    pub fn judge_under(&self, policy: &TdxPolicy) -> Result<TdxVerdict, TdxRejection> {
        self.judge_at(policy, NOW)
    }

    pub fn judge_at(&self, policy: &TdxPolicy, now: UnixTime) -> Result<TdxVerdict, TdxRejection> {
        let (quote, root) = (self.signed_quote(), self.trusted());
        verify_tdx_quote(&quote, &self.collateral(), &REPORT_DATA, policy, &root, now)
    }
}

pub fn measured(byte: u8) -> Measurement {
    Measurement::from_bytes([byte; 48])
}

pub fn exactly(byte: u8) -> Expected {
    Expected::OneOf(vec![measured(byte)])
}

/// The id of the platform: PPID, instance, zeros.
pub fn platform_id() -> ChipId {
    let mut id = [0; 64];
    put(&mut id, 0, &PPID);
    put(&mut id, 16, &INSTANCE);
    ChipId::from_bytes(id)
}

pub fn reference() -> TdxMeasurement {
    TdxMeasurement {
        mrtd: measured(0x22),
        rtmrs: [0x30, 0x31, 0x32, 0x33].map(exactly),
    }
}

/// The strictest policy that the platform's quote meets.
pub fn policy() -> TdxPolicy {
    TdxPolicy::new(vec![reference()], vec![platform_id()], EVALUATION)
        .unwrap()
        .with_mr_seam(exactly(0x11))
}

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

fn tcb_info() -> Value {
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

fn qe_identity() -> Value {
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
