//! The name of the agent's machine in a container: in `/etc/hosts`, where the engine was told to put it there, else the engine's
//! name server knows it.
//!
//! The file comes first whatever `nsswitch.conf` would say: in the forwarder's image there is none, and the C library's own
//! order then ends with the name server's "no such name".

use std::io;
use std::net::IpAddr;

use tokio::net::TcpStream;

/// The first address that a hosts file (hosts(5)) has for `name`, one of IPv4 if there is any: containers mostly have no other.
pub fn entry(hosts: &str, name: &str) -> Option<IpAddr> {
    let found = hosts.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let (address, names) = line.trim().split_once(|c: char| c.is_ascii_whitespace())?;
        let mut names = names.split_ascii_whitespace();
        names
            .any(|known| known.eq_ignore_ascii_case(name))
            .then_some(())?;
        address.parse::<IpAddr>().ok()
    });
    // Sorting keeps the order of those that are of one family.
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found.first().copied()
}

/// Connects to a name or an address.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let hosts = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
    let stream = match entry(&hosts, host) {
        Some(address) => TcpStream::connect((address, port)).await?,
        None => TcpStream::connect((host, port)).await?,
    };
    // A late segment costs a round trip; the option is never refused on a live socket.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_among_others_and_ipv4_comes_first() {
        let hosts = "127.0.0.1\tlocalhost\n\
                     fd00::1 host.docker.internal # ours\n\
                     172.17.0.1   gateway  host.docker.internal\n\
                     # 10.0.0.1 commented\n\
                     not-an-address broken\n\
                     \n172.17.0.2";
        for (name, address) in [
            ("localhost", Some("127.0.0.1")),
            ("HOST.docker.internal", Some("172.17.0.1")),
            ("commented", None),
            ("broken", None),
            ("docker.internal", None),
        ] {
            assert_eq!(
                entry(hosts, name),
                address.map(|address| address.parse().unwrap()),
                "{name}"
            );
        }
    }
}
