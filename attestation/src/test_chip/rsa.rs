//! RSA-PSS for the test chip's authorities: keys from a stream, signatures with a derived salt.
//!
//! Not constant time, 2048 bits where AMD has 4096: good enough for a chip whose secret is written in a file. Written out
//! here because no maintained crate promises that the same seed gives the same key in its next version.

use num_bigint::BigUint;
use ring::digest::{SHA384, digest};
use ring::hmac;

use super::stream::Stream;

const PRIME_BYTES: usize = 128;
const MODULUS_BYTES: usize = 2 * PRIME_BYTES;
const HASH_BYTES: usize = 48;
const EXPONENT: u32 = 65_537;
/// Odd numbers tried after each draw before drawing again.
const STEPS: u32 = 8192;
/// Bases of the Miller-Rabin test. For random numbers of this size already the first is nearly always right.
const BASES: [u32; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];

/// A key pair of 2048 bits.
pub(super) struct RsaKey {
    modulus: BigUint,
    p: Prime,
    q: Prime,
    q_inverse: BigUint,
    salt: hmac::Key,
}

struct Prime {
    value: BigUint,
    /// The inverse of the public exponent modulo `value - 1`.
    exponent: BigUint,
}

impl RsaKey {
    pub(super) fn derive(seed: &[u8; 32], label: &str) -> Self {
        let mut stream = Stream::new(seed, label);
        let salt = hmac::Key::new(hmac::HMAC_SHA384, &stream.array::<48>());
        loop {
            let (p, q) = (prime(&mut stream), prime(&mut stream));
            if let Some(q_inverse) = q.value.modinv(&p.value) {
                let modulus = &p.value * &q.value;
                return Self {
                    modulus,
                    p,
                    q,
                    q_inverse,
                    salt,
                };
            }
        }
    }

    /// Modulus and exponent, big-endian.
    pub(super) fn public(&self) -> (Vec<u8>, Vec<u8>) {
        (
            self.modulus.to_bytes_be(),
            BigUint::from(EXPONENT).to_bytes_be(),
        )
    }

    /// RSASSA-PSS with SHA-384, MGF1 with SHA-384 and 48 bytes of salt (RFC 8017, section 8.1.1).
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let encoded = self.encode(message);
        let number = BigUint::from_bytes_be(&encoded);
        let signature = self.power(&number).to_bytes_be();
        let mut out = vec![0; MODULUS_BYTES.saturating_sub(signature.len())];
        out.extend_from_slice(&signature);
        out
    }

    /// EMSA-PSS-ENCODE (RFC 8017, section 9.1.1) for a modulus of 2048 bits.
    fn encode(&self, message: &[u8]) -> Vec<u8> {
        let salt = hmac::sign(&self.salt, message);
        let mut hashed = vec![0; 8];
        hashed.extend_from_slice(digest(&SHA384, message).as_ref());
        hashed.extend_from_slice(salt.as_ref());
        let hash = digest(&SHA384, &hashed);

        let block_bytes = MODULUS_BYTES - HASH_BYTES - 1;
        let mut block = vec![0; block_bytes - HASH_BYTES - 1];
        block.push(1);
        block.extend_from_slice(salt.as_ref());
        for (byte, mask) in block.iter_mut().zip(mask(hash.as_ref(), block_bytes)) {
            *byte ^= mask;
        }
        if let Some(first) = block.first_mut() {
            *first &= 0x7f;
        }
        block.extend_from_slice(hash.as_ref());
        block.push(0xbc);
        block
    }

    /// The secret operation, by the Chinese remainder theorem.
    fn power(&self, number: &BigUint) -> BigUint {
        let by_p = number.modpow(&self.p.exponent, &self.p.value);
        let by_q = number.modpow(&self.q.exponent, &self.q.value);
        let difference = (&by_p + &self.p.value - (&by_q % &self.p.value)) % &self.p.value;
        let factor = (difference * &self.q_inverse) % &self.p.value;
        by_q + factor * &self.q.value
    }
}

/// MGF1 with SHA-384.
fn mask(seed: &[u8], length: usize) -> impl Iterator<Item = u8> {
    let block = |counter: u32| {
        let mut input = seed.to_vec();
        input.extend_from_slice(&counter.to_be_bytes());
        digest(&SHA384, &input).as_ref().to_vec()
    };
    (0..=u32::MAX).flat_map(block).take(length)
}

/// The first prime after a drawn number of 1024 bits whose two highest bits are set.
fn prime(stream: &mut Stream) -> Prime {
    let sieve: Vec<u32> = small_primes();
    let (one, public) = (BigUint::from(1_u32), BigUint::from(EXPONENT));
    loop {
        let start = draw(stream);
        let residues: Vec<(u32, u32)> = sieve
            .iter()
            .map(|small| (*small, remainder(&start, *small)))
            .collect();
        for step in 0..STEPS {
            let offset = 2 * step;
            if residues
                .iter()
                .any(|(small, residue)| (residue + offset).is_multiple_of(*small))
            {
                continue;
            }
            let value = &start + BigUint::from(offset);
            if !is_prime(&value) {
                continue;
            }
            if let Some(exponent) = public.modinv(&(&value - &one)) {
                return Prime { value, exponent };
            }
        }
    }
}

fn draw(stream: &mut Stream) -> BigUint {
    let mut bytes: [u8; PRIME_BYTES] = stream.array();
    let [first, .., last] = &mut bytes;
    *first |= 0xc0;
    *last |= 1;
    BigUint::from_bytes_be(&bytes)
}

fn remainder(number: &BigUint, small: u32) -> u32 {
    u32::try_from(number % small).unwrap_or(0)
}

/// Odd primes below 4096.
fn small_primes() -> Vec<u32> {
    let mut primes: Vec<u32> = Vec::new();
    for candidate in (3_u32..4096).step_by(2) {
        if !primes.iter().any(|prime| candidate.is_multiple_of(*prime)) {
            primes.push(candidate);
        }
    }
    primes
}

/// Miller and Rabin's test of an odd number.
fn is_prime(number: &BigUint) -> bool {
    let one = BigUint::from(1_u32);
    let less_one = number - &one;
    let twos = less_one.trailing_zeros().unwrap_or(0);
    let odd = &less_one >> twos;
    BASES.iter().all(|base| {
        let mut power = BigUint::from(*base).modpow(&odd, number);
        if power == one || power == less_one {
            return true;
        }
        (1..twos).any(|_| {
            power = &power * &power % number;
            power == less_one
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{RSA_PSS_2048_8192_SHA384, RsaPublicKeyComponents};

    #[test]
    fn signatures_verify_with_another_implementation() {
        let key = RsaKey::derive(&[7; 32], "test");
        let (n, e) = key.public();
        let verify = |message: &[u8], signature: &[u8]| {
            RsaPublicKeyComponents { n: &n, e: &e }.verify(
                &RSA_PSS_2048_8192_SHA384,
                message,
                signature,
            )
        };
        assert!(verify(b"message", &key.sign(b"message")).is_ok());
        assert!(verify(b"massage", &key.sign(b"message")).is_err());
    }
}
