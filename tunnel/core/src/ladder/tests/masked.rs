//! What goes out is lost while something still comes in: a firewall of one direction, or a NAT that forgot where we are. The
//! gateway repeats what it sent and nobody acknowledged, and that is no sign that anything of ours arrives.

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// Round trips in ms, by seed; 60 where it was not measured.
const MEASURED: [Option<u32>; 4] = [None, Some(5), Some(60), Some(150)];

/// When the gateway's TCP repeats a segment of each of these connections, after the acknowledgements ended at `begun`: first after
/// the connection's time, then after twice as long each time.
fn repetitions(begun: Instant, connections: &[u32]) -> Vec<Instant> {
    let of_one = |first: &u32| {
        let first = MILLISECOND * *first;
        (1..9).map(move |times| begun + first * ((1 << times) - 1))
    };
    connections.iter().flat_map(of_one).collect()
}

/// A world in which all UDP of ours is lost from now on, and only ours.
fn deafened(traffic: Traffic, connections: &[u32], seed: u64) -> World {
    let mut world = World::seeded([true; 3], None, seed);
    if let Some(rtt) = MEASURED[seed as usize % 4] {
        (world.rtt, world.told_rtt) = (MILLISECOND * rtt, true);
    }
    world.lag = Duration::from_millis(100);
    world.traffic = traffic;
    world.until_on(0, LIMIT);
    world.run(Duration::from_secs(30) + MILLISECOND * (seed as u32 % 977));
    world.open = [false, false, true];
    world.replies.clear();
    world.repeated = repetitions(world.now, connections);
    world.moves.clear();
    world
}

#[test]
fn what_the_gateway_repeats_does_not_hide_that_nothing_of_ours_arrives() {
    for (connections, limit) in [
        (&[200][..], 2_600),
        (&[210, 330], 2_700),
        (&[200, 250, 300, 350, 400, 450], 3_000),
        // SYN-ACKs and FINs of many connections that were begun one after the other.
        (&[190, 290, 390, 490, 590, 690, 790, 890, 1_000], 3_600),
    ] {
        let took: Vec<Duration> = (0..128)
            .map(|seed| {
                let mut world = deafened(Traffic::Steady, connections, seed);
                world.until_on(2, Duration::from_secs(60))
            })
            .collect();
        let longest = took.iter().max().unwrap();
        assert!(*longest <= MILLISECOND * limit, "{connections:?}: {longest:?}");
    }
}

#[test]
fn something_that_comes_all_the_time_hides_it_no_better() {
    // Connections that were begun one after the other are repeated one after the other, too.
    for pause in [300, 450, 700, 1_000] {
        for seed in 0..32 {
            let mut world = deafened(Traffic::Steady, &[], seed);
            world.repeated = (1..100)
                .map(|times| world.now + MILLISECOND * (pause * times))
                .collect();
            let took = world.until_on(2, Duration::from_secs(120));
            assert!(took <= Duration::from_secs(3), "every {pause} ms: {took:?}");
        }
    }
}

#[test]
fn a_question_that_was_just_answered_hides_it_for_a_short_time_only() {
    let mut longest = Duration::ZERO;
    for seed in 0..64 {
        let mut world = World::seeded([true; 3], None, seed);
        world.until_on(0, LIMIT);
        world.run(Duration::from_secs(10));
        // An acknowledgement that ends an exchange: nothing answers it but the handshake of a doubt.
        world.sent += 1;
        world.run(MILLISECOND * (550 + seed as u32 * 10));
        assert_eq!(world.asks(), 1);
        world.open = [false, false, true];
        world.traffic = Traffic::Steady;
        longest = longest.max(world.until_on(2, Duration::from_secs(60)));
    }
    assert!(longest <= Duration::from_secs(3), "{longest:?}");
}

/// Questions in five minutes of this traffic on a path that is well, whose round trip was measured or not.
fn questions(traffic: Traffic, rtt: u32, lag: u32, told_rtt: bool) -> usize {
    let mut world = World::new([true; 3], None);
    (world.rtt, world.lag, world.traffic) = (MILLISECOND * rtt, MILLISECOND * lag, traffic);
    world.until_on(0, LIMIT);
    world.told_rtt = told_rtt;
    world.moves.clear();
    world.run(Duration::from_mins(5));
    assert_eq!(world.ladder.settled().map(|(at, _)| at), Some(rung(0)));
    let prepared = world
        .moves
        .iter()
        .any(|(_, made)| matches!(made, Move::Prepare(_)));
    assert!(!prepared, "a WebSocket is not opened for a question");
    world.asks()
}

#[test]
fn a_path_that_is_well_is_asked_once_in_seconds_at_most() {
    for (rtt, lag) in [(5, 100), (60, 100), (60, 10), (150, 100), (250, 100)] {
        let flow = questions(Traffic::Steady, rtt, lag, true);
        assert!(flow <= 2, "{flow} of a flow at {rtt} ms");
        let exchanges = questions(Traffic::Sparse, rtt, lag, false);
        // Beyond 200 ms each doubt asks a second time before the first answer is there.
        let doubts = exchanges / (1 + rtt as usize / 200);
        assert!(doubts <= 100, "{exchanges} of exchanges at {rtt} ms");
    }
}

#[test]
fn exchanges_with_pauses_between_them_cost_no_questions_where_the_round_trip_is_known() {
    for rtt in [5, 30, 60, 150, 250] {
        for lag in [10, 100] {
            let exchanges = questions(Traffic::Sparse, rtt, lag, true);
            assert!(exchanges <= 1, "{exchanges} at {rtt} ms, counters {lag} ms late");
        }
    }
}

#[test]
fn a_queue_that_grew_beyond_what_the_engine_remembers_is_let_be() {
    let mut world = World::new([true; 3], None);
    world.lag = Duration::from_millis(100);
    world.traffic = Traffic::Steady;
    world.until_on(0, LIMIT);
    world.run(Duration::from_secs(30));
    world.moves.clear();
    // For most of a second nothing comes, and all answers are too late from then on.
    world.rtt = Duration::from_millis(900);
    world.run(Duration::from_mins(1));
    assert!(world.asks() >= 3, "{:?}", world.moves);
    let left = world.moves.iter().any(|(_, made)| matches!(made, Move::Use(_)));
    assert!(!left, "{:?}", world.moves);
}
