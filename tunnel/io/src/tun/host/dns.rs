//! Names of the cluster, asked of a name server inside the tunnel; all other names as before.

use std::path::Path;

use super::change::{Change, run};
use super::journal::Journal;
use super::{HostTunnelError, SplitDns};

/// There while systemd-resolved runs.
const RESOLVED: &str = "/run/systemd/resolve";

/// Sets the name servers of `device` for the domains alone.
pub(super) fn split(device: &str, dns: &SplitDns, journal: &mut Journal) -> Result<(), HostTunnelError> {
    let failed = |reason: String| HostTunnelError::Dns {
        device: device.to_owned(),
        reason,
    };
    if dns.servers.is_empty() || dns.domains.is_empty() {
        return Err(failed("it needs a name server and a domain".to_owned()));
    }
    if let Some(domain) = dns.domains.iter().find(|domain| !is_domain(domain)) {
        return Err(failed(format!("`{domain}` is no domain")));
    }
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

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
