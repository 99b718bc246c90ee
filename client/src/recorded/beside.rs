//! Devices that stood beside a machine's evidence when it was recorded, with what their session's binding is computed from: the
//! machine's report signs the digest of their answers, and they answered that session's nonce (session.md, P-36 to P-39).

use casemate_attestation::nvidia::{PinnedGpuRoot, look_at_device};
use casemate_attestation::strict_json::hex_bytes;
use casemate_attestation::{
    BatchPath, Binding, BindingInputs, Context, DeviceSet, Direction, Envelope, EnvelopeParts,
    HardwareEvidence, Nonce, Platform, Rejection, Sha256Digest, UnixTime,
};
use serde::{Deserialize, Serialize};

use super::RecordedError;
use crate::report::Report;

/// What a session's binding is computed from (rule P-20), and the path of its batch. All of it was public to both ends, and opens
/// nothing once the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Whose machine was asked.
    pub direction: Direction,
    /// The connection's exporter value for this nonce.
    #[serde(with = "hex_bytes")]
    pub exporter: [u8; 32],
    /// SHA-256 of the TLS server's leaf.
    pub server_leaf: Sha256Digest,
    /// SHA-256 of the TLS client's leaf.
    pub client_leaf: Sha256Digest,
    /// The challenge.
    pub nonce: Nonce,
    /// What the machine said of itself.
    pub context: Context,
    /// The path, where its report served a batch.
    pub batch: Option<BatchPath>,
}

/// Devices with the session that they answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// What they said.
    pub devices: DeviceSet,
    /// To whom.
    pub session: Session,
}

impl Session {
    /// What the machine's report must be over.
    #[must_use]
    pub fn binding(&self) -> Binding {
        let inputs = BindingInputs {
            direction: self.direction,
            exporter: &self.exporter,
            server_leaf: self.server_leaf,
            client_leaf: self.client_leaf,
            nonce: self.nonce,
            context: &self.context,
        };
        inputs.binding()
    }

    /// The 64 bytes that the report carries: the binding, or the batch that holds it.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        let binding = self.binding();
        match &self.batch {
            Some(path) => path.report_data(&binding),
            None => *binding.as_bytes(),
        }
    }
}

impl Beside {
    /// The envelope as it came, but for what travels in no digest.
    pub(super) fn envelope(
        &self,
        platform: Platform,
        hardware: &HardwareEvidence,
    ) -> Result<Envelope, RecordedError> {
        let Session {
            direction,
            context,
            batch,
            ..
        } = self.session.clone();
        let parts = EnvelopeParts {
            platform,
            direction,
            hardware: hardware.clone(),
            context,
            batch,
            devices: Some(self.devices.clone()),
        };
        Envelope::build(parts).map_err(RecordedError::Envelope)
    }

    /// Looks at the devices of a machine whose report was found to be over [`Session::report_data`]: it signs these answers, and each
    /// device answered this session's nonce. Lists are compared with nothing.
    pub(super) fn looked(
        &self,
        roots: &[PinnedGpuRoot],
        now: UnixTime,
        report: &mut Report,
    ) -> Result<(), RecordedError> {
        if self.devices.digest() != self.session.context.device_evidence {
            return Err(Rejection::DevicesNotInContext.into());
        }
        report.pass(
            "evidence.P-38",
            "machine's report carries the digest of its devices' evidence and of their driver's mode",
        );
        let (nonce, answers) = (self.session.binding(), self.devices.ocsp_answers());
        let nonce = *nonce.device_nonce().as_bytes();
        for device in &self.devices.devices {
            let look = look_at_device(device, Some(nonce), roots, &answers, now);
            report.looked_at_device(&look.map_err(Rejection::from)?);
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(feature = "test-chip")]
mod tests {
    use super::*;
    use casemate_attestation::nvidia::{DriverMode, OcspAnswers};
    use casemate_attestation::test_chip::TestGpu;

    const SEED: [u8; 32] = [22; 32];
    const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

    fn beside() -> Beside {
        let mut session = Session {
            direction: Direction::Server,
            exporter: [1; 32],
            server_leaf: Sha256Digest::of(b"server"),
            client_leaf: Sha256Digest::of(b"client"),
            nonce: Nonce::from_bytes([2; 32]),
            context: Context::absent(),
            batch: None,
        };
        let nonce = *session.binding().device_nonce();
        let device = TestGpu::of_seed(&SEED, 1).evidence(&nonce);
        let devices = DeviceSet::new(DriverMode::On, vec![device], &OcspAnswers::none());
        session.context.device_evidence = devices.digest();
        Beside { devices, session }
    }

    #[test]
    fn g02_a_look_holds_devices_against_their_session_and_the_machines_word() {
        let root = [PinnedGpuRoot::private(&TestGpu::root_der(&SEED))];
        let rule = |beside: &Beside, roots: &[PinnedGpuRoot]| {
            let looked = beside.looked(roots, NOW, &mut Report::default());
            looked.map_err(|error| error.check_id())
        };
        assert_eq!(rule(&beside(), &root), Ok(()));
        let refused = |rule: &str| Err(format!("evidence.{rule}"));
        let nvidia = [PinnedGpuRoot::nvidia()];
        assert_eq!(rule(&beside(), &nvidia), refused("N3"));
        let mut other = beside();
        other.session.context.device_evidence = Sha256Digest::absent();
        assert_eq!(rule(&other, &root), refused("P-38"));
        let mut other = beside();
        other.session.exporter = [9; 32];
        assert_eq!(rule(&other, &root), refused("N2"));
    }
}
