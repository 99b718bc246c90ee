//! What the broker holds of a server's guard (rule P-53): how far its ledger was, and what teams and everybody had been given.
//! A server whose ledger comes back older, or not at all, begins no lower than here. A server is a machine and its first name:
//! two on one machine need two names.

use std::collections::BTreeMap;

use casemate_attestation::{Sha256Digest, VerifiedEvidence};

use super::refusal::Refusal;
use super::store::Store;
use super::wire::{GuardFloor, GuardRelease};
use crate::guard::Holder;
use crate::keys::KeyEncryption;
use crate::policy::TeamName;

/// The key of a server's ledger is derived under this label and the server, so that ledgers cannot be exchanged.
const KEY_LABEL: &str = "casemate/guard-ledger/v1";

/// The most accounts of one server: those of teams and of everybody, for each model.
const ACCOUNTS_MAX: usize = 4096;

/// A server, as marks and keys name it.
pub(super) fn server(evidence: &VerifiedEvidence, name: &str) -> String {
    format!("{}/{name}", evidence.chip_id())
}

/// What goes to an attested server.
pub(super) fn release(
    store: &Store,
    kek: &dyn KeyEncryption,
    server: &str,
) -> Result<GuardRelease, Refusal> {
    let (generation, given) = (generation_mark(server), given_mark(server));
    let rows = store.beginning_with(&given);
    let given = rows.map(|(mark, value)| (mark.trim_start_matches(&given).to_owned(), value));
    Ok(GuardRelease {
        key: kek
            .derive(&format!("{KEY_LABEL}/{server}"))?
            .expose()
            .to_vec(),
        floor: GuardFloor {
            generation: store.highest(&generation),
            given: given.collect(),
        },
    })
}

/// Raises what is held of `server`. When this returns it is on disk and witnessed.
pub(super) fn raise(store: &mut Store, server: &str, floor: &GuardFloor) -> Result<(), Refusal> {
    if !floor.given.keys().all(|account| is_account(account)) {
        return Err(Refusal::GuardAccounts);
    }
    let begin = given_mark(server);
    let held: BTreeMap<String, u64> = store
        .beginning_with(&begin)
        .map(|(mark, value)| (mark.to_owned(), value))
        .collect();
    let name = |account: &String| format!("{begin}{account}");
    let new = floor
        .given
        .keys()
        .filter(|account| !held.contains_key(&name(account)));
    if held.len().saturating_add(new.count()) > ACCOUNTS_MAX {
        return Err(Refusal::GuardAccounts);
    }
    let mut marks: Vec<(String, u64)> = floor
        .given
        .iter()
        .map(|(account, value)| (name(account), *value))
        .collect();
    marks.push((generation_mark(server), floor.generation));
    Ok(store.raise(marks.iter().map(|(mark, value)| (mark.as_str(), *value)))?)
}

/// `<model>/organisation` or `<model>/team/<name>`. What a principal was given stays with the server.
fn is_account(account: &str) -> bool {
    let Some((model, holder)) = account.split_once('/') else {
        return false;
    };
    let known = match holder.strip_prefix("team/") {
        Some(team) => team.parse::<TeamName>().is_ok(),
        None => holder == Holder::organisation().as_str(),
    };
    known && model.parse::<Sha256Digest>().is_ok()
}

fn generation_mark(server: &str) -> String {
    format!("guard/{server}/generation")
}

fn given_mark(server: &str) -> String {
    format!("guard/{server}/given/")
}
