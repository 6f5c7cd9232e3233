use proptest::prelude::*;
use rand::SeedableRng as _;

use super::*;

/// A network of three rungs with one address each, of which some answer after a round trip.
struct World {
    ladder: Ladder,
    start: Instant,
    now: Instant,
    open: [bool; 3],
    rtt: Duration,
    endpoint: Candidate,
    handshake: Option<Instant>,
    answers: Vec<(Instant, Candidate)>,
    traffic: bool,
    sent: u64,
    received: u64,
    moves: Vec<(Duration, Move)>,
}

fn rung(rung: usize) -> Candidate {
    Candidate { rung, address: 0 }
}

impl World {
    fn new(open: [bool; 3], start_rung: Option<usize>) -> Self {
        let start = Instant::now();
        Self {
            ladder: Ladder::new(vec![1; 3], start_rung, StdRng::seed_from_u64(7), start),
            start,
            now: start,
            open,
            rtt: Duration::from_millis(60),
            endpoint: rung(0),
            handshake: None,
            answers: Vec::new(),
            traffic: false,
            sent: 0,
            received: 0,
            moves: Vec::new(),
        }
    }

    fn ask(&mut self, candidate: Candidate) {
        if self.open[candidate.rung] {
            self.answers.push((self.now + self.rtt, candidate));
        }
    }

