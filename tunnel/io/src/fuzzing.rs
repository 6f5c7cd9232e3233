//! Doors to what reads bytes of strangers, for the fuzz targets (`tests/fuzz`) and for the test that replays their corpus
//! (`tests/replay`). Each takes any bytes and panics where something does not hold; nothing else is to use them.

#[cfg(unix)]
pub use crate::forwarder::fuzzing::first_bytes;
pub use crate::gateway::fuzzing::dns;
#[cfg(target_os = "linux")]
pub use crate::netstack::kernel_fuzzing::packet;
pub use crate::netstack::transfer_fuzzing::{pair, peer};
pub use crate::proxy::fuzzing::{http, socks};
pub use crate::tun::offload_fuzzing::offload;
