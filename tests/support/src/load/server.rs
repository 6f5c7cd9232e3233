//! The load's server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{BLOCK, Purpose};

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 1024;
/// A listener that cannot accept has run out of descriptors; it gets some back as connections end.
const PAUSE: Duration = Duration::from_millis(20);

/// A running server; dropping it ends it with all its connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    received: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Listens at `address`. Needs a tokio runtime.
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let received = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&received)));
        Ok(Self {
            address,
            received,
            _tasks: tasks,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes received so far, those that were sent back included.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, received: Arc<AtomicU64>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let received = Arc::clone(&received);
        connections.spawn(async move {
            // A client that goes away ends its connection with an error, which is not the server's concern.
            let _ = serve(stream, &received).await;
            drop(slot);
        });
    }
}

async fn serve(mut stream: TcpStream, received: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut block = vec![0; BLOCK];
    match Purpose::from_byte(stream.read_u8().await?) {
        Some(Purpose::Swallow) => loop {
            match stream.read(&mut block).await? {
                0 => return Ok(()),
                read => received.fetch_add(read as u64, Ordering::Relaxed),
            };
        },
        Some(Purpose::Pour) => loop {
            stream.write_all(&block).await?;
        },
        Some(Purpose::Echo) => loop {
            match stream.read(&mut block).await? {
                0 => return stream.shutdown().await,
                read => {
                    received.fetch_add(read as u64, Ordering::Relaxed);
                    stream.write_all(&block[..read]).await?;
                }
            }
        },
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
