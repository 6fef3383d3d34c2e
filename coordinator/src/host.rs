//! Ports of this machine that somebody listens on.

use std::collections::BTreeSet;

/// `TCP_LISTEN` in the kernel's tables.
const LISTEN: &str = "0A";

/// Ports in the state LISTEN, over IPv4 and IPv6. Empty where the kernel does not tell: then a clash shows when the
/// ranks meet, as it does without us.
pub(crate) fn listening_ports() -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Ok(text) = std::fs::read_to_string(table) {
            ports.extend(text.lines().skip(1).filter_map(listening_port));
        }
    }
    ports
}

fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    (state == LISTEN).then(|| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok())?
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_listened_on_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listening_ports().contains(&listener.local_addr().unwrap().port()));
    }

    #[test]
    fn only_ports_that_are_listened_on_count() {
        for (line, port) in [
            (
                "   0: 0100007F:5BA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1",
                Some(23_456),
            ),
            ("   1: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0", Some(8_080)),
            ("   2: 0100007F:5BA1 0100007F:1F90 01 00000000:00000000 02:000000EF 00000000     0        0 2 2", None),
            ("   3: 0100007F:5BA2 0100007F:1F90 06 00000000:00000000 03:000000EF 00000000     0        0 0 3", None),
            ("garbage", None),
        ] {
            assert_eq!(listening_port(line), port, "{line}");
        }
    }
}
