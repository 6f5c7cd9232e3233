//! The program `tunnel-end`: one end of a tunnel in the mode that its configuration names.
//!
//! ```json
//! {"mode": "tun", "private_key": "BASE64", "listen": "0.0.0.0:51820", "mtu": 1420,
//!  "addresses": ["10.98.0.1/24", "fd98::1/64"], "device": "odata0",
//!  "peers": [{"public_key": "BASE64", "endpoint": "10.99.0.2:51820", "allowed_ips": ["10.98.0.2/32"], "keepalive": 25}]}
//! ```
//!
//! Mode `userspace` has no device of the host and takes `"proxy": {"listen": "127.0.0.1:0", "names": {"far.example": {"address":
//! "10.98.0.2", "ports": [5201]}}}`; mode `gateway` takes `"policy": [{"name": "far.example", "address": "10.98.0.2", "ports":
//! {"5201": "127.0.0.1:5201"}}]`. Both have the TCP stack that `"tcp_stack"` names: `auto` unless it is `namespace` or `smoltcp`.
//!
//! When ready: `{"ready": true, "public_key": "BASE64", "listen": "0.0.0.0:51820", "proxy": null, "tcp": null}`. A proxy is `{"address":
//! "127.0.0.1:4711", "user": "…", "password": "…"}`; `tcp` is what the end got, where that is not the host's: `{"stack": "namespace",
//! "reason": "…", "congestion_control": "bbr"}`. An error is one line on standard error and exit code 1.

mod config;
mod gateway;
mod tun;
mod userspace;

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

pub use config::{Config, Host, Mode, Peer};

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
            let causes = std::iter::successors(error.source(), |error| error.source());
            let words: Vec<String> = [error.to_string()]
                .into_iter()
                .chain(causes.map(ToString::to_string))
                .collect();
            let _ = writeln!(std::io::stderr(), "tunnel-end: {}", words.join(": "));
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
            ready(&config, end.local_addr()?, &Value::Null, &Value::Null)?;
            ended().await?;
            end.stop().await;
        }
        Mode::Userspace => {
            let end = userspace::start(&config).await?;
            ready(&config, end.local_addr(), &end.proxy(), &end.tcp())?;
            ended().await?;
            end.stop().await;
        }
        Mode::Gateway => {
            let end = gateway::start(&config)?;
            let stack = end.view().tcp_stack();
            let tcp = tcp(stack.name, &stack.reason, stack.congestion_control.as_deref());
            ready(&config, end.local_addr(), &Value::Null, &tcp)?;
            ended().await?;
            end.shutdown().await;
        }
    }
    Ok(())
}

fn ready(config: &Config, listen: std::net::SocketAddr, proxy: &Value, tcp: &Value) -> Result<()> {
    let line = json!({
        "ready": true,
        "public_key": config.private_key()?.public_key().to_string(),
        "listen": listen.to_string(),
        "proxy": proxy,
        "tcp": tcp,
    });
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}

/// Which TCP an end got, and why.
fn tcp(stack: &str, reason: &str, congestion_control: Option<&str>) -> Value {
    json!({ "stack": stack, "reason": reason, "congestion_control": congestion_control })
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
