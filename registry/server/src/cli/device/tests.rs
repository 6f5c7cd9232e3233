use orfe_protocol::id::DeviceId;
use orfe_protocol::key::{NoisePublicKey, WireGuardPublicKey};

use super::*;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 - seconds).unwrap()
}

fn device(name: &str, state: &str) -> DeviceView {
    DeviceView {
        id: DeviceId::from_bytes([1; 16]),
        name: name.parse().unwrap(),
        state: state.into(),
        granted_tags: ["owner=alice".parse().unwrap()].into_iter().collect(),
        inner_address: "100.64.0.1".parse().unwrap(),
        noise_public_key: NoisePublicKey::from_bytes([2; 32]),
        wireguard_public_key: WireGuardPublicKey::from_bytes([3; 32]),
        created_at: ago(86_400),
        revoked_at: None,
        last_seen_at: None,
        session_since: None,
        tunnel_handshake_at: None,
        counters: None,
        goodbye: None,
        observed: None,
    }
}

fn healthy() -> DeviceView {
    let observed = serde_json::from_value(serde_json::json!({
        "desired": {"epoch": 1, "revision": 1}, "agent_version": "0.1.0", "started_at": ago(600),
        "health": "unhealthy",
        "checks": [
            {"code": "tunnel", "outcome": "ok", "required": true, "message": "handshake 12 s ago", "since": ago(60)},
            {"code": "terraform", "outcome": "failed", "required": true, "message": "not found\u{1b}[2J",
             "hint": "install terraform", "since": ago(60)},
            {"code": "docker", "outcome": "warning", "required": false, "message": "no engine answers", "since": ago(60)}
        ],
        "facts": {
            "hostname": "gpu-box", "os": "linux", "arch": "amd64", "cpu_model": "x", "cpu_cores": 8,
            "memory_mib": 65536, "docker": {"absent": {"reason": "no socket"}},
            "gpus": [{"vendor": "NVIDIA", "model": "RTX 4090", "tag": "nvidia-rtx4090", "evidence": "pci"}]
        },
        "tags": {"os": "linux", "gpu": "nvidia-rtx4090"},
        "provisioners": [
            {"slot": 0, "name": "gpu-box-0", "state": "connected", "since": ago(30), "restarts": 0},
            {"slot": 1, "name": "gpu-box-1", "state": "backoff", "since": ago(30), "restarts": 2}
        ]
    }));
    DeviceView {
        observed: Some(observed.unwrap()),
        last_seen_at: Some(ago(3)),
        tunnel_handshake_at: Some(ago(75)),
        session_since: Some(ago(500)),
        ..device("gpu-box", "unhealthy")
    }
}

#[test]
fn the_list_has_one_line_for_each_device() {
    let list = DeviceList {
        version: 1,
        devices: vec![healthy(), device("laptop", "never seen")],
    };
    insta::assert_snapshot!(table(&list, now(), None), @r"
    NAME     STATE       OS/ARCH      GPU             PROVISIONERS            HANDSHAKE  SEEN      TAGS
    gpu-box  unhealthy   linux/amd64  nvidia-rtx4090  1/2 connected, backoff  1 min ago  just now  gpu=nvidia-rtx4090,os=linux,owner=alice
    laptop   never seen  -            -               -                       never      never     owner=alice
    ");
}

#[test]
fn of_a_device_that_is_away_it_says_what_was() {
    for state in ["offline", "unknown", "revoked"] {
        let away = DeviceView {
            state: state.into(),
            ..healthy()
        };
        assert_eq!(provisioners(&away), "was 1/2 connected, backoff");
    }
}

#[test]
fn on_a_terminal_all_of_it_fits() {
    let list = DeviceList {
        version: 1,
        devices: vec![healthy(), device("laptop", "never seen")],
    };
    let shown = format!(
        "{}\n{}",
        table(&list, now(), Some(80)),
        page(&healthy(), now(), Some(60))
    );
    insta::assert_snapshot!(shown, @r"
    NAME     STATE       OS/ARCH      GPU             PROVISIONERS
    gpu-box  unhealthy   linux/amd64  nvidia-rtx4090  1/2 connected, backoff
      handshake 1 min ago  seen just now
      tags gpu=nvidia-rtx4090,os=linux,owner=alice
    laptop   never seen  -            -               -
      handshake never  seen never  tags owner=alice

    name           gpu-box
    state          unhealthy
    id             01010101-0101-0101-0101-010101010101
    tags           gpu=nvidia-rtx4090,os=linux,owner=alice
    system         linux/amd64
    gpu            nvidia-rtx4090
    provisioners   1/2 connected, backoff
    inner address  100.64.0.1
    handshake      1 min ago
    seen           just now
    joined         2027-01-14T08:00:00Z
    noise key      AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
    wireguard key  AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=

    CHECK      OUTCOME  REQUIRED  MESSAGE
    tunnel     ok       yes       handshake 12 s ago
    terraform  failed   yes       not found?[2J (hint: install
                                  terraform)
    docker     warning  no        no engine answers
    ");
}

#[test]
fn an_empty_fleet_says_how_to_begin() {
    let list = DeviceList {
        version: 1,
        devices: vec![],
    };
    insta::assert_snapshot!(table(&list, now(), None), @"no devices yet; `orfe-registry join-code create` makes a code to join with");
}

#[test]
fn one_device_is_shown_with_its_checks() {
    insta::assert_snapshot!(page(&healthy(), now(), None), @r"
    name           gpu-box
    state          unhealthy
    id             01010101-0101-0101-0101-010101010101
    tags           gpu=nvidia-rtx4090,os=linux,owner=alice
    system         linux/amd64
    gpu            nvidia-rtx4090
    provisioners   1/2 connected, backoff
    inner address  100.64.0.1
    handshake      1 min ago
    seen           just now
    joined         2027-01-14T08:00:00Z
    noise key      AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
    wireguard key  AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=

    CHECK      OUTCOME  REQUIRED  MESSAGE
    tunnel     ok       yes       handshake 12 s ago
    terraform  failed   yes       not found?[2J (hint: install terraform)
    docker     warning  no        no engine answers
    ");
}

#[test]
fn json_keeps_its_form() {
    let list = DeviceList {
        version: 1,
        devices: vec![device("laptop", "never seen")],
    };
    insta::assert_snapshot!(serde_json::to_string_pretty(&list).unwrap(), @r#"
    {
      "version": 1,
      "devices": [
        {
          "id": "01010101-0101-0101-0101-010101010101",
          "name": "laptop",
          "state": "never seen",
          "granted_tags": {
            "owner": "alice"
          },
          "inner_address": "100.64.0.1",
          "noise_public_key": "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
          "wireguard_public_key": "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=",
          "created_at": "2027-01-14T08:00:00Z",
          "revoked_at": null,
          "last_seen_at": null,
          "session_since": null,
          "tunnel_handshake_at": null,
          "counters": null,
          "goodbye": null,
          "observed": null
        }
      ]
    }
    "#);
}
