//! What handshakes cost a gateway: CPU time of its core for many peers, each of which shakes hands once in each [`Contact`].
//!
//! Only the gateway's own work is timed, by its thread's CPU clock, and all of it: source limiter, MAC and cookie check,
//! finding the peer by its key, the handshake itself with its answer, and the first data that proves it. Limits are raised
//! so that none of it is refused. The system calls of UDP are not in it; they are some microseconds each.
//!
//! Machines differ by half, and one machine from hour to hour. What stays is how many X25519 operations a handshake is
//! worth, so one is timed beside each row.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use boringtun::x25519;
use orfe_tunnel_core::{
    AllowedIp, Batch, Datagrams, HandshakeLimits, Node, NodeConfig, PeerConfig, PrivateKey, PublicKey,
};
use serde::{Deserialize, Serialize};

/// Datagrams that the gateway is given at once, as many as one receiving call returns.
const BATCH: usize = 32;
/// Rounds of the timers of all peers.
const TICKS: u32 = 20;
/// Between them. The timers of a node that is used run once a second.
const TICK: Duration = Duration::from_secs(1);
const MTU: usize = 1280;
/// X25519 operations in one sample, and samples on each side of a measurement: their median is taken.
const OPERATIONS: u32 = 64;
const SAMPLES: usize = 9;

/// What the gateway knows of a peer that shakes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contact {
    /// Nothing but its key: the state of its engine is made, too.
    First,
    /// It renews its session from the address at which the last one was proved. What happens each two minutes.
    Rekey,
    /// The same, from an address at which nobody was seen: a device that roamed, or whose NAT forgot it.
    RekeyElsewhere,
    /// The same, from where another peer was seen: a guess of the gateway that is wrong each time. The worst case.
    RekeyAtAnothers,
}

impl Contact {
    /// In the order in which they are measured.
    const ALL: [Self; 4] = [
        Self::First,
        Self::Rekey,
        Self::RekeyElsewhere,
        Self::RekeyAtAnothers,
    ];

