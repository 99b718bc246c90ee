//! TLS records of one size (RFC 8446 §5.4), so that what crosses the network does not tell how long a header or a piece of
//! text was. The TLS library has no setting for it, but lets a provider bring its own record protection: ours adds zeros
//! behind the content, and leaves the cryptography to the library's.
//!
//! Whether a record is filled up is decided by whoever writes: inside [`filled_to`], and nowhere else. The library encrypts
//! while it is written to, on the same thread; so the size waits in a thread's own cell for as long as one write takes.

use std::cell::Cell;
use std::sync::LazyLock;

use rustls::crypto::cipher::{
    AeadKey, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundOpaqueMessage,
    OutboundPlainMessage, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider, aws_lc_rs};
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite, Tls13CipherSuite,
};

/// Content of a record, bytes: a cell of an answer with what HTTP/1.1 or HTTP/2 puts around it, and nothing more.
pub const RECORD_BYTES: usize = 528;

/// The longest content of a record (RFC 8446 §5.1).
const CONTENT_BYTES_MAX: usize = 1 << 14;

thread_local! {
    /// What the content of records is filled up to a multiple of, bytes; 0 is not at all.
    static UNIT: Cell<usize> = const { Cell::new(0) };
}

/// Runs `write`. Records that are encrypted meanwhile on this thread have content of a multiple of `unit` bytes, or of
/// 2^14 where that is less.
pub fn filled_to<T>(unit: usize, write: impl FnOnce() -> T) -> T {
    struct Before(usize);
    impl Drop for Before {
        fn drop(&mut self) {
            UNIT.set(self.0);
        }
    }
    let _before = Before(UNIT.replace(unit));
    write()
}

/// The library's TLS 1.3 suites, with records that can be filled up.
#[must_use]
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: SUITES.iter().map(SupportedCipherSuite::Tls13).collect(),
        ..aws_lc_rs::default_provider()
    }
}

static ALGORITHMS: LazyLock<Vec<(&'static Tls13CipherSuite, Filling)>> = LazyLock::new(|| {
    let suites = aws_lc_rs::default_provider().cipher_suites;
    suites
        .iter()
        .filter_map(SupportedCipherSuite::tls13)
        .map(|suite| (suite, Filling(suite.aead_alg)))
        .collect()
});

static SUITES: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    let with = |(suite, filling): &'static (&'static Tls13CipherSuite, Filling)| Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: suite.hkdf_provider,
        aead_alg: filling,
        quic: None,
    };
    ALGORITHMS.iter().map(with).collect()
});

/// The library's record protection, filled up.
struct Filling(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for Filling {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Filled(self.0.encrypter(key, iv)))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.0.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct Filled(Box<dyn MessageEncrypter>);

impl MessageEncrypter for Filled {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let length = content_bytes(message.payload.len(), UNIT.get());
        if length <= message.payload.len() {
            return self.0.encrypt(message, sequence);
        }
        // TLSInnerPlaintext is content, type, zeros. The library ends it with the type that it is given: here a zero.
        let mut content = Vec::with_capacity(length);
        message.payload.copy_to_vec(&mut content);
        content.push(message.typ.into());
        content.resize(length, 0);
        let filled = OutboundPlainMessage {
            typ: ContentType::from(0),
            version: message.version,
            payload: OutboundChunks::Single(&content),
        };
        self.0.encrypt(filled, sequence)
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.0
            .encrypted_payload_len(content_bytes(payload_len, UNIT.get()))
    }
}

/// How many bytes a record has for `bytes` of content.
fn content_bytes(bytes: usize, unit: usize) -> usize {
    match unit {
        0 => bytes,
        unit => bytes
            .max(1)
            .checked_next_multiple_of(unit)
            .unwrap_or(bytes)
            .min(CONTENT_BYTES_MAX)
            .max(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_filled_to_the_next_unit_and_never_beyond_a_record() {
        for (bytes, unit, filled) in [
            (0, 0, 0),
            (700, 0, 700),
            (0, 528, 528),
            (1, 528, 528),
            (527, 528, 528),
            (528, 528, 528),
            (529, 528, 1056),
            (16_368, 528, 16_368),
            (16_369, 528, 16_384),
            (16_384, 528, 16_384),
        ] {
            assert_eq!(content_bytes(bytes, unit), filled, "{bytes} in {unit}");
        }
    }

    #[test]
    fn a_unit_holds_for_one_write_also_where_that_panics() {
        assert_eq!(filled_to(528, || UNIT.get()), 528);
        assert_eq!(UNIT.get(), 0);
        let broken = std::panic::catch_unwind(|| filled_to(528, || assert_eq!(UNIT.get(), 0)));
        assert!(broken.is_err());
        assert_eq!(UNIT.get(), 0);
    }

    #[test]
    fn the_suites_are_the_librarys() {
        let names = |provider: &CryptoProvider| -> Vec<_> {
            let suites = provider.cipher_suites.iter();
            let tls13 = suites.filter(|suite| suite.tls13().is_some());
            tls13.map(SupportedCipherSuite::suite).collect()
        };
        let ours = provider();
        assert_eq!(names(&ours), names(&aws_lc_rs::default_provider()));
        assert_eq!(ours.cipher_suites.len(), names(&ours).len());
    }
}
