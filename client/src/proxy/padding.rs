//! Requests of one of a few lengths: white space behind the JSON, which a server reads over, up to a bucket of cells. The
//! buckets are Padmé's (Nikitin et al., PETS 2019): at most 12 % more, and a length tells the order of magnitude and little
//! beside it. All of a request leaves at once, so that the pace at which a program writes it does not cross the network.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};

use super::error::Refusal;

/// Bytes of a cell, as of an answer's.
const CELL_BYTES: usize = 512;
/// Cells of the shortest request: most questions have this length.
const CELLS_MIN: usize = 8;
/// The longest request that is collected and filled up. What is longer no model of today reads at once.
const PADDED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long a program may take to write such a request.
const COLLECT_LIMIT: Duration = Duration::from_secs(30);

/// Whether this request's body can be filled up: JSON of a known length that is not too long.
pub(super) fn is_for(head: &Parts, body: &Incoming) -> bool {
    let json = head.headers.get(CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.to_str().unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json")
    });
    let length = body.size_hint().exact();
    let short = length.is_some_and(|length| length <= PADDED_BYTES_MAX as u64);
    head.method == Method::POST && json && short
}

/// Collects the body and fills it up. The head's length becomes that of the whole.
pub(super) async fn padded(head: &mut Parts, body: Incoming) -> Result<Bytes, Refusal> {
    let collected = Limited::new(body, PADDED_BYTES_MAX).collect();
    let collected = tokio::time::timeout(COLLECT_LIMIT, collected).await;
    let body = collected
        .map_err(|_| Refusal::BodyBroken)?
        .map_err(|_| Refusal::BodyBroken)?
        .to_bytes();
    // The HTTP library writes the length that it sends.
    head.headers.remove(header::CONTENT_LENGTH);
    let length = padded_bytes(body.len());
    let mut filled = BytesMut::with_capacity(length);
    filled.put(body.as_ref());
    filled.put_bytes(b' ', length.saturating_sub(body.len()));
    Ok(filled.freeze())
}

/// Bytes of a request that has `bytes`, filled up.
fn padded_bytes(bytes: usize) -> usize {
    let cells = bytes.div_ceil(CELL_BYTES).max(CELLS_MIN);
    padme(cells).saturating_mul(CELL_BYTES)
}

/// The next number of which only the leading bits are set, as many as its length in bits needs to be written.
fn padme(number: usize) -> usize {
    let Some(exponent) = number.checked_ilog2().filter(|exponent| *exponent > 0) else {
        return number;
    };
    let kept = exponent.ilog2().saturating_add(1);
    let unit = 1_usize
        .checked_shl(exponent.saturating_sub(kept))
        .unwrap_or(1);
    number.checked_next_multiple_of(unit).unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padme_is_that_of_the_paper() {
        for (number, padded) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (7, 7),
            (8, 8),
            (9, 10),
            (11, 12),
            (33, 36),
            (100, 104),
            (1000, 1024),
            (4097, 4352),
        ] {
            assert_eq!(padme(number), padded, "{number}");
        }
        for number in 1..100_000_usize {
            let padded = padme(number);
            assert!(padded >= number && padded * 100 <= number * 112, "{number}");
        }
    }

    #[test]
    fn short_requests_have_one_length_and_long_ones_few() {
        assert_eq!(padded_bytes(0), 4096);
        assert_eq!(padded_bytes(4096), 4096);
        assert_eq!(padded_bytes(4097), 5120);
        let lengths: std::collections::BTreeSet<_> = (1..PADDED_BYTES_MAX)
            .step_by(97)
            .map(padded_bytes)
            .collect();
        // From 8 to 4096 cells: less than seven bits for a long request, and none for a short one.
        assert_eq!(lengths.len(), 101);
    }
}
