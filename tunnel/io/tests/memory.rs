//! What the two ends of a tunnel take under load, counted for the process: hence a program of its own, and one after the other.
//!
//! Both ends are in here with the servers and clients, so what is counted is what all of them take together.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

use std::net::SocketAddr;
use std::time::Duration;

use orfe_tunnel::{
    AllowedIp, Gateway, GatewayConfig, GatewayPeer, Phase, Policy, PolicyEntry, PolicyPort, PrivateKey,
    TcpStack, Tunnel, TunnelConfig, TunnelPeer, Upstream,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What all may take while a client never reads, in KiB. This bound and the others are about twice the most that was measured
/// without optimisation: what is allowed beyond that hides the day on which a buffer grows.
const NEVER_READS: u64 = 2 << 10;
/// While one uploads, in KiB.
const UPLOADS: u64 = 14 << 10;
/// With a thousand connections and their clients and servers, in KiB.
const MANY: u64 = 84 << 10;
/// Bytes that the connections of a device may hold, and those that each may hold beyond it so that it goes on.
const HELD: usize = (16 << 20) + CONNECTIONS * (16 << 10);
/// Connections at once.
const CONNECTIONS: usize = 1000;
const DEVICES: u8 = 1;
/// Bytes of the long upload. Enough to go round every buffer many times.
const UPLOAD: usize = 256 << 20;
const SERVICE: &str = "100.127.0.1";

fn main() {
    if resident().is_none() {
        println!("SKIPPED: this system has no /proc/self/status to read the memory in use from");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let far = Far::start().await;
        let before = resident().unwrap();
        report(
            "a client that never reads",
            NEVER_READS,
            before,
            far.never_reads().await,
        );
        report("a long upload", UPLOADS, before, far.uploads().await);
        report("1000 connections", MANY, before, far.many().await);
        far.shutdown().await;
    });
}

fn report(what: &str, bound: u64, before: u64, during: u64) {
    let taken = during.saturating_sub(before);
    println!("{what}: {taken} KiB more than the {before} KiB at rest; {bound} are allowed");
    assert!(taken <= bound, "{what}: {taken} KiB");
}

/// Resident memory of this process in KiB.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

struct Far {
    gateway: Gateway,
    tunnels: Vec<Tunnel>,
}

const ECHO: u16 = 1;
const SINK: u16 = 2;
const SOURCE: u16 = 3;

impl Far {
    async fn start() -> Self {
        let mut ports = Vec::new();
        for port in [ECHO, SINK, SOURCE] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ports.push(PolicyPort {
                port,
                upstream: Upstream::Address(listener.local_addr().unwrap()),
            });
            tokio::spawn(serve(listener, port));
        }
        let policy = Policy::new([PolicyEntry {
            name: "service".to_owned(),
            address: SERVICE.parse().unwrap(),
            ports,
        }])
        .unwrap();
        let config = GatewayConfig {
            private_key: PrivateKey::generate(),
            listen: "127.0.0.1:0".parse().unwrap(),
            addresses: vec!["100.64.0.1".parse().unwrap()],
            mtu: 1280,
        };
        let gateway = Gateway::start(config, policy).unwrap();
        let keys: Vec<PrivateKey> = (0..DEVICES).map(|_| PrivateKey::generate()).collect();
        let address = |number: usize| format!("100.64.1.{}", number + 1).parse().unwrap();
        let peers = keys.iter().enumerate().map(|(number, key)| GatewayPeer {
            public_key: key.public_key(),
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(address(number))],
            name: format!("device-{number}"),
        });
        gateway.set_peers(peers.collect());
        let mut tunnels = Vec::new();
        for (number, key) in keys.into_iter().enumerate() {
            let tunnel = Tunnel::start(TunnelConfig {
                private_key: key,
                addresses: vec![address(number)],
                peer: TunnelPeer {
                    public_key: gateway.public_key(),
                    preshared_key: None,
                    endpoint: Some(gateway.local_addr()),
                    allowed_ips: vec!["100.127.0.0/16".parse().unwrap()],
                    keepalive: Some(Duration::from_secs(25)),
                },
                mtu: 1280,
                bind: "127.0.0.1:0".parse().unwrap(),
                tcp_stack: TcpStack::Smoltcp,
                helper: TunnelConfig::this_program(),
            })
            .unwrap();
            let mut status = tunnel.status();
            status.wait_for(|status| status.phase == Phase::Up).await.unwrap();
            tunnels.push(tunnel);
        }
        Self { gateway, tunnels }
    }

    async fn connect(&self, device: usize, port: u16) -> orfe_tunnel::dial::BoxedStream {
        let destination = SocketAddr::new(SERVICE.parse().unwrap(), port);
        self.tunnels[device].dialer().connect(destination).await.unwrap()
    }

    /// A download that nobody reads comes to rest; what it holds then stays.
    async fn never_reads(&self) -> u64 {
        let stream = self.connect(0, SOURCE).await;
        let mut status = self.tunnels[0].status();
        let mut held = 0;
        loop {
            let changed = tokio::time::timeout(Duration::from_secs(2), status.changed()).await;
            let now = status.borrow_and_update().buffered_bytes;
            if changed.is_err() && now == held {
                break;
            }
            held = now;
        }
        assert!(held > 0, "something was sent");
        let during = resident().unwrap();
        drop(stream);
        during
    }

    async fn uploads(&self) -> u64 {
        let mut stream = self.connect(0, SINK).await;
        let (chunk, mut sent, mut most) = (vec![0x5a; 64 << 10], 0, 0);
        while sent < UPLOAD {
            stream.write_all(&chunk).await.unwrap();
            sent += chunk.len();
            most = most.max(resident().unwrap());
        }
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, UPLOAD.to_string().as_bytes(), "all of it arrived");
        most
    }

    /// All are open at once, and all move some data.
    async fn many(&self) -> u64 {
        let mut streams = Vec::new();
        for number in 0..CONNECTIONS {
            streams.push(self.connect(number % usize::from(DEVICES), ECHO).await);
        }
        let mut exchanges = JoinSet::new();
        for mut stream in streams {
            exchanges.spawn(async move {
                stream.write_all(&[7; 4000]).await.unwrap();
                for _ in 0..1000 {
                    stream.read_exact(&mut [0; 4]).await.unwrap();
                }
                stream
            });
        }
        let streams = exchanges.join_all().await;
        assert_eq!(streams.len(), CONNECTIONS);
        let held = self.tunnels[0].status().borrow().buffered_bytes;
        assert!(held <= HELD, "{held} bytes are held");
        resident().unwrap()
    }

    async fn shutdown(self) {
        for tunnel in self.tunnels {
            tunnel.shutdown().await;
        }
        self.gateway.shutdown().await;
    }
}

async fn serve(listener: TcpListener, port: u16) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut buffer = vec![0; if port == ECHO { 2 << 10 } else { 64 << 10 }];
            let mut received = 0;
            if port == SOURCE {
                while stream.write_all(&buffer).await.is_ok() {}
                return;
            }
            while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                received += len;
                if port == ECHO && stream.write_all(&buffer[..len]).await.is_err() {
                    return;
                }
            }
            if port == SINK {
                // The client may be gone; then the test has failed elsewhere.
                let _ = stream.write_all(received.to_string().as_bytes()).await;
            }
        });
    }
}
