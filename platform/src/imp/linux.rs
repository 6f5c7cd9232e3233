//! Linux: `/proc`, pidfds and prctl.

pub(crate) mod machine;
pub(crate) mod process;
