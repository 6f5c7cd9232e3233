//! The other end of a session: a WebSocket over TLS with Noise inside, that says what a test tells it to.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use orfe_protocol::envelope::{self, Incoming};
use orfe_protocol::id::{BootId, Revision};
use orfe_protocol::join_code::JoinCode;
use orfe_protocol::key::{NoisePrivateKey, NoisePublicKey, WireGuardPublicKey};
use orfe_protocol::message::{Claim, Claimed, FromAgent, FromRegistry, Hello, Refused, Welcome};
use orfe_protocol::noise::{Channel, Initiator};
use orfe_protocol::observed::ObservedState;
use orfe_protocol::{CONNECT_PATH, SUBPROTOCOL};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::site::{PATIENCE, Site};

pub(crate) type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Who a device is.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) noise: NoisePrivateKey,
    pub(crate) wireguard: WireGuardPublicKey,
    /// Its private half; both kinds of key are Curve25519.
    pub(crate) wireguard_private: NoisePrivateKey,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let wireguard_private = NoisePrivateKey::generate().unwrap();
        Self {
            noise: NoisePrivateKey::generate().unwrap(),
            wireguard: WireGuardPublicKey::from_bytes(*wireguard_private.public_key().as_bytes()),
            wireguard_private,
        }
    }

    pub(crate) fn claim(&self, code: &JoinCode) -> FromAgent {
        FromAgent::Claim(Claim {
            join_code: code.id,
            secret: code.secret.to_text(),
            name: "laptop".parse().unwrap(),
            wireguard_public_key: self.wireguard,
            agent_version: "0.1.0".into(),
        })
    }
}

pub(crate) fn hello(desired: Revision) -> FromAgent {
    FromAgent::Hello(Hello {
        agent_version: "0.1.0".into(),
        boot: BootId::generate(),
        desired,
        capabilities: Vec::new(),
    })
}

pub(crate) fn observed(health: &str) -> FromAgent {
    let state: ObservedState = serde_json::from_value(serde_json::json!({
        "desired": {"epoch": 1, "revision": 1}, "agent_version": "0.1.0", "started_at": Timestamp::UNIX_EPOCH,
        "health": health, "checks": [], "tags": {"os": "linux"}, "provisioners": [],
        "facts": {
            "hostname": "laptop", "os": "linux", "arch": "amd64", "cpu_model": "x", "cpu_cores": 2,
            "memory_mib": 1024, "docker": {"absent": {"reason": "no engine"}}, "gpus": []
        }
    }))
    .unwrap();
    FromAgent::Observed(Box::new(state))
}

/// A connected agent.
pub(crate) struct Agent {
    pub(crate) socket: Socket,
    pub(crate) channel: Channel,
    sent: u64,
}

impl Agent {
    /// Connects and shakes hands.
    pub(crate) async fn connect(site: &Site, identity: &Identity) -> Self {
        let ready = site.registry.ready();
        let code = site.join_code(&[]).await;
        Self::connect_to(&site.data(), ready.https, code.registry_key, identity).await
    }

    pub(crate) async fn connect_to(
        data: &Path,
        address: SocketAddr,
        registry: NoisePublicKey,
        identity: &Identity,
    ) -> Self {
        let mut socket = open(data, address, None).await;
        let (initiator, first) = Initiator::start(&identity.noise, &registry).unwrap();
        socket.send(Message::Binary(first.into())).await.unwrap();
        let answer = frame(&mut socket).await.unwrap();
        Self {
            socket,
            channel: initiator.finish(&answer).unwrap(),
            sent: 0,
        }
    }

    /// A device that has joined, with its session.
    pub(crate) async fn joined(site: &Site) -> (Self, Identity) {
        let identity = Identity::new();
        let code = site.join_code(&["--tag", "owner=alice"]).await;
        let mut agent = Self::connect(site, &identity).await;
        agent.claim(&identity, &code).await.unwrap();
        agent.begin(Revision::default()).await.unwrap();
        (agent, identity)
    }

    pub(crate) async fn say(&mut self, message: &FromAgent) {
        self.try_say(message).await.unwrap();
    }

    pub(crate) async fn try_say(&mut self, message: &FromAgent) -> Result<(), Error> {
        self.sent += 1;
        let json = envelope::encode(self.sent, message).unwrap();
        for frame in self.channel.seal(&json).unwrap() {
            self.socket.send(Message::Binary(frame.into())).await?;
        }
        Ok(())
    }

    pub(crate) async fn claim(&mut self, identity: &Identity, code: &JoinCode) -> Result<Claimed, Refused> {
        self.say(&identity.claim(code)).await;
        match self.hear().await {
            FromRegistry::Claimed(claimed) => Ok(claimed),
            FromRegistry::Refused(refused) => Err(refused),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn begin(&mut self, desired: Revision) -> Result<Welcome, Refused> {
        self.say(&hello(desired)).await;
        match self.hear().await {
            FromRegistry::Welcome(welcome) => Ok(welcome),
            FromRegistry::Refused(refused) => Err(refused),
            other => panic!("{other:?}"),
        }
    }

    /// The next message.
    pub(crate) async fn hear(&mut self) -> FromRegistry {
        loop {
            let frame = frame(&mut self.socket)
                .await
                .unwrap_or_else(|code| panic!("closed with {code}"));
            if let Some(json) = self.channel.open(&frame).unwrap() {
                match envelope::decode(&json).unwrap() {
                    Incoming::Known { message, .. } => return message,
                    Incoming::Unknown { kind } => panic!("unknown {kind}"),
                }
            }
        }
    }

    /// The code that the connection is closed with, whatever is said before.
    pub(crate) async fn closed_with(&mut self) -> u16 {
        closed_with(&mut self.socket).await
    }
}

/// A WebSocket to the registry, without a word said.
pub(crate) async fn open(data: &Path, address: SocketAddr, receive_buffer: Option<u32>) -> Socket {
    open_path(data, address, receive_buffer, CONNECT_PATH, SUBPROTOCOL).await
}

/// [`open`] for any of the registry's connections.
pub(crate) async fn open_path(
    data: &Path,
    address: SocketAddr,
    receive_buffer: Option<u32>,
    path: &str,
    protocol: &'static str,
) -> Socket {
    let tcp = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = receive_buffer {
        tcp.set_recv_buffer_size(bytes).unwrap();
    }
    let stream =
        TlsConnector::from(tls(data)).connect(address.ip().into(), tcp.connect(address).await.unwrap());
    let mut request = format!("wss://{address}{path}").into_client_request().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol.parse().unwrap());
    let (socket, response) = tokio_tungstenite::client_async(request, stream.await.unwrap())
        .await
        .unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    socket
}

/// Trusts the registry's own certificate and nothing else.
pub(crate) fn tls(data: &Path) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(data.join("tls.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// The next binary frame, or the code that the connection was closed with; 1006 is a connection that broke.
pub(crate) async fn frame(socket: &mut Socket) -> Result<Vec<u8>, u16> {
    let next = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Binary(frame))) => return Ok(frame.to_vec()),
                Some(Ok(Message::Close(Some(close)))) => return Err(close.code.into()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return Err(1006),
            }
        }
    };
    tokio::time::timeout(PATIENCE, next)
        .await
        .expect("the registry says nothing")
}

pub(crate) async fn closed_with(socket: &mut Socket) -> u16 {
    loop {
        if let Err(code) = frame(socket).await {
            return code;
        }
    }
}
