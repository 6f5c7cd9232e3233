//! What devices are told, and that it is told again only when it changed.

use orfe_protocol::desired::{Coder, Credential, DesiredState};
use orfe_protocol::id::Revision;
use orfe_protocol::message::FromRegistry;
use orfe_protocol::secret::Secret;
use orfe_registry::config::{Config, PolicyEntry};

use crate::agent::Agent;
use crate::site::Site;

fn coder(config: &mut Config, psk: &str) {
    config.coder = Some(Coder {
        url: "https://coder.internal".parse().unwrap(),
        credential: Credential::Psk(Secret::new(psk.into())),
        ca_pem: Some("-----BEGIN CERTIFICATE-----".into()),
    });
}

fn tunnel(config: &mut Config) {
    coder(config, "one");
    config.tunnel = true;
    config.policy = ["registry.internal", "coder.internal"]
        .map(|name| PolicyEntry::of_name(name.parse().unwrap(), &[443], None))
        .into();
}

async fn desired(agent: &mut Agent) -> DesiredState {
    match agent.hear().await {
        FromRegistry::Desired(desired) => *desired,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_device_is_told_the_way_to_the_gateway_and_the_names_behind_it() {
    let site = Site::with(tunnel).await;
    let (mut agent, identity) = Agent::joined(&site).await;
    let first = desired(&mut agent).await;
    let told = first.tunnel.as_ref().unwrap();
    let port = site.registry.ready().wireguard.unwrap().port();
    assert_eq!(told.gateway.endpoints, [format!("127.0.0.1:{port}")]);
    let addresses: Vec<String> = told.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses[0], "100.64.0.1");
    assert!(
        addresses[1].starts_with("fd") && addresses[1].ends_with(":1::6440:1"),
        "{addresses:?}"
    );
    let own: Vec<String> = told.gateway.addresses.iter().map(ToString::to_string).collect();
    assert_eq!((own[0].as_str(), own[2].as_str()), ("100.127.0.1", "10.10.0.1"));
    let names: Vec<_> = told
        .names
        .iter()
        .map(|(name, to)| format!("{name} {} {:?}", to.address, to.ports))
        .collect();
    assert_eq!(
        names,
        [
            "coder.internal 100.127.1.0 [443]",
            "registry.internal 100.127.1.1 [443]"
        ]
    );
    assert_eq!(first.coder.as_ref().unwrap().credential.secret().expose(), "one");

    // After a restart names and keys are the same, and the gateway is another one.
    let site = site.restarted().await;
    let mut agent = Agent::connect(&site, &identity).await;
    agent.begin(first.revision).await.unwrap();
    let second = desired(&mut agent).await;
    assert_eq!(
        second.revision,
        Revision {
            epoch: 1,
            revision: 2
        }
    );
    let told_again = second.tunnel.as_ref().unwrap();
    assert_eq!(
        (
            &told_again.names,
            &told_again.addresses,
            told_again.gateway.public_key
        ),
        (&told.names, &told.addresses, told.gateway.public_key)
    );
    assert_ne!(told_again.gateway.instance, told.gateway.instance);
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_change_is_pushed_with_the_next_revision_and_no_change_is_not() {
    let site = Site::with(|config| coder(config, "one")).await;
    let (mut agent, _) = Agent::joined(&site).await;
    assert_eq!(
        desired(&mut agent).await.revision,
        Revision {
            epoch: 1,
            revision: 1
        }
    );

    site.registry.reconfigure(&site.config);
    let mut config = site.config.clone();
    coder(&mut config, "two");
    config.slots = 3;
    site.registry.reconfigure(&config);
    let changed = desired(&mut agent).await;
    assert_eq!(
        (changed.revision, changed.slots),
        (
            Revision {
                epoch: 1,
                revision: 2
            },
            3
        )
    );
    assert_eq!(changed.coder.unwrap().credential.secret().expose(), "two");
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_device_that_knows_more_than_the_database_is_overtaken() {
    let site = Site::new().await;
    let (_agent, identity) = Agent::joined(&site).await;
    let mut agent = Agent::connect(&site, &identity).await;
    agent
        .begin(Revision {
            epoch: 4,
            revision: 9,
        })
        .await
        .unwrap();
    assert_eq!(
        desired(&mut agent).await.revision,
        Revision {
            epoch: 4,
            revision: 10
        }
    );
    site.registry.shutdown().await;
}
