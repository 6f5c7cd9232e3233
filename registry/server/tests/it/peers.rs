//! People's peers, from the command line to the gateway, and what a change of tags does to a device.

use std::net::SocketAddr;
use std::time::Duration;

use orfe_protocol::desired::DesiredState;
use orfe_protocol::message::FromRegistry;
use orfe_protocol::name::HostName;
use orfe_registry::api::{PeerAnswer, PeerList};
use orfe_registry::config::{Config, Overrides};
use orfe_tunnel::{TcpStack, Tunnel, TunnelConfig, TunnelPeer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::agent::Agent;
use crate::site::{PATIENCE, Site};

/// An echo server behind the gateway, and a policy that names it.
pub(crate) async fn site() -> Site {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                // A connection that is cut is not the server's concern.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.toml");
    let policy = format!(
        "[[policy.allow]]\nname = \"coder.internal\"\nports = [443]\nupstream = \"{upstream}\"\n\
         [[policy.allow]]\nname = \"data.internal\"\nports = [443]\nupstream = \"{upstream}\"\nfor = [\"team=ml\"]\n\
         [[policy.allow]]\nnetwork = \"10.20.0.0/16\"\nports = [\"1-65535\"]\nfor = [\"team=ml\"]\n"
    );
    std::fs::write(&path, policy).unwrap();
    let policy = Config::resolve(Some(&path), Overrides::default(), Some("/unused".into()))
        .unwrap()
        .policy;
    Site::with(|config| {
        config.tunnel = true;
        config.policy = policy;
    })
    .await
}

/// What a line of a configuration says.
pub(crate) fn value<'a>(conf: &'a str, key: &str) -> &'a str {
    let line = conf
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{key} = ")));
    line.unwrap_or_else(|| panic!("no {key} in\n{conf}"))
}

/// The client that a configuration describes.
fn client(conf: &str) -> Tunnel {
    let addresses = value(conf, "Address").split(", ");
    let address = |text: &str| text.split('/').next().unwrap().parse().unwrap();
    let preshared = conf.contains("PresharedKey").then(|| value(conf, "PresharedKey"));
    let peer = TunnelPeer {
        public_key: value(conf, "PublicKey").parse().unwrap(),
        preshared_key: preshared.map(|key| key.parse().unwrap()),
        endpoint: Some(value(conf, "Endpoint").parse().unwrap()),
        allowed_ips: value(conf, "AllowedIPs")
            .split(", ")
            .map(|network| network.parse().unwrap())
            .collect(),
        keepalive: Some(Duration::from_secs(25)),
    };
    let config = TunnelConfig {
        private_key: value(conf, "PrivateKey").parse().unwrap(),
        addresses: addresses.map(address).collect(),
        peer,
        mtu: TunnelConfig::DEFAULT_MTU,
        bind: "127.0.0.1:0".parse().unwrap(),
        tcp_stack: TcpStack::Smoltcp,
        helper: TunnelConfig::this_program(),
    };
    Tunnel::start(config).unwrap()
}

async fn reaches(tunnel: &Tunnel, destination: &str) -> bool {
    let destination: SocketAddr = destination.parse().unwrap();
    let dialer = tunnel.dialer().with_timeout(Duration::from_secs(5));
    let Ok(mut stream) = dialer.connect(destination).await else {
        return false;
    };
    let exchange = async {
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, exchange).await.is_ok()
}

