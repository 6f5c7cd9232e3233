//! A WebSocket to the registry: TCP (through the machine owner's proxy where there is one, or through the tunnel), TLS, and
//! the upgrade.

use orfe_tunnel::carrier::reach;
use orfe_tunnel::dial::BoxedStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use url::Url;

use super::way::Way;
use super::{LinkError, RegistryAddress, STEP_TIMEOUT, tls};

pub(crate) type Socket = WebSocketStream<TlsStream<BoxedStream>>;

/// Opens the WebSocket at `url`, which is one of the registry's. Each step has its time limit.
pub(crate) async fn open(
    registry: &RegistryAddress,
    way: &Way,
    url: &Url,
    protocol: &'static str,
    config: WebSocketConfig,
) -> Result<Socket, LinkError> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(443);
    let address = format!("{host}:{port}");
    let silent = |step| {
        let address = address.clone();
        move |_| LinkError::Silent { address, step }
    };

    let tcp = timeout(STEP_TIMEOUT, dial(registry, way, host, port))
        .await
        .map_err(silent("connecting"))??;

    let connector = tls::connector(registry.spki_pin).map_err(LinkError::TlsSetup)?;
    let name = tls::server_name(host).map_err(|source| LinkError::Tls {
        address: address.clone(),
        source,
    })?;
    let stream = timeout(STEP_TIMEOUT, connector.connect(name, tcp))
        .await
        .map_err(silent("agreeing on TLS"))?
        .map_err(|source| tls_error(&address, source))?;

    let not_registry = |source| LinkError::Upgrade {
        url: registry.url.to_string(),
        source: Box::new(source),
    };
    let mut request = url.as_str().into_client_request().map_err(not_registry)?;
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", HeaderValue::from_static(protocol));
    let upgrade = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
    let (socket, _) = timeout(STEP_TIMEOUT, upgrade)
        .await
        .map_err(silent("opening the WebSocket"))?
        .map_err(not_registry)?;
    Ok(socket)
}

/// The TCP connection on this way.
async fn dial(
    registry: &RegistryAddress,
    way: &Way,
    host: &str,
    port: u16,
) -> Result<BoxedStream, LinkError> {
    match way {
        Way::Direct => reach(registry.proxy.as_ref(), host.trim_matches(['[', ']']), port)
            .await
            .map_err(|source| LinkError::Connect {
                address: format!("{host}:{port}"),
                source,
            }),
        Way::Tunnel {
            dialer,
            registry: inside,
        } => dialer.dial(*inside).await.map_err(LinkError::Inside),
    }
}

fn tls_error(address: &str, source: std::io::Error) -> LinkError {
    let address = address.to_owned();
    if tls::is_wrong_pin(&source) {
        LinkError::Pin { address }
    } else {
        LinkError::Tls { address, source }
    }
}
