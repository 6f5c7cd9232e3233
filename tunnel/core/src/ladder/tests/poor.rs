//! Paths that live but are poor: lossy ones, slow ones. The ladder is not to leave them for nothing.

use super::*;

/// Half an hour of this loss on both UDP rungs at 100 ms, with sparse traffic: how often a rung of the three was settled on, and
/// for how long.
fn half_an_hour(loss: f64, seed: u64, told_rtt: bool) -> ([u32; 3], [Duration; 3]) {
    let mut world = World::seeded([true; 3], None, seed);
    world.loss = [loss, loss, 0.0];
    world.rtt = Duration::from_millis(100);
    world.told_rtt = told_rtt;
    world.traffic = Traffic::Sparse;
    let mut stays = [Duration::ZERO; 3];
    for _ in 0..180_000 {
        world.step();
        if let Some((at, _)) = world.ladder.settled() {
            stays[at.rung] += Duration::from_millis(10);
        }
    }
    let mut times = [0; 3];
    for (_, made) in &world.moves {
        if let Move::Settled(at) = made {
            times[at.rung] += 1;
        }
    }
    (times, stays)
}

#[test]
fn a_lossy_path_is_kept_or_soon_taken_again() {
    for (loss, longest_on_websocket) in [(0.05, 0.001), (0.2, 0.02)] {
        for told_rtt in [false, true] {
            let runs: Vec<_> = (0..8).map(|seed| half_an_hour(loss, seed, told_rtt)).collect();
            let total: f64 = runs
                .iter()
                .flat_map(|(_, stays)| stays)
                .map(Duration::as_secs_f64)
                .sum();
            let share = |rung: usize| {
                let on: f64 = runs.iter().map(|(_, stays)| stays[rung].as_secs_f64()).sum();
                on / total
            };
            let shown = format!("loss {loss}, told {told_rtt}: {runs:?}");
            assert!(
                share(2) <= longest_on_websocket,
                "{:.4} on the WebSocket; {shown}",
                share(2)
            );
            assert!(share(0) >= 0.95, "{:.4} on the best rung; {shown}", share(0));
        }
    }
}

#[test]
fn a_slow_path_is_found_though_the_first_round_is_quick() {
    for rtt in [650, 900, 1_200].map(Duration::from_millis) {
        for open in [[true, false, false], [false, true, false], [true, true, true]] {
            let mut world = World::new(open, None);
            world.rtt = rtt;
            world.traffic = Traffic::Sparse;
            while world.ladder.settled().is_none() {
                world.step();
            }
            // It is measured then.
            world.told_rtt = true;
            let best = usize::from(!open[0]);
            let took = world.until_on(best, Duration::from_secs(20));
            assert!(took < Duration::from_secs(12), "{rtt:?} {open:?}: {took:?}");
        }
    }
}

#[test]
fn a_slow_path_with_sparse_traffic_is_stayed_on() {
    let mut world = World::new([true; 3], Some(0));
    world.rtt = Duration::from_millis(700);
    world.traffic = Traffic::Sparse;
    world.until_on(0, Duration::from_secs(20));
    world.told_rtt = true;
    world.run(Duration::from_secs(5));
    world.moves.clear();
    world.run(Duration::from_secs(600));
    let moved = world.moves.iter().any(|(_, made)| matches!(made, Move::Use(_)));
    assert!(!moved, "{:?}", world.moves);
}

#[test]
fn the_better_rung_stays_when_a_lower_one_answers_late() {
    let mut world = World::new([true; 3], None);
    world.rtt = STEP.0 + Duration::from_millis(50);
    world.until_on(0, LIMIT);
    world.run(Duration::from_secs(2));
    assert_eq!(world.ladder.settled().map(|(at, _)| at), Some(rung(0)));
    assert_eq!(world.endpoint, rung(0));
    let settled = world
        .moves
        .iter()
        .filter(|(_, made)| matches!(made, Move::Settled(_)));
    assert_eq!(settled.count(), 1, "{:?}", world.moves);
}
