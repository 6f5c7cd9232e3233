//! What goes which way.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use secrecy::SecretString;

use super::*;

const INNER: &str = "100.127.0.1";

fn routes(tunnel: TunnelWanted) -> Routes {
    let mut routes = Routes::new(tunnel);
    let inner = INNER.parse().expect("address");
    routes
        .add_name("Coder.Demo.Internal.", inner, [443, 8080])
        .expect("name");
    routes
        .add_name("registry.demo.internal", inner, [7443])
        .expect("name");
    routes
        .add_name("six.demo.internal", "fd7a::5".parse().expect("address"), [443])
        .expect("name");
    routes
}

fn with_proxy(tunnel: TunnelWanted) -> Routes {
    let mut routes = routes(tunnel);
    let url = SecretString::from("http://proxy.lan:3128");
    routes.set_upstream_proxy(Some(
        UpstreamProxy::parse(&url, ".lan,192.0.2.0/24").expect("url"),
    ));
    routes
}

fn decide(routes: &Routes, target: &str) -> Decision {
    routes.decide(&Target::parse(target, None).expect(target), Transport::Tcp)
}

/// A short word for a decision, so that the tables below stay readable.
fn word(decision: &Decision) -> String {
    match decision {
        Decision::Go(Way::Tunnel(address)) => format!("tunnel {address}"),
        Decision::Go(Way::Lookup(lookup)) => format!("ask {} for {}", lookup.server, lookup.name),
        Decision::Go(Way::Direct(rule)) if rule.local => "direct, local allowed".to_owned(),
        Decision::Go(Way::Direct(_)) => "direct".to_owned(),
        Decision::Go(Way::Upstream(_)) => "upstream".to_owned(),
        Decision::Refuse(refusal) => refusal.code().to_owned(),
    }
}

#[test]
fn with_a_tunnel_wanted_policy_names_go_through_it_or_nowhere() {
    for routes in [routes(TunnelWanted::Wanted), with_proxy(TunnelWanted::Wanted)] {
        for (target, want) in [
            ("coder.demo.internal:443", "tunnel 100.127.0.1:443"),
            ("CODER.demo.internal.:8080", "tunnel 100.127.0.1:8080"),
            ("coder.demo.internal:22", "port-not-in-policy"),
            ("coder.demo.internal:7443", "port-not-in-policy"),
            ("registry.demo.internal:7443", "tunnel 100.127.0.1:7443"),
            ("six.demo.internal:443", "tunnel [fd7a::5]:443"),
            ("100.127.0.1:443", "tunnel 100.127.0.1:443"),
            ("100.127.0.1:7443", "tunnel 100.127.0.1:7443"),
            ("[::ffff:100.127.0.1]:443", "tunnel 100.127.0.1:443"),
            ("100.127.0.1:22", "port-not-in-policy"),
            ("[fd7a::5]:443", "tunnel [fd7a::5]:443"),
        ] {
            assert_eq!(word(&decide(&routes, target)), want, "{target}");
        }
    }
}

#[test]
fn everything_else_goes_directly_or_through_the_owners_proxy() {
    for (target, plain, proxied) in [
        ("releases.example:443", "direct", "upstream"),
        ("sub.coder.demo.internal:443", "direct", "upstream"),
        ("demo.internal:443", "direct", "upstream"),
        ("nas.lan:80", "direct", "direct"),
        ("192.0.2.7:80", "direct", "direct"),
        ("198.51.100.7:80", "direct", "upstream"),
        ("10.0.0.1:80", "direct", "upstream"),
        ("localhost:80", "address-refused", "address-refused"),
        ("x.localhost:80", "address-refused", "address-refused"),
        ("127.9.9.9:80", "address-refused", "address-refused"),
        ("[::1]:80", "address-refused", "address-refused"),
        ("169.254.169.254:80", "address-refused", "address-refused"),
        ("0.0.0.0:80", "address-refused", "address-refused"),
        ("[::]:80", "address-refused", "address-refused"),
        ("[::ffff:127.0.0.1]:80", "address-refused", "address-refused"),
        ("[::127.0.0.1]:80", "address-refused", "address-refused"),
        ("[64:ff9b::7f00:1]:80", "address-refused", "address-refused"),
        ("[64:ff9b::100.127.0.1]:443", "address-refused", "address-refused"),
        ("[fe80::1]:80", "address-refused", "address-refused"),
        ("[ff02::1]:80", "address-refused", "address-refused"),
        ("224.0.0.1:80", "address-refused", "address-refused"),
        ("255.255.255.255:80", "address-refused", "address-refused"),
    ] {
        assert_eq!(
            word(&decide(&routes(TunnelWanted::Wanted), target)),
            plain,
            "{target}"
        );
        assert_eq!(
            word(&decide(&with_proxy(TunnelWanted::Wanted), target)),
            proxied,
            "{target}"
        );
    }
}

