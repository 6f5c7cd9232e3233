//! Bulk both ways over bad paths, with applications that stop reading now and then: whatever happens, it goes on.

use super::*;

/// Longest time in which nothing may move although both applications would go on: several losses of the same segment in a
/// row, with their timeouts doubling.
const STALL: Duration = Duration::from_mins(2);

/// A source of chance that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // Constants by Knuth.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len() as u64) as usize]
    }
}

/// An application that reads and writes with pauses.
struct Moody {
    end: End,
    dice: Dice,
    /// How often it pauses, of 1000 steps, and for how long at most.
    pauses: u64,
    longest: u64,
    reads_again: Instant,
    writes_again: Instant,
}

impl Moody {
    fn new(end: End, seed: u64, now: Instant) -> Self {
        let mut dice = Dice(seed);
        Self {
            end,
            pauses: dice.pick(&[0, 1, 20, 200]),
            longest: dice.pick(&[20, 300, 5000]),
            dice,
            reads_again: now,
            writes_again: now,
        }
    }

    /// True when bytes or ends moved.
    fn step(&mut self, now: Instant) -> bool {
        if self.dice.roll(1000) < self.pauses {
            let until = now + Duration::from_millis(self.dice.roll(self.longest) + 1);
            if self.dice.roll(2) == 0 {
                self.reads_again = until;
            } else {
                self.writes_again = until;
            }
        }
        let before = self.progress();
        if self.writes_again <= now {
            self.end.write();
        }
        if self.reads_again <= now {
            // Not always all that is there.
            let most = self.dice.pick(&[1, 1000, 100_000, usize::MAX]);
            self.end.read(most);
        }
        self.progress() != before
    }

    fn progress(&self) -> (usize, usize, bool) {
        (self.end.sent, self.end.received, self.end.has_ended)
    }
}

fn conditions(dice: &mut Dice) -> Conditions {
    Conditions {
        delay: Duration::from_millis(dice.pick(&[0, 1, 5, 40])),
        rate: dice.pick(&[200_000, 2_000_000, 50_000_000]),
        queue: Duration::from_millis(dice.pick(&[5, 50, 300])),
        loss: dice.pick(&[0, 0, 5, 30, 100]),
        late: dice.pick(&[0, 0, 20, 200]),
        selective: dice.roll(8) != 0,
        v6: dice.roll(8) == 0,
    }
}

/// Runs one connection to its end.
fn run(seed: u64) {
    let mut dice = Dice(seed);
    dice.roll(2);
    let conditions = conditions(&mut dice);
    let memory = dice.pick(&[0, 1 << 20, 8 << 20]);
    let mut far = Far::with_memory(conditions, seed, memory);
    let (stream, accepted) = far.connect();
    let sizes = [0, 1, 10_000, 300_000, 1_500_000];
    let (up, down) = (dice.pick(&sizes), dice.pick(&sizes));
    let mut device = Moody::new(End::new(stream, up), dice.roll(u64::MAX), far.now);
    let mut gateway = Moody::new(End::new(accepted, down), dice.roll(u64::MAX), far.now);
    let mut moved = far.now;
    while !(device.end.has_ended && gateway.end.has_ended) {
        far.step();
        let now = far.now;
        if device.step(now) | gateway.step(now) {
            moved = now;
        }
        assert!(
            now < moved + STALL,
            "seed {seed}: still, {} of {up} up, {} of {down} down; {conditions:?} memory {memory}",
            gateway.end.received,
            device.end.received,
        );
    }
    assert_eq!(
        (gateway.end.received, device.end.received),
        (up, down),
        "seed {seed}"
    );
    drop((device, gateway));
    let deadline = far.now + Duration::from_mins(10);
    while far.device.connections() + far.gateway.connections() > 0 {
        assert!(far.now < deadline, "seed {seed}: the connection stays");
        far.step();
    }
}

#[test]
fn it_goes_on_whatever_happens() {
    let seeds = std::env::var("STRESS_SEEDS").ok();
    let (from, to) = seeds
        .as_deref()
        .and_then(|seeds| seeds.split_once(".."))
        .map_or((0, 60), |(from, to)| (from.parse().unwrap(), to.parse().unwrap()));
    for seed in from..to {
        if std::env::var_os("STRESS_ALL").is_some() {
            if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                eprintln!("FAILED {text}");
            }
        } else {
            run(seed);
        }
    }
}