pub(crate) async fn peers(site: &Site) -> PeerList {
    serde_json::from_str(&site.cli(&["peer", "list", "--json"]).await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_person_reaches_what_policy_gives_people_until_removed() {
    let site = site().await;
    let conf = site
        .cli(&["peer", "add", "alice", "--preshared-key", "--no-qr"])
        .await
        .unwrap();
    let bob = site.cli(&["peer", "add", "bob", "--no-qr"]).await.unwrap();
    let (alice, bob) = (client(&conf), client(&bob));
    assert!(reaches(&alice, "100.127.1.0:443").await, "named for everybody");
    assert!(
        !reaches(&alice, "100.127.1.1:443").await,
        "named for some devices"
    );
    assert!(reaches(&bob, "100.127.1.0:443").await);

    let counted = async {
        loop {
            let list = peers(&site).await;
            let alice = list.peers[0].counters.clone().unwrap();
            if (alice.forwarded, alice.refused) == (1, 1) && alice.last_handshake_at.is_some() {
                return list.peers[1].counters.clone().unwrap().last_handshake_at;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
    let mut status = bob.status();
    let shaken = status.wait_for(|status| status.last_handshake.is_some());
    let handshake = tokio::time::timeout(PATIENCE, shaken)
        .await
        .unwrap()
        .unwrap()
        .last_handshake;
    site.cli(&["peer", "remove", "alice"]).await.unwrap();
    assert!(
        !reaches(&alice, "100.127.1.0:443").await,
        "a removed peer reaches nothing"
    );
    assert!(reaches(&bob, "100.127.1.0:443").await);
    assert_eq!(
        bob.status().borrow().last_handshake,
        handshake,
        "others are not touched"
    );

    // Nothing of the private key is anywhere in the registry's folder.
    let private = value(&conf, "PrivateKey");
    for entry in std::fs::read_dir(site.data()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        let found = bytes
            .windows(private.len())
            .any(|part| part == private.as_bytes());
        assert!(!found, "{} holds the private key", path.display());
    }
    alice.shutdown().await;
    bob.shutdown().await;
    site.registry.shutdown().await;
}

#[tokio::test]
async fn a_peer_ends_with_its_time_and_survives_a_restart_before() {
    let site = site().await;
    let conf = site
        .cli(&["peer", "add", "alice", "--no-qr", "--ttl", "1h"])
        .await
        .unwrap();
    let site = site.restarted().await;
    assert_eq!(peers(&site).await.peers[0].state, "current");
    assert_eq!(value(&conf, "Address").split('/').next(), Some("10.10.0.2"));
    let soon = site
        .cli(&["peer", "add", "bob", "--no-qr", "--ttl", "1s"])
        .await
        .unwrap();
    let gone = async {
        while peers(&site).await.peers[1].counters.is_some() || peers(&site).await.peers[1].state != "expired"
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert!(!soon.is_empty());
    site.registry.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_added_is_told_why() {
    let site = site().await;
    let key = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";
    let conf = site
        .cli(&["peer", "add", "alice", "--public-key", key])
        .await
        .unwrap();
    assert!(!conf.contains("\nPrivateKey"), "{conf}");
    let mut shown = String::new();
    for args in [
        &["peer", "add", "alice"][..],
        &["peer", "add", "bob", "--public-key", key],
        &[
            "peer",
            "add",
            "bob",
            "--public-key",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ],
        &["peer", "add", "bob", "--ttl", "4000d"],
        &["peer", "add", "bob", "--allowed", "nowhere.internal"],
        &["peer", "show", "nobody"],
        &["peer", "remove", "nobody"],
        &["device", "tag", "nobody", "a=b"],
        &["device", "tag", "nobody"],
    ] {
        shown.push_str(&site.cli(args).await.unwrap_err().to_string());
    }
    site.registry.shutdown().await;
    let without = Site::new().await;
    shown.push_str(
        &without
            .cli(&["peer", "add", "alice"])
            .await
            .unwrap_err()
            .to_string(),
    );
    insta::assert_snapshot!("peer_refusals", shown);
    without.registry.shutdown().await;
}

#[tokio::test]
async fn json_has_the_configuration_and_a_file_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = site().await;
    let json = site.cli(&["peer", "add", "alice", "--json"]).await.unwrap();
    let answer: PeerAnswer = serde_json::from_str(&json).unwrap();
    assert_eq!(answer.client.keepalive_s, 25);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["conf"].as_str().unwrap().contains("PrivateKey = "));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob.conf");
    let told = site
        .cli(&["peer", "add", "bob", "-o", path.to_str().unwrap()])
        .await
        .unwrap();
    assert!(!told.contains("PrivateKey"), "{told}");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    site.registry.shutdown().await;
}

/// The private key is in the file alone, so a peer is only added when there is one.
#[tokio::test]
async fn no_peer_is_added_whose_file_cannot_be_made() {
    let site = site().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("there.conf"), "mine").unwrap();
    let mut shown = String::new();
    for file in ["there.conf", "missing/alice.conf"] {
        let failure = site.cli(&["peer", "add", "alice", "-o", &path(file)]).await;
        shown.push_str(&failure.unwrap_err().to_string());
    }
    let shown = shown.replace(&folder.path().display().to_string(), "FOLDER");
    insta::assert_snapshot!(shown, @r"
    error: cannot create FOLDER/there.conf: it is there already
    hint: move `FOLDER/there.conf` away, or choose another name
    error: cannot create FOLDER/missing/alice.conf: there is no such file or folder
    hint: `--output` names a file in a folder that is there
    ");
    assert_eq!(std::fs::read_to_string(path("there.conf")).unwrap(), "mine");
    assert!(peers(&site).await.peers.is_empty());

    // The other way round, no file is left of a peer that is refused.
    let args = ["peer", "add", "alice", "--allowed", "nowhere.internal", "-o"];
    let refused = path("refused.conf");
    site.cli(&[&args[..], &[&refused]].concat()).await.unwrap_err();
    assert!(!std::path::Path::new(&refused).exists());
    site.registry.shutdown().await;
}

pub(crate) async fn desired(agent: &mut Agent) -> DesiredState {
    match agent.hear().await {
        FromRegistry::Desired(desired) => *desired,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_change_of_tags_reaches_gateway_and_device_at_once() {
    let site = site().await;
    let (mut agent, identity) = Agent::joined(&site).await;
    let before = desired(&mut agent).await.tunnel.unwrap();
    assert_eq!((before.names.len(), before.networks.len()), (1, 0));
    let tunnel = crate::tunnel::start(&identity, &before);
    assert!(reaches(&tunnel, "100.127.1.0:443").await);
    assert!(!reaches(&tunnel, "100.127.1.1:443").await);

    let told = site.cli(&["device", "tag", "laptop", "team=ml"]).await.unwrap();
    assert_eq!(told, "tags granted to laptop: owner=alice,team=ml\n");
    let after = desired(&mut agent).await;
    let names: Vec<&str> = after
        .tunnel
        .as_ref()
        .unwrap()
        .names
        .keys()
        .map(HostName::as_str)
        .collect();
    assert_eq!(names, ["coder.internal", "data.internal"]);
    assert_eq!(after.tunnel.as_ref().unwrap().networks[0].network, "10.20.0.0/16");
    assert_eq!(after.tags.get("team"), Some("ml"));
    assert!(reaches(&tunnel, "100.127.1.1:443").await);

    site.cli(&["device", "tag", "laptop", "--remove", "team"])
        .await
        .unwrap();
    assert_eq!(desired(&mut agent).await.tunnel.unwrap().names.len(), 1);
    let closed = async {
        while reaches(&tunnel, "100.127.1.1:443").await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    let shown = site.cli(&["device", "show", "laptop"]).await.unwrap();
    assert!(shown.contains("refused"), "{shown}");
    tunnel.shutdown().await;
    site.registry.shutdown().await;
}

#[tokio::test]
async fn the_gateways_key_changes_without_anybody_being_shut_out() {
    let site = site().await;
    let listen = site.registry.ready().wireguard.unwrap();
    let conf = site.cli(&["peer", "add", "alice", "--no-qr"]).await.unwrap();
    let (mut agent, identity) = Agent::joined(&site).await;
    let before = desired(&mut agent).await.tunnel.unwrap();
    let alice = client(&conf);
    assert!(reaches(&alice, "100.127.1.0:443").await);

    site.cli(&["gateway", "rotate-key", "--after", "7d"])
        .await
        .unwrap();
    let after = desired(&mut agent).await.tunnel.unwrap();
    assert_ne!(after.gateway.public_key, before.gateway.public_key);
    let laptop = crate::tunnel::start(&identity, &after);
    assert!(
        reaches(&laptop, "100.127.1.0:443").await,
        "the new key is good at once"
    );
    assert!(reaches(&alice, "100.127.1.0:443").await, "and so is the old one");
    let shown = async {
        loop {
            let shown = site.cli(&["gateway", "show"]).await.unwrap();
            if shown.contains("still used by peer alice\n") {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, shown)
        .await
        .expect("alice is on the old key, the laptop is not");
    let again = site
        .cli(&["gateway", "rotate-key"])
        .await
        .unwrap_err()
        .to_string();
    assert!(again.contains("not finished"), "{again}");

    // A restart in the middle changes nothing. The port is the same, as it is in a deployment.
    let mut site = site;
    site.config.wireguard = listen;
    let site = site.restarted().await;
    alice.rehandshake();
    laptop.rehandshake();
    assert!(reaches(&alice, "100.127.1.0:443").await);
    assert!(reaches(&laptop, "100.127.1.0:443").await);

    site.cli(&["gateway", "rotate-key", "--finish"]).await.unwrap();
    let ended = async {
        while reaches(&alice, "100.127.1.0:443").await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert!(reaches(&laptop, "100.127.1.0:443").await);
    let none = site
        .cli(&["gateway", "rotate-key", "--finish"])
        .await
        .unwrap_err()
        .to_string();
    assert!(none.contains("no change of keys is under way"), "{none}");
    alice.shutdown().await;
    laptop.shutdown().await;
    site.registry.shutdown().await;
}
