//! GPUs and switches on the command line: out of saved evidence, out of this machine, or the test chip's.

use std::path::{Path, PathBuf};

use casemate_attestation::nvidia::{DeviceEvidence, OcspAnswers, PinnedGpuRoot};
use casemate_attestation::{DeviceProvider, FleetDevice, Sha256Digest, UnixTime};
use casemate_client::recorded::beside::Beside;
use casemate_client::recorded::{self, Subject};
use clap::Args;

use super::enrolment::command_error;
use super::{CommandError, ExitCode};
use crate::enrolment::{self, EnrolmentError, Found, judge, judge_all, none_twice};
use crate::org::Organisation;
use crate::serve::devices;
use crate::session::now;

/// Which devices a machine has.
#[derive(Debug, Args)]
pub(super) struct Gpus {
    /// Saved evidence of one of the machine's GPUs or switches (repeatable): it is judged, and names the device.
    #[arg(long, value_name = "FOLDER")]
    gpu: Vec<PathBuf>,
    /// The GPUs of this machine, asked through NVIDIA's driver: where the organisation's folder is on the machine itself.
    #[arg(long)]
    gpus_of_this_machine: bool,
    /// A GPU of the organisation's test chip, by its number (repeatable). NOT CONFIDENTIAL.
    #[arg(long, value_name = "NUMBER")]
    test_gpu: Vec<u32>,
}

impl Gpus {
    /// Test GPUs stand beside the test chip, and beside no machine.
    pub(super) fn must_fit(&self, test_chip: bool) -> Result<(), CommandError> {
        if test_chip || self.test_gpu.is_empty() {
            return Ok(());
        }
        let text = "--test-gpu goes with --test-chip: no real machine has test GPUs";
        Err(CommandError::new(ExitCode::Usage, text))
    }

    /// What the fleet list is to say: `others`, which the machine's own evidence named, and these.
    pub(super) fn entries(
        &self,
        organisation: &Organisation,
        others: Vec<Found>,
        machine: &str,
        days: u32,
    ) -> Result<Vec<FleetDevice>, CommandError> {
        let mut found = others;
        for folder in &self.gpu {
            found.push(saved(folder)?);
        }
        if self.gpus_of_this_machine {
            let evidence = enrolment::ask(&*of_this_machine()?, None);
            let evidence = evidence.map_err(|error| command_error(error.into()))?;
            found.extend(of_enrolment(&evidence, None)?);
        }
        none_twice(&found).map_err(command_error)?;
        let entries = found.iter().enumerate();
        let mut entries: Vec<FleetDevice> = entries
            .map(|(number, it)| it.entry(number, machine))
            .collect();
        entries.extend(test_gpus(organisation, &self.test_gpu, days)?);
        Ok(entries)
    }
}

/// The device of a folder, judged at the time that it was saved.
fn saved(folder: &Path) -> Result<Found, CommandError> {
    let recorded = recorded::folder::read(folder, None)
        .map_err(|error| CommandError::new(error.exit_code(), error))?;
    let at = recorded.at.unwrap_or_else(now);
    let Subject::Device {
        evidence,
        nonce,
        answers,
    } = recorded.subject
    else {
        let text = format!("{} holds no GPU's or switch's evidence", folder.display());
        return Err(CommandError::new(ExitCode::Malformed, text).hint(
            "a machine's own evidence is given with --evidence; devices saved with it come along",
        ));
    };
    judge(&evidence, nonce, &answers, &[PinnedGpuRoot::nvidia()], at).map_err(command_error)
}

/// Devices of a request, or of an answer to `challenge`.
pub(super) fn of_enrolment(
    devices: &[DeviceEvidence],
    challenge: Option<&Sha256Digest>,
) -> Result<Vec<Found>, CommandError> {
    judge_all(devices, challenge, &[PinnedGpuRoot::nvidia()], now()).map_err(command_error)
}

