//! What Linux and macOS share: modes and owners of files, signals, and the parts of the process and
//! machine modules that POSIX settles.

pub(crate) mod files;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod signals;
