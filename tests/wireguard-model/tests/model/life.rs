//! Sessions over hours: rekeying, silence, sleep.

use std::time::Duration;

use orfe_tunnel_core::{Event, REJECT_AFTER_TIME};
use orfe_wireguard_model::{DEVICE, GATEWAY, Weather, World};

const KEEPALIVE: Option<Duration> = Some(Duration::from_secs(25));
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_busy_session_is_renewed_about_every_two_minutes_and_loses_nothing() {
    let mut world = World::new(KEEPALIVE, None);
    world.advance(SECOND);
    for _ in 0..3_600 {
        let up = world.send(DEVICE, 400);
        let down = world.send(GATEWAY, 400);
        world.advance(SECOND);
        assert!(world.delivered.contains_key(&up), "lost at {:?}", world.now());
        assert!(world.delivered.contains_key(&down), "lost at {:?}", world.now());
    }
    let handshakes = world.handshakes(DEVICE);
    assert!(
        (28..=31).contains(&handshakes.len()),
        "{} in an hour",
        handshakes.len()
    );
    for pair in handshakes.windows(2) {
        let age = pair[1] - pair[0];
        assert!(
            (Duration::from_secs(115)..Duration::from_secs(130)).contains(&age),
            "a session lived {age:?}"
        );
    }
}

#[test]
fn an_idle_session_is_kept_and_speaks_little() {
    let mut world = World::new(KEEPALIVE, None);
    world.advance(Duration::from_secs(3_600));
    // 30 handshakes of three datagrams, a keepalive each 25 s and, from either end, answers to them.
    let datagrams = world.network.carried();
    assert!(
        (200..=600).contains(&datagrams),
        "{datagrams} datagrams in an hour"
    );
    let handshakes = world.handshakes(DEVICE);
    assert!((28..=31).contains(&handshakes.len()), "{}", handshakes.len());
    let number = world.send(GATEWAY, 100);
    world.advance(SECOND);
    assert!(
        world.delivered.contains_key(&number),
        "the gateway reaches an idle device at once"
    );
}

#[test]
fn with_nothing_open_a_kept_session_falls_silent_and_a_packet_of_the_device_needs_no_more_than_a_handshake() {
    for idle in [200, 400, 1_000, 8 * 3_600] {
        let mut world = World::new(KEEPALIVE, None);
        world.set_in_use(false);
        world.advance(SECOND);
        assert_eq!(world.handshakes(DEVICE).len(), 1, "it proves itself once");
        world.advance(Duration::from_secs(199));
        let said = world.network.carried();
        world.advance(Duration::from_secs(idle));
        assert_eq!(world.network.carried(), said, "silence for {idle} s");
        let up = world.send(DEVICE, 100);
        world.advance(Duration::from_millis(100));
        assert!(world.delivered.contains_key(&up), "after {idle} s");
        let down = world.send(GATEWAY, 100);
        world.advance(Duration::from_millis(100));
        assert!(
            world.delivered.contains_key(&down),
            "the gateway knows the way again"
        );
    }
}

#[test]
fn what_is_open_and_says_nothing_keeps_the_way_back_open() {
    let mut world = World::new(KEEPALIVE, None);
    world.set_in_use(false);
    world.advance(Duration::from_secs(1_000));
    world.set_in_use(true);
    for _ in 0..60 {
        let before = world.network.carried();
        world.advance(Duration::from_secs(60));
        assert!(world.network.carried() >= before + 2, "a keepalive each 25 s");
        let number = world.send(GATEWAY, 100);
        world.advance(SECOND);
        assert!(world.delivered.contains_key(&number));
    }
}

#[test]
fn a_gateway_that_is_gone_is_asked_for_ever_though_nothing_is_open() {
    let mut world = World::new(KEEPALIVE, None);
    world.set_in_use(false);
    world.advance(Duration::from_secs(1_000));
    world.network.weather = Weather {
        lose_every: 1,
        ..Weather::default()
    };
    // The first packet after the rest finds nobody.
    world.send(DEVICE, 100);
    world.advance(Duration::from_secs(3_600));
    assert!(world.stats(DEVICE).unanswered_since.is_some());
    world.network.weather = Weather::default();
    world.advance(Duration::from_secs(36));
    assert!(
        world.stats(DEVICE).unanswered_since.is_none(),
        "it is back by itself"
    );
    world.advance(Duration::from_secs(200));
    let said = world.network.carried();
    world.advance(Duration::from_secs(600));
    assert_eq!(world.network.carried(), said, "and rests again");
}

#[test]
fn without_keepalive_an_unused_tunnel_is_silent_and_comes_back_with_the_first_packet() {
    let mut world = World::new(None, None);
    world.advance(Duration::from_secs(600));
    assert!(world.handshakes(DEVICE).is_empty(), "nothing asked for a session");
    let first = world.send(DEVICE, 100);
    world.advance(SECOND);
    assert!(world.delivered.contains_key(&first), "it waited for its session");
    world.advance(Duration::from_secs(900));
    let second = world.send(DEVICE, 100);
    world.advance(SECOND);
    assert!(world.delivered.contains_key(&second));
}

