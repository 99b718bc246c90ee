//! Messages of DHCP (RFC 2131, options of RFC 2132): two that we send, two that anybody on the network may send us.
//!
//! Of an answer five options are read: its kind, the server, the length of the lease, the mask and the first router. An answer
//! that offers something no machine can use is no answer.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Assigned;

/// Longest answer that is read: what an Ethernet frame holds.
pub(super) const MESSAGE_BYTES_MAX: usize = 1500;
/// Fields before the options, with the cookie.
const FIXED_BYTES: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// A lease is asked for again after half of it; shorter and longer ones count as these.
const LEASE_MIN: Duration = Duration::from_secs(60);
const LEASE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Who asks, and in which exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) id: [u8; 4],
    pub(super) hardware: [u8; 6],
}

/// What we ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Any address.
    Discover,
    /// The address that this server offered.
    Request { address: Ipv4Addr, server: Ipv4Addr },
    /// The address that we have, for longer.
    Renew { address: Ipv4Addr },
}

/// What a server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Offer(Offer),
    Acknowledged(Offer),
    Refused,
}

/// An address for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) assigned: Assigned,
    pub(super) server: Ipv4Addr,
    pub(super) lease: Duration,
}

/// A message to the broadcast address, port 67.
pub(super) fn write(exchange: &Exchange, ask: Ask) -> Vec<u8> {
    let (kind, own, options): (u8, Ipv4Addr, Vec<u8>) = match ask {
        Ask::Discover => (1, Ipv4Addr::UNSPECIFIED, Vec::new()),
        Ask::Request { address, server } => {
            let mut options = vec![50, 4];
            options.extend(address.octets());
            options.extend([54, 4]);
            options.extend(server.octets());
            (3, Ipv4Addr::UNSPECIFIED, options)
        }
        Ask::Renew { address } => (3, address, Vec::new()),
    };
    // An answer by broadcast, for an address that we do not have cannot be sent to.
    let flags = if own.is_unspecified() {
        [0x80, 0]
    } else {
        [0, 0]
    };
    let mut out = vec![1, 1, 6, 0];
    out.extend(exchange.id);
    out.extend([0, 0]);
    out.extend(flags);
    out.extend(own.octets());
    out.extend([0; 12]);
    out.extend(exchange.hardware);
    out.extend([0; 10 + 64 + 128]);
    out.extend(COOKIE);
    out.extend([53, 1, kind]);
    out.extend(options);
    // Mask and router are all that we would like to know.
    out.extend([55, 2, 1, 3, 255]);
    out
}

/// Reads an answer to our exchange; nothing for every other message.
pub(super) fn read(bytes: &[u8], exchange: &Exchange) -> Option<Answer> {
    let (fixed, options) = bytes.split_at_checked(FIXED_BYTES)?;
    let is_answer = fixed.starts_with(&[2, 1, 6]);
    let ours = fixed.get(4..8)? == exchange.id && fixed.get(28..34)? == exchange.hardware;
    if bytes.len() > MESSAGE_BYTES_MAX || !is_answer || !ours || fixed.get(236..)? != COOKIE {
        return None;
    }
    let options = Options::read(options)?;
    if options.kind? == 6 {
        return Some(Answer::Refused);
    }
    let address = address(fixed.get(16..20)?)?;
    let prefix = prefix(options.mask?)?;
    let near = |other: Ipv4Addr| network(other, prefix) == network(address, prefix);
    let gateway = options
        .router
        .filter(|router| is_of_a_machine(*router) && near(*router) && *router != address);
    let lease = Duration::from_secs(options.lease?.into()).clamp(LEASE_MIN, LEASE_MAX);
    let offer = Offer {
        assigned: Assigned {
            address: Some(address).filter(|address| is_of_a_machine(*address))?,
            prefix,
            gateway,
        },
        server: options.server.filter(|server| is_of_a_machine(*server))?,
        lease,
    };
    match options.kind? {
        2 => Some(Answer::Offer(offer)),
        5 => Some(Answer::Acknowledged(offer)),
        _ => None,
    }
}

/// The options that count. One that stands there twice is malformed: RFC 3396 would join the two.
#[derive(Default)]
struct Options {
    kind: Option<u8>,
    mask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    lease: Option<u32>,
    server: Option<Ipv4Addr>,
}

