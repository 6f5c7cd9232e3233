//! What is asked of the Docker engine: a network, an image, and a container in it.
//!
//! Everything that is made bears the labels `orfe.role` and, but for the image, what it belongs to. A container whose label
//! `orfe.spec` differs from what is wanted is replaced as a whole: nothing is ever changed in place.

use std::collections::HashMap;
use std::error::Error as _;
use std::net::IpAddr;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, NetworkCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, DownloadFromContainerOptionsBuilder,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use orfe_hardware::Root;
use orfe_tunnel::forwarder::hosts_entry;

use super::Trouble;
use super::door::Home;
use super::forwarder::{HOST_GATEWAY, ROLE, SPEC, Spec, Users};
use super::image::{Image, ImageName, only_file};
use super::network::Network;

/// Repository of the images; the tag is the version and the content.
const REPOSITORY: &str = "orfe-forwarder";
/// How long one answer of the engine may take; taking in an image is the longest.
const ANSWER: Duration = Duration::from_secs(60);
/// More than any hosts file of a container, in bytes.
const HOSTS_MAX: usize = 64 * 1024;

/// An engine that answers.
pub(super) struct Engine {
    docker: Docker,
    /// Whose machine it runs on.
    pub(super) home: Home,
    users: Users,
}

/// Asks the engine who it is.
pub(super) async fn connect() -> Result<Engine, Trouble> {
    let root = Root::system();
    let endpoint = orfe_hardware::endpoint(&root);
    let none = |error: Error| no_engine(&endpoint, &error);
    let docker = orfe_hardware::engine(&root, ANSWER).map_err(none)?;
    // Engines refuse a version of the API that is newer than their own.
    let docker = docker.negotiate_version().await.map_err(none)?;
    let info = docker.info().await.map_err(none)?;
    let options = info.security_options.unwrap_or_default();
    let has = |name: &str| options.iter().any(|option| option.contains(name));
    let home = match info.operating_system.as_deref() {
        Some("Docker Desktop") => Home::Desktop,
        // Its containers are Linux's, and so is the machine that it runs on.
        _ if std::env::consts::OS != "linux" => Home::Elsewhere,
        _ => Home::Here,
    };
    Ok(Engine {
        docker,
        home,
        users: Users {
            rootless: has("name=rootless"),
            remapped: has("name=userns"),
        },
    })
}

