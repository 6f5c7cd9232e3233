//! The two ends of a tunnel in a lab: Orfe's own (its driver `tunnel-end`), or a WireGuard program with a control socket.
//!
//! Inside the tunnel the near end is 10.98.0.1 and `fd98::1`, the far one 10.98.0.2 and `fd98::2`. The far end listens on the wire
//! at UDP 51820 and waits; the near one speaks first.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use orfe_tunnel_core::PrivateKey;
use serde::Deserialize;
use serde_json::{Value, json};

pub use orfe_tunnel::TcpStack;

use super::program::Program;
use super::wg::{self, Interface};
use super::{Lab, LabError, Side, User};
use crate::load::{ProxyProtocol, ProxySpec};

/// The UDP port of the far end.
pub const PORT: u16 = 51820;
/// The TCP port on which the far machine serves; iperf3's own.
pub const SERVICE: u16 = 5201;
/// The name by which the proxy of a near end knows the far machine.
pub const SERVICE_NAME: &str = "far.example";
/// Largest inner packet: an outer packet of 1500 bytes, IPv6 outside included.
pub const MTU: u16 = 1420;
/// A gateway's own address inside the tunnel.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 254);
/// How long an end may take to start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval of keepalives of the near end, in seconds.
const KEEPALIVE: u16 = 25;

/// Its address inside the tunnel.
pub const fn inner(side: Side) -> Ipv4Addr {
    match side {
        Side::Near => Ipv4Addr::new(10, 98, 0, 1),
        Side::Far => Ipv4Addr::new(10, 98, 0, 2),
    }
}

/// The same, IPv6.
pub const fn inner_v6(side: Side) -> Ipv6Addr {
    match side {
        Side::Near => Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 1),
        Side::Far => Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 2),
    }
}

/// Where the far end listens on the wire.
pub const fn far_endpoint() -> SocketAddr {
    SocketAddr::new(Side::Far.wire(), PORT)
}

/// An end could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// Its machine could not be prepared.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Its program could not be started, or did not take its configuration.
    #[error("the {} end does not start", side.name())]
    Start {
        /// Which.
        side: Side,
        /// Why.
        source: io::Error,
    },
}

/// The keys of both ends, made for one run.
#[derive(Debug)]
pub struct Keys {
    near: PrivateKey,
    far: PrivateKey,
}

impl Keys {
    /// New ones.
    pub fn generate() -> Self {
        Self {
            near: PrivateKey::generate(),
            far: PrivateKey::generate(),
        }
    }

    /// The side's own.
    pub fn of(&self, side: Side) -> &PrivateKey {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }

    /// The key of the side that `side` speaks with.
    pub fn peer_of(&self, side: Side) -> &PrivateKey {
        match side {
            Side::Near => &self.far,
            Side::Far => &self.near,
        }
    }
}

/// What Orfe's driver is told to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A TUN device of its machine.
    Tun,
    /// No device: this TCP stack, behind a local proxy.
    Userspace(TcpStack),
    /// The cluster's end, with a policy, on this TCP stack.
    Gateway(TcpStack),
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tun => f.write_str("tun"),
            Self::Userspace(stack) => stack.fmt(f),
            Self::Gateway(stack) => write!(f, "gateway on {stack}"),
        }
    }
}

/// Which TCP an end says that it got.
#[derive(Debug, Clone, Deserialize)]
pub struct Tcp {
    /// `namespace` or `smoltcp`.
    pub stack: String,
    /// What the kernel granted; none where smoltcp has its own.
    pub congestion_control: Option<String>,
}

/// A running end.
#[derive(Debug)]
pub struct RunningEnd {
    /// Its program.
    pub program: Program,
    /// Its local proxy, when it has no device.
    pub proxy: Option<ProxySpec>,
    /// Its TCP, where that is not its machine's.
    pub tcp: Option<Tcp>,
}

/// What an end needs to be started.
#[derive(Debug, Clone, Copy)]
pub struct EndSpec<'a> {
    /// Which of the two.
    pub side: Side,
    /// The program.
    pub program: &'a Path,
    /// The keys of both.
    pub keys: &'a Keys,
    /// Where the near end speaks to: [`far_endpoint`], or a relay before it. Unused by the far end.
    pub endpoint: SocketAddr,
    /// Where logs go.
    pub logs: &'a Path,
}

