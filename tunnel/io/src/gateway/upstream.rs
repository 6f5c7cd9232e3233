//! The gateway's connections into the cluster: one task for each connection of a device.
//!
//! A task dials, asks the thread to let the device's SYN in, copies bytes, and ends. It is cancelled when its flow is
//! forgotten before it was let in, and when the gateway stops.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::front::Command;
use super::policy::{Target, Upstream};
use crate::netstack::{Flow, Handle, TunnelStream};

/// How long resolving and connecting may take together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Buffer of each direction of a copy, in bytes.
const COPY_BUFFER: usize = 32 << 10;

/// Starts tasks that forward.
#[derive(Debug)]
pub(super) struct Forwarders {
    handle: Handle<Command>,
    runtime: tokio::runtime::Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// One connection to be forwarded.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) flow: Flow,
    /// Tells this attempt from another with the same flow.
    pub(super) attempt: u64,
    pub(super) device: Arc<str>,
    pub(super) target: Arc<Target>,
}

impl Forwarders {
    pub(super) fn new(
        handle: Handle<Command>,
        runtime: tokio::runtime::Handle,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            handle,
            runtime,
            tracker,
            stop,
        }
    }

    /// Starts a task; cancelling the token ends it.
    pub(super) fn start(&self, forward: Forward) -> CancellationToken {
        let cancel = self.stop.child_token();
        let (handle, cancelled) = (self.handle.clone(), cancel.clone());
        self.tracker.spawn_on(
            async move {
                cancelled.run_until_cancelled(run(forward, &handle)).await;
            },
            &self.runtime,
        );
        cancel
    }
}

async fn run(forward: Forward, handle: &Handle<Command>) {
    let Forward {
        flow,
        attempt,
        device,
        target,
    } = forward;
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, dial(&target.upstream)).await;
    let upstream = match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::warn!(%device, destination = target.name, upstream = %target.upstream, %error, "upstream not reached");
            // An error means that the gateway stops.
            let _ = handle.send(Command::Refuse { flow, attempt }).await;
            return;
        }
    };
    let (reply, admitted) = oneshot::channel();
    if handle
        .send(Command::Admit { flow, attempt, reply })
        .await
        .is_err()
    {
        return;
    }
    // The device may have given up meanwhile.
    let Ok(stream) = admitted.await else { return };
    splice(stream, upstream, &device, &target).await;
}

async fn splice(mut stream: TunnelStream, mut upstream: TcpStream, device: &str, target: &Target) {
    let (Ok(local), Ok(address)) = (upstream.local_addr(), upstream.peer_addr()) else {
        return;
    };
    tracing::info!(%device, destination = target.name, upstream = %address, %local, "forwarding");
    if let Err(error) = upstream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    match copy_bidirectional_with_sizes(&mut stream, &mut upstream, COPY_BUFFER, COPY_BUFFER).await {
        Ok((up_bytes, down_bytes)) => {
            tracing::debug!(%device, destination = target.name, %local, up_bytes, down_bytes, "forwarded");
        }
        Err(error) => {
            tracing::debug!(%device, destination = target.name, %local, %error, "cut");
            // A cut on one side is a cut on the other; a FIN would pass for a complete answer.
            if let Err(error) = upstream.set_zero_linger() {
                tracing::debug!(%error, "upstream is closed instead of reset");
            }
        }
    }
}

async fn dial(upstream: &Upstream) -> io::Result<TcpStream> {
    let (host, port) = match upstream {
        Upstream::Address(address) => return TcpStream::connect(address).await,
        Upstream::Name { host, port } => (host.as_str(), *port),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, port)).await? {
        if is_this_host(address.ip()) {
            let what = format!(
                "the name resolves to {}, which policy must name by address",
                address.ip()
            );
            last = io::Error::new(io::ErrorKind::PermissionDenied, what);
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Addresses by which a name would reach the gateway's own machine, or its link (cloud metadata services live there).
fn is_this_host(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_not_lead_to_this_host() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(is_this_host(address.parse().unwrap()), "{address}");
        }
        for address in [
            "10.0.0.5",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::5",
            "2001:db8::1",
        ] {
            assert!(!is_this_host(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_for_loopback_is_refused_and_its_address_is_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let by_name = Upstream::Name {
            host: "localhost".to_owned(),
            port,
        };
        let error = dial(&by_name).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        dial(&Upstream::Address(listener.local_addr().unwrap()))
            .await
            .unwrap();
    }
}
