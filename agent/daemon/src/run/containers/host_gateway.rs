//! The listener at the engine's `host-gateway`, for containers of its default bridge whose template says `host-gateway`.
//!
//! It is a forwarder in this process, bound to the bridge: nobody on another network gets to it. A process of the host is closed
//! with a reset, because it does not come from an address of a container.
//! Off unless the owner wants it, for it is the one thing of userspace mode that listens on the host.
//!
//! It stays while its bridge does, also while the engine does not answer: containers may run on.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use orfe_platform::ports;
use orfe_tunnel::forwarder::{Agent, Forwarder, ForwarderConfig, ForwarderError, Listen};
use orfe_tunnel::proxy::Outlet;
use orfe_tunnel::{AllowedIp, BridgeAddress};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Trouble;
use super::engine::Engine;
use super::network::Network;
use crate::control::status::HostGateway;

/// Keeps the listener.
pub(super) struct HostGatewayKeeper {
    pub(super) outlet: Outlet,
    pub(super) listening: Option<Listening>,
}

/// A listener and what it was made for.
pub(super) struct Listening {
    wanted: Wanted,
    /// Dropping it ends the task.
    stop: DropGuard,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    at: BridgeAddress,
    ports: BTreeSet<u16>,
    bridge: Network,
}

impl HostGatewayKeeper {
    /// The default bridge, if it is one of this machine.
    pub(super) async fn bridge(engine: &Engine) -> Result<Network, Trouble> {
        let Some(bridge) = engine.default_bridge().await? else {
            return Err(Trouble::Failed("the engine has no default bridge".to_owned()));
        };
        // Any address will do to find the device.
        if BridgeAddress::find([0, 0, 0, 0].into(), &bridge.device).is_none() {
            return Err(Trouble::Failed(format!(
                "the engine's default bridge `{}` is not on this machine",
                bridge.device
            )));
        }
        Ok(bridge)
    }

    /// Listens at `address`, where the engine leads `host-gateway` to.
    pub(super) async fn ensure(
        &mut self,
        bridge: Network,
        address: IpAddr,
        ports: &BTreeSet<u16>,
    ) -> Result<(), String> {
        let Some(at) = BridgeAddress::find(address, &bridge.device) else {
            self.close().await;
            return Err(format!("the bridge `{}` is gone", bridge.device));
        };
        let wanted = Wanted {
            at,
            ports: ports.clone(),
            bridge,
        };
        if self.is_listening_for(&wanted) {
            return Ok(());
        }
        self.close().await;
        let config = ForwarderConfig {
            listen: Listen::Bridge(wanted.at.clone()),
            ports: wanted.ports.iter().copied().collect(),
            agent: Agent::Here(self.outlet.clone()),
            from: networks(&wanted.bridge)?,
            except: vec![address],
        };
        let forwarder = match Forwarder::bind(config).await {
            Ok(forwarder) => forwarder,
            Err(error) => return Err(why(error, address).await),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(forwarder.serve(stop.clone()));
        let stop = stop.drop_guard();
        self.listening = Some(Listening { wanted, stop, task });
        Ok(())
    }

    /// Closes what has lost its bridge: a listener does not pass over to a bridge that is made anew.
    pub(super) async fn check(&mut self) {
        let is_lost = |listening: &Listening| !listening.wanted.at.is_there();
        if self.listening.as_ref().is_some_and(is_lost) {
            self.close().await;
        }
    }

    /// Closes every connection and waits until the last task has ended.
    pub(super) async fn close(&mut self) {
        if let Some(Listening { stop, task, .. }) = self.listening.take() {
            drop(stop);
            // It ends by itself; a panic was told where it happened.
            let _ = task.await;
        }
    }

    /// For `orfe status`.
    pub(super) fn status(&self, reason: Option<String>) -> HostGateway {
        let wanted = self.listening.as_ref().map(|listening| &listening.wanted);
        HostGateway {
            address: wanted.map(|wanted| wanted.at.address()),
            bridge: wanted.map(|wanted| wanted.at.device().to_owned()),
            ports: wanted.map_or_else(Vec::new, |wanted| wanted.ports.iter().copied().collect()),
            reason,
        }
    }

    fn is_listening_for(&self, wanted: &Wanted) -> bool {
        self.listening
            .as_ref()
            .is_some_and(|listening| listening.wanted == *wanted && !listening.task.is_finished())
    }
}

fn networks(bridge: &Network) -> Result<Vec<AllowedIp>, String> {
    let parsed = bridge.subnets.iter().map(|subnet| subnet.range.parse());
    parsed
        .collect::<Result<_, _>>()
        .map_err(|reason| format!("the engine's default bridge has an odd network: {reason}"))
}

/// Why it does not listen, and what to do about it.
async fn why(error: ForwarderError, address: IpAddr) -> String {
    let ForwarderError { port, source } = error;
    let text = format!("port {port} cannot be opened at {address}");
    match source.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "{text}: not permitted (hint: give the agent CAP_NET_BIND_SERVICE, or lower \
             net.ipv4.ip_unprivileged_port_start to {port})"
        ),
        io::ErrorKind::AddrInUse => {
            // It reads as many files as there are processes.
            let holder = tokio::task::spawn_blocking(move || ports::holder(port)).await;
            match holder.ok().flatten() {
                Some(holder) => format!("{text}: {holder} listens there"),
                None => format!("{text}: somebody listens there"),
            }
        }
        io::ErrorKind::AddrNotAvailable => format!("{text}: this machine does not have that address"),
        _ => format!("{text}: {source}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_not_to_be_had_is_told_with_what_to_do() {
        let address = IpAddr::from([127, 0, 0, 1]);
        let taken = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        // It keeps its port from others and does not listen.
        let bound = tokio::net::TcpSocket::new_v4().unwrap();
        bound.bind((address, 0).into()).unwrap();
        let silent = bound.local_addr().unwrap().port();
        let told = async |port: u16, kind: io::ErrorKind| {
            let source = kind.into();
            why(ForwarderError { port, source }, address).await
        };
        let own = format!("(process {}) listens there", std::process::id());
        assert!(told(port, io::ErrorKind::AddrInUse).await.ends_with(&own));
        let unknown = told(silent, io::ErrorKind::AddrInUse).await;
        assert!(unknown.ends_with("somebody listens there"), "{unknown}");
        let denied = told(port, io::ErrorKind::PermissionDenied).await;
        assert!(
            denied.contains("CAP_NET_BIND_SERVICE") && denied.contains(&port.to_string()),
            "{denied}"
        );
        assert!(
            told(port, io::ErrorKind::AddrNotAvailable)
                .await
                .contains("does not have that address")
        );
    }
}
