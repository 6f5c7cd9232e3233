//! What is desired of a device: the plan that holds for all of them, and what is its own.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use orfe_protocol::desired::{Coder, DesiredState, Gateway, Tunnel};
use orfe_protocol::id::Revision;
use orfe_protocol::key::NoisePrivateKey;
use orfe_store::{Device, Subnet};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::policy::{SitePolicy, Who};

/// Interval of WireGuard's persistent keepalive; below the 30 s after which common NATs forget a UDP flow.
const KEEPALIVE_S: u16 = 25;

/// What holds for every device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) coder: Option<Coder>,
    pub(crate) slots: u8,
    pub(crate) docker_required: bool,
    pub(crate) tunnel: Option<TunnelPlan>,
}

/// The way in, when there is a tunnel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TunnelPlan {
    pub(crate) gateway: Gateway,
    pub(crate) policy: Arc<SitePolicy>,
}

impl Plan {
    /// The desired state of one device, without its revision.
    pub(crate) fn for_device(&self, device: &Device) -> DesiredState {
        DesiredState {
            revision: Revision::default(),
            device: device.name.clone(),
            tags: device.tags.clone(),
            coder: self.coder.clone(),
            slots: self.slots,
            tunnel: self.tunnel.as_ref().map(|tunnel| tunnel.for_device(device)),
            docker_required: self.docker_required,
        }
    }
}

impl TunnelPlan {
    /// A device's end of the tunnel, with the destinations that policy names for its tags.
    pub(crate) fn for_device(&self, device: &Device) -> Tunnel {
        let who = Who::Device(&device.tags);
        let v4 = device.inner_address;
        Tunnel {
            addresses: vec![v4.into(), self.policy.ula.address(Subnet::Devices, v4).into()],
            gateway: self.gateway.clone(),
            names: self.policy.names(who),
            networks: self.policy.networks(who),
            dns_suffixes: self.policy.dns_suffixes(),
            keepalive_s: KEEPALIVE_S,
        }
    }
}

/// Tells whether content changed, by a digest that is kept in the database.
///
/// The digest is keyed, because the content holds secrets that may be guessed and the database may be copied to
/// places where the registry's key is not.
pub(crate) struct Digester(Zeroizing<String>);

impl std::fmt::Debug for Digester {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Digester([redacted])")
    }
}

impl Digester {
    pub(crate) fn new(key: &NoisePrivateKey) -> Self {
        Self(key.to_base64())
    }

    /// The digest of everything but the revision.
    pub(crate) fn digest(&self, desired: &DesiredState) -> Result<String, serde_json::Error> {
        let content = DesiredState {
            revision: Revision::default(),
            ..desired.clone()
        };
        let json = Zeroizing::new(serde_json::to_vec(&content)?);
        // Key, a text of our own and the content have fixed or ending lengths, so no two inputs run together.
        let digest = Sha256::new()
            .chain_update(b"orfe-desired-digest-v1")
            .chain_update(self.0.as_bytes())
            .chain_update(json.as_slice())
            .finalize();
        Ok(HEXLOWER.encode(&digest))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use orfe_protocol::desired::Credential;
    use orfe_protocol::id::{DeviceId, InstanceId, JoinCodeId};
    use orfe_protocol::key::{NoisePublicKey, WireGuardPublicKey};
    use orfe_protocol::secret::Secret;
    use orfe_store::Ula;
    use orfe_tunnel::DnsPolicy;

    use super::*;
    use crate::config::PolicyEntry;

    fn plan() -> Plan {
        let entry = PolicyEntry::of_name("coder.internal".parse().unwrap(), &[443], None);
        let addresses = [("coder.internal".parse().unwrap(), "100.127.1.0".parse().unwrap())].into();
        let policy = SitePolicy::new(
            &[entry],
            &addresses,
            Ula::of_random(1),
            "127.0.0.1:7443".parse().unwrap(),
            DnsPolicy::default(),
        );
        Plan {
            coder: Some(Coder {
                url: "https://coder.internal".parse().unwrap(),
                credential: Credential::Psk(Secret::new("s3cret".into())),
                ca_pem: None,
            }),
            slots: 2,
            docker_required: true,
            tunnel: Some(TunnelPlan {
                gateway: Gateway {
                    public_key: WireGuardPublicKey::from_bytes([9; 32]),
                    endpoints: vec!["orfe.example.com:51820".into()],
                    websocket: None,
                    addresses: vec![],
                    registry: None,
                    instance: InstanceId::from_bytes([1; 16]),
                },
                policy: Arc::new(policy),
            }),
        }
    }

    fn device() -> Device {
        Device {
            id: DeviceId::from_bytes([1; 16]),
            name: "laptop".parse().unwrap(),
            noise_key: NoisePublicKey::from_bytes([2; 32]),
            wireguard_key: WireGuardPublicKey::from_bytes([3; 32]),
            inner_address: "100.64.0.7".parse().unwrap(),
            tags: ["owner=alice".parse().unwrap()].into_iter().collect(),
            join_code: JoinCodeId::from_bytes([4; 16]),
            created_at: Timestamp::UNIX_EPOCH,
            revoked_at: None,
            session_epoch: 0,
            last_seen_at: None,
            desired: Revision::default(),
        }
    }

    #[test]
    fn a_device_is_told_its_own_name_tags_and_address() {
        let desired = plan().for_device(&device());
        assert_eq!(
            (desired.device.as_str(), desired.tags.to_string().as_str()),
            ("laptop", "owner=alice")
        );
        let tunnel = desired.tunnel.unwrap();
        let addresses: Vec<String> = tunnel.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["100.64.0.7", "fd00:0:1:1::6440:7"]);
        assert_eq!(tunnel.names.len(), 1);
        assert_eq!((desired.slots, desired.docker_required), (2, true));

        let direct = Plan {
            tunnel: None,
            ..plan()
        }
        .for_device(&device());
        assert!(direct.tunnel.is_none());
    }

    #[test]
    fn the_digest_changes_with_the_content_and_not_with_the_revision() {
        let key = NoisePrivateKey::generate().unwrap();
        let digester = Digester::new(&key);
        let desired = plan().for_device(&device());
        let digest = digester.digest(&desired).unwrap();
        let later = DesiredState {
            revision: Revision {
                epoch: 3,
                revision: 4,
            },
            ..desired.clone()
        };
        assert_eq!(digester.digest(&later).unwrap(), digest);
        let more = DesiredState {
            slots: 3,
            ..desired.clone()
        };
        assert_ne!(digester.digest(&more).unwrap(), digest);
        let mut other_psk = desired.clone();
        other_psk.coder.as_mut().unwrap().credential = Credential::Psk(Secret::new("other".into()));
        assert_ne!(digester.digest(&other_psk).unwrap(), digest);
        let other_key = Digester::new(&NoisePrivateKey::generate().unwrap());
        assert_ne!(other_key.digest(&desired).unwrap(), digest);
    }
}
