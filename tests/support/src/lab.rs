//! Two network namespaces with a wire between them: the machines of a tunnel's two ends.
//!
//! ```text
//!   near  198.18.0.1 ──── veth ──── 198.18.0.2  far
//! ```
//!
//! Nothing of it is in the machine's own network, and labs do not meet: each has a number, and names and tunnel devices by
//! it. Programs are started inside by [`Lab::command`]; they die with the thread that started them. What a lab made
//! goes when it is dropped; what a killed run left, when the next lab is made.
//!
//! Needs root, `ip`, `setpriv` and `/dev/net/tun`; [`obstacle`] says which of them is missing.

pub mod ends;
pub mod program;
pub mod wg;

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::wait::{TimedOut, wait_for};

/// Where locks on numbers of labs are kept. Namespaces belong to the whole machine, and so does this.
const LOCKS: &str = "/run/orfe-lab";
/// Labs of one prefix at once.
const MAX_LABS: u8 = 32;
/// How long a server may take to listen.
const LISTENER_PATIENCE: Duration = Duration::from_secs(10);
/// An ordinary user that owns nothing: `nobody`, `nogroup`.
const ORDINARY: &str = "65534";
/// Gives who comes after it `/dev/net/tun` with the mode that udev gives it: machines without udev have it for root alone. Only
/// the program sees it, because `ip netns exec` makes a mount namespace for each.
const WITH_TUN: &str =
    "mount -t tmpfs -o mode=755 tun /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec \"$@\"";

/// One of the two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The device's.
    Near,
    /// The gateway's.
    Far,
}

impl Side {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Near, Self::Far];

    fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
        }
    }

    /// Its address on the wire, out of the networks set aside for tests of network devices (RFC 2544).
    pub const fn wire(self) -> IpAddr {
        IpAddr::V4(match self {
            Self::Near => Ipv4Addr::new(198, 18, 0, 1),
            Self::Far => Ipv4Addr::new(198, 18, 0, 2),
        })
    }

    /// Its address on the wire, IPv6 (documentation prefix, RFC 3849).
    pub const fn wire_v6(self) -> &'static str {
        match self {
            Self::Near => "2001:db8:18::1",
            Self::Far => "2001:db8:18::2",
        }
    }
}

/// Who a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// With every right.
    Root,
    /// With none: `nobody`, without groups.
    Ordinary,
}

/// A lab could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A lock could not be made.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// All numbers are taken.
    #[error("all {MAX_LABS} labs are in use; hint: see which processes hold the locks in {LOCKS}")]
    Full,
    /// A command could not be started.
    #[error("cannot run {command}")]
    Start {
        /// The command line.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A command failed.
    #[error("{command} failed: {message}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        message: String,
    },
}

/// Why no lab can be made here, if so.
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root (network namespaces are made)".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("no /dev/net/tun".to_owned());
    }
    for (program, package) in [("ip", "iproute2"), ("setpriv", "util-linux")] {
        let runs = Command::new(program)
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !runs.is_ok_and(|status| status.success()) {
            return Some(format!("no `{program}` (Debian package {package})"));
        }
    }
    None
}

/// Two namespaces and the wire; see the module.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    number: u8,
    /// Held while the lab is in use; the system lets go of it however the process ends.
    _lock: File,
}

impl Lab {
    /// A lab with the lowest free number under `prefix` (at most 8 letters). Clears what killed runs left under numbers that
    /// nobody uses.
    pub fn new(prefix: &str) -> Result<Self, LabError> {
        let lab = Self::claim(prefix)?;
        for side in Side::BOTH {
            run(ip().args(["netns", "add", &lab.namespace(side)]))?;
        }
        let (near, far) = (lab.namespace(Side::Near), lab.namespace(Side::Far));
        run(ip()
            .args(["link", "add", "wire", "netns", &near, "type", "veth"])
            .args(["peer", "name", "wire", "netns", &far]))?;
        for side in Side::BOTH {
            lab.ip(side, &format!("address add {}/24 dev wire", side.wire()))?;
            lab.ip(side, &format!("address add {}/64 dev wire nodad", side.wire_v6()))?;
            lab.ip(side, "link set wire up")?;
            lab.ip(side, "link set lo up")?;
        }
        Ok(lab)
    }

