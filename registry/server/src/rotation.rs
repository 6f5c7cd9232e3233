//! The gateway's keys on disk, and the change from one to the next.
//!
//! ```text
//!   one key ──rotate──► new key + old key (until a time, or until told) ──finish──► one key
//! ```
//!
//! `wireguard.key` is the current key and `wireguard-old.key` the one before it, as long as it is good; its second line, when
//! there is one, says until when. The old key is written before the current one is replaced, so a change that is cut short
//! leaves the current key in both files, which is no change at all.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use orfe_platform::private;
use orfe_protocol::key::NoisePrivateKey;
use zeroize::Zeroizing;

use crate::state_folder::{KEY_FILE_MAX, StateFolderError};

const CURRENT: &str = "wireguard.key";
const OLD: &str = "wireguard-old.key";

/// The gateway's keys.
#[derive(Debug, Clone)]
pub(crate) struct GatewayKeys {
    folder: PathBuf,
    pub(crate) current: NoisePrivateKey,
    pub(crate) old: Option<OldKey>,
}

/// A key that is on its way out.
#[derive(Debug, Clone)]
pub(crate) struct OldKey {
    pub(crate) key: NoisePrivateKey,
    /// When it ends by itself.
    pub(crate) until: Option<Timestamp>,
}

impl GatewayKeys {
    /// Reads what stands beside the current key, which the state folder has made or read.
    pub(crate) fn open(folder: &Path, current: NoisePrivateKey) -> Result<Self, StateFolderError> {
        let path = folder.join(OLD);
        let old = match private::read(&path, KEY_FILE_MAX) {
            Ok(bytes) => Some(read_old(&path, &Zeroizing::new(bytes))?),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let is_other = |old: &OldKey| old.key.public_key() != current.public_key();
        Ok(Self {
            folder: folder.to_owned(),
            old: old.filter(is_other),
            current,
        })
    }

    /// The keys after the next change, which is on the disk when this returns.
    pub(crate) fn rotated(&self, until: Option<Timestamp>) -> Result<Self, StateFolderError> {
        let next = NoisePrivateKey::generate().map_err(StateFolderError::Random)?;
        let mut text = self.current.to_base64();
        if let Some(until) = until {
            text.push('\n');
            text.push_str(&until.to_string());
        }
        private::write(&self.folder.join(OLD), text.as_bytes())?;
        private::write(&self.folder.join(CURRENT), next.to_base64().as_bytes())?;
        Ok(Self {
            folder: self.folder.clone(),
            current: next,
            old: Some(OldKey {
                key: self.current.clone(),
                until,
            }),
        })
    }

    /// The keys without the old one, which is gone from the disk when this returns.
    pub(crate) fn finished(&self) -> Result<Self, StateFolderError> {
        let path = self.folder.join(OLD);
        match fs_err::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StateFolderError::Remove { path, source: error });
            }
            _ => {}
        }
        Ok(Self {
            old: None,
            ..self.clone()
        })
    }

    /// Whether the old key's time has run out.
    pub(crate) fn is_overdue(&self, now: Timestamp) -> bool {
        let until = self.old.as_ref().and_then(|old| old.until);
        until.is_some_and(|until| until <= now)
    }
}

fn read_old(path: &Path, bytes: &[u8]) -> Result<OldKey, StateFolderError> {
    let unreadable = || StateFolderError::Key {
        path: path.to_owned(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| unreadable())?;
    let mut lines = text.lines();
    let key = lines
        .next()
        .and_then(|line| line.parse().ok())
        .ok_or_else(unreadable)?;
    let until = lines
        .next()
        .map(|line| line.parse().map_err(|_| unreadable()))
        .transpose()?;
    Ok(OldKey { key, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(folder: &Path) -> GatewayKeys {
        let bytes = private::read(&folder.join(CURRENT), KEY_FILE_MAX).unwrap();
        let current = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
        GatewayKeys::open(folder, current).unwrap()
    }

    #[test]
    fn a_change_of_keys_is_on_disk_at_every_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        private::create_dir(&path).unwrap();
        let first = NoisePrivateKey::generate().unwrap();
        private::write(&path.join(CURRENT), first.to_base64().as_bytes()).unwrap();
        let keys = opened(&path);
        assert!(keys.old.is_none() && !keys.is_overdue(Timestamp::MAX));

        let until: Timestamp = "2027-01-15T08:00:00Z".parse().unwrap();
        let rotated = keys.rotated(Some(until)).unwrap();
        let again = opened(&path);
        assert_eq!(again.current.public_key(), rotated.current.public_key());
        let old = again.old.as_ref().unwrap();
        assert_eq!(
            (old.key.public_key(), old.until),
            (first.public_key(), Some(until))
        );
        assert!(again.is_overdue(until) && !again.is_overdue(Timestamp::UNIX_EPOCH));

        again.finished().unwrap();
        assert!(opened(&path).old.is_none());
        again.finished().unwrap();
    }

    #[test]
    fn a_change_that_was_cut_short_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        private::create_dir(&path).unwrap();
        let key = NoisePrivateKey::generate().unwrap();
        private::write(&path.join(CURRENT), key.to_base64().as_bytes()).unwrap();
        private::write(&path.join(OLD), key.to_base64().as_bytes()).unwrap();
        assert!(opened(&path).old.is_none());
        private::write(&path.join(OLD), b"no key").unwrap();
        assert!(GatewayKeys::open(&path, key).is_err());
    }
}
