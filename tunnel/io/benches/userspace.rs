//! One TCP connection through the user-space stack: speed, CPU and memory, on a perfect and on a poor path.
//!
//! ```text
//!   cargo bench -p orfe-tunnel --bench userspace -- [up|down|both|idle] [seconds] [streams] [delay-ms] [loss-per-mille] [mbit]
//! ```
//!
//! The gateway is a process of its own (this program again), so that memory and CPU are counted for each end. Bytes are
//! counted where they arrive, between one second after the start and the end. With a delay, a loss or a bottleneck,
//! datagrams go through a relay in the device's process, each way alike; its CPU time is counted there as well.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measuring program"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use orfe_tunnel::{
    AllowedIp, Gateway, GatewayConfig, GatewayPeer, Phase, Policy, PolicyEntry, PolicyPort, PrivateKey,
    PublicKey, TcpStack, Tunnel, TunnelConfig, TunnelPeer, Upstream,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[path = "userspace/relay.rs"]
mod relay;

const CHUNK: usize = 64 << 10;
const DEVICE: &str = "100.64.1.1";
const SERVICE: &str = "100.127.0.1";
const UP: u16 = 1;
const DOWN: u16 = 2;
const IDLE: u16 = 0;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let threads = std::env::var("WORKERS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap();
    if args.first().is_some_and(|arg| arg == "gateway") {
        runtime.block_on(gateway(args[1].parse().unwrap()));
        return;
    }
    let number = |index: usize, default: u64| args.get(index).map_or(default, |arg| arg.parse().unwrap());
    let directions = match args.first().map(String::as_str) {
        Some("up") => vec![UP],
        Some("down") => vec![DOWN],
        Some("idle") => vec![IDLE],
        _ => vec![UP, DOWN],
    };
    let path = relay::Path {
        delay: Duration::from_millis(number(3, 0)),
        loss_per_mille: number(4, 0) as f64,
        mbit: number(5, 0),
    };
    let loss = std::env::var("LOSS").ok().and_then(|loss| loss.parse().ok());
    let path = relay::Path {
        loss_per_mille: loss.unwrap_or(path.loss_per_mille),
        ..path
    };
    for direction in directions {
        runtime.block_on(device(
            direction,
            Duration::from_secs(number(1, 6)),
            number(2, 1),
            path,
        ));
    }
}

