use super::*;

fn name(name: &str, address: &str, tcp: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        destination: Destination::Name {
            addresses: vec![address.parse().unwrap()],
            via: Via::Host(name.to_owned()),
        },
        tcp: tcp.parse().unwrap(),
        udp: Ports::default(),
    }
}

fn network(network: &str) -> Rule {
    Rule {
        name: network.to_owned(),
        destination: Destination::Network(network.parse().unwrap()),
        tcp: Ports::all(),
        udp: 53.into(),
    }
}

fn policy(rules: impl IntoIterator<Item = Rule>) -> Policy {
    Policy::of_rules(rules, DnsPolicy::default()).unwrap()
}

fn tcp(policy: &Policy, access: &Access, destination: &str) -> Option<String> {
    policy
        .target(access, Transport::Tcp, destination.parse().unwrap())
        .map(|target| target.name)
}

#[test]
fn a_destination_belongs_to_one_entry() {
    let entry = |name: &str, port| PolicyEntry {
        name: name.to_owned(),
        address: "100.127.0.1".parse().unwrap(),
        ports: vec![PolicyPort {
            port,
            upstream: "10.0.0.5:80".parse().unwrap(),
        }],
    };
    let policy = Policy::new([entry("a", 80), entry("b", 81)]).unwrap();
    let all = Access::Everything;
    assert_eq!(tcp(&policy, &all, "100.127.0.1:81").as_deref(), Some("b"));
    assert_eq!(tcp(&policy, &all, "100.127.0.1:82"), None);
    assert_eq!(tcp(&policy, &all, "100.127.0.2:80"), None);
    let error = Policy::new([entry("a", 80), entry("b", 80)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "policy names 100.127.0.1:80 twice, as `a` and as `b`"
    );
    assert!(matches!(
        Policy::new([entry("a", 0)]),
        Err(PolicyError::PortZero { .. })
    ));
}

#[test]
fn a_rule_holds_for_those_who_have_it() {
    let policy = policy([
        name("a", "100.127.1.0", "80"),
        name("a", "100.127.1.0", "22"),
        network("10.0.0.0/8"),
    ]);
    let first = Access::Rules([true].into());
    let last = Access::Rules([false, false, true].into());
    for (access, destination, expected) in [
        (&first, "100.127.1.0:80", Some("a")),
        (&first, "100.127.1.0:22", None),
        (&first, "10.1.2.3:80", None),
        (&last, "100.127.1.0:80", None),
        (&last, "10.1.2.3:80", Some("10.0.0.0/8")),
        (&last, "11.1.2.3:80", None),
    ] {
        assert_eq!(
            tcp(&policy, access, destination).as_deref(),
            expected,
            "{destination}"
        );
    }
    assert_eq!(policy.addresses(&last, "a"), None);
    assert_eq!(
        policy.addresses(&first, "a"),
        Some(vec!["100.127.1.0".parse().unwrap()])
    );
    let udp = policy.target(&last, Transport::Udp, "10.0.0.1:53".parse().unwrap());
    assert_eq!(
        udp.map(|target| target.service),
        Some(Service::Upstream("10.0.0.1:53".parse().unwrap()))
    );
    assert!(
        policy
            .target(&last, Transport::Udp, "10.0.0.1:54".parse().unwrap())
            .is_none()
    );
}

#[test]
fn a_network_holds_the_gateways_own_machine_only_when_it_is_meant() {
    let all = Access::Everything;
    let wide = policy([network("0.0.0.0/0"), network("::/0")]);
    for inside in ["10.0.0.1:1", "8.8.8.8:1", "[2001:db8::1]:1"] {
        assert!(tcp(&wide, &all, inside).is_some(), "{inside}");
    }
    for own in [
        "127.0.0.1:1",
        "169.254.169.254:1",
        "[::1]:1",
        "[fe80::1]:1",
        "[::ffff:127.0.0.1]:1",
        "[64:ff9b::127.0.0.1]:1",
    ] {
        assert!(tcp(&wide, &all, own).is_none(), "{own}");
    }
    let translated = policy([network("64:ff9b::/96")]);
    assert!(tcp(&translated, &all, "[64:ff9b::8.8.8.8]:1").is_some());
    assert!(tcp(&translated, &all, "[64:ff9b::169.254.169.254]:1").is_none());
    let meant = policy([network("169.254.0.0/16")]);
    assert!(tcp(&meant, &all, "169.254.169.254:1").is_some());
}

#[test]
fn ports_as_text() {
    for (text, shown) in [("443", "443"), ("8000-8010", "8000-8010"), ("7-7", "7")] {
        assert_eq!(text.parse::<Ports>().unwrap().to_string(), shown);
    }
    for bad in ["", "0", "0-3", "5-4", "65536", "a", "1-", "-1", "1-2-3"] {
        assert!(bad.parse::<Ports>().is_err(), "{bad}");
    }
    assert!("1-65535".parse::<Ports>().unwrap() == Ports::all());
}