    /// Where the device with this number speaks from.
    fn address(self, number: u32, peers: u32) -> SocketAddr {
        let (network, number) = match self {
            Self::First | Self::Rekey => (10, number),
            Self::RekeyElsewhere => (11, number),
            Self::RekeyAtAnothers => (11, (number + 1) % peers),
        };
        let base = Ipv4Addr::new(network, 0, 0, 0).to_bits();
        (Ipv4Addr::from_bits(base + number), 51820).into()
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Which handshakes these were.
    pub contact: Contact,
    /// Peers, and handshakes.
    pub peers: u32,
    /// Handshakes that one core completes in a second.
    pub handshakes_per_core_s: f64,
    /// CPU time of one X25519 operation, measured just before and after, in microseconds.
    pub x25519_us: f64,
    /// What a handshake costs, in such operations.
    pub x25519_operations: f64,
    /// CPU time of the one datagram that opens a handshake, in microseconds.
    pub us_per_initiation: f64,
    /// CPU time of the first data, which proves it, in microseconds.
    pub us_per_first_data: f64,
    /// Memory that a peer grew by.
    pub kib_per_peer: f64,
    /// CPU time of one round of timers of one idle peer, in nanoseconds. Taken once, after first contacts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_idle_tick: Option<f64>,
    /// Share of a core that the timers of all peers take while nothing happens, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timers_percent: Option<f64>,
}

/// A device, and where it speaks from.
struct Device {
    node: Node,
    address: SocketAddr,
}

/// Lets `peers` devices shake hands with one gateway, all in this process; a report of each [`Contact`].
pub fn measure(peers: u32) -> io::Result<Vec<Report>> {
    let (mut gateway, mut devices) = both(peers, Instant::now())?;
    let mut reports = Vec::new();
    for contact in Contact::ALL {
        for (number, device) in (0..).zip(&mut devices) {
            device.address = contact.address(number, peers);
        }
        let mut report = shake_hands(&mut gateway, &mut devices, contact)?;
        if contact == Contact::First {
            let per_tick = idle(&mut gateway, Instant::now());
            report.ns_per_idle_tick = Some(per_tick.as_secs_f64() * 1e9 / f64::from(peers));
            report.idle_timers_percent = Some(per_tick.as_secs_f64() / TICK.as_secs_f64() * 100.0);
        }
        reports.push(report);
    }
    Ok(reports)
}

/// One handshake of each device.
fn shake_hands(gateway: &mut Node, devices: &mut [Device], contact: Contact) -> io::Result<Report> {
    let now = Instant::now();
    let gateway_key = gateway.public_key();
    let peers = devices.len() as u32;
    let mut out = Datagrams::new();

    let mut initiations = Vec::new();
    let mut at = HashMap::new();
    for (index, device) in devices.iter_mut().enumerate() {
        out.clear();
        device.node.rehandshake(&gateway_key, now, &mut out);
        initiations.push((first(&out)?, device.address));
        at.insert(device.address, index);
    }
    let mut curve = curve_samples();
    let before = resident()?;
    let (answers, initiating) = serve(gateway, &initiations, now);
    let memory = resident()?.saturating_sub(before);

    let mut proofs = Vec::new();
    for (answer, to) in answers {
        let device = &mut devices[*at.get(&to).ok_or(io::ErrorKind::InvalidData)?];
        let mut batch = Batch::new();
        batch.push(&answer, gateway_address());
        out.clear();
        device
            .node
            .handle_datagrams(&batch, now, &mut Batch::new(), &mut out);
        proofs.push((first(&out)?, device.address));
    }
    let (_, proving) = serve(gateway, &proofs, now);
    curve.extend(curve_samples());
    let completed = completed(gateway, devices, now);
    if completed != peers {
        return Err(io::Error::other(format!(
            "only {completed} of {peers} handshakes were completed"
        )));
    }

    curve.sort_unstable();
    let x25519_us = curve[curve.len() / 2].as_secs_f64() * 1e6 / f64::from(OPERATIONS);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(peers);
    Ok(Report {
        contact,
        peers,
        handshakes_per_core_s: f64::from(peers) / (initiating + proving).as_secs_f64(),
        x25519_us,
        x25519_operations: each(initiating + proving) / x25519_us,
        us_per_initiation: each(initiating),
        us_per_first_data: each(proving),
        kib_per_peer: memory as f64 / 1024.0 / f64::from(peers),
        ns_per_idle_tick: None,
        idle_timers_percent: None,
    })
}

/// CPU times of [`OPERATIONS`] X25519 operations each, by the implementation that the gateway's engine has.
fn curve_samples() -> Vec<Duration> {
    let secret = x25519::StaticSecret::from([7; 32]);
    let sample = |_| {
        let mut point = x25519::PublicKey::from([9; 32]);
        let begun = cpu_time();
        for _ in 0..OPERATIONS {
            // Each begins with what the one before gave, so none can be left out.
            point = x25519::PublicKey::from(secret.diffie_hellman(&point).to_bytes());
        }
        std::hint::black_box(point);
        cpu_time().saturating_sub(begun)
    };
    (0..SAMPLES).map(sample).collect()
}

fn both(peers: u32, now: Instant) -> io::Result<(Node, Vec<Device>)> {
    let unlimited = HandshakeLimits {
        per_second: u32::MAX,
        per_source: u32::MAX,
        per_source_burst: u32::MAX,
    };
    let node = |private_key| {
        let config = NodeConfig {
            private_key,
            mtu: MTU,
            limits: unlimited,
        };
        Node::new(config, now)
    };
    let key = PrivateKey::generate();
    let mut gateway = node(key.clone());
    let mut devices = Vec::new();
    for number in 0..peers {
        let own = PrivateKey::generate();
        let inner =
            AllowedIp::host(Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() + number).into());
        set_peer(&mut gateway, own.public_key(), None, inner, now)?;
        let mut device = node(own);
        let behind = AllowedIp::host(Ipv4Addr::new(100, 127, 0, 1).into());
        set_peer(
            &mut device,
            key.public_key(),
            Some(gateway_address()),
            behind,
            now,
        )?;
        devices.push(Device {
            node: device,
            address: Contact::First.address(number, peers),
        });
    }
    Ok((gateway, devices))
}

