//! TCP servers that stand behind the gateway.

use std::future::Future;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A server on loopback; dropping it ends it with all its connections.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Serves each connection with `serve`.
    pub(crate) async fn new<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::new_at("127.0.0.1:0", serve).await
    }

    async fn new_at<F>(address: &str, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self {
            address,
            _tasks: tasks,
        }
    }

    /// Sends back what it gets; after the client's FIN, the rest and its own.
    pub(crate) async fn echo() -> Self {
        Self::echo_at("127.0.0.1:0").await
    }

    /// The same at another address.
    pub(crate) async fn echo_at(address: &str) -> Self {
        Self::new_at(address, |mut stream| async move {
            let (mut read, mut write) = stream.split();
            // A connection that is cut ends the copy with an error; that is not the server's concern.
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
        .await
    }

    /// Reads to the client's FIN, then answers with what it read in full.
    pub(crate) async fn answer_after_fin() -> Self {
        Self::new(|mut stream| async move {
            let mut bytes = Vec::new();
            if stream.read_to_end(&mut bytes).await.is_ok() {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
            }
        })
        .await
    }

    /// Accepts, and never reads.
    pub(crate) async fn deaf() -> Self {
        Self::new(|stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        })
        .await
    }
}

/// An address on which nothing listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// `len` bytes that are not all alike; `seed` tells streams apart.
pub(crate) fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| ((at + seed).wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}
