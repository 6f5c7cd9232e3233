//! One network namespace, and the numbers by which those who make some keep out of each other's way.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where locks on numbers are kept. Namespaces belong to the whole machine, and so does this.
const LOCKS: &str = "/run/orfe-lab";
/// Numbers of one prefix at once.
const MAX: u8 = 32;

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
    #[error("all {MAX} labs are in use; hint: see which processes hold the locks in {LOCKS}")]
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

/// A number that nobody else on this machine has, for the names of what is made.
#[derive(Debug)]
pub struct Number {
    value: u8,
    /// The system lets go of it however the process ends.
    _lock: File,
}

impl Number {
    /// The lowest free number under `prefix`. `clear` takes away what killed runs left, under this number and those that
    /// nobody uses.
    pub fn claim(prefix: &str, clear: impl Fn(u8)) -> Result<Self, LabError> {
        let failed = |path: &Path, source| LabError::Lock {
            path: path.to_owned(),
            source,
        };
        let locks = Path::new(LOCKS);
        fs::create_dir_all(locks).map_err(|source| failed(locks, source))?;
        let mut own = None;
        for value in 0..MAX {
            let path = locks.join(format!("{prefix}-{value}"));
            // Above the first free number only those are of interest that were used once.
            if own.is_some() && !path.exists() {
                continue;
            }
            let lock = File::create(&path).map_err(|source| failed(&path, source))?;
            match lock.try_lock() {
                Ok(()) => {
                    clear(value);
                    own.get_or_insert(Self { value, _lock: lock });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(failed(&path, source)),
            }
        }
        own.ok_or(LabError::Full)
    }

    /// The number itself.
    pub const fn value(&self) -> u8 {
        self.value
    }
}

/// A network namespace; it is gone when dropped, with all processes in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new one with this name, its loopback up.
    pub fn add(name: String) -> Result<Self, LabError> {
        run(ip().args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command line that runs what follows in it.
    pub fn command(&self) -> Command {
        let mut command = ip();
        command.args(["netns", "exec", &self.name]);
        command
    }

    /// Runs `ip` with `arguments` (split at spaces) in it.
    pub fn ip(&self, arguments: &str) -> Result<(), LabError> {
        run(ip().args(["-n", &self.name]).args(arguments.split(' '))).map(drop)
    }

    /// A pair of links from here, called `link`, to `far`, called `far_link`; both are up.
    pub fn join(&self, link: &str, far: &Self, far_link: &str) -> Result<(), LabError> {
        self.ip(&format!(
            "link add {link} type veth peer name {far_link} netns {}",
            far.name
        ))?;
        self.ip(&format!("link set {link} up"))?;
        far.ip(&format!("link set {far_link} up"))
    }

    /// Writes `value` to a file below `/proc/sys/net` as it is seen here.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<(), LabError> {
        let write = format!("echo {value} > /proc/sys/net/{name}");
        run(self.command().args(["sh", "-c", &write])).map(drop)
    }

    /// Reads a file below `/proc/sys/net` as it is seen here.
    pub fn read_sysctl(&self, name: &str) -> Result<String, LabError> {
        let text = run(self.command().arg("cat").arg(format!("/proc/sys/net/{name}")))?;
        Ok(text.trim().to_owned())
    }

    /// Reads a file below `/proc/net` as it is seen here.
    pub fn read_proc_net(&self, name: &str) -> Result<String, LabError> {
        run(self.command().arg("cat").arg(format!("/proc/net/{name}")))
    }

    /// Lets nothing out any more, except to itself, that fits one of these expressions of nftables.
    pub fn block(&self, expressions: &[&str]) -> Result<(), LabError> {
        self.nft("add table inet block")?;
        self.nft("add chain inet block out { type filter hook output priority 0 ; }")?;
        for expression in expressions {
            self.nft(&format!(
                "add rule inet block out oifname != lo {expression} drop"
            ))?;
        }
        Ok(())
    }

    /// Lets nothing in any more, except from itself, that fits one of these expressions of nftables.
    pub fn block_incoming(&self, expressions: &[&str]) -> Result<(), LabError> {
        self.nft("add table inet block")?;
        self.nft("add chain inet block in { type filter hook input priority 0 ; }")?;
        for expression in expressions {
            self.nft(&format!("add rule inet block in iifname != lo {expression} drop"))?;
        }
        Ok(())
    }

    /// Lets everything out and in again.
    pub fn unblock(&self) -> Result<(), LabError> {
        self.nft("delete table inet block")
    }

    /// Runs `nft` with `rule` (split at spaces) in it.
    pub fn nft(&self, rule: &str) -> Result<(), LabError> {
        run(self.command().arg("nft").args(rule.split(' '))).map(drop)
    }

    /// Takes away the namespace of this name, if there is one, with all processes in it. What is joined to it goes with it.
    pub fn clear(name: &str) {
        if !Path::new("/run/netns").join(name).exists() {
            return;
        }
        let pids = run(ip().args(["netns", "pids", name])).unwrap_or_default();
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // It may have ended since.
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        // What stays is cleared by the next who has this number.
        let _ = run(ip().args(["netns", "delete", name]));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        Self::clear(&self.name);
    }
}

/// Why none can be made here, or what is done with it cannot be done for want of one of these `(program, Debian package)`s.
pub fn obstacle(programs: &[(&str, &str)]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root (network namespaces are made)".to_owned());
    }
    let runs = |program: &str| {
        let version = Command::new(program)
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        version.is_ok_and(|status| status.success())
    };
    let (program, package) = [("ip", "iproute2")]
        .iter()
        .chain(programs)
        .find(|(program, _)| !runs(program))?;
    Some(format!("no `{program}` (Debian package {package})"))
}

/// `ip`, with nothing to read.
pub fn ip() -> Command {
    let mut command = Command::new("ip");
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end; what it printed.
pub fn run(command: &mut Command) -> Result<String, LabError> {
    let line = format!("{command:?}").replace('"', "");
    match command.output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(LabError::Command {
            command: line,
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
        Err(source) => Err(LabError::Start {
            command: line,
            source,
        }),
    }
}
