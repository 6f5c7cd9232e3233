//! The state folder: what must outlive the process.
//!
//! | file | holds |
//! |---|---|
//! | `identity.json` | who this device is and which registry it belongs to; its presence means "enrolled" |
//! | `noise.key`, `wireguard.key` | private keys, made here, never leaving |
//! | `desired.json` | the last desired state, credential included |
//! | `networks.json` | which carrier worked on which network; a hint that may be lost (`run/tunnel/memory.rs`) |
//! | `proxy-N.json` | port and credential of slot N's proxy; a child that outlives us goes on using them |
//! | `proxy.credential` | credential of the proxy for the person at this machine |
//! | `door.json` | port and credential of the door for containers, where that has a port (`run/containers/door.rs`) |
//! | `children.json` | pid and start time of every running child, so that the next life finds orphans |
//! | `lock` | held by the process that works on the folder |
//! | `slots/N/` | home, cache, temporary files and log of the provisioner in slot N |
//!
//! The folder is 0700 and every file 0600, written whole or not at all (`orfe_platform::private`). Keys are written before
//! the claim is sent: when the answer is lost, the same keys claim again and get the same answer.

use std::path::{Path, PathBuf};

use orfe_platform::lock::{LockError, StateLock};
use orfe_platform::private::{self, PrivateFileError};
use orfe_platform::process::ProcessId;
use orfe_protocol::desired::DesiredState;
use orfe_protocol::id::DeviceId;
use orfe_protocol::join_code::SpkiPin;
use orfe_protocol::key::{NoisePrivateKey, NoisePublicKey};
use orfe_protocol::name::DeviceName;
use orfe_protocol::secret::Secret;
use orfe_tunnel_core::PrivateKey as WireGuardPrivateKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use crate::config::TunnelMode;
use crate::failure::{Exit, Failure};

/// Larger than any file here; whoever put something larger into the folder meant harm.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// Who this device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub version: u8,
    pub device: DeviceId,
    /// The name at enrolment; the registry may give another later, which comes with the desired state.
    pub name: DeviceName,
    pub registry_url: Url,
    pub registry_key: NoisePublicKey,
    /// SHA-256 of the registry's TLS public key, base32, when the join code pinned it.
    #[serde(default, with = "pin_text")]
    pub spki_pin: Option<SpkiPin>,
    /// What the person who joined chose; the configuration goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelMode>,
}

/// What was chosen at `orfe join`, for who does not hold the folder; `None` also where that cannot be read.
pub(crate) fn joined_tunnel_mode(folder: &Path) -> Option<TunnelMode> {
    let bytes = private::read(&folder.join("identity.json"), FILE_MAX).ok()?;
    serde_json::from_slice::<Identity>(&bytes).ok()?.tunnel
}

/// Port and credential of a slot's proxy, or of the door for containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub port: u16,
    pub credential: Secret,
}

/// A child that was running when this was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningChild {
    pub slot: u8,
    pub pid: u32,
    pub start_time: u64,
    /// The boot in which it runs: pids and start times begin anew with each.
    pub boot: String,
    /// The state folder whose daemon started it ([`private::folder_id`]); unknown in what older versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    folder: Option<String>,
}

impl RunningChild {
    pub(crate) fn id(&self) -> ProcessId {
        ProcessId {
            pid: self.pid,
            start_time: self.start_time,
        }
    }
}

/// The folder, locked by this process.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    _lock: StateLock,
}

