//! Names of the cluster, asked of a name server inside the tunnel; all other names as before.

use std::path::Path;

use crate::tun::host::change::Change;
use crate::tun::host::journal::Journal;
use crate::tun::host::program::run;
use crate::tun::host::{HostTunnelError, SplitDns};

/// There while systemd-resolved runs.
const RESOLVED: &str = "/run/systemd/resolve";

/// Sets the name servers of `device` for the domains alone.
pub(in crate::tun::host) fn split(
    device: &str,
    dns: &SplitDns,
    journal: &mut Journal,
) -> Result<(), HostTunnelError> {
    let failed = |reason: String| HostTunnelError::Dns {
        device: device.to_owned(),
        reason,
    };
    if !Path::new(RESOLVED).exists() {
        return Err(failed("systemd-resolved does not run here".to_owned()));
    }
    journal.note(Change::Dns {
        interface: device.to_owned(),
    })?;
    let servers: Vec<String> = dns.servers.iter().map(ToString::to_string).collect();
    // `~` makes a domain one that is only routed by, never one that is appended to short names.
    let domains: Vec<String> = dns.domains.iter().map(|domain| format!("~{domain}")).collect();
    for (what, values) in [("dns", servers), ("domain", domains)] {
        let arguments: Vec<&str> = [what, device]
            .into_iter()
            .chain(values.iter().map(String::as_str))
            .collect();
        run("resolvectl", &arguments, "").map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}
