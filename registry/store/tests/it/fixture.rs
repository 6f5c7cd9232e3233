//! A store in a folder of its own, and the things that tests put into it.

use jiff::{SignedDuration, Timestamp};
use orfe_protocol::id::JoinCodeId;
use orfe_protocol::join_code::JoinSecret;
use orfe_protocol::key::{NoisePublicKey, WireGuardPublicKey};
use orfe_protocol::tag::Tags;
use orfe_store::{ClaimRequest, NewJoinCode, Store};
use tempfile::TempDir;

pub(crate) struct Fixture {
    pub(crate) folder: TempDir,
    pub(crate) store: Store,
}

pub(crate) struct Code {
    pub(crate) id: JoinCodeId,
    pub(crate) secret: JoinSecret,
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub(crate) fn key(seed: u16) -> [u8; 32] {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&seed.to_be_bytes());
    bytes
}

pub(crate) fn granted(tags: &[&str]) -> Tags {
    tags.iter().map(|tag| tag.parse().unwrap()).collect()
}

pub(crate) fn new_code(uses: u32) -> (NewJoinCode, JoinSecret) {
    let secret = JoinSecret::generate().unwrap();
    let code = NewJoinCode {
        id: JoinCodeId::generate(),
        secret_hash: secret.hash(),
        tags: granted(&["owner=alice"]),
        note: "for the tests".to_owned(),
        max_uses: uses,
        created_at: at(0),
        expires_at: at(0) + SignedDuration::from_hours(1),
        tunnel_key: None,
    };
    (code, secret)
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("registry.sqlite")).await.unwrap();
        Self { folder, store }
    }

    pub(crate) async fn code(&self, uses: u32) -> Code {
        self.code_with(uses, &["owner=alice"]).await
    }

    pub(crate) async fn code_with(&self, uses: u32, tags: &[&str]) -> Code {
        let (mut code, secret) = new_code(uses);
        code.tags = granted(tags);
        self.store.join_codes().create(&code).await.unwrap();
        Code { id: code.id, secret }
    }
}

impl Code {
    /// A claim of the device with this number.
    pub(crate) fn claim(&self, device: u16) -> ClaimRequest {
        ClaimRequest {
            join_code: self.id,
            secret_hash: self.secret.hash(),
            noise_key: NoisePublicKey::from_bytes(key(device)),
            wireguard_key: WireGuardPublicKey::from_bytes(key(device ^ 0x8000)),
            name: "laptop".parse().unwrap(),
        }
    }
}
