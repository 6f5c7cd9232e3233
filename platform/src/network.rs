//! The network that this machine is on, and word of its changes and of the end of a sleep.
//!
//! [`Network::look`] says from which addresses this machine speaks, and which network that is. [`NetworkWatch`] waits until
//! it is worth looking again. It may call without a reason (a container came or went): who listens compares.
//!
//! Linux is told by the kernel (rtnetlink, and a timer that the kernel cancels at a resume) and takes no time of its own.
//! macOS and Windows are looked at every 5 s: their own events (`SCNetworkReachability`, `NotifyIpInterfaceChange`) need
//! code that nobody could test here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::imp;

/// A network as it is recognised when the machine comes back to it. It is a number that says nothing by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkId(pub u64);

/// The network that this machine is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The addresses from which this machine speaks to the destinations that were asked about, sorted. Empty: none of
    /// them can be reached, the machine is offline.
    pub sources: Vec<IpAddr>,
    /// The routers behind which the destinations are, sorted. Always empty where the system is not asked (macOS, Windows).
    pub routers: Vec<IpAddr>,
    /// What the network is recognised by, the surest first: the routers' hardware addresses; then the routers' and our
    /// own addresses without their last part, which networks of strangers may share.
    pub ids: Vec<NetworkId>,
}

/// What a [`NetworkWatch`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkSignal {
    /// Links, addresses or routes changed.
    Changed,
    /// The machine was asleep.
    Resumed,
}

impl Network {
    /// Looks, without sending anything. Takes some system calls and no time.
    #[must_use]
    pub fn look(destinations: &[IpAddr]) -> Self {
        let mut sources: Vec<IpAddr> = destinations.iter().filter_map(|to| source_to(*to)).collect();
        sources.sort_unstable();
        sources.dedup();
        let hops = imp::network::next_hops(destinations);
        let mut routers: Vec<IpAddr> = hops.iter().map(|hop| hop.address).collect();
        routers.sort_unstable();
        routers.dedup();
        let mut hardware: Vec<[u8; 6]> = hops.iter().filter_map(|hop| hop.hardware).collect();
        hardware.sort_unstable();
        let mut ids = Vec::new();
        if !hardware.is_empty() {
            ids.push(NetworkId(digest(hardware.iter().map(<[u8; 6]>::as_slice))));
        }
        if !sources.is_empty() {
            let parts: Vec<Vec<u8>> = routers
                .iter()
                .map(|ip| octets(*ip))
                .chain(sources.iter().map(|ip| prefix(*ip)))
                .collect();
            ids.push(NetworkId(digest(parts.iter().map(Vec::as_slice))));
        }
        Self {
            sources,
            routers,
            ids,
        }
    }

    /// No destination can be reached.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whether what was sent from there can go on from here: the same addresses and routers.
    #[must_use]
    pub fn is_same_path(&self, other: &Self) -> bool {
        (&self.sources, &self.routers) == (&other.sources, &other.routers)
    }
}

/// Waits for changes.
#[derive(Debug)]
pub struct NetworkWatch(imp::network::Watch);

impl NetworkWatch {
    /// Begins to watch. Needs a tokio runtime with its I/O and time drivers.
    pub fn new() -> io::Result<Self> {
        imp::network::Watch::new().map(Self)
    }

    /// Waits for the next signal. Safe to use in `select!`: nothing is lost when it is dropped. Signals that come
    /// together may be told as one.
    pub async fn recv(&mut self) -> NetworkSignal {
        self.0.recv().await
    }
}

/// A router on the way to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextHop {
    pub(crate) address: IpAddr,
    pub(crate) hardware: Option<[u8; 6]>,
}

/// The address that the system would send from; connecting a UDP socket sends nothing.
fn source_to(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(destination, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified()).then_some(source)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The part of an address that a network gives to all: 24 bits, or 64.
fn prefix(ip: IpAddr) -> Vec<u8> {
    let mut octets = octets(ip);
    octets.truncate(if ip.is_ipv4() { 3 } else { 8 });
    octets
}

/// FNV-1a of 64 bits: it is to be the same in every life of the program, and resist nobody.
fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    let separated = parts.flat_map(|part| part.iter().copied().chain([0xff]));
    separated.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_spoken_to_from_loopback() {
        let network = Network::look(&[Ipv4Addr::LOCALHOST.into()]);
        assert_eq!(network.sources, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert!(!network.is_offline());
        assert!(network.is_same_path(&Network::look(&[Ipv4Addr::LOCALHOST.into()])));
        assert!(Network::look(&[]).is_offline());
    }

    #[test]
    fn a_network_keeps_its_id_in_another_life() {
        assert_eq!(digest([&b"a"[..]].into_iter()), digest([&b"a"[..]].into_iter()));
        assert_ne!(
            digest([&b"ab"[..]].into_iter()),
            digest([&b"a"[..], b"b"].into_iter())
        );
        // The published test vector of FNV-1a for "foobar" continued with our separator.
        assert_eq!(
            digest([&b"foobar"[..]].into_iter()),
            (0x8594_4171_f739_67e8_u64 ^ 0xff).wrapping_mul(0x0100_0000_01b3)
        );
    }
}
