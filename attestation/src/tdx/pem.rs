//! Chains of certificates as PEM text (RFC 7468), read strictly: blocks of one label and white space between them.

use base64::{Engine as _, engine::general_purpose::STANDARD};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Longest chain that is read, in bytes of text. Intel's have less than 4,000.
pub(crate) const CHAIN_BYTES_MAX: usize = 16 * 1024;
/// Most certificates in a chain. Intel's have three.
const CERTIFICATES_MAX: usize = 3;

/// Reads at most three certificates (DER), leaf first.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    if text.len() > CHAIN_BYTES_MAX {
        return Err("longer than 16384 bytes");
    }
    // The quoting enclave counts the zero at the end of its text as part of it.
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    let text = std::str::from_utf8(text).map_err(|_| "not text")?;
    let mut rest = text.trim_ascii();
    let mut chain = Vec::new();
    while !rest.is_empty() {
        if chain.len() == CERTIFICATES_MAX {
            return Err("has more than three certificates");
        }
        let inside = rest
            .strip_prefix(BEGIN)
            .ok_or("has text outside of its certificates")?;
        // No letter of base64 is the first of the line that ends them.
        let (body, end) = inside.split_at(inside.find('-').unwrap_or(inside.len()));
        let after = end.strip_prefix(END).ok_or("ends inside a certificate")?;
        let mut letters = Vec::with_capacity(body.len());
        for line in body.split('\n') {
            letters.extend_from_slice(line.trim_ascii().as_bytes());
        }
        let der = STANDARD
            .decode(letters)
            .map_err(|_| "has a certificate that is not base64")?;
        chain.push(der);
        rest = after.trim_ascii_start();
    }
    Ok(chain)
}

/// The text up to the end of its first certificate; all of it where none ends.
pub(crate) fn first(text: &str) -> &str {
    let end = text.find(END).map(|at| at.saturating_add(END.len()));
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_of_a_text_is_a_text_with_one() {
        let block = format!(" {BEGIN}\nAAEC\nAwQ=\n{END}");
        assert_eq!(first(&block), block);
        assert_eq!(first(&format!("{block}\n{BEGIN}\n{END}\n")), block);
        assert_eq!(first("AAEC"), "AAEC");
        assert_eq!(first(""), "");
    }

    #[test]
    fn blocks_are_read_and_nothing_else_is() {
        let block = format!("{BEGIN}\nAAEC\nAwQ=\n{END}\n");
        assert_eq!(certificates(b""), Ok(vec![]));
        assert_eq!(
            certificates(format!("{block}{block}\0").as_bytes()),
            Ok(vec![vec![0, 1, 2, 3, 4]; 2])
        );
        let lines = format!("{BEGIN}\r\n AAEC\t\r\n\r\nAwQ=\r\n{END}");
        assert_eq!(
            certificates(lines.as_bytes()),
            Ok(vec![vec![0, 1, 2, 3, 4]])
        );
        let longest = format!("{block:CHAIN_BYTES_MAX$}");
        assert_eq!(longest.len(), CHAIN_BYTES_MAX);
        assert_eq!(
            certificates(longest.as_bytes()),
            Ok(vec![vec![0, 1, 2, 3, 4]])
        );
        for (text, what) in [
            (format!("x{block}"), "has text outside of its certificates"),
            (format!("{block}x"), "has text outside of its certificates"),
            (
                format!("{block}\0\0"),
                "has text outside of its certificates",
            ),
            (format!("{BEGIN}\nAAEC"), "ends inside a certificate"),
            (
                format!("{BEGIN}\nAA-EC\n{END}"),
                "ends inside a certificate",
            ),
            (
                format!("{BEGIN}\nAA EC\n{END}"),
                "has a certificate that is not base64",
            ),
            (
                format!("{BEGIN}\nAAE\n{END}"),
                "has a certificate that is not base64",
            ),
            (block.repeat(4), "has more than three certificates"),
            (format!("{longest} "), "longer than 16384 bytes"),
        ] {
            assert_eq!(certificates(text.as_bytes()), Err(what));
        }
        assert_eq!(certificates(&[0xff]), Err("not text"));
    }
}
