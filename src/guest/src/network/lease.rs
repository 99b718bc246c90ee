//! An address of DHCP and the time for which it is ours.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::dhcp::{self, Answer, Ask, Exchange, MESSAGE_BYTES_MAX, Offer};
use super::{Assigned, Interface};
use crate::failure::{Failure, What};

const CLIENT: u16 = 68;
const SERVER: u16 = 67;
/// How long an answer is waited for, try after try (RFC 2131, 4.1).
const WAITS_S: [u64; 5] = [2, 4, 8, 16, 16];
/// Messages that are read while waiting for one answer: a network that shouts does not hold us.
const MESSAGES_MAX: usize = 200;
/// A renewal that failed is tried again after this long.
const AGAIN: Duration = Duration::from_secs(30);

/// An address that was given, which must be asked for again in time.
#[derive(Debug)]
pub struct Lease {
    interface: Interface,
    assigned: Assigned,
    renew_at: Instant,
    ends: Instant,
}

impl Lease {
    /// Asks for an address.
    pub(super) fn ask(interface: Interface) -> Result<Self, Failure> {
        let none = |found: String| {
            let hint = "start a DHCP server in the machine's network, or give it an address: [network] mode = \"static\"";
            Failure::new(What::Dhcp, format!("{}: {found}", interface.name), hint)
        };
        for wait in WAITS_S {
            match exchange(&interface, Duration::from_secs(wait)) {
                Ok(Some(offer)) => return Ok(Self::of(interface, &offer)),
                Ok(None) => {}
                Err(error) => return Err(none(error.to_string())),
            }
        }
        Err(none("nobody offers an address".into()))
    }

    fn of(interface: Interface, offer: &Offer) -> Self {
        let now = Instant::now();
        Self {
            interface,
            assigned: offer.assigned,
            renew_at: now.checked_add(offer.lease / 2).unwrap_or(now),
            ends: now.checked_add(offer.lease).unwrap_or(now),
        }
    }

    pub(super) const fn assigned(&self) -> Assigned {
        self.assigned
    }

    /// How long until [`Lease::renew`] is due.
    pub fn due_in(&self) -> Duration {
        self.renew_at.saturating_duration_since(Instant::now())
    }

    /// Asks for the same address for longer. Without an answer the address stays ours until the lease ends.
    ///
    /// # Errors
    /// [`What::Dhcp`] when the address is no longer ours: a server under another address is not what clients were told.
    pub fn renew(&mut self) -> Result<(), Failure> {
        let address = self.assigned.address;
        let lost = |found: &str| {
            let found = format!("{}: {found}", self.interface.name);
            Failure::new(
                What::Dhcp,
                found,
                "give the machine a fixed address, or a lease that is renewed",
            )
        };
        let asked = Asked::open(&self.interface);
        let answer =
            asked.and_then(|asked| asked.ask(Ask::Renew { address }, Duration::from_secs(3)));
        match answer {
            Ok(Some(Answer::Acknowledged(offer))) if offer.assigned == self.assigned => {
                *self = Self::of(self.interface.clone(), &offer);
                Ok(())
            }
            Ok(Some(Answer::Acknowledged(_))) => Err(lost("another address was given than before")),
            Ok(Some(Answer::Refused)) => Err(lost("the address was taken away")),
            _ if Instant::now() >= self.ends => Err(lost("nobody renews the lease")),
            _ => {
                let now = Instant::now();
                self.renew_at = now.checked_add(AGAIN).unwrap_or(now).min(self.ends);
                Ok(())
            }
        }
    }
}

/// Discover, offer, request, acknowledgement; nothing when an answer stays out.
fn exchange(interface: &Interface, wait: Duration) -> io::Result<Option<Offer>> {
    let asked = Asked::open(interface)?;
    let Some(Answer::Offer(offer)) = asked.ask(Ask::Discover, wait)? else {
        return Ok(None);
    };
    let (address, server) = (offer.assigned.address, offer.server);
    match asked.ask(Ask::Request { address, server }, wait)? {
        Some(Answer::Acknowledged(given)) if given.assigned.address == address => Ok(Some(given)),
        _ => Ok(None),
    }
}

/// One exchange on one interface.
struct Asked {
    socket: Socket,
    exchange: Exchange,
}

impl Asked {
    fn open(interface: &Interface) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_broadcast(true)?;
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(interface.name.as_bytes()))?;
        // Not to the address that we have: answers may come by broadcast.
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, CLIENT)).into())?;
        let mut id = [0; 4];
        let filled = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        if filled != id.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let hardware = interface.hardware;
        Ok(Self {
            socket,
            exchange: Exchange { id, hardware },
        })
    }

    fn ask(&self, ask: Ask, wait: Duration) -> io::Result<Option<Answer>> {
        let message = dhcp::write(&self.exchange, ask);
        let everybody = SocketAddr::from((Ipv4Addr::BROADCAST, SERVER)).into();
        self.socket.send_to(&message, &everybody)?;
        let until = Instant::now()
            .checked_add(wait)
            .unwrap_or_else(Instant::now);
        for _ in 0..MESSAGES_MAX {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.receive() {
                Ok(bytes) => {
                    if let Some(answer) = dhcp::read(&bytes, &self.exchange) {
                        return Ok(Some(answer));
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX + 1];
        let length = (&self.socket).read(&mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }
}
