//! A peer without a TCP stack: the test itself writes and reads inner packets.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use orfe_tunnel::{AllowedIp, Gateway, GatewayPeer, PrivateKey};
use orfe_tunnel_core::{Batch, Datagrams, HandshakeLimits, Node, NodeConfig, PeerConfig};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, IpRepr, UdpPacket, UdpRepr,
};

use crate::support::PATIENCE;

/// How long one read waits; the protocol's timers run in between.
const TURN: Duration = Duration::from_millis(50);
/// After this long without an answer a packet is sent again: the first may have been the handshake's.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct RawPeer {
    node: Node,
    socket: UdpSocket,
    pub(crate) addresses: [IpAddr; 2],
    key: PrivateKey,
}

impl RawPeer {
    pub(crate) fn new(number: u8, gateway: &Gateway) -> Self {
        let key = PrivateKey::generate();
        let config = NodeConfig {
            private_key: key.clone(),
            mtu: 1280,
            limits: HandshakeLimits::default(),
        };
        let mut node = Node::new(config, Instant::now());
        let peer = PeerConfig {
            public_key: gateway.public_key(),
            preshared_key: None,
            endpoint: Some(gateway.local_addr()),
            allowed_ips: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            keepalive: None,
        };
        node.set_peer(peer, Instant::now()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(TURN)).unwrap();
        Self {
            node,
            socket,
            addresses: [
                IpAddr::from([100, 64, 2, number]),
                format!("fd00:0:0:1::{number}").parse().unwrap(),
            ],
            key,
        }
    }

    pub(crate) fn peer(&self) -> GatewayPeer {
        GatewayPeer {
            public_key: self.key.public_key(),
            preshared_key: None,
            allowed_ips: self.addresses.map(AllowedIp::host).to_vec(),
            name: "raw".to_owned(),
        }
    }

    /// Sends `packet` until a packet comes that `wanted` makes something of.
    pub(crate) fn ask<T>(&mut self, packet: &[u8], wanted: impl Fn(&[u8]) -> Option<T>) -> T {
        let start = Instant::now();
        let mut sent: Option<Instant> = None;
        let mut buffer = [0; 2048];
        while start.elapsed() < PATIENCE {
            let now = Instant::now();
            let mut out = Datagrams::new();
            if sent.is_none_or(|at| now.saturating_duration_since(at) >= AGAIN) {
                sent = Some(now);
                let mut packets = Batch::new();
                packets.push(packet, ());
                self.node.handle_packets(&packets, now, &mut out);
            }
            self.node.handle_timeout(now, &mut out);
            self.send(&out);
            let Ok((len, source)) = self.socket.recv_from(&mut buffer) else {
                continue;
            };
            let (mut datagrams, mut packets, mut out) = (Batch::new(), Batch::new(), Datagrams::new());
            datagrams.push(&buffer[..len], source);
            self.node
                .handle_datagrams(&datagrams, Instant::now(), &mut packets, &mut out);
            self.send(&out);
            if let Some(found) = packets.iter().find_map(|(packet, _)| wanted(packet)) {
                return found;
            }
        }
        panic!("no answer came to {packet:02x?}");
    }

    /// Sends `packet` over the session that stands already.
    pub(crate) fn tell(&mut self, packet: &[u8]) {
        let (mut packets, mut out) = (Batch::new(), Datagrams::new());
        packets.push(packet, ());
        self.node.handle_packets(&packets, Instant::now(), &mut out);
        self.send(&out);
    }

    fn send(&self, out: &Datagrams) {
        for (datagram, to) in out.iter() {
            self.socket.send_to(datagram, to).unwrap();
        }
    }
}

/// A UDP datagram as an inner packet.
pub(crate) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr {
        src_port: from.port(),
        dst_port: to.port(),
    };
    let (source, destination) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
    let len = repr.header_len() + payload.len();
    with_ip(source, destination, IpProtocol::Udp, len, |buffer, caps| {
        let mut packet = UdpPacket::new_unchecked(buffer);
        let fill = |room: &mut [u8]| room.copy_from_slice(payload);
        repr.emit(&mut packet, &source, &destination, payload.len(), fill, caps);
    })
}

/// An echo request as an inner packet.
pub(crate) fn echo_request(from: IpAddr, to: IpAddr, data: &[u8]) -> Vec<u8> {
    let (source, destination) = (IpAddress::from(from), IpAddress::from(to));
    match (from, to) {
        (IpAddr::V4(_), _) => {
            let repr = Icmpv4Repr::EchoRequest {
                ident: 7,
                seq_no: 1,
                data,
            };
            let len = repr.buffer_len();
            with_ip(source, destination, IpProtocol::Icmp, len, |buffer, caps| {
                repr.emit(&mut Icmpv4Packet::new_unchecked(buffer), caps);
            })
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let repr = Icmpv6Repr::EchoRequest {
                ident: 7,
                seq_no: 1,
                data,
            };
            let len = repr.buffer_len();
            with_ip(source, destination, IpProtocol::Icmpv6, len, |buffer, caps| {
                repr.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(buffer), caps);
            })
        }
        _ => panic!("two families"),
    }
}

/// What `emit` writes behind an IP header.
pub(crate) fn with_ip(
    source: IpAddress,
    destination: IpAddress,
    protocol: IpProtocol,
    len: usize,
    emit: impl FnOnce(&mut [u8], &ChecksumCapabilities),
) -> Vec<u8> {
    let caps = ChecksumCapabilities::default();
    let repr = IpRepr::new(source, destination, protocol, len, 64);
    let mut packet = vec![0; repr.buffer_len()];
    repr.emit(&mut packet[..], &caps);
    emit(&mut packet[repr.header_len()..], &caps);
    packet
}
