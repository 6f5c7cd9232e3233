//! The forwarder's image: the agent's own program, and the libraries that it needs, in an otherwise empty tree.
//!
//! A static program stands alone. Another one is put there with its loader and with the shared libraries that this very process
//! has mapped, each at its own path; so every build of the agent makes an image that runs it, and no registry is asked.
//!
//! On other systems than Linux this program is none that a container could run, and an image has to be configured.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// Where the program is in the image.
pub(super) const PROGRAM: &str = "/orfe";

/// How an engine knows an image.
#[derive(Debug, Clone)]
pub(super) struct ImageName {
    /// A reference for the engine.
    pub(super) name: String,
    /// What stands for its content.
    pub(super) id: String,
}

/// Block size of a tar archive.
const BLOCK: usize = 512;

/// A root file system as a tar archive, and the tag that names its content.
pub(super) struct Image {
    pub(super) tag: String,
    pub(super) archive: Bytes,
}

impl Image {
    /// Reads the program of this process, which takes as much memory as the program's file.
    pub(super) fn of_this_program() -> io::Result<Self> {
        if std::env::consts::OS != "linux" {
            return Err(io::Error::other(
                "this program is none for Linux, as containers need (hint: name an image with Linux's `orfe` as \
                 containers.image; docs/containers.md says how to make one)",
            ));
        }
        // What runs, not what has taken its place on the disk since.
        let program = std::fs::read("/proc/self/exe")?;
        let mut archive = Archive::default();
        if let Some(loader) = interpreter(&program) {
            let mut files = mapped_libraries(&std::fs::read_to_string("/proc/self/maps")?);
            files.insert(loader);
            for file in files {
                archive.add(&file, &std::fs::read(&file)?)?;
            }
        }
        archive.add(Path::new(PROGRAM), &program)?;
        let archive = archive.finish();
        let digest = HEXLOWER.encode(&Sha256::digest(&archive)[..6]);
        Ok(Self {
            tag: format!("{}-{digest}", env!("CARGO_PKG_VERSION")),
            archive: archive.into(),
        })
    }
}

/// The path of the loader that an ELF program asks for; none for a static one.
fn interpreter(program: &[u8]) -> Option<PathBuf> {
    // ELF-64, little endian: the program headers' offset at 32, their size at 54, their number at 56.
    const LOADER_ENTRY: u64 = 3;
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = program.get(at..at.checked_add(length)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
        )
    };
    if program.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size) = (number(32, 8)?, number(54, 2)?);
    (0..number(56, 2)?).find_map(|index| {
        let header = usize::try_from(table.checked_add(size * index)?).ok()?;
        if number(header, 4)? != LOADER_ENTRY {
            return None;
        }
        let offset = usize::try_from(number(header + 8, 8)?).ok()?;
        let length = usize::try_from(number(header + 32, 8)?).ok()?;
        let path = program.get(offset..offset.checked_add(length)?)?;
        let path = std::str::from_utf8(path).ok()?.trim_end_matches('\0');
        path.starts_with('/').then(|| PathBuf::from(path))
    })
}

/// The shared libraries in a process's map.
fn mapped_libraries(maps: &str) -> BTreeSet<PathBuf> {
    maps.lines()
        .filter_map(|line| line.find('/').map(|start| &line[start..]))
        .filter(|path| path.contains(".so") && !path.ends_with(" (deleted)"))
        .map(PathBuf::from)
        .collect()
}

/// A tar archive of readable, executable files (POSIX.1-1988), the same for the same files.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    fn add(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        let unfit = || io::Error::other(format!("{} does not fit into the image", path.display()));
        let name = path.to_str().ok_or_else(unfit)?.trim_start_matches('/');
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        // The name has 100 bytes, and 11 octal digits hold 8 GiB.
        if name.len() > 100 || content.len() >= 1 << 33 {
            return Err(unfit());
        }
        put(0, name.as_bytes());
        put(100, b"0000555\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        let rest = content.len().next_multiple_of(BLOCK) - content.len();
        self.bytes.resize(self.bytes.len() + rest, 0);
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

/// The content of the one file in a tar archive that an engine sent, as far as it is there.
pub(super) fn only_file(archive: &[u8]) -> Option<&[u8]> {
    let (header, rest) = archive.split_at_checked(BLOCK)?;
    // Twelve octal digits, of which the last may be a space or nothing.
    let size = std::str::from_utf8(&header[124..136]).ok()?;
    let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).ok()?;
    Some(&rest[..size.min(rest.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_file_of_an_archive_is_read_back() {
        let mut archive = Archive::default();
        archive
            .add(Path::new("/etc/hosts"), b"127.0.0.1 localhost\n")
            .unwrap();
        let archive = archive.finish();
        assert_eq!(only_file(&archive), Some(&b"127.0.0.1 localhost\n"[..]));
        assert_eq!(only_file(&archive[..515]), Some(&b"127"[..]));
        assert_eq!(only_file(&archive[..511]), None);
        assert_eq!(only_file(&[b'9'; 600]), None);
    }

    #[test]
    fn the_loader_of_this_very_test_is_found_and_none_where_there_is_none() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let loader = interpreter(&own);
        assert!(loader.is_none_or(|loader| loader.exists()));
        for broken in [&b""[..], b"#!/bin/sh", b"\x7fELF\x02\x01", &own[..70]] {
            assert_eq!(interpreter(broken), None);
        }
    }

    #[test]
    fn libraries_are_read_from_a_map() {
        let maps = "55-56 r--p 00 fe:01 1 /opt/orfe\n\
                    7f-80 r--p 00 fe:01 2  /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f-81 r--p 00 fe:01 2  /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f-82 r--p 00 fe:01 3  /tmp/old.so (deleted)\n\
                    7f-83 rw-p 00 00:00 0  [stack]\n";
        let expected = BTreeSet::from([PathBuf::from("/usr/lib/x86_64-linux-gnu/libc.so.6")]);
        assert_eq!(mapped_libraries(maps), expected);
    }

    #[test]
    fn tar_reads_the_archive() {
        let mut archive = Archive::default();
        archive.add(Path::new("/lib64/ld.so"), b"loader").unwrap();
        archive.add(Path::new("/orfe"), &[7; 513]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.tar"), archive.finish()).unwrap();
        let output = std::process::Command::new("tar")
            .args(["-xf", "a.tar"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert_eq!(
            std::fs::read(folder.path().join("lib64/ld.so")).unwrap(),
            b"loader"
        );
        assert_eq!(std::fs::read(folder.path().join("orfe")).unwrap(), [7; 513]);
    }
}
