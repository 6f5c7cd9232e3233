//! What can be written after each command.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use orfe_protocol::id::JoinCodeId;
use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::name::{DEVICE_NAME_MAX, DeviceName};
use orfe_protocol::tag::Tag;
use url::Url;

use crate::api;
use crate::config::HostPort;
use crate::span::Span;

#[derive(Debug, Args)]
pub(super) struct Format {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orfe-registry serve
  orfe-registry serve --config registry.toml \\
      --public-url https://orfe.example.com:7443

SIGHUP reads the configuration again; SIGTERM and Ctrl-C stop it.")]
pub(super) struct ServeArgs {
    /// Where agents connect [default: 0.0.0.0:7443]
    #[arg(
        long,
        value_name = "ADDR",
        env = "ORFE_REGISTRY_LISTEN",
        hide_env_values = true
    )]
    pub(super) listen: Option<SocketAddr>,
    /// How agents reach it, as join codes name it
    #[arg(
        long,
        value_name = "URL",
        env = "ORFE_REGISTRY_PUBLIC_URL",
        hide_env_values = true
    )]
    pub(super) public_url: Option<Url>,
    /// UDP address of the WireGuard gateway [default: 0.0.0.0:51820]
    #[arg(
        long,
        value_name = "ADDR",
        env = "ORFE_REGISTRY_WIREGUARD",
        hide_env_values = true
    )]
    pub(super) wireguard: Option<SocketAddr>,
    /// How devices reach the gateway [default: host of the public URL]
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "ORFE_REGISTRY_WIREGUARD_ENDPOINT",
        hide_env_values = true
    )]
    pub(super) wireguard_endpoint: Option<HostPort>,
    /// Loopback address of the dashboard [default: 127.0.0.1:7480]
    #[arg(
        long,
        value_name = "ADDR",
        env = "ORFE_REGISTRY_DASHBOARD",
        hide_env_values = true
    )]
    pub(super) dashboard: Option<SocketAddr>,
    /// Write the addresses there, as JSON, once everything answers
    #[arg(long, value_name = "PATH")]
    pub(super) ready_file: Option<PathBuf>,
    /// Print the addresses as one line of JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum JoinCodeCommand {
    /// Make a join code and print it, the one time that it is shown
    #[command(after_help = "\
Examples:
  orfe-registry join-code create --tag owner=alice --note \"Alice's laptop\"
  orfe-registry join-code create | ssh laptop orfe join -
  orfe-registry join-code create --via-tunnel --note \"reaches UDP 51820 only\"

With --via-tunnel, enrolment and every later session may go through the tunnel:
the device has to reach the gateway's UDP port and nothing else. Such a code has
one use, and needs a registry that runs a gateway. A device that has joined and
joins again by it keeps its tags; a --tag replaces the value of its key alone.")]
    Create(CreateArgs),
    /// List the join codes, without their secrets
    List(Format),
    /// Make a join code worthless
    Revoke {
        /// Id of the code, as `list` shows it
        id: JoinCodeId,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Tag that devices are given; may be repeated, each key once
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(super) tags: Vec<Tag>,
    /// How many devices may join with it, at most 1000
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(api::JOIN_CODE_USES_MAX)))]
    pub(super) uses: u32,
    /// Let the device reach this registry through the tunnel; such a code has one use
    #[arg(long)]
    pub(super) via_tunnel: bool,
    /// How long it is good, at most 7d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(super) ttl: Span,
    /// Whom or what it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) note: String,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// List the devices
    List(Format),
    /// Show one device with its checks
    Show {
        /// Name of the device
        name: DeviceName,
        #[command(flatten)]
        format: Format,
    },
    /// Change the tags that were granted to a device
    #[command(after_help = "\
Examples:
  orfe-registry device tag gpu-box team=ml location=lab
  orfe-registry device tag gpu-box --remove team

