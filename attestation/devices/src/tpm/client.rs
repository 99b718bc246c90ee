//! The commands, one method each: parameters in, checked structures out. Handles that we loaded are given back.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use casemate_attestation::reader::Reader;
use casemate_attestation::tpm::{Bank, PCR_COUNT};
use zeroize::Zeroizing;

use crate::DeviceError;
use crate::wire::sized;

use super::DEVICE;
use super::command::{Authorisation, Code, Command, Refusal, Response};
use super::credential::{Credential, SECRET_BYTES_MAX};
use super::templates::KeyKind;
use super::transport::{MESSAGE_BYTES_MAX, Transport};

const ENDORSEMENT_HIERARCHY: u32 = 0x4000_000b;
const NULL_HANDLE: u32 = 0x4000_0007;
const NULL: u16 = 0x0010;
const SHA256: u16 = 0x000b;
const POLICY_SESSION: u8 = 1;
/// TPM_CAP_TPM_PROPERTIES, and the manufacturer's four letters in it.
const PROPERTIES: u32 = 6;
const MANUFACTURER: u32 = 0x105;
const PUBLIC_BYTES_MAX: usize = 1024;
const DIGEST_BYTES_MAX: usize = 64;
/// Longest certificate in NV memory, and how much of it is asked for at once: every TPM gives 512 bytes.
const NV_BYTES_MAX: u16 = 8 * 1024;
const NV_PART_BYTES: u16 = 512;
/// A register is read at most this often before the TPM is said to hold back.
const PCR_ROUNDS_MAX: usize = 24;

/// A key in the TPM, with the public area that it was made with.
#[derive(Debug, PartialEq, Eq)]
pub struct LoadedKey {
    pub(super) handle: u32,
    /// TPMT_PUBLIC.
    pub public: Vec<u8>,
}

/// A TPM at the other end of a transport.
#[derive(Debug)]
pub struct Tpm<T> {
    transport: T,
}

impl<T: Transport> Tpm<T> {
    /// Speaks to this TPM. Firmware has started it.
    pub const fn new(transport: T) -> Self {
        Self { transport }
    }

    fn ask(&mut self, command: &Command<'_>) -> Result<Result<Response, Refusal>, DeviceError> {
        let response = self
            .transport
            .exchange(&command.bytes())
            .map_err(|error| DeviceError::of_system(DEVICE, &error))?;
        if response.len() > MESSAGE_BYTES_MAX {
            return Err(malformed("a response is longer than 4096 bytes"));
        }
        Ok(command.response(&response))
    }

    fn run(&mut self, command: &Command<'_>) -> Result<Response, DeviceError> {
        self.ask(command)?.map_err(DeviceError::from)
    }

