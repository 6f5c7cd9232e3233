//! Enrolment: who gets in, who does not, and that a refusal costs nothing.

use std::collections::BTreeSet;
use std::slice;

use jiff::Timestamp;
use orfe_protocol::id::JoinCodeId;
use orfe_protocol::join_code::JoinSecret;
use orfe_protocol::name::{DEVICE_NAME_MAX, DeviceName};
use orfe_store::{ClaimError, ClaimRefusal, ClaimRequest, DEVICE_ADDRESSES, Device, Store, TAGS_MAX};

use crate::fixture::{Code, Fixture, at, granted};

async fn claim(store: &Store, request: &ClaimRequest, now: Timestamp) -> Result<Device, ClaimRefusal> {
    match store.devices().claim(request, now).await {
        Ok(device) => Ok(device),
        Err(ClaimError::Refused(refusal)) => Err(refusal),
        Err(ClaimError::Store(error)) => panic!("the store failed: {error:?}"),
    }
}

async fn uses(store: &Store, code: &Code) -> u64 {
    store
        .join_codes()
        .list()
        .await
        .unwrap()
        .iter()
        .find(|row| row.id == code.id)
        .unwrap()
        .uses
}

#[tokio::test]
async fn a_good_claim_makes_a_device() {
    let fixture = Fixture::new().await;
    let code = fixture.code(1).await;
    let device = claim(&fixture.store, &code.claim(1), at(5)).await.unwrap();

    assert_eq!(device.name.as_str(), "laptop");
    assert_eq!(device.inner_address.to_string(), "100.64.0.1");
    assert_eq!(device.tags.to_string(), "owner=alice");
    assert_eq!(
        (device.created_at, device.revoked_at, device.last_seen_at),
        (at(5), None, None)
    );
    assert_eq!(
        (
            device.session_epoch,
            device.desired.epoch,
            device.desired.revision
        ),
        (0, 1, 0)
    );
    assert_eq!(
        fixture
            .store
            .devices()
            .by_noise_key(&device.noise_key)
            .await
            .unwrap()
            .as_ref(),
        Some(&device)
    );
    assert_eq!(fixture.store.devices().list().await.unwrap(), [device]);
    assert_eq!(
        fixture.store.join_codes().list().await.unwrap()[0].state(at(5)),
        "used"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_code_is_told_apart_and_burns_nothing() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let code = fixture.code(1).await;

    let unknown = ClaimRequest {
        join_code: JoinCodeId::generate(),
        ..code.claim(1)
    };
    assert_eq!(
        claim(store, &unknown, at(0)).await,
        Err(ClaimRefusal::UnknownCode)
    );
    let wrong = ClaimRequest {
        secret_hash: JoinSecret::generate().unwrap().hash(),
        ..code.claim(1)
    };
    assert_eq!(claim(store, &wrong, at(0)).await, Err(ClaimRefusal::WrongSecret));
    assert_eq!(
        claim(store, &code.claim(1), at(3600)).await,
        Err(ClaimRefusal::Expired)
    );
    assert_eq!(uses(store, &code).await, 0);

    claim(store, &code.claim(1), at(3599)).await.unwrap();
    assert_eq!(
        claim(store, &code.claim(2), at(3599)).await,
        Err(ClaimRefusal::Used)
    );

    let revoked = fixture.code(1).await;
    assert!(store.join_codes().revoke(revoked.id, at(1)).await.unwrap());
    assert_eq!(
        claim(store, &revoked.claim(3), at(2)).await,
        Err(ClaimRefusal::Revoked)
    );
    assert!(
        !store
            .join_codes()
            .revoke(JoinCodeId::generate(), at(1))
            .await
            .unwrap()
    );
    assert_eq!(store.devices().list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_given_again_without_a_second_use() {
    let fixture = Fixture::new().await;
    let code = fixture.code(2).await;
    let first = claim(&fixture.store, &code.claim(1), at(0)).await.unwrap();
    let again = claim(&fixture.store, &code.claim(1), at(60)).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(uses(&fixture.store, &code).await, 1);

    // The life of the answer is that of the code.
    assert_eq!(
        claim(&fixture.store, &code.claim(1), at(3600)).await,
        Err(ClaimRefusal::Expired)
    );

    // A WireGuard key that was made anew in between is taken, unless it is somebody else's.
    let other = claim(&fixture.store, &code.claim(2), at(61)).await.unwrap();
    let renewed = ClaimRequest {
        wireguard_key: code.claim(9).wireguard_key,
        ..code.claim(1)
    };
    assert_eq!(
        claim(&fixture.store, &renewed, at(62))
            .await
            .unwrap()
            .wireguard_key,
        renewed.wireguard_key
    );
    let stolen = ClaimRequest {
        wireguard_key: other.wireguard_key,
        ..code.claim(1)
    };
    assert_eq!(
        claim(&fixture.store, &stolen, at(63)).await,
        Err(ClaimRefusal::WireGuardKeyTaken)
    );
}

#[tokio::test]
async fn a_taken_wireguard_key_is_refused_and_the_use_is_kept() {
    let fixture = Fixture::new().await;
    let first = fixture.code(1).await;
    let device = claim(&fixture.store, &first.claim(1), at(0)).await.unwrap();

    let second = fixture.code(1).await;
    let thief = ClaimRequest {
        wireguard_key: device.wireguard_key,
        ..second.claim(2)
    };
    assert_eq!(
        claim(&fixture.store, &thief, at(1)).await,
        Err(ClaimRefusal::WireGuardKeyTaken)
    );
    assert_eq!(uses(&fixture.store, &second).await, 0);
    claim(&fixture.store, &second.claim(2), at(2)).await.unwrap();
}

#[tokio::test]
async fn a_known_device_may_join_with_another_code_unless_it_was_revoked() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let first = fixture.code(1).await;
    let device = claim(store, &first.claim(1), at(0)).await.unwrap();

    let second = fixture.code(1).await;
    let again = claim(store, &second.claim(1), at(1)).await.unwrap();
    assert_eq!(
        (again.id, again.inner_address, again.join_code),
        (device.id, device.inner_address, second.id)
    );
    assert_eq!(uses(store, &second).await, 1);

    store.devices().revoke(device.id, at(2)).await.unwrap();
    let third = fixture.code(1).await;
    assert_eq!(
        claim(store, &third.claim(1), at(3)).await,
        Err(ClaimRefusal::DeviceRevoked)
    );
    assert_eq!(uses(store, &third).await, 0);
}

#[tokio::test]
async fn who_joins_again_keeps_the_granted_tags_but_for_those_that_the_code_names() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let first = fixture.code_with(1, &["team=a", "owner=bob"]).await;
    let device = claim(store, &first.claim(1), at(0)).await.unwrap();
    let tags = device.tags.overlaid(&granted(&["location=lab"]));
    assert!(store.devices().set_tags(device.id, &tags).await.unwrap());

    let plain = fixture.code_with(1, &[]).await;
    let renewed = claim(store, &plain.claim(1), at(1)).await.unwrap();
    assert_eq!(renewed.tags.to_string(), "location=lab,owner=bob,team=a");

    let naming = fixture.code_with(1, &["owner=carol", "type=laptop"]).await;
    let renewed = claim(store, &naming.claim(1), at(2)).await.unwrap();
    assert_eq!(
        renewed.tags.to_string(),
        "location=lab,owner=carol,team=a,type=laptop"
    );
    assert_eq!(store.devices().list().await.unwrap(), [renewed]);
}

#[tokio::test]
async fn joining_again_gives_no_more_tags_than_a_device_may_have() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let tags =
        |numbers: std::ops::Range<usize>| numbers.map(|number| format!("t{number}=x")).collect::<Vec<_>>();
    let code = async |numbers: std::ops::Range<usize>| {
        let tags = tags(numbers);
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        fixture.code_with(1, &tags).await
    };
    let claimed = claim(store, &code(0..TAGS_MAX).await.claim(1), at(0))
        .await
        .unwrap();

    // One more key is too many, and burns nothing; the same keys are not.
    let one_more = code(TAGS_MAX..TAGS_MAX + 1).await;
    let refused = claim(store, &one_more.claim(1), at(1)).await;
    assert_eq!(refused, Err(ClaimRefusal::TooManyTags));
    assert_eq!(uses(store, &one_more).await, 0);
    assert_eq!(store.devices().list().await.unwrap(), slice::from_ref(&claimed));
    let same = claim(store, &code(0..TAGS_MAX).await.claim(1), at(2))
        .await
        .unwrap();
    assert_eq!(same.tags, claimed.tags);

    // Who has more already is not kept out by a code that adds none.
    let more = tags(0..TAGS_MAX + 5)
        .iter()
        .map(|tag| tag.parse().unwrap())
        .collect();
    assert!(store.devices().set_tags(same.id, &more).await.unwrap());
    let again = claim(store, &code(0..1).await.claim(1), at(3)).await.unwrap();
    assert_eq!(again.tags, more);
    assert_eq!(
        claim(store, &one_more.claim(1), at(4)).await.unwrap().tags,
        more,
        "no key of it is new"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_claims_at_once_one_wins() {
    let fixture = Fixture::new().await;
    let code = fixture.code(1).await;
    let claims = (0..100).map(|device| {
        let (store, request) = (fixture.store.clone(), code.claim(device));
        tokio::spawn(async move { claim(&store, &request, at(0)).await })
    });
    let mut outcomes = Vec::new();
    for task in claims.collect::<Vec<_>>() {
        outcomes.push(task.await.unwrap());
    }
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == Err(ClaimRefusal::Used))
            .count(),
        99
    );
    assert_eq!(fixture.store.devices().list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_devices_at_once_get_names_and_addresses_of_their_own() {
    let fixture = Fixture::new().await;
    let code = fixture.code(200).await;
    // Two stores on one file, as two processes would have it.
    let second = Store::open(&fixture.folder.path().join("registry.sqlite"))
        .await
        .unwrap();
    let claims = (0..200).map(|device| {
        let store = if device % 2 == 0 {
            fixture.store.clone()
        } else {
            second.clone()
        };
        let request = code.claim(device);
        tokio::spawn(async move { claim(&store, &request, at(0)).await.unwrap() })
    });
    let mut devices = Vec::new();
    for task in claims.collect::<Vec<_>>() {
        devices.push(task.await.unwrap());
    }
    let addresses: BTreeSet<_> = devices.iter().map(|device| device.inner_address).collect();
    let names: BTreeSet<_> = devices.iter().map(|device| device.name.clone()).collect();
    assert_eq!((addresses.len(), names.len()), (200, 200));
    assert_eq!(addresses.iter().next_back().unwrap().to_string(), "100.64.0.200");
    assert!(addresses.iter().all(|address| DEVICE_ADDRESSES.contains(address)));
    assert!(names.contains(&"laptop".parse::<DeviceName>().unwrap()));
    assert!(names.contains(&"laptop-200".parse::<DeviceName>().unwrap()));
}

#[tokio::test]
async fn a_long_name_is_shortened_to_make_room_for_the_number() {
    let fixture = Fixture::new().await;
    let code = fixture.code(2).await;
    let long: DeviceName = "a".repeat(DEVICE_NAME_MAX).parse().unwrap();
    for (device, expected) in [
        (1, long.as_str().to_owned()),
        (2, format!("{}-2", "a".repeat(51))),
    ] {
        let request = ClaimRequest {
            name: long.clone(),
            ..code.claim(device)
        };
        assert_eq!(
            claim(&fixture.store, &request, at(0))
                .await
                .unwrap()
                .name
                .as_str(),
            expected
        );
    }
}
