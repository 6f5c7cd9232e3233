//! Windows: access control lists, the toolhelp snapshot and the registry.

pub(crate) mod files;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod signals;

mod text;
