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

#[cfg(test)]
mod tests {
    use orfe_protocol::secret::Secret;

    use super::super::network::Subnet;
    use super::*;

    const USERS: Users = Users {
        rootless: false,
        remapped: true,
    };

    fn body(entrance: &Entrance, shows_host_gateway: bool) -> ContainerCreateBody {
        let network = Network {
            id: "n".to_owned(),
            device: "br-n".to_owned(),
            subnets: vec![Subnet {
                range: "172.18.0.0/16".to_owned(),
                gateway: Some([172, 18, 0, 1].into()),
            }],
        };
        let spec = Spec {
            network_name: "orfe",
            network: &network,
            container: "orfe-forwarder-box",
            device: "box",
            names: &BTreeSet::from(["coder.example.com".to_owned()]),
            ports: &BTreeSet::from([80, 443]),
            entrance,
            shows_host_gateway,
        };
        let image = ImageName {
            name: "orfe-forwarder:1".to_owned(),
            id: "i".to_owned(),
        };
        spec.body(&image, USERS)
    }

    fn by_port(credential: &str, host: Option<&str>) -> Entrance {
        Entrance::Port {
            port: 40000,
            credential: Secret::new(credential.to_owned()),
            host: host.map(ToOwned::to_owned),
        }
    }

    fn label(body: &ContainerCreateBody) -> String {
        body.labels.as_ref().unwrap()[SPEC].clone()
    }

    #[test]
    fn a_credential_stands_in_the_environment_and_nowhere_else() {
        let made = body(&by_port("a-credential-of-16", Some("host-gateway")), false);
        assert_eq!(
            made.env.as_deref().unwrap(),
            ["ORFE_DOOR_CREDENTIAL=a-credential-of-16"]
        );
        let command = made.cmd.clone().unwrap().join(" ");
        assert_eq!(
            command,
            "forwarder --agent host.docker.internal:40000 --from 172.18.0.0/16 --except 172.18.0.1 --port 80 --port 443"
        );
        let host = made.host_config.clone().unwrap();
        assert_eq!((host.binds, host.userns_mode), (None, None));
        assert_eq!(host.extra_hosts.unwrap(), ["host.docker.internal:host-gateway"]);
        assert_eq!(made.user.as_deref(), Some(NOBODY));
        let whole = serde_json::to_string(&made).unwrap();
        assert_eq!(whole.matches("a-credential-of-16").count(), 1);
        // Another one makes another container; the same one the same.
        let same = body(&by_port("a-credential-of-16", Some("host-gateway")), false);
        let other = body(&by_port("a-credential-of-17", Some("host-gateway")), false);
        assert_eq!(label(&same), label(&made));
        assert_ne!(label(&other), label(&made));
    }

    #[test]
    fn a_name_that_the_engine_knows_is_not_given_and_a_socket_is_mounted() {
        let desktop = body(&by_port("a-credential-of-16", None), false);
        assert_eq!(
            desktop.host_config.unwrap().extra_hosts.unwrap(),
            Vec::<String>::new()
        );
        let folder = "/var/lib/orfe/containers".into();
        let mounted = body(&Entrance::Mounted { folder }, true);
        let host = mounted.host_config.unwrap();
        assert_eq!(host.binds.unwrap(), ["/var/lib/orfe/containers:/run/orfe:ro"]);
        assert_eq!(host.extra_hosts.unwrap(), ["host-gateway:host-gateway"]);
        assert_eq!(host.userns_mode.as_deref(), Some("host"));
        assert_eq!(mounted.env, None);
        assert_eq!(mounted.cmd.unwrap()[2], "/run/orfe/door.sock");
    }
}
