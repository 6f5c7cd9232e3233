//! Sockets that keep to one interface.
#![expect(unsafe_code, reason = "there is no safe wrapper for IP_UNICAST_IF")]

use std::io;
use std::os::windows::io::AsRawSocket as _;

use socket2::Socket;
use windows_sys::Win32::Networking::WinSock::{
    IP_UNICAST_IF, IPPROTO_IP, IPPROTO_IPV6, IPV6_UNICAST_IF, setsockopt,
};

use crate::tun::device::Interface;

/// Bytes of an interface's number.
const INDEX_LEN: i32 = 4;

/// Has what `socket` sends leave through this interface or not at all.
pub(in crate::tun::host) fn bind_socket(
    socket: &Socket,
    interface: &Interface,
    is_v4: bool,
) -> io::Result<()> {
    // IPv4's number has the order of the network, IPv6's that of the host.
    let (level, option, index) = if is_v4 {
        (IPPROTO_IP, IP_UNICAST_IF, interface.index.to_be())
    } else {
        (IPPROTO_IPV6, IPV6_UNICAST_IF, interface.index)
    };
    let index = index.to_ne_bytes();
    // SAFETY: the socket is open, and `index` is as long as is said and lives through the call.
    let result = unsafe {
        setsockopt(
            socket.as_raw_socket() as usize,
            level,
            option,
            index.as_ptr(),
            INDEX_LEN,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