impl EndSpec<'_> {
    fn is_near(&self) -> bool {
        self.side == Side::Near
    }

    fn failed(&self, source: io::Error) -> EndError {
        EndError::Start {
            side: self.side,
            source,
        }
    }

    /// The networks behind the other end.
    fn allowed_ips(&self) -> Vec<String> {
        let other = if self.is_near() { Side::Far } else { Side::Near };
        vec![format!("{}/32", inner(other)), format!("{}/128", inner_v6(other))]
    }

    /// Starts a program that makes a device and has a control socket: wireguard-go, boringtun-cli.
    pub fn start_wireguard(&self, lab: &Lab, arguments: &[&str]) -> Result<RunningEnd, EndError> {
        let device = lab.device(self.side);
        // A killed program leaves its control socket; then this one would be spoken to before it listens.
        let _ = std::fs::remove_file(wg::socket(&device));
        let mut command = lab.command(self.side, User::Root, self.program);
        command
            .args(arguments)
            .arg(&device)
            .env("LOG_LEVEL", "error")
            .env("WG_LOG_LEVEL", "error");
        let program =
            Program::start(command, self.side.name(), self.logs).map_err(|error| self.failed(error))?;
        let interface = Interface {
            private_key: self.keys.of(self.side),
            listen_port: if self.is_near() { 0 } else { PORT },
            peer: self.keys.peer_of(self.side).public_key(),
            endpoint: self.is_near().then_some(self.endpoint),
            allowed_ips: &self.allowed_ips(),
            keepalive: self.is_near().then_some(KEEPALIVE),
        };
        wg::configure(&device, &interface).map_err(|error| self.failed(error))?;
        lab.ip(
            self.side,
            &format!("address add {}/24 dev {device}", inner(self.side)),
        )?;
        lab.ip(
            self.side,
            &format!("address add {}/64 dev {device} nodad", inner_v6(self.side)),
        )?;
        lab.ip(self.side, &format!("link set {device} mtu {MTU} up"))?;
        Ok(RunningEnd {
            program,
            proxy: None,
            tcp: None,
        })
    }

    /// Starts Orfe's driver in `mode` as `user`, and waits until it is ready.
    pub async fn start_orfe(&self, lab: &Lab, mode: Mode, user: User) -> Result<RunningEnd, EndError> {
        let command = lab.command(self.side, user, self.program);
        let mut program =
            Program::start(command, self.side.name(), self.logs).map_err(|error| self.failed(error))?;
        let config = self.orfe_config(lab, mode);
        let ready = program
            .ask(&config.to_string(), PATIENCE)
            .await
            .map_err(|error| self.failed(error))?;
        let proxy = proxy_of(&ready).map_err(|error| self.failed(error))?;
        let tcp = tcp_of(&ready).map_err(|error| self.failed(error))?;
        Ok(RunningEnd { program, proxy, tcp })
    }

    fn orfe_config(&self, lab: &Lab, mode: Mode) -> Value {
        let mut config = json!({
            "private_key": *self.keys.of(self.side).to_base64(),
            "listen": SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), if self.is_near() { 0 } else { PORT }),
            "addresses": [format!("{}/24", inner(self.side)), format!("{}/64", inner_v6(self.side))],
            "device": lab.device(self.side),
            "mtu": MTU,
            "peers": [{
                "public_key": self.keys.peer_of(self.side).public_key().to_string(),
                "endpoint": self.is_near().then_some(self.endpoint),
                "allowed_ips": self.allowed_ips(),
                "keepalive": self.is_near().then_some(KEEPALIVE),
            }],
        });
        match mode {
            Mode::Tun => config["mode"] = json!("tun"),
            Mode::Gateway(stack) => {
                config["mode"] = json!("gateway");
                config["tcp_stack"] = json!(stack.as_str());
                // The address of the far machine is the policy's; the gateway itself has another.
                config["addresses"] = json!([format!("{GATEWAY}/24")]);
                config["policy"] = json!([{
                    "name": SERVICE_NAME,
                    "address": inner(Side::Far).to_string(),
                    "ports": { SERVICE.to_string(): SocketAddr::new(Ipv4Addr::LOCALHOST.into(), SERVICE) },
                }]);
            }
            Mode::Userspace(stack) => {
                config["mode"] = json!("userspace");
                config["tcp_stack"] = json!(stack.as_str());
                config["proxy"] = json!({
                    "listen": "127.0.0.1:0",
                    "names": { SERVICE_NAME: { "address": inner(Side::Far).to_string(), "ports": [SERVICE] } },
                });
            }
        }
        config
    }
}

/// The proxy that a ready end announces, if it has one.
pub fn proxy_of(ready: &Value) -> io::Result<Option<ProxySpec>> {
    let Some(proxy) = ready.get("proxy").filter(|proxy| !proxy.is_null()) else {
        return Ok(None);
    };
    let text = |name: &str| {
        proxy[name]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| io::Error::other(format!("no {name} of the proxy in {ready}")))
    };
    Ok(Some(ProxySpec {
        protocol: ProxyProtocol::Connect,
        address: text("address")?.parse().map_err(io::Error::other)?,
        user: text("user")?,
        password: text("password")?,
    }))
}

/// The TCP that a ready end says that it got, if that is not its machine's.
pub fn tcp_of(ready: &Value) -> io::Result<Option<Tcp>> {
    Ok(Option::deserialize(&ready["tcp"])?)
}
