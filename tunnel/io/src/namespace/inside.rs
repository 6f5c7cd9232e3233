//! The helper process: makes the namespace, hands over the TUN device, then makes sockets as they are asked for.
//!
//! It is the same program, started again with one argument, because a user namespace can be made only by a process with one
//! thread. It speaks with the daemon over its standard input, knows no secret, and ends when the daemon's end of the channel
//! is closed. For a gateway it makes all that is needed at once, and ends.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::net::SendFlags;
use rustix::stdio::stdin;

use super::channel;
use super::confine;
use super::message::{Malformed, Reply, Request, SocketKind, Step};
use super::network;

/// The one argument that makes a program the helper. Not for people, so it stands in no help.
pub(super) const ARGUMENT: &str = "namespace-helper";

/// Runs the helper when the command line asks for it, and for nothing else.
pub(super) fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let is_helper = arguments.next().as_deref() == Some(OsStr::new(ARGUMENT)) && arguments.next().is_none();
    is_helper.then(|| match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to tell: the daemon sees that the channel is closed.
        Err(_) => ExitCode::FAILURE,
    })
}

/// Serves the channel on standard input until its other end is gone.
fn serve() -> io::Result<()> {
    let channel = stdin();
    let confined = confine::confine().map_err(|error| (Step::Confine, error));
    let (bytes, _) = channel::receive(channel)?;
    let (mtu, addresses) = match Request::decode(&bytes)? {
        Request::SetUp { mtu, addresses } => (mtu, addresses),
        Request::Land { mtu, count } => return land(confined, mtu, count),
        Request::Sockets { .. } => return Err(Malformed.into()),
    };
    let made = confined.and_then(|()| {
        confine::enter_namespace()?;
        let tun = network::set_up(mtu, &addresses)?;
        let congestion = network::congestion().map_err(|error| (Step::Congestion, error))?;
        confine::drop_rights().map_err(|error| (Step::DropRights, error))?;
        Ok((tun, congestion))
    });
    match made {
        Ok((tun, congestion)) => answer(&Reply::Ready { congestion }, &[tun])?,
        Err((step, error)) => {
            let errno = error.raw_os_error().unwrap_or(0);
            return answer(&Reply::Failed { step, errno }, &[]);
        }
    }
    // All that is left is to make sockets. With the start's code a helper would be half as large again as it must be; where it cannot
    // be let go of, it is.
    let _ = orfe_platform::process::let_go_of_code();
    loop {
        let (bytes, _) = channel::receive(channel)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let Request::Sockets { kind, count } = Request::decode(&bytes)? else {
            return Err(Malformed.into());
        };
        serve_sockets(kind, count)?;
    }
}

/// Makes the namespaces of a gateway and hands over everything in them. They live as long as these descriptors do, so the
/// helper has nothing left to do. It holds no right while it waits for the gateway to take them.
fn land(confined: Result<(), (Step, io::Error)>, mtu: u16, count: u8) -> io::Result<()> {
    match confined.and_then(|()| landings(mtu, count)) {
        Ok((descriptors, reply)) => answer(&reply, &descriptors),
        Err((step, error)) => {
            let errno = error.raw_os_error().unwrap_or(0);
            answer(&Reply::Failed { step, errno }, &[])
        }
    }
}

fn landings(mtu: u16, count: u8) -> Result<(Vec<OwnedFd>, Reply), (Step, io::Error)> {
    let mut descriptors = Vec::new();
    let mut has_v6 = true;
    let mut made = Vec::new();
    for number in 0..count {
        if number == 0 {
            confine::enter_namespace()?;
        } else {
            confine::enter_another()?;
        }
        let parts = network::set_up_landing(mtu)?;
        has_v6 &= parts.v6.is_some();
        made.push(parts);
    }
    let congestion = network::congestion().map_err(|error| (Step::Congestion, error))?;
    confine::drop_rights().map_err(|error| (Step::DropRights, error))?;
    for parts in made {
        descriptors.extend([parts.tun, parts.v4]);
        descriptors.extend(parts.v6.filter(|_| has_v6));
    }
    Ok((descriptors, Reply::Landed { congestion, has_v6 }))
}

fn serve_sockets(kind: SocketKind, count: u8) -> io::Result<()> {
    let mut sockets = Vec::with_capacity(usize::from(count));
    let mut failure = None;
    for _ in 0..count {
        match network::socket(kind) {
            Ok(socket) => sockets.push(socket),
            Err(error) => {
                failure = Some(error.raw_os_error().unwrap_or(0));
                break;
            }
        }
    }
    if !sockets.is_empty() {
        answer(&Reply::Sockets { kind }, &sockets)?;
    }
    match failure {
        Some(errno) => answer(&Reply::SocketFailed { kind, errno }, &[]),
        None => Ok(()),
    }
}

fn answer(reply: &Reply, descriptors: &[OwnedFd]) -> io::Result<()> {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    // A daemon that does not read stops the helper here, which is as it should be.
    channel::send(stdin(), &reply.encode(), &descriptors, SendFlags::empty())
}