/// Devices that answered a session which was saved: the digest of their answers is what its machine's report was found to sign.
pub(super) fn of_session(beside: &Beside, at: UnixTime) -> Result<Vec<Found>, CommandError> {
    of_session_under(beside, &[PinnedGpuRoot::nvidia()], at).map_err(command_error)
}

fn of_session_under(
    beside: &Beside,
    roots: &[PinnedGpuRoot],
    at: UnixTime,
) -> Result<Vec<Found>, EnrolmentError> {
    let (set, session) = (&beside.devices, &beside.session);
    if set.digest() != session.context.device_evidence {
        return Err(EnrolmentError::OtherDevices);
    }
    let answers: OcspAnswers = set.ocsp_answers();
    let nonce = *session.binding().device_nonce().as_bytes();
    let found = set.devices.iter();
    found
        .map(|it| judge(it, Some(nonce), &answers, roots, at))
        .collect()
}

/// What asks this machine's devices, without what issuers say: that is judged for each session.
pub(super) fn of_this_machine() -> Result<Box<dyn DeviceProvider>, CommandError> {
    devices::of_this_machine().map_err(|error| {
        CommandError::new(ExitCode::Unsupported, error)
            .hint("run this in the guest that has the GPUs, with NVIDIA's driver loaded")
    })
}

#[cfg(feature = "test-chip")]
fn test_gpus(
    organisation: &Organisation,
    numbers: &[u32],
    days: u32,
) -> Result<Vec<FleetDevice>, CommandError> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let entries = organisation.test_gpus(numbers, days, now());
    entries.map_err(super::org::command_error)
}

#[cfg(not(feature = "test-chip"))]
fn test_gpus(_: &Organisation, numbers: &[u32], _: u32) -> Result<Vec<FleetDevice>, CommandError> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    Err(CommandError::new(
        ExitCode::Unsupported,
        "this program was built without test GPUs",
    ))
}

#[cfg(test)]
#[cfg(feature = "test-chip")]
mod tests {
    use super::*;
    use casemate_attestation::nvidia::DriverMode;
    use casemate_attestation::test_chip::TestGpu;
    use casemate_attestation::{Context, DeviceSet, Direction, Nonce};
    use casemate_client::recorded::beside::Session;

    const SEED: [u8; 32] = [24; 32];
    const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

    #[test]
    fn b13_devices_of_a_saved_session_are_those_that_answered_it_and_that_its_machine_signs() {
        let root = [PinnedGpuRoot::private(&TestGpu::root_der(&SEED))];
        let gpu = TestGpu::of_seed(&SEED, 1);
        let mut session = Session {
            direction: Direction::Server,
            exporter: [1; 32],
            server_leaf: Sha256Digest::of(b"server"),
            client_leaf: Sha256Digest::of(b"client"),
            nonce: Nonce::from_bytes([2; 32]),
            context: Context::absent(),
            batch: None,
        };
        let device = gpu.evidence(session.binding().device_nonce());
        let devices = DeviceSet::new(DriverMode::On, vec![device], &OcspAnswers::none());
        session.context.device_evidence = devices.digest();
        let good = Beside { devices, session };
        let found = of_session_under(&good, &root, NOW).unwrap();
        assert_eq!(found[0].key, gpu.device_key());

        let refused = |change: fn(&mut Beside)| {
            let mut other = good.clone();
            change(&mut other);
            of_session_under(&other, &root, NOW).unwrap_err()
        };
        let unsigned = refused(|it| it.session.context = Context::absent());
        assert!(
            matches!(unsigned, EnrolmentError::OtherDevices),
            "{unsigned}"
        );
        let of_another = refused(|it| it.session.exporter = [9; 32]);
        assert!(of_another.to_string().contains("N2"), "{of_another}");
        assert!(
            of_session(&good, NOW).is_err(),
            "NVIDIA's root knows no test GPU"
        );
    }
}
