//! TUN mode: what the host is told to send into the tunnel, and which containers may.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use orfe_protocol::desired::Tunnel as Desired;
use orfe_protocol::name::HostName;
use orfe_tunnel::{AllowedIp, HostOptions, SplitDns};

use super::start::allowed_ips;
use crate::config::{Bridges, Config, TunnelMode};
use crate::failure::with_causes;

/// Name of the device. There is one of it in a network namespace, and so one agent in TUN mode.
const DEVICE: &str = "orfe0";
/// Where Linux shows its interfaces.
const INTERFACES: &str = "/sys/class/net";

/// What the machine's owner wants of TUN mode.
#[derive(Debug, Clone)]
pub(in crate::run) struct HostChoice {
    split_dns: bool,
    bridges: Bridges,
    /// Where the journal of changes to the host is kept.
    state: PathBuf,
}

impl HostChoice {
    /// None in the other modes.
    pub(in crate::run) fn of(config: &Config, state: &Path) -> Option<Self> {
        (config.tunnel_mode.value == TunnelMode::Tun).then(|| Self {
            split_dns: config.split_dns.value,
            bridges: config.bridges.value.clone(),
            state: state.to_owned(),
        })
    }

    /// What the tunnel is started with. `outer` is where the gateway and the registry are, `registry` the latter's name.
    pub(super) fn options(&self, desired: &Desired, outer: &[IpAddr], registry: Option<&str>) -> HostOptions {
        let (networks, _) = networks(desired, outer);
        let dns = self.split_dns.then(|| SplitDns {
            servers: desired.gateway.addresses.clone(),
            domains: domains(desired, registry),
        });
        HostOptions {
            device: DEVICE.to_owned(),
            networks,
            dns,
            bridges: self.bridges(),
            state: self.state.clone(),
        }
    }

    /// The bridges as they are now. A configured one that is not there yet is left out until it is.
    pub(super) fn bridges(&self) -> Vec<String> {
        bridges_in(Path::new(INTERFACES), &self.bridges)
    }
}

fn bridges_in(interfaces: &Path, wanted: &Bridges) -> Vec<String> {
    let found = std::fs::read_dir(interfaces).into_iter().flatten().flatten();
    let bridges: BTreeSet<String> = found
        .filter(|entry| entry.path().join("bridge").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| match wanted {
            Bridges::Off => false,
            Bridges::Auto => is_dockers(name),
            Bridges::Named(names) => names.contains(name),
        })
        .collect();
    bridges.into_iter().collect()
}

/// Docker's default bridge, or `br-` and the first twelve digits of a network's id.
fn is_dockers(name: &str) -> bool {
    let is_id = |id: &str| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    name == "docker0" || name.strip_prefix("br-").is_some_and(is_id)
}

/// What the host looks up through the tunnel: the policy's names, and the suffixes of the gateway's DNS. Not a suffix that the
/// gateway's or the registry's own name is below: while the tunnel is down, nobody would answer for the name that is needed to
/// raise it.
fn domains(desired: &Desired, registry: Option<&str>) -> Vec<String> {
    let gateways = desired.gateway.endpoints.iter();
    let needed: Vec<HostName> = gateways
        .filter_map(|endpoint| endpoint.rsplit_once(':').map(|(host, _)| host))
        .chain(registry)
        .filter_map(|host| host.parse().ok())
        .collect();
    let suffixes = desired.dns_suffixes.iter().filter(|suffix| {
        let own = needed.iter().find(|name| name.is_below(suffix));
        if let Some(name) = own {
            tracing::warn!(%suffix, %name, "names below this suffix are looked up as before: the tunnel itself needs one of them");
        }
        own.is_none()
    });
    let domains: BTreeSet<String> = desired
        .names
        .keys()
        .chain(suffixes)
        .map(HostName::to_string)
        .collect();
    domains.into_iter().collect()
}

