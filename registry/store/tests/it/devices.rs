//! What is remembered of a device between its sessions.

use orfe_protocol::id::Revision;
use orfe_protocol::name::HostName;
use orfe_protocol::observed::ObservedState;
use orfe_store::Store;

use crate::fixture::{Fixture, at};

fn observed(hostname: &str) -> ObservedState {
    serde_json::from_value(serde_json::json!({
        "desired": {"epoch": 1, "revision": 1},
        "agent_version": "0.1.0",
        "started_at": at(0),
        "health": "healthy",
        "checks": [],
        "facts": {
            "hostname": hostname, "os": "linux", "arch": "amd64", "cpu_model": "x", "cpu_cores": 2,
            "memory_mib": 1024, "docker": {"absent": {"reason": "no engine"}}, "gpus": []
        },
        "tags": {"os": "linux"},
        "provisioners": []
    }))
    .unwrap()
}

#[tokio::test]
async fn every_session_has_a_higher_number() {
    let fixture = Fixture::new().await;
    let devices = fixture.store.devices();
    let device = devices
        .claim(&fixture.code(1).await.claim(1), at(0))
        .await
        .unwrap();
    assert_eq!(devices.begin_session(device.id, at(1)).await.unwrap(), Some(1));
    assert_eq!(devices.begin_session(device.id, at(2)).await.unwrap(), Some(2));
    assert_eq!(devices.list().await.unwrap()[0].last_seen_at, Some(at(2)));

    assert_eq!(devices.revoke(device.id, at(3)).await.unwrap(), Some(at(3)));
    assert_eq!(
        devices.revoke(device.id, at(9)).await.unwrap(),
        Some(at(3)),
        "the first time stands"
    );
    assert_eq!(devices.begin_session(device.id, at(4)).await.unwrap(), None);
}

#[tokio::test]
async fn a_revision_grows_only_when_the_content_changes() {
    let fixture = Fixture::new().await;
    let devices = fixture.store.devices();
    let id = devices
        .claim(&fixture.code(1).await.claim(1), at(0))
        .await
        .unwrap()
        .id;
    let revision = |epoch, revision| Some(Revision { epoch, revision });
    let none = Revision::default();

    assert_eq!(devices.desire(id, "aa", none).await.unwrap(), revision(1, 1));
    assert_eq!(
        devices
            .desire(
                id,
                "aa",
                Revision {
                    epoch: 1,
                    revision: 1
                }
            )
            .await
            .unwrap(),
        revision(1, 1)
    );
    assert_eq!(devices.desire(id, "bb", none).await.unwrap(), revision(1, 2));
    // A device that knows more than the database, which was restored from a copy, is overtaken.
    assert_eq!(
        devices
            .desire(
                id,
                "bb",
                Revision {
                    epoch: 3,
                    revision: 7
                }
            )
            .await
            .unwrap(),
        revision(3, 8)
    );
    let absurd = Revision {
        epoch: u64::MAX,
        revision: u64::MAX,
    };
    assert!(devices.desire(id, "bb", absurd).await.is_err());
    assert_eq!(devices.desire(id, "bb", none).await.unwrap(), revision(3, 8));
}

#[tokio::test]
async fn being_seen_is_noted_in_batches_and_never_goes_back() {
    let fixture = Fixture::new().await;
    let code = fixture.code(2).await;
    let devices = fixture.store.devices();
    let one = devices.claim(&code.claim(1), at(0)).await.unwrap().id;
    let two = devices.claim(&code.claim(2), at(0)).await.unwrap().id;
    devices
        .record_seen(&[(one, at(10)), (two, at(11))])
        .await
        .unwrap();
    devices.record_seen(&[(one, at(9)), (two, at(12))]).await.unwrap();
    let seen: Vec<_> = devices
        .list()
        .await
        .unwrap()
        .iter()
        .map(|device| device.last_seen_at)
        .collect();
    assert_eq!(seen, [Some(at(10)), Some(at(12))]);
}

#[tokio::test]
async fn what_a_device_said_is_written_only_when_it_differs() {
    let fixture = Fixture::new().await;
    let devices = fixture.store.devices();
    let id = devices
        .claim(&fixture.code(1).await.claim(1), at(0))
        .await
        .unwrap()
        .id;
    let (first, second) = (observed("one"), observed("two"));
    assert_eq!(devices.record_observed(&[(id, &first)], at(1)).await.unwrap(), 1);
    assert_eq!(devices.record_observed(&[(id, &first)], at(2)).await.unwrap(), 0);
    assert_eq!(devices.record_observed(&[(id, &second)], at(3)).await.unwrap(), 1);
    assert_eq!(devices.last_observed().await.unwrap()[&id], second);

    let stranger = orfe_protocol::id::DeviceId::generate();
    assert_eq!(
        devices
            .record_observed(&[(stranger, &first)], at(4))
            .await
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn a_name_of_the_policy_keeps_its_address() {
    let fixture = Fixture::new().await;
    let name = |text: &str| text.parse::<HostName>().unwrap();
    let assign = |store: &Store, names: Vec<HostName>| {
        let store = store.clone();
        async move {
            let assigned = store.policy_addresses().assign(&names).await.unwrap();
            assigned
                .into_values()
                .map(|address| address.to_string())
                .collect::<Vec<_>>()
        }
    };
    let both = vec![
        name("coder.internal"),
        name("registry.internal"),
        name("coder.internal"),
    ];
    assert_eq!(
        assign(&fixture.store, both.clone()).await,
        ["100.127.1.0", "100.127.1.1"]
    );
    assert_eq!(
        assign(&fixture.store, vec![name("a.internal")]).await,
        ["100.127.1.2"]
    );

    let again = Store::open(&fixture.folder.path().join("registry.sqlite"))
        .await
        .unwrap();
    assert_eq!(assign(&again, both).await, ["100.127.1.0", "100.127.1.1"]);
}
