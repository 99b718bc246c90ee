//! Sessions of a machine with GPUs: each is answered by the devices for itself, the client demands exactly the listed ones, a swapped
//! one ends the service, and whoever asks most waits longest (G2, G4, G5, G7, S14).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use casemate::devices::{DeviceAskError, DeviceAsker, DeviceLimits, DevicesChanged};
use casemate_attestation::nvidia::{DriverMode, GpuNonce, OcspAnswers, PinnedGpuRoot};
use casemate_attestation::test_chip::TestGpu;
use casemate_attestation::{
    DeviceProvider, DeviceSet, EvidenceProvider, HardwareEvidence, Platform, ProviderError,
};
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::client::Wishes;
use crate::harness::{Server, Setup};
use crate::organisation::{ORGANISATION, SEED};
use crate::raw::{Raw, fresh_nonce};

/// What is in the machine, and how it answers.
struct InMachine {
    numbers: Mutex<Vec<u32>>,
    latency: Duration,
    /// What goes wrong instead.
    error: Mutex<Option<ProviderError>>,
    asked: AtomicUsize,
}

impl InMachine {
    fn new(numbers: &[u32], latency: Duration) -> Arc<Self> {
        Arc::new(Self {
            numbers: Mutex::new(numbers.to_vec()),
            latency,
            error: Mutex::new(None),
            asked: AtomicUsize::new(0),
        })
    }

    fn swap(&self, numbers: &[u32]) {
        *self.numbers.lock().unwrap() = numbers.to_vec();
    }

