//! ECDSA P-256 signatures of one appraisal, each of which is computed once (docs/decisions/0033).
//!
//! Remembered is nothing but "this key signed exactly these bytes", which is true for ever. Dates, names, lists, levels and
//! policy are judged anew every time, from the same bytes, by both verifiers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::crypto::RingCrypto;
use dcap_qvl::signature::DerSigEncoder;
use dcap_qvl::x509::X509CertBackend;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

/// Most that a memory holds, in bytes of what was signed: some hundred platforms with their collateral.
const KNOWN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Who signed what.
#[derive(Debug, PartialEq, Eq)]
struct Signed {
    point: Vec<u8>,
    message: Vec<u8>,
}

/// By signature, in DER.
type Good = BTreeMap<Vec<u8>, Arc<Signed>>;

/// Signatures of certificates, lists and documents that were verified before, with accepted evidence: whoever keeps one and judges
/// by [`verify_tdx_quote_knowing`](super::verify_tdx_quote_knowing) computes a platform's signatures once. Evidence that is refused
/// adds nothing. An empty one changes no verdict, and neither does a full one.
///
/// It cannot be filled from outside:
///
/// ```compile_fail
/// let known = casemate_attestation::tdx::KnownSignatures { good: Default::default() };
/// ```
///
/// ```
/// let known = casemate_attestation::tdx::KnownSignatures::new();
/// assert!(known.is_empty());
/// ```
#[derive(Debug, Default)]
pub struct KnownSignatures {
    good: Mutex<Good>,
}

impl KnownSignatures {
    /// Nothing was verified before.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.good.lock().is_ok_and(|good| good.is_empty())
    }

    fn recall(&self, signature: &[u8]) -> Option<Arc<Signed>> {
        self.good.lock().ok()?.get(signature).cloned()
    }

    /// Forgets everything before it grows beyond its bound: what is in use is soon known again.
    fn learn(&self, found: Good) {
        let Ok(mut good) = self.good.lock() else {
            return;
        };
        good.extend(found);
        let bytes = good.values().map(|signed| signed.message.len());
        if bytes.sum::<usize>() > KNOWN_BYTES_MAX {
            good.clear();
        }
    }
}

/// The signatures of one appraisal. By default none was verified before.
#[derive(Default)]
pub(crate) struct Signatures<'k> {
    known: Option<&'k KnownSignatures>,
    /// Of certificates, lists, documents and the quoting enclave's report.
    lasting: RefCell<Good>,
    /// Of the quote: no other quote has it.
    passing: RefCell<Good>,
}

impl<'k> Signatures<'k> {
    pub(crate) fn new(known: &'k KnownSignatures) -> Self {
        Self {
            known: Some(known),
            ..Self::default()
        }
    }

    /// Whether the key at the uncompressed `point` signed `message`; `signature` in DER.
    pub(crate) fn verify(&self, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let mut lasting = self.lasting.borrow_mut();
        let recall = || self.known.and_then(|known| known.recall(signature));
        if let Some(signed) = lasting.get(signature).cloned().or_else(recall)
            && signed.point == point
            && signed.message == message
        {
            lasting.insert(signature.to_vec(), signed);
            return true;
        }
        computed(point, message, signature)
            .map(|signed| lasting.insert(signature.to_vec(), signed))
            .is_some()
    }

    /// The same for a signature of `r` and `s`, 32 bytes each.
    pub(crate) fn verify_fixed(&self, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
        in_der(signature).is_some_and(|signature| self.verify(point, message, &signature))
    }

    /// The same for the quote's own signature, which is not remembered.
    pub(crate) fn verify_quote(&self, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let signed = in_der(signature).and_then(|signature| {
            computed(point, message, &signature).map(|signed| (signature, signed))
        });
        signed
            .map(|(signature, signed)| self.passing.borrow_mut().insert(signature, signed))
            .is_some()
    }

