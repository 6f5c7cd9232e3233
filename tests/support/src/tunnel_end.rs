//! The program `tunnel-end`: one end of a tunnel in the mode that its configuration names.
//!
//! ```json
//! {"mode": "tun", "private_key": "BASE64", "listen": "0.0.0.0:51820", "mtu": 1420,
//!  "addresses": ["10.98.0.1/24", "fd98::1/64"], "device": "odata0",
//!  "peers": [{"public_key": "BASE64", "endpoint": "10.99.0.2:51820", "allowed_ips": ["10.98.0.2/32"], "keepalive": 25}]}
//! ```
//!
//! Modes `smoltcp` and `namespace` have no device of the host and take `"proxy": {"listen": "127.0.0.1:0", "names": {"far.example": {"address":
//! "10.98.0.2", "ports": [5201]}}}`; mode `gateway` takes `"policy": [{"name": "far.example", "address": "10.98.0.2", "ports":
//! {"5201": "127.0.0.1:5201"}}]`.
//!
//! When ready: `{"ready": true, "public_key": "BASE64", "listen": "0.0.0.0:51820", "proxy": null}`, where a proxy is `{"address":
//! "127.0.0.1:4711", "user": "…", "password": "…"}`. An error is one line on standard error and exit code 1.

mod config;
mod gateway;
mod tun;
mod userspace;

use std::io::Write as _;
use std::process::ExitCode;

use orfe_tunnel::TcpStack;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

pub use config::{Config, Mode, Peer};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Runs the program.
pub async fn run() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match end().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tunnel-end: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn end() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let config: Config = serde_json::from_str(&line)?;
    match config.mode {
        Mode::Tun => {
            let end = tun::start(&config)?;
            ready(&config, end.local_addr()?, None)?;
            ended().await?;
            end.stop().await;
        }
        Mode::Smoltcp | Mode::Namespace => {
            let tcp_stack = match config.mode {
                Mode::Namespace => TcpStack::Namespace,
                _ => TcpStack::Smoltcp,
            };
            let end = userspace::start(&config, tcp_stack).await?;
            ready(&config, end.local_addr(), Some(end.describe()))?;
            ended().await?;
            end.stop().await;
        }
        Mode::Gateway => {
            let end = gateway::start(&config)?;
            ready(&config, end.local_addr(), None)?;
            ended().await?;
            end.shutdown().await;
        }
    }
    Ok(())
}

fn ready(config: &Config, listen: std::net::SocketAddr, proxy: Option<serde_json::Value>) -> Result<()> {
    let line = serde_json::json!({
        "ready": true,
        "public_key": config.private_key()?.public_key().to_string(),
        "listen": listen.to_string(),
        "proxy": proxy,
    });
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}

/// Waits until standard input is closed or SIGTERM comes.
async fn ended() -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let (sender, closed) = oneshot::channel();
    // The thread may outlive this function in a read that cannot be interrupted; the process ends with `main`.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = sender.send(());
    });
    tokio::select! {
        _ = terminated.recv() => {}
        _ = closed => {}
    }
    Ok(())
}
