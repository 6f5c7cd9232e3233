//! A TCP relay on loopback that can be cut, blackholed and restored.
//!
//! | state | old connections | new connections |
//! |---|---|---|
//! | passing | bytes flow | accepted, then dialled on |
//! | cut | closed at once | accepted and closed at once |
//! | blackholed | every byte is held, nothing is closed | accepted, every byte is held |
//!
//! `restore` goes back to passing; bytes held by a blackhole flow on. A half-close is passed on as one.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How much of the first bytes of a connection is kept for [`TcpRelay::first_bytes`].
const KEPT_BYTES: usize = 8 * 1024;
/// Of how many connections; the oldest are forgotten first.
const KEPT_CONNECTIONS: usize = 256;
/// Pause after an accept that failed, so that a machine out of descriptors is not kept busy, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const BUFFER: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Passing,
    Cut,
    Blackholed,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: watch::Sender<State>,
    up: AtomicU64,
    down: AtomicU64,
    accepted: AtomicU64,
    first_bytes: Mutex<VecDeque<Arc<Mutex<Vec<u8>>>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A running relay; dropping it closes everything. See the module.
#[derive(Debug)]
pub struct TcpRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl TcpRelay {
    /// Listens on a free loopback port and relays to `target`. Needs a tokio runtime.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            state: watch::Sender::new(State::Passing),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            first_bytes: Mutex::new(VecDeque::new()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(accept_loop(listener, Arc::clone(&shared)));
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection and refuses new ones by closing them.
    pub fn cut(&self) {
        self.shared.state.send_replace(State::Cut);
    }

    /// Holds every byte in both directions, closes nothing.
    pub fn blackhole(&self) {
        self.shared.state.send_replace(State::Blackholed);
    }

    /// Lets everything flow again.
    pub fn restore(&self) {
        self.shared.state.send_replace(State::Passing);
    }

    /// Bytes passed (towards the target, back from it).
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.shared.up.load(Ordering::Relaxed),
            self.shared.down.load(Ordering::Relaxed),
        )
    }

    /// How many connections were accepted, in any state.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// The first bytes (at most 8 KiB) that each of the latest 256 connections sent towards the target, oldest first.
    pub fn first_bytes(&self) -> Vec<Vec<u8>> {
        let all = self
            .shared
            .first_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|one| one.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }
}

impl Drop for TcpRelay {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
    }
}

async fn accept_loop(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let client = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // Out of descriptors, or a client that was gone at once: the next accept, a little later, decides.
        let Ok((client, _)) = client else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let task = relay_connection(client, Arc::clone(&shared));
        shared.tasks.spawn(task);
    }
}

async fn relay_connection(client: TcpStream, shared: Arc<Shared>) {
    let mut state = shared.state.subscribe();
    let cut = shared.state.subscribe();
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = until_cut(cut) => {}
        _ = pass(client, &shared, &mut state) => {}
    }
}

async fn until_cut(mut state: watch::Receiver<State>) {
    // The sender lives as long as `shared`, which this task's caller holds; an error would mean the end anyway.
    let _ = state.wait_for(|state| *state == State::Cut).await;
}

async fn pass(mut client: TcpStream, shared: &Shared, state: &mut watch::Receiver<State>) -> io::Result<()> {
    if state.wait_for(|state| *state == State::Passing).await.is_err() {
        return Ok(());
    }
    let mut target = TcpStream::connect(shared.target).await?;
    let head = keep_first_bytes(shared);
    let (client_read, client_write) = client.split();
    let (target_read, target_write) = target.split();
    let up = copy(
        client_read,
        target_write,
        shared.state.subscribe(),
        &shared.up,
        Some(&head),
    );
    let down = copy(
        target_read,
        client_write,
        shared.state.subscribe(),
        &shared.down,
        None,
    );
    tokio::try_join!(up, down)?;
    Ok(())
}

fn keep_first_bytes(shared: &Shared) -> Arc<Mutex<Vec<u8>>> {
    let head = Arc::new(Mutex::new(Vec::new()));
    let mut all = shared.first_bytes.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() == KEPT_CONNECTIONS {
        all.pop_front();
    }
    all.push_back(Arc::clone(&head));
    head
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    count: &AtomicU64,
    head: Option<&Mutex<Vec<u8>>>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        // What was read is held here, and the kernel's buffers hold what follows, until bytes may flow.
        if state.wait_for(|state| *state == State::Passing).await.is_err() {
            return Ok(());
        }
        if length == 0 {
            return to.shutdown().await;
        }
        if let Some(head) = head {
            let mut head = head.lock().unwrap_or_else(PoisonError::into_inner);
            let room = KEPT_BYTES.saturating_sub(head.len()).min(length);
            head.extend_from_slice(&buffer[..room]);
        }
        to.write_all(&buffer[..length]).await?;
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn echo_server(stop: CancellationToken) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = TaskTracker::new();
        let serve = async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tasks.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                    write.shutdown().await.ok();
                });
            }
        };
        TaskTracker::new().spawn(async move { stop.run_until_cancelled(serve).await });
        address
    }

    async fn read_exact(stream: &mut TcpStream, length: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut buffer))
            .await
            .expect("bytes in time")?;
        Ok(buffer)
    }

    #[tokio::test]
    async fn passes_bytes_and_half_closes_and_counts() {
        let stop = CancellationToken::new();
        let relay = TcpRelay::start(echo_server(stop.clone()).await).await.unwrap();
        let mut client = TcpStream::connect(relay.address()).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, client.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer, b"hello");
        assert_eq!(relay.bytes(), (5, 5));
        assert_eq!(relay.first_bytes(), [b"hello".to_vec()]);
        stop.cancel();
    }

    #[tokio::test]
    async fn a_cut_ends_old_and_new_connections_until_restored() {
        let stop = CancellationToken::new();
        let relay = TcpRelay::start(echo_server(stop.clone()).await).await.unwrap();
        let mut old = TcpStream::connect(relay.address()).await.unwrap();
        old.write_all(b"a").await.unwrap();
        read_exact(&mut old, 1).await.unwrap();
        relay.cut();
        assert!(read_exact(&mut old, 1).await.is_err());
        let mut new = TcpStream::connect(relay.address()).await.unwrap();
        assert!(read_exact(&mut new, 1).await.is_err());
        relay.restore();
        let mut again = TcpStream::connect(relay.address()).await.unwrap();
        again.write_all(b"b").await.unwrap();
        assert_eq!(read_exact(&mut again, 1).await.unwrap(), b"b");
        assert_eq!(relay.accepted(), 3);
        stop.cancel();
    }

    #[tokio::test]
    async fn a_blackhole_holds_bytes_and_gives_them_back() {
        let stop = CancellationToken::new();
        let relay = TcpRelay::start(echo_server(stop.clone()).await).await.unwrap();
        let mut client = TcpStream::connect(relay.address()).await.unwrap();
        client.write_all(b"a").await.unwrap();
        read_exact(&mut client, 1).await.unwrap();
        relay.blackhole();
        client.write_all(b"held").await.unwrap();
        let mut one = [0];
        let silent = tokio::time::timeout(Duration::from_millis(100), client.read(&mut one)).await;
        assert!(silent.is_err(), "nothing may come through a blackhole");
        relay.restore();
        assert_eq!(read_exact(&mut client, 4).await.unwrap(), b"held");
        stop.cancel();
    }
}
