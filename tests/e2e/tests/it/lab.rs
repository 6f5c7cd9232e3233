//! A network of its own for a device: a namespace, and a pair of links into it.
//!
//! It needs root, `ip`, and `nft` to block what a network may block. What it made is taken away when it ends; what a killed run
//! left is taken away by the next, whose addresses could be the same.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Networks that this process has made: each has names and addresses of its own.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Names of namespaces begin with it; the process and a number follow.
const PREFIX: &str = "orfe-e2e-";

/// See the module.
pub(crate) struct Lab {
    namespace: String,
    outer: String,
    inner: String,
    /// The host's address in that network, which is of 198.18.0.0/15, set aside for tests.
    pub host: IpAddr,
    net: [u8; 3],
    /// A process in that network whose files its programs see, too.
    pub beside: Option<u32>,
}

impl Lab {
    /// A network with the device at the host number 2; or why there can be none.
    pub(crate) fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        for (program, package) in [("ip", "iproute2"), ("nft", "nftables"), ("curl", "curl")] {
            let shown = Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            // `ip` knows no such option and says so; it is there all the same.
            if shown.is_err() {
                return Err(format!("no `{program}` (Debian package {package})"));
            }
        }
        clear_leftovers()?;
        let pid = std::process::id();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let net = [198, 19, ((pid + number) % 251) as u8];
        let lab = Self {
            namespace: format!("{PREFIX}{pid}-{number}"),
            outer: format!("oe{pid}-{number}h"),
            inner: format!("oe{pid}-{number}i"),
            host: Ipv4Addr::new(net[0], net[1], net[2], 1).into(),
            net,
            beside: None,
        };
        ip(&format!("netns add {}", lab.namespace))?;
        ip(&format!(
            "link add {} type veth peer name {} netns {}",
            lab.outer, lab.inner, lab.namespace
        ))?;
        ip(&format!("address add {}/24 dev {}", lab.host, lab.outer))?;
        ip(&format!("link set {} up", lab.outer))?;
        lab.inside("link set lo up")?;
        lab.move_to(2)?;
        Ok(lab)
    }

    /// Gives the device another address, as a change of network does: the old one goes first.
    pub(crate) fn move_to(&self, number: u8) -> Result<(), String> {
        let [a, b, c] = self.net;
        let inner = &self.inner;
        self.inside(&format!("address flush dev {inner}"))?;
        self.inside(&format!("address add {a}.{b}.{c}.{number}/24 dev {inner}"))?;
        self.inside(&format!("link set {inner} up"))?;
        self.inside(&format!("route replace default via {}", self.host))
    }

    /// Lets nothing out of the device any more that fits one of these expressions of nftables.
    pub(crate) fn block(&self, expressions: &[&str]) -> Result<(), String> {
        self.nft("add table inet block")?;
        self.nft("add chain inet block out { type filter hook output priority 0 ; }")?;
        for expression in expressions {
            self.nft(&format!(
                "add rule inet block out oifname != lo {expression} drop"
            ))?;
        }
        Ok(())
    }

    /// Lets everything out again.
    pub(crate) fn unblock(&self) -> Result<(), String> {
        self.nft("delete table inet block")
    }

    fn nft(&self, rule: &str) -> Result<(), String> {
        let mut command = self.command();
        run(command.arg("nft").args(rule.split(' ')))
    }

    /// The device's network namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A command line that runs what follows in the device's network.
    pub(crate) fn command(&self) -> Command {
        if let Some(pid) = self.beside {
            let mut command = Command::new("nsenter");
            command.args(["--mount", "--net", "--target", &pid.to_string()]);
            return command;
        }
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]);
        command
    }

    fn inside(&self, arguments: &str) -> Result<(), String> {
        ip(&format!("-n {} {arguments}", self.namespace))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The namespace takes its end of the pair with it when its last process is gone; so the pair goes first.
        for arguments in [
            format!("link delete {}", self.outer),
            format!("netns delete {}", self.namespace),
        ] {
            if let Err(error) = ip(&arguments) {
                eprintln!("left behind: {error}");
            }
        }
    }
}

/// Takes away the namespaces of processes that are no more, and with them the links into them.
fn clear_leftovers() -> Result<(), String> {
    for line in output(Command::new("ip").args(["netns", "list"]))?.lines() {
        let Some(name) = line.split(' ').next().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        let pid = name[PREFIX.len()..].split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(pid).exists() {
            ip(&format!("netns delete {name}"))?;
        }
    }
    Ok(())
}

fn ip(arguments: &str) -> Result<(), String> {
    run(Command::new("ip").args(arguments.split(' ')))
}

fn run(command: &mut Command) -> Result<(), String> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