#[test]
fn after_a_night_of_sleep_the_device_is_back_by_itself() {
    for slept in [90, 200, 600, 8 * 3_600] {
        let mut world = World::new(KEEPALIVE, None);
        world.advance(Duration::from_secs(30));
        world.sleep(Duration::from_secs(slept));
        world.advance(Duration::from_secs(40));
        let number = world.send(GATEWAY, 100);
        world.advance(SECOND);
        assert!(world.delivered.contains_key(&number), "not back {slept} s later");
        let age = world.now() - *world.handshakes(DEVICE).last().unwrap();
        assert!(age < REJECT_AFTER_TIME, "{age:?}");
    }
}

#[test]
fn told_to_shake_hands_after_sleep_the_device_is_back_at_once() {
    let mut world = World::new(KEEPALIVE, None);
    world.advance(Duration::from_secs(30));
    world.sleep(Duration::from_secs(3_600));
    world.rehandshake();
    world.advance(Duration::from_millis(100));
    let number = world.send(GATEWAY, 100);
    world.advance(Duration::from_millis(100));
    assert!(world.delivered.contains_key(&number));
}

#[test]
fn a_gateway_that_is_cut_off_for_long_is_found_again() {
    for cut_off in [20, 100, 600, 3_600] {
        let mut world = World::new(KEEPALIVE, None);
        world.advance(Duration::from_secs(30));
        world.network.weather = Weather {
            lose_every: 1,
            ..Weather::default()
        };
        for _ in 0..cut_off {
            world.send(DEVICE, 100);
            world.advance(SECOND);
        }
        world.network.weather = Weather::default();
        // A retry every 5 s, or after it gave up a pause of 30 s at the most.
        world.advance(Duration::from_secs(36));
        let number = world.send(DEVICE, 100);
        world.advance(SECOND);
        assert!(
            world.delivered.contains_key(&number),
            "not back after {cut_off} s"
        );
    }
}

#[test]
fn a_dead_gateway_is_told_once_and_tried_for_ever() {
    let mut world = World::new(KEEPALIVE, None);
    world.network.weather = Weather {
        lose_every: 1,
        ..Weather::default()
    };
    world.advance(Duration::from_secs(3_600));
    let given_up = world.ends[DEVICE]
        .events
        .iter()
        .filter(|(_, event)| matches!(event, Event::SessionExpired { .. }))
        .count();
    // Attempts of 90 s with pauses of 30 s at the most between them.
    assert!((29..=41).contains(&given_up), "{given_up} attempts in an hour");
}

#[test]
fn a_preshared_key_that_both_know_carries_packets() {
    let mut world = World::new(KEEPALIVE, Some([7; 32]));
    world.advance(SECOND);
    let number = world.send(DEVICE, 100);
    world.advance(SECOND);
    assert!(world.delivered.contains_key(&number));
}

#[test]
fn timers_wake_nobody_for_nothing() {
    let mut world = World::new(KEEPALIVE, None);
    world.advance(Duration::from_secs(3_600));
    let timers = world.ends[DEVICE].timers;
    // A keepalive each 25 s and a renewal each two minutes.
    assert!(
        (144..=300).contains(&timers),
        "{timers} for a session that is kept"
    );

    let mut world = World::new(KEEPALIVE, None);
    world.set_in_use(false);
    world.advance(Duration::from_secs(600));
    let before = world.ends[DEVICE].timers;
    world.advance(Duration::from_secs(3_600));
    let timers = world.ends[DEVICE].timers - before;
    assert!(timers <= 120, "{timers} at rest");
}

#[test]
fn what_nobody_answers_is_followed_by_a_handshake_after_15_s_and_then_each_5_s() {
    let mut world = World::new(None, None);
    world.send(DEVICE, 100);
    world.advance(Duration::from_secs(30));
    world.network.weather = Weather {
        lose_every: 1,
        ..Weather::default()
    };
    world.send(DEVICE, 100);
    let said = world.network.carried();
    world.advance(Duration::from_millis(14_900));
    assert_eq!(world.network.carried(), said, "not yet");
    // The handshake and each of its retries waits out its jitter.
    world.advance(Duration::from_millis(600));
    assert_eq!(world.network.carried(), said + 1);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.network.carried(), said + 3);
}

#[test]
fn who_has_nothing_to_answer_says_so_after_10_s() {
    let mut world = World::new(None, None);
    world.send(DEVICE, 100);
    world.advance(Duration::from_secs(30));
    world.send(DEVICE, 100);
    let said = world.network.carried();
    world.advance(Duration::from_millis(9_900));
    assert_eq!(world.network.carried(), said);
    world.advance(Duration::from_millis(300));
    // The device hears it and may shake hands behind it: its engine counts the 15 s after which that is due from what it heard
    // before, and not from what it sent.
    assert!(world.network.carried() > said, "the gateway's keepalive");
}

#[test]
fn an_old_session_is_renewed_when_it_is_used_and_never_used_when_it_is_too_old() {
    for (age, again) in [
        (100, 1),
        (130, 2),
        (175, 2),
        (179, 2),
        (181, 2),
        (300, 2),
        (700, 2),
    ] {
        let mut world = World::new(None, None);
        world.send(DEVICE, 100);
        world.advance(Duration::from_secs(age));
        let number = world.send(DEVICE, 100);
        // On the old session one way, and else three.
        let soon = Duration::from_millis(if age < 180 { 15 } else { 35 });
        world.advance(soon);
        assert!(world.delivered.contains_key(&number), "after {age} s");
        world.advance(Duration::from_millis(1_500));
        assert_eq!(world.handshakes(DEVICE).len(), again, "after {age} s");
    }
}
