//! Any sequence of faults, and then good weather.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mock_instant::MockClock;
use orfe_tunnel_core::{
    Batch, Datagrams, HandshakeLimits, Node, NodeConfig, PeerConfig, PrivateKey, REJECT_AFTER_TIME,
};
use orfe_wireguard_model::{DEVICE, GATEWAY, Weather, World};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Send { from: usize, len: usize, burst: u8 },
    Spoof { from: usize },
    Advance { ms: u32 },
    Sleep { s: u32 },
    Weather { lose: u8, copy: u8, hold: u8 },
    Roam { host: u8, port: u16, told: bool },
    AskInVain { times: u16, heard: bool },
    Open { anything: bool },
    Replay { which: usize },
    Forge { which: usize, bit: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..2, 28_usize..1_280, 1_u8..20).prop_map(|(from, len, burst)| Step::Send { from, len, burst }),
        1 => (0_usize..2).prop_map(|from| Step::Spoof { from }),
        8 => (1_u32..20_000).prop_map(|ms| Step::Advance { ms }),
        1 => (1_u32..4_000).prop_map(|s| Step::Sleep { s }),
        2 => (0_u8..4, 0_u8..4, 0_u8..4).prop_map(|(lose, copy, hold)| Step::Weather { lose, copy, hold }),
        2 => (10_u8..20, 1_024_u16..1_030, any::<bool>()).prop_map(|(host, port, told)| Step::Roam { host, port, told }),
        1 => (1_u16..600, any::<bool>()).prop_map(|(times, heard)| Step::AskInVain { times, heard }),
        2 => any::<bool>().prop_map(|anything| Step::Open { anything }),
        3 => any::<usize>().prop_map(|which| Step::Replay { which }),
        3 => (any::<usize>(), any::<usize>()).prop_map(|(which, bit)| Step::Forge { which, bit }),
    ]
}

fn attacker() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 66], 666))
}

fn apply(world: &mut World, step: &Step) {
    match *step {
        Step::Send { from, len, burst } => {
            for _ in 0..burst {
                world.send(from, len);
            }
        }
        Step::Spoof { from } => world.send_spoofed(from),
        Step::Advance { ms } => world.advance(Duration::from_millis(ms.into())),
        Step::Sleep { s } => world.sleep(Duration::from_secs(s.into())),
        Step::Weather { lose, copy, hold } => {
            world.network.weather = Weather {
                lose_every: lose,
                copy_every: copy,
                hold_every: hold,
            };
        }
        Step::Roam { host, port, told } => {
            world.roam(SocketAddr::from(([198, 51, 100, host], port)));
            if told {
                world.rehandshake();
            }
        }
        Step::AskInVain { times, heard } => ask_in_vain(world, times, heard),
        Step::Open { anything } => world.set_in_use(anything),
        Step::Replay { which } => {
            let now = world.now();
            world.network.replay(which, attacker(), now);
        }
        Step::Forge { which, bit } => {
            let now = world.now();
            world.network.forge(which, bit, attacker(), now);
        }
    }
}

/// The device asks so often that the 8 bits in which its engine counts sessions go round, and nothing comes back; either the
/// gateway does not hear it, or it answers some and the answers are lost.
fn ask_in_vain(world: &mut World, times: u16, heard: bool) {
    let weather = world.network.weather;
    for _ in 0..times {
        world.network.weather.lose_every = u8::from(!heard);
        world.rehandshake();
        world.network.weather.lose_every = 1;
        world.advance(Duration::from_millis(50));
    }
    world.network.weather = weather;
}

/// How long traffic takes at most to bring a tunnel back: 15 s without an answer, a retry 5 s later, and jitter.
const HEALED_S: u32 = 21;

/// One packet each way and a second; whether both arrived.
fn exchange(world: &mut World) -> bool {
    let packets = [DEVICE, GATEWAY].map(|from| world.send(from, 100));
    world.advance(Duration::from_secs(1));
    packets.iter().all(|number| world.delivered.contains_key(number))
}