fn set_peer(
    node: &mut Node,
    public_key: PublicKey,
    endpoint: Option<SocketAddr>,
    network: AllowedIp,
    now: Instant,
) -> io::Result<()> {
    let config = PeerConfig {
        public_key,
        preshared_key: None,
        endpoint,
        allowed_ips: vec![network],
        keepalive: None,
    };
    node.set_peer(config, now).map(drop).map_err(io::Error::other)
}

/// Datagrams with where they go, or where they come from.
type Addressed = Vec<(Vec<u8>, SocketAddr)>;

/// Gives the gateway all of these, in batches; its answers, and the CPU time that it took.
fn serve(gateway: &mut Node, datagrams: &Addressed, now: Instant) -> (Addressed, Duration) {
    let (mut batch, mut packets, mut out) = (Batch::new(), Batch::new(), Datagrams::new());
    let mut answers = Addressed::new();
    let mut spent = Duration::ZERO;
    for some in datagrams.chunks(BATCH) {
        batch.clear();
        packets.clear();
        out.clear();
        for (datagram, from) in some {
            batch.push(datagram, *from);
        }
        let begun = cpu_time();
        gateway.handle_datagrams(&batch, now, &mut packets, &mut out);
        spent += cpu_time().saturating_sub(begun);
        answers.extend(out.iter().map(|(answer, to)| (answer.to_vec(), to)));
    }
    (answers, spent)
}

/// CPU time of one round of the timers of all peers.
fn idle(gateway: &mut Node, now: Instant) -> Duration {
    let mut out = Datagrams::new();
    // The first rounds are those of a node at which something happened a moment ago.
    let later = now + Duration::from_secs(10);
    gateway.handle_timeout(later, &mut out);
    let begun = cpu_time();
    for tick in 1..=TICKS {
        out.clear();
        gateway.handle_timeout(later + TICK * tick, &mut out);
    }
    cpu_time().saturating_sub(begun) / TICKS
}

/// Devices whose handshake of this moment is proved.
fn completed(gateway: &Node, devices: &[Device], now: Instant) -> u32 {
    let proved = devices.iter().filter(|device| {
        let stats = gateway.stats(&device.node.public_key());
        stats.is_some_and(|stats| stats.last_handshake == Some(now))
    });
    proved.count() as u32
}

const fn gateway_address() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 51820)
}

fn first(out: &Datagrams) -> io::Result<Vec<u8>> {
    out.iter()
        .next()
        .map(|(datagram, _)| datagram.to_vec())
        .ok_or_else(|| io::Error::other("a device had nothing to say"))
}

/// CPU time of this thread so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Resident memory of this process, in bytes.
fn resident() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handshake_is_completed_and_counted() {
        let reports = measure(50).unwrap();
        let contacts: Vec<Contact> = reports.iter().map(|report| report.contact).collect();
        assert_eq!(contacts, Contact::ALL);
        for report in &reports {
            assert_eq!(report.peers, 50);
            assert!(report.handshakes_per_core_s > 0.0);
            assert!(report.us_per_initiation > report.us_per_first_data);
            // The least that WireGuard's responder does: es, ee and se.
            assert!(
                report.x25519_us > 0.0 && report.x25519_operations > 2.5,
                "{report:?}"
            );
        }
        assert!(reports[0].ns_per_idle_tick.is_some_and(|ns| ns > 0.0));
    }
}
