//! What is asked of the Docker engine: a network, an image, and a container in it.
//!
//! Everything that is made bears the labels `orfe.role` and, but for the image, what it belongs to. A container whose label
//! `orfe.spec` differs from what is wanted is replaced as a whole: nothing is ever changed in place.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HostConfig, HostConfigLogConfig,
    NetworkCreateRequest, NetworkInspect, NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, RemoveContainerOptionsBuilder,
};
use data_encoding::HEXLOWER;
use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};

use super::DOOR;
use super::image::{Image, PROGRAM};

const ROLE: &str = "orfe.role";
const SPEC: &str = "orfe.spec";
const DEVICE: &str = "orfe.device";
/// Repository of the images; the tag is the version and the content.
const REPOSITORY: &str = "orfe-forwarder";
/// Where the door's folder is in the container.
const MOUNTED: &str = "/run/orfe";
/// How long one answer of the engine may take; taking in an image is the longest.
const ANSWER: Duration = Duration::from_secs(60);
/// Bounds of the forwarder: 1024 connections take about 80 MiB of buffers at the most.
const MEMORY: i64 = 256 * 1024 * 1024;
const PROCESSES: i64 = 16;

/// Why there is no way for containers.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is no engine, or this user may not use it.
    NoEngine(String),
    /// The engine does not do what is asked of it.
    Failed(String),
}

/// What is wanted.
#[derive(Debug)]
pub(super) struct Spec<'a> {
    pub(super) network: &'a str,
    pub(super) container: &'a str,
    pub(super) device: &'a str,
    pub(super) folder: &'a Path,
    pub(super) names: &'a BTreeSet<String>,
    pub(super) ports: &'a BTreeSet<u16>,
}

/// An engine that answers and that can mount a folder of this machine.
pub(super) struct Engine {
    docker: Docker,
    /// The engine runs as an ordinary user, whom the container sees as root.
    rootless: bool,
    /// The engine gives containers other user ids than the host's.
    remapped: bool,
}

/// Asks the engine who it is.
pub(super) async fn connect() -> Result<Engine, Trouble> {
    let none = |error: Error| Trouble::NoEngine(said(&error));
    let docker = orfe_hardware::engine(&orfe_hardware::Root::system(), ANSWER).map_err(none)?;
    // Engines refuse a version of the API that is newer than their own.
    let docker = docker.negotiate_version().await.map_err(none)?;
    let info = docker.info().await.map_err(none)?;
    if info.operating_system.as_deref() == Some("Docker Desktop") {
        return Err(Trouble::Failed(
            "Docker Desktop cannot mount a unix socket of this machine (hint: use TUN mode, or an engine on this machine \
             itself; containers.enabled = \"off\" silences this)"
                .to_owned(),
        ));
    }
    let options = info.security_options.unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option.contains(name));
    Ok(Engine {
        docker,
        rootless: has("name=rootless"),
        remapped: has("name=userns"),
    })
}

impl Engine {
    /// Makes network, image and container as wanted; does nothing where they are so. `tag` remembers the image.
    pub(super) async fn ensure(&self, spec: &Spec<'_>, tag: &mut Option<String>) -> Result<(), Trouble> {
        let network = self.ensure_network(spec.network).await?;
        let image = match tag {
            Some(known) if self.has_image(known).await? => known.clone(),
            _ => {
                let image = self.ensure_image().await?;
                *tag = Some(image.clone());
                image
            }
        };
        let body = self.container(spec, &image, &network)?;
        let found = absent(self.docker.inspect_container(spec.container, None).await)
            .map_err(|error| failed("the forwarder cannot be looked at", &error))?;
        if let Some(found) = found {
            if is_as_wanted(&found, &body) {
                return Ok(());
            }
            if label(&found, ROLE) != Some("forwarder") {
                return Err(Trouble::Failed(format!(
                    "a container `{}` is there that is not Orfe's (hint: rename or remove it)",
                    spec.container
                )));
            }
            self.remove(spec.container).await?;
        }
        let options = CreateContainerOptionsBuilder::new().name(spec.container).build();
        self.docker
            .create_container(Some(options), body)
            .await
            .map_err(|error| failed("the forwarder cannot be made", &error))?;
        self.docker
            .start_container(spec.container, None)
            .await
            .map_err(|error| failed("the forwarder cannot be started", &error))
    }

