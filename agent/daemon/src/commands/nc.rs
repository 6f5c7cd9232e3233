//! `orfe nc`: standard input and output, connected to a host and port by the daemon.
//!
//! Two threads, one for each direction, so that each ends on its own: the end of standard input is passed on and answers
//! still come; the end of the answers closes standard output and input still goes. It is over when both have ended, when the
//! daemon closes the connection as a whole, or when nobody reads standard output any more.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use orfe_tunnel::proxy::{Host, Target};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::cli::{NcArgs, PlaceArgs};
use crate::config::Config;
use crate::control::{Client, Connection};
use crate::failure::{Exit, Failure};

/// Bytes that are read at once, each way.
const BUFFER: usize = 64 * 1024;

pub(super) fn run(places: &PlaceArgs, args: &NcArgs) -> anyhow::Result<ExitCode> {
    let target = target(args)?;
    let socket = Config::control_socket(places)?;
    let Connection { mut reader, writer } = Client::connect(&socket, &target)?;
    let broken = |error: io::Error| Failure::new(format!("the connection to {target} broke")).because(error);
    let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(broken)?);
    let sending = std::thread::Builder::new()
        .name("orfe-nc-send".to_owned())
        .spawn(move || send(input, writer))
        .map_err(broken)?;
    let output = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(broken)?);
    if receive(&mut reader, output).map_err(broken)? == Received::NobodyReads {
        // The other thread may wait for input that no longer matters; it ends with the process.
        return Ok(ExitCode::SUCCESS);
    }
    match sending.join() {
        Ok(result) => result.map_err(broken)?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    Ok(ExitCode::SUCCESS)
}

fn target(args: &NcArgs) -> Result<Target, Failure> {
    let bare_ipv6 = args.host.parse::<Ipv6Addr>().is_ok();
    let host = if bare_ipv6 {
        Host::parse(&format!("[{}]", args.host))
    } else {
        Host::parse(&args.host)
    };
    let host = host.map_err(|error| {
        Failure::new("the host cannot be used")
            .hint("give a name, an IPv4 or an IPv6 address".to_owned())
            .exit(Exit::Usage)
            .because(error)
    })?;
    Ok(Target {
        host,
        port: args.port,
    })
}

/// Passes standard input on until it ends, then its end; stops when the connection is closed as a whole.
fn send(mut input: File, mut writer: UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let closed = {
            let mut watched = [
                PollFd::new(&input, PollFlags::IN),
                // A hang-up is told without being asked for.
                PollFd::new(&writer, PollFlags::empty()),
            ];
            match poll(&mut watched, None) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            let closed = !watched[1].revents().is_empty();
            if !closed && watched[0].revents().is_empty() {
                continue;
            }
            closed
        };
        if closed {
            return Ok(());
        }
        let read = match input.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return match writer.shutdown(Shutdown::Write) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
                _ => Ok(()),
            };
        }
        match writer.write_all(&buffer[..read]) {
            Err(error) if is_gone(&error) => return Ok(()),
            result => result?,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Received {
    End,
    NobodyReads,
}

/// Passes what comes to standard output until it ends, then closes standard output.
fn receive(reader: &mut impl Read, mut output: File) -> io::Result<Received> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match reader.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A connection that was cut in the middle of something.
            Err(error) if is_gone(&error) => 0,
            read => read?,
        };
        if read == 0 {
            break;
        }
        match output.write_all(&buffer[..read]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Received::NobodyReads),
            result => result?,
        }
    }
    drop(output);
    // Whoever reads our output learns of its end only when the descriptor itself is gone.
    let nothing = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nothing)?;
    Ok(Received::End)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(host: &str) -> NcArgs {
        NcArgs {
            host: host.to_owned(),
            port: 22,
        }
    }

    #[test]
    fn a_host_is_written_as_ssh_writes_it() {
        for (host, target_text) in [
            ("Build.demo.internal", "build.demo.internal:22"),
            ("10.0.0.1", "10.0.0.1:22"),
            ("fd00::1", "[fd00::1]:22"),
            ("[fd00::1]", "[fd00::1]:22"),
        ] {
            assert_eq!(target(&args(host)).unwrap().to_string(), target_text);
        }
        for host in ["", "a b", "127.1", "fd00::1%eth0"] {
            assert!(target(&args(host)).is_err(), "{host}");
        }
    }

    #[test]
    fn the_end_of_input_is_passed_on_and_a_closed_connection_ends_the_wait() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (mut typed, input) = UnixStream::pair().unwrap();
        let input = File::from(std::os::fd::OwnedFd::from(input));
        typed.write_all(b"typed").unwrap();
        drop(typed);
        send(input, near.try_clone().unwrap()).unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "typed");

        // Nothing is typed any more, and the other side goes.
        let (near, far) = UnixStream::pair().unwrap();
        let (_typed, input) = UnixStream::pair().unwrap();
        drop(far);
        send(File::from(std::os::fd::OwnedFd::from(input)), near).unwrap();
    }
}
