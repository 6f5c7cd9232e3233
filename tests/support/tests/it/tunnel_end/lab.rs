//! Network namespaces in a row: 0 and 1 are the ends, 2 hangs on a bridge of 0.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use orfe_test_support::lab;
use orfe_test_support::lab::namespace::{Namespace, Number};

/// Bound on anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nobody answers to a packet that is dropped: a second more than the first one takes to be sent again.
const DROPPED: Duration = Duration::from_secs(2);
/// Namespaces of a lab.
const MOST: usize = 3;

/// What carries the datagrams.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outer {
    V4,
    V6,
}

/// Namespaces that are gone when it is dropped.
pub(super) struct Lab {
    namespaces: Vec<Namespace>,
    /// The last to go: until then nobody else may use the names.
    pub(super) number: Number,
}

impl Lab {
    /// Namespaces 0 and 1 with a veth pair between them, and with `count` 3 another one on a bridge of the first. `None`
    /// when they cannot be had here; that is said.
    pub(super) fn new(what: &str, count: usize) -> Option<Self> {
        if let Some(reason) = lab::obstacle() {
            crate::announce(&format!("SKIPPED: TUN mode, {what}: {reason}"));
            return None;
        }
        let name = |number: u8, place: usize| format!("orfe-tun-{number}-{place}");
        let number = Number::claim("orfe-tun", |number| {
            (0..MOST).for_each(|place| Namespace::clear(&name(number, place)));
        })
        .unwrap();
        let namespaces = (0..count).map(|place| Namespace::add(name(number.value(), place)).unwrap());
        let lab = Self {
            namespaces: namespaces.collect(),
            number,
        };
        for namespace in &lab.namespaces {
            // A new namespace forwards what the machine's first one does, and Docker's engine has that forward everything.
            namespace.sysctl("ipv4/ip_forward", "0").unwrap();
        }
        lab.join((0, "outer"), (1, "outer"));
        for number in [0, 1] {
            lab.address(
                number,
                "outer",
                &format!("{}/24", lab.outer(Outer::V4, number).ip()),
            );
            lab.address(
                number,
                "outer",
                &format!("{}/64", lab.outer(Outer::V6, number).ip()),
            );
        }
        if count > 2 {
            lab.join((0, lab.bridge()), (2, "eth0"));
            for (number, link) in [(0, lab.bridge()), (2, "eth0")] {
                lab.address(number, link, &format!("{}/24", bridge_v4(number, 0).ip()));
                lab.address(number, link, &format!("{}/64", bridge_v6(number)));
            }
            lab.ip(2, &format!("route add default via {}", bridge_v4(0, 0).ip()));
            lab.ip(2, &format!("route add default via {}", bridge_v6(0)));
        }
        Some(lab)
    }

    fn join(&self, left: (usize, &str), right: (usize, &str)) {
        self.namespaces[left.0]
            .join(left.1, &self.namespaces[right.0], right.1)
            .unwrap();
    }

    pub(super) fn ip(&self, number: usize, arguments: &str) {
        self.namespaces[number].ip(arguments).unwrap();
    }

    pub(super) fn address(&self, number: usize, link: &str, address: &str) {
        // Without it the address cannot be used for a second.
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.ip(number, &format!("address add {address} dev {link}{nodad}"));
    }

