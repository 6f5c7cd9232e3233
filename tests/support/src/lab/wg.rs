//! The control socket of WireGuard programs (wireguard-go, boringtun-cli): WireGuard's cross-platform userspace protocol.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
        Err(io::Error::other(format!(
            "{device} was not configured: {}",
            answer.trim()
        )))
    }
}

/// What `wg show DEVICE dump` says of the one peer of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownPeer {
    /// Its key.
    pub public_key: String,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// What it may use.
    pub allowed_ips: String,
    /// When the latest handshake was, in seconds since 1970; 0 for never.
    pub latest_handshake: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Bytes sent to it.
    pub sent: u64,
    /// Interval of keepalives in seconds, if any.
    pub keepalive: Option<u16>,
}

/// Asks the real `wg` (of wireguard-tools) about `device`.
pub fn show(wg: &Path, device: &str) -> io::Result<ShownPeer> {
    let output = Command::new(wg)
        .args(["show", device, "dump"])
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(message));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    parse_dump(&text).ok_or_else(|| io::Error::other(format!("an odd dump: {text}")))
}

/// The first peer, in the second line; the first line is the device's own, with its secret key.
fn parse_dump(text: &str) -> Option<ShownPeer> {
    let columns: Vec<&str> = text.lines().nth(1)?.split('\t').collect();
    let [
        public_key,
        _,
        endpoint,
        allowed_ips,
        handshake,
        received,
        sent,
        keepalive,
    ] = columns[..]
    else {
        return None;
    };
    Some(ShownPeer {
        public_key: public_key.to_owned(),
        endpoint: endpoint.parse().ok(),
        allowed_ips: allowed_ips.to_owned(),
        latest_handshake: handshake.parse().ok()?,
        received: received.parse().ok()?,
        sent: sent.parse().ok()?,
        keepalive: keepalive.parse().ok(),
    })
}

/// wireguard-go: the one on the PATH, or the newest, which `go install` builds into `folder` and keeps there. Why there
/// is none, otherwise.
pub fn wireguard_go(folder: &Path) -> Result<PathBuf, String> {
    let runs = |program: &Path| {
        let status = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    let on_path = PathBuf::from("wireguard-go");
    if runs(&on_path) {
        return Ok(on_path);
    }
    let program = folder.join("wireguard");
    let said = |error: io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(said)?;
    // Another test may be building it; a binary that is half written cannot be run.
    let lock = File::create(folder.join("lock")).map_err(said)?;
    lock.lock().map_err(said)?;
    if !runs(&program) {
        let install = Command::new("go")
            .args(["install", "golang.zx2c4.com/wireguard@latest"])
            .env("GOBIN", folder)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("neither wireguard-go nor go can be run: {error}"))?;
        if !install.status.success() {
            let message = String::from_utf8_lossy(&install.stderr).into_owned();
            return Err(format!("wireguard-go could not be built: {message}"));
        }
    }
    Ok(program)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_read() {
        let dump = "cHJpdmF0ZQ==\tcHVibGlj\t51820\toff\n\
                    cGVlcg==\t(none)\t198.18.0.1:4711\t10.98.0.1/32\t1763700000\t1234\t5678\toff\n";
        let expected = ShownPeer {
            public_key: "cGVlcg==".to_owned(),
            endpoint: Some("198.18.0.1:4711".parse().unwrap()),
            allowed_ips: "10.98.0.1/32".to_owned(),
            latest_handshake: 1_763_700_000,
            received: 1234,
            sent: 5678,
            keepalive: None,
        };
        assert_eq!(parse_dump(dump), Some(expected));
        assert_eq!(parse_dump("cHJpdmF0ZQ==\tcHVibGlj\t51820\toff\n"), None);
    }
}
