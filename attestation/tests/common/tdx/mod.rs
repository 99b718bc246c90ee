//! A platform that is not one: a private PKI shaped like Intel's, its collateral, and quotes signed under it.
//!
//! Everything a test may want to be wrong is a field or a tree that it can change before it is signed. What comes out is
//! well-formed; the real verifier judges it with another root. Fixed dates, fresh keys.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

mod documents;
mod pki;
mod quote;

use casemate_attestation::tdx::{
    Expected, KnownSignatures, TdxCollateral, TdxMeasurement, TdxPolicy, TdxRejection, TdxRoot,
    TdxVerdict, verify_tdx_quote, verify_tdx_quote_knowing,
};
use casemate_attestation::{ChipId, Measurement, Sha256Digest, UnixTime};
use serde_json::{Value, json};

use super::der::{Der, extension};
pub use documents::*;
pub use pki::*;
pub use quote::*;

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

    /// The same for somebody who knows signatures already.
    pub fn judge_knowing(
        &self,
        known: &KnownSignatures,
        policy: &TdxPolicy,
        now: UnixTime,
    ) -> Result<TdxVerdict, TdxRejection> {
        let (quote, collateral) = (self.signed_quote(), self.collateral());
        let root = self.trusted();
        verify_tdx_quote_knowing(&quote, &collateral, &REPORT_DATA, policy, &root, known, now)
    }
}

/// The verdict on a quote that somebody asked for with this report data.
pub fn verdict_over(report_data: &[u8; 64]) -> TdxVerdict {
    let mut platform = Platform::new();
    platform.quote.body(520, report_data);
    let (quote, root) = (platform.signed_quote(), platform.trusted());
    let collateral = platform.collateral();
    verify_tdx_quote(&quote, &collateral, report_data, &policy(), &root, NOW).unwrap()
}

/// The verdict on a quote with these registers, which its policy expects.
pub fn verdict_with(rtmrs: &[[u8; 48]; 4]) -> TdxVerdict {
    let mut platform = Platform::new();
    platform.quote.body(328, rtmrs.as_flattened());
    let measured = TdxMeasurement {
        rtmrs: rtmrs.map(|rtmr| Expected::OneOf(vec![Measurement::from_bytes(rtmr)])),
        ..reference()
    };
    let policy = TdxPolicy::new(vec![measured], vec![platform_id()], EVALUATION).unwrap();
    platform.judge_under(&policy).unwrap()
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
