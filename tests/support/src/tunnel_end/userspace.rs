//! Mode `userspace`, without a device of the host: connections are made through a local proxy, as on a person's machine.

use std::sync::Arc;

use orfe_tunnel::dial::Dialer;
use orfe_tunnel::proxy::{Limits, Proxy, ProxyConfig, Routes, TunnelWanted, USER};
use orfe_tunnel::{Tunnel, TunnelConfig, TunnelPeer};
use rand::Rng as _;
use rand::distr::Alphanumeric;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Config, Result};

/// Length of the credential; it is good for one run.
const CREDENTIAL: usize = 32;

/// A tunnel with its proxy.
pub(super) struct Userspace {
    tunnel: Tunnel,
    proxy: Proxy,
    credential: String,
    /// The proxy dials while these are there.
    _routes: watch::Sender<Arc<Routes>>,
    _dialer: watch::Sender<Option<Arc<dyn Dialer>>>,
}

/// Starts the tunnel to the first peer, and the proxy that `config` describes.
pub(super) async fn start(config: &Config) -> Result<Userspace> {
    let peer = config.peers.first().ok_or("no peer")?;
    let allowed_ips: Result<Vec<_>> = peer.allowed_ips.iter().map(|text| Ok(text.parse()?)).collect();
    let tunnel = Tunnel::start(TunnelConfig {
        private_key: config.private_key()?,
        addresses: config.inner()?.into_iter().map(|(address, _)| address).collect(),
        peer: TunnelPeer {
            public_key: peer.public_key.parse()?,
            preshared_key: None,
            endpoint: Some(peer.endpoint.ok_or("the peer has no endpoint")?),
            allowed_ips: allowed_ips?,
            keepalive: peer.keepalive(),
        },
        mtu: config.mtu.into(),
        bind: config.listen,
        tcp_stack: config.tcp_stack()?,
        helper: TunnelConfig::this_program(),
    })?;
    let described = config.proxy.as_ref().ok_or("this mode needs a proxy")?;
    let mut routes = Routes::new(TunnelWanted::Wanted);
    for (name, reached) in &described.names {
        routes.add_name(name, reached.address, reached.ports.iter().copied())?;
    }
    let credential: String = rand::rng()
        .sample_iter(Alphanumeric)
        .take(CREDENTIAL)
        .map(char::from)
        .collect();
    let (routes_sender, routes) = watch::channel(Arc::new(routes));
    let (dialer_sender, dialer) = watch::channel(Some(Arc::new(tunnel.dialer()) as Arc<dyn Dialer>));
    let proxy_config = ProxyConfig {
        listen: described.listen,
        credential: SecretString::from(credential.clone()),
        limits: Limits::default(),
    };
    let proxy = Proxy::start(proxy_config, routes, dialer).await?;
    Ok(Userspace {
        tunnel,
        proxy,
        credential,
        _routes: routes_sender,
        _dialer: dialer_sender,
    })
}

impl Userspace {
    pub(super) fn local_addr(&self) -> std::net::SocketAddr {
        self.tunnel.local_addr()
    }

    /// The way to the proxy, for the line that says that all is ready.
    pub(super) fn proxy(&self) -> Value {
        json!({
            "address": self.proxy.local_addr().to_string(),
            "user": USER,
            "password": self.credential,
        })
    }

    /// Which TCP it got, for the same line.
    pub(super) fn tcp(&self) -> Value {
        let status = self.tunnel.status();
        let status = status.borrow();
        super::tcp(
            status.stack,
            &status.stack_reason,
            status.congestion_control.as_deref(),
        )
    }

    pub(super) async fn stop(self) {
        self.proxy.shutdown().await;
        self.tunnel.shutdown().await;
    }
}
