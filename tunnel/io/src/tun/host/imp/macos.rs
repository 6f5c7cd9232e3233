//! macOS: files in `/etc/resolver`. There are no bridges to let in: what runs containers there runs them in a virtual machine.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;

use route_manager::Route;
use socket2::Socket;

pub(in crate::tun::host) use super::no_bridges::*;
use super::resolver;
use crate::tun::device::Interface;
use crate::tun::host::change::Change;
use crate::tun::host::journal::Journal;
use crate::tun::host::program::run;
use crate::tun::host::{HostTunnelError, SplitDns};

pub(in crate::tun::host) const DEVICE_NEEDS: &str = "root";
pub(in crate::tun::host) const DEVICE_HINT: &str =
    "run the agent as root; or choose `orfe run --tunnel userspace`";
pub(in crate::tun::host) const DNS_REMEDY: &str = "Leave `dns` out, or remove what is in the way";

/// Where the system's resolver looks for the name servers of single domains (resolver(5)). It notices changes by itself.
const RESOLVERS: &str = "/etc/resolver";

/// Writes a file for each domain.
pub(in crate::tun::host) fn split_dns(
    device: &str,
    dns: &SplitDns,
    journal: &mut Journal,
) -> Result<(), HostTunnelError> {
    resolver::split(Path::new(RESOLVERS), device, dns, journal)?;
    flush_names();
    Ok(())
}

/// Takes a change back. That it is gone already is no error, and neither is one that only another system knows.
pub(in crate::tun::host) fn undo(change: &Change) -> io::Result<()> {
    let folder = Path::new(RESOLVERS);
    match change {
        Change::Resolver { domain } => {
            resolver::remove(folder, domain)?;
            flush_names();
            Ok(())
        }
        Change::ResolverFolder => resolver::remove_folder(folder),
        Change::Forwarding { .. } | Change::Table { .. } | Change::Dns { .. } | Change::NameRule { .. } => {
            Ok(())
        }
    }
}

/// Has the system forget what it answered before. Without it answers are old for as long as they say themselves.
fn flush_names() {
    if let Err(error) = run("dscacheutil", &["-flushcache"], "") {
        tracing::debug!(%error, "the cache of names is not emptied");
    }
}

/// Routes have no metric here.
pub(in crate::tun::host) fn preferred(route: Route) -> Route {
    route
}

/// Has what `socket` sends leave through this interface or not at all (`IP_BOUND_IF`).
pub(in crate::tun::host) fn bind_socket(
    socket: &Socket,
    interface: &Interface,
    is_v4: bool,
) -> io::Result<()> {
    let index = NonZeroU32::new(interface.index);
    if is_v4 {
        socket.bind_device_by_index_v4(index)
    } else {
        socket.bind_device_by_index_v6(index)
    }
}
