//! What is fuzzed: one function for each target, from bytes to checks that hold for all bytes.
//!
//! `tests/fuzz` runs them under libFuzzer, with a nightly compiler and outside of this workspace. The tests of this crate
//! run them over the committed corpus with the ordinary compiler, so that what was once found stays mended everywhere, and
//! [`mutate`] looks around it.

mod core;
pub mod mutate;

pub use self::core::{datagram, node};
pub use orfe_tunnel::gateway_fuzzing::dns;
pub use orfe_tunnel::proxy::fuzzing::{http, socks};

/// A target: bytes in, a panic where something is wrong.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its folder of the corpus.
pub const TARGETS: [(&str, Target); 5] = [
    ("proxy_http", http),
    ("proxy_socks", socks),
    ("core_datagram", datagram),
    ("core_node", node),
    ("gateway_dns", dns),
];
