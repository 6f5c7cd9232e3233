//! Ids by systemd's and the kernel's files.

use std::io;

pub(crate) use crate::imp::unix::machine::{free_space, hostname};

pub(crate) fn machine_id() -> io::Result<String> {
    // machine-id(5); dbus keeps the same id where there is no systemd.
    match read_machine_id("/etc/machine-id") {
        Ok(id) => Ok(id),
        Err(first) => read_machine_id("/var/lib/dbus/machine-id").map_err(|_| first),
    }
}

fn read_machine_id(path: &str) -> io::Result<String> {
    let text = std::fs::read_to_string(path)?;
    let id = text.trim();
    // It reads "uninitialized" or is empty in an image that never booted.
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path} holds no machine id"),
        ));
    }
    Ok(id.to_owned())
}

pub(crate) fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}
