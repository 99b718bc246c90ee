//! The test chip with a clock on it: what the chip itself takes is known and can be left out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use casemate_attestation::test_chip::TestChip;
use casemate_attestation::{EvidenceProvider, HardwareEvidence, Platform, ProviderError};
use tokio::sync::Semaphore;

use crate::clock;

/// Signs as the test chip does and counts reports and CPU time.
#[derive(Debug)]
pub struct ClockedChip {
    chip: TestChip,
    reports: AtomicU64,
    cpu_ns: AtomicU64,
    turns: Semaphore,
}

impl ClockedChip {
    pub fn new(chip: TestChip) -> Self {
        Self {
            chip,
            reports: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            turns: Semaphore::new(0),
        }
    }

    /// Reports signed so far.
    pub fn reports(&self) -> u64 {
        self.reports.load(Ordering::SeqCst)
    }

    /// From now on one caller of [`ClockedChip::turn`] may go on, and one more whenever a report is begun.
    pub fn one_by_one(&self) {
        self.turns.forget_permits(usize::MAX);
        self.turns.add_permits(1);
    }

    /// Waits until a report is being made that the caller cannot share, and nobody else waits for the next one.
    pub async fn turn(&self) -> anyhow::Result<()> {
        self.turns
            .acquire()
            .await
            .context("no more turns")?
            .forget();
        Ok(())
    }

    /// CPU time spent inside the chip so far.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Ordering::SeqCst))
    }
}

impl EvidenceProvider for ClockedChip {
    fn platform(&self) -> Platform {
        self.chip.platform()
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
        self.turns.add_permits(1);
        let begun = clock::thread_cpu();
        let evidence = self.chip.evidence(report_data);
        let spent = clock::thread_cpu().saturating_sub(begun);
        let spent_ns = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        self.cpu_ns.fetch_add(spent_ns, Ordering::SeqCst);
        self.reports.fetch_add(1, Ordering::SeqCst);
        evidence
    }
}
