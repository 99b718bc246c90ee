//! The difference between AMD's certificates and the test chip's: RSA keys of 4096 bits against 2048. An appraisal
//! verifies three RSA signatures, and so it costs more on a real machine than here by three times that difference.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use casemate_attestation::Product;
use casemate_attestation::snp::PinnedRoot;
use ring::signature::{RSA_PSS_2048_8192_SHA384, RsaPublicKeyComponents};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::clock;

/// Signatures of an appraisal: intermediate, endorsement certificate, revocation list.
pub const SIGNATURES: u32 = 3;
const TIMES: u32 = 200;

/// What an appraisal of AMD's certificates costs beyond one of the test chip's.
pub fn difference(test_root: &[u8]) -> anyhow::Result<Duration> {
    let roots = PinnedRoot::amd();
    let amd = roots
        .iter()
        .find(|root| root.product() == Product::Genoa)
        .context("no root of AMD's")?;
    let (real, test) = (verification(amd.der())?, verification(test_root)?);
    Ok(real.saturating_sub(test) * SIGNATURES)
}

/// CPU time of verifying the signature that a root has on itself.
fn verification(root: &[u8]) -> anyhow::Result<Duration> {
    let (_, root) = X509Certificate::from_der(root)?;
    let PublicKey::RSA(key) = root.public_key().parsed()? else {
        anyhow::bail!("a root without an RSA key");
    };
    let unpadded = |bytes: &'_ [u8]| bytes.strip_prefix(&[0]).unwrap_or(bytes).to_vec();
    let (n, e) = (unpadded(key.modulus), unpadded(key.exponent));
    let begun = clock::thread_cpu();
    for _ in 0..TIMES {
        let key = RsaPublicKeyComponents { n: &n, e: &e };
        let signed = key.verify(
            &RSA_PSS_2048_8192_SHA384,
            root.tbs_certificate.as_ref(),
            &root.signature_value.data,
        );
        ensure!(signed.is_ok(), "a root that did not sign itself");
    }
    Ok(clock::thread_cpu().saturating_sub(begun) / TIMES)
}