    fn step(&mut self) {
        while let Some(made) = self.ladder.poll_move() {
            self.moves.push((self.now - self.start, made));
            match made {
                Move::Use(candidate) => {
                    self.endpoint = candidate;
                    self.ask(candidate);
                }
                Move::Probe(candidate) => self.ask(candidate),
                Move::Ask => self.ask(self.endpoint),
                Move::Prepare(_) | Move::Rebind | Move::Settled(_) => {}
            }
        }
        self.now += Duration::from_millis(10);
        let now = self.now;
        let open = self.open;
        for (_, candidate) in self.answers.extract_if(.., |(at, _)| *at <= now) {
            if open[candidate.rung] {
                self.endpoint = candidate;
                self.handshake = Some(now);
            }
        }
        if self.traffic {
            self.sent += 100;
            self.received += if self.open[self.endpoint.rung] { 100 } else { 0 };
        }
        let seen = Seen {
            handshake: self.handshake,
            candidate: Some(self.endpoint),
            down: false,
            sent: self.sent,
            received: self.received,
        };
        self.ladder.handle_seen(&seen, now);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until it is settled on this rung, and says how long that took.
    fn until_on(&mut self, rung: usize, limit: Duration) -> Duration {
        let begun = self.now;
        while self.ladder.settled().map(|(at, _)| at.rung) != Some(rung) {
            assert!(self.now - begun < limit, "not on rung {rung}: {:?}", self.moves);
            self.step();
        }
        self.now - begun
    }
}

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn the_best_rung_that_answers_is_used() {
    for (open, expected) in [
        ([true, true, true], 0),
        ([false, true, true], 1),
        ([false, false, true], 2),
    ] {
        let mut world = World::new(open, None);
        let took = world.until_on(expected, LIMIT);
        assert!(
            took <= STEP * expected as u32 + Duration::from_millis(100),
            "{took:?}"
        );
    }
}

#[test]
fn blocked_udp_under_load_is_left_within_four_seconds_and_taken_again_later() {
    let mut world = World::new([true; 3], None);
    world.traffic = true;
    world.until_on(0, LIMIT);
    world.run(Duration::from_secs(30));
    world.open = [false, false, true];
    let took = world.until_on(2, LIMIT);
    assert!(took < Duration::from_secs(4), "{took:?}");
    world.run(Duration::from_secs(60));
    world.open = [true; 3];
    let moves = world.moves.len();
    world.until_on(0, Duration::from_secs(600));
    let used = world.moves[moves..]
        .iter()
        .any(|(_, made)| matches!(made, Move::Use(_)));
    assert!(!used, "the way up did not touch the traffic");
}

#[test]
fn a_lost_middle_rung_is_left_downward_first() {
    let mut world = World::new([false, true, true], None);
    world.traffic = true;
    world.until_on(1, LIMIT);
    world.run(Duration::from_secs(30));
    world.open = [false, false, true];
    world.moves.clear();
    let took = world.until_on(2, LIMIT);
    assert!(took < Duration::from_millis(2500), "{took:?}");
    let used: Vec<Move> = world.moves.iter().map(|(_, made)| *made).collect();
    assert!(
        used.contains(&Move::Prepare(2)),
        "it was opened in doubt: {used:?}"
    );
    assert!(!used.contains(&Move::Use(rung(0))), "{used:?}");
}

#[test]
fn the_rung_that_worked_here_before_comes_first() {
    let mut world = World::new([false, false, true], Some(2));
    let took = world.until_on(2, LIMIT);
    assert!(took < Duration::from_millis(200), "{took:?}");
    assert_eq!(world.moves[0].1, Move::Use(rung(2)));
}

#[test]
fn a_machine_without_a_network_becomes_quiet_and_takes_a_fresh_port() {
    let mut world = World::new([false; 3], None);
    world.run(Duration::from_secs(120));
    world.moves.clear();
    world.run(Duration::from_secs(300));
    let tries = world
        .moves
        .iter()
        .filter(|(_, made)| matches!(made, Move::Use(_)))
        .count();
    assert!((20..=80).contains(&tries), "{tries} tries in 300 s");
    assert!(world.moves.iter().any(|(_, made)| *made == Move::Rebind));
    assert!(world.ladder.failed_rounds() > 5);
}

#[test]
fn a_new_network_is_shaken_hands_on_at_once() {
    let mut world = World::new([true; 3], None);
    world.until_on(0, LIMIT);
    world.run(Duration::from_secs(5));
    world.moves.clear();
    world.ladder.network_changed(Some(1), world.now);
    assert_eq!(world.ladder.poll_move(), Some(Move::Use(rung(1))));
    world.ask(rung(1));
    world.endpoint = rung(1);
    let took = world.until_on(1, LIMIT);
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn the_addresses_of_a_name_follow_each_other_quickly() {
    let start = Instant::now();
    let mut ladder = Ladder::new(vec![2, 1], None, StdRng::seed_from_u64(1), start);
    assert_eq!(ladder.poll_move(), Some(Move::Use(rung(0))));
    assert_eq!(ladder.poll_timeout(), Some((start + STAGGER, "next rung")));
    ladder.handle_timeout(start + STAGGER);
    assert_eq!(
        ladder.poll_move(),
        Some(Move::Use(Candidate { rung: 0, address: 1 }))
    );
    assert_eq!(ladder.poll_move(), Some(Move::Prepare(1)));
    assert_eq!(ladder.poll_timeout(), Some((start + STAGGER + STEP, "next rung")));
}

#[test]
fn a_name_that_resolves_later_is_climbed_to() {
    let start = Instant::now();
    let mut ladder = Ladder::new(vec![0, 1], None, StdRng::seed_from_u64(1), start);
    assert_eq!(ladder.poll_move(), Some(Move::Use(rung(1))));
    let seen = Seen {
        handshake: Some(start),
        candidate: Some(rung(1)),
        down: false,
        sent: 0,
        received: 0,
    };
    ladder.handle_seen(&seen, start);
    assert_eq!(ladder.poll_move(), Some(Move::Settled(rung(1))));
    assert_eq!(ladder.poll_timeout(), None);
    ladder.set_addresses(0, 1, start);
    let (due, _) = ladder.poll_timeout().unwrap();
    ladder.handle_timeout(due);
    assert_eq!(ladder.poll_move(), Some(Move::Probe(rung(0))));
}

#[test]
fn traffic_that_is_answered_by_handshakes_only_is_let_be() {
    let mut world = World::new([true; 3], None);
    world.until_on(0, LIMIT);
    world.moves.clear();
    for _ in 0..3_000 {
        world.sent += 1;
        world.step();
    }
    let asks = world.moves.iter().filter(|(_, made)| *made == Move::Ask).count();
    assert!((1..=4).contains(&asks), "{asks} in 30 s");
    assert_eq!(world.ladder.settled().map(|(at, _)| at), Some(rung(0)));
}

proptest! {
    // Each case is a quarter of an hour in steps of 10 ms.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the network does: when it holds still, the ladder ends on the best rung that is open, and it never makes
    /// a timer in the past that handling it would not move.
    #[test]
    fn it_ends_on_the_best_open_rung(
        weather in prop::collection::vec((any::<[bool; 3]>(), 0u64..20_000, any::<bool>(), any::<bool>()), 1..8),
        last in any::<[bool; 3]>(),
    ) {
        let mut world = World::new([true; 3], None);
        for (open, millis, traffic, moved) in weather {
            world.open = open;
            world.traffic = traffic;
            if moved {
                world.ladder.network_changed(None, world.now);
            }
            world.run(Duration::from_millis(millis));
            if let Some((due, why)) = world.ladder.poll_timeout() {
                world.ladder.handle_timeout(due.max(world.now));
                let moved = world.ladder.poll_timeout().is_none_or(|(next, _)| next > due);
                prop_assert!(moved, "{why} stands still");
            }
        }
        world.open = last;
        world.traffic = true;
        world.run(Duration::from_secs(700));
        let settled = world.ladder.settled().map(|(at, _)| at.rung);
        prop_assert_eq!(settled, last.iter().position(|open| *open));
    }
}