impl Options {
    fn read(mut rest: &[u8]) -> Option<Self> {
        let mut options = Self::default();
        let mut seen = [false; 256];
        loop {
            let (code, behind) = rest.split_first()?;
            match code {
                0 => rest = behind,
                255 => return Some(options),
                code => {
                    let (length, behind) = behind.split_first()?;
                    let (value, behind) = behind.split_at_checked(usize::from(*length))?;
                    if std::mem::replace(seen.get_mut(usize::from(*code))?, true) {
                        return None;
                    }
                    options.take(*code, value)?;
                    rest = behind;
                }
            }
        }
    }

    fn take(&mut self, code: u8, value: &[u8]) -> Option<()> {
        let number = || value.try_into().ok().map(u32::from_be_bytes);
        match code {
            1 => self.mask = Some(address(value)?),
            3 => {
                self.router = Some(address(
                    value.get(..4).filter(|_| value.len().is_multiple_of(4))?,
                )?)
            }
            51 => self.lease = Some(number()?),
            53 => self.kind = Some(*value.first().filter(|_| value.len() == 1)?),
            54 => self.server = Some(address(value)?),
            _ => {}
        }
        Some(())
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// Bits of a mask that is ones and then zeros.
fn prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (ones >= 1 && bits.count_ones() == ones)
        .then(|| u8::try_from(ones).ok())
        .flatten()
}

fn network(address: Ipv4Addr, prefix: u8) -> u32 {
    let rest = 32_u32.saturating_sub(prefix.into());
    u32::from(address).checked_shr(rest).unwrap_or(0)
}

fn is_of_a_machine(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !address.is_loopback() && (1..224).contains(&first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXCHANGE: Exchange = Exchange {
        id: [1, 2, 3, 4],
        hardware: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
    };

    /// An answer with these options.
    fn answer(options: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_BYTES];
        bytes[..4].copy_from_slice(&[2, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&EXCHANGE.id);
        bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
        bytes[28..34].copy_from_slice(&EXCHANGE.hardware);
        bytes[236..].copy_from_slice(&COOKIE);
        options
            .iter()
            .for_each(|option| bytes.extend_from_slice(option));
        bytes.push(255);
        bytes
    }

    const KIND: &[u8] = &[53, 1, 2];
    const SERVER: &[u8] = &[54, 4, 10, 0, 2, 2];
    const LEASE: &[u8] = &[51, 4, 0, 1, 0x51, 0x80];
    const MASK: &[u8] = &[1, 4, 255, 255, 255, 0];
    const ROUTER: &[u8] = &[3, 4, 10, 0, 2, 2];
    const GOOD: [&[u8]; 5] = [KIND, SERVER, LEASE, MASK, ROUTER];

    fn good_with(at: usize, option: &[u8]) -> Option<Answer> {
        let mut options = GOOD.to_vec();
        options[at] = option;
        read(&answer(&options), &EXCHANGE)
    }

    #[test]
    fn an_offer_is_an_address_a_way_out_and_a_time() {
        let Some(Answer::Offer(offer)) = read(&answer(&GOOD), &EXCHANGE) else {
            panic!("no offer");
        };
        assert_eq!(offer.assigned.address, Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(
            (offer.assigned.prefix, offer.assigned.gateway),
            (24, Some(Ipv4Addr::new(10, 0, 2, 2)))
        );
        assert_eq!(offer.lease, Duration::from_secs(86_400));
        assert!(matches!(
            good_with(0, &[53, 1, 5]),
            Some(Answer::Acknowledged(_))
        ));
        assert_eq!(good_with(0, &[53, 1, 6]), Some(Answer::Refused));
        assert_eq!(
            read(&answer(&[&[53, 1, 6]]), &EXCHANGE),
            Some(Answer::Refused)
        );
    }

    #[test]
    fn names_times_routes_and_files_that_a_network_offers_change_nothing() {
        // Name servers, a domain, time servers, static routes, a boot file, an overload of other fields.
        let more: [&[u8]; 7] = [
            &[6, 4, 6, 6, 6, 6],
            &[15, 4, b'e', b'v', b'i', b'l'],
            &[42, 4, 6, 6, 6, 6],
            &[33, 8, 0, 0, 0, 0, 6, 6, 6, 6],
            &[121, 5, 0, 6, 6, 6, 6],
            &[67, 2, b'/', b'x'],
            &[52, 1, 3],
        ];
        let options: Vec<&[u8]> = GOOD.into_iter().chain(more).collect();
        assert_eq!(
            read(&answer(&options), &EXCHANGE),
            read(&answer(&GOOD), &EXCHANGE)
        );
    }

    #[test]
    fn what_is_not_for_us_or_not_usable_is_no_answer() {
        let good = answer(&GOOD);
        for (at, byte) in [
            (0, 1),
            (1, 6),
            (2, 8),
            (4, 9),
            (28, 9),
            (33, 9),
            (236, 0),
            (16, 0),
            (16, 127),
            (16, 224),
            (16, 255),
        ] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert_eq!(read(&bytes, &EXCHANGE), None, "{at}");
        }
        for (at, options) in [
            (
                0,
                vec![
                    &[53, 1, 1][..],
                    &[53, 1, 3],
                    &[53, 1, 0],
                    &[53, 2, 2, 2],
                    &[53, 0],
                    &[],
                ],
            ),
            (1, vec![&[54, 4, 0, 0, 0, 0], &[54, 3, 10, 0, 2], &[]]),
            (2, vec![&[51, 3, 0, 1, 0], &[]]),
            (
                3,
                vec![
                    &[1, 4, 255, 0, 255, 0],
                    &[1, 4, 0, 0, 0, 0],
                    &[1, 5, 255, 255, 255, 0, 0],
                    &[],
                ],
            ),
            (4, vec![&[3, 5, 10, 0, 2, 2, 9], &[3, 0]]),
        ] {
            for option in options {
                assert_eq!(good_with(at, option), None, "{option:?}");
            }
        }
        assert_eq!(
            good_with(4, MASK),
            None,
            "an option that stands there twice"
        );
        let long: Vec<u8> = good.iter().copied().chain([0; MESSAGE_BYTES_MAX]).collect();
        assert_eq!(read(&long, &EXCHANGE), None);
        for cut in 0..good.len() {
            assert_eq!(read(&good[..cut], &EXCHANGE), None, "{cut}");
        }
    }

    #[test]
    fn a_router_elsewhere_is_not_taken_and_leases_are_bounded() {
        let offer = |at, option: &[u8]| match good_with(at, option) {
            Some(Answer::Offer(offer)) => offer,
            other => panic!("{other:?}"),
        };
        for router in [
            [3, 4, 10, 0, 3, 1],
            [3, 4, 255, 255, 255, 255],
            [3, 4, 10, 0, 2, 15],
            [3, 4, 0, 0, 0, 0],
        ] {
            assert_eq!(offer(4, &router).assigned.gateway, None, "{router:?}");
        }
        assert_eq!(
            offer(4, &[3, 8, 10, 0, 2, 2, 6, 6, 6, 6]).assigned.gateway,
            Some(Ipv4Addr::new(10, 0, 2, 2))
        );
        assert_eq!(offer(2, &[51, 4, 0, 0, 0, 0]).lease, LEASE_MIN);
        assert_eq!(offer(2, &[51, 4, 255, 255, 255, 255]).lease, LEASE_MAX);
    }

    #[test]
    fn our_messages_ask_for_mask_and_router_and_for_nothing_else() {
        let discover = write(&EXCHANGE, Ask::Discover);
        assert_eq!(discover[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0]);
        assert_eq!(
            discover[FIXED_BYTES - 4..],
            [99, 130, 83, 99, 53, 1, 1, 55, 2, 1, 3, 255]
        );
        let (address, server) = (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2));
        let request = write(&EXCHANGE, Ask::Request { address, server });
        assert_eq!(
            request[FIXED_BYTES..],
            [
                53, 1, 3, 50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2, 55, 2, 1, 3, 255
            ]
        );
        let renew = write(&EXCHANGE, Ask::Renew { address });
        assert_eq!(
            (&renew[10..12], &renew[12..16]),
            (&[0, 0][..], &[10, 0, 2, 15][..])
        );
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_an_answer_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..700), framed in any::<bool>()) {
            if framed && bytes.len() >= FIXED_BYTES {
                bytes[..FIXED_BYTES].copy_from_slice(&answer(&[])[..FIXED_BYTES]);
            }
            if let Some(Answer::Offer(offer) | Answer::Acknowledged(offer)) = read(&bytes, &EXCHANGE) {
                prop_assert!(is_of_a_machine(offer.assigned.address));
                prop_assert!((1..=32).contains(&offer.assigned.prefix));
                prop_assert!((LEASE_MIN..=LEASE_MAX).contains(&offer.lease));
            }
        }
    }
}
