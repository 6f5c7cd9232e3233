//! The registry's state folder: who may use it, and the keys in it.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held by the one registry that works on the folder |
//! | `registry.sqlite` | the database |
//! | `noise.key` | identity of the registry towards devices, in base64; join codes carry its public half |
//! | `wireguard.key` | the gateway's key, in base64 |
//! | `wireguard-old.key` | the one before it, while both are good |
//! | `tls.key`, `tls.pem` | key and certificate of our own making, when none is configured |
//! | `admin.sock` | where the CLI speaks to the running registry |
//!
//! The folder is 0700 and every file 0600. Keys are made once, at the first start, before the database; a key file that
//! cannot be read, or is gone while the database is there, is an error and never replaced: the fleet knows the registry
//! by it, and would be cut off without a word.

use std::path::{Path, PathBuf};

use orfe_platform::lock::{LockError, StateLock};
use orfe_platform::paths::{PathError, check_socket_path};
use orfe_platform::private::{self, PrivateFileError};
use orfe_protocol::key::NoisePrivateKey;

/// Largest key file that is read, in bytes.
pub(crate) const KEY_FILE_MAX: u64 = 16 * 1024;

/// Why the folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFolderError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{} holds no key", path.display())]
    Key { path: PathBuf },
    #[error("{} is gone, while the registry's database is there", path.display())]
    KeyGone { path: PathBuf },
    #[error("{} could not be removed", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the system gives no random numbers for a new key")]
    Random(#[source] getrandom::Error),
    #[error(transparent)]
    SocketPath(PathError),
}

impl StateFolderError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Lock(LockError::Held { .. }) => {
                Some("stop the other one first, or give this one its own data folder with `--data`".to_owned())
            }
            Self::Lock(error) => error.hint(),
            Self::Key { .. } => {
                Some("restore the file from a backup; without it every device must join again".to_owned())
            }
            Self::KeyGone { .. } => Some(
                "restore the file from a backup; a new key would cut off every device that has joined, so none is made. \
                 To begin anew, use an empty data folder, and have every device join again"
                    .to_owned(),
            ),
            Self::Random(_) | Self::Remove { .. } => None,
            Self::SocketPath(_) => Some("choose a data folder with a shorter path, with `--data`".to_owned()),
        }
    }
}

/// Where the admin socket of a data folder is.
pub fn admin_socket(data: &Path) -> PathBuf {
    data.join("admin.sock")
}

/// The folder, locked, with its keys. The lock ends with this value.
#[derive(Debug)]
pub(crate) struct StateFolder {
    pub(crate) path: PathBuf,
    pub(crate) noise_key: NoisePrivateKey,
    pub(crate) wireguard_key: NoisePrivateKey,
    _lock: StateLock,
}

impl StateFolder {
    /// Opens the folder, making it and its keys when they are missing.
    pub(crate) fn open(path: &Path) -> Result<Self, StateFolderError> {
        check_socket_path(&admin_socket(path)).map_err(StateFolderError::SocketPath)?;
        private::create_dir(path)?;
        let lock = StateLock::acquire(path)?;
        private::remove_leftovers(path)?;
        let database = path.join("registry.sqlite");
        // An empty one is of a first start that was cut short.
        let fresh = database.metadata().map_or(true, |metadata| metadata.len() == 0);
        let noise_key = key(&path.join("noise.key"), fresh)?;
        let wireguard_key = key(&path.join("wireguard.key"), fresh)?;
        if !database.exists() {
            // SQLite would make it readable for all; its log files take the mode of this one.
            private::write(&database, &[])?;
        }
        Ok(Self {
            noise_key,
            wireguard_key,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("registry.sqlite")
    }
}

/// Reads a key, or makes it in a `fresh` folder. Both kinds of key are 32 bytes of Curve25519.
fn key(path: &Path, fresh: bool) -> Result<NoisePrivateKey, StateFolderError> {
    match private::read(path, KEY_FILE_MAX) {
        Ok(bytes) => {
            let bytes = zeroize::Zeroizing::new(bytes);
            let text = std::str::from_utf8(&bytes).ok();
            text.and_then(|text| text.parse().ok())
                .ok_or_else(|| StateFolderError::Key {
                    path: path.to_owned(),
                })
        }
        Err(error) if error.is_not_found() && !fresh => Err(StateFolderError::KeyGone {
            path: path.to_owned(),
        }),
        Err(error) if error.is_not_found() => {
            let key = NoisePrivateKey::generate().map_err(StateFolderError::Random)?;
            private::write(path, key.to_base64().as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = StateFolder::open(&path).unwrap();
        let (noise, wireguard) = (first.noise_key.public_key(), first.wireguard_key.public_key());
        assert_ne!(noise, wireguard);
        drop(first);
        let second = StateFolder::open(&path).unwrap();
        assert_eq!(
            (second.noise_key.public_key(), second.wireguard_key.public_key()),
            (noise, wireguard)
        );

        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap().path();
            assert_eq!(mode(&entry), 0o600, "{}", entry.display());
        }
    }

    #[test]
    fn a_second_registry_on_the_folder_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let _first = StateFolder::open(&path).unwrap();
        let error = StateFolder::open(&path).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("`--data`"));
    }

    #[test]
    fn a_key_that_cannot_be_read_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        drop(StateFolder::open(&path).unwrap());
        private::write(&path.join("noise.key"), b"not a key").unwrap();
        let error = StateFolder::open(&path).unwrap_err();
        assert!(matches!(error, StateFolderError::Key { .. }), "{error}");
        assert_eq!(std::fs::read(path.join("noise.key")).unwrap(), b"not a key");
    }

    #[test]
    fn a_key_that_is_gone_is_not_made_anew_beside_a_database() {
        for name in ["noise.key", "wireguard.key"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state");
            let database = StateFolder::open(&path).unwrap().database();
            std::fs::remove_file(path.join(name)).unwrap();
            // A database that holds nothing is of a start that was cut short.
            drop(StateFolder::open(&path).unwrap());

            private::write(&database, b"rows").unwrap();
            std::fs::remove_file(path.join(name)).unwrap();
            let error = StateFolder::open(&path).unwrap_err();

            assert!(matches!(error, StateFolderError::KeyGone { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
            assert!(error.hint().unwrap().contains("backup"));
            assert!(!path.join(name).exists());
        }
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_refused() {
        let path = Path::new("/tmp").join("x".repeat(100));
        assert!(matches!(
            StateFolder::open(&path),
            Err(StateFolderError::SocketPath(_))
        ));
        assert!(!path.exists());
    }
}
