//! Static forwards, and the outlet for who has no port.

use std::time::Duration;

use orfe_tunnel::proxy::{
    CloseReason, Filter, Forward, ForwardConfig, Limits, Outlet, ProxyError, Refusal, Route, Target,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::rig::{Rig, Server, ending, loopback, rest, until, within};

fn config(to: &str) -> ForwardConfig {
    ForwardConfig {
        listen: loopback(),
        to: Target::parse(to, None).expect("target"),
        exposed: false,
        limits: Limits::default(),
    }
}

async fn forward(rig: &Rig, to: &str) -> Forward {
    let (routes, dialer) = (rig.routes.subscribe(), rig.dialer.subscribe());
    Forward::start(config(to), routes, dialer).await.expect("started")
}

#[tokio::test]
async fn bytes_pass_from_the_first_on_and_each_way_ends_alone() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let forward = forward(&rig, "coder.demo.internal:443").await;
    let mut client = TcpStream::connect(forward.local_addr()).await.expect("connect");
    client.write_all(b"hello").await.expect("write");
    let mut echo = [0; 5];
    within(client.read_exact(&mut echo)).await.expect("read");
    let live = forward.connections().remove(0);
    assert_eq!(
        (live.route, live.target.to_string().as_str()),
        (Route::Tunnel, "coder.demo.internal:443")
    );
    client.write_all(b" again").await.expect("write");
    client.shutdown().await.expect("half-close");
    assert_eq!(rest(&mut client).await, " again");
    until(|| forward.connections().is_empty()).await;
    forward.shutdown().await;
}

#[tokio::test]
async fn a_client_that_has_said_all_while_the_tunnel_rises_is_served() {
    let server = Server::echo().await;
    let rig = Rig::start().await;
    let forward = forward(&rig, "coder.demo.internal:443").await;
    let mut early = TcpStream::connect(forward.local_addr()).await.expect("connect");
    early.write_all(b"early").await.expect("write");
    early.shutdown().await.expect("half-close");
    until(|| forward.connections().len() == 1).await;
    rig.tunnel_to(server.address);
    assert_eq!(rest(&mut early).await, "early");
}

#[tokio::test]
async fn what_cannot_be_reached_or_is_cut_is_a_reset() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let refused = forward(&rig, "coder.demo.internal:22").await;
    let mut client = TcpStream::connect(refused.local_addr()).await.expect("connect");
    assert_eq!(
        ending(&mut client).await,
        Some(std::io::ErrorKind::ConnectionReset)
    );

    let open = forward(&rig, "coder.demo.internal:443").await;
    let mut client = TcpStream::connect(open.local_addr()).await.expect("connect");
    until(|| open.connections().iter().any(|live| live.established)).await;
    assert_eq!(open.cut(&Filter::All), 1);
    assert_eq!(
        ending(&mut client).await,
        Some(std::io::ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn it_is_not_offered_to_the_network_unless_that_was_said() {
    let rig = Rig::start().await;
    let anywhere = ForwardConfig {
        listen: "0.0.0.0:0".parse().expect("address"),
        ..config("coder.demo.internal:443")
    };
    let start = |config| Forward::start(config, rig.routes.subscribe(), rig.dialer.subscribe());
    assert!(matches!(
        start(anywhere.clone()).await,
        Err(ProxyError::NotLoopback(_))
    ));
    let exposed = ForwardConfig {
        exposed: true,
        ..anywhere
    };
    start(exposed).await.expect("started").shutdown().await;
}

#[tokio::test]
async fn an_outlet_goes_the_way_of_the_proxy() {
    let server = Server::echo().await;
    let rig = Rig::to(server.address).await;
    let limits = Limits {
        hold: Duration::from_millis(200),
        ..Limits::default()
    };
    let outlet = Outlet::new(limits, rig.routes.subscribe(), rig.dialer.subscribe());
    let target = |text| Target::parse(text, None).expect("target");
    let stream = outlet
        .open(&target("coder.demo.internal:443"))
        .await
        .expect("reached");
    let (mut near, mut far) = tokio::io::duplex(16);
    let carrying = tokio::spawn(async move { stream.carry(&mut far).await });
    near.write_all(b"half a word").await.expect("write");
    near.shutdown().await.expect("half-close");
    let mut echo = String::new();
    within(near.read_to_string(&mut echo)).await.expect("read");
    assert_eq!(echo, "half a word");
    assert_eq!(within(carrying).await.expect("task"), CloseReason::Finished);

    let refused = outlet.open(&target("coder.demo.internal:22")).await;
    assert_eq!(refused.err(), Some(Refusal::PortNotInPolicy(22)));
    rig.dialer.send_replace(None);
    let down = outlet.open(&target("coder.demo.internal:443")).await;
    assert!(matches!(down.err(), Some(Refusal::TunnelDown(_))));
}
