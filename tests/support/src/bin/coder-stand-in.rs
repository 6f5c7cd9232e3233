//! `coder-stand-in serve`: the stand-in for Coder's server as a program of its own. For tests and the demo.
//!
//! Secrets come by file, never by argument. One JSON line on stdout says when it is ready and where; TERM and INT end it.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use orfe_test_support::scale::TimeScale;
use orfe_test_support::standin::server::{
    Config, Fault, KeySpec, StandIn, StartError, Tags, TlsError, TlsIdentity,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for Coder's server, for tests and the demo. It runs no workspaces.
#[derive(Parser)]
#[command(name = "coder-stand-in")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until TERM or INT
    Serve(Serve),
}

#[derive(Args)]
struct Serve {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Certificate chain, PEM
    #[arg(long, requires = "tls_key", conflicts_with = "tls_self")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Make a CA (`ca.pem`) and a certificate for --name in this folder
    #[arg(long, value_name = "FOLDER")]
    tls_self: Option<PathBuf>,
    /// The name that the made certificate is for
    #[arg(long, default_value = "localhost")]
    name: String,
    /// File with the pre-shared key
    #[arg(long, value_name = "FILE")]
    psk_file: Option<PathBuf>,
    /// File with provisioner keys, one `secret:name[:tag=value,…]` on each line
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// File with the owner's session token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Whether the licence allows external provisioners
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    licensed: bool,
    /// Misbehave: answer-200, -400, -401, -403, -404, -429 or -502, never-answer, close-after-accept
    #[arg(long)]
    fault: Option<Fault>,
    /// What `buildinfo` gives as the dashboard's address
    #[arg(long, value_name = "URL")]
    access_url: Option<String>,
    /// Append each connection and request to this file, a line of JSON each
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Factor for keepalive and offline times
    #[arg(long, env = orfe_test_support::scale::TIME_SCALE, default_value = "1")]
    time_scale: TimeScale,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}, line {line}: not `secret:name[:tag=value,…]` with a secret of 43 characters", path.display())]
    KeyLine { path: PathBuf, line: usize },
    #[error("cannot make or read the certificate")]
    Tls(#[source] TlsError),
    #[error("cannot start")]
    Start(#[source] StartError),
    #[error("cannot talk to the operating system")]
    System(#[source] io::Error),
}

fn main() -> ExitCode {
    let Command::Serve(arguments) = Cli::parse().command;
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut text = format!("error: {failure}");
            let mut cause = std::error::Error::source(&failure);
            while let Some(error) = cause {
                text.push_str(": ");
                text.push_str(&error.to_string());
                cause = error.source();
            }
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Serve) -> Result<(), Failure> {
    let ca = arguments.tls_self.as_ref().map(|folder| folder.join("ca.pem"));
    let config = config(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::System)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::System)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::System)?;
        let stand_in = StandIn::start(config).await.map_err(Failure::Start)?;
        let ready = json!({
            "listening": stand_in.address().to_string(),
            "url": stand_in.url(),
            "ca": ca,
            "stand_in": "coder",
        });
        writeln!(io::stdout(), "{ready}").map_err(Failure::System)?;
        let notice = "This is a stand-in for Coder, for tests and the demo only.";
        writeln!(io::stderr(), "{notice}").map_err(Failure::System)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stand_in.shutdown().await;
        Ok(())
    })
}

fn config(arguments: Serve) -> Result<Config, Failure> {
    let tls = match (&arguments.tls_cert, &arguments.tls_key, &arguments.tls_self) {
        (Some(certificate), Some(key), _) => Some(TlsIdentity::read(certificate, key).map_err(Failure::Tls)?),
        (_, _, Some(folder)) => Some(TlsIdentity::make(folder, &arguments.name).map_err(Failure::Tls)?),
        _ => None,
    };
    let secret = |file: Option<PathBuf>| file.map(|file| read(&file)).transpose();
    Ok(Config {
        listen: arguments.listen,
        tls,
        psk: secret(arguments.psk_file)?,
        keys: arguments
            .key_file
            .map(|file| read_keys(&file))
            .transpose()?
            .unwrap_or_default(),
        session_token: secret(arguments.token_file)?,
        member_token: None,
        licensed: arguments.licensed,
        fault: arguments.fault,
        access_url: arguments.access_url,
        record: arguments.record,
        time_scale: arguments.time_scale,
    })
}

fn read(file: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(file).map_err(|source| Failure::Read {
        path: file.to_owned(),
        source,
    })?;
    Ok(text.trim().to_owned())
}

fn read_keys(file: &Path) -> Result<Vec<KeySpec>, Failure> {
    let text = read(file)?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let path = file.to_owned();
            key_line(line.trim()).ok_or(Failure::KeyLine {
                path,
                line: number + 1,
            })
        })
        .collect()
}

fn key_line(line: &str) -> Option<KeySpec> {
    let mut parts = line.splitn(3, ':');
    let secret = parts.next().filter(|secret| secret.len() == 43)?;
    let name = parts.next().filter(|name| !name.is_empty())?;
    let pairs = parts
        .next()
        .unwrap_or_default()
        .split(',')
        .filter(|pair| !pair.is_empty());
    let tags: Option<Tags> = pairs
        .map(|pair| {
            pair.split_once('=')
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
        })
        .collect();
    Some(KeySpec {
        secret: secret.to_owned(),
        name: name.to_owned(),
        tags: tags?,
    })
}
