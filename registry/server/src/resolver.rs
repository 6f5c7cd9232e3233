//! Which resolver the system asks.

use std::net::{IpAddr, SocketAddr};

/// Where Unix systems name their resolvers (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The port of DNS.
const PORT: u16 = 53;

/// The first resolver of the system; none where none is named.
pub(crate) fn of_system() -> Option<SocketAddr> {
    first(&fs_err::read_to_string(RESOLV_CONF).ok()?)
}

fn first(text: &str) -> Option<SocketAddr> {
    let address = |line: &str| -> Option<IpAddr> {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()?.parse().ok()
    };
    text.lines()
        .find_map(address)
        .map(|address| SocketAddr::new(address, PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_resolver_counts() {
        let text =
            "# comment\nsearch a.b\nnameserver fe80::1%eth0\nnameserver 10.0.0.10\nnameserver 10.0.0.11\n";
        assert_eq!(first(text), Some("10.0.0.10:53".parse().unwrap()));
        assert_eq!(first("options ndots:5\n"), None);
    }
}
