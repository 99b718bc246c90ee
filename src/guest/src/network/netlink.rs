//! Four requests to the kernel's routing tables (rtnetlink(7)): an interface up, an address, a route, and nothing else.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};

use super::Assigned;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const ANSWER: u16 = 2;
/// Request, answer wanted.
const ASKED: u16 = 1 | 4;
/// Make it, in place of what is there.
const MADE: u16 = ASKED | 0x100 | 0x400;
const IPV4: u8 = 2;
const UP: u32 = 1;

/// A socket to the routing tables.
pub(super) struct Routes {
    socket: OwnedFd,
    sequence: u32,
}

impl Routes {
    pub(super) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket(
            AddressFamily::NETLINK,
            SocketType::RAW,
            // The first protocol of the family: routes.
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Brings an interface up.
    pub(super) fn up(&mut self, index: u32) -> io::Result<()> {
        self.ask(NEW_LINK, ASKED, &link_up(index))
    }

    /// Gives an interface its address, and the way out where there is one.
    pub(super) fn assign(&mut self, index: u32, assigned: &Assigned) -> io::Result<()> {
        self.ask(NEW_ADDRESS, MADE, &address(index, assigned))?;
        match assigned.gateway {
            Some(gateway) => self.ask(NEW_ROUTE, MADE, &route(index, gateway)),
            None => Ok(()),
        }
    }

    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = message(kind, flags, self.sequence, body);
        rustix::net::sendto(
            &self.socket,
            &message,
            SendFlags::empty(),
            &SocketAddrNetlink::new(0, 0),
        )?;
        let mut answer = [0_u8; 4096];
        let (_, length) = rustix::net::recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
        read_answer(answer.get(..length).unwrap_or_default(), self.sequence)
    }
}

/// A message with its header: length, kind, flags, sequence, port.
fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len())
        .unwrap_or(u32::MAX)
        .saturating_add(16);
    let mut out = Vec::new();
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0_u32.to_ne_bytes());
    out.extend(body);
    out
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    out.extend(8_u16.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
}

/// `ifinfomsg`: family, kind, index, flags, which of them.
fn link_up(index: u32) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0];
    out.extend(index.to_ne_bytes());
    out.extend(UP.to_ne_bytes());
    out.extend(UP.to_ne_bytes());
    out
}

/// `ifaddrmsg`: family, prefix, flags, scope, index; then address and local address.
fn address(index: u32, assigned: &Assigned) -> Vec<u8> {
    let mut out = vec![IPV4, assigned.prefix, 0, 0];
    out.extend(index.to_ne_bytes());
    for kind in [1, 2] {
        attribute(&mut out, kind, assigned.address.octets());
    }
    out
}

/// `rtmsg`: family, lengths, table main, protocol boot, scope universe, unicast, flags; then gateway and interface.
fn route(index: u32, gateway: Ipv4Addr) -> Vec<u8> {
    let mut out = vec![IPV4, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    attribute(&mut out, 5, gateway.octets());
    attribute(&mut out, 4, index.to_ne_bytes());
    out
}

/// The kernel's answer: an error number, zero for none.
fn read_answer(bytes: &[u8], sequence: u32) -> io::Result<()> {
    let field =
        |at: usize| -> Option<[u8; 4]> { bytes.get(at..at.checked_add(4)?)?.try_into().ok() };
    let kind = bytes
        .get(4..6)
        .and_then(|it| it.try_into().ok())
        .map(u16::from_ne_bytes);
    let ours = field(8).map(u32::from_ne_bytes) == Some(sequence);
    match (kind, field(16).map(i32::from_ne_bytes)) {
        (Some(ANSWER), Some(0)) if ours => Ok(()),
        (Some(ANSWER), Some(error)) if ours => {
            Err(io::Error::from_raw_os_error(error.saturating_neg()))
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel's answer is malformed",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_the_kernel_lays_them_out() {
        let assigned = Assigned {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: None,
        };
        let body = address(2, &assigned);
        assert_eq!(
            body,
            [
                2, 24, 0, 0, 2, 0, 0, 0, 8, 0, 1, 0, 10, 0, 2, 15, 8, 0, 2, 0, 10, 0, 2, 15
            ]
        );
        let whole = message(NEW_ADDRESS, MADE, 7, &body);
        assert_eq!(
            whole[..16],
            [40, 0, 0, 0, 20, 0, 5, 5, 7, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(link_up(3), [0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(
            route(2, Ipv4Addr::new(10, 0, 2, 2))[12..],
            [8, 0, 5, 0, 10, 0, 2, 2, 8, 0, 4, 0, 2, 0, 0, 0]
        );
    }

    #[test]
    fn an_answer_is_ours_or_an_error() {
        let answer = |error: i32, sequence: u32| {
            let mut bytes = message(ANSWER, 0, sequence, &error.to_ne_bytes());
            bytes.extend([0; 16]);
            bytes
        };
        assert!(read_answer(&answer(0, 3), 3).is_ok());
        assert_eq!(
            read_answer(&answer(-19, 3), 3).unwrap_err().raw_os_error(),
            Some(19)
        );
        assert!(read_answer(&answer(0, 4), 3).is_err());
        for cut in 0..20 {
            assert!(read_answer(&answer(0, 3)[..cut], 3).is_err());
        }
    }

    #[test]
    fn the_loopback_interface_of_this_machine_can_be_asked_for() {
        // Up already, or not ours to change: the kernel answers either way.
        let mut routes = Routes::open().unwrap();
        let missing = routes.up(u32::MAX).unwrap_err();
        assert!(
            matches!(missing.raw_os_error(), Some(1 | 19 | 22)),
            "{missing}"
        );
    }
}
