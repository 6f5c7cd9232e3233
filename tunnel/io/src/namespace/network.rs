//! The network inside of a fresh namespace: loopback, one TUN device, everything routed into it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, listen, netdevice, socket_with,
    sockopt::{set_ipv6_v6only, set_tcp_congestion, tcp_congestion},
};

use super::landing::{LANDING_PORT, LANDING_V4, LANDING_V6};
use super::message::{SocketKind, Step};
use super::netlink::Netlink;

/// The device's name. The namespace is ours alone, so it cannot meet another.
const DEVICE: &[u8] = b"orfe0";

/// Loopback is the first interface of every namespace.
const LOOPBACK: u32 = 1;

/// Packets that may wait for the data thread: at 64 KiB each more than any window, and little enough to hold no memory to
/// speak of. wireguard.md's measurements used the same.
const QUEUE_LENGTH: u32 = 4000;

/// The congestion control that is asked for: it goes on sending at 1 % loss, where loss-based ones stop.
const WANTED_CONGESTION: &str = "bbr";

/// What is set for the namespace alone, where the kernel lets us; each is an improvement and none is needed.
///
/// The local ports of a namespace are all ours, and a port of an ended connection is free again after a second: without both,
/// 28 000 short connections to one destination within a minute would exhaust them.
///
/// The largest socket buffers decide over the rate on lossy paths: what was sent behind a lost segment stays in the buffer
/// until that one has arrived, so with the usual 4 MiB BBR sends 220 Mbit/s at 50 ms and 1 % loss, where with 16 MiB it sends
/// 800. A buffer grows only as far as the path has carried data, and the kernel's own bound for all of them (`tcp_mem`) holds.
///
/// There are no routers behind the device: asking for them would only wake us.
const SETTINGS: [(&str, &str); 6] = [
    ("/proc/sys/net/ipv4/tcp_congestion_control", WANTED_CONGESTION),
    ("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535"),
    ("/proc/sys/net/ipv4/tcp_tw_reuse", "1"),
    ("/proc/sys/net/ipv4/tcp_wmem", "4096 65536 16777216"),
    ("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 33554432"),
    ("/proc/sys/net/ipv6/conf/orfe0/router_solicitations", "0"),
];

/// What is set beside that for a gateway, which accepts. Each connection has an address of its own there, so what the kernel
/// remembers by address for the next one is of no use.
const LANDING_SETTINGS: [(&str, &str); 3] = [
    ("/proc/sys/net/core/somaxconn", "4096"),
    ("/proc/sys/net/ipv4/tcp_max_syn_backlog", "4096"),
    ("/proc/sys/net/ipv4/tcp_no_metrics_save", "1"),
];

/// Connections that may wait to be accepted: more than a gateway ever lets in at once.
const BACKLOG: i32 = 4096;

/// The offloads of a TUN device (`linux/if_tun.h`): checksums and TCP segmentation, then UDP segmentation beside it,
/// which kernels before 6.2 do not know.
const TCP_OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
const ALL_OFFLOADS: libc::c_uint = TCP_OFFLOADS | libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Sets up the network of this process's namespace and returns the TUN descriptor.
pub(super) fn set_up(mtu: u16, addresses: &[IpAddr]) -> Result<OwnedFd, (Step, io::Error)> {
    let at = |step| move |error| (step, error);
    let (tun, netlink, device) = set_up_device(mtu)?;
    for address in addresses {
        netlink.add_address(device, *address).map_err(at(Step::Address))?;
        match netlink.add_default_route(device, *address) {
            // A second address of the family; the route is there.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.map_err(at(Step::Route))?,
        }
    }
    apply(&SETTINGS);
    Ok(tun)
}

/// What a namespace of a gateway comes with.
pub(super) struct LandingParts {
    pub(super) tun: OwnedFd,
    pub(super) v4: OwnedFd,
    /// None where the system has no IPv6.
    pub(super) v6: Option<OwnedFd>,
}

