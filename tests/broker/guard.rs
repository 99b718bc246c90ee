//! What the broker holds of a server's guard (P-53): it only grows, survives the broker, and belongs to one machine and name.

use casemate::broker::client::{ReleaseClient, ReleaseError};
use casemate::guard::{AccountId, Holder};
use casemate::sentry::{Floor, Found, Given, Store};
use casemate_attestation::Sha256Digest;

use crate::place::{Place, runtime};

fn account(holder: &str) -> AccountId {
    let model = Sha256Digest::of(b"model");
    (Holder::of_word(holder).unwrap(), model)
}

/// So many bits, some of which probabilities and arranged choices told.
fn given(millibits: u64) -> Given {
    Given {
        millibits,
        told_millibits: millibits / 2,
        arranged_millibits: millibits / 5,
    }
}

fn floor(generation: u64, team: u64) -> Floor {
    Floor {
        generation,
        given: vec![
            (account("organisation"), given(team + 1)),
            (account("team/red"), given(team)),
        ],
    }
}

fn raise(client: &mut ReleaseClient, floor: &Floor) -> Result<(), ReleaseError> {
    runtime().block_on(client.raise_guard(floor))
}

#[test]
fn s24_a_floor_only_grows_and_comes_back_after_both_were_restarted() {
    let place = Place::new();
    let broker = place.start();
    let release = |broker: &crate::place::Running| {
        broker.release(place.chip.clone(), &place.request).unwrap()
    };
    let (first, mut client) = release(&broker);
    assert_eq!(first.guard_floor, Floor::default());
    raise(&mut client, &floor(7, 500)).unwrap();
    raise(&mut client, &floor(3, 100)).unwrap();
    let (second, _) = release(&broker);
    assert_eq!(
        second.guard_floor,
        floor(7, 500),
        "an older word changes nothing"
    );
    drop((client, broker));
    let broker = place.start();
    let (third, _) = release(&broker);
    assert_eq!(third.guard_floor, floor(7, 500));
    let key = |released: &casemate::broker::client::Released| format!("{:?}", released.ledger_key);
    assert_eq!(key(&third), "LedgerKey(..)");
    // The key is always the same: what was written under the first is believed under the third.
    let folder = tempfile::tempdir().unwrap();
    let open = |key| {
        Store::open(folder.path(), key, "localhost", &Floor::default(), 0)
            .unwrap()
            .1
    };
    assert_eq!(open(&first.ledger_key), Found::First);
    assert_eq!(open(&third.ledger_key), Found::Whole);
}

#[test]
fn s24_what_is_no_account_of_a_team_is_not_held() {
    let place = Place::new();
    let broker = place.start();
    let (_, mut client) = broker.release(place.chip.clone(), &place.request).unwrap();
    let named = Floor {
        generation: 9,
        given: vec![(account("principal/spiffe://acme/ada"), given(5))],
    };
    let many = Floor {
        generation: 9,
        given: (0..1500_u32)
            .map(|n| {
                let model = Sha256Digest::of(&n.to_le_bytes());
                ((Holder::team("red"), model), given(1))
            })
            .collect(),
    };
    match raise(&mut client, &named).unwrap_err() {
        ReleaseError::Refused { code, .. } => assert_eq!(code, "malformed"),
        other => panic!("{other}"),
    }
    raise(&mut client, &many).unwrap();
    let more = Floor {
        generation: 9,
        given: (0..3000_u32)
            .map(|n| {
                (
                    (Holder::team("blue"), Sha256Digest::of(&n.to_le_bytes())),
                    given(1),
                )
            })
            .collect(),
    };
    assert!(
        raise(&mut client, &more).is_err(),
        "more than one server can have"
    );
    let (released, _) = broker.release(place.chip.clone(), &place.request).unwrap();
    assert_eq!(released.guard_floor.given.len(), 1500);
}
