//! One packet with its descriptors over a `SOCK_SEQPACKET` pair.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::message::{MAX_DESCRIPTORS, MAX_MESSAGE};

/// Both ends of a new channel; neither is inherited by a program that is started.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Sends one packet. `flags` may ask not to wait for room; a receiver that is gone is an error and no signal.
pub(super) fn send(
    channel: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| sendmsg(&channel, &[IoSlice::new(bytes)], &mut control, flags))?;
    Ok(())
}

/// Waits for one packet. No bytes at all mean that the other end is gone.
///
/// A packet that was cut short is an error, and its descriptors are closed. Fewer descriptors than were sent come when
/// this process may have no more.
pub(super) fn receive(channel: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&channel, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(received.bytes);
    Ok((bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn descriptors_travel_with_their_packet() {
        let (near, far) = pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        send(&near, b"take this", &[writer.as_fd()], SendFlags::empty()).unwrap();
        send(&near, b"and this", &[], SendFlags::empty()).unwrap();
        drop((near, writer));

        let (bytes, mut descriptors) = receive(&far).unwrap();
        assert_eq!((bytes.as_slice(), descriptors.len()), (&b"take this"[..], 1));
        let mut writer = File::from(descriptors.remove(0));
        writer.write_all(b"through the copy").unwrap();
        drop(writer);
        let mut text = String::new();
        let mut reader = reader;
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the copy");

        let (bytes, descriptors) = receive(&far).unwrap();
        assert_eq!((bytes.as_slice(), descriptors.len()), (&b"and this"[..], 0));
        assert_eq!(receive(&far).unwrap().0, b"", "the other end is gone");
    }

    #[test]
    fn a_packet_that_is_too_long_is_refused() {
        let (near, far) = pair().unwrap();
        send(&near, &[7; MAX_MESSAGE + 1], &[], SendFlags::empty()).unwrap();
        assert_eq!(receive(&far).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