#[test]
fn names_below_a_suffix_are_asked_in_the_tunnel_and_never_outside() {
    let with_suffix = |mut routes: Routes, servers: &[&str]| {
        routes.add_suffix("SVC.cluster.local.").expect("suffix");
        routes.add_suffix("demo.internal").expect("suffix");
        routes.set_dns_servers(servers.iter().map(|server| server.parse().expect("address")));
        routes
    };
    let server = &["100.127.0.1", "fd7a::1"];
    for routes in [routes(TunnelWanted::Wanted), with_proxy(TunnelWanted::Wanted)] {
        let asking = with_suffix(routes.clone(), server);
        for (target, want) in [
            (
                "DB.svc.cluster.local.:5432",
                "ask 100.127.0.1:53 for db.svc.cluster.local",
            ),
            ("svc.cluster.local:80", "ask 100.127.0.1:53 for svc.cluster.local"),
            // Policy's own names keep their table.
            ("coder.demo.internal:443", "tunnel 100.127.0.1:443"),
            ("coder.demo.internal:22", "port-not-in-policy"),
            (
                "sub.coder.demo.internal:443",
                "ask 100.127.0.1:53 for sub.coder.demo.internal",
            ),
        ] {
            assert_eq!(word(&decide(&asking, target)), want, "{target}");
        }
        // Whole labels.
        assert!(!word(&decide(&asking, "xsvc.cluster.local:80")).starts_with("ask"));
        let nobody_to_ask = with_suffix(routes, &[]);
        assert_eq!(
            word(&decide(&nobody_to_ask, "db.svc.cluster.local:5432")),
            "name-not-resolved"
        );
    }
    let off = with_suffix(routes(TunnelWanted::Off), server);
    assert_eq!(word(&decide(&off, "db.svc.cluster.local:5432")), "direct");
    assert!(Routes::default().add_suffix(".").is_err());
}

#[test]
fn of_the_addresses_of_a_name_those_in_policys_networks_are_dialled() {
    let mut routes = routes(TunnelWanted::Wanted);
    routes.add_suffix("svc.cluster.local").expect("suffix");
    routes.set_dns_servers(["100.127.0.1".parse().expect("address")]);
    routes.add_network(
        "10.96.0.0/16".parse().expect("network"),
        NetworkPorts::of([443, 5432]),
        [53],
    );
    let reach = |target: &str, transport, found: &[&str]| {
        let decision = routes.decide(&Target::parse(target, None).expect(target), transport);
        let Decision::Go(Way::Lookup(lookup)) = decision else {
            panic!("{decision:?}")
        };
        let found: Vec<IpAddr> = found
            .iter()
            .map(|address| address.parse().expect("address"))
            .collect();
        match lookup.allowed(&found) {
            Ok(address) => address.to_string(),
            Err(refusal) => refusal.code().to_owned(),
        }
    };
    let (name, tcp) = ("db.svc.cluster.local:5432", Transport::Tcp);
    assert_eq!(reach(name, tcp, &["192.0.2.1", "10.96.0.9"]), "10.96.0.9:5432");
    assert_eq!(reach(name, tcp, &["192.0.2.1"]), "address-refused");
    assert_eq!(reach(name, tcp, &["127.0.0.1"]), "address-refused");
    assert_eq!(reach(name, tcp, &[]), "name-not-resolved");
    assert_eq!(reach(name, Transport::Udp, &["10.96.0.9"]), "port-not-in-policy");
    assert_eq!(
        reach("dns.svc.cluster.local:53", Transport::Udp, &["10.96.0.10"]),
        "10.96.0.10:53"
    );
}

#[test]
fn without_a_tunnel_policy_names_are_public_names() {
    for (target, plain, proxied) in [
        ("coder.demo.internal:443", "direct, local allowed", "upstream"),
        ("coder.demo.internal:22", "direct", "upstream"),
        ("100.127.0.1:443", "direct", "upstream"),
        ("127.0.0.1:443", "address-refused", "address-refused"),
    ] {
        assert_eq!(
            word(&decide(&routes(TunnelWanted::Off), target)),
            plain,
            "{target}"
        );
        assert_eq!(
            word(&decide(&with_proxy(TunnelWanted::Off), target)),
            proxied,
            "{target}"
        );
    }
}

