//! Containers of bridges on this host, let into the tunnel behind this host's own address there.

use std::fmt::Write as _;
use std::fs;
use std::io;

use crate::tun::host::HostTunnelError;
use crate::tun::host::change::{Change, TABLE_PREFIX};
use crate::tun::host::journal::Journal;
use crate::tun::host::program::run;

/// Lets what comes from `bridges` into the tunnel, and only that. IPv4: Docker's bridges have no IPv6 unless they were
/// given some, and Linux forwards IPv6 for all interfaces or for none.
pub(in crate::tun::host) fn allow(
    device: &str,
    bridges: &[String],
    journal: &mut Journal,
) -> Result<(), HostTunnelError> {
    if bridges.is_empty() {
        return Ok(());
    }
    let table = table_of(device);
    let rules = rules(&table, device, bridges);
    journal.note(Change::Table { name: table })?;
    run("nft", &["-f", "-"], &rules).map_err(|error| HostTunnelError::Forwarding {
        reason: error.to_string(),
    })?;
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
    Ok(())
}

/// Lets in `bridges` in the place of those before.
pub(in crate::tun::host) fn replace(
    device: &str,
    bridges: &[String],
    journal: &mut Journal,
) -> Result<(), HostTunnelError> {
    if bridges.is_empty() {
        journal.undo_those(|change| matches!(change, Change::Table { .. } | Change::Forwarding { .. }));
        return Ok(());
    }
    // The table is replaced as a whole, so that connections under way go on.
    allow(device, bridges, journal)
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

/// Our table, made anew in one transaction.
fn rules(name: &str, device: &str, bridges: &[String]) -> String {
    let names: Vec<String> = bridges.iter().map(|bridge| format!("\"{bridge}\"")).collect();
    let bridges = names.join(", ");
    let mut rules = format!("table inet {name}\ndelete table inet {name}\n");
    // Writing to a string does not fail.
    let _ = write!(
        rules,
        "table inet {name} {{
    chain forward {{
        type filter hook forward priority filter - 5; policy accept;
        oifname \"{device}\" iifname != {{ {bridges} }} drop
        iifname \"{device}\" ct state established,related accept
        iifname \"{device}\" drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat - 5; policy accept;
        oifname \"{device}\" iifname {{ {bridges} }} masquerade
    }}
}}
"
    );
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bridges_are_named() {
        let rules = rules(
            &table_of("orfe0"),
            "orfe0",
            &["docker0".to_owned(), "br-1".to_owned()],
        );
        assert!(
            rules.starts_with("table inet orfe_orfe0\ndelete table inet orfe_orfe0\ntable inet orfe_orfe0 {")
        );
        assert!(rules.contains("oifname \"orfe0\" iifname != { \"docker0\", \"br-1\" } drop"));
        assert!(rules.contains("oifname \"orfe0\" iifname { \"docker0\", \"br-1\" } masquerade"));
    }
}
