//! systemd-resolved for a device in a network of its own, with a system bus of its own.
//!
//! Both run in a mount namespace with an empty `/run`, so that the machine's own resolver and bus, if it has any, see
//! nothing of them; `/etc/resolv.conf` is never touched. resolved's servers for everything are one [`NameServer`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use orfe_test_support::process::ProcessGuard;
use orfe_test_support::wait::wait_for_blocking;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use crate::fleet::PATIENCE;
use crate::lab::Lab;
use crate::programs;

/// What keeps no user of its own needs of root's rights: the port 53 of its stub, and to give up the rest.
const RIGHTS: &str = "+net_bind_service,+net_raw,+setpcap";
const NOBODY: &str = "65534";

/// Any program may do anything on this bus: all of them are the test's.
const BUS: &str = "<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>\
    <auth>EXTERNAL</auth><policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/>\
    <allow send_destination=\"*\"/><allow receive_sender=\"*\"/></policy></busconfig>";

/// See the module.
pub(crate) struct Resolved {
    resolved: ProcessGuard,
    bus: ProcessGuard,
}

/// The programs, from the system or from `target/tools/debian`, where a package may have been unpacked.
pub(crate) struct Programs {
    bus: PathBuf,
    resolved: PathBuf,
    pub(crate) resolvectl: PathBuf,
}

/// Where the library of the unpacked programs is, if it was unpacked with them.
pub(crate) fn library_path() -> String {
    let root = programs::target_folder().join("tools/debian");
    let folders = ["usr/lib", "lib"].map(|lib| {
        let folder = format!("{lib}/{}-linux-gnu/systemd", std::env::consts::ARCH);
        root.join(folder).display().to_string()
    });
    folders.join(":")
}

impl Programs {
    /// Or what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        if !Path::new("/etc/systemd").is_dir() {
            return Err("no /etc/systemd (Debian package systemd)".to_owned());
        }
        let found = |package: &str, candidates: &[&str]| {
            let roots = [PathBuf::from("/"), programs::target_folder().join("tools/debian")];
            let mut paths = roots
                .iter()
                .flat_map(|root| candidates.iter().map(move |candidate| root.join(candidate)));
            paths
                .find(|path| path.is_file())
                .ok_or_else(|| format!("no {} (Debian package {package})", candidates[0]))
        };
        let resolved = ["lib/systemd/systemd-resolved", "usr/lib/systemd/systemd-resolved"];
        let programs = Self {
            bus: found("dbus-daemon", &["usr/bin/dbus-daemon"])?,
            resolved: found("systemd-resolved", &resolved)?,
            resolvectl: found("systemd-resolved", &["usr/bin/resolvectl"])?,
        };
        let runs = Command::new(&programs.resolved)
            .arg("--version")
            .env("LD_LIBRARY_PATH", library_path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match runs {
            Ok(status) if status.success() => Ok(programs),
            _ => Err("systemd-resolved does not run here (Debian package libsystemd-shared)".to_owned()),
        }
    }
}

