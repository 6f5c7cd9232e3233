//! What can be written after `peer` and `gateway`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::name::DeviceName;

use super::Format;
use crate::span::Span;

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
        name: DeviceName,
        #[command(flatten)]
        format: Format,
    },
    /// Take a peer's access away; its tunnel ends at once
    Remove {
        /// Name of the peer
        name: DeviceName,
    },
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct PeerAddArgs {
    /// Whom or what it is; 2 to 59 of a-z, 0-9 and `-`
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