/// The gateway's process: prints where it is, then its own figures for each line it is sent.
async fn gateway(peer: PublicKey) {
    let counter = Arc::new(AtomicU64::new(0));
    let (sink, source) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let upstream = |port: u16, listener: &TcpListener| PolicyPort {
        port,
        upstream: Upstream::Address(listener.local_addr().unwrap()),
    };
    let policy = Policy::new([PolicyEntry {
        name: "service".to_owned(),
        address: SERVICE.parse().unwrap(),
        ports: [upstream(UP, &sink), upstream(DOWN, &source)].into(),
    }])
    .unwrap();
    let config = GatewayConfig {
        private_key: PrivateKey::generate(),
        listen: "127.0.0.1:0".parse().unwrap(),
        addresses: vec!["100.64.0.1".parse().unwrap()],
        mtu: mtu(),
    };
    let gateway = Gateway::start(config, policy).unwrap();
    gateway.set_peers(vec![GatewayPeer {
        public_key: peer,
        preshared_key: None,
        allowed_ips: vec![AllowedIp::host(DEVICE.parse().unwrap())],
        name: "device".to_owned(),
    }]);
    let received = Arc::clone(&counter);
    tokio::spawn(async move {
        while let Ok((stream, _)) = sink.accept().await {
            tokio::spawn(drain(stream, Arc::clone(&received)));
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = source.accept().await {
            tokio::spawn(fill(stream));
        }
    });
    let mut out = std::io::stdout();
    writeln!(out, "{} {}", gateway.local_addr(), gateway.public_key()).unwrap();
    tokio::task::spawn_blocking(move || {
        let mut lines = std::io::stdin().lines();
        while let Some(Ok(_)) = lines.next() {
            let bytes = counter.load(Ordering::Relaxed);
            println!("{bytes} {} {}", cpu_ms(), rss_kib("VmHWM"));
        }
    })
    .await
    .unwrap();
    gateway.shutdown().await;
}

async fn device(direction: u16, span: Duration, streams: u64, path: relay::Path) {
    let key = PrivateKey::generate();
    let mut far = Far::start(&key.public_key());
    let endpoint = relay::start(far.address, path);
    let config = TunnelConfig {
        private_key: key,
        addresses: vec![DEVICE.parse().unwrap()],
        peer: TunnelPeer {
            public_key: far.public_key,
            preshared_key: None,
            endpoint: Some(endpoint),
            allowed_ips: vec!["100.127.0.0/16".parse().unwrap()],
            keepalive: Some(Duration::from_secs(25)),
        },
        mtu: mtu(),
        bind: "127.0.0.1:0".parse().unwrap(),
        tcp_stack: TcpStack::Smoltcp,
        helper: TunnelConfig::this_program(),
    };
    let tunnel = Tunnel::start(config).unwrap();
    let mut status = tunnel.status();
    status.wait_for(|status| status.phase == Phase::Up).await.unwrap();
    if direction == IDLE {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = wake_ups();
        tokio::time::sleep(span).await;
        let each_second = (wake_ups() - before) as f64 / span.as_secs_f64();
        println!("idle: the tunnel's thread wakes {each_second:.2} times a second");
        tunnel.shutdown().await;
        far.stop();
        return;
    }
    let received = Arc::new(AtomicU64::new(0));
    for _ in 0..streams {
        let destination = SocketAddr::new(SERVICE.parse().unwrap(), direction);
        let stream = tunnel.dialer().connect(destination).await.unwrap();
        if direction == UP {
            tokio::spawn(fill(stream));
        } else {
            tokio::spawn(drain(stream, Arc::clone(&received)));
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (near, away, started) = (cpu_ms(), far.figures(), Instant::now());
    let before = received.load(Ordering::Relaxed);
    tokio::time::sleep(span).await;
    let elapsed = started.elapsed().as_secs_f64();
    let (near_after, away_after) = (cpu_ms(), far.figures());
    let bytes = if direction == UP {
        away_after[0] - away[0]
    } else {
        received.load(Ordering::Relaxed) - before
    };
    let gigabytes = bytes as f64 / 1e9;
    println!(
        "{} {streams} stream(s): {:.3} Gbit/s; CPU-s/GB device {:.2} gateway {:.2}; peak RSS MiB device {:.1} gateway {:.1}",
        if direction == UP { "up  " } else { "down" },
        bytes as f64 * 8.0 / elapsed / 1e9,
        (near_after - near) as f64 / 1e3 / gigabytes,
        (away_after[1] - away[1]) as f64 / 1e3 / gigabytes,
        rss_kib("VmHWM") as f64 / 1024.0,
        away_after[2] as f64 / 1024.0,
    );
    tunnel.shutdown().await;
    far.stop();
}

/// The gateway's process, as the device's sees it.
struct Far {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    address: SocketAddr,
    public_key: PublicKey,
}

impl Far {
    fn start(device: &PublicKey) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["gateway", &device.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let (address, public_key) = line.trim().split_once(' ').unwrap();
        Self {
            address: address.parse().unwrap(),
            public_key: public_key.parse().unwrap(),
            child,
            lines,
        }
    }

    /// Bytes received, CPU in milliseconds, peak memory in KiB.
    fn figures(&mut self) -> [u64; 3] {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap());
        std::array::from_fn(|_| numbers.next().unwrap())
    }

    fn stop(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

async fn fill(mut stream: impl tokio::io::AsyncWrite + Unpin) {
    let bytes = vec![0x5a; CHUNK];
    while stream.write_all(&bytes).await.is_ok() {}
}

async fn drain(mut stream: impl tokio::io::AsyncRead + Unpin, counter: Arc<AtomicU64>) {
    let mut bytes = vec![0; CHUNK];
    while let Ok(len @ 1..) = stream.read(&mut bytes).await {
        counter.fetch_add(len as u64, Ordering::Relaxed);
    }
}

fn mtu() -> usize {
    std::env::var("MTU")
        .ok()
        .and_then(|mtu| mtu.parse().ok())
        .unwrap_or(1420)
}

/// User and system time of this process in milliseconds (Linux; zero elsewhere).
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    // USER_HZ is 100 on every Linux that this runs on.
    ticks * 10
}

/// Times that the tunnel's thread went to sleep (Linux; zero elsewhere).
fn wake_ups() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
        .filter(|status| status.starts_with("Name:\torfe-tunnel\n"))
        .filter_map(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        })
        .sum()
}

fn rss_kib(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix(what))
        .and_then(|rest| rest.split_whitespace().nth(1))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