#[test]
fn what_a_name_resolves_to_is_checked_too() {
    let Decision::Go(Way::Direct(strict)) = decide(&routes(TunnelWanted::Wanted), "rebound.example:80")
    else {
        panic!("direct")
    };
    let Decision::Go(Way::Direct(policy)) = decide(&routes(TunnelWanted::Off), "coder.demo.internal:443")
    else {
        panic!("direct")
    };
    for (address, strict_allows, policy_allows) in [
        ("198.51.100.1", true, true),
        ("10.0.0.1", true, true),
        ("fd00::1", true, true),
        ("127.0.0.1", false, true),
        ("::1", false, true),
        ("::ffff:127.0.0.1", false, true),
        ("169.254.169.254", false, true),
        ("fe80::1", false, true),
        (INNER, false, true),
        ("::ffff:100.127.0.1", false, true),
        ("0.0.0.0", false, false),
        ("0.1.2.3", false, false),
        ("::", false, false),
        ("ff02::1", false, false),
        ("239.1.1.1", false, false),
    ] {
        let address: IpAddr = address.parse().expect(address);
        assert_eq!(strict.check(address).is_ok(), strict_allows, "{address}");
        assert_eq!(policy.check(address).is_ok(), policy_allows, "{address}");
    }
}

fn with_networks(tunnel: TunnelWanted) -> Routes {
    let mut routes = with_proxy(tunnel);
    routes.allow_datagrams("CODER.demo.internal", [3478]);
    routes.allow_datagrams("unknown.demo.internal", [53]);
    routes.add_network("10.20.0.0/16".parse().expect("network"), NetworkPorts::All, [53]);
    routes.add_network(
        "10.20.5.0/24".parse().expect("network"),
        NetworkPorts::All,
        [5353],
    );
    routes.add_network(
        "fd00:5::/32".parse().expect("network"),
        NetworkPorts::of([22, 443]),
        [],
    );
    // For datagrams alone.
    routes.add_network(
        "10.30.0.0/16".parse().expect("network"),
        NetworkPorts::of([]),
        [53],
    );
    routes
}

#[test]
fn a_network_of_the_policy_is_reached_by_address_or_not_at_all() {
    for (target, tcp, udp) in [
        ("10.20.1.1:22", "tunnel 10.20.1.1:22", "port-not-in-policy"),
        ("10.20.1.1:53", "tunnel 10.20.1.1:53", "tunnel 10.20.1.1:53"),
        ("10.20.5.1:53", "tunnel 10.20.5.1:53", "tunnel 10.20.5.1:53"),
        ("10.20.5.1:5353", "tunnel 10.20.5.1:5353", "tunnel 10.20.5.1:5353"),
        ("10.20.6.1:5353", "tunnel 10.20.6.1:5353", "port-not-in-policy"),
        ("10.30.1.1:53", "port-not-in-policy", "tunnel 10.30.1.1:53"),
        ("10.30.1.1:443", "port-not-in-policy", "port-not-in-policy"),
        ("10.21.0.1:53", "upstream", "no-datagrams-through-proxy"),
        ("192.0.2.9:53", "direct", "direct"),
        ("[fd00:5::1]:22", "tunnel [fd00:5::1]:22", "port-not-in-policy"),
        ("[fd00:5::1]:80", "port-not-in-policy", "port-not-in-policy"),
        (
            "[::ffff:10.20.1.1]:53",
            "tunnel 10.20.1.1:53",
            "tunnel 10.20.1.1:53",
        ),
        (
            "coder.demo.internal:3478",
            "port-not-in-policy",
            "tunnel 100.127.0.1:3478",
        ),
        (
            "coder.demo.internal:443",
            "tunnel 100.127.0.1:443",
            "port-not-in-policy",
        ),
        (
            "100.127.0.1:3478",
            "port-not-in-policy",
            "tunnel 100.127.0.1:3478",
        ),
        (
            "unknown.demo.internal:53",
            "upstream",
            "no-datagrams-through-proxy",
        ),
        ("127.0.0.1:53", "address-refused", "address-refused"),
    ] {
        let routes = with_networks(TunnelWanted::Wanted);
        assert_eq!(word(&decide(&routes, target)), tcp, "{target}");
        let target_of_datagrams = Target::parse(target, None).expect(target);
        let decision = routes.decide(&target_of_datagrams, Transport::Udp);
        assert_eq!(word(&decision), udp, "{target}, datagrams");
    }
}

fn with_ends(mut routes: Routes) -> Routes {
    for end in ["100.127.0.9", "10.10.0.1", "10.20.1.1", "fd7a::1", INNER] {
        routes.add_end(end.parse().expect("address"));
    }
    routes
}