    /// Calls the second verifier, which need not compute again what was found good here.
    pub(crate) fn lend<T>(&self, ask: impl FnOnce() -> T) -> T {
        let mut good = self.lasting.borrow().clone();
        good.extend(self.passing.borrow().clone());
        LENT.with_borrow_mut(|lent| *lent = good);
        let _taken_back = TakenBack;
        ask()
    }

    /// The evidence was accepted.
    pub(crate) fn keep(self) {
        if let Some(known) = self.known {
            known.learn(self.lasting.into_inner());
        }
    }
}

fn computed(point: &[u8], message: &[u8], signature: &[u8]) -> Option<Arc<Signed>> {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(message, signature)
        .ok()?;
    Some(Arc::new(Signed {
        point: point.to_vec(),
        message: message.to_vec(),
    }))
}

/// `r` and `s` of 32 bytes each as Ecdsa-Sig-Value (RFC 5480, appendix A), in the one form that DER has.
fn in_der(signature: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = signature.split_at_checked(32)?;
    if s.len() != 32 {
        return None;
    }
    let mut inside = Vec::with_capacity(70);
    for number in [r, s] {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let digits = number.get(zeros..).unwrap_or_default();
        // An integer whose first bit is set would be negative.
        let sign = digits.first().is_none_or(|first| *first >= 0x80);
        inside.extend([0x02, u8::try_from(digits.len()).ok()? + u8::from(sign)]);
        inside.extend(sign.then_some(0));
        inside.extend(digits);
    }
    let head = [0x30, u8::try_from(inside.len()).ok()?];
    Some([&head[..], &inside].concat())
}

thread_local! {
    /// What is lent to the second verifier, whose providers are types without values.
    static LENT: RefCell<Good> = RefCell::default();
}

/// Takes back what was lent, also when the second verifier does not return.
struct TakenBack;

impl Drop for TakenBack {
    fn drop(&mut self) {
        LENT.with_borrow_mut(Good::clear);
    }
}

/// The second verifier as its authors put it together, but for signatures that were found good already.
pub(crate) struct SharedConfig;

impl Config for SharedConfig {
    type X509 = X509CertBackend;
    type SigEncoder = DerSigEncoder;
    type Crypto = SharedCrypto;
}

pub(crate) struct SharedCrypto;

impl CryptoProvider for SharedCrypto {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        &SharedSignatures
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        RingCrypto::sha256(data)
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        RingCrypto::sha384(data)
    }
}

#[derive(Debug)]
struct SharedSignatures;

