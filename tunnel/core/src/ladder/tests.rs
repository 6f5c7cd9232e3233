mod masked;
mod poor;
mod restart;

use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _};

use super::*;

/// What goes through the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Nothing,
    /// Something in every step, each answered after a round trip.
    Steady,
    /// One exchange every second, repeated as TCP does until it is answered.
    Sparse,
}

/// A network of three rungs with one address each, of which some answer after a round trip.
struct World {
    ladder: Ladder,
    start: Instant,
    now: Instant,
    open: [bool; 3],
    /// Share of datagrams that are lost on each rung, each way.
    loss: [f64; 3],
    rtt: Duration,
    told_rtt: bool,
    endpoint: Candidate,
    handshake: Option<Instant>,
    /// When the gateway began its present life: sessions of an earlier one mean nothing to it.
    gateway_since: Instant,
    /// Answers to initiations, with the number of the initiation.
    answers: Vec<(Instant, Candidate, u32)>,
    initiations: u32,
    traffic: Traffic,
    /// Answers to traffic.
    replies: Vec<Instant>,
    /// What the gateway sends by UDP without being answered, until a handshake shows it another rung.
    repeated: Vec<Instant>,
    /// How far counters lag behind, as the data plane publishes them.
    lag: Duration,
    told: (Instant, u64, u64),
    /// When the exchange is begun or repeated, and the pause after that.
    exchange: (Instant, Duration),
    sent: u64,
    received: u64,
    moves: Vec<(Duration, Move)>,
    rng: StdRng,
}

fn rung(rung: usize) -> Candidate {
    Candidate { rung, address: 0 }
}

impl World {
    fn new(open: [bool; 3], start_rung: Option<usize>) -> Self {
        Self::seeded(open, start_rung, 7)
    }

    fn seeded(open: [bool; 3], start_rung: Option<usize>, seed: u64) -> Self {
        let start = Instant::now();
        Self {
            ladder: Ladder::new(vec![1; 3], start_rung, StdRng::seed_from_u64(seed), start),
            start,
            now: start,
            open,
            loss: [0.0; 3],
            rtt: Duration::from_millis(60),
            told_rtt: false,
            endpoint: rung(0),
            handshake: None,
            gateway_since: start,
            answers: Vec::new(),
            initiations: 0,
            traffic: Traffic::Nothing,
            replies: Vec::new(),
            repeated: Vec::new(),
            lag: Duration::ZERO,
            told: (start, 0, 0),
            exchange: (start, Duration::ZERO),
            sent: 0,
            received: 0,
            moves: Vec::new(),
            rng: StdRng::seed_from_u64(!seed),
        }
    }

    /// Whether something gets there on this rung, and its answer back.
    fn passes(&mut self, candidate: Candidate) -> bool {
        let loss = self.loss[candidate.rung];
        let lost = loss > 0.0 && (self.rng.random_bool(loss) || self.rng.random_bool(loss));
        self.open[candidate.rung] && !lost
    }

    fn ask(&mut self, candidate: Candidate) {
        self.initiations += 1;
        if self.passes(candidate) {
            self.answers
                .push((self.now + self.rtt, candidate, self.initiations));
        }
    }

    fn exchange(&mut self) {
        let begins = match self.traffic {
            Traffic::Nothing => false,
            Traffic::Steady => true,
            Traffic::Sparse => self.exchange.0 <= self.now,
        };
        if begins {
            self.sent += 100;
            if self.passes(self.endpoint) && self.handshake >= Some(self.gateway_since) {
                self.replies.push(self.now + self.rtt);
            }
            let pause = (self.exchange.1 * 2).clamp(Duration::from_millis(300), Duration::from_secs(8));
            self.exchange = (self.now + pause, pause);
        }
        let now = self.now;
        for _ in self.replies.extract_if(.., |at| *at <= now) {
            self.received += 100;
            self.exchange = (now + Duration::from_secs(1), Duration::ZERO);
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
        for (_, candidate, number) in self.answers.extract_if(.., |(at, _, _)| *at <= now) {
            // The engine knows its latest two initiations.
            if open[candidate.rung] && number + 2 > self.initiations {
                self.endpoint = candidate;
                self.handshake = Some(now);
            }
        }
        self.exchange();
        for _ in self.repeated.extract_if(.., |at| *at <= now) {
            if self.endpoint.rung < 2 || self.ladder.settled().is_none() {
                self.received += 1_400;
            }
        }
        if now >= self.told.0 + self.lag {
            self.told = (now, self.sent, self.received);
        }
        let seen = Seen {
            handshake: self.handshake,
            candidate: Some(self.endpoint),
            down: false,
            sent: self.told.1,
            received: self.told.2,
            rtt: self.told_rtt.then_some(self.rtt),
        };
        self.ladder.handle_seen(&seen, now);
    }

    fn asks(&self) -> usize {
        self.moves.iter().filter(|(_, made)| *made == Move::Ask).count()
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
            took <= STEP.0 * expected as u32 + Duration::from_millis(100),
            "{took:?}"
        );
    }
}

#[test]
fn blocked_udp_under_load_is_left_within_two_seconds_and_taken_again_later() {
    let mut world = World::new([true; 3], None);
    world.traffic = Traffic::Steady;
    world.until_on(0, LIMIT);
    world.run(Duration::from_secs(30));
    world.open = [false, false, true];
    let took = world.until_on(2, LIMIT);
    assert!(took < Duration::from_millis(1700), "{took:?}");
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
    world.traffic = Traffic::Steady;
    world.until_on(1, LIMIT);
    world.run(Duration::from_secs(30));
    world.open = [false, false, true];
    world.moves.clear();
    let took = world.until_on(2, LIMIT);
    assert!(took < Duration::from_millis(1300), "{took:?}");
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
    assert_eq!(
        ladder.poll_timeout(),
        Some((start + STAGGER + STEP.0, "next rung"))
    );
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
        rtt: None,
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
    assert!((1..=11).contains(&asks), "{asks} in 30 s");
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
            world.traffic = if traffic { Traffic::Steady } else { Traffic::Nothing };
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
        world.traffic = Traffic::Steady;
        world.run(Duration::from_secs(700));
        let settled = world.ladder.settled().map(|(at, _)| at.rung);
        prop_assert_eq!(settled, last.iter().position(|open| *open));
    }
}
