//! The registry's WebSocket that carries the tunnel's datagrams.

use std::future::ready;

use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use orfe_protocol::TUNNEL_SUBPROTOCOL;
use orfe_tunnel::carrier::DATAGRAM_MAX;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use url::Url;

use super::{LinkError, RegistryAddress, Way, websocket};

/// What is collected until it is written, and what is read at a time: some ten datagrams.
const BUFFER: usize = 16 * 1024;

/// Opens it; each datagram is one message. Everything that ends it is told in words.
pub(crate) async fn open_carrier(
    registry: &RegistryAddress,
    url: &Url,
) -> Result<impl Stream<Item = Result<Bytes, String>> + Sink<Bytes, Error = String> + use<>, LinkError> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(4 * BUFFER)
        .max_message_size(Some(DATAGRAM_MAX))
        .max_frame_size(Some(DATAGRAM_MAX));
    let socket = websocket::open(registry, &Way::Direct, url, TUNNEL_SUBPROTOCOL, config).await?;
    let messages = socket
        .with(|datagram: Bytes| {
            ready(Ok::<_, tokio_tungstenite::tungstenite::Error>(Message::Binary(
                datagram,
            )))
        })
        .sink_map_err(|error| error.to_string())
        .filter_map(|message| {
            ready(match message {
                Ok(Message::Binary(datagram)) => Some(Ok(datagram)),
                Ok(_) => None,
                Err(error) => Some(Err(error.to_string())),
            })
        });
    Ok(messages)
}
