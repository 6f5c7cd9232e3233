//! Mode `gateway`: the cluster's end, with the policy that its configuration names.

use orfe_tunnel::{
    Gateway, GatewayConfig, GatewayPeer, GatewayTcp, Policy, PolicyEntry, PolicyPort, Shards, TunnelConfig,
    Upstream,
};

use super::{Config, Result};

/// Starts the gateway with all peers. Its own addresses are not those of the policy.
pub(super) fn start(config: &Config) -> Result<Gateway> {
    let entries = config.policy.iter().map(|entry| PolicyEntry {
        name: entry.name.clone(),
        address: entry.address,
        ports: entry
            .ports
            .iter()
            .map(|(port, upstream)| PolicyPort {
                port: *port,
                upstream: Upstream::Address(*upstream),
            })
            .collect(),
    });
    let policy = Policy::new(entries.collect::<Vec<_>>())?;
    let gateway_config = GatewayConfig {
        private_key: config.private_key()?,
        listen: config.listen,
        addresses: config.inner()?.into_iter().map(|(address, _)| address).collect(),
        mtu: config.mtu.into(),
    };
    let shards = config.threads.map_or_else(Shards::default, Shards::new);
    let tcp = GatewayTcp {
        stack: config.tcp_stack()?,
        helper: TunnelConfig::this_program(),
    };
    let gateway = Gateway::start_on(gateway_config, policy, shards, &tcp)?;
    let peers: Result<Vec<GatewayPeer>> = config
        .peers
        .iter()
        .enumerate()
        .map(|(number, peer)| {
            let allowed_ips: Result<Vec<_>> = peer.allowed_ips.iter().map(|text| Ok(text.parse()?)).collect();
            Ok(GatewayPeer {
                public_key: peer.public_key.parse()?,
                preshared_key: None,
                allowed_ips: allowed_ips?,
                name: format!("peer-{number}"),
            })
        })
        .collect();
    gateway.set_peers(peers?);
    Ok(gateway)
}
