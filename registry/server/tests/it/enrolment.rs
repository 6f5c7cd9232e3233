//! Joining over the wire.

use orfe_protocol::join_code::{JoinSecret, SpkiPin};
use orfe_protocol::key::WireGuardPublicKey;
use orfe_protocol::message::{FromRegistry, RefusedReason};
use orfe_protocol::{close, id::Revision};
use orfe_registry::api::{JoinCodeList, TAGS_MAX};
use rcgen::PublicKeyData as _;

use crate::agent::{Agent, Identity};
use crate::site::Site;

async fn refused(
    site: &Site,
    identity: &Identity,
    code: &orfe_protocol::join_code::JoinCode,
) -> RefusedReason {
    let mut agent = Agent::connect(site, identity).await;
    let reason = agent.claim(identity, code).await.unwrap_err().reason;
    let closing = agent.closed_with().await;
    let expected = match reason {
        RefusedReason::DeviceRevoked => close::REVOKED,
        RefusedReason::Unavailable => close::OVERLOADED,
        _ => close::NOT_AUTHENTICATED,
    };
    assert_eq!(closing, expected);
    reason
}

#[tokio::test]
async fn a_device_joins_and_is_told_what_is_desired_of_it() {
    let site = Site::new().await;
    let identity = Identity::new();
    let code = site
        .join_code(&["--tag", "owner=alice", "--tag", "location=lab"])
        .await;
    let key = std::fs::read_to_string(site.data().join("tls.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    assert_eq!(code.spki_pin, Some(SpkiPin::of(&key.subject_public_key_info())));

    let mut agent = Agent::connect(&site, &identity).await;
    let claimed = agent.claim(&identity, &code).await.unwrap();
    assert_eq!(claimed.name.as_str(), "laptop");
    let welcome = agent.begin(Revision::default()).await.unwrap();
    assert_eq!(
        (welcome.device, welcome.session_epoch, welcome.heartbeat_ms),
        (claimed.device, 1, 15_000)
    );
    let FromRegistry::Desired(desired) = agent.hear().await else {
        panic!("no desired state")
    };
    assert_eq!(
        desired.revision,
        Revision {
            epoch: 1,
            revision: 1
        }
    );
    assert_eq!(desired.tags.to_string(), "location=lab,owner=alice");
    assert!(desired.coder.is_none() && desired.tunnel.is_none());

    let devices = site.devices().await.devices;
    assert_eq!((devices.len(), devices[0].state.as_str()), (1, "starting"));
    assert_eq!(devices[0].noise_public_key, identity.noise.public_key());
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_lost_answer_is_given_again() {
    let site = Site::new().await;
    let identity = Identity::new();
    let code = site.join_code(&[]).await;
    let mut first = Agent::connect(&site, &identity).await;
    first.say(&identity.claim(&code)).await;
    // The answer is not read: for the device it is lost.
    site.until_state("never seen").await;
    drop(first);

    let mut second = Agent::connect(&site, &identity).await;
    let claimed = second.claim(&identity, &code).await.unwrap();
    assert_eq!(claimed.name.as_str(), "laptop");
    let list: JoinCodeList =
        serde_json::from_str(&site.cli(&["join-code", "list", "--json"]).await.unwrap()).unwrap();
    let row = list.join_codes.iter().find(|row| row.id == code.id).unwrap();
    assert_eq!((row.uses, row.state.as_str()), (1, "used"));
    site.registry.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_code_is_told_to_whoever_has_its_secret() {
    let site = Site::new().await;
    let identity = Identity::new();

    let mut wrong = site.join_code(&[]).await;
    wrong.secret = JoinSecret::generate().unwrap();
    assert_eq!(
        refused(&site, &identity, &wrong).await,
        RefusedReason::JoinCodeInvalid
    );
    let mut unknown = site.join_code(&[]).await;
    unknown.id = orfe_protocol::id::JoinCodeId::generate();
    assert_eq!(
        refused(&site, &identity, &unknown).await,
        RefusedReason::JoinCodeInvalid
    );

    let revoked = site.join_code(&[]).await;
    site.cli(&["join-code", "revoke", &revoked.id.to_string()])
        .await
        .unwrap();
    assert_eq!(
        refused(&site, &identity, &revoked).await,
        RefusedReason::JoinCodeRevoked
    );

    let used = site.join_code(&[]).await;
    let other = Identity::new();
    Agent::connect(&site, &other)
        .await
        .claim(&other, &used)
        .await
        .unwrap();
    assert_eq!(
        refused(&site, &identity, &used).await,
        RefusedReason::JoinCodeUsed
    );

    let expired = site.join_code(&["--ttl", "1s"]).await;
    while !site
        .cli(&["join-code", "list"])
        .await
        .unwrap()
        .contains("expired")
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        refused(&site, &identity, &expired).await,
        RefusedReason::JoinCodeExpired
    );
    assert_eq!(site.devices().await.devices.len(), 1);
    site.registry.shutdown().await;
}

#[tokio::test]
async fn joining_again_with_too_many_tags_is_told_why() {
    let site = Site::new().await;
    let identity = Identity::new();
    let code = async |prefix: &str| {
        let flags: Vec<String> = (0..TAGS_MAX)
            .map(|number| format!("--tag={prefix}{number}=x"))
            .collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        site.join_code(&flags).await
    };
    let mut agent = Agent::connect(&site, &identity).await;
    agent.claim(&identity, &code("a").await).await.unwrap();
    assert_eq!(
        refused(&site, &identity, &code("b").await).await,
        RefusedReason::TooManyTags
    );
    let device = &site.devices().await.devices[0];
    assert_eq!(device.granted_tags.iter().count(), TAGS_MAX);
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_wireguard_key_belongs_to_one_device() {
    let site = Site::new().await;
    let (_agent, first) = Agent::joined(&site).await;
    let thief = Identity {
        wireguard: first.wireguard,
        ..Identity::new()
    };
    let code = site.join_code(&[]).await;
    assert_eq!(
        refused(&site, &thief, &code).await,
        RefusedReason::WireGuardKeyTaken
    );
    // The code was not used up by it.
    let honest = Identity::new();
    let claimed = Agent::connect(&site, &honest)
        .await
        .claim(&honest, &code)
        .await
        .unwrap();
    assert_eq!(claimed.name.as_str(), "laptop-2");
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_key_that_anybody_could_use_enrols_no_device() {
    let site = Site::new().await;
    let weak = Identity {
        wireguard: WireGuardPublicKey::from_bytes([0; 32]),
        ..Identity::new()
    };
    let code = site.join_code(&[]).await;
    assert_eq!(refused(&site, &weak, &code).await, RefusedReason::WeakKey);
    // The code was not used up by it.
    let honest = Identity::new();
    Agent::connect(&site, &honest)
        .await
        .claim(&honest, &code)
        .await
        .unwrap();
    assert_eq!(site.devices().await.devices.len(), 1);
    site.registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_claims_at_once_one_wins() {
    let site = Site::new().await;
    let code = site.join_code(&[]).await;
    let (data, address) = (site.data(), site.registry.ready().https);
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (data, code) = (data.clone(), code.clone());
        claims.spawn(async move {
            let identity = Identity::new();
            let mut agent = Agent::connect_to(&data, address, code.registry_key, &identity).await;
            agent
                .claim(&identity, &code)
                .await
                .map_err(|refused| refused.reason)
        });
    }
    let outcomes = claims.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let used = outcomes
        .iter()
        .filter(|outcome| **outcome == Err(RefusedReason::JoinCodeUsed));
    assert_eq!(used.count(), 99);
    site.registry.shutdown().await;
}

#[tokio::test]
async fn one_address_may_not_claim_without_end() {
    let site = Site::with(|config| {
        config.session.claims_at_once = 2.0;
        config.session.claims_per_second = 0.001;
    })
    .await;
    let identity = Identity::new();
    let mut code = site.join_code(&[]).await;
    code.secret = JoinSecret::generate().unwrap();
    for expected in [
        RefusedReason::JoinCodeInvalid,
        RefusedReason::JoinCodeInvalid,
        RefusedReason::Unavailable,
    ] {
        assert_eq!(refused(&site, &identity, &code).await, expected);
    }
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_registry_whose_key_is_gone_does_not_start_as_another() {
    for file in ["noise.key", "wireguard.key", "tls.key"] {
        let site = Site::new().await;
        let identity = Identity::new();
        let code = site.join_code(&[]).await;
        let mut agent = Agent::connect(&site, &identity).await;
        agent.claim(&identity, &code).await.unwrap();

        let error = site.without(file).await;

        assert!(error.to_string().contains(&format!("{file} is gone")), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("backup") && hint.contains("join"), "{hint}");
    }
}
