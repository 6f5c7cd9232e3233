//! Sessions of devices that have joined.

use std::time::Duration;

use orfe_protocol::close;
use orfe_protocol::id::Revision;
use orfe_protocol::message::{
    Ack, FromAgent, FromRegistry, Goodbye, GoodbyeReason, Heartbeat, RefusedReason,
};
use orfe_protocol::noise::Initiator;

use crate::agent::{Agent, Identity, frame, observed, open};
use crate::site::Site;

async fn next_ack(agent: &mut Agent) -> Ack {
    loop {
        if let FromRegistry::Ack(ack) = agent.hear().await {
            return ack;
        }
    }
}

#[tokio::test]
async fn heartbeats_are_acknowledged_and_what_is_observed_is_shown_at_once() {
    let site = Site::with(|config| config.session.heartbeat = Duration::from_millis(700)).await;
    let (mut agent, _) = Agent::joined(&site).await;
    agent.say(&FromAgent::Heartbeat(Heartbeat {})).await;
    assert_eq!(next_ack(&mut agent).await.heartbeat_ms, 700);
    for health in ["healthy", "unhealthy", "idle"] {
        agent.say(&observed(health)).await;
        site.until_state(health).await;
    }
    let table = site.cli(&["device", "list"]).await.unwrap();
    assert!(
        table.contains("laptop") && table.contains("idle") && table.contains("linux/amd64"),
        "{table}"
    );
    let page = site.cli(&["device", "show", "laptop"]).await.unwrap();
    assert!(page.contains("owner=alice"), "{page}");
    site.registry.shutdown().await;
}

#[tokio::test]
async fn an_unknown_device_is_refused() {
    let site = Site::new().await;
    let mut agent = Agent::connect(&site, &Identity::new()).await;
    let refused = agent.begin(Revision::default()).await.unwrap_err();
    assert_eq!(refused.reason, RefusedReason::UnknownDevice);
    assert_eq!(agent.closed_with().await, close::NOT_AUTHENTICATED);
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_revoked_device_is_closed_at_once_and_stays_out() {
    let site = Site::new().await;
    let (mut agent, identity) = Agent::joined(&site).await;
    site.cli(&["device", "revoke", "laptop"]).await.unwrap();
    assert_eq!(agent.closed_with().await, close::REVOKED);
    site.until_state("revoked").await;

    let mut agent = Agent::connect(&site, &identity).await;
    assert_eq!(
        agent.begin(Revision::default()).await.unwrap_err().reason,
        RefusedReason::DeviceRevoked
    );
    assert_eq!(agent.closed_with().await, close::REVOKED);
    let site = site.restarted().await;
    assert_eq!(site.devices().await.devices[0].state, "revoked");
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_newer_session_takes_the_olders_place() {
    let site = Site::new().await;
    let (mut older, identity) = Agent::joined(&site).await;
    older.say(&observed("healthy")).await;
    site.until_state("healthy").await;
    let mut newer = Agent::connect(&site, &identity).await;
    assert_eq!(newer.begin(Revision::default()).await.unwrap().session_epoch, 2);
    assert_eq!(older.closed_with().await, close::REPLACED);
    // The end of the older one did not take the newer one with it.
    newer.say(&FromAgent::Heartbeat(Heartbeat {})).await;
    next_ack(&mut newer).await;
    assert_eq!(site.registry.fleet().sessions(), 1);
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_lost_device_is_offline_after_the_hold_down_and_one_that_says_goodbye_at_once() {
    let site = Site::with(|config| config.session.hold_down = Duration::from_millis(300)).await;
    let (agent, identity) = Agent::joined(&site).await;
    drop(agent);
    site.until_state("offline").await;

    let mut agent = Agent::connect(&site, &identity).await;
    agent.begin(Revision::default()).await.unwrap();
    site.until_state("starting").await;
    agent
        .say(&FromAgent::Goodbye(Goodbye {
            reason: GoodbyeReason::Sleep,
        }))
        .await;
    assert_eq!(agent.closed_with().await, 1000);
    site.until_state("offline").await;
    assert_eq!(
        site.devices().await.devices[0].goodbye,
        Some(GoodbyeReason::Sleep)
    );
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_registry_that_stops_says_so_and_knows_the_device_when_it_is_back() {
    let site = Site::new().await;
    let (mut agent, identity) = Agent::joined(&site).await;
    agent.say(&observed("healthy")).await;
    site.until_state("healthy").await;
    let (site, closed) = tokio::join!(site.restarted(), agent.closed_with());
    assert_eq!(closed, close::GOING_AWAY);

    let device = &site.devices().await.devices[0];
    assert_eq!(device.state, "unknown");
    assert_eq!(
        device.observed.as_ref().unwrap().facts.hostname,
        "laptop",
        "what it said last is kept"
    );
    let mut agent = Agent::connect(&site, &identity).await;
    assert_eq!(
        agent
            .begin(Revision {
                epoch: 1,
                revision: 1
            })
            .await
            .unwrap()
            .session_epoch,
        2
    );
    site.until_state("healthy").await;
    // It has the desired state already, so the next that it hears is the answer to a heartbeat.
    agent.say(&FromAgent::Heartbeat(Heartbeat {})).await;
    assert!(matches!(agent.hear().await, FromRegistry::Ack(_)));
    site.registry.shutdown().await;
}

#[tokio::test]
async fn more_sessions_than_allowed_are_sent_away() {
    let site = Site::with(|config| config.session.sessions_max = 1).await;
    let (_agent, _) = Agent::joined(&site).await;
    let mut socket = open(&site.data(), site.registry.ready().https, None).await;
    assert_eq!(crate::agent::closed_with(&mut socket).await, close::OVERLOADED);
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_device_that_pins_another_registry_gets_no_answer() {
    let site = Site::new().await;
    let other = Identity::new().noise.public_key();
    let mut socket = open(&site.data(), site.registry.ready().https, None).await;
    let (_, first) = Initiator::start(&Identity::new().noise, &other).unwrap();
    futures_util::SinkExt::send(
        &mut socket,
        tokio_tungstenite::tungstenite::Message::Binary(first.into()),
    )
    .await
    .unwrap();
    assert_eq!(frame(&mut socket).await, Err(close::NOT_AUTHENTICATED));
    site.registry.shutdown().await;
}
