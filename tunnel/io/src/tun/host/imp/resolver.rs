//! Files that name the servers of single domains, as resolver(5) of macOS has them: the file's name is the domain, which holds
//! for all names below it, too.
//!
//! Whose file it is stands in its first line. One of somebody else is neither overwritten nor removed.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::tun::host::change::Change;
use crate::tun::host::journal::Journal;
use crate::tun::host::{HostTunnelError, SplitDns};

/// The first line of our files.
const MARK: &str = "# Made by orfe for its tunnel, and removed with it.\n";

/// Writes a file for each domain into `folder`, which is made if need be.
pub(super) fn split(
    folder: &Path,
    device: &str,
    dns: &SplitDns,
    journal: &mut Journal,
) -> Result<(), HostTunnelError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| HostTunnelError::Dns {
            device: device.to_owned(),
            reason: format!("{path}: {error}"),
        }
    };
    if !folder.is_dir() {
        journal.note(Change::ResolverFolder)?;
        make_folder(folder).map_err(failed(folder))?;
    }
    let text = text(&dns.servers);
    for domain in &dns.domains {
        let file = folder.join(domain);
        // Looked at before it is noted: what is noted is taken back.
        match is_ours(&file) {
            Ok(true) => fs::remove_file(&file).map_err(failed(&file))?,
            Ok(false) => {
                let error = io::Error::new(io::ErrorKind::AlreadyExists, "it is there already, and not ours");
                return Err(failed(&file)(error));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&file)(error)),
        }
        journal.note(Change::Resolver {
            domain: domain.clone(),
        })?;
        write(&file, &text).map_err(failed(&file))?;
    }
    Ok(())
}

/// Removes the file of a domain, if it is ours.
pub(super) fn remove(folder: &Path, domain: &str) -> io::Result<()> {
    let file = folder.join(domain);
    match is_ours(&file) {
        Ok(true) => fs::remove_file(&file),
        Ok(false) => {
            tracing::warn!(file = %file.display(), "somebody else has written this file meanwhile; it stays");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the folder, unless somebody else has put something there.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn text(servers: &[IpAddr]) -> String {
    let mut text = MARK.to_owned();
    for server in servers {
        // Writing to a string does not fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

/// Whether the first line is ours, or what a process wrote of it before it was killed.
fn is_ours(file: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(file)?
        .take(MARK.len() as u64)
        .read_to_end(&mut start)?;
    Ok(MARK.as_bytes().starts_with(&start))
}

/// The folder and its files are for everybody to read, whatever this process gives its own.
fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// Not by a second file that is renamed: in this folder it would be the file of a domain.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut open = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(file)?;
    open.set_permissions(fs::Permissions::from_mode(0o644))?;
    open.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn dns(domains: &[&str]) -> SplitDns {
        SplitDns {
            servers: vec!["100.127.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            domains: domains.iter().map(ToString::to_string).collect(),
        }
    }

    struct Host {
        root: tempfile::TempDir,
        journal: Journal,
    }

    impl Host {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let journal = Journal::open(&root.path().join("state")).unwrap();
            Self { root, journal }
        }

        fn folder(&self) -> PathBuf {
            self.root.path().join("resolver")
        }

        fn split(&mut self, domains: &[&str]) -> Result<(), HostTunnelError> {
            let folder = self.folder();
            split(&folder, "utun5", &dns(domains), &mut self.journal)
        }

        fn noted(&self) -> String {
            fs::read_to_string(self.root.path().join("state/tun-changes")).unwrap()
        }
    }

    #[test]
    fn each_domain_has_a_file_until_it_is_taken_back() {
        let mut host = Host::new();
        host.split(&["coder.example", "registry.example"]).unwrap();
        let folder = host.folder();
        assert_eq!(
            fs::read_to_string(folder.join("coder.example")).unwrap(),
            "# Made by orfe for its tunnel, and removed with it.\nnameserver 100.127.0.1\nnameserver fd00::1\n"
        );
        assert_eq!(
            fs::metadata(folder.join("coder.example"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o644
        );
        assert_eq!(
            host.noted(),
            "resolver-folder\nresolver coder.example\nresolver registry.example\n"
        );
        // Again, as after a crash whose journal is lost.
        host.split(&["coder.example"]).unwrap();
        for domain in ["coder.example", "registry.example", "never.example"] {
            remove(&folder, domain).unwrap();
        }
        remove_folder(&folder).unwrap();
        assert!(!folder.exists());
        remove_folder(&folder).unwrap();
    }

    #[test]
    fn what_a_killed_process_began_is_removed_as_well() {
        let host = Host::new();
        let folder = host.folder();
        fs::create_dir(&folder).unwrap();
        for written in [0, 7, MARK.len()] {
            fs::write(folder.join("coder.example"), &MARK[..written]).unwrap();
            remove(&folder, "coder.example").unwrap();
            assert!(!folder.join("coder.example").exists(), "{written} bytes");
        }
    }

    #[test]
    fn a_file_of_somebody_else_stays_as_it_is() {
        let mut host = Host::new();
        let folder = host.folder();
        fs::create_dir(&folder).unwrap();
        let file = folder.join("coder.example");
        fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
        let error = host.split(&["coder.example"]).unwrap_err();
        assert!(error.to_string().contains("not ours"), "{error}");
        remove(&folder, "coder.example").unwrap();
        remove_folder(&folder).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.1\n");
        assert!(!host.root.path().join("state/tun-changes").exists());
    }
}
