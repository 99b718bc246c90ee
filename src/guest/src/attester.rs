//! Evidence across the border between two processes: 64 bytes in, evidence out. The one that serves may reach no device; the first
//! process reaches it, keeps no secret of the other's, and reads nothing from it but these 64 bytes.
//!
//! An answer is a kind (one byte), a length (32 bits, big-endian) and as many bytes: evidence as JSON, or an error's text.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use casemate_attestation::{
    EvidenceProvider, HardwareEvidence, Platform, ProviderError, strict_json,
};

const EVIDENCE: u8 = 0;
const UNAVAILABLE: u8 = 1;
const BUSY: u8 = 2;
const FAILED: u8 = 3;
/// Longest answer: a quote with Intel's documents and a boot log.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Longest text of an error.
const TEXT_BYTES_MAX: usize = 4096;

/// The question.
pub const QUESTION_BYTES: usize = 64;

/// In the first process: answers one question.
///
/// # Errors
/// When the other process is gone, or asks something that is no question.
pub fn answer(stream: &mut (impl Read + Write), provider: &dyn EvidenceProvider) -> io::Result<()> {
    let mut question = [0; QUESTION_BYTES];
    stream.read_exact(&mut question)?;
    let (kind, bytes) = match provider.evidence(&question) {
        Ok(evidence) => match strict_json::to_vec(&evidence) {
            Ok(bytes) if bytes.len() <= ANSWER_BYTES_MAX => (EVIDENCE, bytes),
            _ => (FAILED, b"the evidence is too long".to_vec()),
        },
        Err(ProviderError::Busy) => (BUSY, Vec::new()),
        Err(ProviderError::Unavailable(why)) => (UNAVAILABLE, why.into_bytes()),
        Err(error) => (FAILED, error.to_string().into_bytes()),
    };
    let most = if kind == EVIDENCE {
        ANSWER_BYTES_MAX
    } else {
        TEXT_BYTES_MAX
    };
    let bytes = bytes.get(..bytes.len().min(most)).unwrap_or_default();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[kind])?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(bytes)
}

/// In the process that serves: asks the first one.
#[derive(Debug)]
pub struct Asked {
    platform: Platform,
    stream: Mutex<UnixStream>,
}

impl Asked {
    /// Asks by this socket.
    pub fn new(platform: Platform, stream: UnixStream) -> Self {
        Self {
            platform,
            stream: Mutex::new(stream),
        }
    }
}

impl EvidenceProvider for Asked {
    fn platform(&self) -> Platform {
        self.platform
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(report_data).map_err(gone)?;
        read_answer(&mut *stream)
    }
}

fn gone(error: io::Error) -> ProviderError {
    ProviderError::Device(format!("the first process does not answer: {error}"))
}

fn read_answer(stream: &mut impl Read) -> Result<HardwareEvidence, ProviderError> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).map_err(gone)?;
    let [kind, length @ ..] = head;
    let most = if kind == EVIDENCE {
        ANSWER_BYTES_MAX
    } else {
        TEXT_BYTES_MAX
    };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > most {
        return Err(ProviderError::Device(
            "the first process's answer is too long".into(),
        ));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map_err(gone)?;
    let text = || String::from_utf8_lossy(&bytes).into_owned();
    match kind {
        EVIDENCE => strict_json::from_slice(&bytes, ANSWER_BYTES_MAX)
            .map_err(|_| ProviderError::Device("the first process's answer is no evidence".into())),
        UNAVAILABLE => Err(ProviderError::Unavailable(text())),
        BUSY => Err(ProviderError::Busy),
        _ => Err(ProviderError::Device(text())),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use casemate_attestation::TpmBoot;
    use casemate_attestation::tpm::{KeyEvidence, QuoteSignature, TpmEvidence};

    use super::*;

    /// A device that says what the test wants.
    struct Says(fn(&[u8; 64]) -> Result<HardwareEvidence, ProviderError>);

    impl EvidenceProvider for Says {
        fn platform(&self) -> Platform {
            Platform::Tpm
        }

        fn evidence(&self, report_data: &[u8; 64]) -> Result<HardwareEvidence, ProviderError> {
            (self.0)(report_data)
        }
    }

    fn quote(message: Vec<u8>, log: usize) -> HardwareEvidence {
        HardwareEvidence::Tpm(Box::new(TpmBoot {
            quote: TpmEvidence {
                message,
                signature: QuoteSignature::Tpmt(vec![1; 70]),
                registers: [(4, vec![7; 32])].into(),
                key: KeyEvidence::PublicArea(vec![2; 90]),
            },
            event_log: vec![3; log],
        }))
    }

    fn ask(device: Says) -> Result<HardwareEvidence, ProviderError> {
        let (mut own, other) = UnixStream::pair().unwrap();
        let first = thread::spawn(move || {
            let answered = answer(&mut own, &device);
            // The next question does not come: the other side is gone.
            assert!(answered.is_err() || answer(&mut own, &device).is_err());
        });
        let asked = Asked::new(Platform::Tpm, other);
        let evidence = asked.evidence(&[9; 64]);
        drop(asked);
        first.join().unwrap();
        evidence
    }

    #[test]
    fn evidence_over_the_question_crosses_the_border_unchanged() {
        let device = Says(|data| Ok(quote(data.to_vec(), 100_000)));
        assert_eq!(ask(device).unwrap(), quote(vec![9; 64], 100_000));
    }

    #[test]
    fn each_error_of_a_device_stays_what_it_is() {
        for (device, expected) in [
            (Says(|_| Err(ProviderError::Busy)), ProviderError::Busy),
            (
                Says(|_| Err(ProviderError::Unavailable("gone".into()))),
                ProviderError::Unavailable("gone".into()),
            ),
        ] {
            assert_eq!(ask(device).unwrap_err(), expected);
        }
        let error = ask(Says(|_| Err(ProviderError::Device("x".repeat(10_000))))).unwrap_err();
        assert!(error.to_string().len() < 5_000);
        assert!(ask(Says(|_| Ok(quote(Vec::new(), 9 << 20)))).is_err());
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        for bytes in [
            &[][..],
            &[0],
            &[0, 0, 0, 0, 9, 1],
            &[0, 0xff, 0xff, 0xff, 0xff],
            &[1, 0, 1, 0, 0],
            &[9, 0, 0, 0, 0],
            &[0, 0, 0, 0, 2, b'{', b'}'],
        ] {
            assert!(read_answer(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }
}
