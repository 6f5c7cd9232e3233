//! Something that terminates TLS between a device and its registry, as an ingress does, and attacks what it carries.
//!
//! It holds the registry's own certificate and key, so every pin is satisfied: what protects the session behind
//! it is the Noise session alone. It sees each WebSocket frame in the clear, keeps what it saw, and alters, repeats or drops one
//! frame of every connection while it is armed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Which way a frame travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the device to the registry.
    Up,
    /// From the registry to the device.
    Down,
}

/// What is done to the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// One bit of it is changed.
    Alter,
    /// It is sent twice.
    Replay,
    /// It is left out; the frames after it pass.
    Drop,
}

/// The frame that is attacked in every connection, counted from 0 (the handshake's) in its direction.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Which way it travels.
    pub direction: Direction,
    /// Which one.
    pub frame: usize,
    /// What is done to it.
    pub attack: Attack,
}

struct Shared {
    registry: SocketAddr,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    plan: Mutex<Option<Plan>>,
    seen: Mutex<Vec<u8>>,
}

/// A running terminator; dropping it ends it.
pub struct Terminator {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl std::fmt::Debug for Terminator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminator")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Terminator {
    /// Listens on a free loopback port and carries sessions to `registry`, with the certificate and key in these PEM files.
    pub async fn start(registry: SocketAddr, certificate: &Path, key: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            registry,
            acceptor: acceptor(certificate, key).map_err(io::Error::other)?,
            connector: connector().map_err(io::Error::other)?,
            plan: Mutex::default(),
            seen: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, Arc::clone(&shared), tasks.clone(), stop.clone()));
        Ok(Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to do to connections from now on; none carries them faithfully.
    pub fn arm(&self, plan: Option<Plan>) {
        *lock(&self.shared.plan) = plan;
    }

    /// Every byte of every frame that passed, as it was seen behind TLS.
    pub fn seen(&self) -> Vec<u8> {
        lock(&self.shared.seen).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker, stop: CancellationToken) {
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        // A connection that breaks is what the tests are about.
        tasks.spawn(async move { stop.run_until_cancelled(Box::pin(carry(stream, &shared))).await });
    }
}

async fn carry(stream: TcpStream, shared: &Shared) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let device = shared.acceptor.accept(stream).await?;
    let mut path = String::new();
    let mut protocol = None;
    let device = tokio_tungstenite::accept_hdr_async(device, callback(&mut path, &mut protocol)).await?;

    let name = ServerName::from(shared.registry.ip());
    let registry = shared
        .connector
        .connect(name, TcpStream::connect(shared.registry).await?)
        .await?;
    let mut request = tungstenite::client::IntoClientRequest::into_client_request(format!(
        "wss://{}{path}",
        shared.registry
    ))?;
    if let Some(protocol) = protocol {
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
    }
    let (registry, _) = tokio_tungstenite::client_async(request, registry).await?;

    let plan = *lock(&shared.plan);
    let (to_device, from_device) = device.split();
    let (to_registry, from_registry) = registry.split();
    let up = pump(
        from_device,
        to_registry,
        plan.filter(|plan| plan.direction == Direction::Up),
        shared,
    );
    let down = pump(
        from_registry,
        to_device,
        plan.filter(|plan| plan.direction == Direction::Down),
        shared,
    );
    tokio::select! {
        done = up => done?,
        done = down => done?,
    }
    Ok(())
}

/// Takes the request's path and subprotocol on, and answers with the same subprotocol.
#[expect(clippy::result_large_err, reason = "the signature is the library's")]
fn callback(
    path: &mut String,
    protocol: &mut Option<HeaderValue>,
) -> impl FnOnce(&Request, Response) -> Result<Response, ErrorResponse> {
    |request, mut response| {
        request.uri().path().clone_into(path);
        *protocol = request.headers().get("Sec-WebSocket-Protocol").cloned();
        if let Some(protocol) = protocol.clone() {
            response.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        }
        Ok(response)
    }
}

async fn pump(
    mut from: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    mut to: impl Sink<Message, Error = tungstenite::Error> + Unpin,
    plan: Option<Plan>,
    shared: &Shared,
) -> Result<(), tungstenite::Error> {
    let mut count = 0;
    while let Some(message) = from.next().await {
        let mut message = message?;
        if let Message::Binary(frame) = &message {
            lock(&shared.seen).extend_from_slice(frame);
            if let Some(plan) = plan.filter(|plan| plan.frame == count) {
                match plan.attack {
                    Attack::Alter => message = Message::binary(with_one_bit_changed(frame)),
                    Attack::Replay => to.send(message.clone()).await?,
                    Attack::Drop => {
                        count += 1;
                        continue;
                    }
                }
            }
            count += 1;
        }
        to.send(message).await?;
    }
    Ok(())
}

fn with_one_bit_changed(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let middle = frame.len() / 2;
    if let Some(byte) = frame.get_mut(middle) {
        *byte ^= 1;
    }
    frame
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn connector() -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes every certificate: who attacks does not mind whom it speaks to.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
