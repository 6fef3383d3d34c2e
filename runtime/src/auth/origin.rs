//! Keeps web pages out. A browser will happily send requests of any page to `127.0.0.1`; what it cannot do is forge
//! `Host` (so a rebound DNS name shows) or hide `Origin` (so a foreign page shows). Pure.

use std::net::IpAddr;

/// Why a request looks like a web page's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// `Host` is a name that we are not known under.
    Host,
    /// `Origin` is a page that we did not serve.
    Origin,
}

/// Refuses what a foreign page could have sent. `host` is `Host` or `:authority`.
pub fn check(host: Option<&str>, origin: Option<&str>, fetch_site: Option<&str>) -> Result<(), Foreign> {
    // HTTP/1.0 and hand-written clients send none; browsers always do.
    if host.is_some_and(|host| !is_loopback(host)) {
        return Err(Foreign::Host);
    }
    let same_origin = |origin: &str| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| host.is_some_and(|host| host.eq_ignore_ascii_case(authority)))
    };
    if origin.is_some_and(|origin| !same_origin(origin)) || fetch_site == Some("cross-site") {
        return Err(Foreign::Origin);
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    let name = without_port(host);
    if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return ip.to_canonical().is_loopback();
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    // Browsers resolve `*.localhost` to loopback themselves and never ask a DNS server.
    name == "localhost" || name.ends_with(".localhost")
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_on_this_machine_pass() {
        for host in
            ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:6443", "::1", "127.8.9.1", "yard.localhost:80"]
        {
            assert_eq!(check(Some(host), None, None), Ok(()), "{host}");
        }
        assert_eq!(check(None, None, None), Ok(()));
        assert_eq!(check(Some("localhost:80"), Some("http://localhost:80"), Some("same-origin")), Ok(()));
    }

    #[test]
    fn rebound_names_and_foreign_pages_do_not() {
        for host in
            ["evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1:80", "localhost.evil.example", "[fe80::1]:80"]
        {
            assert_eq!(check(Some(host), None, None), Err(Foreign::Host), "{host}");
        }
        for origin in ["http://evil.example", "null", "http://localhost:81", "file://"] {
            assert_eq!(check(Some("localhost:80"), Some(origin), None), Err(Foreign::Origin), "{origin}");
        }
        assert_eq!(check(Some("localhost:80"), None, Some("cross-site")), Err(Foreign::Origin));
    }
}
