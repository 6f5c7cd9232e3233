use std::net::IpAddr;

use clap::Parser as _;

use super::*;
use crate::api::{ClientConfig, DroppedPackets};
use crate::cli::Cli;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 - seconds).unwrap()
}

fn peer(name: &str) -> PeerView {
    PeerView {
        name: name.parse().unwrap(),
        state: "current".into(),
        wireguard_public_key: WireGuardPublicKey::from_bytes([3; 32]),
        has_preshared_key: true,
        addresses: ["10.10.0.2", "fd12:3456:789a:3::a0a:2"]
            .map(|ip| ip.parse::<IpAddr>().unwrap())
            .to_vec(),
        allowed: None,
        note: "Alice's phone".into(),
        created_at: ago(86_400),
        expires_at: None,
        counters: None,
    }
}

fn busy() -> PeerView {
    PeerView {
        allowed: Some(vec!["coder.internal".into()]),
        expires_at: Some(ago(-86_400)),
        counters: Some(PeerCounters {
            endpoint: Some("192.0.2.7:51820".parse().unwrap()),
            last_handshake_at: Some(ago(75)),
            rx_bytes: 1023,
            tx_bytes: 5_400_000_000,
            connections: 3,
            udp_flows: 1,
            forwarded: 40,
            refused: 2,
            failed: 0,
            dropped: DroppedPackets {
                spoofed_source: 0,
                rejected: 7,
                no_endpoint: 0,
                unsupported: 1,
                overflow: 0,
            },
        }),
        ..peer("alice")
    }
}

fn answer() -> PeerAnswer {
    PeerAnswer {
        version: 1,
        peer: peer("alice"),
        client: ClientConfig {
            addresses: vec!["10.10.0.2/32".into(), "fd12:3456:789a:3::a0a:2/128".into()],
            dns: vec!["10.10.0.1".parse().unwrap()],
            dns_is_whole: true,
            gateway_public_key: WireGuardPublicKey::from_bytes([9; 32]),
            endpoint: "orfe.example.com:51820".into(),
            allowed_ips: vec!["10.10.0.1/32".into(), "100.127.0.0/16".into()],
            keepalive_s: 25,
        },
    }
}

#[test]
fn peers_are_listed_and_shown() {
    let list = PeerList {
        version: 1,
        peers: vec![busy(), peer("bob")],
    };
    insta::assert_snapshot!(table(&list, now(), None), @r"
    NAME   STATE    ADDRESS    HANDSHAKE  RECEIVED  SENT     EXPIRES               NOTE
    alice  current  10.10.0.2  1 min ago  1023 B    5.0 GiB  2027-01-16T08:00:00Z  Alice's phone
    bob    current  10.10.0.2  never      -         -        never                 Alice's phone
    ");
    insta::assert_snapshot!(page(&busy(), now(), Some(60)), @r"
    name           alice
    state          current
    addresses      10.10.0.2, fd12:3456:789a:3::a0a:2
    allowed        coder.internal
    wireguard key  AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=
    preshared key  yes
    added          2027-01-14T08:00:00Z
    expires        2027-01-16T08:00:00Z
    note           Alice's phone
    handshake      1 min ago
    endpoint       192.0.2.7:51820
    traffic        1023 B received, 5.0 GiB sent
    connections    3 open, 1 UDP flows, 40 forwarded, 2 refused,
                   0 failed
    dropped        7 rejected, 1 unsupported
    ");
    let none = PeerList {
        version: 1,
        peers: vec![],
    };
    insta::assert_snapshot!(table(&none, now(), None), @"no peers yet; `orfe-registry peer add NAME` lets one in");
}

#[test]
fn a_configuration_is_what_clients_read() {
    let secret = Secret::new("cHJlc2hhcmVk".into());
    let keys = conf::Keys {
        private: Some("cHJpdmF0ZQ==".to_owned().into()),
        preshared: Some(&secret),
    };
    let own = conf::Keys {
        private: None,
        preshared: None,
    };
    let mut partial = answer();
    partial.client.dns_is_whole = false;
    let all = [
        conf::render(&answer(), &keys, true).to_string(),
        conf::render(&partial, &own, true).to_string(),
        conf::render(&answer(), &own, false).to_string(),
    ];
    insta::assert_snapshot!(all.join("----\n"), @r"
    # Name = alice
    [Interface]
    Address = 10.10.0.2/32, fd12:3456:789a:3::a0a:2/128
    PrivateKey = cHJpdmF0ZQ==
    DNS = 10.10.0.1

    [Peer]
    PublicKey = CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=
    PresharedKey = cHJlc2hhcmVk
    Endpoint = orfe.example.com:51820
    AllowedIPs = 10.10.0.1/32, 100.127.0.0/16
    PersistentKeepalive = 25
    ----
    # Name = alice
    [Interface]
    Address = 10.10.0.2/32, fd12:3456:789a:3::a0a:2/128
    # PrivateKey = (the one that belongs to AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=)
    # DNS = 10.10.0.1 (left out: answers for names of the policy and below [dns] suffixes only)

    [Peer]
    PublicKey = CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=
    Endpoint = orfe.example.com:51820
    AllowedIPs = 10.10.0.1/32, 100.127.0.0/16
    PersistentKeepalive = 25
    ----
    # Name = alice
    [Interface]
    Address = 10.10.0.2/32, fd12:3456:789a:3::a0a:2/128
    # PrivateKey = (the one that belongs to AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=)

    [Peer]
    PublicKey = CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=
    Endpoint = orfe.example.com:51820
    AllowedIPs = 10.10.0.1/32, 100.127.0.0/16
    PersistentKeepalive = 25
    ");
}

/// Each character stands for two modules, one above the other; a camera sees more than one pixel of each.
const PIXELS: usize = 4;

#[test]
fn the_qr_code_is_the_configuration() {
    let keys = conf::Keys {
        private: Some(NoisePrivateKey::generate().unwrap().to_base64()),
        preshared: None,
    };
    let conf = conf::render(&answer(), &keys, true);
    let drawn = conf::qr(&conf).unwrap();
    let rows: Vec<Vec<char>> = drawn.lines().map(|line| line.chars().collect()).collect();
    let is_light = |x: usize, y: usize| {
        let shown = rows[y / 2].get(x).copied().unwrap_or(' ');
        matches!((shown, y % 2), ('█', _) | ('▀', 0) | ('▄', 1))
    };
    let (width, height) = (rows[0].len() * PIXELS, rows.len() * 2 * PIXELS);
    let shade = |x: usize, y: usize| if is_light(x / PIXELS, y / PIXELS) { 255 } else { 0 };
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, shade);
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one code is seen");
    let (_, content) = grids[0].decode().unwrap();
    assert_eq!(content, *conf);
}

#[test]
fn a_bad_name_is_said_to_be_a_peers() {
    for command in ["add", "show", "remove"] {
        for name in ["x", "Alice"] {
            let error = Cli::try_parse_from(["orfe-registry", "peer", command, name]).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("the name of a peer is") && !text.contains("device"),
                "{text}"
            );
        }
    }
}

#[test]
fn bytes_have_a_unit() {
    assert_eq!(
        [0, 1023, 1024, 1_048_576, u64::MAX].map(bytes),
        ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "16777216.0 TiB"]
    );
}
