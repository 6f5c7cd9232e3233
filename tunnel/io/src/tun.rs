//! The data path between a TUN device and UDP: two threads that move whole batches.
//!
//! ```text
//!   TUN ──read: one packet of up to 64 KiB──► split ─► seal in place ─► run ──one sendmsg──► UDP      (thread "tun→udp", with much)
//!   UDP ──recvmmsg: up to 16 gathered runs──► open ─► joined again ──one writev each──► TUN           (thread "udp→tun")
//! ```
//!
//! The node stands behind one lock, taken once for each batch; there is no queue between the two threads and none behind
//! them but the kernel's own. What is read is sent before the thread waits again, and never because a timer says so.
//! The memory is what the threads allocate when they start. The second thread also runs the node's timers, and while little
//! passes it does the first one's work, too (`outbound`).
//!
//! Neither cares where the device came from: a device on the host, or one in a private network namespace whose
//! descriptor was handed over. Without `IFF_VNET_HDR` everything is the same with batches of one packet. What differs between systems stands
//! in three places: `device` (the device, and how one waits for it), `bell` (how a thread is called), and `host/imp` (what TUN mode
//! changes on a host).

mod bell;
pub(crate) mod device;
pub mod host;
mod inbound;
mod measure;
pub(crate) mod offload;
mod outbound;
mod path;
mod threads;

pub(crate) use offload::fuzzing as offload_fuzzing;

pub use device::{Interface, TunDevice, TunOptions};
pub use path::{DataPath, DataPathConfig};

#[cfg(test)]
#[cfg(any(target_os = "linux", windows))]
mod tests;
