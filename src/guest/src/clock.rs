//! The clock comes from the host, and so it is believed between two dates only, and only beside the broker's.
//!
//! What dates mean in an image: a document that is out of date by the host's clock is refused, and a host can make it so. A host that
//! holds the clock back can keep a document in force for longer, until `not_after` at most, and by no more than the permitted
//! difference at the start: the broker signs its own time into each certificate of this server, and it looks at its documents' dates
//! itself before it releases anything. What must not be old is therefore bound by nonces and numbers, never by dates alone.

use casemate::config::ClockSection;
use casemate_attestation::UnixTime;

use crate::failure::{Failure, What};

/// Whether the clock may be right at all.
///
/// # Errors
/// [`What::Clock`] outside of the two dates.
pub fn check(section: &ClockSection, now: UnixTime) -> Result<(), Failure> {
    let (first, last) = (section.not_before.begins(), section.not_after.begins());
    if now < first {
        let found = format!(
            "the clock is {} days before {}",
            days(first, now),
            section.not_before
        );
        return Err(Failure::new(
            What::Clock,
            found,
            "set the host's clock: -rtc base=utc",
        ));
    }
    if now >= last {
        let found = format!("the image was to be used before {}", section.not_after);
        return Err(Failure::new(
            What::Clock,
            found,
            "build a newer image, or set the host's clock",
        ));
    }
    Ok(())
}

/// Whether the clock is the broker's, which signed this server's certificate a moment ago.
///
/// # Errors
/// [`What::Clock`] where the two differ by more than is permitted.
pub fn check_beside_broker(
    section: &ClockSection,
    now: UnixTime,
    broker: UnixTime,
) -> Result<(), Failure> {
    let apart = now.secs().abs_diff(broker.secs());
    if apart > section.broker_skew_seconds.into() {
        let found = format!(
            "the clock is {apart} s from the broker's, which may be {} s",
            section.broker_skew_seconds
        );
        return Err(Failure::new(
            What::Clock,
            found,
            "set the clock of the host, or of the broker",
        ));
    }
    Ok(())
}

fn days(later: UnixTime, earlier: UnixTime) -> u64 {
    later.secs().saturating_sub(earlier.secs()).div_ceil(86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> ClockSection {
        ClockSection {
            not_before: "2026-11-01".parse().unwrap(),
            not_after: "2027-11-01".parse().unwrap(),
            broker_skew_seconds: 300,
        }
    }

    #[test]
    fn a_clock_outside_of_the_images_dates_is_refused() {
        let (first, last) = (section().not_before.begins(), section().not_after.begins());
        let check = |now| check(&section(), now).map_err(|failure| failure.what());
        assert_eq!(check(first), Ok(()));
        assert_eq!(check(first.minus(1)), Err(What::Clock));
        assert_eq!(check(last.minus(1)), Ok(()));
        assert_eq!(check(last), Err(What::Clock));
        assert_eq!(check(UnixTime::from_secs(0)), Err(What::Clock));
        assert_eq!(check(UnixTime::from_secs(u64::MAX)), Err(What::Clock));
    }

    #[test]
    fn a_clock_that_is_not_the_brokers_is_refused() {
        let broker = section().not_before.begins().plus(86_400);
        let check =
            |now| check_beside_broker(&section(), now, broker).map_err(|failure| failure.what());
        assert_eq!(check(broker.plus(300)), Ok(()));
        assert_eq!(check(broker.minus(300)), Ok(()));
        assert_eq!(check(broker.plus(301)), Err(What::Clock));
        assert_eq!(check(broker.minus(301)), Err(What::Clock));
    }
}
