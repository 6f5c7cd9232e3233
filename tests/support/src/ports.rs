//! Loopback addresses for tests. A listener of one's own on port 0 is always better; these are for programs that must
//! be told a port, and for addresses where nothing may answer.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A loopback TCP address that was free a moment ago. Another process may take it before its user binds it, so the
/// caller tries again when the bind fails.
pub fn free_tcp() -> io::Result<SocketAddr> {
    TcpListener::bind(ANY_PORT)?.local_addr()
}

/// A loopback UDP address that was free a moment ago; see [`free_tcp`].
pub fn free_udp() -> io::Result<SocketAddr> {
    UdpSocket::bind(ANY_PORT)?.local_addr()
}

/// A loopback TCP port that is held and never accepts: for "port taken". It is free again when the listener drops.
pub fn taken_tcp() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(ANY_PORT)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_cannot_be_bound() {
        let (_held, address) = taken_tcp().unwrap();
        assert_eq!(
            TcpListener::bind(address).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
    }

    #[test]
    fn a_free_port_can_be_bound() {
        TcpListener::bind(free_tcp().unwrap()).unwrap();
        UdpSocket::bind(free_udp().unwrap()).unwrap();
    }
}
