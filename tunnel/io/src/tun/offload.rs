//! Large packets as the kernel hands them over (`virtio_net_hdr`), and back.

mod header;
mod join;
mod split;

pub(crate) use header::HEADER_LEN;
pub(crate) use join::{Group, MAX_JOINED, groups};
pub(crate) use split::{SPARE, split};

#[cfg(test)]
mod tests;
