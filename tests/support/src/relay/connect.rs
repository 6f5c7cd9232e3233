//! A forward HTTP proxy that knows `CONNECT` and nothing else, with or without a Basic credential (RFC 7617).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::BASE64;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest request head.
const HEAD_MAX: usize = 16 * 1024;

/// A running proxy; dropping it ends it and its connections.
#[derive(Debug)]
pub struct ConnectProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Shared {
    /// The value of `Proxy-Authorization` that is let through.
    authorization: Option<String>,
    seen: Mutex<Vec<Seen>>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The first line of the request.
    pub line: String,
    /// The status that it was answered with.
    pub status: u16,
}

impl ConnectProxy {
    /// Listens on a free port of `ip`. With a user and a password, nobody gets through without them. Needs a tokio runtime.
    pub async fn start(ip: IpAddr, credential: Option<(&str, &str)>) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, 0)).await?;
        let address = listener.local_addr()?;
        let authorization = credential.map(|(user, password)| {
            format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
        });
        let shared = Arc::new(Shared {
            authorization,
            ..Shared::default()
        });
        let stop = CancellationToken::new();
        let (accepting, stopped) = (Arc::clone(&shared), stop.clone());
        // Everything ends with the token, which the guard cancels.
        tokio::spawn(async move {
            let tasks = TaskTracker::new();
            while let Some(Ok((client, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let (shared, stopped) = (Arc::clone(&accepting), stopped.clone());
                tasks.spawn(async move { stopped.run_until_cancelled(serve(client, &shared)).await });
            }
        });
        Ok(Self {
            address,
            shared,
            stop,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked for, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_MAX || client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    let target = line
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let given = head
        .lines()
        .find_map(|line| line.strip_prefix("Proxy-Authorization: "));
    let allowed = shared.authorization.is_none() || given == shared.authorization.as_deref();
    let (status, server) = match target {
        None => (405, None),
        Some(_) if !allowed => (407, None),
        Some(target) => match TcpStream::connect(target).await {
            Ok(server) => (200, Some(server)),
            Err(_) => (502, None),
        },
    };
    shared
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Seen { line, status });
    let Some(mut server) = server else {
        let challenge = "Proxy-Authenticate: Basic realm=\"test\"\r\n";
        let answer = format!("HTTP/1.1 {status} X\r\n{challenge}Content-Length: 0\r\n\r\n");
        return client.write_all(answer.as_bytes()).await;
    };
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
