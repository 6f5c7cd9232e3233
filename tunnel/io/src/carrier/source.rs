//! Sockets towards the gateway for those who reach it by another way than its UDP port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Number of source addresses: far more than there are connections at a time.
const SOURCES: u32 = (1 << 22) - 2;

/// A UDP socket, connected to the gateway on this machine. On Linux its source address is one of 127.64.0.0/10, by this number,
/// so that the gateway's limit on handshakes from one source goes on telling sources apart. Elsewhere, and for a gateway
/// that listens at an IPv6 address alone, all come from one address.
pub fn towards_gateway(gateway: SocketAddr, number: u32) -> io::Result<UdpSocket> {
    let gateway = reachable(gateway);
    if cfg!(target_os = "linux")
        && gateway.is_ipv4()
        && let Ok(socket) = UdpSocket::bind((source_address(number), 0))
        && socket.connect(gateway).is_ok()
    {
        return Ok(socket);
    }
    let any: IpAddr = match gateway {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(gateway)?;
    Ok(socket)
}

/// Where a gateway that is bound there is reached on its own machine.
pub(super) fn reachable(gateway: SocketAddr) -> SocketAddr {
    let ip = match gateway.ip() {
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, gateway.port())
}

fn source_address(number: u32) -> Ipv4Addr {
    let host = number % SOURCES + 1;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 0)) | host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_a_source_of_its_own() {
        assert_eq!(source_address(0), Ipv4Addr::new(127, 64, 0, 1));
        assert_eq!(source_address(255), Ipv4Addr::new(127, 64, 1, 0));
        assert_eq!(source_address((1 << 22) - 3), Ipv4Addr::new(127, 127, 255, 254));
        assert_eq!(source_address((1 << 22) - 2), Ipv4Addr::new(127, 64, 0, 1));
    }

    #[test]
    fn the_gateway_sees_the_source_that_was_chosen() {
        let gateway = UdpSocket::bind("0.0.0.0:0").unwrap();
        let socket = towards_gateway(gateway.local_addr().unwrap(), 6).unwrap();
        socket.send(b"x").unwrap();
        let (_, source) = gateway.recv_from(&mut [0; 8]).unwrap();
        gateway.send_to(b"y", source).unwrap();
        socket.recv(&mut [0; 8]).unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(source.ip(), IpAddr::from([127, 64, 0, 7]));
        }
    }
}
