//! macOS: libproc and sysctl.

pub(crate) mod machine;
pub(crate) mod process;