/// What must be true at any moment.
fn check(world: &World) -> Result<(), TestCaseError> {
    for (number, deliveries) in &world.delivered {
        let from = world.sent.get(number);
        prop_assert!(
            from.is_some(),
            "a packet came out that nobody sent (spoofed, or forged)"
        );
        prop_assert_eq!(deliveries.len(), 1, "packet {} came out twice", number);
        prop_assert_eq!(Some(deliveries[0].to), from.map(|from| 1 - from));
    }
    for end in [DEVICE, GATEWAY] {
        let delivered = world
            .delivered
            .values()
            .flatten()
            .filter(|it| it.to == end)
            .count();
        let stats = world.stats(end);
        prop_assert_eq!(stats.rx_bytes == 0, delivered == 0);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_comes_out_twice_or_from_nobody_and_good_weather_heals(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(Some(Duration::from_secs(25)), None);
        for step in &steps {
            apply(&mut world, step);
            check(&world)?;
        }
        world.network.weather = Weather::default();
        world.advance(Duration::from_secs(45));
        // A session may be dead at one end only, and that shows by traffic that nothing answers for 15 s.
        let back = (0..HEALED_S).find(|_| exchange(&mut world));
        prop_assert!(back.is_some(), "no packet gets through in good weather");
        for _ in 0..30 {
            let arrived = exchange(&mut world);
            prop_assert!(
                arrived,
                "a packet was lost in good weather before {:?}; handshakes {:?}",
                world.now(),
                world.handshakes(DEVICE)
            );
        }
        prop_assert_eq!(world.stats(GATEWAY).endpoint, Some(world.ends[DEVICE].address));
        for end in [DEVICE, GATEWAY] {
            let age = world.handshakes(end).last().map(|at| world.now() - *at);
            prop_assert!(
                age.is_some_and(|age| age <= REJECT_AFTER_TIME),
                "packets are carried by a session that was proved {:?} ago",
                age
            );
        }
        check(&world)?;
    }

    #[test]
    fn a_copy_or_a_forgery_never_moves_the_endpoint(
        before in 1_u8..20,
        attacks in prop::collection::vec((any::<usize>(), any::<Option<usize>>()), 1..40),
    ) {
        let mut world = World::new(Some(Duration::from_secs(25)), None);
        world.advance(Duration::from_secs(1));
        for _ in 0..before {
            world.send(DEVICE, 200);
            world.send(GATEWAY, 200);
        }
        // All originals arrive before the copies: what overtakes its original is no copy.
        world.advance(Duration::from_secs(1));
        let homes = [world.stats(DEVICE).endpoint, world.stats(GATEWAY).endpoint];
        for (which, bit) in attacks {
            let now = world.now();
            match bit {
                Some(bit) => world.network.forge(which, bit, attacker(), now),
                None => world.network.replay(which, attacker(), now),
            };
            world.advance(Duration::from_millis(50));
            prop_assert_eq!(world.stats(DEVICE).endpoint, homes[0]);
            prop_assert_eq!(world.stats(GATEWAY).endpoint, homes[1]);
            check(&world)?;
        }
    }
}

#[test]
fn who_holds_a_datagram_back_and_delivers_it_himself_does_not_own_the_direction_for_good() {
    let mut world = World::new(Some(Duration::from_secs(25)), None);
    world.advance(Duration::from_secs(1));
    world.network.weather = Weather {
        lose_every: 1,
        ..Weather::default()
    };
    world.send(GATEWAY, 100);
    let now = world.now();
    // The newest datagram is the one that was lost.
    let newest = world.network.recorded() - 1;
    assert!(world.network.replay(newest, attacker(), now));
    world.network.weather = Weather::default();
    world.advance(Duration::from_secs(1));
    assert_eq!(
        world.stats(DEVICE).endpoint,
        Some(attacker()),
        "authentic and new, so the device believes it, as WireGuard has it"
    );
    let back = (0..HEALED_S).find(|_| {
        let up = world.send(DEVICE, 100);
        world.advance(Duration::from_secs(1));
        world.delivered.contains_key(&up)
    });
    assert!(back.is_some(), "the device speaks to the attacker for ever");
    assert_eq!(world.stats(DEVICE).endpoint, Some(world.ends[GATEWAY].address));
}

#[test]
fn handshake_limits_are_refilled_by_time_alone_without_peers_and_timers() {
    MockClock::set_time(Duration::ZERO);
    let base = Instant::now();
    let limits = HandshakeLimits {
        per_second: 3,
        ..HandshakeLimits::default()
    };
    let node = |limits| -> Node {
        let config = NodeConfig {
            private_key: PrivateKey::generate(),
            mtu: 1280,
            limits,
        };
        Node::new(config, base)
    };
    let (mut gateway, mut stranger) = (node(limits), node(HandshakeLimits::default()));
    let (address, key) = (SocketAddr::from(([192, 0, 2, 1], 51_820)), gateway.public_key());
    let peer = PeerConfig {
        public_key: key,
        preshared_key: None,
        endpoint: Some(address),
        allowed_ips: Vec::new(),
        keepalive: None,
    };
    assert!(stranger.set_peer(peer, base).is_ok());
    for second in 0..3 {
        let time = Duration::from_secs(second);
        MockClock::set_time(time);
        let (mut asked, mut packets, mut out) = (Datagrams::new(), Batch::new(), Datagrams::new());
        for port in 0..5 {
            stranger.rehandshake(&key, base + time, &mut asked);
            let mut batch = Batch::new();
            let initiation = asked.iter().last().map(|(datagram, _)| datagram.to_vec());
            batch.push(
                &initiation.unwrap_or_default(),
                SocketAddr::from(([192, 0, 2, 9], port)),
            );
            gateway.handle_datagrams(&batch, base + time, &mut packets, &mut out);
        }
        let drops = gateway.drops();
        assert_eq!(
            (drops.unknown_peer, drops.limited),
            (3 * (second + 1), 2 * (second + 1))
        );
    }
}