impl StateFolder {
    /// Makes the folder if need be and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let unusable = |error: PrivateFileError| {
            Failure::from(error).hint_or("give Orfe a state folder of its own with `--state`")
        };
        private::create_dir(path).map_err(unusable)?;
        let lock = StateLock::acquire(path).map_err(|error| match error {
            LockError::Held { .. } => Failure::new("another Orfe process works on this state folder")
                .hint(
                    "stop the other one first, or give this one a state folder of its own with `--state`"
                        .to_owned(),
                )
                .because(error),
            LockError::File(error) => Failure::from(error),
        })?;
        private::remove_leftovers(path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// [`Self::open`] for who does not begin anything new: where there is no folder, none is made.
    pub(crate) fn open_existing(path: &Path) -> Result<Option<Self>, Failure> {
        match fs_err::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            // Whatever else is wrong with it, opening it says better.
            _ => Self::open(path).map(Some),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a slot; made by whoever starts a child there.
    pub(crate) fn slot(&self, slot: u8) -> PathBuf {
        self.path.join("slots").join(slot.to_string())
    }

    pub(crate) fn identity(&self) -> Result<Option<Identity>, Failure> {
        self.read_json("identity.json")
    }

    pub(crate) fn store_identity(&self, identity: &Identity) -> Result<(), Failure> {
        self.write_json("identity.json", identity)
    }

    pub(crate) fn desired(&self) -> Result<Option<DesiredState>, Failure> {
        self.read_or_set_aside("desired.json")
    }

    pub(crate) fn store_desired(&self, desired: &DesiredState) -> Result<(), Failure> {
        self.write_json("desired.json", desired)
    }

    /// Removes the desired state, credential included, and what was ever set aside of it.
    pub(crate) fn forget_desired(&self) -> Result<(), Failure> {
        for name in ["desired.json", "desired.json.spoilt"] {
            let path = self.path.join(name);
            match fs_err::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::new(format!("cannot remove {}", path.display())).because(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn proxy_seat(&self, slot: u8) -> Result<Option<Seat>, Failure> {
        self.read_or_set_aside(&proxy_file(slot))
    }

    pub(crate) fn store_proxy_seat(&self, slot: u8, seat: &Seat) -> Result<(), Failure> {
        self.write_json(&proxy_file(slot), seat)
    }

    /// The credential of the proxy for the person at this machine.
    pub(crate) fn proxy_credential(&self) -> Result<Option<Secret>, Failure> {
        let text = self.read_text("proxy.credential")?;
        Ok(text.map(|text| Secret::new(text.trim_ascii().to_owned())))
    }

    pub(crate) fn store_proxy_credential(&self, credential: &Secret) -> Result<(), Failure> {
        let line = Zeroizing::new(format!("{}\n", credential.expose()));
        Ok(private::write(
            &self.path.join("proxy.credential"),
            line.as_bytes(),
        )?)
    }

    /// The record of a child of this folder's daemon.
    pub(crate) fn running_child(
        &self,
        slot: u8,
        id: ProcessId,
        boot: String,
    ) -> Result<RunningChild, Failure> {
        Ok(RunningChild {
            slot,
            pid: id.pid,
            start_time: id.start_time,
            boot,
            folder: Some(private::folder_id(&self.path)?),
        })
    }

    /// The children on record. Those of another folder, of which this one is a copy, are none of ours: a daemon may watch them.
    pub(crate) fn children(&self) -> Result<Vec<RunningChild>, Failure> {
        let recorded: Vec<RunningChild> = self.read_or_set_aside("children.json")?.unwrap_or_default();
        let own = private::folder_id(&self.path)?;
        let (ours, others): (Vec<_>, Vec<_>) = recorded
            .into_iter()
            .partition(|child| child.folder.as_ref().is_none_or(|folder| *folder == own));
        for child in others {
            tracing::warn!(
                slot = child.slot,
                pid = child.pid,
                "a provisioner on record was started from another state folder, of which this is a copy; it is left alone"
            );
        }
        Ok(ours)
    }

    pub(crate) fn store_children(&self, children: &[RunningChild]) -> Result<(), Failure> {
        self.write_json("children.json", &children)
    }

    /// The device's identity key; made at the first call, and never anew for a device that is enrolled.
    pub(crate) fn noise_key(&self) -> Result<NoisePrivateKey, Failure> {
        if let Some(text) = self.read_text("noise.key")? {
            return text.parse().map_err(|error| self.spoilt("noise.key", error));
        }
        self.may_make("noise.key")?;
        let key = NoisePrivateKey::generate().map_err(no_randomness)?;
        private::write(&self.path.join("noise.key"), key.to_base64().as_bytes())?;
        Ok(key)
    }

    /// The key of the device's end of the tunnel; made at the first call, and never anew for a device that is enrolled.
    pub(crate) fn wireguard_key(&self) -> Result<WireGuardPrivateKey, Failure> {
        if let Some(text) = self.read_text("wireguard.key")? {
            return text.parse().map_err(|error| self.spoilt("wireguard.key", error));
        }
        self.may_make("wireguard.key")?;
        let key = WireGuardPrivateKey::generate();
        private::write(&self.path.join("wireguard.key"), key.to_base64().as_bytes())?;
        Ok(key)
    }

    /// The registry knows an enrolled device by its keys: with a new one it would be a stranger, for no reason that shows.
    fn may_make(&self, key: &str) -> Result<(), Failure> {
        if self.identity()?.is_none() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "this machine is enrolled, and its key {} is gone",
            self.path.join(key).display()
        ))
        .hint(format!(
            "put the file back, or move {} away and join with a new code",
            self.path.display()
        )))
    }

    fn read_text(&self, name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
        let Some(bytes) = self.read(name)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| self.spoilt(name, error))?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        read(&self.path.join(name))
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(bytes) = self.read(name)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| self.spoilt(name, error))
    }

    fn read_or_set_aside<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        read_or_set_aside(&self.path.join(name))
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let json = serde_json::to_vec_pretty(value).map_err(|error| self.spoilt(name, error))?;
        let json = Zeroizing::new(json);
        Ok(private::write(&self.path.join(name), &json)?)
    }

    fn spoilt(&self, name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
        let path = self.path.join(name);
        Failure::new(format!("{} does not hold what it should", path.display()))
            .hint(format!(
                "move the whole folder {} away and join again with a new code; nothing but Orfe writes there",
                self.path.display()
            ))
            .because(error)
    }
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    match private::read(path, FILE_MAX) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// For what can be had again: a file that does not hold what it should is renamed, and counts as missing.
pub(crate) fn read_or_set_aside<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let error = match private::read(path, FILE_MAX).map(Zeroizing::new) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => return Ok(Some(value)),
            Err(error) => error.to_string(),
        },
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error @ PrivateFileError::TooLarge { .. }) => error.to_string(),
        Err(error) => return Err(error.into()),
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(".spoilt");
    let aside = PathBuf::from(aside);
    tracing::warn!(file = %path.display(), error, "unreadable; set aside as {}, and had anew", aside.display());
    fs_err::rename(path, &aside)
        .map_err(|error| Failure::new("a spoilt file cannot be set aside").because(error))?;
    Ok(None)
}

fn proxy_file(slot: u8) -> String {
    format!("proxy-{slot}.json")
}

fn no_randomness(error: getrandom::Error) -> Failure {
    Failure::new("the system gives no random bytes, so no key can be made")
        .exit(Exit::Failed)
        .because(error)
}

mod pin_text {
    use data_encoding::BASE32_NOPAD;
    use orfe_protocol::join_code::SpkiPin;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde's `with` asks for")]
    pub(super) fn serialize<S: Serializer>(pin: &Option<SpkiPin>, serializer: S) -> Result<S::Ok, S::Error> {
        pin.map(|pin| BASE32_NOPAD.encode(&pin.0).to_lowercase())
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SpkiPin>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let bytes = BASE32_NOPAD.decode(text.to_uppercase().as_bytes()).ok();
        let pin = bytes.and_then(|bytes| bytes.try_into().ok()).map(SpkiPin);
        pin.map(Some)
            .ok_or_else(|| serde::de::Error::custom("not a SHA-256 in base32"))
    }
}

#[cfg(test)]
mod tests;
