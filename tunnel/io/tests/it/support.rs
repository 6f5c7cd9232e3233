//! A gateway, devices, TCP servers and an impairing UDP relay, all on loopback.

pub(crate) mod relay;
pub(crate) mod servers;

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use orfe_tunnel::{
    AllowedIp, Gateway, GatewayConfig, GatewayPeer, GatewayTcp, Phase, Policy, PolicyEntry, PolicyPort,
    PresharedKey, PrivateKey, Shards, TcpStack, Tunnel, TunnelConfig, TunnelError, TunnelPeer, Upstream,
};

/// Bound on waits that are expected to be short. A test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The inner address of everything that policy names in these tests.
pub(crate) const INNER: &str = "100.127.0.1";

/// The inner destination with this port.
pub(crate) fn inner(port: u16) -> SocketAddr {
    SocketAddr::new(INNER.parse().unwrap(), port)
}

/// The namespace helper of these tests.
pub(crate) const HELPER: &str = env!("CARGO_BIN_EXE_tunnel-test-helper");

/// The TCP stack of devices and gateways: the one that this test program is for. Where the system refuses it, that is said
/// and the tests hold the other one to the same.
pub(crate) fn tcp_stack() -> TcpStack {
    static ONCE: OnceLock<TcpStack> = OnceLock::new();
    *ONCE.get_or_init(|| match crate::TCP_STACK {
        TcpStack::Namespace => {
            let device = Device::new(250);
            let config = TunnelConfig {
                private_key: device.key,
                addresses: vec![device.address],
                peer: TunnelPeer {
                    public_key: PrivateKey::generate().public_key(),
                    preshared_key: None,
                    endpoint: None,
                    allowed_ips: Vec::new(),
                    keepalive: None,
                },
                mtu: TunnelConfig::DEFAULT_MTU,
                bind: "127.0.0.1:0".parse().unwrap(),
                tcp_stack: TcpStack::Namespace,
                helper: HELPER.into(),
            };
            match Tunnel::start(config) {
                Ok(_) => TcpStack::Namespace,
                Err(error @ TunnelError::NoNamespace { .. }) => {
                    eprintln!("SKIPPED: the namespace TCP stack, smoltcp is tested again: {error}");
                    TcpStack::Smoltcp
                }
                Err(error) => panic!("{error}"),
            }
        }
        other => other,
    })
}

/// A gateway whose policy maps ports of [`INNER`] to upstreams.
pub(crate) fn gateway(ports: &[(u16, SocketAddr)]) -> Gateway {
    logging();
    let config = GatewayConfig {
        private_key: PrivateKey::generate(),
        listen: "127.0.0.1:0".parse().unwrap(),
        addresses: vec!["100.64.0.1".parse().unwrap()],
        mtu: 1280,
    };
    start(config, policy(ports))
}

/// Starts a gateway on the TCP stack of [`tcp_stack`].
pub(crate) fn start(config: GatewayConfig, policy: Policy) -> Gateway {
    start_sharded(config, policy, Shards::for_this_machine())
}

/// The same with so many threads.
pub(crate) fn start_sharded(config: GatewayConfig, policy: Policy, shards: Shards) -> Gateway {
    let tcp = GatewayTcp {
        stack: tcp_stack(),
        helper: HELPER.into(),
    };
    let gateway = Gateway::start_on(config, policy, shards, &tcp).unwrap();
    assert_eq!(gateway.tcp_stack().name, tcp.stack.as_str());
    gateway
}

pub(crate) fn policy(ports: &[(u16, SocketAddr)]) -> Policy {
    let ports = ports.iter().map(|(port, upstream)| PolicyPort {
        port: *port,
        upstream: Upstream::Address(*upstream),
    });
    Policy::new([PolicyEntry {
        name: "service".to_owned(),
        address: INNER.parse().unwrap(),
        ports: ports.collect(),
    }])
    .unwrap()
}

/// A device's key and inner address.
pub(crate) struct Device {
    pub(crate) key: PrivateKey,
    pub(crate) address: IpAddr,
    pub(crate) name: String,
}

impl Device {
    pub(crate) fn new(number: u8) -> Self {
        Self {
            key: PrivateKey::generate(),
            address: IpAddr::from([100, 64, 1, number]),
            name: format!("device-{number}"),
        }
    }

    /// The device as the gateway knows it.
    pub(crate) fn peer(&self) -> GatewayPeer {
        GatewayPeer {
            public_key: self.key.public_key(),
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(self.address)],
            name: self.name.clone(),
        }
    }

    /// The device's end of a tunnel to `gateway`, which is reached at `endpoint`.
    pub(crate) fn tunnel(&self, gateway: &Gateway, endpoint: SocketAddr) -> Tunnel {
        self.start(tcp_stack(), gateway, endpoint, None, "100.127.0.0/16")
    }

    /// The same on this TCP stack, whatever the others have.
    #[cfg(target_os = "linux")]
    #[allow(dead_code, reason = "one of the two programs that share this uses it")]
    pub(crate) fn tunnel_on(&self, tcp_stack: TcpStack, gateway: &Gateway) -> Tunnel {
        self.start(tcp_stack, gateway, gateway.local_addr(), None, "100.127.0.0/16")
    }

    /// The same with a preshared key.
    pub(crate) fn tunnel_with(&self, gateway: &Gateway, preshared_key: Option<PresharedKey>) -> Tunnel {
        self.start(
            tcp_stack(),
            gateway,
            gateway.local_addr(),
            preshared_key,
            "100.127.0.0/16",
        )
    }

    /// The same for a device that sends everything into the tunnel.
    pub(crate) fn tunnel_to_everything(&self, gateway: &Gateway) -> Tunnel {
        self.start(tcp_stack(), gateway, gateway.local_addr(), None, "0.0.0.0/0")
    }

    fn start(
        &self,
        tcp_stack: TcpStack,
        gateway: &Gateway,
        endpoint: SocketAddr,
        preshared_key: Option<PresharedKey>,
        allowed: &str,
    ) -> Tunnel {
        let peer = TunnelPeer {
            public_key: gateway.public_key(),
            preshared_key,
            endpoint: Some(endpoint),
            allowed_ips: vec![allowed.parse().unwrap()],
            keepalive: Some(Duration::from_secs(25)),
        };
        let config = TunnelConfig {
            private_key: self.key.clone(),
            addresses: vec![self.address],
            peer,
            mtu: TunnelConfig::DEFAULT_MTU,
            bind: "127.0.0.1:0".parse().unwrap(),
            tcp_stack,
            helper: HELPER.into(),
        };
        Tunnel::start(config).unwrap()
    }
}

/// One device, connected.
pub(crate) async fn connected(ports: &[(u16, SocketAddr)]) -> (Gateway, Tunnel) {
    let gateway = gateway(ports);
    let device = Device::new(1);
    gateway.set_peers(vec![device.peer()]);
    let tunnel = device.tunnel(&gateway, gateway.local_addr());
    up(&tunnel).await;
    (gateway, tunnel)
}

/// Waits until the tunnel is up.
pub(crate) async fn up(tunnel: &Tunnel) {
    let mut status = tunnel.status();
    let wait = status.wait_for(|status| status.phase == Phase::Up);
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("the tunnel does not come up")
        .unwrap();
}

/// Waits until `condition` holds; it is looked at every few milliseconds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// Sends logs to the test's output when `RUST_LOG` asks for them.
pub(crate) fn logging() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .init();
    });
}