    /// Removes the forwarder; one that is not there is as good.
    pub(super) async fn remove(&self, container: &str) -> Result<(), Trouble> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        absent(self.docker.remove_container(container, Some(options)).await)
            .map(|_| ())
            .map_err(|error| failed("the forwarder cannot be removed", &error))
    }

    async fn ensure_network(&self, name: &str) -> Result<NetworkInspect, Trouble> {
        let cannot = |error: Error| failed("the network cannot be looked at", &error);
        if let Some(network) = absent(self.docker.inspect_network(name, None).await).map_err(cannot)? {
            let ours = network
                .labels
                .as_ref()
                .is_some_and(|labels| labels.contains_key(ROLE));
            return if ours {
                Ok(network)
            } else {
                Err(Trouble::Failed(format!(
                    "a network `{name}` is there that is not Orfe's (hint: choose another containers.network)"
                )))
            };
        }
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            labels: Some(HashMap::from([(ROLE.to_owned(), "network".to_owned())])),
            ..NetworkCreateRequest::default()
        };
        self.docker
            .create_network(request)
            .await
            .map_err(|error| failed("the network cannot be made", &error))?;
        self.docker.inspect_network(name, None).await.map_err(cannot)
    }

    async fn has_image(&self, reference: &str) -> Result<bool, Trouble> {
        absent(self.docker.inspect_image(reference).await)
            .map(|image| image.is_some())
            .map_err(|error| failed("the image cannot be looked at", &error))
    }

    async fn ensure_image(&self) -> Result<String, Trouble> {
        let image = tokio::task::spawn_blocking(Image::of_this_program)
            .await
            .map_err(std::io::Error::other)
            .and_then(|image| image)
            .map_err(|error| Trouble::Failed(format!("the forwarder's image cannot be made: {error}")))?;
        let reference = format!("{REPOSITORY}:{}", image.tag);
        if !self.has_image(&reference).await? {
            let options = CreateImageOptionsBuilder::new()
                .from_src("-")
                .repo(REPOSITORY)
                .tag(&image.tag)
                .build();
            self.docker
                .create_image(Some(options), Some(bollard::body_full(image.archive)), None)
                .try_collect::<Vec<_>>()
                .await
                .map_err(|error| failed("the engine does not take the forwarder's image", &error))?;
        }
        Ok(reference)
    }

    fn container(
        &self,
        spec: &Spec<'_>,
        image: &str,
        network: &NetworkInspect,
    ) -> Result<ContainerCreateBody, Trouble> {
        let owner = std::fs::metadata(spec.folder)
            .map_err(|error| Trouble::Failed(format!("cannot look at {}: {error}", spec.folder.display())))?;
        // Who owns the door's folder; under a rootless engine that is the container's root.
        let user = if self.rootless {
            "0:0".to_owned()
        } else {
            format!("{}:{}", owner.uid(), owner.gid())
        };
        let mut command = vec![
            "forwarder".to_owned(),
            "--agent".to_owned(),
            format!("{MOUNTED}/{DOOR}"),
        ];
        let configs = network.ipam.as_ref().and_then(|ipam| ipam.config.as_deref());
        for config in configs.unwrap_or_default() {
            for (option, value) in [("--from", &config.subnet), ("--except", &config.gateway)] {
                if let Some(value) = value {
                    // Some engines write a gateway with its prefix.
                    let value = match option {
                        "--except" => value.split('/').next().unwrap_or(value),
                        _ => value,
                    };
                    command.extend([option.to_owned(), value.to_owned()]);
                }
            }
        }
        for port in spec.ports {
            command.extend(["--port".to_owned(), port.to_string()]);
        }
        let digest = Sha256::digest(format!(
            "{image} {user} {command:?} {:?} {} {} {:?}",
            spec.names,
            spec.folder.display(),
            self.remapped,
            network.id
        ));
        let labels = [
            (ROLE, "forwarder"),
            (DEVICE, spec.device),
            (SPEC, &HEXLOWER.encode(&digest[..16])),
        ];
        let endpoint = EndpointSettings {
            aliases: Some(spec.names.iter().cloned().collect()),
            ..EndpointSettings::default()
        };
        Ok(ContainerCreateBody {
            image: Some(image.to_owned()),
            user: Some(user),
            entrypoint: Some(vec![PROGRAM.to_owned()]),
            cmd: Some(command),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            host_config: Some(self.host_config(spec)),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(spec.network.to_owned(), endpoint)])),
            }),
            ..ContainerCreateBody::default()
        })
    }

    fn host_config(&self, spec: &Spec<'_>) -> HostConfig {
        HostConfig {
            binds: Some(vec![format!("{}:{MOUNTED}:ro", spec.folder.display())]),
            network_mode: Some(spec.network.to_owned()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            // In the container's own network namespace alone: so that no capability is needed for port 443.
            sysctls: Some(HashMap::from([(
                "net.ipv4.ip_unprivileged_port_start".to_owned(),
                "0".to_owned(),
            )])),
            userns_mode: self.remapped.then(|| "host".to_owned()),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            memory: Some(MEMORY),
            pids_limit: Some(PROCESSES),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(HashMap::from([
                    ("max-size".to_owned(), "1m".to_owned()),
                    ("max-file".to_owned(), "2".to_owned()),
                ])),
            }),
            ..HostConfig::default()
        }
    }
}

/// Running, and made from the same wants.
fn is_as_wanted(found: &ContainerInspectResponse, body: &ContainerCreateBody) -> bool {
    let running = found.state.as_ref().and_then(|state| state.running) == Some(true);
    let wanted = body.labels.as_ref().and_then(|labels| labels.get(SPEC));
    running && wanted.map(String::as_str) == label(found, SPEC)
}

fn label<'a>(found: &'a ContainerInspectResponse, name: &str) -> Option<&'a str> {
    let labels = found.config.as_ref()?.labels.as_ref()?;
    labels.get(name).map(String::as_str)
}

/// "Not found" as nothing.
fn absent<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(what: &str, error: &Error) -> Trouble {
    Trouble::Failed(format!("{what}: {}", said(error)))
}

/// One line, with the engine's own words.
fn said(error: &Error) -> String {
    let text = match error {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        other => other.to_string(),
    };
    text.lines().collect::<Vec<_>>().join(" ")
}
