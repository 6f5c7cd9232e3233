//! Connecting to the load's server: directly, or through a proxy.

use std::io;
use std::net::SocketAddr;

use data_encoding::BASE64;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{ProxyProtocol, ProxySpec};

/// The longest head of an answer to `CONNECT` that is read.
const MAX_HEAD: usize = 8 * 1024;

/// A connection to `to`, which is `host:port`.
pub async fn connect(to: &str, proxy: Option<&ProxySpec>) -> io::Result<TcpStream> {
    let stream = match proxy {
        None => {
            let address: SocketAddr = to
                .parse()
                .map_err(|_| invalid("without a proxy the server is named by its address"))?;
            TcpStream::connect(address).await?
        }
        Some(proxy) => {
            let mut stream = TcpStream::connect(proxy.address).await?;
            match proxy.protocol {
                ProxyProtocol::Connect => http_connect(&mut stream, to, proxy).await?,
                ProxyProtocol::Socks5 => socks5(&mut stream, to, proxy).await?,
            }
            stream
        }
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn http_connect(stream: &mut TcpStream, to: &str, proxy: &ProxySpec) -> io::Result<()> {
    let credential = BASE64.encode(format!("{}:{}", proxy.user, proxy.password).as_bytes());
    let request =
        format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nProxy-Authorization: Basic {credential}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // One byte at a time, lest what follows the head is taken with it.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD {
            return Err(invalid("the proxy's answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        let line = String::from_utf8_lossy(&head)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        Err(io::Error::other(format!("the proxy answered: {line}")))
    }
}

async fn socks5(stream: &mut TcpStream, to: &str, proxy: &ProxySpec) -> io::Result<()> {
    let (host, port) = to.rsplit_once(':').ok_or_else(|| invalid("no port"))?;
    let port: u16 = port.parse().map_err(|_| invalid("no port"))?;
    let length = |text: &str| u8::try_from(text.len()).map_err(|_| invalid("too long for SOCKS5"));
    // Greeting with the one method of user and password, and those at once: one round trip less.
    let mut hello = vec![5, 1, 2, 1, length(&proxy.user)?];
    hello.extend_from_slice(proxy.user.as_bytes());
    hello.push(length(&proxy.password)?);
    hello.extend_from_slice(proxy.password.as_bytes());
    stream.write_all(&hello).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    if answer != [5, 2, 1, 0] {
        return Err(io::Error::other(format!("the proxy refused: {answer:?}")));
    }
    let mut request = vec![5, 1, 0, 3, length(host)?];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    if reply[1] != 0 {
        return Err(io::Error::other(format!("the proxy replied {}", reply[1])));
    }
    let address = match reply[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        _ => return Err(invalid("an odd address in the proxy's reply")),
    };
    stream.read_exact(&mut vec![0; address + 2]).await?;
    Ok(())
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}