#[test]
fn the_tunnels_own_ends_are_reached_by_policy_or_not_at_all() {
    for (target, tcp, udp) in [
        ("100.127.0.9:7443", "address-refused", "address-refused"),
        ("10.10.0.1:53", "address-refused", "address-refused"),
        ("[fd7a::1]:7443", "address-refused", "address-refused"),
        ("[::ffff:100.127.0.9]:7443", "address-refused", "address-refused"),
        (
            "[64:ff9b::100.127.0.9]:7443",
            "address-refused",
            "address-refused",
        ),
        // Policy has a name, or a network, for these.
        ("100.127.0.1:443", "tunnel 100.127.0.1:443", "port-not-in-policy"),
        ("10.20.1.1:53", "tunnel 10.20.1.1:53", "tunnel 10.20.1.1:53"),
        // A neighbour of an end is none.
        ("10.10.0.2:53", "upstream", "no-datagrams-through-proxy"),
    ] {
        let routes = with_ends(with_networks(TunnelWanted::Wanted));
        assert_eq!(word(&decide(&routes, target)), tcp, "{target}");
        let target_of_datagrams = Target::parse(target, None).expect(target);
        let decision = routes.decide(&target_of_datagrams, Transport::Udp);
        assert_eq!(word(&decision), udp, "{target}, datagrams");
    }
    let without_tunnel = with_ends(routes(TunnelWanted::Off));
    assert_eq!(word(&decide(&without_tunnel, "10.10.0.1:53")), "direct");
}

#[test]
fn a_name_that_resolves_to_an_end_of_the_tunnel_is_not_dialled_directly() {
    let routes = with_ends(routes(TunnelWanted::Wanted));
    let Decision::Go(Way::Direct(rule)) = decide(&routes, "rebound.example:7443") else {
        panic!("direct")
    };
    for address in ["100.127.0.9", "::ffff:100.127.0.9", "10.10.0.1", "fd7a::1"] {
        let address: IpAddr = address.parse().expect(address);
        assert!(rule.check(address).is_err(), "{address}");
    }
    rule.check("10.10.0.2".parse().expect("address")).expect("no end");
}

#[test]
fn a_name_that_resolves_into_a_network_of_the_policy_is_not_dialled_directly() {
    let Decision::Go(Way::Direct(rule)) = decide(&with_networks(TunnelWanted::Wanted), "nas.lan:80") else {
        panic!("direct")
    };
    for (address, allowed) in [
        ("10.20.1.1", false),
        ("::ffff:10.20.1.1", false),
        ("fd00:5::9", false),
        ("10.21.0.1", true),
    ] {
        assert_eq!(
            rule.check(address.parse().expect(address)).is_ok(),
            allowed,
            "{address}"
        );
    }
    // Without a tunnel they are networks like any other.
    assert_eq!(
        word(&decide(&with_networks(TunnelWanted::Off), "10.20.1.1:22")),
        "upstream"
    );
}

#[test]
fn a_policy_name_has_to_be_a_name() {
    let mut routes = Routes::new(TunnelWanted::Wanted);
    let inner = INNER.parse().expect("address");
    for name in ["", "10.0.0.1", "[::1]", "a b", "coder.demo.internal:443"] {
        assert!(routes.add_name(name, inner, [443]).is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn a_policy_name_never_leaves_the_tunnel_in_any_case_or_port(
        upper in proptest::collection::vec(any::<bool>(), 19),
        dot in any::<bool>(),
        port in 1..=u16::MAX,
    ) {
        let mut name: String = "coder.demo.internal"
            .chars()
            .zip(upper)
            .map(|(letter, upper)| if upper { letter.to_ascii_uppercase() } else { letter })
            .collect();
        if dot {
            name.push('.');
        }
        let decision = decide(&with_proxy(TunnelWanted::Wanted), &format!("{name}:{port}"));
        prop_assert!(matches!(decision, Decision::Go(Way::Tunnel(_)) | Decision::Refuse(_)));
    }

    #[test]
    fn no_address_is_both_local_and_dialled(address in any::<u32>(), port in 1..=u16::MAX) {
        let address = Ipv4Addr::from(address);
        let target = Target { host: Host::Ip(IpAddr::V4(address)), port };
        let decision = routes(TunnelWanted::Wanted).decide(&target, Transport::Tcp);
        let local = address.is_loopback() || address.is_link_local() || address.is_multicast();
        prop_assert!(!local || matches!(decision, Decision::Refuse(_)));
    }
}
