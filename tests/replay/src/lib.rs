//! What is fuzzed: one function for each target, from bytes to checks that hold for all bytes.
//!
//! `tests/fuzz` runs them under libFuzzer, with a nightly compiler and outside of this workspace. The tests of this crate
//! run them over the committed corpus with the ordinary compiler, so that what was once found stays mended everywhere, and
//! [`mutate`] looks around it.

mod core;
pub mod mutate;

pub use self::core::{datagram, node};
#[cfg(unix)]
pub use orfe_tunnel::fuzzing::first_bytes;
#[cfg(target_os = "linux")]
pub use orfe_tunnel::fuzzing::packet;
pub use orfe_tunnel::fuzzing::{dns, http, offload, pair, peer, socks};

/// A target: bytes in, a panic where something is wrong.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its folder of the corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("proxy_http", http),
    ("proxy_socks", socks),
    ("core_datagram", datagram),
    ("core_node", node),
    ("gateway_dns", dns),
    ("stack_pair", pair),
    ("stack_peer", peer),
    ("tun_offload", offload),
    #[cfg(target_os = "linux")]
    ("kernel_packet", packet),
    #[cfg(unix)]
    ("forwarder_sniff", first_bytes),
];