/// What the host routes into the tunnel, each once, and what it must not: networks with an address of `outer`, which the
/// tunnel itself is reached by. Sockets of Orfe's proxies are bound to the device, so those never go another way either: Linux
/// sends IPv4 into the device even so, and refuses IPv6.
pub(super) fn networks(desired: &Desired, outer: &[IpAddr]) -> (Vec<AllowedIp>, Vec<AllowedIp>) {
    let mut seen = BTreeSet::new();
    allowed_ips(desired)
        .into_iter()
        .filter(|network| seen.insert((network.address(), network.prefix())))
        .filter(|network| {
            !desired
                .addresses
                .iter()
                .any(|own| *network == AllowedIp::host(*own))
        })
        .partition(|network| !outer.iter().any(|address| network.contains(*address)))
}

/// What a person is told about networks that are not routed.
pub(super) fn describe_refused(refused: &[AllowedIp]) -> Option<String> {
    let names: Vec<String> = refused.iter().map(ToString::to_string).collect();
    (!names.is_empty()).then(|| {
        format!(
            "no route of this machine to {}: the gateway or the registry itself is in there. The registry's policy \
             should name smaller networks",
            names.join(", ")
        )
    })
}

/// Takes away what a killed agent in TUN mode left on this host, whatever the mode is now.
pub(in crate::run) async fn clean_host(state: &Path) {
    let state = state.to_owned();
    // Programs are run for it.
    match tokio::task::spawn_blocking(move || orfe_tunnel::tun::host::clean_up(&state)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = with_causes(&error);
            tracing::warn!(
                error,
                "what an earlier life changed on this host may still be there"
            );
        }
        Err(error) => tracing::warn!(%error, "taking back changes to this host was cut short"),
    }
}

#[cfg(test)]
mod tests {
    use orfe_protocol::desired::NamedDestination;

    use super::super::tests::desired;
    use super::*;

    #[test]
    fn dockers_bridges_are_known_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["docker0", "br-0123456789ab", "br-lan", "virbr0"] {
            std::fs::create_dir_all(folder.path().join(name).join("bridge")).unwrap();
        }
        std::fs::create_dir(folder.path().join("br-ba9876543210")).unwrap();
        let found = |wanted: &Bridges| bridges_in(folder.path(), wanted);
        assert_eq!(found(&Bridges::Auto), ["br-0123456789ab", "docker0"]);
        assert!(found(&Bridges::Off).is_empty());
        let named = Bridges::Named(vec!["virbr0".into(), "br-later".into()]);
        assert_eq!(found(&named), ["virbr0"]);
    }

    #[test]
    fn names_that_the_tunnel_itself_needs_are_not_looked_up_through_it() {
        let mut desired = desired();
        desired.gateway.endpoints = vec!["gateway.example.com:51820".into(), "192.0.2.5:443".into()];
        desired.dns_suffixes = [
            "svc.cluster.local",
            "example.com",
            "registry.example.net",
            "ample.com",
        ]
        .map(|suffix| suffix.parse().unwrap())
        .into();
        let coder = NamedDestination {
            address: "100.127.1.0".parse().unwrap(),
            ports: vec![443],
            udp_ports: vec![],
        };
        desired.names = [("coder.example.com".parse().unwrap(), coder)].into();
        assert_eq!(
            domains(&desired, Some("registry.example.net")),
            ["ample.com", "coder.example.com", "svc.cluster.local"]
        );
    }

    #[test]
    fn a_network_that_the_gateway_is_in_gets_no_route() {
        let mut desired = desired();
        for network in ["10.0.0.0/8", "192.0.2.0/24", "10.0.0.0/8", "fd00::/8"] {
            desired.networks.push(orfe_protocol::desired::NetworkDestination {
                network: network.to_owned(),
                ports: orfe_protocol::desired::TcpPorts::All,
                udp_ports: vec![],
            });
        }
        let (routed, refused) = networks(&desired, &["192.0.2.5".parse().unwrap()]);
        let text = |networks: &[AllowedIp]| networks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(&routed), ["100.64.0.1/32", "10.0.0.0/8", "fd00::/8"]);
        assert_eq!(text(&refused), ["192.0.2.0/24"]);
        let told = describe_refused(&refused).unwrap();
        assert!(told.contains("192.0.2.0/24"), "{told}");
        assert_eq!(describe_refused(&[]), None);
    }
}