impl Engine {
    /// Makes the container as wanted; does nothing where it is so.
    pub(super) async fn ensure(&self, spec: &Spec<'_>, image: &ImageName) -> Result<(), Trouble> {
        let body = spec.body(image, self.users);
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
        self.remove_others(&body).await?;
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

    /// Removes forwarders of other names that lead to the same door: an earlier version made them, or the device was another then.
    /// They would go on bearing Coder's names.
    async fn remove_others(&self, body: &ContainerCreateBody) -> Result<(), Trouble> {
        let cannot = |error: Error| failed("other forwarders cannot be looked at", &error);
        let role = HashMap::from([("label".to_owned(), vec![format!("{ROLE}=forwarder")])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&role)
            .build();
        let others = self.docker.list_containers(Some(options)).await.map_err(cannot)?;
        for other in others.into_iter().filter_map(|other| other.id) {
            let found = absent(self.docker.inspect_container(&other, None).await).map_err(cannot)?;
            if found.is_some_and(|found| leads_to_same_door(&found, body)) {
                tracing::info!(
                    container = other,
                    "removing this device's forwarder of another name"
                );
                self.remove(&other).await?;
            }
        }
        Ok(())
    }

    /// Removes the forwarder; one that is not there is as good.
    pub(super) async fn remove(&self, container: &str) -> Result<(), Trouble> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        absent(self.docker.remove_container(container, Some(options)).await)
            .map(|_| ())
            .map_err(|error| failed("the forwarder cannot be removed", &error))
    }

    /// Makes the network, if it is not there.
    pub(super) async fn ensure_network(&self, name: &str) -> Result<Network, Trouble> {
        let cannot = |error: Error| failed("the network cannot be looked at", &error);
        if let Some(network) = absent(self.docker.inspect_network(name, None).await).map_err(cannot)? {
            let ours = network
                .labels
                .as_ref()
                .is_some_and(|labels| labels.contains_key(ROLE));
            return if ours {
                Ok(Network::of(network))
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
        let made = self.docker.inspect_network(name, None).await;
        made.map(Network::of).map_err(cannot)
    }

    /// The image that is configured, else the one of this program, which is made if need be; `made` remembers it.
    pub(super) async fn ensure_image(
        &self,
        configured: Option<&str>,
        made: &mut Option<String>,
    ) -> Result<ImageName, Trouble> {
        if let Some(name) = configured {
            let Some(id) = self.image_id(name).await? else {
                return Err(Trouble::Failed(format!(
                    "the engine has no image `{name}` (hint: `docker pull {name}`, or change containers.image)"
                )));
            };
            let name = name.to_owned();
            return Ok(ImageName { name, id });
        }
        let name = match made.take() {
            Some(known) if self.image_id(&known).await?.is_some() => known,
            _ => self.own_image().await?,
        };
        *made = Some(name.clone());
        // Its tag names the content.
        Ok(ImageName {
            id: name.clone(),
            name,
        })
    }

    async fn image_id(&self, reference: &str) -> Result<Option<String>, Trouble> {
        absent(self.docker.inspect_image(reference).await)
            .map(|image| image.map(|image| image.id.unwrap_or_else(|| reference.to_owned())))
            .map_err(|error| failed("the image cannot be looked at", &error))
    }

    async fn own_image(&self) -> Result<String, Trouble> {
        let image = tokio::task::spawn_blocking(Image::of_this_program)
            .await
            .map_err(std::io::Error::other)
            .and_then(|image| image)
            .map_err(|error| Trouble::Failed(format!("the forwarder's image cannot be made: {error}")))?;
        let reference = format!("{REPOSITORY}:{}", image.tag);
        if self.image_id(&reference).await?.is_none() {
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

    /// What the engine takes `host-gateway` for, as it has put it into the container's own hosts file: there is no other way
    /// to ask, and the owner may have configured it.
    pub(super) async fn host_gateway(&self, container: &str) -> Result<IpAddr, Trouble> {
        let options = DownloadFromContainerOptionsBuilder::new()
            .path("/etc/hosts")
            .build();
        let mut archive = Vec::new();
        let parts = self.docker.download_from_container(container, Some(options));
        let mut parts = std::pin::pin!(parts);
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| failed("the engine does not tell its host-gateway", &error))?;
            archive.extend_from_slice(&part);
            if archive.len() > HOSTS_MAX {
                break;
            }
        }
        only_file(&archive)
            .and_then(|hosts| hosts_entry(&String::from_utf8_lossy(hosts), HOST_GATEWAY))
            .ok_or_else(|| Trouble::Failed("the engine does not tell its host-gateway".to_owned()))
    }

    /// The bridge of containers that name no network.
    pub(super) async fn default_bridge(&self) -> Result<Option<Network>, Trouble> {
        absent(self.docker.inspect_network("bridge", None).await)
            .map(|found| found.map(Network::of))
            .map_err(|error| failed("the engine's default bridge cannot be looked at", &error))
    }
}

/// Running, and made from the same wants.
fn is_as_wanted(found: &ContainerInspectResponse, body: &ContainerCreateBody) -> bool {
    let running = found.state.as_ref().and_then(|state| state.running) == Some(true);
    let wanted = body.labels.as_ref().and_then(|labels| labels.get(SPEC));
    running && wanted.map(String::as_str) == label(found, SPEC)
}

/// The same mounted folder, or the same credential; no two agents share either.
fn leads_to_same_door(found: &ContainerInspectResponse, body: &ContainerCreateBody) -> bool {
    let host = found.host_config.as_ref();
    let config = found.config.as_ref();
    let folder = body.host_config.as_ref().and_then(|host| host.binds.as_ref());
    let credential = body.env.as_ref().and_then(|variables| variables.first());
    let mounted = host.and_then(|host| host.binds.as_ref());
    let told = config.and_then(|config| config.env.as_ref());
    folder.is_some_and(|folder| mounted == Some(folder))
        || credential.is_some_and(|credential| told.is_some_and(|told| told.contains(credential)))
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

/// With where it was looked for, and what can be done.
fn no_engine(endpoint: &str, error: &Error) -> Trouble {
    let mut said = said(error);
    // The client's own words leave out the system's, which say the most.
    if let Some(cause) = std::iter::successors(error.source(), |&error| error.source()).last() {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    Trouble::NoEngine(format!(
        "no Docker engine answers at {endpoint}: {said} (hint: start Docker and let the agent's user use it, or set \
         DOCKER_HOST to where it listens)"
    ))
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

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerConfig, HostConfig};

    use super::*;

    #[test]
    fn a_forwarder_of_another_name_is_known_by_its_door() {
        let mounting = |folder: &str| {
            Some(HostConfig {
                binds: Some(vec![format!("{folder}:/run/orfe:ro")]),
                ..HostConfig::default()
            })
        };
        let variables = |credential: &str| Some(vec![format!("ORFE_DOOR_CREDENTIAL={credential}")]);
        let found = |host_config, env| ContainerInspectResponse {
            host_config,
            config: Some(ContainerConfig {
                env,
                ..ContainerConfig::default()
            }),
            ..ContainerInspectResponse::default()
        };
        let by_socket = ContainerCreateBody {
            host_config: mounting("/var/lib/orfe/containers"),
            ..ContainerCreateBody::default()
        };
        let own = found(mounting("/var/lib/orfe/containers"), None);
        let of_another = found(mounting("/home/alice/orfe/containers"), None);
        assert!(leads_to_same_door(&own, &by_socket));
        assert!(!leads_to_same_door(&of_another, &by_socket));

        let by_port = ContainerCreateBody {
            host_config: Some(HostConfig::default()),
            env: variables("one"),
            ..ContainerCreateBody::default()
        };
        let own = found(Some(HostConfig::default()), variables("one"));
        let of_another = found(Some(HostConfig::default()), variables("two"));
        assert!(leads_to_same_door(&own, &by_port));
        assert!(!leads_to_same_door(&of_another, &by_port));
        assert!(!leads_to_same_door(
            &ContainerInspectResponse::default(),
            &by_port
        ));
    }

    #[test]
    fn a_missing_engine_is_told_with_where_it_was_looked_for_and_what_to_do() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let Trouble::NoEngine(reason) = no_engine("unix:///run/nowhere.sock", &missing.into()) else {
            panic!("another trouble");
        };
        let begin = "no Docker engine answers at unix:///run/nowhere.sock: ";
        assert!(reason.starts_with(begin), "{reason}");
        assert!(reason.contains("(hint: start Docker"), "{reason}");
    }
}
