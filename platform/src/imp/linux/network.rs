//! Routers out of `/proc/net`, changes out of rtnetlink, and resumes out of a timer that the kernel cancels.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::network::{NetworkSignal, NextHop};

/// Groups of rtnetlink (linux/rtnetlink.h): links, and addresses and routes of both families.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// A gap between the clock that counts sleep and the one that does not, from which on it was a sleep; in seconds.
const SLEEP_MIN: i64 = 1;

/// The routers on the ways to the IPv4 destinations, as `/proc/net` has them now. IPv6 networks are told by their prefix.
pub(crate) fn next_hops(destinations: &[IpAddr]) -> Vec<NextHop> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (routes, neighbours) = (read("/proc/net/route"), read("/proc/net/arp"));
    let v4 = destinations.iter().filter_map(|destination| match destination {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let mut hops: Vec<NextHop> = Vec::new();
    for router in v4.filter_map(|ip| router_to(ip, &routes)) {
        if hops.iter().all(|hop| hop.address != IpAddr::V4(router)) {
            hops.push(NextHop {
                address: router.into(),
                hardware: hardware_of(router, &neighbours),
            });
        }
    }
    hops
}

/// The router of the most specific route, of those the one with the lowest metric; none where it is on the link itself.
fn router_to(destination: Ipv4Addr, table: &str) -> Option<Ipv4Addr> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = |index: usize| {
            let word = u32::from_str_radix(fields.get(index)?, 16).ok()?;
            // The kernel prints the bytes as they lie in memory.
            Some(u32::from_be_bytes(word.to_ne_bytes()))
        };
        let (network, router, mask) = (address(1)?, address(2)?, address(7)?);
        let metric: u32 = fields.get(6)?.parse().ok()?;
        Some((network, router, mask, metric))
    });
    let (_, router, ..) = routes
        .filter(|(network, _, mask, _)| u32::from(destination) & mask == *network)
        .max_by_key(|(_, _, mask, metric)| (*mask, std::cmp::Reverse(*metric)))?;
    (router != 0).then(|| Ipv4Addr::from(router))
}

fn hardware_of(router: Ipv4Addr, table: &str) -> Option<[u8; 6]> {
    let router = router.to_string();
    let line = table
        .lines()
        .find(|line| line.split_whitespace().next() == Some(&router))?;
    let mut hardware = [0; 6];
    let mut parts = line.split_whitespace().nth(3)?.split(':');
    for byte in &mut hardware {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    // All zeros: asked for and not known yet.
    (hardware != [0; 6]).then_some(hardware)
}

#[derive(Debug)]
pub(crate) struct Watch {
    netlink: AsyncFd<OwnedFd>,
    clock: AsyncFd<OwnedFd>,
    asleep: i64,
}

impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        let netlink = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        bind(&netlink, &SocketAddrNetlink::new(0, GROUPS))?;
        let clock = timerfd_create(
            TimerfdClockId::Realtime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        arm(&clock)?;
        Ok(Self {
            netlink: watched(netlink)?,
            clock: watched(clock)?,
            asleep: asleep(),
        })
    }

    pub(crate) async fn recv(&mut self) -> NetworkSignal {
        loop {
            tokio::select! {
                ready = self.netlink.readable() => {
                    let Ok(mut ready) = ready else { return std::future::pending().await };
                    // Whatever it says, and also when so much was said that some of it is lost, it is worth a look.
                    let mut buffer = [0; 8192];
                    while recv(self.netlink.get_ref(), &mut buffer, RecvFlags::empty()).is_ok() {}
                    ready.clear_ready();
                    return self.signal().unwrap_or(NetworkSignal::Changed);
                }
                ready = self.clock.readable() => {
                    let Ok(mut ready) = ready else { return std::future::pending().await };
                    // The read fails with ECANCELED, which is the message.
                    let mut buffer = [0; 8];
                    while rustix::io::read(self.clock.get_ref(), &mut buffer).is_ok() {}
                    ready.clear_ready();
                    // Without its timer a resume shows by its changes of the network.
                    let _ = arm(self.clock.get_ref());
                    // The clock may just have been set.
                    if let Some(signal) = self.signal() {
                        return signal;
                    }
                }
            }
        }
    }

    fn signal(&mut self) -> Option<NetworkSignal> {
        let (before, now) = (self.asleep, asleep());
        self.asleep = now;
        (now - before >= SLEEP_MIN).then_some(NetworkSignal::Resumed)
    }
}

#[expect(unsafe_code, reason = "tokio's safe way to do this is deprecated")]
fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open and owned by the `AsyncFd` from here on; an `OwnedFd` is always the same descriptor and
    // is closed only when it is dropped, with the `AsyncFd`.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// A timer far away that is cancelled when the wall clock jumps, which it does at every resume.
fn arm(clock: &OwnedFd) -> io::Result<()> {
    let never = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: Timespec {
            tv_sec: i64::MAX / 1_000_000_000,
            tv_nsec: 0,
        },
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(clock, flags, &never)?;
    Ok(())
}

/// Seconds that this machine has slept since its boot.
fn asleep() -> i64 {
    clock_gettime(ClockId::Boottime).tv_sec - clock_gettime(ClockId::Monotonic).tv_sec
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
";

    #[test]
    fn the_most_specific_route_and_the_lowest_metric_count() {
        if cfg!(target_endian = "big") {
            return;
        }
        let router = |ip: &str| router_to(ip.parse().unwrap(), ROUTES);
        assert_eq!(router("203.0.113.7"), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(router("10.0.0.9"), None, "on the link itself");
        assert_eq!(router_to(Ipv4Addr::LOCALHOST, "nothing\nto read"), None);
    }

    #[test]
    fn a_router_is_known_by_its_hardware_address() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.0.0.1         0x1         0x2         02:00:5e:10:00:01     *        eth0\n\
                     10.0.0.2         0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        let hardware = |ip: &str| hardware_of(ip.parse().unwrap(), table);
        assert_eq!(hardware("10.0.0.1"), Some([2, 0, 0x5e, 0x10, 0, 1]));
        assert_eq!(hardware("10.0.0.2"), None);
        assert_eq!(hardware("10.0.0.3"), None);
    }

    #[tokio::test]
    async fn it_is_quiet_while_nothing_happens_and_can_be_dropped() {
        let mut watch = Watch::new().unwrap();
        assert_eq!(watch.signal(), None);
        // What a sleep leaves behind.
        watch.asleep -= 30;
        assert_eq!(watch.signal(), Some(NetworkSignal::Resumed));
        assert_eq!(watch.signal(), None);
    }
}
