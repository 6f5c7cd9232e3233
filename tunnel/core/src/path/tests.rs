use std::collections::VecDeque;

use super::*;

const COOKIE: u64 = 0x0123_4567_89ab_cdef;

fn v4() -> (Vec<IpAddr>, Vec<IpAddr>) {
    (
        vec!["100.64.0.5".parse().unwrap()],
        vec!["100.127.0.1".parse().unwrap()],
    )
}

fn v6() -> (Vec<IpAddr>, Vec<IpAddr>) {
    (vec!["fd00::5".parse().unwrap()], vec!["fd00::1".parse().unwrap()])
}

/// What the gateway answers: ends and kind exchanged.
fn answer(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    if request[0] >> 4 == 4 {
        reply[12..16].copy_from_slice(&request[16..20]);
        reply[16..20].copy_from_slice(&request[12..16]);
        reply[20] = 0;
    } else {
        reply[8..24].copy_from_slice(&request[24..40]);
        reply[24..40].copy_from_slice(&request[8..24]);
        reply[40] = 129;
    }
    reply
}

/// A path of a fixed round trip that loses what is larger than it carries.
struct World {
    path: Path,
    now: Instant,
    rtt: Duration,
    carries: usize,
    under_way: VecDeque<(Instant, Vec<u8>)>,
    requests: usize,
}

impl World {
    fn new(ends: &(Vec<IpAddr>, Vec<IpAddr>), carries: usize) -> Self {
        let now = Instant::now();
        Self {
            path: Path::new(&ends.0, &ends.1, MTU_MAX, COOKIE, now).unwrap(),
            now,
            rtt: Duration::from_millis(40),
            carries,
            under_way: VecDeque::new(),
            requests: 0,
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            while let Some(request) = self.path.poll_packet(self.now) {
                self.requests += 1;
                if request.len() <= self.carries {
                    self.under_way.push_back((self.now + self.rtt, answer(&request)));
                }
            }
            while self.under_way.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, reply) = self.under_way.pop_front().unwrap();
                assert!(self.path.handle_packet(&reply, self.now));
            }
            self.now += Duration::from_millis(10);
        }
    }

    fn report(&self) -> Report {
        self.path.report().unwrap()
    }
}

#[test]
fn round_trip_and_mtu_are_found_in_both_families() {
    for (ends, carries, mtu) in [
        (v4(), 1500, 1420),
        (v6(), 1500, 1420),
        (v4(), 1400, 1400),
        (v6(), 1290, 1280),
    ] {
        let mut world = World::new(&ends, carries);
        world.run(Duration::from_secs(20));
        let report = world.report();
        assert_eq!(
            (report.rtt, report.mtu),
            (Duration::from_millis(40), mtu),
            "{carries}"
        );
        assert!(report.loss_percent.abs() < f64::EPSILON);
    }
}

#[test]
fn a_black_hole_for_large_packets_takes_the_mtu_back() {
    let mut world = World::new(&v4(), 1500);
    world.run(Duration::from_secs(10));
    assert_eq!(world.report().mtu, 1420);
    world.carries = 1300;
    for _ in 0..60 {
        world.path.note_traffic(world.now);
        world.run(Duration::from_secs(1));
    }
    assert_eq!(world.report().mtu, MTU_MIN);
    world.carries = 1500;
    world.run(Duration::from_secs(90));
    assert_eq!(world.report().mtu, 1420, "and it is searched again");
}

#[test]
fn what_is_lost_shows_and_a_dead_path_takes_no_mtu_away() {
    let mut world = World::new(&v4(), 1500);
    world.run(Duration::from_secs(10));
    world.carries = 0;
    for _ in 0..120 {
        world.path.note_traffic(world.now);
        world.run(Duration::from_secs(1));
    }
    let report = world.report();
    assert!((report.loss_percent - 100.0).abs() < f64::EPSILON, "{report:?}");
    assert_eq!(report.mtu, 1420, "the small ones were lost, too");
}

#[test]
fn an_idle_tunnel_is_asked_every_thirty_seconds() {
    let mut world = World::new(&v4(), 1500);
    world.run(Duration::from_secs(60));
    world.requests = 0;
    world.run(Duration::from_secs(600));
    assert!(world.requests <= 25, "{}", world.requests);
}

#[test]
fn answers_to_others_are_left_alone() {
    let now = Instant::now();
    let (own, gateway) = v4();
    let mut path = Path::new(&own, &gateway, MTU_MAX, COOKIE, now).unwrap();
    let mut other = Path::new(&own, &gateway, MTU_MAX, COOKIE + 1, now).unwrap();
    let reply = answer(&other.poll_packet(now).unwrap());
    assert!(!path.handle_packet(&reply, now));
    assert!(other.handle_packet(&reply, now));
    assert!(other.handle_packet(&reply, now), "a copy is taken and ignored");
    for end in 0..reply.len().min(40) {
        assert!(!path.handle_packet(&reply[..end], now));
        other.handle_packet(&reply[..end], now);
    }
    assert!(Path::new(&own, &v6().1, MTU_MAX, COOKIE, now).is_none());
}

#[test]
fn a_request_bears_checksums_that_hold() {
    let now = Instant::now();
    let (own, gateway) = v4();
    let mut path = Path::new(&own, &gateway, MTU_MAX, COOKIE, now).unwrap();
    let packet = path.poll_packet(now).unwrap();
    assert_eq!(echo::checksum(0, &packet[..20]), 0);
    assert_eq!(echo::checksum(0, &packet[20..]), 0);
    assert_eq!(packet.len(), usize::from(SMALL));
}

#[test]
fn while_it_is_put_off_it_asks_nothing_and_then_it_goes_on_within_the_interval() {
    let mut world = World::new(&v4(), 1420);
    world.run(Duration::from_secs(20));
    let (mtu, asked) = (world.path.mtu(), world.requests);
    for _ in 0..600 {
        world.path.put_off(world.now);
        assert!(
            world.path.poll_timeout() > world.now,
            "it does not ask to be called at once"
        );
        world.run(Duration::from_secs(2));
    }
    assert_eq!(world.requests, asked);
    world.run(IDLE + Duration::from_secs(1));
    assert!(world.requests > asked);
    assert_eq!(world.path.mtu(), mtu, "what was found holds");

    world.path.put_off(world.now);
    world.path.note_traffic(world.now);
    let asked = world.requests;
    world.run(BUSY + Duration::from_secs(1));
    assert!(world.requests > asked, "what flows is measured soon");
}
