//! A machine with GPUs before its broker: it gets keys with exactly those that the fleet list gives it, over this connection's own
//! nonce, and with nothing less (G1, G2, G4, G5).

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casemate::broker::client::{OwnMachine, ReleaseError};
use casemate::devices::{DeviceAskError, DeviceAsker, DeviceLimits};
use casemate::org::documents;
use casemate_attestation::nvidia::{DriverMode, GpuNonce, OcspAnswers, PinnedGpuRoot};
use casemate_attestation::test_chip::TestGpu;
use casemate_attestation::{DeviceProvider, DeviceSet, FleetList, Platform, ProviderError};

use crate::connection::{KEYS, digests};
use crate::place::{Place, Running, now, runtime};
use crate::raw::{Identity, Peer};

/// The GPUs that are in the machine at the moment.
struct InMachine {
    seed: [u8; 32],
    numbers: Mutex<Vec<u32>>,
}

fn answers(seed: &[u8; 32], numbers: &[u32], nonce: &GpuNonce) -> DeviceSet {
    let answer = |number: &u32| TestGpu::of_seed(seed, *number).evidence(nonce);
    let devices = numbers.iter().map(answer).collect();
    DeviceSet::new(DriverMode::On, devices, &OcspAnswers::none())
}

impl DeviceProvider for InMachine {
    fn devices(&self, nonce: &GpuNonce) -> Result<DeviceSet, ProviderError> {
        Ok(answers(&self.seed, &self.numbers.lock().unwrap(), nonce))
    }
}

fn seed(place: &Place) -> [u8; 32] {
    let seed = fs::read(place.path("org/test-chip/seed")).unwrap();
    seed.try_into().unwrap()
}

/// The fleet list gives the machine these GPUs.
fn listed(place: &Place, numbers: &[u32]) {
    let organisation = place.organisation();
    let devices = organisation.test_gpus(numbers, 90, now()).unwrap();
    let machine = (Platform::TestChip, place.chip.chip_id());
    documents::replace_devices(&organisation, machine, devices, 90, now()).unwrap();
}

/// A server's machine with these GPUs, and a handle to swap them by.
fn machine(place: &Place, numbers: &[u32]) -> (OwnMachine, Arc<InMachine>) {
    let seed = seed(place);
    let gpus = Arc::new(InMachine {
        seed,
        numbers: Mutex::new(numbers.to_vec()),
    });
    let roots = vec![PinnedGpuRoot::private(&TestGpu::root_der(&seed))];
    let limits = DeviceLimits {
        waiting_max: 8,
        patience: Duration::from_secs(20),
    };
    let asker = DeviceAsker::start(gpus.clone(), roots, limits).unwrap();
    let machine = OwnMachine {
        provider: Arc::new(place.chip.clone()),
        devices: Some(asker),
    };
    (machine, gpus)
}

fn refusal(broker: &Running, machine: &OwnMachine, place: &Place) -> String {
    match broker.release_of(machine, &place.request).unwrap_err() {
        ReleaseError::Refused { code, message } => {
            assert_eq!(code, "evidence_rejected", "{message}");
            message
        }
        other => panic!("{other}"),
    }
}

#[test]
fn g04_g05_keys_are_released_to_exactly_the_listed_gpus() {
    let place = Place::new();
    listed(&place, &[1, 2]);
    let broker = place.start();
    let (right, _) = machine(&place, &[2, 1]);
    broker.release_of(&right, &place.request).unwrap();
    // Again over a fresh nonce, as a server does that attests after a loss.
    broker.release_of(&right, &place.request).unwrap();

    let alone = OwnMachine::alone(Arc::new(place.chip.clone()));
    let of = |gpus: &[u32]| refusal(&broker, &machine(&place, gpus).0, &place);
    assert!(refusal(&broker, &alone, &place).contains("rule P-37"));
    assert!(of(&[1]).contains("rule N10"), "one of two");
    assert!(of(&[1, 2, 3]).contains("rule N10"), "one more");
    assert!(of(&[1, 3]).contains("rule P-39"), "another one");

    // A machine that has none in the list sends none.
    listed(&place, &[]);
    assert!(of(&[1, 2]).contains("rule P-37"));
    broker.release_of(&alone, &place.request).unwrap();
    let fleet = documents::open_for_editing::<FleetList>(&place.organisation()).unwrap();
    assert!(fleet.payload().chips[0].devices.is_empty());
}

