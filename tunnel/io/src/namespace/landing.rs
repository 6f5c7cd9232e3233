//! What a gateway gets: network namespaces in which one socket accepts every connection.
//!
//! Each has a TUN device and, for each family, a network of addresses that are all its own ([`LANDING_V4`], [`LANDING_V6`]) with
//! one socket that listens at all of them. Which address of them a connection comes to tells who it is, so the namespace
//! needs to know nothing of policy or peers and never changes. The networks are ones that no peer can have.
//!
//! ```text
//!   TUN device ─ from a peer's address to 240.0.0.17:5182 ─► listening socket ─► accept(): number 17
//! ```
//!
//! A namespace lives as long as something in it is open, so the helper that made it ends at once: there is no process that
//! could die later, and nothing that holds a right.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::SendFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::NamespaceError;
use super::channel;
use super::message::{Reply, Request};
use super::process;

/// The addresses of IPv4 connections: of class E, which no host has (RFC 1112, section 4).
pub(crate) const LANDING_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(240, 0, 0, 0), 8);
/// Those of IPv6 connections: of the prefix that leads nowhere (RFC 6666).
pub(crate) const LANDING_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64);
/// Where the sockets listen. Any port that needs no right.
pub(crate) const LANDING_PORT: u16 = 5182;

/// How long the helper may take; it takes some 10 ms for each namespace.
const SET_UP: Duration = Duration::from_secs(5);

/// A namespace in which connections are accepted.
#[derive(Debug)]
pub(crate) struct Landing {
    /// The device, non-blocking, with a virtio header before each packet and the kernel's segmentation left to its reader.
    pub(crate) tun: OwnedFd,
    /// Listening sockets, non-blocking; for IPv4, and for IPv6 where the system has that.
    pub(crate) listeners: Vec<OwnedFd>,
}

/// As many as were asked for.
#[derive(Debug)]
pub(crate) struct Landings {
    pub(crate) all: Vec<Landing>,
    /// The congestion control of their connections: `bbr` was asked for.
    pub(crate) congestion: String,
}

impl Landings {
    /// Makes them. Blocks for some 10 ms for each, and 5 s at most.
    pub(crate) fn make(program: &Path, mtu: u16, count: u8) -> Result<Self, NamespaceError> {
        let (near, far) = channel::pair().map_err(NamespaceError::Process)?;
        set_socket_timeout(&near, Timeout::Recv, Some(SET_UP))
            .map_err(|error| NamespaceError::Process(error.into()))?;
        // The kernel ends it with this thread, which waits for it.
        let mut child = process::start(program, far).map_err(NamespaceError::Process)?;
        let asked = ask(&near, &Request::Land { mtu, count });
        // It has ended by itself when it answered; after this it has ended, whatever it was doing.
        let _ = child.kill();
        let _ = child.wait();
        let (reply, descriptors) = asked.map_err(|_| NamespaceError::NoAnswer)?;
        match reply {
            Reply::Landed { congestion, has_v6 } => {
                raise_descriptor_limit();
                let all = sort(descriptors, count, has_v6).ok_or(NamespaceError::NoAnswer)?;
                Ok(Self { all, congestion })
            }
            Reply::Failed { step, errno } => Err(NamespaceError::Refused {
                step,
                source: io::Error::from_raw_os_error(errno),
            }),
            _ => Err(NamespaceError::NoAnswer),
        }
    }
}

/// Lets this process have as many descriptors as it may: a connection takes two where it took one, and the usual limit of 1024
/// is one for programs that cannot count further.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(error = %io::Error::from(error), "the limit of descriptors stays");
        }
    }
}

fn ask(channel: &OwnedFd, request: &Request) -> io::Result<(Reply, Vec<OwnedFd>)> {
    channel::send(channel, &request.encode(), &[], SendFlags::empty())?;
    let (bytes, descriptors) = channel::receive(channel)?;
    Ok((Reply::decode(&bytes)?, descriptors))
}

/// The descriptors by namespace; `None` when there are more or fewer than there should be.
fn sort(descriptors: Vec<OwnedFd>, count: u8, has_v6: bool) -> Option<Vec<Landing>> {
    let of_each = if has_v6 { 3 } else { 2 };
    if descriptors.len() != usize::from(count) * of_each {
        return None;
    }
    let mut descriptors = descriptors.into_iter();
    let next = |_| {
        Some(Landing {
            tun: descriptors.next()?,
            listeners: descriptors.by_ref().take(of_each - 1).collect(),
        })
    };
    (0..count).map(next).collect()
}
