//! The packet filter around the device: containers of chosen bridges are let into the tunnel behind this host's own address
//! there, nobody else's packets are, and who is at the other end opens nothing here.

use std::fmt::Write as _;
use std::fs;
use std::io;

use crate::tun::host::HostTunnelError;
use crate::tun::host::change::{Change, TABLE_PREFIX};
use crate::tun::host::journal::Journal;
use crate::tun::host::program::run;

/// Guards the device, and lets what comes from `bridges` into the tunnel, and only that. Gives what is left open where this
/// host has no packet filter: without bridges the tunnel goes without one.
///
/// Letting in is IPv4: Docker's bridges have no IPv6 unless they were given some, and Linux forwards IPv6 for all interfaces
/// or for none. Keeping out is both.
pub(in crate::tun::host) fn allow(
    device: &str,
    bridges: &[String],
    journal: &mut Journal,
) -> Result<Option<String>, HostTunnelError> {
    let table = Change::Table {
        name: table_of(device),
    };
    let stood = journal.has(&table);
    if let Err(error) = install(&table, stood, &rules(device, bridges), journal)? {
        // One that stands goes on guarding the device: it is replaced as a whole, or not.
        return if bridges.is_empty() && !stood {
            let reason = unguarded(device, &error, forwards_at_all());
            tracing::warn!("{reason}");
            Ok(Some(reason))
        } else {
            Err(HostTunnelError::Forwarding {
                reason: error.to_string(),
            })
        };
    }
    if bridges.is_empty() {
        return Ok(None);
    }
    // Packets come in through a bridge, and their answers through the device.
    for interface in bridges.iter().map(String::as_str).chain([device]) {
        let failed = |error: io::Error| HostTunnelError::Forwarding {
            reason: format!("forwarding for `{interface}`: {error}"),
        };
        if read(interface).map_err(failed)? {
            continue;
        }
        journal.note(Change::Forwarding {
            interface: interface.to_owned(),
            was: false,
        })?;
        write(interface, true).map_err(failed)?;
    }
    Ok(None)
}

/// Lets in `bridges` in the place of those before.
pub(in crate::tun::host) fn replace(
    device: &str,
    bridges: &[String],
    journal: &mut Journal,
) -> Result<Option<String>, HostTunnelError> {
    if bridges.is_empty() {
        journal.undo_those(|change| matches!(change, Change::Forwarding { .. }));
    }
    // The table is replaced as a whole, so that connections under way go on.
    allow(device, bridges, journal)
}

/// Makes the table by these rules, or makes it anew where it `stood`; what the packet filter says when it does not.
fn install(
    table: &Change,
    stood: bool,
    rules: &str,
    journal: &mut Journal,
) -> Result<io::Result<()>, HostTunnelError> {
    journal.note(table.clone())?;
    let made = run("nft", &["-f", "-"], rules);
    if let Err(error) = &made
        && !stood
        && error.kind() != io::ErrorKind::TimedOut
    {
        // All of it or nothing: there is nothing to take back, and nobody who could.
        journal.forget(table)?;
    }
    Ok(made)
}

/// What a person is told about a device without rules.
fn unguarded(device: &str, error: &io::Error, forwards: bool) -> String {
    let containers = if forwards {
        ", and containers of this machine are not kept out of the tunnel"
    } else {
        ""
    };
    format!(
        "no packet filter guards `{device}` ({error}): what listens on this machine can be reached from the gateway{containers}. \
         Install nftables, and start again"
    )
}

/// Whether this host forwards anything. Where it cannot be told, it may.
fn forwards_at_all() -> bool {
    ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"]
        .iter()
        .filter_map(|family| fs::read_dir(family).ok())
        .flatten()
        .flatten()
        .any(|interface| {
            let set = fs::read_to_string(interface.path().join("forwarding"));
            set.map_or(true, |set| set.trim() != "0")
        })
}

/// Whether packets that come in through `interface` are forwarded (IPv4).
fn read(interface: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(path(interface))?.trim() == "1")
}

/// Sets it.
pub(super) fn write(interface: &str, forwards: bool) -> io::Result<()> {
    fs::write(path(interface), if forwards { "1" } else { "0" })
}

fn path(interface: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{interface}/forwarding")
}

/// The name of the table that belongs to a device.
fn table_of(device: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '_'
        }
    };
    let device: String = device.chars().map(plain).collect();
    format!("{TABLE_PREFIX}{device}")
}

/// Our table, made anew in one transaction. It holds for both families, and for the device alone.
///
/// From the device come answers, what is asked of this host by ICMP, and errors that belong to no connection that is known
/// here; no redirects and no advertisements of routers. There are no neighbours to find behind it.
fn rules(device: &str, bridges: &[String]) -> String {
    let name = table_of(device);
    let names: Vec<String> = bridges.iter().map(|bridge| format!("\"{bridge}\"")).collect();
    let bridges = names.join(", ");
    // An empty set is no set to nft.
    let others = if bridges.is_empty() {
        String::new()
    } else {
        format!("iifname != {{ {bridges} }} ")
    };
    let mut rules = format!(
        "table inet {name}
delete table inet {name}
table inet {name} {{
    chain input {{
        type filter hook input priority filter - 5; policy accept;
        iifname != \"{device}\" accept
        ct state established,related accept
        icmp type {{ echo-request, destination-unreachable, time-exceeded, parameter-problem }} accept
        icmpv6 type {{ echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
        drop
    }}
    chain forward {{
        type filter hook forward priority filter - 5; policy accept;
        oifname \"{device}\" {others}drop
        iifname \"{device}\" ct state established,related accept
        iifname \"{device}\" drop
    }}
"
    );
    if !bridges.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(
            rules,
            "    chain postrouting {{
        type nat hook postrouting priority srcnat - 5; policy accept;
        oifname \"{device}\" iifname {{ {bridges} }} masquerade
    }}
"
        );
    }
    rules.push_str("}\n");
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_for(bridges: &[&str]) -> String {
        let bridges: Vec<String> = bridges.iter().map(|bridge| (*bridge).to_owned()).collect();
        rules("orfe0", &bridges)
    }

    #[test]
    fn only_the_bridges_are_let_in() {
        let rules = rules_for(&["docker0", "br-1"]);
        assert!(
            rules.starts_with("table inet orfe_orfe0\ndelete table inet orfe_orfe0\ntable inet orfe_orfe0 {")
        );
        assert!(rules.contains("oifname \"orfe0\" iifname != { \"docker0\", \"br-1\" } drop"));
        assert!(rules.contains("oifname \"orfe0\" iifname { \"docker0\", \"br-1\" } masquerade"));
    }

    #[test]
    fn without_bridges_nobody_is_let_in() {
        let rules = rules_for(&[]);
        assert!(rules.contains("oifname \"orfe0\" drop"), "{rules}");
        assert!(!rules.contains("masquerade"), "{rules}");
    }

    #[test]
    fn what_is_left_open_without_a_packet_filter_is_told() {
        let error = io::Error::other("`nft`: not found");
        assert_eq!(
            unguarded("orfe0", &error, true),
            "no packet filter guards `orfe0` (`nft`: not found): what listens on this machine can be reached from the \
             gateway, and containers of this machine are not kept out of the tunnel. Install nftables, and start again"
        );
        assert!(!unguarded("orfe0", &error, false).contains("containers"));
    }
}
