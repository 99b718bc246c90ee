//! Commands and responses as bytes (TPM 2.0 Part 1, 18; Part 3, 5 and 6): strict in what is read, and a code for every error.

use crate::DeviceError;
use casemate_attestation::reader::Reader;

use super::DEVICE;
use super::transport::HEADER_BYTES;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// TPM_RS_PW: authorisation by a password, which is empty here.
const PASSWORD: u32 = 0x4000_0009;
const NONCE_BYTES_MAX: usize = 64;

/// A command's code (Part 2, 6.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    CreatePrimary = 0x131,
    NvRead = 0x14e,
    ActivateCredential = 0x147,
    PolicySecret = 0x151,
    Quote = 0x158,
    FlushContext = 0x165,
    NvReadPublic = 0x169,
    ReadPublic = 0x173,
    StartAuthSession = 0x176,
    GetCapability = 0x17a,
    PcrRead = 0x17e,
}

/// How one handle of a command is authorised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authorisation {
    /// By the empty password.
    EmptyPassword,
    /// By a policy session, which ends with the command.
    Policy(u32),
}

impl Authorisation {
    /// TPMS_AUTH_COMMAND: session, no nonce, attributes, no HMAC.
    fn bytes(self) -> [u8; 9] {
        let session = match self {
            Self::EmptyPassword => PASSWORD,
            Self::Policy(session) => session,
        };
        let [a, b, c, d] = session.to_be_bytes();
        [a, b, c, d, 0, 0, 0, 0, 0]
    }
}

/// A command before it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command<'a> {
    pub(super) code: Code,
    pub(super) handles: &'a [u32],
    pub(super) authorisations: &'a [Authorisation],
    pub(super) parameters: &'a [u8],
    /// Whether the response begins with a handle.
    pub(super) answers_handle: bool,
}

impl Command<'_> {
    /// The bytes to send.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for handle in self.handles {
            body.extend(handle.to_be_bytes());
        }
        if !self.authorisations.is_empty() {
            let area: Vec<u8> = self
                .authorisations
                .iter()
                .flat_map(|authorisation| authorisation.bytes())
                .collect();
            body.extend(u32::try_from(area.len()).unwrap_or(u32::MAX).to_be_bytes());
            body.extend(area);
        }
        body.extend_from_slice(self.parameters);
        let tag = if self.authorisations.is_empty() {
            NO_SESSIONS
        } else {
            SESSIONS
        };
        let length = u32::try_from(body.len().saturating_add(HEADER_BYTES)).unwrap_or(u32::MAX);
        let mut out = tag.to_be_bytes().to_vec();
        out.extend(length.to_be_bytes());
        out.extend((self.code as u32).to_be_bytes());
        out.extend(body);
        out
    }

    /// Handle and parameters of a response to this command.
    pub(super) fn response(&self, bytes: &[u8]) -> Result<Response, Refusal> {
        let mut reader = Reader::new(bytes);
        let short = Refusal::Malformed("a response ends inside its header");
        let tag = reader.be16().ok_or(short)?;
        let length = reader.be32().ok_or(short)?;
        let code = reader.be32().ok_or(short)?;
        if usize::try_from(length) != Ok(bytes.len()) {
            return Err(Refusal::Malformed(
                "a response has another length than it says",
            ));
        }
        if code != 0 {
            return if reader.is_empty() {
                Err(Refusal::Code(code))
            } else {
                Err(Refusal::Malformed("an error has bytes after it"))
            };
        }
        let expected = if self.authorisations.is_empty() {
            NO_SESSIONS
        } else {
            SESSIONS
        };
        if tag != expected {
            return Err(Refusal::Malformed("a response has another tag"));
        }
        let handle = match self.answers_handle {
            true => Some(reader.be32().ok_or(short)?),
            false => None,
        };
        if self.authorisations.is_empty() {
            let parameters = reader.left().to_vec();
            return Ok(Response { handle, parameters });
        }
        let parameters = reader
            .be32()
            .and_then(|length| reader.take(usize::try_from(length).ok()?))
            .ok_or(Refusal::Malformed("a response ends inside its parameters"))?
            .to_vec();
        for _ in self.authorisations {
            // TPMS_AUTH_RESPONSE: nonce, attributes, HMAC. None of ours has an HMAC to check.
            let session = reader
                .sized(NONCE_BYTES_MAX)
                .and_then(|_| reader.byte())
                .and_then(|_| reader.sized(NONCE_BYTES_MAX));
            session.ok_or(Refusal::Malformed("a response ends inside its sessions"))?;
        }
        if !reader.is_empty() {
            return Err(Refusal::Malformed("a response has bytes after its end"));
        }
        Ok(Response { handle, parameters })
    }
}

/// A response that was no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) handle: Option<u32>,
    pub(super) parameters: Vec<u8>,
}

/// Why there is no response to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The TPM's own code.
    Code(u32),
    Malformed(&'static str),
}

/// Part 2, 6.6.3: warnings after which the same command may be sent again, because it was not executed.
const AGAIN: [(u32, &str); 5] = [
    (0x908, "yielded"),
    (0x90a, "testing itself"),
    (0x920, "non-volatile memory is written too often"),
    (0x922, "not able to start the command"),
    (0x923, "non-volatile memory is not available"),
];
/// Codes that a person can do something about.
const KNOWN: [(u32, &str); 6] = [
    (
        0x100,
        "it was not started: the firmware must send TPM2_Startup",
    ),
    (0x101, "it is in failure mode"),
    (
        0x902,
        "no room for another key: use the resource manager, /dev/tpmrm0",
    ),
    (
        0x903,
        "no room for another session: use the resource manager, /dev/tpmrm0",
    ),
    (0x921, "it is locked out after failed authorisations"),
    (
        0x9a2,
        "its endorsement hierarchy has a password, which is not supported",
    ),
];

impl Refusal {
    /// Whether the TPM says that a handle does not exist (TPM_RC_HANDLE, or a reference that is not loaded).
    pub(super) fn is_no_such_handle(self) -> bool {
        // Format one: bits 0 to 5 are the error, bits 8 to 11 the number of handle or parameter, bit 6 says parameter.
        matches!(self, Self::Code(code) if code & 0x80 != 0 && code & 0x40 == 0 && code & 0x3f == 0x0b)
    }
}

impl From<Refusal> for DeviceError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Code(code) if AGAIN.iter().any(|(again, _)| *again == code) => {
                Self::Busy { device: DEVICE }
            }
            Refusal::Code(code) => {
                let known = KNOWN.iter().find(|(known, _)| *known == code);
                let why = match known {
                    Some((_, words)) => format!("response code {code:#x}: {words}"),
                    None => format!("response code {code:#x}"),
                };
                Self::Failed {
                    device: DEVICE,
                    why,
                }
            }
            Refusal::Malformed(what) => Self::Malformed {
                device: DEVICE,
                what,
            },
        }
    }
}