/// Sets up the network of this process's namespace for a gateway: all of [`LANDING_V4`] and [`LANDING_V6`] is its own, and
/// one socket of each family listens at every address of them.
pub(super) fn set_up_landing(mtu: u16) -> Result<LandingParts, (Step, io::Error)> {
    let at = |step| move |error| (step, error);
    let (tun, netlink, device) = set_up_device(mtu)?;
    apply(&SETTINGS);
    apply(&LANDING_SETTINGS);
    let route = |network: IpAddr, prefix| {
        netlink.add_local_network(LOOPBACK, network, prefix)?;
        netlink.add_default_route(device, network)
    };
    route(LANDING_V4.0.into(), LANDING_V4.1).map_err(at(Step::Route))?;
    let v4 = listener(SocketKind::Tcp4, Ipv4Addr::UNSPECIFIED.into()).map_err(at(Step::Listen))?;
    let v6 = route(LANDING_V6.0.into(), LANDING_V6.1)
        .and_then(|()| listener(SocketKind::Tcp6, Ipv6Addr::UNSPECIFIED.into()));
    Ok(LandingParts { tun, v4, v6: v6.ok() })
}

fn listener(kind: SocketKind, any: IpAddr) -> io::Result<OwnedFd> {
    let socket = socket(kind)?;
    if any.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(any, LANDING_PORT))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn apply(settings: &[(&str, &str)]) {
    for (path, value) in settings {
        let _ = fs::write(path, value);
    }
}

/// Loopback, and the device without an address.
fn set_up_device(mtu: u16) -> Result<(OwnedFd, Netlink, u32), (Step, io::Error)> {
    let at = |step| move |error| (step, error);
    let netlink = Netlink::open().map_err(at(Step::Loopback))?;
    netlink.up(LOOPBACK).map_err(at(Step::Loopback))?;
    let tun = open_tun().map_err(at(Step::OpenTun))?;
    make_device(&tun).map_err(at(Step::MakeTun))?;
    set_offloads(&tun).map_err(at(Step::Offload))?;
    let device = index().map_err(at(Step::Configure))?;
    netlink.set_mtu(device, mtu).map_err(at(Step::Configure))?;
    // Kernels differ in whom they let do this; the default of 500 packets works as well.
    let _ = netlink.set_queue_length(device, QUEUE_LENGTH);
    netlink.up(device).map_err(at(Step::Configure))?;
    Ok((tun, netlink, device))
}

fn open_tun() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open("/dev/net/tun", flags, Mode::empty())?)
}

#[expect(
    unsafe_code,
    reason = "TUN devices are made by ioctl, for which no safe wrapper exists"
)]
fn make_device(tun: &OwnedFd) -> io::Result<()> {
    // SAFETY: an `ifreq` is integers, arrays and pointers, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "offloads are set by ioctl, for which no safe wrapper exists"
)]
fn set_offloads(tun: &OwnedFd) -> io::Result<()> {
    let set = |offloads: libc::c_uint| {
        // SAFETY: the descriptor is open, and this request takes its argument by value.
        match unsafe {
            libc::ioctl(
                tun.as_raw_fd(),
                libc::TUNSETOFFLOAD as _,
                libc::c_ulong::from(offloads),
            )
        } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    set(ALL_OFFLOADS).or_else(|_| set(TCP_OFFLOADS))
}

/// The number of the device.
fn index() -> io::Result<u32> {
    let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(netdevice::name_to_index(
        &any,
        std::str::from_utf8(DEVICE).map_err(io::Error::other)?,
    )?)
}

/// A socket that is not connected; it stays in this namespace wherever it is used.
pub(super) fn socket(kind: SocketKind) -> io::Result<OwnedFd> {
    let (family, sort) = match kind {
        SocketKind::Tcp4 => (AddressFamily::INET, SocketType::STREAM),
        SocketKind::Tcp6 => (AddressFamily::INET6, SocketType::STREAM),
        SocketKind::Udp4 => (AddressFamily::INET, SocketType::DGRAM),
        SocketKind::Udp6 => (AddressFamily::INET6, SocketType::DGRAM),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, sort, flags, None)?;
    if sort == SocketType::STREAM && tcp_congestion(&socket).is_ok_and(|name| name != WANTED_CONGESTION) {
        // The namespace's default could not be set. BBR is open to everyone where it is loaded (the kernel marks it
        // `TCP_CONG_NON_RESTRICTED`), so this needs no right; where it is not loaded, one keeps what one has.
        let _ = set_tcp_congestion(&socket, WANTED_CONGESTION);
    }
    Ok(socket)
}

/// The congestion control that TCP sockets of this namespace have.
pub(super) fn congestion() -> io::Result<String> {
    Ok(tcp_congestion(socket(SocketKind::Tcp4)?)?)
}
