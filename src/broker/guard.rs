//! What the broker holds of a server's guard (rule P-53): how far its ledger was, and what teams and everybody had been given.
//! A server whose ledger comes back older, or not at all, begins no lower than here. A server is a machine and its first name:
//! two on one machine need two names.

use std::collections::BTreeSet;

use casemate_attestation::{Sha256Digest, VerifiedEvidence};

use super::refusal::Refusal;
use super::store::Store;
use super::wire::{GuardFloor, GuardRelease};
use crate::guard::Holder;
use crate::keys::KeyEncryption;
use crate::policy::TeamName;

/// The key of a server's ledger is derived under this label and the server, so that ledgers cannot be exchanged.
const KEY_LABEL: &str = "casemate/guard-ledger/v1";

/// What is held of accounts: all that was given, and what of it probabilities and arranged choices told.
const GIVEN: &str = "given";
const TOLD: &str = "told";
const ARRANGED: &str = "arranged";

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
    let generation = generation_mark(server);
    let held = |kind| {
        let begin = given_mark(server, kind);
        let rows = store.beginning_with(&begin);
        let of = |(mark, value): (&str, u64)| {
            let account = mark.strip_prefix(&begin).unwrap_or(mark);
            (account.to_owned(), value)
        };
        rows.map(of).collect()
    };
    Ok(GuardRelease {
        key: kek
            .derive(&format!("{KEY_LABEL}/{server}"))?
            .expose()
            .to_vec(),
        floor: GuardFloor {
            generation: store.highest(&generation),
            given: held(GIVEN),
            told: held(TOLD),
            arranged: held(ARRANGED),
        },
    })
}

/// Raises what is held of `server`. When this returns it is on disk and witnessed.
pub(super) fn raise(store: &mut Store, server: &str, floor: &GuardFloor) -> Result<(), Refusal> {
    let mut marks: Vec<(String, u64)> = Vec::new();
    for (kind, accounts) in [
        (GIVEN, &floor.given),
        (TOLD, &floor.told),
        (ARRANGED, &floor.arranged),
    ] {
        if !accounts.keys().all(|account| is_account(account)) {
            return Err(Refusal::GuardAccounts);
        }
        let begin = given_mark(server, kind);
        let held: BTreeSet<&str> = store
            .beginning_with(&begin)
            .filter_map(|(mark, _)| mark.strip_prefix(&begin))
            .collect();
        let new = accounts
            .keys()
            .filter(|account| !held.contains(account.as_str()));
        if held.len().saturating_add(new.count()) > ACCOUNTS_MAX {
            return Err(Refusal::GuardAccounts);
        }
        let mark = |(account, value): (&String, &u64)| (format!("{begin}{account}"), *value);
        marks.extend(accounts.iter().map(mark));
    }
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

fn given_mark(server: &str, kind: &str) -> String {
    format!("guard/{server}/{kind}/")
}
