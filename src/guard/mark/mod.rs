//! Whose an answer is, told by its choice of words (GUARD section 3): the keys that answers are marked with, and the search for
//! the marks in a text ([`detect`]). How a mark decides a token is in `casemate_models::engine::mark`.
//!
//! From the key of an epoch, which the broker derives from its key-encryption key and releases like a data key, comes one key
//! for each team, and from that a few sub-keys: each request uses one of them, so that a prompt that is asked again gets other
//! answers, and who collects answers of one team does not see one noise.

pub mod detect;
pub mod entropy;
mod tail;

pub use detect::{Calibration, Finding, Report, Verdict, calibrate, look, p_values, pairs_needed};
pub use tail::{ln_tail, uniform_p};

use std::fmt;

use casemate_models::engine::MarkKey;
use ring::hmac;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::noise::Noise;

/// Sub-keys of a team. A divisor of 256.
pub const SUB_KEYS: u8 = 16;

/// What the broker's key-encryption key is asked for.
#[must_use]
pub fn root_label(epoch: u32) -> String {
    format!("casemate/mark/v1/{epoch}")
}

/// The key from which all teams' keys of one epoch come. Wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct MarkRoot {
    key: [u8; 32],
    #[zeroize(skip)]
    epoch: u32,
}

impl fmt::Debug for MarkRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MarkRoot(epoch {}, ..)", self.epoch)
    }
}

impl MarkRoot {
    /// The root of `epoch`.
    #[must_use]
    pub const fn new(key: [u8; 32], epoch: u32) -> Self {
        Self { key, epoch }
    }

    /// Its epoch.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The key of a team.
    #[must_use]
    pub fn team(&self, team: &str) -> TeamMark {
        TeamMark {
            key: derive(&self.key, &[b"casemate/mark-team/v1", team.as_bytes()]),
            team: team.to_owned(),
            epoch: self.epoch,
        }
    }

    /// Where seeds come from: see [`Noise`].
    #[must_use]
    pub fn noise(&self) -> Noise {
        let mut secret = derive(&self.key, &[b"casemate/noise-secret/v1"]);
        let noise = Noise::new(&secret);
        secret.zeroize();
        noise
    }
}

/// The keys of one team in one epoch. Wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TeamMark {
    key: [u8; 32],
    #[zeroize(skip)]
    team: String,
    #[zeroize(skip)]
    epoch: u32,
}

impl fmt::Debug for TeamMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TeamMark({}, epoch {}, ..)", self.team, self.epoch)
    }
}

/// Digits of canaries: no two look alike.
const CANARY_DIGITS: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345678";

impl TeamMark {
    /// The team.
    #[must_use]
    pub fn team(&self) -> &str {
        &self.team
    }

    /// The epoch.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// One of its [`SUB_KEYS`] keys.
    #[must_use]
    pub fn sub_key(&self, number: u8) -> MarkKey {
        let mut bytes = derive(&self.key, &[b"sub-key", &[number % SUB_KEYS]]);
        let key = MarkKey::from_bytes(bytes.first_chunk().copied().unwrap_or_default());
        bytes.zeroize();
        key
    }

    /// A word that stands in this team's system prompts and nowhere else: 24 characters, 120 bits.
    #[must_use]
    pub fn canary(&self) -> String {
        let bytes = derive(&self.key, &[b"canary"]);
        let digit = |byte: &u8| CANARY_DIGITS.get(usize::from(byte % 32)).copied();
        bytes
            .iter()
            .take(24)
            .filter_map(digit)
            .map(char::from)
            .collect()
    }
}

/// HMAC-SHA256 over parts, each with its length before it.
fn derive(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context
        .sign()
        .as_ref()
        .first_chunk()
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_epoch_team_and_number_and_are_never_shown() {
        let root = |byte, epoch| MarkRoot::new([byte; 32], epoch);
        let noise = |key: MarkKey| key.noise([1, 2, 3, 4]).of(5);
        let own = noise(root(1, 1).team("red").sub_key(0));
        assert_eq!(own, noise(root(1, 1).team("red").sub_key(0)));
        for other in [
            root(2, 1).team("red").sub_key(0),
            root(1, 1).team("blue").sub_key(0),
            root(1, 1).team("red").sub_key(1),
        ] {
            assert_ne!(own, noise(other));
        }
        assert_eq!(format!("{:?}", root(65, 3)), "MarkRoot(epoch 3, ..)");
        let team = root(65, 3).team("red");
        assert_eq!(format!("{team:?}"), "TeamMark(red, epoch 3, ..)");
    }

    #[test]
    fn a_canary_is_a_word_of_its_team() {
        let root = MarkRoot::new([1; 32], 1);
        let (red, blue) = (root.team("red").canary(), root.team("blue").canary());
        assert_eq!(red.len(), 24);
        assert!(red.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(red, blue);
        assert_eq!(red, root.team("red").canary());
    }
}