    fn fails_with(&self, error: Option<ProviderError>) {
        *self.error.lock().unwrap() = error;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn asker(self: &Arc<Self>, waiting_max: usize, patience: Duration) -> DeviceAsker {
        let root = PinnedGpuRoot::private(&TestGpu::root_der(&SEED));
        let limits = DeviceLimits {
            waiting_max,
            patience,
        };
        DeviceAsker::start(Arc::clone(self) as _, vec![root], limits).unwrap()
    }
}

impl DeviceProvider for InMachine {
    fn devices(&self, nonce: &GpuNonce) -> Result<DeviceSet, ProviderError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        thread::sleep(self.latency);
        if let Some(error) = self.error.lock().unwrap().clone() {
            return Err(error);
        }
        let numbers = self.numbers.lock().unwrap();
        let answer = |number: &u32| TestGpu::of_seed(&SEED, *number).evidence(nonce);
        let devices = numbers.iter().map(answer).collect();
        Ok(DeviceSet::new(
            DriverMode::On,
            devices,
            &OcspAnswers::none(),
        ))
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

async fn server_of(gpus: &Arc<InMachine>) -> Server {
    Server::start(Setup {
        devices: Some(gpus.asker(64, PATIENCE)),
        ..Setup::default()
    })
    .await
}

/// A client whose fleet list gives the machine these GPUs.
fn wishes(server: &Server, gpus: &[u32]) -> Wishes {
    Wishes {
        gpus: gpus.to_vec(),
        ..Wishes::of(server.address)
    }
}

#[tokio::test]
async fn g04_g05_a_client_gets_a_session_with_exactly_the_listed_gpus() {
    let gpus = InMachine::new(&[1, 2], Duration::ZERO);
    let server = server_of(&gpus).await;
    let client = wishes(&server, &[2, 1]).client();
    let connection = client.attest().await.unwrap();
    let verified = connection.verified().devices().unwrap();
    assert_eq!(verified.devices().len(), 2);
    assert_ne!(
        connection.context().device_evidence,
        casemate_attestation::Sha256Digest::absent()
    );
    // Each session is answered anew, the second one of the same connection, too.
    client.connector.attest_again(&connection).await.unwrap();
    assert_eq!(gpus.asked(), 2);

    for (listed, rule) in [
        (&[1][..], "(N10)"),
        (&[1, 2, 3], "(N10)"),
        (&[1, 3], "(P-39)"),
        (&[], "(P-37)"),
    ] {
        let refused = wishes(&server, listed).client().refused().await;
        assert!(refused.contains(rule), "{listed:?}: {refused}");
    }
    // A server without GPUs where the list has one.
    let none = Server::ordinary().await;
    let refused = wishes(&none, &[1]).client().refused().await;
    assert!(refused.contains("(P-37)"), "{refused}");
    none.saw_nothing();
}

#[tokio::test]
async fn as_many_gpus_as_a_machine_may_have_fit_into_an_answer() {
    let all: Vec<u32> = (1..=64).collect();
    let gpus = InMachine::new(&all, Duration::ZERO);
    let server = server_of(&gpus).await;
    let connection = wishes(&server, &all).client().attest().await.unwrap();
    let verified = connection.verified().devices().unwrap();
    assert_eq!(verified.devices().len(), 64);
}

/// Counts reports.
struct Counted(casemate_attestation::test_chip::TestChip, Arc<AtomicUsize>);

impl EvidenceProvider for Counted {
    fn platform(&self) -> Platform {
        Platform::TestChip
    }
    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.evidence(report_data)
    }
}

#[tokio::test]
async fn g02_one_report_serves_many_sessions_whose_devices_answered_each_for_itself() {
    let gpus = InMachine::new(&[1], Duration::ZERO);
    let reports = Arc::new(AtomicUsize::new(0));
    let latency = Duration::from_millis(300);
    let chip = ORGANISATION.node_a.clone().with_latency(latency);
    let server = Server::start(Setup {
        provider: Arc::new(Counted(chip, Arc::clone(&reports))),
        devices: Some(gpus.asker(64, PATIENCE)),
        ..Setup::default()
    })
    .await;
    let client = wishes(&server, &[1]).client();
    let sessions = join_all((0..12).map(|_| client.attest())).await;
    let mut digests = std::collections::HashSet::new();
    for session in &sessions {
        let session = session.as_ref().unwrap();
        digests.insert(session.context().device_evidence);
    }
    assert_eq!((digests.len(), gpus.asked()), (12, 12), "one answer each");
    let reports = reports.load(Ordering::SeqCst);
    assert!(reports < 12, "{reports} reports for 12 sessions");
}

#[tokio::test]
async fn g07_a_gpu_swapped_after_the_start_ends_sessions_for_good() {
    let gpus = InMachine::new(&[1], Duration::ZERO);
    let asker = gpus.asker(64, PATIENCE);
    let server = Server::start(Setup {
        devices: Some(asker.clone()),
        ..Setup::default()
    })
    .await;
    let client = wishes(&server, &[1]).client();
    let connection = client.attest().await.unwrap();
    assert!(
        timeout(Duration::from_millis(50), asker.change())
            .await
            .is_err()
    );

    gpus.swap(&[2]);
    let again = client.connector.attest_again(&connection).await;
    let refused = again.unwrap_err().to_string();
    assert!(refused.contains("503 evidence_unavailable"), "{refused}");
    // What ends the server learns of it.
    let changed = timeout(PATIENCE, asker.change()).await.unwrap();
    let key = TestGpu::of_seed(&SEED, 1).device_key();
    let kind = TestGpu::KIND;
    assert_eq!(changed, DevicesChanged::Gone { kind, key });

    // The first one back again: meanwhile anything may have been read. Nobody asks the devices any more.
    gpus.swap(&[1]);
    let asked = gpus.asked();
    client.refused().await;
    let checked = asker.check().await;
    assert_eq!(checked, Err(DeviceAskError::Changed(changed)));
    assert_eq!(gpus.asked(), asked);
    server.refused("evidence_unavailable").await;
}

#[tokio::test]
async fn g07_the_servers_own_look_notices_a_swap_without_any_client() {
    let gpus = InMachine::new(&[1, 2], Duration::ZERO);
    let asker = gpus.asker(4, PATIENCE);
    asker.check().await.unwrap();
    asker.check().await.unwrap();
    gpus.swap(&[1]);
    let error = asker.check().await.unwrap_err();
    assert!(matches!(error, DeviceAskError::Changed(_)), "{error}");
}

#[tokio::test]
async fn devices_that_fail_or_are_busy_open_no_session_and_may_recover() {
    let gpus = InMachine::new(&[1], Duration::ZERO);
    let server = server_of(&gpus).await;
    let client = wishes(&server, &[1]).client();
    client.attest().await.unwrap();
    for (error, code) in [
        (
            ProviderError::Device("GPU is lost".into()),
            "503 evidence_unavailable",
        ),
        (
            ProviderError::Unavailable("no driver".into()),
            "503 evidence_unavailable",
        ),
        (ProviderError::Busy, "503 evidence_busy"),
    ] {
        gpus.fails_with(Some(error));
        let refused = client.refused().await;
        assert!(refused.contains(code), "{refused}");
        assert!(
            !refused.contains("GPU is lost"),
            "details stay inside: {refused}"
        );
    }
    gpus.fails_with(None);
    client.attest().await.unwrap();
}

#[tokio::test]
async fn s14_a_flood_of_one_principal_keeps_nobody_else_waiting_for_the_gpus() {
    let latency = Duration::from_millis(100);
    let gpus = InMachine::new(&[1], latency);
    let server = Server::start(Setup {
        devices: Some(gpus.asker(24, PATIENCE)),
        ..Setup::default()
    })
    .await;
    let mallory = ORGANISATION.client("mallory");
    let mut flood = join_all((0..32).map(|_| Raw::connect(&server, &mallory))).await;
    let client = wishes(&server, &[1]).client();
    let challenges = join_all(flood.iter_mut().map(|raw| raw.challenge(fresh_nonce())));
    let others = async {
        tokio::time::sleep(latency / 2).await;
        let asked = Instant::now();
        for _ in 0..3 {
            client.attest().await.unwrap();
        }
        asked.elapsed()
    };
    let (answers, took) = tokio::join!(challenges, others);
    // Three turns of its own, each behind one of the flood's at most, and what is under way: not the 24 that wait.
    assert!(took < latency * 16, "{took:?}");
    let busy = answers.iter().filter(|answer| answer.status != 200);
    let busy: Vec<_> = busy.collect();
    assert!(busy.len() >= 7, "{}", busy.len());
    for answer in busy {
        answer.error(503, "evidence_busy");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}

#[tokio::test]
async fn s14_a_driver_that_stands_still_is_told_from_a_long_queue_and_holds_nobody() {
    let gpus = InMachine::new(&[1], Duration::from_secs(3));
    let asker = gpus.asker(8, Duration::from_millis(300));
    let nonce = || GpuNonce::recorded([1; 32]);
    let lane = |name: &str| casemate::devices::Lane::Principal(name.into());
    let asked = Instant::now();
    let first = asker.answers(lane("a"), nonce());
    let second = async {
        // Behind the first one, and gone before its turn.
        tokio::time::sleep(Duration::from_millis(100)).await;
        asker.answers(lane("b"), nonce()).await
    };
    let (first, second) = tokio::join!(first, second);
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    for answer in [first, second] {
        let error = answer.unwrap_err();
        assert!(matches!(error, DeviceAskError::Silent { .. }), "{error}");
    }
    // Whoever gave up is not asked for.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(gpus.asked(), 1);
}
