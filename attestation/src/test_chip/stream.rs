//! Bytes from a seed: HMAC-SHA-512 over a label and a counter, so that the same seed is the same chip for ever.

use ring::hmac;
use zeroize::Zeroizing;

/// An endless stream of bytes, one per label.
pub(super) struct Stream {
    key: hmac::Key,
    label: String,
    block: u64,
    left: Zeroizing<Vec<u8>>,
}

impl Stream {
    pub(super) fn new(seed: &[u8; 32], label: &str) -> Self {
        let label = format!("casemate/test-chip/v1/{label}");
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA512, seed),
            label,
            block: 0,
            left: Zeroizing::new(Vec::new()),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0_u8; N];
        self.fill(&mut out);
        out
    }

    pub(super) fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.left.is_empty() {
                self.refill();
            }
            *byte = self.left.pop().unwrap_or_default();
        }
    }

    fn refill(&mut self) {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(self.label.as_bytes());
        context.update(&self.block.to_be_bytes());
        self.block += 1;
        self.left.extend(context.sign().as_ref().iter().rev());
    }
}