impl SignatureVerificationAlgorithm for SharedSignatures {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        RingCrypto::sig_algo().public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        RingCrypto::sig_algo().signature_alg_id()
    }

    fn verify_signature(
        &self,
        point: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let lent = LENT.with_borrow(|lent| {
            lent.get(signature)
                .is_some_and(|signed| signed.point == point && signed.message == message)
        });
        if lent {
            return Ok(());
        }
        RingCrypto::sig_algo().verify_signature(point, message, signature)
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    fn key() -> EcdsaKeyPair {
        let random = SystemRandom::new();
        let form = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let secret = EcdsaKeyPair::generate_pkcs8(form, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(form, secret.as_ref(), &random).unwrap()
    }

    fn signed(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
        let signature = key.sign(&SystemRandom::new(), message).unwrap();
        signature.as_ref().to_vec()
    }

    #[test]
    fn integers_have_the_one_form_that_the_second_verifier_gives_them() {
        use dcap_qvl::config::EcdsaSigEncoder as _;
        let mut signature = [0x11; 64];
        for (first, second) in [(1, 0x7f), (0x80, 0xff), (0, 0x80), (0, 1)] {
            for zeros in [0, 1, 30] {
                signature[..32].fill(0);
                signature[zeros] = first;
                signature[zeros + 1] = second;
                let theirs = DerSigEncoder::encode_ecdsa_sig(&signature[..32], &signature[32..]);
                assert_eq!(in_der(&signature), Some(theirs.unwrap()));
            }
        }
        assert_eq!(in_der(&[0x11; 63]), None);
        assert_eq!(in_der(&[0x11; 65]), None);
    }

    #[test]
    fn what_is_known_is_this_key_these_bytes_and_this_signature() {
        let (key, other) = (key(), key());
        let point = key.public_key().as_ref();
        let signature = signed(&key, b"text");
        let known = KnownSignatures::new();
        for _ in 0..2 {
            let signatures = Signatures::new(&known);
            assert!(signatures.verify_fixed(point, b"text", &signature));
            // Known now: everything that differs is computed, and is wrong.
            assert!(!signatures.verify_fixed(point, b"tex", &signature));
            assert!(!signatures.verify_fixed(point, b"Text", &signature));
            assert!(!signatures.verify_fixed(other.public_key().as_ref(), b"text", &signature));
            let mut edited = signature.clone();
            edited[63] ^= 1;
            assert!(!signatures.verify_fixed(point, b"text", &edited));
            assert!(signatures.verify_fixed(point, b"text", &signature));
            signatures.keep();
            assert!(!known.is_empty());
        }
    }

    #[test]
    fn nothing_is_known_of_what_was_not_kept_nor_of_a_quotes_own_signature() {
        let key = key();
        let point = key.public_key().as_ref();
        let signature = signed(&key, b"quote");
        let known = KnownSignatures::new();
        let signatures = Signatures::new(&known);
        assert!(!signatures.verify_quote(point, b"other", &signature));
        assert!(signatures.verify_quote(point, b"quote", &signature));
        signatures.keep();
        assert!(known.is_empty());
        let signatures = Signatures::new(&known);
        assert!(signatures.verify_fixed(point, b"quote", &signature));
        drop(signatures);
        assert!(known.is_empty());
    }

    #[test]
    fn lent_is_what_was_found_good_for_as_long_as_the_second_verifier_is_asked() {
        let key = key();
        let point = key.public_key().as_ref();
        let algorithm = SharedCrypto::sig_algo();
        let known = KnownSignatures::new();
        let signatures = Signatures::new(&known);
        let (lasting, passing) = (signed(&key, b"list"), signed(&key, b"quote"));
        assert!(signatures.verify_fixed(point, b"list", &lasting));
        assert!(signatures.verify_quote(point, b"quote", &passing));
        let [lasting, passing] = [lasting, passing].map(|signature| in_der(&signature).unwrap());
        signatures.lend(|| {
            assert_eq!(LENT.with_borrow(Good::len), 2);
            for (message, signature) in [(b"list".as_slice(), &lasting), (b"quote", &passing)] {
                assert!(
                    algorithm
                        .verify_signature(point, message, signature)
                        .is_ok()
                );
                assert!(algorithm.verify_signature(point, b"x", signature).is_err());
                assert!(
                    algorithm
                        .verify_signature(&point[1..], message, signature)
                        .is_err()
                );
            }
            // What was not lent is computed.
            let new = in_der(&signed(&key, b"new")).unwrap();
            assert!(algorithm.verify_signature(point, b"new", &new).is_ok());
            assert!(algorithm.verify_signature(point, b"old", &new).is_err());
        });
        assert_eq!(LENT.with_borrow(Good::len), 0);
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            signatures.lend(|| panic!("the second verifier"))
        }));
        assert!(failed.is_err());
        assert_eq!(LENT.with_borrow(Good::len), 0);
    }

    #[test]
    fn b25_a_memory_is_bounded() {
        let key = key();
        let point = key.public_key().as_ref();
        let known = KnownSignatures::new();
        let bytes = || {
            let good = known.good.lock().unwrap();
            good.values()
                .map(|signed| signed.message.len())
                .sum::<usize>()
        };
        let message = vec![0x55; KNOWN_BYTES_MAX / 2];
        for expected in [message.len(), 2 * message.len(), 0, message.len()] {
            let signatures = Signatures::new(&known);
            let signature = signed(&key, &message);
            assert!(signatures.verify_fixed(point, &message, &signature));
            signatures.keep();
            assert_eq!(bytes(), expected);
        }
    }
}
