//! A dashboard for tests, and a browser as far as they need one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::SignedDuration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::*;
use super::{PATIENCE, example_fleet};

/// A fleet that is whatever was put into it.
#[derive(Clone)]
pub(in crate::dashboard) struct FixedFleet(Arc<(Mutex<Vec<DeviceRow>>, watch::Sender<u64>)>);

impl FixedFleet {
    pub(in crate::dashboard) fn new(rows: Vec<DeviceRow>) -> Self {
        Self(Arc::new((Mutex::new(rows), watch::Sender::new(0))))
    }

    pub(in crate::dashboard) fn set(&self, rows: Vec<DeviceRow>) {
        *self.0.0.lock().expect("no panic") = rows;
        self.0.1.send_modify(|count| *count += 1);
    }
}

impl FleetView for FixedFleet {
    fn rows(&self) -> Vec<DeviceRow> {
        self.0.0.lock().expect("no panic").clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.1.subscribe()
    }
}

/// A dashboard on a port of its own, by a clock that moves when told to.
pub(super) struct Site {
    pub(super) address: SocketAddr,
    pub(super) fleet: FixedFleet,
    pub(super) dashboard: Dashboard,
    /// Since the example's moment.
    pub(super) seconds: Arc<AtomicI64>,
    pub(super) server: JoinHandle<()>,
}

impl Site {
    pub(super) async fn start(rows: Vec<DeviceRow>) -> Self {
        Self::start_with(rows, Assets::with_live(b"live")).await
    }

    pub(super) async fn start_with(rows: Vec<DeviceRow>, assets: Assets) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("an address");
        let seconds = Arc::new(AtomicI64::new(0));
        let clock = Arc::clone(&seconds);
        let access = Access::new(Arc::new(move || {
            example_fleet::now() + SignedDuration::from_secs(clock.load(Ordering::Relaxed))
        }));
        let fleet = FixedFleet::new(rows);
        let dashboard = Dashboard::new(
            fleet.clone(),
            access,
            assets,
            address.port(),
            CancellationToken::new(),
        );
        let served = axum::serve(listener, dashboard.clone().router())
            .with_graceful_shutdown(dashboard.shutdown.clone().cancelled_owned());
        let server = tokio::spawn(async move { served.await.expect("a server that ends well") });
        Self {
            address,
            fleet,
            dashboard,
            seconds,
            server,
        }
    }

    /// The path of a fresh one-time link.
    pub(super) fn link(&self) -> String {
        let base = format!("http://{}", self.address);
        let link = self.dashboard.access.create_link(&base);
        link.strip_prefix(&base)
            .expect("a link below the base")
            .to_owned()
    }

    /// Goes in by a fresh link; the cookie as a request gives it back.
    pub(super) async fn enter(&self) -> String {
        let answer = self.get(&self.link(), None).await;
        let cookie = answer.header("set-cookie").expect("a cookie");
        cookie.split(';').next().expect("a pair").to_owned()
    }

    pub(super) fn pass(&self, time: SignedDuration) {
        self.seconds.fetch_add(time.as_secs(), Ordering::Relaxed);
    }

    pub(super) async fn get(&self, path: &str, cookie: Option<&str>) -> Answer {
        let cookie = cookie.map(|cookie| format!("cookie: {cookie}"));
        self.request(
            &format!("GET {path}"),
            &cookie.iter().map(String::as_str).collect::<Vec<_>>(),
        )
        .await
    }

    pub(super) async fn request(&self, line: &str, headers: &[&str]) -> Answer {
        let host = self.address;
        let headers: String = headers.iter().flat_map(|header| [*header, "\r\n"]).collect();
        self.exchange(&format!(
            "{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n"
        ))
        .await
    }

    /// Sends what is given, reads all that comes.
    pub(super) async fn exchange(&self, request: &str) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        Answer::parse(
            &timeout(PATIENCE, exchange)
                .await
                .expect("an answer in time")
                .expect("an answer"),
        )
    }

    pub(super) async fn events(&self, cookie: &str) -> Events {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        let request = format!(
            "GET /events HTTP/1.1\r\nhost: {}\r\ncookie: {cookie}\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut events = Events(BufReader::new(stream));
        let status = events.line().await.expect("a status");
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        let mut typed = false;
        while let Some(line) = events.line().await.filter(|line| !line.is_empty()) {
            typed |= line.eq_ignore_ascii_case("content-type: text/event-stream");
        }
        assert!(typed);
        events
    }
}

/// An answer as it came over the socket.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .expect("a status");
        Self {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// An open stream of events; the frames of the chunked encoding are read over.
pub(super) struct Events(pub(super) BufReader<TcpStream>);

impl Events {
    /// The next list that comes.
    pub(super) async fn list(&mut self) -> String {
        let mut list = String::new();
        loop {
            let line = self.line().await.expect("a stream that goes on");
            if let Some(data) = line.strip_prefix("data: ") {
                list.push_str(data);
                list.push('\n');
            } else if line.is_empty() && list.contains("</div>") {
                return list;
            }
        }
    }

    /// Waits for the stream's end: the connection's, or the empty chunk before its next use.
    pub(super) async fn end(&mut self) {
        while self.line().await.is_some_and(|line| line != "0") {}
    }

    pub(super) async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut line))
            .await
            .expect("a line in time");
        (read.expect("a readable stream") > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }
}
