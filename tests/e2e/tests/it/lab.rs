//! A network of its own for a device: a namespace, and a pair of links into it.
//!
//! It needs root, `ip`, and `nft` to block what a network may block. What it made is taken away when it ends; what a killed run
//! left is taken away by the next.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use orfe_test_support::lab::LabError;
use orfe_test_support::lab::namespace::{self, Namespace, Number, ip, run};

/// Names of namespaces begin with it; a number follows.
const PREFIX: &str = "orfe-e2e";

/// See the module.
pub(crate) struct Lab {
    namespace: Namespace,
    inner: String,
    /// The host's address in that network, which is of 198.18.0.0/15, set aside for tests.
    pub host: IpAddr,
    /// A process in that network whose files its programs see, too.
    pub beside: Option<u32>,
    /// The last to go: until then nobody else may use the names and addresses.
    number: Number,
}

impl Lab {
    /// A network with the device at the host number 2; or why there can be none.
    pub(crate) fn new() -> Result<Self, String> {
        match namespace::obstacle(&[("nft", "nftables"), ("curl", "curl")]) {
            Some(reason) => Err(reason),
            None => Self::make().map_err(|error| error.to_string()),
        }
    }

    fn make() -> Result<Self, LabError> {
        let name = |number: u8| format!("{PREFIX}-{number}");
        let number = Number::claim(PREFIX, |number| {
            delete_link(number);
            Namespace::clear(&name(number));
        })?;
        let value = number.value();
        let lab = Self {
            namespace: Namespace::add(name(value))?,
            inner: format!("oe{value}i"),
            host: Ipv4Addr::new(198, 19, value, 1).into(),
            beside: None,
            number,
        };
        let outer = outer(value);
        let pair = format!(
            "link add {outer} type veth peer name {} netns {}",
            lab.inner,
            lab.namespace()
        );
        for arguments in [
            pair,
            format!("address add {}/24 dev {outer}", lab.host),
            format!("link set {outer} up"),
        ] {
            run(ip().args(arguments.split(' ')))?;
        }
        lab.move_to(2)?;
        Ok(lab)
    }

    /// Gives the device another address, as a change of network does: the old one goes first.
    pub(crate) fn move_to(&self, host: u8) -> Result<(), LabError> {
        let (inner, network) = (&self.inner, self.number.value());
        self.namespace.ip(&format!("address flush dev {inner}"))?;
        self.namespace
            .ip(&format!("address add 198.19.{network}.{host}/24 dev {inner}"))?;
        self.namespace.ip(&format!("link set {inner} up"))?;
        self.namespace
            .ip(&format!("route replace default via {}", self.host))
    }

    /// Lets nothing out of the device any more that fits one of these expressions of nftables.
    pub(crate) fn block(&self, expressions: &[&str]) -> Result<(), LabError> {
        self.namespace.block(expressions)
    }

    /// Lets everything out again.
    pub(crate) fn unblock(&self) -> Result<(), LabError> {
        self.namespace.unblock()
    }

    /// The device's network namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// A command line that runs what follows in the device's network.
    pub(crate) fn command(&self) -> Command {
        let Some(pid) = self.beside else {
            return self.namespace.command();
        };
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--target", &pid.to_string()]);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The namespace takes its end of the pair with it when its last process is gone; so the pair goes first.
        delete_link(self.number.value());
    }
}

/// The host's end of the pair.
fn outer(number: u8) -> String {
    format!("oe{number}h")
}

fn delete_link(number: u8) {
    // There is none under a number that nobody has used.
    let _ = run(ip().args(["link", "delete", &outer(number)]));
}
