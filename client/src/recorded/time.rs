//! Times that people write: RFC 3339 in UTC, or seconds since 1970.

use casemate_attestation::UnixTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Reads `2026-03-07T02:05:07Z`, with any offset, or a number of seconds.
///
/// # Errors
/// What is expected instead.
pub fn parse(text: &str) -> Result<UnixTime, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(UnixTime::from_secs(seconds));
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).ok();
    time.and_then(|time| u64::try_from(time.unix_timestamp()).ok())
        .map(UnixTime::from_secs)
        .ok_or_else(|| "is no time; write 2026-03-07T02:05:07Z or seconds since 1970".to_owned())
}

/// Writes a time as [`parse`] reads it; one beyond the year 9999 as seconds.
#[must_use]
pub fn format(time: UnixTime) -> String {
    let seconds = i64::try_from(time.secs()).ok();
    seconds
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| time.secs().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_programs_write_them() {
        let read = |text| parse(text).map(UnixTime::secs);
        assert_eq!(read("2026-03-01T00:00:00Z"), Ok(1_772_323_200));
        assert_eq!(read("2026-03-01T01:00:00+01:00"), Ok(1_772_323_200));
        assert_eq!(read("1772323200"), Ok(1_772_323_200));
        for wrong in [
            "",
            "yesterday",
            "-5",
            "2026-03-01",
            "1969-12-31T23:59:59Z",
            "1e9",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let time = UnixTime::from_secs(1_772_323_200);
        assert_eq!(format(time), "2026-03-01T00:00:00Z");
        assert_eq!(format(UnixTime::from_secs(u64::MAX)), u64::MAX.to_string());
    }
}
