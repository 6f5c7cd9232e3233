use std::collections::BTreeMap;

use orfe_store::Ula;
use orfe_tunnel::DnsPolicy;

use super::*;
use crate::registry::StartError;

fn policy() -> Arc<SitePolicy> {
    let registry = "127.0.0.1:7443".parse().unwrap();
    let site = SitePolicy::new(
        &[],
        &BTreeMap::new(),
        Ula::of_random(1),
        registry,
        DnsPolicy::default(),
    );
    Arc::new(site)
}

fn keys() -> (tempfile::TempDir, GatewayKeys) {
    let folder = tempfile::tempdir().unwrap();
    let key = NoisePrivateKey::generate().unwrap();
    let keys = GatewayKeys::open(folder.path(), key).unwrap();
    (folder, keys)
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (_folder, keys) = keys();
    let error = start(keys, address, &[], Shards::ONE, TcpStack::Smoltcp, policy()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the gateway could not listen on UDP {address}")
    );
    let any = "127.0.0.1:0".parse().unwrap();
    let (_folder, keys) = self::keys();
    let error = start(keys, any, &[address], Shards::ONE, TcpStack::Smoltcp, policy()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the gateway could not listen on UDP {address}, too")
    );
    let hint = StartError::Gateway(error).hint().unwrap();
    assert!(
        hint.contains("ss -lunp") && hint.contains("`also_listen` in [tunnel]"),
        "{hint}"
    );
}

#[tokio::test]
async fn the_gateway_has_the_public_half_of_the_key_and_stops_when_told() {
    let (_folder, keys) = keys();
    let key = keys.current.public_key();
    let (role, task) = start(
        keys,
        "127.0.0.1:0".parse().unwrap(),
        &["127.0.0.1:0".parse().unwrap()],
        Shards::for_this_machine(),
        TcpStack::Smoltcp,
        policy(),
    )
    .unwrap();
    assert_eq!(role.public_key().as_bytes(), key.as_bytes());
    let patience = crate::fleet::Patience {
        hold_down: LOOK,
        start_grace: LOOK,
    };
    let shutdown = CancellationToken::new();
    let running = task.run(Arc::new(role), Fleet::new(patience), || (), shutdown.clone());
    let running = tokio::spawn(running);
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), running)
        .await
        .unwrap()
        .unwrap();
}
