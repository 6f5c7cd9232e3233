//! Doors to the parsers for the fuzz targets (`tests/fuzz`) and for the test that replays their corpus (`tests/replay`).
//!
//! Each takes any bytes, goes through them as the proxy would, and panics where something does not hold.

#![expect(
    clippy::panic,
    reason = "a check that does not hold is what these functions are for"
)]

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::head::{self, Kind};
use super::receive::read_head;
use super::routes::{Decision, Transport, Way};
use super::socks::wire;
use super::target::{Host, Target};
use super::{NetworkPorts, Routes, TunnelWanted};

const NAME: &str = "coder.demo.internal";
const SUFFIX: &str = "svc.cluster.local";
const INNER: [u8; 4] = [100, 127, 0, 1];

/// An HTTP head and what follows it.
pub fn http(bytes: &[u8]) {
    let mut reader = bytes;
    let Some(Ok(head)) = at_once(read_head(&mut reader)) else {
        return;
    };
    assert_eq!(head.len() + reader.len(), bytes.len(), "no byte is lost");
    let Ok(request) = head::parse(&head) else {
        return;
    };
    check_way(&request.target);
    let Kind::Forward(forward) = request.kind else {
        return;
    };
    for written in [forward.origin_form(), forward.absolute_form(None)] {
        let mut rest = written.as_slice();
        match at_once(read_head(&mut rest)) {
            Some(Ok(again)) => assert!(
                rest.is_empty() && again == written,
                "one head, and nothing behind it"
            ),
            _ => panic!("what is forwarded is no head: {}", written.escape_ascii()),
        }
        let lower = written.to_ascii_lowercase();
        assert!(
            !lower
                .windows(22)
                .any(|window| window == b"\nproxy-authorization: ".as_slice()),
            "the credential is forwarded"
        );
    }
    let mut body = forward.body;
    if let Ok(taken) = body.advance(reader) {
        assert!(taken <= reader.len());
    }
}

/// A SOCKS client's messages one after another, and the same bytes as a datagram.
pub fn socks(bytes: &[u8]) {
    if let Some(header) = wire::datagram(bytes) {
        assert!(header.length <= bytes.len() && header.target.port != 0);
        check_way(&header.target);
    }
    // Each message alone, so that the later ones are reached without the earlier ones.
    let _ = (wire::credential(bytes).is_ok(), wire::request(bytes).is_ok());
    let Ok((_, greeting)) = wire::greeting(bytes) else {
        return;
    };
    let rest = &bytes[greeting..];
    let Ok((_, credential)) = wire::credential(rest) else {
        return;
    };
    let rest = &rest[credential..];
    let Ok((request, length)) = wire::request(rest) else {
        return;
    };
    for cut in 0..length {
        assert_eq!(
            wire::request(&rest[..cut]),
            Err(wire::WireError::Incomplete),
            "the beginning of a request is no other request"
        );
    }
    check_way(&Target {
        host: request.host,
        port: request.port,
    });
}

/// Policy's name and networks go through the tunnel or nowhere, loopback and unspecified addresses nowhere.
fn check_way(target: &Target) {
    let mut routes = Routes::new(TunnelWanted::Wanted);
    let added = routes.add_name(NAME, INNER.into(), [443]);
    assert!(added.is_ok(), "the table's own name");
    if let Ok(network) = "10.20.0.0/16".parse() {
        routes.add_network(network, NetworkPorts::All, [53]);
    }
    let added = routes.add_suffix(SUFFIX);
    assert!(added.is_ok(), "the table's own suffix");
    routes.set_dns_servers([INNER.into()]);
    let below = matches!(&target.host, Host::Name(name)
        if name == SUFFIX || name.strip_suffix(SUFFIX).is_some_and(|rest| rest.ends_with('.')));
    let inside = match &target.host {
        Host::Name(name) => name == NAME,
        Host::Ip(address) => {
            *address == IpAddr::from(INNER)
                || matches!(address, IpAddr::V4(v4) if v4.octets().starts_with(&[10, 20]))
        }
    };
    let own = matches!(target.host, Host::Ip(address) if address.is_loopback() || address.is_unspecified());
    for transport in [Transport::Tcp, Transport::Udp] {
        match routes.decide(target, transport) {
            Decision::Go(Way::Lookup(_)) => assert!(below, "{target} is looked up in the tunnel"),
            Decision::Go(Way::Tunnel(_)) => assert!(inside, "{target} goes through the tunnel"),
            Decision::Go(_) => assert!(!inside && !below && !own, "{target} goes directly"),
            Decision::Refuse(_) => {}
        }
    }
}

/// The output of a future that never waits.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
