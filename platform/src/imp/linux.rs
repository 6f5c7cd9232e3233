//! Linux: `/proc`, pidfds, prctl and rtnetlink.

pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod ports;
pub(crate) mod process;
