//! A child's output on disk: two files of a fixed size, readable by their owner alone.
//!
//! Lines go to `NAME`; when the next one does not fit, `NAME` becomes `NAME.1` (the former `NAME.1` is gone) and a
//! new `NAME` begins. So there are never more than twice `max_bytes`. Build logs hold private data of their
//! users, hence mode 0600.
//!
//! A write that fails loses that line and is counted; the next one tries again, so a disk that
//! was full for a while is no reason to stop.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use orfe_platform::private::{self, PrivateFileError};

/// Where a log goes, and how large it may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSpec {
    /// The newer file; the older one has `.1` added. Its folder must exist.
    pub path: PathBuf,
    /// The most that each of the two files may hold, in bytes. A line that is longer by itself is cut.
    pub max_bytes: u64,
}

impl LogSpec {
    /// With the usual 5 MiB for each file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_bytes: 5 << 20,
        }
    }
}

/// An open log.
#[derive(Debug)]
pub struct LogFile {
    spec: LogSpec,
    file: File,
    /// What `file` holds, in bytes.
    length: u64,
    lost: u64,
}

impl LogFile {
    /// Opens the newer file for appending. One that others may read is refused.
    pub fn open(spec: LogSpec) -> Result<Self, PrivateFileError> {
        let (file, length) = open(&spec.path)?;
        Ok(Self {
            spec,
            file,
            length,
            lost: 0,
        })
    }

    /// Appends one line. The write is a plain blocking one: a line in the page cache costs microseconds.
    pub fn append(&mut self, line: &str) {
        if let Err(error) = self.try_append(line) {
            self.lost += 1;
            // Said once for each run of losses that doubles, or a full disk would fill the agent's own log.
            if self.lost.is_power_of_two() {
                tracing::warn!(lost = self.lost, error = %error, "lines of a child's log are lost");
            }
        }
    }

    /// How many lines could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn try_append(&mut self, line: &str) -> Result<(), PrivateFileError> {
        let most = usize::try_from(self.spec.max_bytes.saturating_sub(1)).unwrap_or(usize::MAX);
        let line = &line[..line.floor_char_boundary(most.min(line.len()))];
        let needed = line.len() as u64 + 1;
        if self.length > 0 && self.length + needed > self.spec.max_bytes {
            self.rotate()?;
        }
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        let written = self.file.write_all(&bytes);
        if let Err(source) = written {
            // A part may have been written: ask how much is there, so that the limit holds.
            self.length = self
                .file
                .metadata()
                .map_or(self.spec.max_bytes, |metadata| metadata.len());
            return Err(PrivateFileError::Io {
                action: "write",
                path: self.spec.path.clone(),
                source,
            });
        }
        self.length += needed;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), PrivateFileError> {
        let older = older(&self.spec.path);
        if let Err(source) = std::fs::rename(&self.spec.path, &older) {
            // Somebody may have taken the newer file away; a fresh one is made below all the same.
            if source.kind() != std::io::ErrorKind::NotFound {
                return Err(PrivateFileError::Io {
                    action: "rotate",
                    path: older,
                    source,
                });
            }
        }
        (self.file, self.length) = open(&self.spec.path)?;
        Ok(())
    }
}

fn open(path: &Path) -> Result<(File, u64), PrivateFileError> {
    let file = private::open_append(path)?;
    let length = file
        .metadata()
        .map_err(|source| PrivateFileError::Io {
            action: "look at",
            path: path.to_path_buf(),
            source,
        })?
        .len();
    Ok((file, length))
}

fn older(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_two_files_of_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let spec = LogSpec {
            path: folder.path().join("slot-1.log"),
            max_bytes: 100,
        };
        let mut log = LogFile::open(spec.clone()).unwrap();
        for number in 0..50 {
            log.append(&format!("line {number:03}"));
            assert!(size(&spec.path) <= 100);
            assert!(size(&older(&spec.path)) <= 100);
        }
        let newer = std::fs::read_to_string(&spec.path).unwrap();
        let older = std::fs::read_to_string(older(&spec.path)).unwrap();
        let kept: Vec<&str> = older.lines().chain(newer.lines()).collect();
        assert_eq!(kept.last(), Some(&"line 049"));
        let expected: Vec<String> = (50 - kept.len()..50)
            .map(|number| format!("line {number:03}"))
            .collect();
        assert_eq!(kept, expected, "the newest lines, in order, and none is missing");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn goes_on_where_an_earlier_life_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let spec = LogSpec {
            path: folder.path().join("log"),
            max_bytes: 100,
        };
        LogFile::open(spec.clone()).unwrap().append(&"a".repeat(60));
        LogFile::open(spec.clone()).unwrap().append(&"b".repeat(60));
        assert_eq!(
            size(&older(&spec.path)),
            61,
            "the length of the earlier life counted"
        );
        assert_eq!(size(&spec.path), 61);
    }

    #[test]
    fn line_above_the_limit_is_cut_at_a_character() {
        let folder = tempfile::tempdir().unwrap();
        let spec = LogSpec {
            path: folder.path().join("log"),
            max_bytes: 10,
        };
        let mut log = LogFile::open(spec.clone()).unwrap();
        log.append("äöüäöüäöü");
        assert_eq!(std::fs::read_to_string(&spec.path).unwrap(), "äöüä\n");
    }

    #[cfg(unix)]
    #[test]
    fn file_is_private() {
        use std::os::unix::fs::MetadataExt as _;

        let folder = tempfile::tempdir().unwrap();
        let spec = LogSpec::new(folder.path().join("log"));
        let mut log = LogFile::open(spec.clone()).unwrap();
        log.append("x");
        assert_eq!(std::fs::metadata(&spec.path).unwrap().mode() & 0o777, 0o600);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_disk_loses_lines_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let spec = LogSpec::new(folder.path().join("log"));
        let mut log = LogFile::open(spec.clone()).unwrap();
        // Every write to this device fails as on a full disk.
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut log.file, full);
        log.append("lost");
        log.append("lost too");
        assert_eq!(log.lost(), 2);
        log.file = file;
        log.length = 0;
        log.append("kept");
        assert_eq!(std::fs::read_to_string(&spec.path).unwrap(), "kept\n");
    }

    fn size(path: &Path) -> u64 {
        std::fs::metadata(path).map_or(0, |metadata| metadata.len())
    }
}
