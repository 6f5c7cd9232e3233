//! This machine and this boot of it. Reached as [`crate::process`]'s functions.

use std::path::Path;

use crate::imp;
use crate::process::ProcessError;

/// The installation's own id, the same over reboots: `/etc/machine-id` on Linux, the host UUID on macOS, `MachineGuid`
/// on Windows. Other programs use it too, so treat it as private: hash it before it leaves the machine.
pub fn machine_id() -> Result<String, ProcessError> {
    imp::machine::machine_id().map_err(|source| ProcessError::new("read the machine's id", None, source))
}

/// An id of this boot; another one after each restart of the machine.
pub fn boot_id() -> Result<String, ProcessError> {
    imp::machine::boot_id().map_err(|source| ProcessError::new("read the boot's id", None, source))
}

/// The machine's own name, without a domain added. Characters that are not UTF-8 are replaced.
pub fn hostname() -> Result<String, ProcessError> {
    imp::machine::hostname().map_err(|source| ProcessError::new("read the host name", None, source))
}

/// Bytes that this user may still write on the disk of `path`, which must exist.
pub fn free_space(path: &Path) -> Result<u64, ProcessError> {
    imp::machine::free_space(path)
        .map_err(|source| ProcessError::new("read the free space of the disk", None, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_and_look_like_ids() {
        let boot = boot_id().unwrap();
        assert_eq!(boot, boot_id().unwrap());
        assert!(boot.len() >= 8 && !boot.contains(char::is_whitespace), "{boot}");
        assert!(!hostname().unwrap().is_empty());
        // A container image may have no machine id; then it is an error, never an empty one.
        if let Ok(id) = machine_id() {
            assert!(id.len() >= 32, "{id}");
        }
    }

    #[test]
    fn free_space_of_a_folder_and_of_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(folder.path()).unwrap() > 0);
        let error = free_space(&folder.path().join("gone")).unwrap_err();
        assert!(error.to_string().contains("free space"), "{error}");
    }
}
