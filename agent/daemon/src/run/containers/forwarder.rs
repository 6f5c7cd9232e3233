//! What the forwarder's container is made from.

use std::collections::{BTreeSet, HashMap};

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, NetworkingConfig, RestartPolicy,
    RestartPolicyNameEnum,
};
use data_encoding::HEXLOWER;
use orfe_platform::process::user_id;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::door::{Entrance, SOCKET};
use super::image::{ImageName, PROGRAM};
use super::network::Network;
use crate::commands::DOOR_CREDENTIAL;

pub(super) const ROLE: &str = "orfe.role";
pub(super) const SPEC: &str = "orfe.spec";
const DEVICE: &str = "orfe.device";
/// Where the door's folder is in the container.
const MOUNTED: &str = "/run/orfe";
/// The engine's machine, as containers call it.
const HOST: &str = "host.docker.internal";
/// The name whose address in the container tells what the engine takes `host-gateway` for.
pub(super) const HOST_GATEWAY: &str = "host-gateway";
/// A user with no rights and no files.
const NOBODY: &str = "65534:65534";
/// Bounds of the forwarder: 1024 connections take about 80 MiB of buffers at the most.
const MEMORY: i64 = 256 * 1024 * 1024;
const PROCESSES: i64 = 16;

/// What is wanted.
#[derive(Debug)]
pub(super) struct Spec<'a> {
    pub(super) network_name: &'a str,
    pub(super) network: &'a Network,
    pub(super) container: &'a str,
    pub(super) device: &'a str,
    pub(super) names: &'a BTreeSet<String>,
    pub(super) ports: &'a BTreeSet<u16>,
    pub(super) entrance: &'a Entrance,
    /// Whether the container is to show what the engine takes `host-gateway` for.
    pub(super) shows_host_gateway: bool,
}

/// What the engine does with a container's users.
#[derive(Debug, Clone, Copy)]
pub(super) struct Users {
    /// The engine runs as an ordinary user, whom the container sees as root.
    pub(super) rootless: bool,
    /// The engine gives containers other user ids than the host's.
    pub(super) remapped: bool,
}

impl Spec<'_> {
    /// The container, with a label that is another one for whatever is different.
    pub(super) fn body(&self, image: &ImageName, users: Users) -> ContainerCreateBody {
        let (user, command, environment) = (self.user(users), self.command(), self.environment());
        let host = self.host_config(users);
        // With the credential in it, of which a digest tells nothing. A map would come in another order in each life.
        let whole = Zeroizing::new(format!(
            "{} {user} {command:?} {environment:?} {:?} {:?} {:?} {:?} {}",
            image.id, host.binds, host.extra_hosts, host.userns_mode, self.names, self.network.id
        ));
        let digest = HEXLOWER.encode(&Sha256::digest(whole.as_bytes())[..16]);
        let labels = [(ROLE, "forwarder"), (DEVICE, self.device), (SPEC, &digest)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        ContainerCreateBody {
            image: Some(image.name.clone()),
            user: Some(user),
            entrypoint: Some(vec![PROGRAM.to_owned()]),
            cmd: Some(command),
            env: environment,
            labels: Some(labels.into()),
            host_config: Some(host),
            networking_config: Some(self.networking()),
            ..ContainerCreateBody::default()
        }
    }

    fn user(&self, users: Users) -> String {
        match self.entrance {
            Entrance::Port { .. } => NOBODY.to_owned(),
            Entrance::Mounted { .. } if users.rootless => "0:0".to_owned(),
            // Who owns the door's folder; nobody else may enter it.
            Entrance::Mounted { .. } => format!("{0}:{0}", user_id()),
        }
    }

    fn command(&self) -> Vec<String> {
        let agent = match self.entrance {
            Entrance::Mounted { .. } => format!("{MOUNTED}/{SOCKET}"),
            Entrance::Port { port, .. } => format!("{HOST}:{port}"),
        };
        let mut command = vec!["forwarder".to_owned(), "--agent".to_owned(), agent];
        let mut option = |name: &str, value: String| command.extend([name.to_owned(), value]);
        for subnet in &self.network.subnets {
            option("--from", subnet.range.clone());
            if let Some(gateway) = subnet.gateway {
                option("--except", gateway.to_string());
            }
        }
        for port in self.ports {
            option("--port", port.to_string());
        }
        command
    }

    /// Not an argument, which every process of the engine's machine could read.
    fn environment(&self) -> Option<Vec<String>> {
        match self.entrance {
            Entrance::Mounted { .. } => None,
            Entrance::Port { credential, .. } => {
                Some(vec![format!("{DOOR_CREDENTIAL}={}", credential.expose())])
            }
        }
    }

    fn networking(&self) -> NetworkingConfig {
        let endpoint = EndpointSettings {
            aliases: Some(self.names.iter().cloned().collect()),
            ..EndpointSettings::default()
        };
        NetworkingConfig {
            endpoints_config: Some(HashMap::from([(self.network_name.to_owned(), endpoint)])),
        }
    }

    fn extra_hosts(&self) -> Vec<String> {
        let door = match self.entrance {
            Entrance::Port { host, .. } => host.as_ref().map(|host| format!("{HOST}:{host}")),
            Entrance::Mounted { .. } => None,
        };
        let shown = self
            .shows_host_gateway
            .then(|| format!("{HOST_GATEWAY}:{HOST_GATEWAY}"));
        door.into_iter().chain(shown).collect()
    }

    fn host_config(&self, users: Users) -> HostConfig {
        let binds = match self.entrance {
            Entrance::Mounted { folder } => Some(vec![format!("{}:{MOUNTED}:ro", folder.display())]),
            Entrance::Port { .. } => None,
        };
        HostConfig {
            // The mounted folder's owner is one of the host's users.
            userns_mode: (users.remapped && binds.is_some()).then(|| "host".to_owned()),
            binds,
            extra_hosts: Some(self.extra_hosts()),
            network_mode: Some(self.network_name.to_owned()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            // In the container's own network namespace alone: so that no capability is needed for port 443.
            sysctls: Some(HashMap::from([(
                "net.ipv4.ip_unprivileged_port_start".to_owned(),
                "0".to_owned(),
            )])),
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
