//! Large packets as the kernel hands them over (`virtio_net_hdr`), and back.

pub(crate) mod fuzzing;
mod header;
mod join;
mod split;
mod tcp;
mod write;

pub(crate) use header::HEADER_LEN;
#[cfg(target_os = "linux")]
pub(crate) use header::needs_checksum;
pub(crate) use join::Group;
pub(crate) use split::{SPARE, split};
#[cfg(target_os = "linux")]
pub(crate) use tcp::{ACK, FIN, RST, TcpHeaders};
#[cfg(all(test, target_os = "linux"))]
pub(crate) use tcp::{TCP, TCP_HEADER};
pub(crate) use write::{write, write_joined, write_single};

#[cfg(test)]
mod tests;
