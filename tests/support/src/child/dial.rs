//! One dial of the server: connect (directly, through a proxy by CONNECT, or through one in absolute form), TLS, and the
//! WebSocket handshake, each failing with the real program's words.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use url::{Host, Url};

use super::http::{self, JSON_BODY, Stream};
use super::proxy::{Proxies, authorization};
use super::refusal::refusal;
use super::{VERSION, tls};
use crate::scale::TimeScale;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// What the child shows to be let in.
pub(super) enum Credential {
    Psk(String),
    Key(String),
    /// Neither: only the question for the user's organizations is asked without.
    None,
}

/// Everything that is the same for every dial.
pub(super) struct Dialer {
    pub(super) url: Url,
    pub(super) proxies: Proxies,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) credential: Credential,
    /// The telemetry header's value.
    pub(super) telemetry: String,
    pub(super) scale: TimeScale,
}

/// Why a dial did not end in a session; the texts are those of the real program.
pub(super) enum DialError {
    /// 403 from anyone: the real program never dials again.
    Forbidden(String),
    /// Everything else: it dials again.
    Failed(String),
}

struct Connection {
    stream: Stream,
    local: SocketAddr,
    peer: SocketAddr,
    /// The proxy of a plain http request wants the whole address in the request line, and its credential.
    through_proxy: Option<Url>,
}

impl Dialer {
    /// Asks for a session; `name` and `tags` go into the address.
    pub(super) async fn dial(
        &self,
        name: &str,
        tags: &[(String, String)],
    ) -> Result<WebSocketStream<Stream>, DialError> {
        let url = self.serve_url(name, tags);
        let unsent = |cause: String| {
            let text =
                format!("failed to WebSocket dial: failed to send handshake request: Get \"{url}\": {cause}");
            DialError::Failed(text)
        };
        let mut connection = self.connect(&url).await.map_err(unsent)?;
        let key = generate_key();
        let request = self.request(
            &url,
            &connection,
            &[
                ("Connection", "Upgrade"),
                ("Sec-Websocket-Key", &key),
                ("Sec-Websocket-Version", "13"),
                ("Upgrade", "websocket"),
                ("X-Coder-Build-Version", VERSION),
            ],
        );
        let head = http::exchange(&mut connection.stream, &request)
            .await
            .map_err(|error| unsent(connection.error_text(&error)))?;
        if head.status != 101 {
            return Err(refusal(&url, &mut connection.stream, head).await);
        }
        if head.header("Sec-WebSocket-Accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
            return Err(DialError::Failed(
                "failed to WebSocket dial: WebSocket protocol violation: invalid Sec-WebSocket-Accept"
                    .to_owned(),
            ));
        }
        Ok(WebSocketStream::from_partially_read(connection.stream, head.rest, Role::Client, None).await)
    }

    /// A plain GET of `path`: status and body, or the cause without the address.
    pub(super) async fn get(&self, path: &str) -> Result<(u16, Vec<u8>), String> {
        let mut url = self.url.clone();
        url.set_path(path);
        let mut connection = self.connect(&url).await?;
        let request = self.request(&url, &connection, &[("Coder-Session-Token", "")]);
        let head = http::exchange(&mut connection.stream, &request)
            .await
            .map_err(|error| connection.error_text(&error))?;
        let status = head.status;
        let body = http::body(&mut connection.stream, head, JSON_BODY).await;
        Ok((status, body.map_err(|error| connection.error_text(&error))?))
    }

    /// The version stands in the query twice; so it was recorded.
    fn serve_url(&self, name: &str, tags: &[(String, String)]) -> Url {
        let mut url = self.url.clone();
        url.set_path("/api/v2/organizations/default/provisionerdaemons/serve");
        {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("name", name)
                .append_pair("provisioner", "terraform");
            for (key, value) in tags {
                query.append_pair("tag", &format!("{key}={value}"));
            }
            query
                .append_pair("version", super::API_VERSION)
                .append_pair("version", super::API_VERSION);
        }
        url
    }

    fn request(&self, url: &Url, connection: &Connection, headers: &[(&str, &str)]) -> String {
        let target = match (&connection.through_proxy, url.query()) {
            (Some(_), _) => url.to_string(),
            (None, Some(query)) => format!("{}?{query}", url.path()),
            (None, None) => url.path().to_owned(),
        };
        let mut lines = vec![
            format!("GET {target} HTTP/1.1"),
            format!("Host: {}", authority(url)),
            "User-Agent: Go-http-client/1.1".to_owned(),
            format!("Coder-Cli-Telemetry: {}", self.telemetry),
        ];
        match &self.credential {
            Credential::Psk(psk) => lines.push(format!("Coder-Provisioner-Daemon-Psk: {psk}")),
            Credential::Key(key) => lines.push(format!("Coder-Provisioner-Daemon-Key: {key}")),
            Credential::None => {}
        }
        lines.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
        lines.push("Accept-Encoding: gzip".to_owned());
        lines.extend(connection.through_proxy.as_ref().and_then(authorization));
        lines.join("\r\n") + "\r\n\r\n"
    }

