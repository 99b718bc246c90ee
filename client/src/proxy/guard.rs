//! Who may ask, and which headers cross: no foreign host name (DNS rebinding), no page of another origin, no credential, no
//! header that speaks about one hop only.

use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Method, uri::Authority};

use super::error::Refusal;

/// Headers that concern one hop (RFC 9110 §7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Headers that stay on this machine: the certificate says who asks, and nothing else may (attack S11).
const PRIVATE: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::EXPECT,
    header::FORWARDED,
    header::HOST,
    header::ORIGIN,
    header::REFERER,
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-api-key"),
];

/// Families of such headers.
const PRIVATE_PREFIXES: [&str; 4] = ["x-forwarded-", "sec-", "proxy-", "access-control-"];

/// Refuses callers that are not programs on this machine.
pub(super) fn check(head: &Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts
        .next()
        .and_then(|value| value.to_str().ok())
        .ok_or(Refusal::ForeignHost)?;
    if hosts.next().is_some() || !is_loopback(host) {
        return Err(Refusal::ForeignHost);
    }
    if head
        .uri
        .authority()
        .is_some_and(|target| !is_loopback(target.as_str()))
    {
        return Err(Refusal::ForeignHost);
    }
    // A page that this endpoint served itself has its own host as origin.
    let own = format!("http://{host}");
    let strange_origin = head
        .headers
        .get_all(header::ORIGIN)
        .iter()
        .any(|origin| origin.as_bytes() != own.as_bytes());
    let strange_site = head
        .headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|site| site != "same-origin" && site != "none");
    if strange_origin || strange_site || head.method == Method::OPTIONS {
        return Err(Refusal::CrossOrigin);
    }
    check_path(head)
}

fn check_path(head: &Parts) -> Result<(), Refusal> {
    if !matches!(
        head.method,
        Method::GET | Method::POST | Method::DELETE | Method::HEAD
    ) {
        return Err(Refusal::Method);
    }
    let path = head.uri.path();
    let climbs = path.split('/').any(|part| {
        let part = part.to_ascii_lowercase().replace("%2e", ".");
        part == "." || part == ".."
    });
    let known = path == "/health" || path.starts_with("/v1/");
    if known && !climbs {
        Ok(())
    } else {
        Err(Refusal::UnknownPath)
    }
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let bare = name
        .strip_prefix('[')
        .and_then(|n| n.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Takes away what concerns one hop, in either direction.
pub(super) fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Takes away what may not leave this machine, or, in answers, may not open it to web pages.
pub(super) fn strip_private(headers: &mut HeaderMap) {
    for name in &PRIVATE {
        headers.remove(name);
    }
    let families: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            PRIVATE_PREFIXES
                .iter()
                .any(|prefix| name.as_str().starts_with(prefix))
        })
        .cloned()
        .collect();
    for name in families {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_loopback_hosts_are_answered() {
        for host in [
            "127.0.0.1:11434",
            "localhost",
            "LOCALHOST:80",
            "[::1]:11434",
            "127.8.9.1",
        ] {
            assert!(
                check(&head("GET", "/v1/models", &[("host", host)])).is_ok(),
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "10.0.0.1",
            "a@127.0.0.1",
            "",
        ] {
            let refused = check(&head("GET", "/v1/models", &[("host", host)]));
            assert!(matches!(refused, Err(Refusal::ForeignHost)), "{host}");
        }
        assert!(matches!(
            check(&head("GET", "/v1/models", &[])),
            Err(Refusal::ForeignHost)
        ));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert!(matches!(
            check(&head("GET", "/v1/models", &twice)),
            Err(Refusal::ForeignHost)
        ));
        let absolute = head(
            "GET",
            "http://evil.example/v1/models",
            &[("host", "localhost")],
        );
        assert!(matches!(check(&absolute), Err(Refusal::ForeignHost)));
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let host = ("host", "127.0.0.1:11434");
        let same = [
            host,
            ("origin", "http://127.0.0.1:11434"),
            ("sec-fetch-site", "same-origin"),
        ];
        assert!(check(&head("POST", "/v1/chat/completions", &same)).is_ok());
        for foreign in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:8000"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let refused = check(&head("POST", "/v1/chat/completions", &[host, foreign]));
            assert!(matches!(refused, Err(Refusal::CrossOrigin)), "{foreign:?}");
        }
        let preflight = check(&head("OPTIONS", "/v1/chat/completions", &[host]));
        assert!(matches!(preflight, Err(Refusal::CrossOrigin)));
    }

    #[test]
    fn only_the_api_and_health_are_forwarded() {
        let host = [("host", "localhost")];
        assert!(check(&head("GET", "/health", &host)).is_ok());
        for path in [
            "/",
            "/attest/challenge",
            "/v1",
            "/metrics",
            "/v1/../attest/confirm",
            "/v1/%2E./x",
        ] {
            let refused = check(&head("GET", path, &host));
            assert!(matches!(refused, Err(Refusal::UnknownPath)), "{path}");
        }
        assert!(matches!(
            check(&head("TRACE", "/v1/models", &host)),
            Err(Refusal::Method)
        ));
    }

    #[test]
    fn credentials_and_hop_headers_stay_here() {
        let mut headers = head(
            "POST",
            "/v1/x",
            &[
                ("authorization", "Bearer sk-secret"),
                ("connection", "close, x-once"),
                ("x-once", "1"),
                ("x-forwarded-host", "other"),
                ("forwarded", "host=other"),
                ("te", "trailers"),
                ("content-type", "application/json"),
                ("x-stainless-lang", "python"),
            ],
        )
        .headers;
        strip_hop(&mut headers);
        strip_private(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "x-stainless-lang"]);
    }
}
