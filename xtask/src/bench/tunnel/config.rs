//! What is measured: configurations of the two ends, poor paths, and how long each takes.

use std::time::Duration;

use clap::ValueEnum;
use orfe_test_support::lab::ends::{Mode, TcpStack};

/// A pair of ends. The near one is the device's, and is what a row is about; the far one is the gateway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Config {
    /// No tunnel: the wire itself
    Veth,
    /// wireguard-go of Debian 12, both ends
    WireguardGoDebian,
    /// The newest wireguard-go, both ends
    WireguardGo,
    /// boringtun-cli 0.7.1, both ends
    Boringtun,
    /// Orfe on a TUN device, both ends
    OrfeTun,
    /// Orfe on a TUN device to the newest wireguard-go
    OrfeTunToGo,
    /// Orfe's private namespace, as an ordinary user, to the newest wireguard-go
    OrfeNamespace,
    /// Orfe's private namespace, as an ordinary user, to Orfe on a TUN device
    OrfeNamespaceToTun,
    /// Orfe's private namespace to Orfe's gateway on the kernel's TCP, both as an ordinary user
    #[value(name = "orfe-namespace-to-gw")]
    OrfeNamespaceToGateway,
    /// Orfe's private namespace to Orfe's gateway on smoltcp, both as an ordinary user
    #[value(name = "orfe-namespace-to-gw-smoltcp")]
    OrfeNamespaceToGatewaySmoltcp,
    /// Orfe's smoltcp, as an ordinary user, to the newest wireguard-go
    OrfeSmoltcp,
    /// Orfe's smoltcp, as an ordinary user, to Orfe on a TUN device
    OrfeSmoltcpToTun,
    /// onetun 0.3.10, as an ordinary user, to the newest wireguard-go
    Onetun,
}

/// A program at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// None: the wire.
    Wire,
    WireguardGoDebian,
    WireguardGo,
    Boringtun,
    /// Orfe, in this mode of its driver.
    Orfe(Mode),
    Onetun,
}

impl End {
    /// Whether it needs no right and gets none.
    pub(super) fn is_ordinary(self) -> bool {
        self.is_userspace() || matches!(self, Self::Orfe(Mode::Gateway(_)))
    }

    /// Whether traffic is sent through a local proxy (or, onetun, a local port) instead of a device.
    pub(super) fn is_userspace(self) -> bool {
        matches!(self, Self::Orfe(Mode::Userspace(_)) | Self::Onetun)
    }
}

impl Config {
    pub(super) const ALL: [Self; 13] = [
        Self::Veth,
        Self::WireguardGoDebian,
        Self::WireguardGo,
        Self::Boringtun,
        Self::OrfeTun,
        Self::OrfeTunToGo,
        Self::OrfeNamespace,
        Self::OrfeNamespaceToTun,
        Self::OrfeNamespaceToGateway,
        Self::OrfeNamespaceToGatewaySmoltcp,
        Self::OrfeSmoltcp,
        Self::OrfeSmoltcpToTun,
        Self::Onetun,
    ];
    /// Those that are measured on poor paths, too: what a person would choose between, and then the gateway's stacks,
    /// which decide over what comes down.
    pub(super) const ON_POOR_PATHS: [Self; 6] = [
        Self::WireguardGo,
        Self::OrfeTun,
        Self::OrfeNamespace,
        Self::OrfeSmoltcp,
        Self::OrfeNamespaceToGateway,
        Self::OrfeNamespaceToGatewaySmoltcp,
    ];

