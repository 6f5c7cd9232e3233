//! A small forward proxy with a Basic credential: CONNECT and absolute form, and a name that only it can resolve.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) const NAME: &str = "coder.demo.internal";
const USER: &str = "orfe";
const PASSWORD: &str = "p@ss/word";

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Request lines seen.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    /// The local addresses of its connections to the target.
    pub(crate) outgoing: Arc<Mutex<Vec<SocketAddr>>>,
    stop: CancellationToken,
}

impl Proxy {
    /// Sends [`NAME`] to `target` and knows nothing else.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, outgoing) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (seen, made, token) = (Arc::clone(&requests), Arc::clone(&outgoing), stop.clone());
        let inner = tasks.clone();
        tasks.spawn(async move {
            while let Some(Ok((client, _))) = token.run_until_cancelled(listener.accept()).await {
                let serving = serve(client, target, Arc::clone(&seen), Arc::clone(&made));
                let token = token.clone();
                inner.spawn(async move { token.run_until_cancelled(serving).await });
            }
        });
        Self {
            address,
            requests,
            outgoing,
            stop,
        }
    }

    /// Its address with the credential, as a proxy variable has it.
    pub(crate) fn variable(&self) -> String {
        format!("http://{USER}:p%40ss%2Fword@{}", self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(
    mut client: TcpStream,
    target: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    outgoing: Arc<Mutex<Vec<SocketAddr>>>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if client.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(head.clone()).unwrap();
    let request = text.lines().next().unwrap().to_owned();
    requests.lock().unwrap().push(request.clone());
    let credential = BASE64.encode(format!("{USER}:{PASSWORD}").as_bytes());
    if !text.contains(&format!("Proxy-Authorization: Basic {credential}\r\n")) {
        let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(answer.as_bytes()).await.ok();
    }
    assert!(request.contains(NAME), "{request}");
    let mut server = TcpStream::connect(target).await.ok()?;
    outgoing.lock().unwrap().push(server.local_addr().unwrap());
    if request.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    } else {
        server.write_all(&head).await.ok()?;
    }
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}
