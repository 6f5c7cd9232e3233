//! Names of the cluster: asked of the gateway's DNS over the tunnel's own connections, by both front ends and for datagrams.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use orfe_tunnel::proxy::{Event, Limits, NetworkPorts, Route, Routes, TunnelWanted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::rig::{Front, INNER, LoopbackDialer, Rig, Server, rest, routes, socks_reply, within};

/// A gateway's DNS over TCP: `db` is there by an alias, `six` has only an IPv6 address, `far` is in no network of the policy.
async fn gateway_dns() -> (Server, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&asked);
    let server = Server::start(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            while let Ok(length) = stream.read_u16().await {
                let mut question = vec![0; usize::from(length)];
                stream.read_exact(&mut question).await.expect("question");
                let answer = answer(&question, &seen);
                let length = u16::try_from(answer.len()).expect("short");
                let framed = [&length.to_be_bytes()[..], &answer].concat();
                stream.write_all(&framed).await.expect("answer");
            }
        }
    })
    .await;
    (server, asked)
}

fn answer(question: &[u8], seen: &Mutex<Vec<String>>) -> Vec<u8> {
    let question = Message::from_vec(question).expect("question");
    let query = question.queries[0].clone();
    let name = query.name.to_ascii();
    seen.lock()
        .expect("lock")
        .push(format!("{name} {}", query.query_type));
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.add_query(query.clone());
    let records = match (name.as_str(), query.query_type) {
        ("db.svc.cluster.local.", RecordType::A) => {
            let alias = Name::from_ascii("db-0.db.svc.cluster.local.").expect("name");
            vec![
                Record::from_rdata(
                    query.name,
                    5,
                    RData::CNAME(hickory_proto::rr::rdata::CNAME(alias.clone())),
                ),
                Record::from_rdata(alias, 5, RData::from(Ipv4Addr::new(10, 96, 0, 9))),
            ]
        }
        ("six.svc.cluster.local.", RecordType::AAAA) => {
            let address = "fd10:96::9".parse::<std::net::Ipv6Addr>().expect("address");
            vec![Record::from_rdata(query.name, 5, RData::from(address))]
        }
        ("far.svc.cluster.local.", RecordType::A) => {
            vec![Record::from_rdata(
                query.name,
                5,
                RData::from(Ipv4Addr::new(192, 0, 2, 7)),
            )]
        }
        ("db.svc.cluster.local." | "six.svc.cluster.local." | "far.svc.cluster.local.", _) => vec![],
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            vec![]
        }
    };
    for record in records {
        answer.add_answer(record);
    }
    answer.to_vec().expect("answer")
}

fn table() -> Routes {
    let mut table = routes(TunnelWanted::Wanted);
    table.add_suffix("svc.cluster.local").expect("suffix");
    table.set_dns_servers([INNER.into()]);
    table.add_network(
        "10.96.0.0/16".parse().expect("network"),
        NetworkPorts::of([5432]),
        [],
    );
    table.add_network(
        "fd10:96::/64".parse().expect("network"),
        NetworkPorts::of([5432]),
        [],
    );
    table
}

async fn refused(front: Front, client: &mut TcpStream) -> bool {
    match front {
        Front::Http => rest(client).await.starts_with("HTTP/1.1 502 "),
        Front::Socks => socks_reply(client).await.0 != 0,
    }
}

#[tokio::test]
async fn a_name_of_the_cluster_is_asked_and_dialled_inside_the_tunnel() {
    let (dns, asked) = gateway_dns().await;
    let echo = Server::echo().await;
    let mut rig = Rig::with(Limits::default(), table()).await;
    rig.dialer.send_replace(Some(LoopbackDialer::between([
        ((INNER, 53).into(), dns.address),
        (([10, 96, 0, 9], 5432).into(), echo.address),
        ("[fd10:96::9]:5432".parse().expect("address"), echo.address),
    ])));
    for front in Front::BOTH {
        for name in ["db.SVC.cluster.local", "six.svc.cluster.local"] {
            let mut client = rig.connect_by(front, &format!("{name}:5432")).await;
            let opened = rig.event().await;
            assert!(
                matches!(
                    opened,
                    Event::Opened {
                        route: Route::Tunnel,
                        ..
                    }
                ),
                "{opened:?}"
            );
            client.write_all(b"through").await.expect("write");
            client.shutdown().await.expect("half-close");
            assert_eq!(rest(&mut client).await, "through");
            rig.closed().await;
        }
        for target in [
            "db.svc.cluster.local:22",
            "far.svc.cluster.local:5432",
            "none.svc.cluster.local:5432",
        ] {
            let mut client = rig.begin(front, target).await;
            assert!(refused(front, &mut client).await, "{target} by {front:?}");
            rig.closed().await;
        }
    }
    let asked = asked.lock().expect("lock");
    // Where IPv4 will do, IPv6 is not asked for.
    assert!(asked.contains(&"db.svc.cluster.local. A".to_owned()), "{asked:?}");
    assert!(
        asked.contains(&"six.svc.cluster.local. AAAA".to_owned()),
        "{asked:?}"
    );
}

#[tokio::test]
async fn while_the_tunnel_rises_such_a_name_waits_for_it() {
    let (dns, _) = gateway_dns().await;
    let echo = Server::echo().await;
    let rig = Rig::with(Limits::default(), table()).await;
    let mut client = rig.begin(Front::Http, "db.svc.cluster.local:5432").await;
    let dialer = LoopbackDialer::between([
        ((INNER, 53).into(), dns.address),
        (([10, 96, 0, 9], 5432).into(), echo.address),
    ]);
    rig.dialer.send_replace(Some(dialer));
    super::rig::established(Front::Http, &mut client).await;
    client.write_all(b"late").await.expect("write");
    client.shutdown().await.expect("half-close");
    assert_eq!(within(async { rest(&mut client).await }).await, "late");
}
