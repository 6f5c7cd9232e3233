//! Names of the cluster, asked of a name server inside the tunnel; all other names as before.

use super::journal::Journal;
use super::{HostTunnelError, SplitDns, imp};

/// Has the names of `dns` looked up through `device`, and no others.
pub(super) fn split(device: &str, dns: &SplitDns, journal: &mut Journal) -> Result<(), HostTunnelError> {
    let failed = |reason: String| {
        Err(HostTunnelError::Dns {
            device: device.to_owned(),
            reason,
        })
    };
    if dns.servers.is_empty() || dns.domains.is_empty() {
        return failed("it needs a name server and a domain".to_owned());
    }
    if let Some(domain) = dns.domains.iter().find(|domain| !is_domain(domain)) {
        return failed(format!("`{domain}` is no domain"));
    }
    imp::split_dns(device, dns, journal)
}

/// Whether this is a domain, and can be the name of a file as it stands.
pub(super) fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::is_domain;

    #[test]
    fn a_domain_is_a_plain_name() {
        for domain in ["coder.example", "a", "_tcp.x-1.example"] {
            assert!(is_domain(domain), "{domain}");
        }
        for other in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.",
            "a/b",
            "a b",
            "-a",
            "a\\b",
            "ä.example",
        ] {
            assert!(!is_domain(other), "{other}");
        }
    }
}
