//! Documents of the release protocol (rules P-50 to P-53). Strict: see rule P-2.

use std::collections::BTreeMap;
use std::fmt;

use casemate_attestation::{ENVELOPE_BYTES_MAX, Nonce, Sha256Digest, strict_json};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::guard::{AccountId, Holder};
use crate::sentry::{Floor, Given};

/// No request of this protocol is longer: one envelope as base64 and a list of packages.
pub(super) const REQUEST_BYTES_MAX: usize = ENVELOPE_BYTES_MAX.div_ceil(3) * 4 + 64 * 1024;
/// No answer is longer: two signed documents as base64 at most.
pub(super) const ANSWER_BYTES_MAX: usize = 12 * 1024 * 1024;

/// Rule P-50, request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChallengeRequest {}

/// Rule P-50, answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Challenge {
    pub(super) nonce: Nonce,
}

/// Rule P-51, request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeysRequest {
    #[serde(with = "strict_json::base64_bytes")]
    pub(super) evidence: Vec<u8>,
    pub(super) names: Vec<String>,
    pub(super) packages: Vec<Package>,
}

/// A package whose key is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Package {
    #[serde(with = "strict_json::hex_bytes")]
    pub(super) id: [u8; 16],
    pub(super) epoch: u64,
    pub(super) key_id: String,
    pub(super) digest: Sha256Digest,
}

/// Rule P-51, answer. Carries data keys: never shown, wiped when dropped.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeysAnswer {
    pub(super) leaf: String,
    #[serde(with = "strict_json::base64_bytes")]
    pub(super) policy_bundle: Vec<u8>,
    #[serde(with = "strict_json::base64_bytes")]
    pub(super) revocations: Vec<u8>,
    pub(super) keys: Vec<KeyAnswer>,
    pub(super) guard: GuardRelease,
    pub(super) mark: MarkAnswer,
}

/// The key from which marks come, of the epoch that the policy names.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MarkAnswer {
    pub(super) epoch: u32,
    #[serde(with = "strict_json::base64_bytes")]
    pub(super) key: Vec<u8>,
}

impl Drop for MarkAnswer {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// What a server's guard needs (rule P-53). Carries a key: never shown, wiped when dropped.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuardRelease {
    #[serde(with = "strict_json::base64_bytes")]
    pub(super) key: Vec<u8>,
    pub(super) floor: GuardFloor,
}

impl Drop for GuardRelease {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for GuardRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuardRelease(..)")
    }
}

/// Rule P-53, request: how far the ledger is, and what was given, by `<model>/<holder>`; what of it probabilities and arranged
/// choices told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuardFloor {
    pub(super) generation: u64,
    pub(super) given: BTreeMap<String, u64>,
    pub(super) told: BTreeMap<String, u64>,
    pub(super) arranged: BTreeMap<String, u64>,
}

impl GuardFloor {
    /// What a server tells of itself. What was not told at all needs no mark.
    pub(super) fn of(floor: &Floor) -> Self {
        let of = |part: fn(&Given) -> u64| {
            let account = |((holder, model), given): &(AccountId, Given)| {
                (format!("{model}/{}", holder.as_str()), part(given))
            };
            let held = floor.given.iter().map(account);
            held.filter(|(_, millibits)| *millibits > 0).collect()
        };
        Self {
            generation: floor.generation,
            given: of(|given| given.millibits),
            told: of(|given| given.told_millibits),
            arranged: of(|given| given.arranged_millibits),
        }
    }

    /// The same for a server that is told of itself; nothing where a word names no account.
    pub(super) fn floor(&self) -> Option<Floor> {
        type Put = fn(&mut Given, u64);
        let parts: [(&BTreeMap<String, u64>, Put); 3] = [
            (&self.given, |given, millibits| given.millibits = millibits),
            (&self.told, |given, millibits| {
                given.told_millibits = millibits;
            }),
            (&self.arranged, |given, millibits| {
                given.arranged_millibits = millibits;
            }),
        ];
        let mut given: BTreeMap<AccountId, Given> = BTreeMap::new();
        for (accounts, put) in parts {
            for (account, millibits) in accounts {
                let (model, holder) = account.split_once('/')?;
                let id = (Holder::of_word(holder)?, model.parse().ok()?);
                put(given.entry(id).or_default(), *millibits);
            }
        }
        Some(Floor {
            generation: self.generation,
            given: given.into_iter().collect(),
        })
    }
}

/// Rule P-53, answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuardAnswer {}

/// One data key on its way to an attested server.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyAnswer {
    #[serde(with = "strict_json::hex_bytes")]
    pub(super) id: [u8; 16],
    #[serde(with = "strict_json::base64_bytes")]
    pub(super) key: Vec<u8>,
}

impl Drop for KeyAnswer {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for KeyAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyAnswer(..)")
    }
}

/// Rule P-52, request: the numbers of the documents that the server has.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdatesRequest {
    pub(super) policy_number: u64,
    pub(super) revocation_number: u64,
}

/// Rule P-52, answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdatesAnswer {
    #[serde(deserialize_with = "strict_json::required")]
    pub(super) policy_bundle: Option<Bytes>,
    #[serde(deserialize_with = "strict_json::required")]
    pub(super) revocations: Option<Bytes>,
}

/// Bytes that travel as base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Bytes(#[serde(with = "strict_json::base64_bytes")] pub(super) Vec<u8>);

/// A refusal in the API's shape.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ErrorAnswer {
    pub(super) error: ErrorBody,
}

/// The four keys of the API's errors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ErrorBody {
    pub(super) message: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) param: Option<String>,
    pub(super) code: String,
}
