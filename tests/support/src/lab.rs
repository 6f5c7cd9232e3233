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
pub mod namespace;
pub mod program;
pub mod wg;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub use self::namespace::LabError;
use self::namespace::{Namespace, Number};
use crate::wait::{TimedOut, wait_for};

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

/// Why no lab can be made here, if so.
pub fn obstacle() -> Option<String> {
    let device = Path::new("/dev/net/tun").exists();
    namespace::obstacle(&[("setpriv", "util-linux")])
        .or_else(|| (!device).then(|| "no /dev/net/tun".to_owned()))
}

/// Two namespaces and the wire; see the module.
#[derive(Debug)]
pub struct Lab {
    near: Namespace,
    far: Namespace,
    prefix: String,
    /// The last to go: until then nobody else may use the names.
    number: Number,
}

impl Lab {
    /// A lab with the lowest free number under `prefix` (at most 8 letters). Clears what killed runs left under numbers that
    /// nobody uses.
    pub fn new(prefix: &str) -> Result<Self, LabError> {
        let name = |number: u8, side: Side| format!("{prefix}-{number}-{}", side.name());
        let number = Number::claim(prefix, |number| {
            for side in Side::BOTH {
                Namespace::clear(&name(number, side));
                forget_socket(&device(prefix, number, side));
            }
        })?;
        let lab = Self {
            near: Namespace::add(name(number.value(), Side::Near))?,
            far: Namespace::add(name(number.value(), Side::Far))?,
            prefix: prefix.to_owned(),
            number,
        };
        lab.near.join("wire", &lab.far, "wire")?;
        for side in Side::BOTH {
            lab.ip(side, &format!("address add {}/24 dev wire", side.wire()))?;
            lab.ip(side, &format!("address add {}/64 dev wire nodad", side.wire_v6()))?;
        }
        Ok(lab)
    }

    /// The side's namespace.
    pub const fn at(&self, side: Side) -> &Namespace {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }

    /// A name for the side's tunnel device that no other lab has: control sockets of WireGuard programs are named after
    /// their devices, and lie in one folder for the whole machine.
    pub fn device(&self, side: Side) -> String {
        device(&self.prefix, self.number.value(), side)
    }

    /// A command that runs `program` in the side's namespace as `user`, and dies with the calling thread. Its pid is the
    /// program's own.
    pub fn command(&self, side: Side, user: User, program: &Path) -> Command {
        let mut command = self.at(side).command();
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
        self.at(side).ip(arguments)
    }

    /// Waits until something listens at this TCP port of the side.
    pub async fn wait_for_listener(&self, side: Side, port: u16) -> Result<(), TimedOut> {
        let needle = format!(":{port:04X} ");
        let what = format!("a listener at port {port} of the {side:?} machine");
        wait_for(&what, LISTENER_PATIENCE, || {
            let tables = ["tcp", "tcp6"].map(|table| self.at(side).read_proc_net(table).unwrap_or_default());
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
}

impl Drop for Lab {
    fn drop(&mut self) {
        for side in Side::BOTH {
            forget_socket(&self.device(side));
        }
    }
}

fn device(prefix: &str, number: u8, side: Side) -> String {
    format!("{prefix}{number}{}", &side.name()[..1])
}

/// A killed program leaves its control socket.
fn forget_socket(device: &str) {
    let _ = fs::remove_file(wg::socket(device));
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
        assert_ne!(lab.at(Side::Near).name(), other.at(Side::Near).name());
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

        let namespaces = Side::BOTH.map(|side| lab.at(side).name().to_owned());
        drop(lab);
        for namespace in namespaces {
            assert!(!Path::new("/run/netns").join(namespace).exists());
        }
        let failed = other.ip(Side::Near, "link set nothing up").unwrap_err();
        assert!(failed.to_string().contains("nothing"), "{failed}");
    }
}
