//! A request for the tunnel while the tunnel is down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use orfe_tunnel::dial::{BoxFuture, BoxedStream, DialError, Dialer};
use orfe_tunnel::proxy::{CloseReason, Event, Filter, Limits, TunnelWanted};
use tokio::io::AsyncWriteExt as _;

use super::rig::{
    FailingDialer, Front, LoopbackDialer, Rig, Server, connect_request, ending, established, rest, routes,
    until,
};

fn held_for(hold: Duration) -> Limits {
    Limits {
        hold,
        ..Limits::default()
    }
}

fn down(destination: SocketAddr) -> DialError {
    DialError::TunnelDown { destination }
}

#[tokio::test]
async fn it_is_held_until_the_tunnel_is_there() {
    for front in Front::BOTH {
        it_is_held_until_the_tunnel_is_there_by(front).await;
    }
}

async fn it_is_held_until_the_tunnel_is_there_by(front: Front) {
    let server = Server::echo().await;
    for dialer in [None, Some(Arc::new(FailingDialer(down)) as Arc<dyn Dialer>)] {
        let rig = Rig::start().await;
        rig.dialer.send_replace(dialer);
        let mut client = rig.begin(front, "coder.demo.internal:443").await;
        until(|| rig.proxy.connections().len() == 1).await;
        assert!(!rig.proxy.connections()[0].established);

        rig.tunnel_to(server.address);
        established(front, &mut client).await;
        client.write_all(b"through").await.expect("write");
        client.shutdown().await.expect("half-close");
        assert_eq!(rest(&mut client).await, "through");
    }
}

/// Down for the first dials, then up, without being replaced.
struct RisingDialer {
    down_for: AtomicUsize,
    then: Arc<LoopbackDialer>,
}

impl Dialer for RisingDialer {
    fn dial(&self, destination: SocketAddr) -> BoxFuture<'_, Result<BoxedStream, DialError>> {
        let left = self
            .down_for
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(_) => Box::pin(async move { Err(down(destination)) }),
            Err(_) => self.then.dial(destination),
        }
    }
}

#[tokio::test]
async fn a_dialer_that_comes_up_by_itself_is_asked_again() {
    let server = Server::echo().await;
    let rig = Rig::start().await;
    let dialer = RisingDialer {
        down_for: AtomicUsize::new(3),
        then: LoopbackDialer::to(server.address),
    };
    rig.dialer.send_replace(Some(Arc::new(dialer)));
    rig.connect("coder.demo.internal:443").await;
}

#[tokio::test]
async fn it_is_a_504_when_the_time_is_over_and_never_a_direct_dial() {
    let hold = Duration::from_millis(300);
    for dialer in [None, Some(Arc::new(FailingDialer(down)) as Arc<dyn Dialer>)] {
        let mut rig = Rig::with(held_for(hold), routes(TunnelWanted::Wanted)).await;
        rig.dialer.send_replace(dialer);
        let started = Instant::now();
        let answer = rig.ask(connect_request("coder.demo.internal:443")).await;
        assert!(started.elapsed() >= hold);
        // The reason is in the status line, where Go's client shows it.
        assert!(
            answer.starts_with("HTTP/1.1 504 Orfe proxy: the tunnel is down"),
            "{answer}"
        );
        assert!(
            answer.contains("\r\nOrfe-Proxy-Error: tunnel-down\r\n"),
            "{answer}"
        );
        let closed = rig.closed().await;
        assert!(
            matches!(
                closed,
                Event::Closed {
                    reason: CloseReason::Refused(_),
                    ..
                }
            ),
            "{closed:?}"
        );
    }
}

#[tokio::test]
async fn a_held_request_is_given_up_when_its_client_leaves_or_it_is_cut() {
    for front in Front::BOTH {
        a_held_request_is_given_up_when_its_client_leaves_or_it_is_cut_by(front).await;
    }
}

async fn a_held_request_is_given_up_when_its_client_leaves_or_it_is_cut_by(front: Front) {
    let mut rig = Rig::start().await;
    let client = rig.begin(front, "coder.demo.internal:443").await;
    until(|| rig.proxy.connections().len() == 1).await;
    drop(client);
    let closed = rig.closed().await;
    assert!(
        matches!(
            closed,
            Event::Closed {
                reason: CloseReason::ClientGone,
                ..
            }
        ),
        "{closed:?}"
    );

    let mut client = rig.begin(front, "coder.demo.internal:443").await;
    until(|| rig.proxy.connections().len() == 1).await;
    assert_eq!(rig.proxy.cut(&Filter::All), 1);
    assert_eq!(
        ending(&mut client).await,
        Some(std::io::ErrorKind::ConnectionReset)
    );
    let closed = rig.closed().await;
    assert!(
        matches!(
            closed,
            Event::Closed {
                reason: CloseReason::Cut,
                ..
            }
        ),
        "{closed:?}"
    );
}

type Failure = fn(SocketAddr) -> DialError;

#[tokio::test]
async fn other_failures_of_a_dial_are_answered_at_once() {
    let failures: [(Failure, &str, &str); 4] = [
        (
            |destination| DialError::Refused { destination },
            "502",
            "dial-failed",
        ),
        (
            |destination| DialError::TimedOut {
                destination,
                after: Duration::from_secs(1),
            },
            "504",
            "dial-timed-out",
        ),
        (
            |destination| DialError::TooMany {
                destination,
                limit: 1,
            },
            "503",
            "tunnel-full",
        ),
        (
            |destination| DialError::Io {
                destination,
                source: std::io::ErrorKind::Other.into(),
            },
            "502",
            "dial-failed",
        ),
    ];
    for (error, status, code) in failures {
        let rig = Rig::start().await;
        rig.dialer.send_replace(Some(Arc::new(FailingDialer(error))));
        let answer = rig.ask(connect_request("coder.demo.internal:443")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(code),
            "{answer}"
        );
    }
}

/// Never answers.
struct SilentDialer;

impl Dialer for SilentDialer {
    fn dial(&self, _: SocketAddr) -> BoxFuture<'_, Result<BoxedStream, DialError>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_dial_that_never_ends_is_ended() {
    let short = Duration::from_millis(100);
    let limits = Limits {
        dial: short,
        hold: short,
        ..Limits::default()
    };
    let rig = Rig::with(limits, routes(TunnelWanted::Wanted)).await;
    rig.dialer.send_replace(Some(Arc::new(SilentDialer)));
    let answer = rig.ask(connect_request("coder.demo.internal:443")).await;
    assert!(
        answer.starts_with("HTTP/1.1 504 ") && answer.contains("dial-timed-out"),
        "{answer}"
    );
}
