use super::*;
use crate::config::{Config, Overrides};

const POLICY: &str = r#"
[[policy.allow]]
name = "coder.internal"
ports = [443]

[[policy.allow]]
name = "coder.internal"
ports = [22]
for = ["team=ops"]

[[policy.allow]]
name = "data.internal"
ports = ["8000-8002", 443]
udp_ports = [53]
upstream = "10.0.0.9:9000"
for = ["team=ml,location=lab", "team=ops"]
for_peers = ["alice"]

[[policy.allow]]
network = "10.20.0.0/16"
ports = ["1-65535"]
for = ["team=ops"]
for_peers = true
"#;

fn site() -> SitePolicy {
    site_of(POLICY)
}

fn site_of(policy: &str) -> SitePolicy {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.toml");
    std::fs::write(&path, policy).unwrap();
    let config = Config::resolve(Some(&path), Overrides::default(), Some("/x".into())).unwrap();
    let addresses = [
        ("coder.internal", Ipv4Addr::new(100, 127, 1, 0)),
        ("data.internal", Ipv4Addr::new(100, 127, 1, 1)),
    ]
    .map(|(name, address)| (name.parse().unwrap(), address))
    .into();
    SitePolicy::new(
        &config.policy,
        &addresses,
        Ula::of_random(7),
        "0.0.0.0:7443".parse().unwrap(),
        DnsPolicy::default(),
    )
}

fn tags(text: &[&str]) -> Tags {
    text.iter().map(|tag| tag.parse().unwrap()).collect()
}

fn person(name: &str, allowed: Option<&[&str]>) -> Peer {
    Peer {
        name: name.parse().unwrap(),
        wireguard_key: orfe_protocol::key::WireGuardPublicKey::from_bytes([1; 32]),
        preshared_key: None,
        inner_address: "10.10.0.2".parse().unwrap(),
        allowed: allowed.map(|allowed| allowed.iter().map(ToString::to_string).collect()),
        note: String::new(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        expires_at: None,
    }
}

/// What is told, on one line.
fn told(site: &SitePolicy, who: Who<'_>) -> String {
    let names = site.names(who);
    let names = names
        .iter()
        .map(|(name, to)| format!("{name}{:?}{:?}", to.ports, to.udp_ports));
    let networks = site.networks(who);
    let networks = networks.iter().map(|to| format!("{}:{:?}", to.network, to.ports));
    names.chain(networks).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_is_told_what_holds_for_it() {
    let site = site();
    for (device, expected) in [
        (tags(&[]), "coder.internal[443][]"),
        (tags(&["team=ml"]), "coder.internal[443][]"),
        (
            tags(&["team=ml", "location=lab"]),
            "coder.internal[443][] data.internal[443, 8000, 8001, 8002][53]",
        ),
        (
            tags(&["team=ops"]),
            "coder.internal[22, 443][] data.internal[443, 8000, 8001, 8002][53] 10.20.0.0/16:All",
        ),
    ] {
        assert_eq!(told(&site, Who::Device(&device)), expected, "{device}");
    }
    let alice = person("alice", None);
    assert_eq!(
        told(&site, Who::Person(&alice)),
        "coder.internal[443][] data.internal[443, 8000, 8001, 8002][53] 10.20.0.0/16:All"
    );
    let bob = person("bob", None);
    assert_eq!(
        told(&site, Who::Person(&bob)),
        "coder.internal[443][] 10.20.0.0/16:All"
    );
    let narrow = person("alice", Some(&["coder.internal"]));
    assert_eq!(told(&site, Who::Person(&narrow)), "coder.internal[443][]");
    assert_eq!(told(&site, Who::Joining), "");
}

/// What a device is not told of, its proxies would send directly.
#[test]
fn a_network_for_udp_alone_is_told_with_no_tcp_port() {
    let site = site_of(
        r#"
[[policy.allow]]
network = "10.30.0.0/24"
udp_ports = [53, "5000-5001"]

[[policy.allow]]
network = "10.40.0.0/24"
ports = [443]
"#,
    );
    let network = |network: &str, ports: TcpPorts, udp_ports: &[u16]| NetworkDestination {
        network: network.to_owned(),
        ports,
        udp_ports: udp_ports.to_vec(),
    };
    assert_eq!(
        site.networks(Who::Device(&tags(&[]))),
        [
            network("10.30.0.0/24", TcpPorts::None, &[53, 5000, 5001]),
            network("10.40.0.0/24", TcpPorts::Only(vec![443]), &[]),
        ]
    );
}

#[test]
fn the_gateway_lets_pass_what_is_told_and_the_registry_to_devices() {
    let site = site();
    site.for_gateway().unwrap();
    let access = |who| match site.access(who) {
        Access::Rules(rules) => rules.to_vec(),
        Access::Everything => panic!("everything"),
    };
    let (ops, nobody) = (tags(&["team=ops"]), tags(&[]));
    assert_eq!(access(Who::Device(&ops)), [true, true, true, true, true]);
    assert_eq!(access(Who::Device(&nobody)), [true, false, false, false, true]);
    assert_eq!(access(Who::Joining), [false, false, false, false, true]);
    let bob = person("bob", None);
    assert_eq!(access(Who::Person(&bob)), [true, false, false, true, false]);
    assert_eq!(
        site.allowed_ips(&bob),
        [
            "10.10.0.1/32",
            "100.127.0.0/16",
            "fd00:0:7:2::/64",
            "10.20.0.0/16"
        ]
    );
}

#[test]
fn an_upstream_is_an_address_or_a_name() {
    for (text, expected) in [
        (
            "127.0.0.1:36123",
            Upstream::Address("127.0.0.1:36123".parse().unwrap()),
        ),
        (
            "[fd00::1]:8443",
            Upstream::Address("[fd00::1]:8443".parse().unwrap()),
        ),
        (
            "coder.svc:7080",
            Upstream::Name {
                host: "coder.svc".into(),
                port: 7080,
            },
        ),
    ] {
        assert_eq!(upstream_of(&text.parse().unwrap()), expected);
    }
}

#[test]
fn devices_are_told_the_suffixes_that_somebody_answers_for() {
    let told = |suffixes: &[&str], resolver: Option<&str>| {
        let dns = DnsPolicy {
            suffixes: suffixes.iter().map(ToString::to_string).collect(),
            resolver: resolver.map(|address| address.parse().unwrap()),
        };
        let registry = "127.0.0.1:7443".parse().unwrap();
        let site = SitePolicy::new(&[], &BTreeMap::new(), Ula::of_random(7), registry, dns);
        let told: Vec<String> = site.dns_suffixes().iter().map(ToString::to_string).collect();
        told
    };
    let resolver = Some("10.96.0.10:53");
    assert_eq!(
        told(&["svc.cluster.local", "lab.internal"], resolver),
        ["svc.cluster.local", "lab.internal"]
    );
    assert!(told(&["svc.cluster.local"], None).is_empty());
    // The root is for people's clients.
    assert_eq!(told(&["", "lab.internal"], resolver), ["lab.internal"]);
}
