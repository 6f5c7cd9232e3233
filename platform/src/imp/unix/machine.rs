//! What POSIX says about the machine.

use std::io;
use std::path::Path;

pub(crate) fn hostname() -> io::Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the machine has no name"));
    }
    Ok(name)
}

pub(crate) fn free_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