    async fn connect(&self, url: &Url) -> Result<Connection, String> {
        let Some(proxy) = self.proxies.for_url(url) else {
            let tcp = self.tcp(url).await?;
            return if url.scheme() == "https" {
                self.encrypt(tcp, url).await
            } else {
                Ok(tcp)
            };
        };
        if proxy.scheme() != "http" {
            return Err(format!(
                "the stand-in speaks to http proxies only, not to {}",
                proxy.scheme()
            ));
        }
        let mut connection = self
            .tcp(proxy)
            .await
            .map_err(|cause| format!("proxyconnect tcp: {cause}"))?;
        if url.scheme() != "https" {
            connection.through_proxy = Some(proxy.clone());
            return Ok(connection);
        }
        let host = format!(
            "{}:{}",
            url.host_str().unwrap_or_default(),
            url.port_or_known_default().unwrap_or(443)
        );
        let mut lines = vec![
            format!("CONNECT {host} HTTP/1.1"),
            format!("Host: {host}"),
            "User-Agent: Go-http-client/1.1".to_owned(),
        ];
        lines.extend(authorization(proxy));
        let request = lines.join("\r\n") + "\r\n\r\n";
        let head = http::exchange(&mut connection.stream, &request)
            .await
            .map_err(|error| connection.error_text(&error))?;
        if head.status != 200 {
            return Err(head.reason);
        }
        self.encrypt(connection, url).await
    }

    async fn tcp(&self, url: &Url) -> Result<Connection, String> {
        let port = url.port_or_known_default().unwrap_or(80);
        let addresses: Vec<SocketAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![(address, port).into()],
            Some(Host::Ipv6(address)) => vec![(address, port).into()],
            Some(Host::Domain(name)) => look_up(name, port).await?,
            None => return Err("http: no Host in request URL".to_owned()),
        };
        let mut first_error = None;
        for address in addresses {
            let connected =
                tokio::time::timeout(self.scale.scaled(CONNECT_TIMEOUT), TcpStream::connect(address)).await;
            let cause = match connected {
                Ok(Ok(stream)) => return connection(stream),
                Ok(Err(error)) => format!("connect: {}", go_error(&error)),
                Err(_) => "i/o timeout".to_owned(),
            };
            first_error.get_or_insert(format!("dial tcp {address}: {cause}"));
        }
        Err(first_error.unwrap_or_else(|| "dial tcp: no address".to_owned()))
    }

    async fn encrypt(&self, connection: Connection, url: &Url) -> Result<Connection, String> {
        let host = url
            .host_str()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|error| format!("tls: {error}"))?;
        let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(name, connection.stream);
        match tokio::time::timeout(self.scale.scaled(TLS_TIMEOUT), handshake).await {
            Ok(Ok(stream)) => Ok(Connection {
                stream: Box::new(stream),
                ..connection
            }),
            Ok(Err(error)) => Err(tls::error_text(&error, &host)),
            Err(_) => Err("net/http: TLS handshake timeout".to_owned()),
        }
    }
}

impl Connection {
    fn error_text(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
            io::ErrorKind::InvalidData => format!("malformed HTTP response: {error}"),
            io::ErrorKind::BrokenPipe => {
                format!("write tcp {}->{}: write: broken pipe", self.local, self.peer)
            }
            _ => format!(
                "read tcp {}->{}: read: {}",
                self.local,
                self.peer,
                go_error(error)
            ),
        }
    }
}

fn connection(stream: TcpStream) -> Result<Connection, String> {
    let addresses = stream
        .local_addr()
        .and_then(|local| Ok((local, stream.peer_addr()?)));
    let (local, peer) = addresses.map_err(|error| go_error(&error))?;
    Ok(Connection {
        stream: Box::new(stream),
        local,
        peer,
        through_proxy: None,
    })
}

async fn look_up(name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let unknown = || format!("dial tcp: lookup {name}: no such host");
    // Names that are reserved for tests resolve nowhere (RFC 6761); no resolver is asked for them.
    if matches!(name.rsplit('.').next(), Some("test" | "invalid")) {
        return Err(unknown());
    }
    let found: Vec<SocketAddr> = tokio::net::lookup_host((name, port))
        .await
        .map_err(|_| unknown())?
        .collect();
    if found.is_empty() {
        Err(unknown())
    } else {
        Ok(found)
    }
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The operating system's words for an error as Go has them: no number, small first letter.
pub(super) fn go_error(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = words.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_are_worded_as_in_go() {
        let refused = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
        assert_eq!(go_error(&refused), "connection refused");
    }
}