    /// The manufacturer's four letters (GetCapability), which show that a TPM 2.0 answers.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn manufacturer(&mut self) -> Result<String, DeviceError> {
        let parameters = words(&[PROPERTIES, MANUFACTURER, 1]);
        let response = self.run(&plain(Code::GetCapability, &[], &parameters))?;
        let mut reader = Reader::new(&response.parameters);
        let fields = reader
            .byte()
            .zip(reader.be32())
            .zip(reader.be32())
            .zip(reader.be32());
        match (fields, reader.array::<4>(), reader.is_empty()) {
            (Some((((_, PROPERTIES), 1), MANUFACTURER)), Some(letters), true) => Ok(letters
                .iter()
                .filter(|byte| byte.is_ascii_graphic())
                .map(|byte| char::from(*byte))
                .collect()),
            _ => Err(malformed("its capabilities are not those asked for")),
        }
    }

    /// The default endorsement key of this kind (CreatePrimary): the same after every boot.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn endorsement_key(&mut self, kind: KeyKind) -> Result<LoadedKey, DeviceError> {
        self.primary(&kind.endorsement())
    }

    /// Our attestation key of this kind (CreatePrimary, in the endorsement hierarchy): the same after every boot.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn attestation_key(&mut self, kind: KeyKind) -> Result<LoadedKey, DeviceError> {
        self.primary(&kind.attestation())
    }

    fn primary(&mut self, template: &[u8]) -> Result<LoadedKey, DeviceError> {
        // No password and no data of ours; the template; no outside information; no registers for the creation ticket.
        let mut parameters = sized(&[0, 0, 0, 0]);
        parameters.extend(sized(template));
        parameters.extend(sized(&[]));
        parameters.extend(0_u32.to_be_bytes());
        let response = self.run(&Command {
            code: Code::CreatePrimary,
            handles: &[ENDORSEMENT_HIERARCHY],
            authorisations: &[Authorisation::EmptyPassword],
            parameters: &parameters,
            answers_handle: true,
        })?;
        let handle = response.handle.unwrap_or(NULL_HANDLE);
        let public = Reader::new(&response.parameters)
            .sized(PUBLIC_BYTES_MAX)
            .map(<[u8]>::to_vec);
        match public {
            Some(public) => Ok(LoadedKey { handle, public }),
            None => {
                self.flush_handle(handle)?;
                Err(malformed("a new key has no public area"))
            }
        }
    }

    /// The public area of a key that lies at this handle, as a persistent one (ReadPublic). `None` when there is none.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn public_area(&mut self, handle: u32) -> Result<Option<Vec<u8>>, DeviceError> {
        let response = match self.ask(&plain(Code::ReadPublic, &[handle], &[]))? {
            Ok(response) => response,
            Err(refusal) if refusal.is_no_such_handle() => return Ok(None),
            Err(refusal) => return Err(refusal.into()),
        };
        Reader::new(&response.parameters)
            .sized(PUBLIC_BYTES_MAX)
            .map(|area| Some(area.to_vec()))
            .ok_or_else(|| malformed("a key has no public area"))
    }

    /// The maker's certificate of the endorsement key of this kind, as it lies in NV memory: zeros may follow it. `None` when the
    /// maker left none there.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn endorsement_certificate(
        &mut self,
        kind: KeyKind,
    ) -> Result<Option<Vec<u8>>, DeviceError> {
        let index = kind.certificate_index();
        let Some(length) = self.nv_length(index)? else {
            return Ok(None);
        };
        let mut out = Vec::new();
        let mut offset: u16 = 0;
        while offset < length {
            let part = NV_PART_BYTES.min(length.saturating_sub(offset));
            let mut parameters = part.to_be_bytes().to_vec();
            parameters.extend(offset.to_be_bytes());
            let response = self.run(&Command {
                code: Code::NvRead,
                handles: &[index, index],
                authorisations: &[Authorisation::EmptyPassword],
                parameters: &parameters,
                answers_handle: false,
            })?;
            let mut reader = Reader::new(&response.parameters);
            let bytes = reader.sized(usize::from(part));
            match bytes {
                Some(bytes) if bytes.len() == usize::from(part) && reader.is_empty() => {
                    out.extend_from_slice(bytes);
                }
                _ => return Err(malformed("non-volatile memory gave another length")),
            }
            offset = offset.saturating_add(part);
        }
        Ok(Some(out))
    }

    /// Length of what an NV index holds (NV_ReadPublic), or that it does not exist.
    fn nv_length(&mut self, index: u32) -> Result<Option<u16>, DeviceError> {
        let response = match self.ask(&plain(Code::NvReadPublic, &[index], &[]))? {
            Ok(response) => response,
            Err(refusal) if refusal.is_no_such_handle() => return Ok(None),
            Err(refusal) => return Err(refusal.into()),
        };
        let wrong = || malformed("the public area of an NV index is not well-formed");
        let area = Reader::new(&response.parameters)
            .sized(PUBLIC_BYTES_MAX)
            .ok_or_else(wrong)?;
        let mut reader = Reader::new(area);
        let found = reader.be32().ok_or_else(wrong)?;
        reader
            .be16()
            .and_then(|_| reader.be32())
            .ok_or_else(wrong)?;
        reader.sized(DIGEST_BYTES_MAX).ok_or_else(wrong)?;
        let length = reader.be16().ok_or_else(wrong)?;
        if found != index || !reader.is_empty() {
            return Err(wrong());
        }
        match length {
            1..=NV_BYTES_MAX => Ok(Some(length)),
            _ => Err(malformed("a certificate is empty or longer than 8 KiB")),
        }
    }

    /// Values of these registers (PCR_Read). They are not signed: only what a quote confirms counts.
    ///
    /// # Errors
    /// [`DeviceError`]; a bank that the TPM does not have gives no values.
    pub fn registers(
        &mut self,
        bank: Bank,
        registers: &BTreeSet<u8>,
    ) -> Result<BTreeMap<u8, Vec<u8>>, DeviceError> {
        let mut left = registers.clone();
        let mut out = BTreeMap::new();
        for _ in 0..PCR_ROUNDS_MAX {
            if left.is_empty() {
                return Ok(out);
            }
            let response = self.run(&plain(Code::PcrRead, &[], &selection(bank, &left)))?;
            let values = values(&response.parameters, bank)
                .ok_or_else(|| malformed("register values are not well-formed"))?;
            if values.is_empty() || values.keys().any(|register| !left.remove(register)) {
                return Err(malformed("it gave no registers, or others than asked for"));
            }
            out.extend(values);
        }
        Err(malformed("it does not give all the registers asked for"))
    }

    /// A quote of these registers by a key of [`Self::attestation_key`]: TPMS_ATTEST and TPMT_SIGNATURE, as they are.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn quote(
        &mut self,
        key: &LoadedKey,
        nonce: &[u8; 32],
        bank: Bank,
        registers: &BTreeSet<u8>,
    ) -> Result<(Vec<u8>, Vec<u8>), DeviceError> {
        let mut parameters = sized(nonce);
        // The key's own scheme.
        parameters.extend(NULL.to_be_bytes());
        parameters.extend(selection(bank, registers));
        let response = self.run(&Command {
            code: Code::Quote,
            handles: &[key.handle],
            authorisations: &[Authorisation::EmptyPassword],
            parameters: &parameters,
            answers_handle: false,
        })?;
        let mut reader = Reader::new(&response.parameters);
        let message = reader
            .sized(PUBLIC_BYTES_MAX)
            .ok_or_else(|| malformed("a quote has no message"))?;
        Ok((message.to_vec(), reader.left().to_vec()))
    }

    /// Opens a credential that was made for these two keys (ActivateCredential), by a policy session (PolicySecret).
    ///
    /// The secret crosses the wires between processor and TPM in the clear: it proves that the keys live together, and is good for
    /// nothing else.
    ///
    /// # Errors
    /// [`DeviceError`]; a credential for other keys is an error of the TPM.
    pub fn activate(
        &mut self,
        attestation: &LoadedKey,
        endorsement: &LoadedKey,
        credential: &Credential,
    ) -> Result<Zeroizing<Vec<u8>>, DeviceError> {
        let session = self.policy_session()?;
        let opened = self
            .policy_secret(session)
            .and_then(|()| self.open(session, attestation, endorsement, credential));
        if opened.is_err() {
            // A session that was used to its end is gone; any other takes one of the TPM's few places. The first error counts.
            let _ = self.flush_handle(session);
        }
        opened
    }

    fn policy_session(&mut self) -> Result<u32, DeviceError> {
        let mut nonce = [0_u8; 32];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| DeviceError::Failed {
                device: "the system's random number generator",
                why: "no randomness".into(),
            })?;
        let mut parameters = sized(&nonce);
        parameters.extend(sized(&[]));
        parameters.push(POLICY_SESSION);
        parameters.extend(NULL.to_be_bytes());
        parameters.extend(SHA256.to_be_bytes());
        let response = self.run(&Command {
            code: Code::StartAuthSession,
            handles: &[NULL_HANDLE, NULL_HANDLE],
            authorisations: &[],
            parameters: &parameters,
            answers_handle: true,
        })?;
        response
            .handle
            .ok_or_else(|| malformed("a new session has no handle"))
    }

    fn policy_secret(&mut self, session: u32) -> Result<(), DeviceError> {
        // No nonce, no parameter hash, no reference, no expiration.
        let parameters = [0_u8; 10];
        self.run(&Command {
            code: Code::PolicySecret,
            handles: &[ENDORSEMENT_HIERARCHY, session],
            authorisations: &[Authorisation::EmptyPassword],
            parameters: &parameters,
            answers_handle: false,
        })?;
        Ok(())
    }

    fn open(
        &mut self,
        session: u32,
        attestation: &LoadedKey,
        endorsement: &LoadedKey,
        credential: &Credential,
    ) -> Result<Zeroizing<Vec<u8>>, DeviceError> {
        let parameters = [credential.object.as_slice(), &credential.seed].concat();
        let response = self.run(&Command {
            code: Code::ActivateCredential,
            handles: &[attestation.handle, endorsement.handle],
            authorisations: &[Authorisation::EmptyPassword, Authorisation::Policy(session)],
            parameters: &parameters,
            answers_handle: false,
        })?;
        let parameters = Zeroizing::new(response.parameters);
        let mut reader = Reader::new(&parameters);
        match (reader.sized(SECRET_BYTES_MAX), reader.is_empty()) {
            (Some(secret), true) => Ok(Zeroizing::new(secret.to_vec())),
            _ => Err(malformed("an opened credential is not well-formed")),
        }
    }

    /// Gives a key's place in the TPM back (FlushContext).
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn flush(&mut self, key: LoadedKey) -> Result<(), DeviceError> {
        self.flush_handle(key.handle)
    }

    pub(super) fn flush_handle(&mut self, handle: u32) -> Result<(), DeviceError> {
        // The handle to flush is a parameter, not a handle of the command (Part 3, 28.4).
        self.run(&plain(Code::FlushContext, &[], &handle.to_be_bytes()))?;
        Ok(())
    }
}

