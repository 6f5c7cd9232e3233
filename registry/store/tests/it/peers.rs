//! People's peers, tags that change, and join codes with a key of their own.

use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::secret::Secret;
use orfe_store::{ClaimError, ClaimRefusal, NewPeer, PeerError, Subnet};

use crate::fixture::{Fixture, at, key, new_code};

fn peer(name: &str, seed: u16) -> NewPeer {
    NewPeer {
        name: name.parse().unwrap(),
        wireguard_key: WireGuardPublicKey::from_bytes(key(seed)),
        preshared_key: Some(Secret::new("shared".into())),
        allowed: Some(vec!["coder.internal".to_owned()]),
        note: "Alice's phone".to_owned(),
        created_at: at(0),
        expires_at: Some(at(60)),
    }
}

#[tokio::test]
async fn peers_are_kept_and_get_the_lowest_free_address() {
    let Fixture { store, .. } = Fixture::new().await;
    let alice = store.peers().add(peer("alice", 1)).await.unwrap();
    let bob = store.peers().add(peer("bob", 2)).await.unwrap();
    assert_eq!(
        [alice.inner_address, bob.inner_address].map(|address| address.to_string()),
        ["10.10.0.2", "10.10.0.3"]
    );
    assert_eq!(store.peers().list().await.unwrap(), [alice.clone(), bob]);
    assert!(alice.is_current(at(59)) && !alice.is_current(at(60)));
    assert!(store.peers().remove(&alice.name).await.unwrap());
    assert!(!store.peers().remove(&alice.name).await.unwrap());
    let carol = store.peers().add(peer("carol", 1)).await.unwrap();
    assert_eq!(
        carol.inner_address, alice.inner_address,
        "what is removed is free"
    );
}

#[tokio::test]
async fn names_and_keys_stand_once() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    store.peers().add(peer("alice", 1)).await.unwrap();
    let error = store.peers().add(peer("alice", 2)).await.unwrap_err();
    assert!(matches!(error, PeerError::NameTaken(_)), "{error}");
    let error = store.peers().add(peer("bob", 1)).await.unwrap_err();
    assert_eq!(error.to_string(), "peer alice has this public key already");

    let code = fixture.code(2).await;
    let device = store.devices().claim(&code.claim(3), at(1)).await.unwrap();
    let theirs = NewPeer {
        wireguard_key: device.wireguard_key,
        ..peer("bob", 0)
    };
    let error = store.peers().add(theirs).await.unwrap_err();
    assert_eq!(error.to_string(), "device laptop has this public key already");
    let mut claim = code.claim(4);
    claim.wireguard_key = WireGuardPublicKey::from_bytes(key(1));
    let error = store.devices().claim(&claim, at(1)).await.unwrap_err();
    assert!(matches!(
        error,
        ClaimError::Refused(ClaimRefusal::WireGuardKeyTaken)
    ));
}

#[tokio::test]
async fn the_last_address_is_the_last() {
    let Fixture { store, .. } = Fixture::new().await;
    for number in 2..=254 {
        store
            .peers()
            .add(peer(&format!("peer-{number}"), number))
            .await
            .unwrap();
    }
    let error = store.peers().add(peer("one-more", 999)).await.unwrap_err();
    assert!(
        error.to_string().contains("none of the inner addresses is free"),
        "{error}"
    );
}

#[tokio::test]
async fn a_code_for_the_tunnel_has_an_address_until_it_is_good_no_more() {
    let Fixture { store, .. } = Fixture::new().await;
    let code = |seed: u16, created_at| {
        let (mut code, _) = new_code(1);
        code.tunnel_key = Some(WireGuardPublicKey::from_bytes(key(seed)));
        code.created_at = created_at;
        code
    };
    let first = store.join_codes().create(&code(1, at(0))).await.unwrap().unwrap();
    let second = store.join_codes().create(&code(2, at(1))).await.unwrap().unwrap();
    assert_ne!(first, second);
    let rows = store.join_codes().list().await.unwrap();
    assert_eq!(rows[0].tunnel.map(|(_, address)| address), Some(second));
    // The codes live for an hour; afterwards their addresses are given out again.
    let later = store.join_codes().create(&code(3, at(3601))).await.unwrap();
    assert_eq!(later, Some(first));
    let rows = store.join_codes().list().await.unwrap();
    assert!(
        rows.iter().all(|row| row.via_tunnel),
        "that it was one is still shown"
    );
    assert_eq!(rows.iter().filter(|row| row.tunnel.is_some()).count(), 1);
    assert_eq!(store.join_codes().create(&new_code(1).0).await.unwrap(), None);
}

#[tokio::test]
async fn tags_are_replaced() {
    let fixture = Fixture::new().await;
    let code = fixture.code(1).await;
    let device = fixture
        .store
        .devices()
        .claim(&code.claim(1), at(1))
        .await
        .unwrap();
    let tags = ["team=ml".parse().unwrap()].into_iter().collect();
    assert!(fixture.store.devices().set_tags(device.id, &tags).await.unwrap());
    assert_eq!(fixture.store.devices().list().await.unwrap()[0].tags, tags);
    let ula = fixture.store.ula(7).await.unwrap();
    let address = ula.address(Subnet::Devices, device.inner_address).to_string();
    assert_eq!(address, "fd00:0:7:1::6440:1");
}
