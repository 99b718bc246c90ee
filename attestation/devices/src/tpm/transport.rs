//! How commands reach a TPM: the kernel's resource manager, or the socket of a software TPM.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Longest command or response, in bytes: the kernel's buffer (TPM_BUFSIZE). Ours have less than 2 KiB.
pub(super) const MESSAGE_BYTES_MAX: usize = 4096;
/// Tag, length and code.
pub(super) const HEADER_BYTES: usize = 10;

/// One command, one response.
pub trait Transport {
    /// Sends a whole command and returns the whole response, of at most 4096 bytes.
    ///
    /// # Errors
    /// What the system says. Nothing is known then about whether the command was executed.
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        (**self).exchange(command)
    }
}

/// The kernel's device: one write is a command, one read its response.
#[derive(Debug)]
pub struct DeviceFile(File);

impl DeviceFile {
    /// Opens the device, as `/dev/tpmrm0`.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self(file))
    }
}

impl Transport for DeviceFile {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let written = self.0.write(command)?;
        if written != command.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut response = vec![0_u8; MESSAGE_BYTES_MAX];
        let length = self.0.read(&mut response)?;
        response.truncate(length);
        Ok(response)
    }
}

/// A software TPM's data channel over TCP: commands and responses as they are, told apart by their own lengths.
#[derive(Debug)]
pub struct Socket(TcpStream);

impl Socket {
    /// Connects; a response that takes longer than `wait` is an error.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(address: SocketAddr, wait: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, wait)?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }
}

impl Transport for Socket {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        // A socket's time-out reads like a lock that is held, after which a command would be sent twice.
        let late = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        };
        self.0.write_all(command).map_err(late)?;
        let mut header = [0_u8; HEADER_BYTES];
        self.0.read_exact(&mut header).map_err(late)?;
        let [_, _, a, b, c, d, ..] = header;
        let rest = usize::try_from(u32::from_be_bytes([a, b, c, d]))
            .ok()
            .filter(|length| *length <= MESSAGE_BYTES_MAX)
            .and_then(|length| length.checked_sub(HEADER_BYTES))
            .ok_or(io::ErrorKind::InvalidData)?;
        let mut response = header.to_vec();
        response.resize(HEADER_BYTES.saturating_add(rest), 0);
        let body = response.get_mut(HEADER_BYTES..).unwrap_or_default();
        self.0.read_exact(body).map_err(late)?;
        Ok(response)
    }
}
