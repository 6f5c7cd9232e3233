use orfe_protocol::id::{JoinCodeId, Revision};
use orfe_protocol::key::NoisePublicKey;
use orfe_protocol::tag::Tags;

use super::*;

const PATIENCE: Patience = Patience {
    hold_down: Duration::from_secs(45),
    start_grace: Duration::from_secs(300),
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn device(name: &str, last_seen_at: Option<Timestamp>) -> Device {
    Device {
        id: DeviceId::generate(),
        name: name.parse().unwrap(),
        noise_key: NoisePublicKey::from_bytes([2; 32]),
        wireguard_key: WireGuardPublicKey::from_bytes([3; 32]),
        inner_address: "100.64.0.1".parse().unwrap(),
        tags: Tags::default(),
        join_code: JoinCodeId::generate(),
        created_at: at(0),
        revoked_at: None,
        session_epoch: 0,
        last_seen_at,
        desired: Revision::default(),
    }
}

fn observed(health: &str) -> Arc<ObservedState> {
    let state = serde_json::json!({
        "desired": {"epoch": 1, "revision": 1}, "agent_version": "0.1.0", "started_at": at(0),
        "health": health, "checks": [], "tags": {}, "provisioners": [],
        "tunnel": {"phase": "up", "since": at(0), "last_handshake_at": at(7), "tcp_stack": "smoltcp"},
        "facts": {
            "hostname": "x", "os": "linux", "arch": "amd64", "cpu_model": "x", "cpu_cores": 2, "memory_mib": 1,
            "docker": {"absent": {"reason": "x"}}, "gpus": []
        }
    });
    Arc::new(serde_json::from_value(state).unwrap())
}

struct One {
    fleet: Fleet,
    id: DeviceId,
    start: Instant,
}

impl One {
    fn new(last_seen_at: Option<Timestamp>) -> Self {
        let (fleet, start) = (Fleet::new(PATIENCE), Instant::now());
        let device = device("laptop", last_seen_at);
        let id = device.id;
        fleet.load(device, None, start);
        Self { fleet, id, start }
    }

    fn begin(&self, epoch: u64) -> Result<Option<u64>, NotBegun> {
        let older = self
            .fleet
            .session_began(self.id, SessionHandle::detached(epoch), at(1))?;
        Ok(older.map(|session| session.epoch()))
    }

    fn state_at(&self, seconds: u64) -> &'static str {
        self.fleet.sweep(self.start + Duration::from_secs(seconds));
        self.fleet.rows()[0].state()
    }
}

#[test]
fn a_device_is_never_seen_until_its_first_session() {
    let one = One::new(None);
    assert_eq!(one.state_at(100_000), "never seen");
    one.begin(1).unwrap();
    assert_eq!(one.state_at(100_000), "starting");
    assert!(one.fleet.observed(one.id, 1, &observed("healthy")));
    assert_eq!(one.state_at(100_000), "healthy");
    assert!(
        !one.fleet.observed(one.id, 1, &observed("healthy")),
        "nothing changed"
    );
}

#[test]
fn after_a_start_devices_are_unknown_until_the_grace_has_passed() {
    let one = One::new(Some(at(0)));
    assert_eq!(one.state_at(299), "unknown");
    assert_eq!(one.state_at(300), "offline");
    one.begin(1).unwrap();
    assert_eq!(one.state_at(301), "starting");
}

#[test]
fn a_lost_session_is_offline_only_after_the_hold_down() {
    let one = One::new(None);
    one.begin(1).unwrap();
    one.fleet
        .session_ended(one.id, 1, None, one.start + Duration::from_secs(10));
    assert_eq!(one.state_at(54), "starting");
    assert_eq!(one.fleet.rows()[0].session_since, None);
    assert_eq!(
        one.fleet.sweep(one.start),
        Some(one.start + Duration::from_secs(55))
    );
    assert_eq!(one.state_at(55), "offline");
    assert_eq!(one.fleet.sweep(one.start), None);
}

