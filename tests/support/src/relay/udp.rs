//! A UDP relay on loopback that can be stopped and started: the network between a device and a gateway.
//!
//! Each client address has a socket of its own towards the target, as behind a NAT. While stopped, datagrams of both
//! directions are thrown away and counted.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Client addresses that are served at a time; datagrams of further ones are thrown away and counted.
const CLIENTS: usize = 64;
const DATAGRAM: usize = 65_536;

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    front: UdpSocket,
    stopped: AtomicBool,
    up: AtomicU64,
    down: AtomicU64,
    thrown_away: AtomicU64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A running relay; dropping it ends it. See the module.
#[derive(Debug)]
pub struct UdpRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl UdpRelay {
    /// Binds a free loopback port and relays to `target`. Needs a tokio runtime.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), target).await
    }

    /// [`UdpRelay::start`] on an address of choice.
    pub async fn start_at(listen: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let front = UdpSocket::bind(listen).await?;
        let address = front.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            front,
            stopped: AtomicBool::new(false),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            thrown_away: AtomicU64::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(from_clients(Arc::clone(&shared)));
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Throws every datagram away from now on.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
    }

    /// Passes datagrams again.
    pub fn resume(&self) {
        self.shared.stopped.store(false, Ordering::SeqCst);
    }

    /// Datagrams passed (towards the target, back from it).
    pub fn passed(&self) -> (u64, u64) {
        (
            self.shared.up.load(Ordering::Relaxed),
            self.shared.down.load(Ordering::Relaxed),
        )
    }

    /// Datagrams thrown away.
    pub fn thrown_away(&self) -> u64 {
        self.shared.thrown_away.load(Ordering::Relaxed)
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
    }
}

async fn from_clients(shared: Arc<Shared>) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (length, client) = tokio::select! {
            () = shared.stop.cancelled() => return,
            received = shared.front.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error of an earlier send; UDP goes on.
                Err(_) => continue,
            },
        };
        if shared.stopped.load(Ordering::SeqCst) {
            shared.thrown_away.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let Some(back) = socket_for(&shared, &mut clients, client).await else {
            shared.thrown_away.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        if back.send(&buffer[..length]).await.is_ok() {
            shared.up.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn socket_for(
    shared: &Arc<Shared>,
    clients: &mut HashMap<SocketAddr, Arc<UdpSocket>>,
    client: SocketAddr,
) -> Option<Arc<UdpSocket>> {
    if let Some(known) = clients.get(&client) {
        return Some(Arc::clone(known));
    }
    if clients.len() == CLIENTS {
        return None;
    }
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?;
    socket.connect(shared.target).await.ok()?;
    let socket = Arc::new(socket);
    clients.insert(client, Arc::clone(&socket));
    shared
        .tasks
        .spawn(from_target(Arc::clone(shared), Arc::clone(&socket), client));
    Some(socket)
}

async fn from_target(shared: Arc<Shared>, socket: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = tokio::select! {
            () = shared.stop.cancelled() => return,
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => length,
                // The target's port was closed for a moment; it may come back.
                Err(_) => continue,
            },
        };
        if shared.stopped.load(Ordering::SeqCst) {
            shared.thrown_away.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        if shared.front.send_to(&buffer[..length], client).await.is_ok() {
            shared.down.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wait::wait_for;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn stops_and_starts_and_tells_clients_apart() {
        let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let relay = UdpRelay::start(target.local_addr().unwrap()).await.unwrap();
        let one = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let two = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 16];
        for (client, text) in [(&one, b"one"), (&two, b"two")] {
            client.send_to(text, relay.address()).await.unwrap();
            let (length, seen) = tokio::time::timeout(PATIENCE, target.recv_from(&mut buffer))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(&buffer[..length], text);
            target.send_to(text, seen).await.unwrap();
            let length = tokio::time::timeout(PATIENCE, client.recv(&mut buffer))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(&buffer[..length], text);
        }
        relay.stop();
        one.send_to(b"lost", relay.address()).await.unwrap();
        wait_for("the datagram to be thrown away", PATIENCE, || {
            match relay.thrown_away() {
                1 => Ok(()),
                other => Err(format!("{other} thrown away")),
            }
        })
        .await
        .unwrap();
        relay.resume();
        one.send_to(b"back", relay.address()).await.unwrap();
        let length = tokio::time::timeout(PATIENCE, target.recv(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&buffer[..length], b"back");
        assert_eq!(relay.passed(), (3, 2));
    }
}
