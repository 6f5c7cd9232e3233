//! A gateway that goes and comes back, and connections that take time to open.

use super::*;

#[test]
fn a_gateway_that_comes_back_is_asked_soon_while_somebody_wants_it() {
    let mut longest = Duration::ZERO;
    for away in (1..60).step_by(2) {
        for traffic in [Traffic::Sparse, Traffic::Steady] {
            let mut world = World::seeded([true; 3], None, away);
            world.traffic = traffic;
            world.until_on(0, LIMIT);
            world.run(Duration::from_secs(20));
            world.open = [false; 3];
            world.run(Duration::from_millis(away * 997));
            world.open = [true, false, false];
            let back = world.now;
            world.gateway_since = back;
            while world.handshake < Some(back) {
                assert!(world.now < back + LIMIT, "away {away} s: {:?}", world.moves);
                world.step();
            }
            longest = longest.max(world.now - back);
        }
    }
    assert!(longest <= Duration::from_secs(3), "{longest:?}");
}

#[test]
fn a_packet_after_a_long_silence_ends_the_pause() {
    let mut world = World::new([false; 3], None);
    world.run(Duration::from_secs(300));
    world.open = [true, false, false];
    world.traffic = Traffic::Steady;
    let took = world.until_on(0, LIMIT);
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_gateway_that_says_it_began_anew_is_asked_at_once() {
    let mut world = World::new([true; 3], None);
    world.until_on(0, LIMIT);
    world.run(Duration::from_secs(20));
    world.moves.clear();
    world.ladder.gateway_restarted(world.now);
    assert_eq!(world.ladder.poll_move(), Some(Move::Ask));
    world.open = [false; 3];
    world.run(Duration::from_secs(200));
    assert!(world.ladder.settled().is_none());
    world.open = [true; 3];
    world.ladder.gateway_restarted(world.now);
    let took = world.until_on(0, LIMIT);
    assert!(took <= Duration::from_millis(100), "{took:?}");
}

#[test]
fn an_answered_doubt_does_not_hide_that_the_gateway_goes_soon_after() {
    let mut world = World::new([true; 3], None);
    world.traffic = Traffic::Steady;
    world.until_on(0, LIMIT);
    world.run(Duration::from_secs(20));
    world.ladder.gateway_restarted(world.now);
    world.run(Duration::from_millis(500));
    world.open = [false, true, true];
    let took = world.until_on(1, LIMIT);
    assert!(took <= Duration::from_millis(1400), "{took:?}");
}

#[test]
fn what_takes_long_to_open_is_used_as_soon_as_it_is_open() {
    let start = Instant::now();
    let mut ladder = Ladder::new(vec![1; 2], None, StdRng::seed_from_u64(1), start);
    assert_eq!(ladder.poll_move(), Some(Move::Use(rung(0))));
    ladder.handle_open(1, start + STEP.0 / 2);
    assert_eq!(ladder.poll_move(), None, "its turn comes");
    ladder.handle_timeout(start + STEP.0);
    assert_eq!(ladder.poll_move(), Some(Move::Use(rung(1))));
    let (due, _) = ladder.poll_timeout().unwrap();
    ladder.handle_timeout(due);
    assert_eq!(ladder.poll_move(), None, "the round is over");
    ladder.handle_open(1, due);
    assert_eq!(ladder.poll_move(), Some(Move::Use(rung(1))));
    let (next, _) = ladder.poll_timeout().unwrap();
    assert!(next >= due + STEP.1, "it has its time for itself");
}

#[test]
fn a_wanted_round_has_an_end_and_an_unwanted_one_is_rare() {
    let tries = |traffic| {
        let mut world = World::new([false; 3], None);
        world.traffic = traffic;
        world.run(Duration::from_secs(120));
        world.moves.clear();
        world.run(Duration::from_secs(600));
        let used = world
            .moves
            .iter()
            .filter(|(_, made)| matches!(made, Move::Use(_)));
        used.count()
    };
    let (wanted, unwanted) = (tries(Traffic::Steady), tries(Traffic::Nothing));
    assert!((200..=450).contains(&wanted), "{wanted} initiations in 10 min");
    assert!(unwanted <= 90, "{unwanted} initiations in 10 min");
}
