//! Two data paths, each with a stand-in in the place of its device.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use orfe_tunnel_core::{AllowedIp, HandshakeLimits, Node, NodeConfig, PeerConfig, PrivateKey};

#[cfg(target_os = "linux")]
use self::linux::{Inside, LOOPBACK, device};
#[cfg(windows)]
use self::windows::{Inside, LOOPBACK, device};
use super::{DataPath, DataPathConfig};
use crate::udp::{UdpOptions, UdpPort};

/// More than a round holds before it counts as much.
const BURST: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(20);

/// One end: its path, and what its machine would have of the device.
struct End {
    path: DataPath,
    inside: Inside,
    address: Ipv4Addr,
}

impl End {
    fn start(key: &PrivateKey, address: Ipv4Addr, peer: PeerConfig, udp: UdpPort) -> Self {
        let (device, inside) = device();
        let now = std::time::Instant::now();
        let config = NodeConfig {
            private_key: key.clone(),
            mtu: 1420,
            limits: HandshakeLimits::default(),
        };
        let gateway = peer.public_key;
        let mut node = Node::new(config, now);
        node.set_peer(peer, now).unwrap();
        let path = DataPath::start(DataPathConfig {
            device,
            udp,
            node,
            gateway,
            stack: "none",
        });
        Self {
            path: path.unwrap(),
            inside,
            address,
        }
    }

    /// Sends a packet that carries `number`.
    fn send(&self, to: &Self, number: u32) {
        let mut packet = vec![0; 24];
        packet[0] = 0x45;
        packet[3] = 24;
        packet[8] = 64;
        packet[12..16].copy_from_slice(&self.address.octets());
        packet[16..20].copy_from_slice(&to.address.octets());
        packet[20..].copy_from_slice(&number.to_be_bytes());
        self.inside.send(&packet);
    }

    /// The number that the next packet carries.
    fn receive(&self) -> u32 {
        let packet = self.inside.receive();
        assert_eq!(packet.len(), 24);
        u32::from_be_bytes([packet[20], packet[21], packet[22], packet[23]])
    }
}

fn peer(key: &PrivateKey, address: Ipv4Addr, endpoint: Option<SocketAddr>) -> PeerConfig {
    PeerConfig {
        public_key: key.public_key(),
        preshared_key: None,
        endpoint,
        allowed_ips: vec![format!("{address}/32").parse::<AllowedIp>().unwrap()],
        keepalive: None,
    }
}

fn ends() -> (End, End) {
    let keys = [PrivateKey::generate(), PrivateKey::generate()];
    let addresses = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
    let bind = || UdpPort::bind(&UdpOptions::new(LOOPBACK.parse().unwrap())).unwrap();
    let (near, far) = (bind(), bind());
    let endpoint = far.local_addr().unwrap();
    let near = End::start(
        &keys[0],
        addresses[0],
        peer(&keys[1], addresses[1], Some(endpoint)),
        near,
    );
    let far = End::start(&keys[1], addresses[1], peer(&keys[0], addresses[0], None), far);
    (near, far)
}

#[test]
fn the_device_changes_hands_and_no_packet_overtakes_another() {
    let (near, far) = ends();
    let mut number = 0;
    for _ in 0..30 {
        // Much at once, for the thread of its own; and it may still be at it when the next packets come.
        for at in number..number + BURST {
            near.send(&far, at);
        }
        for at in number..number + BURST {
            assert_eq!(far.receive(), at);
        }
        number += BURST;
        // One at a time there and back, for the thread that receives.
        for _ in 0..20 {
            near.send(&far, number);
            assert_eq!(far.receive(), number);
            far.send(&near, number);
            assert_eq!(near.receive(), number);
            number += 1;
        }
    }
    for end in [near, far] {
        end.path.stop_blocking();
    }
}

#[test]
fn what_the_device_holds_at_the_end_is_sent() {
    let (near, far) = ends();
    near.send(&far, 0);
    assert_eq!(far.receive(), 0);
    for at in 1..=3 {
        near.send(&far, at);
    }
    near.path.stop_blocking();
    for at in 1..=3 {
        assert_eq!(far.receive(), at);
    }
    far.path.stop_blocking();
}
