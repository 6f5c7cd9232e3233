//! What is measured: configurations of the two ends, poor paths, and how long each takes.

use std::time::Duration;

use clap::ValueEnum;

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
    /// Orfe's private namespace to Orfe's gateway, both as an ordinary user
    #[value(name = "orfe-namespace-to-gw")]
    OrfeNamespaceToGateway,
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
    Orfe(&'static str),
    Onetun,
}

impl End {
    /// Whether it needs no right and gets none.
    pub(super) fn is_ordinary(self) -> bool {
        self.is_userspace() || self == Self::Orfe("gateway")
    }

    /// Whether traffic is sent through a local proxy (or, onetun, a local port) instead of a device.
    pub(super) fn is_userspace(self) -> bool {
        matches!(self, Self::Orfe("namespace" | "smoltcp") | Self::Onetun)
    }
}

impl Config {
    pub(super) const ALL: [Self; 12] = [
        Self::Veth,
        Self::WireguardGoDebian,
        Self::WireguardGo,
        Self::Boringtun,
        Self::OrfeTun,
        Self::OrfeTunToGo,
        Self::OrfeNamespace,
        Self::OrfeNamespaceToTun,
        Self::OrfeNamespaceToGateway,
        Self::OrfeSmoltcp,
        Self::OrfeSmoltcpToTun,
        Self::Onetun,
    ];
    /// Those that are measured on poor paths, too: what a person would choose between.
    pub(super) const ON_POOR_PATHS: [Self; 4] = [
        Self::WireguardGo,
        Self::OrfeTun,
        Self::OrfeNamespace,
        Self::OrfeSmoltcp,
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
            Self::OrfeSmoltcp => "orfe-smoltcp",
            Self::OrfeSmoltcpToTun => "orfe-smoltcp-to-tun",
            Self::Onetun => "onetun",
        }
    }

    /// The near end and the far one.
    pub(super) const fn ends(self) -> (End, End) {
        match self {
            Self::Veth => (End::Wire, End::Wire),
            Self::WireguardGoDebian => (End::WireguardGoDebian, End::WireguardGoDebian),
            Self::WireguardGo => (End::WireguardGo, End::WireguardGo),
            Self::Boringtun => (End::Boringtun, End::Boringtun),
            Self::OrfeTun => (End::Orfe("tun"), End::Orfe("tun")),
            Self::OrfeTunToGo => (End::Orfe("tun"), End::WireguardGo),
            Self::OrfeNamespace => (End::Orfe("namespace"), End::WireguardGo),
            Self::OrfeNamespaceToTun => (End::Orfe("namespace"), End::Orfe("tun")),
            Self::OrfeNamespaceToGateway => (End::Orfe("namespace"), End::Orfe("gateway")),
            Self::OrfeSmoltcp => (End::Orfe("smoltcp"), End::WireguardGo),
            Self::OrfeSmoltcpToTun => (End::Orfe("smoltcp"), End::Orfe("tun")),
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

    /// Whether the far end has a TCP of its own, the gateway's smoltcp.
    pub(super) fn is_far_smoltcp(self) -> bool {
        self.ends().1 == End::Orfe("gateway")
    }

    /// Whose TCP the near end's connections end in, where it is not the machine's.
    pub(super) fn tcp_stack(self) -> Option<&'static str> {
        match self.ends().0 {
            End::Orfe(mode @ ("namespace" | "smoltcp")) => Some(mode),
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
        poor_warm_up: Duration::from_secs(1),
        pings: 100,
        connects: Duration::from_secs(1),
        all: Duration::from_secs(225),
    };
    pub(super) const FULL: Self = Self {
        rounds: 3,
        flow: Duration::from_secs(6),
        poor_flow: Duration::from_secs(12),
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
