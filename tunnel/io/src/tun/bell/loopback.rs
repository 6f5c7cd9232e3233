//! A connection of this process to itself, on loopback.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

pub(super) use std::net::TcpStream as Stream;

/// Connects to itself. What others connect in between is dropped.
pub(super) fn pair() -> io::Result<(Stream, Stream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = Stream::connect(listener.local_addr()?)?;
    let own = near.local_addr()?;
    let far = loop {
        let (stream, peer) = listener.accept()?;
        if peer == own {
            break stream;
        }
    };
    // A call is one byte and is not to wait for the answer to the one before.
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    #[test]
    fn both_ends_are_of_one_connection() {
        let (mut one, mut other) = super::pair().unwrap();
        one.write_all(b"a").unwrap();
        other.write_all(b"b").unwrap();
        for (end, sent) in [(&mut other, b"a"), (&mut one, b"b")] {
            let mut byte = [0];
            end.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, sent);
        }
    }
}
