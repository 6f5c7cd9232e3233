//! How workspace containers get to Coder: the owner's choices.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Origin, Setting, pick, words};
use crate::failure::{Exit, Failure};

/// What may stand below `[containers]`, and what holds where nothing does.
#[derive(Debug, Clone)]
pub(crate) struct Containers {
    /// Whether workspace containers get a way to Coder.
    pub enabled: Setting<Enabled>,
    /// The Docker network that they join for it.
    pub network: Setting<String>,
    /// How the forwarder reaches the agent.
    pub door: Setting<DoorChoice>,
    /// Where the forwarder's program is, unless it is this one.
    pub image: Setting<Option<String>>,
    /// Whether the agent listens at the engine's `host-gateway`.
    pub host_gateway: Setting<HostGateway>,
}

/// Whether workspace containers get a way to Coder through the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Enabled {
    /// Where there is a tunnel and a Docker engine that this user may use.
    Auto,
    Off,
}

/// How the forwarder in its container reaches the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DoorChoice {
    /// By what the engine says of itself.
    Auto,
    /// A unix socket that is mounted into the container.
    Socket,
    /// A port at `host.docker.internal`, which asks for a credential.
    Tcp,
}

/// Whether the agent listens on the host for containers of the engine's default bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HostGateway {
    On,
    Off,
}

/// The same in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, which begins with the line `[containers]`"
)]
pub(super) struct RawContainers {
    enabled: Option<Enabled>,
    network: Option<String>,
    door: Option<DoorChoice>,
    image: Option<String>,
    host_gateway: Option<HostGateway>,
}

impl Enabled {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

impl<'de> Deserialize<'de> for Enabled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        words::one_of(deserializer, &[Self::Auto, Self::Off], Self::as_str)
    }
}

impl DoorChoice {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Socket => "socket",
            Self::Tcp => "tcp",
        }
    }
}

impl<'de> Deserialize<'de> for DoorChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        words::one_of(deserializer, &[Self::Auto, Self::Socket, Self::Tcp], Self::as_str)
    }
}

impl HostGateway {
    const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl<'de> Deserialize<'de> for HostGateway {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        words::one_of(deserializer, &[Self::On, Self::Off], Self::as_str)
    }
}

/// Name of the Docker network unless another is configured; the documentation's template blocks have it too.
const NETWORK: &str = "orfe";
/// Longer than any reference of an image that a registry takes, in characters.
const IMAGE_MAX: usize = 512;

/// Checks what the variable and the file say.
pub(super) fn resolve(
    variable: Option<String>,
    file: &Path,
    raw: RawContainers,
) -> Result<Containers, Failure> {
    let enabled = variable.map(|text| enabled(&text)).transpose()?;
    if let Some(network) = &raw.network {
        check_network(network, file)?;
    }
    if let Some(image) = &raw.image {
        check_image(image, file)?;
    }
    Ok(Containers {
        enabled: pick(None, enabled, raw.enabled, || Enabled::Auto),
        network: pick(None, None, raw.network, || NETWORK.to_owned()),
        door: pick(None, None, raw.door, || DoorChoice::Auto),
        image: pick(None, None, raw.image.map(Some), || None),
        host_gateway: pick(None, None, raw.host_gateway, || HostGateway::Off),
    })
}

impl Containers {
    /// For `orfe config show`.
    pub(super) fn rows(&self) -> [(&'static str, String, Origin); 5] {
        let image = self.image.value.as_deref().unwrap_or("made from this program");
        [
            (
                "containers.enabled",
                self.enabled.value.as_str().to_owned(),
                self.enabled.origin,
            ),
            (
                "containers.network",
                self.network.value.clone(),
                self.network.origin,
            ),
            (
                "containers.door",
                self.door.value.as_str().to_owned(),
                self.door.origin,
            ),
            ("containers.image", image.to_owned(), self.image.origin),
            (
                "containers.host_gateway",
                self.host_gateway.value.as_str().to_owned(),
                self.host_gateway.origin,
            ),
        ]
    }
}

fn enabled(text: &str) -> Result<Enabled, Failure> {
    match text {
        "auto" => Ok(Enabled::Auto),
        "off" => Ok(Enabled::Off),
        _ => Err(Failure::new(format!("ORFE_CONTAINERS is `{text}`"))
            .hint("`auto` and `off` are the choices".to_owned())
            .exit(Exit::Usage)),
    }
}

/// A name that Docker takes, and none of its own networks, whose settings are not ours to rely on.
fn check_network(name: &str, file: &Path) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let begins = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let own = matches!(name, "bridge" | "host" | "none" | "default" | "container");
    if begins && name.len() <= 64 && name.bytes().all(plain) && !own {
        return Ok(());
    }
    Err(Failure::new(format!(
        "containers.network in {} cannot be `{name}`",
        file.display()
    ))
    .hint("a name of its own out of A-Z a-z 0-9 - . _, at most 64 characters, as in `orfe`".to_owned())
    .exit(Exit::Usage))
}

/// What could be a reference; the engine decides.
fn check_image(image: &str, file: &Path) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/:@".contains(&byte);
    let begins = image
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && image.len() <= IMAGE_MAX && image.bytes().all(plain) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "containers.image in {} cannot be `{image}`",
        file.display()
    ))
    .hint("a name that `docker image inspect` takes, as in `registry.example.com/orfe:0.1`".to_owned())
    .exit(Exit::Usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Containers, String> {
        let raw = toml::from_str(text).map_err(|error| error.to_string())?;
        resolve(None, Path::new("agent.toml"), raw).map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_nobody_chose_changes_nothing_on_the_host() {
        let settings = settings("").unwrap();
        assert_eq!(settings.host_gateway.value, HostGateway::Off);
        assert_eq!(settings.door.value, DoorChoice::Auto);
        assert_eq!(settings.image.value, None);
        let shown: Vec<_> = settings
            .rows()
            .map(|(name, value, _)| format!("{name} {value}"))
            .into();
        assert_eq!(
            shown,
            [
                "containers.enabled auto",
                "containers.network orfe",
                "containers.door auto",
                "containers.image made from this program",
                "containers.host_gateway off"
            ]
        );
    }

    #[test]
    fn choices_are_taken_and_others_refused() {
        let chosen =
            settings("door = \"tcp\"\nhost_gateway = \"on\"\nimage = \"r.example.com:5000/orfe@sha256:0a\"");
        let chosen = chosen.unwrap();
        assert_eq!(chosen.door.value, DoorChoice::Tcp);
        assert_eq!(chosen.host_gateway.value, HostGateway::On);
        assert_eq!(chosen.image.origin, Origin::File);
        for wrong in [
            "door = \"udp\"",
            "host_gateway = \"auto\"",
            "host_gateway = true",
            "image = \"\"",
            "image = \"-v\"",
            "image = \"a b\"",
            "network = \"host\"",
            "gateway = \"on\"",
        ] {
            assert!(settings(wrong).is_err(), "{wrong}");
        }
    }
}