    /// As `--only` takes it and as rows say it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::WireguardGoDebian => "wireguard-go-debian",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::OrfeTun => "orfe-tun",
            Self::OrfeTunToGo => "orfe-tun-to-go",
            Self::OrfeNamespace => "orfe-namespace",
            Self::OrfeNamespaceToTun => "orfe-namespace-to-tun",
            Self::OrfeNamespaceToGateway => "orfe-namespace-to-gw",
            Self::OrfeNamespaceToGatewaySmoltcp => "orfe-namespace-to-gw-smoltcp",
            Self::OrfeSmoltcp => "orfe-smoltcp",
            Self::OrfeSmoltcpToTun => "orfe-smoltcp-to-tun",
            Self::Onetun => "onetun",
        }
    }

    /// The near end and the far one.
    pub(super) const fn ends(self) -> (End, End) {
        const TUN: End = End::Orfe(Mode::Tun);
        const NAMESPACE: End = End::Orfe(Mode::Userspace(TcpStack::Namespace));
        const SMOLTCP: End = End::Orfe(Mode::Userspace(TcpStack::Smoltcp));
        const GATEWAY: End = End::Orfe(Mode::Gateway(TcpStack::Namespace));
        const GATEWAY_SMOLTCP: End = End::Orfe(Mode::Gateway(TcpStack::Smoltcp));
        match self {
            Self::Veth => (End::Wire, End::Wire),
            Self::WireguardGoDebian => (End::WireguardGoDebian, End::WireguardGoDebian),
            Self::WireguardGo => (End::WireguardGo, End::WireguardGo),
            Self::Boringtun => (End::Boringtun, End::Boringtun),
            Self::OrfeTun => (TUN, TUN),
            Self::OrfeTunToGo => (TUN, End::WireguardGo),
            Self::OrfeNamespace => (NAMESPACE, End::WireguardGo),
            Self::OrfeNamespaceToTun => (NAMESPACE, TUN),
            Self::OrfeNamespaceToGateway => (NAMESPACE, GATEWAY),
            Self::OrfeNamespaceToGatewaySmoltcp => (NAMESPACE, GATEWAY_SMOLTCP),
            Self::OrfeSmoltcp => (SMOLTCP, End::WireguardGo),
            Self::OrfeSmoltcpToTun => (SMOLTCP, TUN),
            Self::Onetun => (End::Onetun, End::WireguardGo),
        }
    }

    /// `tun` or `userspace`; none for the wire.
    pub(super) fn mode(self) -> Option<&'static str> {
        match self.ends().0 {
            End::Wire => None,
            near if near.is_userspace() => Some("userspace"),
            _ => Some("tun"),
        }
    }

    /// The TCP stack of a far end that is a gateway.
    pub(super) fn far_tcp_stack(self) -> Option<&'static str> {
        match self.ends().1 {
            End::Orfe(Mode::Gateway(stack)) => Some(stack.as_str()),
            _ => None,
        }
    }

    /// Whose TCP the near end's connections end in, where it is not the machine's.
    pub(super) fn tcp_stack(self) -> Option<&'static str> {
        match self.ends().0 {
            End::Orfe(Mode::Userspace(stack)) => Some(stack.as_str()),
            End::Onetun => Some("smoltcp"),
            _ => None,
        }
    }
}

/// What the relay does to a poor path, each way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PoorPath {
    pub(super) delay_ms: f64,
    pub(super) loss_percent: f64,
    pub(super) bottleneck_mbit_s: Option<u32>,
}

impl PoorPath {
    /// 25 ms each way: without loss, with a little, with much, and through a slow link (whose queue holds 512 KiB, 42 ms).
    pub(super) const ALL: [Self; 4] = [
        Self::with(0.0, None),
        Self::with(0.1, None),
        Self::with(1.0, None),
        Self::with(0.0, Some(100)),
    ];

    const fn with(loss_percent: f64, bottleneck_mbit_s: Option<u32>) -> Self {
        Self {
            delay_ms: 25.0,
            loss_percent,
            bottleneck_mbit_s,
        }
    }
}

/// How long things take. Flows in whole seconds: iperf3 knows no others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Times that all configurations are gone through.
    pub(super) rounds: u32,
    /// Of one throughput measurement.
    pub(super) flow: Duration,
    /// The same on a poor path, the start-up of TCP not counted.
    pub(super) poor_flow: Duration,
    /// What is measured on poor paths, out of [`Config::ON_POOR_PATHS`].
    pub(super) on_poor_paths: &'static [Config],
    /// Before a poor path is measured.
    pub(super) poor_warm_up: Duration,
    /// Echo requests, 10 ms apart.
    pub(super) pings: u32,
    /// Connecting again and again.
    pub(super) connects: Duration,
    /// What has not begun by then is not measured.
    pub(super) all: Duration,
}

impl Pace {
    pub(super) const QUICK: Self = Self {
        rounds: 1,
        flow: Duration::from_secs(1),
        poor_flow: Duration::from_secs(2),
        // What a person chooses between: there is no time for more.
        on_poor_paths: Config::ON_POOR_PATHS.split_at(4).0,
        poor_warm_up: Duration::from_secs(1),
        pings: 100,
        connects: Duration::from_secs(1),
        all: Duration::from_secs(225),
    };
    pub(super) const FULL: Self = Self {
        rounds: 3,
        flow: Duration::from_secs(6),
        poor_flow: Duration::from_secs(12),
        on_poor_paths: &Config::ON_POOR_PATHS,
        poor_warm_up: Duration::from_secs(2),
        pings: 200,
        connects: Duration::from_secs(4),
        all: Duration::from_mins(45),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for config in Config::ALL {
            assert_eq!(Config::from_str(config.name(), false), Ok(config));
        }
        assert_eq!(Config::value_variants(), Config::ALL);
    }
}
