//! What devices are told of this registry and its gateway: policy, plan and addresses, from the configuration and what was
//! bound.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use orfe_protocol::desired::Gateway;
use orfe_protocol::id::InstanceId;
use orfe_protocol::name::HostName;
use orfe_store::{Store, StoreError};
use orfe_tunnel::DnsPolicy;
use rand::Rng as _;
use url::Url;

use super::StartError;
use crate::config::Config;
use crate::desired::{Plan, TunnelPlan};
use crate::gateway::GatewayRole;
use crate::policy::SitePolicy;
use crate::resolver;

pub(super) async fn site_policy(
    store: &Store,
    config: &Config,
    https: SocketAddr,
) -> Result<SitePolicy, StoreError> {
    let names: Vec<HostName> = config
        .policy
        .iter()
        .filter_map(|entry| entry.name().cloned())
        .collect();
    let addresses = store.policy_addresses().assign(&names).await?;
    let ula = store.ula(rand::rng().random()).await?;
    let dns = DnsPolicy {
        suffixes: config.dns.suffixes.clone(),
        resolver: config.dns.resolver.or_else(resolver::of_system),
    };
    Ok(SitePolicy::new(&config.policy, &addresses, ula, https, dns))
}

/// What is desired of every device, as the configuration and the gateway have it.
pub(super) fn make_plan(config: &Config, gateway: Option<&GatewayRole>, public_url: &Url) -> Plan {
    let tunnel = gateway.map(|gateway| {
        let endpoint = endpoint(config, gateway, public_url);
        let own_v4 = gateway.policy.own_addresses().into_iter().find(IpAddr::is_ipv4);
        TunnelPlan {
            gateway: Gateway {
                public_key: gateway.public_key(),
                endpoints: endpoints(config, gateway, endpoint),
                websocket: config.tunnel_websocket.then(|| websocket(public_url)).flatten(),
                addresses: gateway.policy.own_addresses(),
                registry: own_v4.map(|ip| SocketAddr::new(ip, gateway.policy.registry_port())),
                instance: InstanceId::generate(),
            },
            policy: gateway.policy.clone(),
        }
    });
    Plan {
        coder: config.coder.clone(),
        slots: config.slots,
        docker_required: config.docker_required,
        tunnel,
    }
}

/// Where devices find the WebSocket for datagrams.
fn websocket(public_url: &Url) -> Option<Url> {
    let mut url = public_url.join(orfe_protocol::TUNNEL_PATH).ok()?;
    url.set_scheme("wss").ok()?;
    Some(url)
}

/// Where the gateway's UDP port is, as devices and people reach it.
pub(super) fn endpoint(config: &Config, gateway: &GatewayRole, public_url: &Url) -> String {
    let host = public_url.host_str().unwrap_or("localhost");
    let derived = || format!("{host}:{}", gateway.local_addr.port());
    let configured = config.wireguard_endpoint.as_ref();
    configured.map_or_else(derived, ToString::to_string)
}

/// All ways to the gateway over UDP, this one first: what is configured, or else each port that it listens at, too, on the
/// same host.
fn endpoints(config: &Config, gateway: &GatewayRole, first: String) -> Vec<String> {
    let host = first.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
    let derived = || {
        let ports = gateway.also.iter().map(SocketAddr::port);
        ports.map(|port| format!("{host}:{port}")).collect()
    };
    let configured = config.also_endpoints.as_ref();
    let also: Vec<String> =
        configured.map_or_else(derived, |also| also.iter().map(ToString::to_string).collect());
    let mut endpoints = vec![first];
    for endpoint in also {
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints
}

/// The configured URL, or the one that holds on this machine.
pub(super) fn public_url(config: &Config, https: SocketAddr) -> Result<Url, StartError> {
    if let Some(url) = &config.public_url {
        return Ok(url.clone());
    }
    let ip = match https.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let address = SocketAddr::new(ip, https.port());
    format!("https://{address}")
        .parse()
        .map_err(|_| StartError::PublicUrl { address })
}