#[test]
fn a_goodbye_is_offline_at_once_and_says_why() {
    let one = One::new(None);
    one.begin(1).unwrap();
    one.fleet
        .session_ended(one.id, 1, Some(GoodbyeReason::Sleep), one.start);
    assert_eq!(one.state_at(0), "offline");
    assert_eq!(one.fleet.goodbye(one.id), Some(GoodbyeReason::Sleep));
}

#[test]
fn an_older_session_changes_nothing_any_more() {
    let one = One::new(None);
    assert_eq!(one.begin(2), Ok(None));
    assert_eq!(one.begin(3), Ok(Some(2)), "the older one is to be closed");
    assert_eq!(one.begin(2), Err(NotBegun::Overtaken));

    one.fleet
        .session_ended(one.id, 2, Some(GoodbyeReason::Shutdown), one.start);
    assert!(!one.fleet.observed(one.id, 2, &observed("healthy")));
    one.fleet.heard(one.id, 2, at(99));
    let row = &one.fleet.rows()[0];
    assert_eq!(
        (row.state(), row.last_seen_at, row.session_since),
        ("starting", Some(at(1)), Some(at(1)))
    );
    // It cannot come back after the newer one ended, either.
    one.fleet.session_ended(one.id, 3, None, one.start);
    assert_eq!(one.begin(2), Err(NotBegun::Overtaken));
}

#[test]
fn a_revoked_device_stays_out() {
    let one = One::new(None);
    one.begin(1).unwrap();
    assert_eq!(one.fleet.admitted().len(), 1);
    assert_eq!(
        one.fleet.revoked(one.id, at(5)).map(|session| session.epoch()),
        Some(1)
    );
    assert_eq!(one.state_at(0), "revoked");
    assert_eq!(one.begin(2), Err(NotBegun::Revoked));
    assert!(one.fleet.admitted().is_empty());
}

#[test]
fn pages_are_told_of_what_they_show_and_of_nothing_else() {
    let one = One::new(None);
    let mut changes = one.fleet.changes();
    let mut changed = |what: &dyn Fn()| {
        changes.mark_unchanged();
        what();
        changes.has_changed().unwrap()
    };
    let begin = || assert!(one.begin(1).is_ok());
    let observe = || {
        one.fleet.observed(one.id, 1, &observed("healthy"));
    };
    let sweep = |after| {
        one.fleet.sweep(one.start + Duration::from_secs(after));
    };
    assert!(changed(&begin));
    assert!(!changed(&|| one.fleet.heard(one.id, 1, at(2))));
    assert!(changed(&observe));
    assert!(!changed(&observe));
    assert!(!changed(&|| sweep(0)));
    assert!(changed(&|| one.fleet.session_ended(one.id, 1, None, one.start)));
    assert!(changed(&|| sweep(45)));
    assert!(changed(&|| one.fleet.enrolled(device("tower", None))));
}

#[test]
fn the_gateways_view_of_a_handshake_counts_before_the_devices() {
    let one = One::new(None);
    one.begin(1).unwrap();
    one.fleet.observed(one.id, 1, &observed("healthy"));
    assert_eq!(one.fleet.rows()[0].tunnel_handshake_at, Some(at(7)));
    let seen = [(WireGuardPublicKey::from_bytes([3; 32]), at(9))].into();
    one.fleet.handshakes(&seen);
    assert_eq!(one.fleet.rows()[0].tunnel_handshake_at, Some(at(9)));
}

#[test]
fn rows_come_in_the_order_of_names() {
    let fleet = Fleet::new(PATIENCE);
    for name in ["tower", "laptop", "gpu-box"] {
        fleet.enrolled(device(name, None));
    }
    let names: Vec<_> = fleet.rows().iter().map(|row| row.name.to_string()).collect();
    assert_eq!(names, ["gpu-box", "laptop", "tower"]);
    assert!(fleet.row(&"tower".parse().unwrap()).is_some());
    assert!(fleet.row(&"missing".parse().unwrap()).is_none());
}