/// A command that needs no authorisation and answers no handle.
const fn plain<'a>(code: Code, handles: &'a [u32], parameters: &'a [u8]) -> Command<'a> {
    Command {
        code,
        handles,
        authorisations: &[],
        parameters,
        answers_handle: false,
    }
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_be_bytes())
        .collect()
}

/// TPML_PCR_SELECTION of one bank.
fn selection(bank: Bank, registers: &BTreeSet<u8>) -> Vec<u8> {
    let mut out = words(&[1]);
    out.extend(bank.id().to_be_bytes());
    out.push(PCR_COUNT / 8);
    out.extend((0..PCR_COUNT / 8).map(|byte| {
        (0..8_u8)
            .filter(|bit| registers.contains(&(byte * 8 + bit)))
            .fold(0_u8, |bits, bit| bits | 1 << bit)
    }));
    out
}

/// Registers and values of a PCR_Read response: update counter, selection of what was read, digests in that order.
fn values(parameters: &[u8], bank: Bank) -> Option<BTreeMap<u8, Vec<u8>>> {
    let mut reader = Reader::new(parameters);
    reader.be32()?;
    // Without the bank the selection is empty, or has no bits.
    if reader.be32()? != 1 || reader.be16()? != bank.id() {
        return None;
    }
    let bytes = usize::from(reader.byte()?);
    let bits = reader.take(bytes).filter(|bits| bits.len() <= 4)?;
    let selected = (0_u8..).zip(bits).flat_map(|(byte, bits)| {
        (0..8_u8)
            .filter(move |bit| bits >> bit & 1 == 1)
            .map(move |bit| byte * 8 + bit)
    });
    let count = usize::try_from(reader.be32()?).ok()?;
    let mut out = BTreeMap::new();
    for register in selected {
        let value = reader.sized(DIGEST_BYTES_MAX)?;
        if value.len() != bank.digest_bytes() {
            return None;
        }
        out.insert(register, value.to_vec());
    }
    (out.len() == count && reader.is_empty()).then_some(out)
}

const fn malformed(what: &'static str) -> DeviceError {
    DeviceError::Malformed {
        device: DEVICE,
        what,
    }
}
