use proptest::prelude::*;

use super::*;
use crate::key::NoisePrivateKey;

fn code(pin: Option<SpkiPin>) -> JoinCode {
    JoinCode {
        registry_url: "https://orfe.example.com:7443".parse().unwrap(),
        id: JoinCodeId::generate(),
        secret: JoinSecret::generate().unwrap(),
        registry_key: NoisePrivateKey::generate().unwrap().public_key(),
        spki_pin: pin,
        way_in: None,
    }
}

#[test]
fn a_code_survives_being_copied() {
    for pin in [None, Some(SpkiPin([7; 32]))] {
        let code = code(pin);
        let text = code.to_text();
        let (head, tail) = text.split_at(40);
        let copied = format!("  {}\n{tail}\r\n", head.to_uppercase());
        let read: JoinCode = copied.parse().unwrap();
        assert_eq!(read.registry_url, code.registry_url);
        assert_eq!(read.id, code.id);
        assert_eq!(read.secret.hash(), code.secret.hash());
        assert_eq!(read.registry_key, code.registry_key);
        assert_eq!(read.spki_pin, pin);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let text = code(None).to_text();
    assert_eq!("".parse::<JoinCode>().unwrap_err(), InvalidJoinCode::Prefix);
    assert_eq!(
        "orfe2-abc".parse::<JoinCode>().unwrap_err(),
        InvalidJoinCode::Prefix
    );
    assert_eq!(
        "orfe1-".parse::<JoinCode>().unwrap_err(),
        InvalidJoinCode::Checksum
    );
    assert_eq!(
        text[..text.len() - 8].parse::<JoinCode>().unwrap_err(),
        InvalidJoinCode::Checksum
    );
    let mistyped = text.replacen(&text[60..61], if &text[60..61] == "a" { "b" } else { "a" }, 1);
    assert!(mistyped.parse::<JoinCode>().is_err());
    let odd = format!("{}1{}", &text[..10], &text[11..]);
    assert_eq!(
        odd.parse::<JoinCode>().unwrap_err(),
        InvalidJoinCode::Character { position: 11 }
    );
}

#[test]
fn unknown_versions_and_flags_are_refused() {
    let reencode = |change: fn(&mut Vec<u8>)| {
        let text = code(None).to_text();
        let mut bytes = BASE32_NOPAD
            .decode(text[PREFIX.len()..].to_uppercase().as_bytes())
            .unwrap();
        bytes.truncate(bytes.len() - CHECKSUM_LEN);
        change(&mut bytes);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes))
            .parse::<JoinCode>()
            .unwrap_err()
    };
    assert_eq!(reencode(|bytes| bytes[0] = 2), InvalidJoinCode::Version(2));
    assert_eq!(reencode(|bytes| bytes[1] = 0x80), InvalidJoinCode::Flags(0x80));
    assert!(matches!(
        reencode(|bytes| bytes[3] = b'x'),
        InvalidJoinCode::Url(_)
    ));
    assert_eq!(reencode(|bytes| bytes.push(0)), InvalidJoinCode::Checksum);
}

#[test]
fn the_secret_is_kept_out_of_debug() {
    let code = code(None);
    let shown = format!("{code:?}");
    assert!(!shown.contains(code.secret.to_text().expose()), "{shown}");
    assert!(shown.contains("[redacted]"));
}

#[test]
fn the_secret_survives_text() {
    let secret = JoinSecret::generate().unwrap();
    assert_eq!(
        JoinSecret::from_text(secret.to_text().expose()).unwrap().hash(),
        secret.hash()
    );
    assert!(JoinSecret::from_text("abc").is_none());
}

#[test]
fn the_one_time_key_is_its_own() {
    let secret = JoinSecret::generate().unwrap();
    let key = secret.tunnel_key();
    assert_eq!(secret.tunnel_public_key().as_bytes(), key.public_key().as_bytes());
    assert_ne!(key.expose(), &secret.hash().0, "the store has the hash");
    assert_ne!(
        secret.tunnel_public_key(),
        JoinSecret::generate().unwrap().tunnel_public_key()
    );
    // Agents and registries of every age must find the same key.
    let fixed = JoinSecret(Zeroizing::new([7; 32])).tunnel_public_key();
    assert_eq!(fixed.to_string(), "rR46X16wsiq2z4DZqVKEag6/mn0gJbUc9Os1+ppRTG4=");
}

#[test]
fn a_way_in_without_a_usable_endpoint_is_refused() {
    for bad in [
        "orfe.example.com",
        ":51820",
        "orfe.example.com:0",
        "orfe.example.com:70000",
    ] {
        let code = JoinCode {
            way_in: Some(way_in(vec![bad.to_owned()])),
            ..code(None)
        };
        let error = code.to_text().parse::<JoinCode>().unwrap_err();
        assert!(matches!(error, InvalidJoinCode::Endpoint(_)), "{bad}: {error}");
    }
    let none = JoinCode {
        way_in: Some(way_in(vec![])),
        ..code(None)
    };
    assert!(none.to_text().parse::<JoinCode>().is_err());
}

fn way_in(endpoints: Vec<String>) -> WayIn {
    WayIn {
        gateway_key: WireGuardPublicKey::from_bytes([9; 32]),
        address: Ipv4Addr::new(100, 126, 0, 5),
        registry: SocketAddrV4::new(Ipv4Addr::new(100, 127, 0, 1), 7443),
        endpoints,
    }
}

proptest! {
    #[test]
    fn every_code_is_read_as_it_was_written(
        pin: Option<[u8; 32]>,
        key: [u8; 32],
        address: [u8; 4],
        registry: ([u8; 4], u16),
        endpoints in proptest::option::of(proptest::collection::vec("[a-z0-9.-]{1,249}:[1-9][0-9]{0,3}", 1..=3)),
        path in "[a-z]{0,200}",
    ) {
        let code = JoinCode {
            registry_url: format!("https://orfe.example.com:7443/{path}").parse().unwrap(),
            way_in: endpoints.map(|endpoints| WayIn {
                gateway_key: WireGuardPublicKey::from_bytes(key),
                address: address.into(),
                registry: SocketAddrV4::new(registry.0.into(), registry.1),
                endpoints,
            }),
            ..code(pin.map(SpkiPin))
        };
        let text = code.to_text();
        prop_assert!(text.len() <= TEXT_MAX);
        let read: JoinCode = text.parse().unwrap();
        prop_assert_eq!(read.registry_url, code.registry_url);
        prop_assert_eq!(read.secret.hash(), code.secret.hash());
        prop_assert_eq!(read.spki_pin, code.spki_pin);
        prop_assert_eq!(read.way_in, code.way_in);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(orfe1-)?[a-z2-7]{0,400}") {
        let _ = text.parse::<JoinCode>();
    }
}