    fn claim(prefix: &str) -> Result<Self, LabError> {
        let locks = Path::new(LOCKS);
        fs::create_dir_all(locks).map_err(|source| LabError::Lock {
            path: locks.to_owned(),
            source,
        })?;
        let mut own = None;
        for number in 0..MAX_LABS {
            let path = locks.join(format!("{prefix}-{number}"));
            // Above the first free number only those are of interest that were used once.
            if own.is_some() && !path.exists() {
                continue;
            }
            let lock = File::create(&path).map_err(|source| LabError::Lock {
                path: path.clone(),
                source,
            })?;
            match lock.try_lock() {
                Ok(()) => {
                    let lab = Self {
                        prefix: prefix.to_owned(),
                        number,
                        _lock: lock,
                    };
                    // Any but the first is dropped at once, which clears it.
                    if own.is_none() {
                        lab.clear();
                        own = Some(lab);
                    }
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(LabError::Lock { path, source }),
            }
        }
        own.ok_or(LabError::Full)
    }

    /// The name of the side's namespace, as `ip netns` knows it.
    pub fn namespace(&self, side: Side) -> String {
        format!("{}-{}-{}", self.prefix, self.number, side.name())
    }

    /// A name for the side's tunnel device that no other lab has: control sockets of WireGuard programs are named after
    /// their devices, and lie in one folder for the whole machine.
    pub fn device(&self, side: Side) -> String {
        format!("{}{}{}", self.prefix, self.number, &side.name()[..1])
    }

    /// A command that runs `program` in the side's namespace as `user`, and dies with the calling thread. Its pid is the
    /// program's own.
    pub fn command(&self, side: Side, user: User, program: &Path) -> Command {
        let mut command = ip();
        command.args(["netns", "exec", &self.namespace(side)]);
        if user == User::Ordinary {
            command.args(["sh", "-c", WITH_TUN, "sh"]);
        }
        command.args(["setpriv", "--pdeathsig", "KILL"]);
        if user == User::Ordinary {
            command.args(["--reuid", ORDINARY, "--regid", ORDINARY, "--clear-groups"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Runs `ip` with `arguments` (split at spaces) in the side's namespace.
    pub fn ip(&self, side: Side, arguments: &str) -> Result<(), LabError> {
        run(ip()
            .args(["-n", &self.namespace(side)])
            .args(arguments.split(' ')))
        .map(drop)
    }

    /// Writes `value` to a file below `/proc/sys/net` as the side's namespace sees it.
    pub fn sysctl(&self, side: Side, name: &str, value: &str) -> Result<(), LabError> {
        let write = format!("echo {value} > /proc/sys/net/{name}");
        run(ip().args(["netns", "exec", &self.namespace(side), "sh", "-c", &write])).map(drop)
    }

    /// Reads a file below `/proc/sys/net` as the side's namespace sees it.
    pub fn read_sysctl(&self, side: Side, name: &str) -> Result<String, LabError> {
        let path = format!("/proc/sys/net/{name}");
        let text = run(ip().args(["netns", "exec", &self.namespace(side), "cat", &path]))?;
        Ok(text.trim().to_owned())
    }

    /// Reads a file below `/proc/net` as the side's namespace sees it.
    pub fn read_proc_net(&self, side: Side, name: &str) -> Result<String, LabError> {
        let path = format!("/proc/net/{name}");
        run(ip().args(["netns", "exec", &self.namespace(side), "cat", &path]))
    }

    /// Waits until something listens at this TCP port of the side.
    pub async fn wait_for_listener(&self, side: Side, port: u16) -> Result<(), TimedOut> {
        let needle = format!(":{port:04X} ");
        let what = format!("a listener at port {port} of the {side:?} machine");
        wait_for(&what, LISTENER_PATIENCE, || {
            let tables = ["tcp", "tcp6"].map(|table| self.read_proc_net(side, table).unwrap_or_default());
            // The local address is the second column, and a state of 0A means that it listens.
            let listens = tables.iter().flat_map(|table| table.lines()).any(|line| {
                let mut columns = line.split_whitespace();
                columns
                    .nth(1)
                    .is_some_and(|local| format!("{local} ").ends_with(&needle))
                    && columns.nth(1) == Some("0A")
            });
            if listens {
                Ok(())
            } else {
                Err("there is none".to_owned())
            }
        })
        .await
    }

    /// Takes away what there is under this lab's names.
    fn clear(&self) {
        for side in Side::BOTH {
            let namespace = self.namespace(side);
            if Path::new("/run/netns").join(&namespace).exists() {
                let pids = run(ip().args(["netns", "pids", &namespace])).unwrap_or_default();
                for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                    // It may have ended since.
                    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                }
                // The wire goes with the namespaces. What stays is cleared by the next lab with this number.
                let _ = run(ip().args(["netns", "delete", &namespace]));
            }
            let _ = fs::remove_file(wg::socket(&self.device(side)));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.clear();
    }
}

fn ip() -> Command {
    let mut command = Command::new("ip");
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end; what it printed.
fn run(command: &mut Command) -> Result<String, LabError> {
    let line = || format!("{command:?}").replace('"', "");
    let line = line();
    let output = command.output().map_err(|source| LabError::Start {
        command: line.clone(),
        source,
    })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(LabError::Command {
            command: line,
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_has_a_wire_and_leaves_nothing() {
        if let Some(reason) = obstacle() {
            println!("SKIPPED: a lab of network namespaces: {reason}");
            return;
        }
        let lab = Lab::new("olabtest").unwrap();
        let other = Lab::new("olabtest").unwrap();
        assert_ne!(lab.namespace(Side::Near), other.namespace(Side::Near));
        // bash's own TCP: refused means that packets went there and back.
        let mut command = lab.command(Side::Near, User::Ordinary, Path::new("bash"));
        let probe = format!(
            "id -u; test -w /dev/net/tun && echo tun; cat < /dev/tcp/{}/9",
            Side::Far.wire()
        );
        let output = command.args(["-c", &probe]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "65534\ntun\n");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("refused"), "{message}");

        let namespaces: Vec<String> = Side::BOTH.map(|side| lab.namespace(side)).to_vec();
        drop(lab);
        for namespace in namespaces {
            assert!(!Path::new("/run/netns").join(namespace).exists());
        }
        let failed = other.ip(Side::Near, "link set nothing up").unwrap_err();
        assert!(failed.to_string().contains("nothing"), "{failed}");
    }
}
