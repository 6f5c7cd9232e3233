//! Windows: rules of the name resolution policy table. There are no bridges to let in: what runs containers there runs them in a
//! virtual machine.

mod registry;
mod socket;

use std::io;

use route_manager::Route;

pub(in crate::tun::host) use self::socket::bind_socket;
use super::name_rule;
pub(in crate::tun::host) use super::no_bridges::*;
use crate::tun::host::change::Change;
use crate::tun::host::journal::Journal;
use crate::tun::host::program::run;
use crate::tun::host::{HostTunnelError, SplitDns};

pub(in crate::tun::host) const DEVICE_NEEDS: &str = "an administrator, and wintun.dll beside the program";
pub(in crate::tun::host) const DEVICE_HINT: &str = "run the agent as a service or an administrator, with the wintun.dll for this processor from https://www.wintun.net beside it; or choose `orfe run --tunnel userspace`";
pub(in crate::tun::host) const DNS_REMEDY: &str = "Leave `dns` out";

/// Where the rules of a group policy stand, below `HKEY_LOCAL_MACHINE`. As soon as there is one of them, the system ignores the
/// machine's own.
const POLICY_RULES: &str = r"SOFTWARE\Policies\Microsoft\Windows NT\DNSClient\DnsPolicyConfig";

/// Writes a rule for every 25 domains.
pub(in crate::tun::host) fn split_dns(
    device: &str,
    dns: &SplitDns,
    journal: &mut Journal,
) -> Result<(), HostTunnelError> {
    let failed = |reason: String| HostTunnelError::Dns {
        device: device.to_owned(),
        reason,
    };
    let has_policy = registry::has_keys(registry::MACHINE, POLICY_RULES)
        .map_err(|error| failed(format!(r"HKLM\{POLICY_RULES}: {error}")))?;
    if has_policy {
        let reason = "a group policy has rules for name resolution, and Windows ignores all others then";
        return Err(failed(reason.to_owned()));
    }
    for (number, values) in name_rule::rules(dns) {
        journal.note(Change::NameRule { number })?;
        let key = name_rule::key(number);
        registry::set(registry::MACHINE, &key, &values)
            .map_err(|error| failed(format!(r"HKLM\{key}: {error}")))?;
    }
    flush_names();
    Ok(())
}

/// Takes a change back. That it is gone already is no error, and neither is one that only another system knows.
pub(in crate::tun::host) fn undo(change: &Change) -> io::Result<()> {
    match change {
        Change::NameRule { number } => {
            registry::delete(registry::MACHINE, &name_rule::key(*number))?;
            flush_names();
            Ok(())
        }
        Change::Forwarding { .. }
        | Change::Table { .. }
        | Change::Dns { .. }
        | Change::Resolver { .. }
        | Change::ResolverFolder => Ok(()),
    }
}

/// Has the system forget what it answered before. Without it answers are old for as long as they say themselves.
fn flush_names() {
    if let Err(error) = run("ipconfig", &["/flushdns"], "") {
        tracing::debug!(%error, "the cache of names is not emptied");
    }
}

/// The system adds the interface's metric. Its own default for a route is the worst one.
pub(in crate::tun::host) fn preferred(route: Route) -> Route {
    route.with_metric(0)
}