impl Resolved {
    /// Starts both beside the device of `lab`, whose programs see them from then on.
    pub(crate) fn start(programs: &Programs, lab: &mut Lab, folder: &Path) -> Self {
        let etc = folder.join("etc-systemd");
        std::fs::create_dir(&etc).unwrap();
        let config = format!(
            "[Resolve]\nDNS={}\nFallbackDNS=\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\n",
            lab.host
        );
        std::fs::write(etc.join("resolved.conf"), config).unwrap();
        std::fs::write(folder.join("bus.conf"), BUS).unwrap();
        let script = "set -e\nmount --bind \"$1/etc-systemd\" /etc/systemd\nmount -t tmpfs none /run\n\
             mkdir -p /run/dbus /run/systemd/resolve\nchown 65534:65534 /run/systemd/resolve\n\
             exec \"$2\" --config-file=\"$1/bus.conf\" --nofork --nopidfile\n";
        let mut bus = lab.command();
        bus.args([
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(folder)
        .arg(&programs.bus);
        let bus = ProcessGuard::spawn(&mut bus, folder, "bus").unwrap();
        lab.beside = Some(bus.pid());
        let inside = |test: &str| {
            // Before its own namespace is made, the shell is in the machine's.
            let socket = format!("[ -d /run/systemd/resolve ] && {test}");
            let status = lab
                .command()
                .args(["sh", "-c", &socket])
                .env("LD_LIBRARY_PATH", library_path())
                .stderr(Stdio::null())
                .status();
            status.is_ok_and(|status| status.success())
        };
        let wait = |what: &str, test: &str, said: &dyn Fn() -> String| {
            wait_for_blocking(what, PATIENCE, || inside(test).then_some(()).ok_or_else(said)).unwrap();
        };
        let own = "[ ! -d /run/netns ] && [ -S /run/dbus/system_bus_socket ]";
        wait("the system bus", own, &|| bus.stderr_lines().join("\n"));
        let mut resolved = lab.command();
        resolved
            .args(["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
            .args(["--inh-caps", RIGHTS, "--ambient-caps", RIGHTS])
            .arg(&programs.resolved)
            .env("LD_LIBRARY_PATH", library_path());
        let resolved = ProcessGuard::spawn(&mut resolved, folder, "resolved").unwrap();
        let answers = format!("\"{}\" dns >/dev/null", programs.resolvectl.display());
        wait("systemd-resolved", &answers, &|| {
            resolved.stderr_lines().join("\n")
        });
        Self { resolved, bus }
    }

    /// What both said.
    pub(crate) fn logs(&self) -> String {
        [self.bus.stderr_lines(), self.resolved.stderr_lines()]
            .concat()
            .join("\n")
    }
}

/// A name server: it gives every name the same IPv4 address, and remembers who was asked for.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl NameServer {
    /// The address of every name of the outside; documentation prefix (RFC 5737).
    pub(crate) const ANSWER: [u8; 4] = [192, 0, 2, 7];

    pub(crate) async fn start(at: SocketAddr, everything: [u8; 4]) -> Self {
        let socket = UdpSocket::bind(at).await.unwrap();
        let address = socket.local_addr().unwrap();
        // Whoever is asked over TCP asks further over TCP.
        let listener = TcpListener::bind(address).await.unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                tokio::select! {
                    Ok((len, from)) = socket.recv_from(&mut buffer) => {
                        if let Some((name, answer)) = answer(&buffer[..len], everything) {
                            seen.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                            let _ = socket.send_to(&answer, from).await;
                        }
                    }
                    Ok((mut stream, _)) = listener.accept() => {
                        if let Some(name) = answer_one(&mut stream, everything).await {
                            seen.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                        }
                    }
                }
            }
        });
        Self {
            address,
            asked,
            serving,
        }
    }

    /// The names so far, in small letters.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Answers one question over TCP (RFC 1035 §4.2.2); the name that it was about.
async fn answer_one(stream: &mut TcpStream, everything: [u8; 4]) -> Option<String> {
    let mut query = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut query).await.ok()?;
    let (name, answer) = answer(&query, everything)?;
    let length = u16::try_from(answer.len()).ok()?;
    let framed = [&length.to_be_bytes()[..], &answer].concat();
    stream.write_all(&framed).await.ok()?;
    Some(name)
}

/// The name that a query asks for, and the answer (RFC 1035 §4): an address to a question for one, else none.
fn answer(query: &[u8], everything: [u8; 4]) -> Option<(String, Vec<u8>)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).to_ascii_lowercase());
        at += len;
    }
    let question = query.get(12..at + 4)?;
    let is_a = query.get(at..at + 2)? == [0, 1];
    // The id, "an answer, recursion was wanted and is available", and the counts.
    let mut answer = [
        &query[..2],
        &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0],
        question,
    ]
    .concat();
    if is_a {
        // The name stands at byte 12; type A, class IN, a second to live, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(everything);
    }
    Some((labels.join("."), answer))
}
