//! The metrics listener: an idle daemon's one series of its own. One request at a time is enough for who asks here.

use std::io;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::dial::go_error;
use super::lines;
use super::log::Logger;

const BODY: &str = "# HELP coderd_provisionerd_num_daemons The number of provisioner daemons.\n\
                    # TYPE coderd_provisionerd_num_daemons gauge\n\
                    coderd_provisionerd_num_daemons 1\n";
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves on `address` for ever. A listener that cannot be opened is logged and not fatal, as in the real program.
pub(super) async fn serve(address: &str, logger: &Logger) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            let error = format!("listen tcp {address}: bind: {}", go_error(&error));
            let fields = [
                ("name", json!("prometheus")),
                ("addr", json!(address)),
                ("error", json!(error)),
            ];
            logger.line(&lines::METRICS_FAILED, &fields);
            return std::future::pending().await;
        }
    };
    let shown = listener
        .local_addr()
        .map_or_else(|_| address.to_owned(), |address| address.to_string());
    logger.line(
        &lines::METRICS_LISTENING,
        &[("addr", json!(shown)), ("name", json!("prometheus"))],
    );
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            // Who does not ask in time, or goes away, is not served.
            let _ = tokio::time::timeout(PATIENCE, answer(stream)).await;
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < 8192 {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        BODY.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(BODY.as_bytes()).await?;
    stream.shutdown().await
}
