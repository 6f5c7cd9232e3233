//! Linux: systemd-resolved, `/proc/sys` and nftables.

mod dns;
mod forwarding;

use std::fs;
use std::io;

use route_manager::Route;
use socket2::Socket;

pub(in crate::tun::host) use self::dns::split as split_dns;
pub(in crate::tun::host) use self::forwarding::{allow as allow_bridges, replace as replace_bridges};
use crate::tun::device::Interface;
use crate::tun::host::change::Change;
use crate::tun::host::program::run;

pub(in crate::tun::host) const DEVICE_NEEDS: &str = "/dev/net/tun and CAP_NET_ADMIN";
pub(in crate::tun::host) const DEVICE_HINT: &str = "run the agent as root or give its service the capability CAP_NET_ADMIN; or choose `orfe run --tunnel userspace`";
pub(in crate::tun::host) const DNS_REMEDY: &str = "Leave `dns` out, or run systemd-resolved";
pub(in crate::tun::host) const FORWARDING_REMEDY: &str = "Leave the bridges out, or install nftables";

/// Takes a change back. That it is gone already is no error, and neither is one that only another system knows.
pub(in crate::tun::host) fn undo(change: &Change) -> io::Result<()> {
    match change {
        Change::Forwarding { interface, was } => match forwarding::write(interface, *was) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        },
        // Declared first, so that deleting it cannot fail for want of it.
        Change::Table { name } => run(
            "nft",
            &["-f", "-"],
            &format!("table inet {name}\ndelete table inet {name}\n"),
        ),
        Change::Dns { interface } => {
            if fs::exists(format!("/sys/class/net/{interface}"))? {
                run("resolvectl", &["revert", interface], "")
            } else {
                Ok(())
            }
        }
        Change::Resolver { .. } | Change::ResolverFolder | Change::NameRule { .. } => Ok(()),
    }
}

/// The system's own metric for a new route is the best one.
pub(in crate::tun::host) fn preferred(route: Route) -> Route {
    route
}

/// Has what `socket` sends leave through this interface or not at all.
pub(in crate::tun::host) fn bind_socket(
    socket: &Socket,
    interface: &Interface,
    _is_v4: bool,
) -> io::Result<()> {
    socket.bind_device(Some(interface.name.as_bytes()))
}
