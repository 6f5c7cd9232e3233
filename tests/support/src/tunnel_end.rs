//! The program `tunnel-end`: one end of a tunnel in the mode that its configuration names.
//!
//! ```json
//! {"mode": "tun", "private_key": "BASE64", "listen": "0.0.0.0:51820", "mtu": 1420,
//!  "addresses": ["10.98.0.1/24", "fd98::1/64"], "device": "odata0",
//!  "peers": [{"public_key": "BASE64", "endpoint": "10.99.0.2:51820", "allowed_ips": ["10.98.0.2/32"], "keepalive": 25}]}
//! ```
//!
//! When ready: `{"ready": true, "public_key": "BASE64", "listen": "0.0.0.0:51820"}`, with what the mode adds. An error
//! is one line on standard error and exit code 1.

mod config;
mod tun;

use std::io::Write as _;
use std::process::ExitCode;

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
            ready(&config, end.local_addr()?)?;
            ended().await?;
            end.stop().await;
        }
    }
    Ok(())
}

fn ready(config: &Config, listen: std::net::SocketAddr) -> Result<()> {
    let line = serde_json::json!({
        "ready": true,
        "public_key": config.private_key()?.public_key().to_string(),
        "listen": listen.to_string(),
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
