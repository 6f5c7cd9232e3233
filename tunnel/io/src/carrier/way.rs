//! TCP to a host, directly or through the machine owner's HTTP proxy.

use std::io;

use tokio::net::TcpStream;

use crate::dial::BoxedStream;
use crate::proxy::{Target, UpstreamProxy};

/// Connects to `host`, a name or an address without brackets. The proxy is passed by where its exceptions say so. There is
/// no time limit; dropping the future abandons the attempt.
pub async fn reach(proxy: Option<&UpstreamProxy>, host: &str, port: u16) -> io::Result<BoxedStream> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let authority = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let target = Target::parse(&authority, None).map_err(invalid)?;
    let Some(proxy) = proxy.filter(|proxy| proxy.applies_to(&target)) else {
        let stream = TcpStream::connect((host, port)).await?;
        // Small messages, each an answer or a question: waiting to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        return Ok(Box::new(stream));
    };
    let address = proxy.address().to_string();
    let stream = TcpStream::connect(&address)
        .await
        .map_err(|source| io::Error::new(source.kind(), format!("the HTTP proxy {address}: {source}")))?;
    let _ = stream.set_nodelay(true);
    let stream = proxy
        .connect(stream, &target)
        .await
        .map_err(|refusal| io::Error::other(format!("the HTTP proxy {address}: {refusal}")))?;
    Ok(Box::new(stream))
}
