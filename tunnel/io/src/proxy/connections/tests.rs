use tokio::sync::broadcast::error::TryRecvError;

use super::*;

fn client(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn target(text: &str) -> Target {
    Target::parse(text, None).expect(text)
}

fn three(connections: &Arc<Connections>) -> Vec<Tracked> {
    vec![
        connections.open(client(1), target("coder:443"), Route::Tunnel),
        connections.open(client(2), target("coder:80"), Route::Tunnel),
        connections.open(client(3), target("releases.example:443"), Route::Direct),
    ]
}

#[test]
fn cut_finds_what_the_filter_names_and_counts_it_once() {
    for (filter, ids) in [
        (Filter::All, vec![1, 2, 3]),
        (Filter::Id(2), vec![2]),
        (Filter::Id(9), vec![]),
        (Filter::Target(target("coder:443")), vec![1]),
        (Filter::Host(target("coder:1").host), vec![1, 2]),
        (Filter::Route(Route::Direct), vec![3]),
        (Filter::Client(client(3)), vec![3]),
    ] {
        let connections = Connections::new();
        let open = three(&connections);
        assert_eq!(connections.cut(&filter), ids.len(), "{filter:?}");
        assert_eq!(connections.cut(&filter), 0, "{filter:?}, again");
        let cut: Vec<u64> = open
            .iter()
            .filter(|tracked| tracked.cut().is_cancelled())
            .map(|tracked| tracked.entry.id)
            .collect();
        assert_eq!(cut, ids, "{filter:?}");
    }
}

#[test]
fn events_and_table_agree() {
    let connections = Connections::new();
    let mut events = connections.subscribe();
    let open = connections.open(client(1), target("coder:443"), Route::Tunnel);
    assert!(matches!(
        events.try_recv(),
        Ok(Event::Opened {
            id: 1,
            route: Route::Tunnel,
            ..
        })
    ));
    assert!(!connections.list()[0].established);
    open.establish();
    open.establish();
    assert!(connections.list()[0].established);
    assert!(matches!(events.try_recv(), Ok(Event::Established { id: 1, .. })));
    assert!(matches!(events.try_recv(), Err(TryRecvError::Empty)), "told once");
    assert_eq!(connections.list()[0].sent_at, None);
    let before = Instant::now();
    open.counters().up.add(3);
    open.counters().down.add(4);
    let sent_at = connections.list()[0].sent_at.unwrap();
    assert!(sent_at + Duration::from_millis(1) >= before && sent_at <= Instant::now());
    open.close(CloseReason::Finished);
    assert!(connections.list().is_empty());
    let closed = events.try_recv();
    assert!(
        matches!(
            closed,
            Ok(Event::Closed {
                id: 1,
                bytes_up: 3,
                bytes_down: 4,
                reason: CloseReason::Finished,
                ..
            })
        ),
        "{closed:?}"
    );
}

#[test]
fn a_task_that_is_dropped_leaves_no_entry() {
    let connections = Connections::new();
    let mut events = connections.subscribe();
    drop(three(&connections));
    assert!(connections.list().is_empty());
    let closed = std::iter::from_fn(|| events.try_recv().ok()).filter(|event| {
        matches!(
            event,
            Event::Closed {
                reason: CloseReason::Shutdown,
                ..
            }
        )
    });
    assert_eq!(closed.count(), 3);
}

#[test]
fn a_subscriber_that_sleeps_is_told_that_it_lost_events() {
    let connections = Connections::new();
    let mut events = connections.subscribe();
    for _ in 0..EVENTS {
        drop(connections.open(client(1), target("coder:443"), Route::Tunnel));
    }
    assert!(matches!(events.try_recv(), Err(TryRecvError::Lagged(lost)) if lost >= EVENTS as u64));
}