#[test]
fn as_many_gpus_as_a_machine_may_have_fit_into_a_request() {
    let place = Place::new();
    let all: Vec<u32> = (1..=64).collect();
    listed(&place, &all);
    let broker = place.start();
    let (machine, _) = machine(&place, &all);
    broker.release_of(&machine, &place.request).unwrap();
}

#[test]
fn g07_a_gpu_swapped_after_the_release_gets_no_further_keys() {
    let place = Place::new();
    listed(&place, &[1]);
    let broker = place.start();
    let (machine, gpus) = machine(&place, &[1]);
    broker.release_of(&machine, &place.request).unwrap();
    *gpus.numbers.lock().unwrap() = vec![2];
    // The organisation may even have listed the other one meanwhile: this server was attested with the first.
    listed(&place, &[2]);
    for gpu in [2, 1] {
        *gpus.numbers.lock().unwrap() = vec![gpu];
        let refused = broker.release_of(&machine, &place.request).unwrap_err();
        let changed = matches!(refused, ReleaseError::Devices(DeviceAskError::Changed(_)));
        assert!(changed, "{refused}");
    }
}

#[test]
fn g01_g02_g05_made_up_evidence_of_gpus_is_refused_by_the_rule_it_breaks() {
    let place = Place::new();
    listed(&place, &[1, 2]);
    let (broker, seed) = (place.start(), seed(&place));
    type Lie<'a> = &'a dyn Fn(&GpuNonce) -> DeviceSet;
    let told = |lie: Lie<'_>| {
        runtime().block_on(async {
            let mut peer = Peer::connect(&broker, &Identity::new()).await.unwrap();
            let nonce = peer.challenge().await;
            let models = digests(&place);
            let request =
                peer.keys_request_with(&place.chip, nonce, &place.request, &models, |nonce| {
                    Some(lie(nonce))
                });
            let (status, answer) = peer.post(KEYS, &request).await;
            (status, answer.to_string())
        })
    };
    let refused = |lie: Lie<'_>, rule: &str| {
        let (status, answer) = told(lie);
        assert_eq!(status, 403, "{answer}");
        assert!(
            answer.contains(&format!("rule {rule}:")),
            "{rule}: {answer}"
        );
    };
    assert_eq!(told(&|nonce| answers(&seed, &[1, 2], nonce)).0, 200);
    // G1: nobody's signature, and another device's.
    refused(
        &|nonce| {
            let mut set = answers(&seed, &[1, 2], nonce);
            *set.devices[0].report.last_mut().unwrap() ^= 1;
            set
        },
        "N4",
    );
    refused(
        &|nonce| {
            let mut set = answers(&seed, &[1, 2], nonce);
            set.devices[0].chain = set.devices[1].chain.clone();
            set
        },
        "N4",
    );
    // G2: another nonce, as evidence that was recorded elsewhere has.
    let other = GpuNonce::recorded([7; 32]);
    refused(&|_| answers(&seed, &[1, 2], &other), "N2");
    // G5: one GPU twice, whose reports differ behind the signature alone.
    refused(
        &|nonce| {
            let set = answers(&seed, &[1], nonce);
            let (first, mut again) = (set.devices[0].clone(), set.devices[0].clone());
            again.report.push(0);
            DeviceSet::new(DriverMode::On, vec![first, again], &OcspAnswers::none())
        },
        "N10",
    );
    // G3: a mode that protects nothing, in the machine's own signed word.
    refused(
        &|nonce| DeviceSet {
            mode: DriverMode::DevTools,
            ..answers(&seed, &[1, 2], nonce)
        },
        "N9",
    );
    // GPUs of somebody else's root.
    refused(&|nonce| answers(&[9; 32], &[1, 2], nonce), "N3");
}
