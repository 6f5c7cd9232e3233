//! The world that the probes look at: a folder that stands for `/`, and the Docker endpoint.
//!
//! Paths are given relative to the root and named absolute in evidence and problems, so that a fixture
//! and a real machine give the same facts. Reads are bounded, and only regular files are read: a fifo
//! or a device node in an odd place must not hold the probe up.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Environment variable with the Docker endpoint, as Docker's own client reads it.
const ENV_DOCKER_HOST: &str = "DOCKER_HOST";

/// Largest part of a file that is read. The files of procfs and sysfs that are read here are a few KiB; the
/// largest is `pci.ids` with about 1.5 MiB, and `/proc/cpuinfo` of a machine with 1024 processors with about 1.6 MiB.
const READ_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// Where the probes look.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
    docker_host: Option<String>,
}

impl Root {
    /// This machine: `/`, and the endpoint in `DOCKER_HOST` if that is set and not empty.
    pub fn system() -> Self {
        Self {
            path: PathBuf::from("/"),
            docker_host: None,
        }
        .with_docker_host(std::env::var(ENV_DOCKER_HOST).unwrap_or_default())
    }

    /// A folder that stands for `/`; Docker's socket is looked for at its usual place in it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            docker_host: None,
        }
    }

    /// Asks for Docker at this endpoint (`unix:///path`, `tcp://host:port`) and nowhere else; an empty one
    /// means the usual place.
    #[must_use]
    pub fn with_docker_host(mut self, endpoint: impl Into<String>) -> Self {
        self.docker_host = Some(endpoint.into()).filter(|endpoint| !endpoint.is_empty());
        self
    }

    pub(crate) fn docker_host(&self) -> Option<&str> {
        self.docker_host.as_deref()
    }

    /// The real path of an absolute `path` below this root.
    pub(crate) fn resolve(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// Reads a regular file as text; bytes that are not UTF-8 are replaced.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        read_bounded(&self.resolve(path))
    }

    /// Names in a folder, sorted.
    pub(crate) fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = fs::read_dir(self.resolve(path))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// Last part of a symbolic link's target, unfollowed: how sysfs names drivers. `None` when there is no link.
    pub(crate) fn link_name(&self, path: &str) -> io::Result<Option<String>> {
        match fs::read_link(self.resolve(path)) {
            Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether something stands at `path`, a dangling link included.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.resolve(path).symlink_metadata().is_ok()
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(READ_LIMIT_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_regular_files_and_only_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path());
        let big = fs::File::create(folder.path().join("big")).unwrap();
        big.set_len(READ_LIMIT_BYTES * 4).unwrap();

        assert_eq!(root.read("/big").unwrap().len() as u64, READ_LIMIT_BYTES);
        assert_eq!(root.read("/").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(root.read("/gone").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_empty_docker_host_is_none() {
        assert_eq!(Root::at("/x").with_docker_host("").docker_host(), None);
        assert_eq!(
            Root::at("/x").with_docker_host("unix:///y").docker_host(),
            Some("unix:///y")
        );
    }
}