    /// The interface on which namespace 2 hangs.
    #[allow(clippy::unused_self, reason = "it is a name inside the lab")]
    pub(super) fn bridge(&self) -> &'static str {
        "br-lab"
    }

    /// Where an end is outside.
    #[allow(clippy::unused_self, reason = "it is an address inside the lab")]
    pub(super) fn outer(&self, outer: Outer, number: usize) -> SocketAddr {
        let host = number as u8 + 1;
        match outer {
            Outer::V4 => (Ipv4Addr::new(10, 99, 7, host), 51820).into(),
            Outer::V6 => (Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, host.into()), 51820).into(),
        }
    }

    /// Sends `bytes` from namespace `from` to a listener at `address` in namespace `to` and back, and compares.
    pub(super) fn transfer(&self, from: usize, to: usize, address: SocketAddr, bytes: usize) {
        let listener = self.within(to, move || TcpListener::bind(address).unwrap());
        let address = listener.local_addr().unwrap();
        let echo = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let sent: Vec<u8> = (0..bytes).map(|at| (at * 31 + at / 509) as u8).collect();
        let mut stream = self.within(from, move || {
            TcpStream::connect_timeout(&address, PATIENCE).unwrap()
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut came = Vec::new();
        stream.read_to_end(&mut came).unwrap();
        echo.join().unwrap();
        assert!(
            came == sent,
            "{} of {bytes} bytes came back from {address}",
            came.len()
        );
    }

    /// Tries to connect from namespace `from` to a listener at `address` in namespace `to`. What is dropped is told by nobody.
    pub(super) fn assert_unreachable(&self, from: usize, to: usize, address: SocketAddr) {
        let listener = self.within(to, move || TcpListener::bind(address).unwrap());
        let address = listener.local_addr().unwrap();
        let connected = self.within(from, move || TcpStream::connect_timeout(&address, DROPPED));
        let error = connected.map(|stream| stream.local_addr()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{address}: {error}");
    }

    /// Asks for an echo, once.
    pub(super) fn ping(&self, from: usize, address: IpAddr) {
        let output = self
            .command(from, "ping")
            .args(["-n", "-c", "1", "-W", "10", &address.to_string()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{address}: {output:?}");
    }

    /// A route to one host through a device.
    pub(super) fn route(&self, number: usize, to: IpAddr, device: &str) {
        self.ip(number, &format!("route add {to} dev {device}"));
    }

    /// Has namespace 0 forward everything, with its own address, as an engine for containers does.
    pub(super) fn forward_all_as_an_engine_does(&self) {
        let namespace = &self.namespaces[0];
        namespace.sysctl("ipv4/ip_forward", "1").unwrap();
        namespace.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
        for rule in [
            "add table inet engine".to_owned(),
            "add chain inet engine out { type nat hook postrouting priority srcnat ; }".to_owned(),
            format!(
                "add rule inet engine out iifname {0} oifname != {0} masquerade",
                self.bridge()
            ),
        ] {
            namespace.nft(&rule).unwrap();
        }
    }

    /// Runs `make` on a thread of that namespace. A socket stays where it was made.
    fn within<T: Send + 'static>(&self, number: usize, make: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(Path::new("/run/netns").join(self.namespaces[number].name())).unwrap();
        thread::spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            make()
        })
        .join()
        .unwrap()
    }

    pub(super) fn command(&self, number: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.namespaces[number].command();
        command.arg(program);
        command
    }

    /// The tables of packet filter rules.
    pub(super) fn tables(&self, number: usize) -> Vec<String> {
        let output = self
            .command(number, "nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// Whether what comes in through the bridge is forwarded.
    pub(super) fn forwarding(&self, number: usize) -> String {
        let path = format!("/proc/sys/net/ipv4/conf/{}/forwarding", self.bridge());
        self.within(number, move || {
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        })
    }

    /// The routes to a network, as `ip` prints them.
    pub(super) fn routes(&self, number: usize, network: &str) -> String {
        let output = Command::new("ip")
            .args(["-n", self.namespaces[number].name(), "route", "show", network])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// An address inside the tunnel; port 0 lets the system choose.
pub(super) fn inner_v4(number: usize, port: u16) -> SocketAddr {
    (Ipv4Addr::new(10, 98, 7, number as u8 + 1), port).into()
}

/// An address on the bridge, beside the tunnel.
pub(super) fn bridge_v4(number: usize, port: u16) -> SocketAddr {
    (Ipv4Addr::new(172, 31, 7, number as u8 + 1), port).into()
}

fn bridge_v6(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, number as u16 + 1)
}

pub(super) fn inner_v6(number: usize, port: u16) -> SocketAddr {
    (Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, number as u16 + 1), port).into()
}