Gateway and device learn of it at once.")]
    Tag {
        /// Name of the device
        name: DeviceName,
        /// Tags to set
        #[arg(value_name = "KEY=VALUE")]
        tags: Vec<Tag>,
        /// Key of a tag to take away; may be repeated
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Let a device never come back; its session and tunnel end at once
    Revoke {
        /// Name of the device
        name: DeviceName,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DashboardCommand {
    /// Print a link into the dashboard that is good once, for 15 minutes
    Link(Format),
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the configuration file and what it names
    #[command(after_help = "\
A whole configuration file:
  public_url = \"https://orfe.example.com:7443\"
  wireguard_endpoint = \"orfe.example.com:51820\"
  docker_required = false

  [coder]
  url = \"https://coder.example.com\"
  psk_file = \"coder-psk\"       # mode 0600
  slots = 1

  [tunnel]
  enabled = true
  websocket = true              # carry it over HTTPS where UDP is blocked
  also_listen = [\"0.0.0.0:443\"] # further UDP addresses; default: none
  also_endpoints = [\"orfe.example.com:443\"]  # default: the same host at those

  [[policy.allow]]
  name = \"coder.example.com\"
  ports = [443]
  upstream = \"coder.coder.svc:443\"   # default: the same name and port

  [[policy.allow]]
  network = \"10.20.0.0/16\"
  ports = [22, \"8000-8010\"]          # TCP
  udp_ports = [53]
  for = [\"team=ml\", \"team=ops,location=lab\"]  # default: all devices
  for_peers = [\"alice\"]              # default: all when `for` is absent

  [dns]
  suffixes = [\"svc.cluster.local\"]   # \".\" for every name
  resolver = \"10.96.0.10:53\"         # default: the system's first")]
    Check,
}

#[derive(Debug, Subcommand)]
pub(super) enum PeerCommand {
    /// Let a person's WireGuard client in, and print its configuration
    #[command(after_help = "\
Examples:
  orfe-registry peer add alice
  orfe-registry peer add alice -o alice.conf
  wg genkey | tee private.key | wg pubkey   # on Alice's machine, then here:
  orfe-registry peer add alice --public-key KEY

Without --public-key a key pair is made here; its private half is shown in the
configuration, once, and kept nowhere.")]
    Add(PeerAddArgs),
    /// List the peers
    List(Format),
    /// Show one peer with its counters
    Show {
        /// Name of the peer
        #[arg(value_parser = peer_name)]
        name: DeviceName,
        #[command(flatten)]
        format: Format,
    },
    /// Take a peer's access away; its tunnel ends at once
    Remove {
        /// Name of the peer
        #[arg(value_parser = peer_name)]
        name: DeviceName,
    },
}

/// A peer's name is written as a device's is; what is wrong with one is said of a peer.
fn peer_name(text: &str) -> Result<DeviceName, String> {
    text.parse().map_err(|_| {
        format!("the name of a peer is 2 to {DEVICE_NAME_MAX} of a-z, 0-9 and `-`, with no `-` at either end")
    })
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct PeerAddArgs {
    /// Whom or what it is; 2 to 59 of a-z, 0-9 and `-`
    #[arg(value_parser = peer_name)]
    pub(super) name: DeviceName,
    /// Public key, when the client has made its own pair
    #[arg(long, value_name = "KEY")]
    pub(super) public_key: Option<WireGuardPublicKey>,
    /// Make a preshared key, too
    #[arg(long)]
    pub(super) preshared_key: bool,
    /// How long it may come in, such as 30d [default: until removed]
    #[arg(long, value_name = "TIME")]
    pub(super) ttl: Option<Span>,
    /// Reach only this entry of the policy; may be repeated
    #[arg(long, value_name = "NAME|NETWORK")]
    pub(super) allowed: Vec<String>,
    /// Whom or what it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) note: String,
    /// Leave the gateway's DNS out of the configuration
    #[arg(long)]
    pub(super) no_dns: bool,
    /// Write the configuration there, readable by this user only
    #[arg(short, long, value_name = "FILE", conflicts_with = "json")]
    pub(super) output: Option<PathBuf>,
    /// Print a QR code for a phone [default: on a terminal]
    #[arg(long, conflicts_with_all = ["no_qr", "json"])]
    pub(super) qr: bool,
    /// Print no QR code
    #[arg(long)]
    pub(super) no_qr: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum GatewayCommand {
    /// Show the gateway's keys and addresses
    Show(Format),
    /// Give the gateway a new key, beside the old one at first
    #[command(after_help = "\
Examples:
  orfe-registry gateway rotate-key --after 7d
  orfe-registry gateway show                  # who still uses the old key
  orfe-registry gateway rotate-key --finish

Devices move over by themselves. People need a new configuration before the old
key ends: `peer remove` and `peer add`, or the new PublicKey in theirs.")]
    RotateKey {
        /// End the old key now
        #[arg(long, conflicts_with = "after")]
        finish: bool,
        /// End the old key by itself after this time [default: with --finish]
        #[arg(long, value_name = "TIME")]
        after: Option<Span>,
        #[command(flatten)]
        format: Format,
    },
}
