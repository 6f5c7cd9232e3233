//! The control socket of WireGuard programs (wireguard-go, boringtun-cli): WireGuard's cross-platform userspace protocol.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use orfe_tunnel_core::{PrivateKey, PublicKey};

use crate::wait::wait_for_blocking;

/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the program that owns `device` listens.
pub fn socket(device: &str) -> PathBuf {
    Path::new("/var/run/wireguard").join(format!("{device}.sock"))
}

/// One end, as its program is told.
#[derive(Debug)]
pub struct Interface<'a> {
    /// Its key.
    pub private_key: &'a PrivateKey,
    /// Its UDP port; 0 leaves the choice to the system.
    pub listen_port: u16,
    /// The other end.
    pub peer: PublicKey,
    /// Where that is, if this end is to speak first.
    pub endpoint: Option<SocketAddr>,
    /// What lies behind it.
    pub allowed_ips: &'a [String],
    /// Interval of keepalives in seconds, if any.
    pub keepalive: Option<u16>,
}

/// Tells the program that owns `device` to be this end, as soon as it listens.
pub fn configure(device: &str, interface: &Interface<'_>) -> io::Result<()> {
    let mut request = format!(
        "set=1\nprivate_key={}\nlisten_port={}\nreplace_peers=true\npublic_key={}\n",
        HEXLOWER.encode(interface.private_key.as_bytes()),
        interface.listen_port,
        HEXLOWER.encode(interface.peer.as_bytes()),
    );
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = writeln!(request, "{name}={value}");
    };
    if let Some(endpoint) = interface.endpoint {
        field("endpoint", &endpoint);
    }
    if let Some(keepalive) = interface.keepalive {
        field("persistent_keepalive_interval", &keepalive);
    }
    for network in interface.allowed_ips {
        field("allowed_ip", network);
    }
    let answer = ask(device, &request)?;
    if answer.contains("errno=0") {
        Ok(())
    } else {
        Err(io::Error::other(format!("{device} was not configured: {}", answer.trim())))
    }
}

/// Sends one request, and gives the answer up to its empty line.
fn ask(device: &str, request: &str) -> io::Result<String> {
    let path = socket(device);
    let what = format!("the program that owns {device} to listen");
    let mut stream = wait_for_blocking(&what, PATIENCE, || {
        UnixStream::connect(&path).map_err(|error| format!("{}: {error}", path.display()))
    })
    .map_err(io::Error::other)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    stream.write_all(b"\n")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"\n\n") {
        match stream.read(&mut buffer)? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
