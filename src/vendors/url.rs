//! Addresses of vendors' services, as configuration has them: whole, without a user, a query or a fragment.

use std::net::IpAddr;

use http::Uri;
use serde::{Deserialize, Serialize};

/// Longest address, in bytes.
const BYTES_MAX: usize = 512;

/// Scheme, host, port and path of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceUrl {
    /// Whether TLS stands between.
    pub tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// Port, the scheme's own where none is written.
    pub port: u16,
    /// Path without a slash at its end.
    path: String,
}

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an address such as https://service.example/path, without user, query or fragment, of at most 512 bytes"
)]
pub struct UrlError;

impl TryFrom<String> for ServiceUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        // A fragment would be dropped silently.
        if text.len() > BYTES_MAX || text.contains(['#', '@']) {
            return Err(UrlError);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(UrlError)?;
        if uri.query().is_some() {
            return Err(UrlError);
        }
        Ok(Self {
            tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl From<ServiceUrl> for String {
    fn from(url: ServiceUrl) -> Self {
        url.at("")
    }
}

impl ServiceUrl {
    /// A vendor's own address.
    pub(super) fn of_vendor(host: &str, path: &str) -> Self {
        Self {
            tls: true,
            host: host.to_owned(),
            port: 443,
            path: path.to_owned(),
        }
    }

    /// The whole address of something of this service. `rest` begins with a slash, or is empty.
    #[must_use]
    pub fn at(&self, rest: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.target(rest))
    }

    /// What a request line asks for.
    #[must_use]
    pub fn target(&self, rest: &str) -> String {
        match (self.path.as_str(), rest) {
            ("", "") => "/".to_owned(),
            (path, rest) => format!("{path}{rest}"),
        }
    }

    /// Host and port as a request names them: without the scheme's own port.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.bracketed();
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// Host and port, both written.
    #[must_use]
    pub fn host_and_port(&self) -> String {
        format!("{}:{}", self.bracketed(), self.port)
    }

    fn bracketed(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        }
    }

    /// Whether it leads to this machine and no further.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<ServiceUrl, UrlError> {
        ServiceUrl::try_from(text.to_owned())
    }

    #[test]
    fn addresses_are_read_and_written() {
        for (text, whole, authority) in [
            ("https://a.example", "https://a.example/x?y=1", "a.example"),
            (
                "https://a.example:443/",
                "https://a.example/x?y=1",
                "a.example",
            ),
            ("http://[::1]:80/p/", "http://[::1]/p/x?y=1", "[::1]"),
            (
                "http://127.0.0.1:8081/p",
                "http://127.0.0.1:8081/p/x?y=1",
                "127.0.0.1:8081",
            ),
        ] {
            let read = url(text);
            assert_eq!(
                read.as_ref().map(|it| it.at("/x?y=1")).as_deref(),
                Ok(whole)
            );
            assert_eq!(read.map(|it| it.authority()).as_deref(), Ok(authority));
        }
        assert_eq!(
            url("https://a.example").map(|it| it.target("")).as_deref(),
            Ok("/")
        );
    }

    #[test]
    fn what_is_more_or_less_than_an_address_is_refused() {
        for text in [
            "",
            "a.example",
            "/path",
            "ftp://a.example",
            "https://",
            "https://u@a.example",
            "https://a.example/?q=1",
            "https://a.example/#f",
            "https://a b",
        ] {
            assert_eq!(url(text), Err(UrlError), "{text}");
        }
        assert_eq!(
            url(&format!("https://a.example/{}", "x".repeat(512))),
            Err(UrlError)
        );
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (text, expected) in [
            ("http://127.9.9.9", true),
            ("http://[::1]", true),
            ("http://localhost:1", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
            ("http://0.0.0.0", false),
        ] {
            assert_eq!(url(text).map(|it| it.is_loopback()), Ok(expected), "{text}");
        }
    }
}
