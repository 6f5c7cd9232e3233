//! The daemon's side of the helper: starts it, keeps it, and has sockets made by it.
//!
//! One thread owns the process. It starts it (the kernel ends the helper with the *thread* that started it, so this must be
//! one that lives as long), reads every answer, and waits for its end. Who wants sockets asks over the same channel: one
//! packet is one request, so askers need no lock. Sockets wait ready-made in a pool, a batch at a time, because a round
//! trip to another process for each connection would be the slowest part of opening it.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustix::net::{SendFlags, Shutdown, shutdown};
use tokio::sync::{Mutex, mpsc as queue};
use tokio_util::sync::CancellationToken;

use super::NamespaceError;
use super::channel;
use super::inside::ARGUMENT;
use super::message::{MAX_DESCRIPTORS, Reply, Request, SocketKind, Step};

/// How long the helper may take to set up; it takes some 10 ms.
const SET_UP: Duration = Duration::from_secs(5);

/// Sockets of one kind that wait: two batches, so that one is being made while the other is used. When there is no room a
/// socket that comes is closed.
const POOL: usize = 2 * MAX_DESCRIPTORS;

/// Stack of the owning thread, in bytes: it calls the kernel and holds one packet.
const STACK: usize = 128 * 1024;

/// A namespace with its helper. Dropping it ends the helper; [`Helper::ended`] tells when it has.
#[derive(Debug)]
pub(super) struct Helper {
    channel: Arc<OwnedFd>,
    pools: [Pool; 4],
    ended: CancellationToken,
}

/// What a set-up gives.
#[derive(Debug)]
pub(super) struct SetUp {
    pub(super) helper: Helper,
    pub(super) tun: OwnedFd,
    pub(super) congestion: String,
}

/// Ready-made sockets of one kind.
#[derive(Debug)]
struct Pool {
    kind: SocketKind,
    ready: Mutex<queue::Receiver<io::Result<OwnedFd>>>,
    /// Whether a batch was asked for that has not come.
    asked: Arc<AtomicBool>,
}

/// The owning thread's end of a pool.
struct Supply {
    kind: SocketKind,
    made: queue::Sender<io::Result<OwnedFd>>,
    asked: Arc<AtomicBool>,
}

impl Helper {
    /// Starts `program` as the helper and waits until its namespace stands.
    pub(super) fn start(program: PathBuf, mtu: u16, addresses: Vec<IpAddr>) -> Result<SetUp, NamespaceError> {
        let (near, far) = channel::pair().map_err(NamespaceError::Process)?;
        let channel = Arc::new(near);
        let (pools, supplies): (Vec<_>, Vec<_>) = SocketKind::ALL.into_iter().map(pool).unzip();
        let ended = CancellationToken::new();
        let (told, outcome) = mpsc::sync_channel(1);
        let owner = Owner {
            channel: Arc::clone(&channel),
            supplies,
            ended: ended.clone(),
        };
        std::thread::Builder::new()
            .name("orfe-namespace".into())
            .stack_size(STACK)
            .spawn(move || owner.run(&program, far, &Request::SetUp { mtu, addresses }, &told))
            .map_err(NamespaceError::Process)?;
        let helper = Self {
            channel,
            // There are as many pools as kinds.
            pools: pools.try_into().map_err(|_| NamespaceError::NoAnswer)?,
            ended,
        };
        // On every error the helper is dropped here, which ends the thread as well.
        match outcome.recv_timeout(SET_UP) {
            Ok(Ok((tun, congestion))) => Ok(SetUp {
                helper,
                tun,
                congestion,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NamespaceError::NoAnswer),
        }
    }

    /// A socket of the namespace. Waits for the helper when none is ready.
    pub(super) async fn socket(&self, kind: SocketKind) -> io::Result<OwnedFd> {
        let pool = &self.pools[kind as usize];
        let mut ready = pool.ready.lock().await;
        if ready.len() < MAX_DESCRIPTORS && !pool.asked.swap(true, Ordering::AcqRel) {
            self.ask(pool)
                .inspect_err(|_| pool.asked.store(false, Ordering::Release))?;
        }
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the namespace helper has ended");
        ready.recv().await.ok_or_else(gone)?
    }

    fn ask(&self, pool: &Pool) -> io::Result<()> {
        // A batch for streams. Datagram sockets are wanted one by one.
        let count = match pool.kind {
            SocketKind::Tcp4 | SocketKind::Tcp6 => MAX_DESCRIPTORS as u8,
            SocketKind::Udp4 | SocketKind::Udp6 => 1,
        };
        let request = Request::Sockets {
            kind: pool.kind,
            count,
        };
        // At most one request of each kind is under way, so there is always room.
        channel::send(&self.channel, &request.encode(), &[], SendFlags::DONTWAIT)
    }

    /// Resolves when the helper has ended, for whatever reason.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Lets the helper end: both sides see the end of the channel, the helper exits, and the thread waits for that.
    pub(super) fn close(&self) {
        let _ = shutdown(&self.channel, Shutdown::Both);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.close();
    }
}

fn pool(kind: SocketKind) -> (Pool, Supply) {
    let (made, ready) = queue::channel(POOL);
    let asked = Arc::new(AtomicBool::new(false));
    let pool = Pool {
        kind,
        ready: Mutex::new(ready),
        asked: Arc::clone(&asked),
    };
    (pool, Supply { kind, made, asked })
}

/// What the owning thread has.
struct Owner {
    channel: Arc<OwnedFd>,
    supplies: Vec<Supply>,
    ended: CancellationToken,
}

type Outcome = Result<(OwnedFd, String), NamespaceError>;

impl Owner {
    fn run(self, program: &Path, far: OwnedFd, set_up: &Request, told: &mpsc::SyncSender<Outcome>) {
        let _ended = self.ended.clone().drop_guard();
        let mut child = match start(program, far) {
            Ok(child) => child,
            Err(error) => {
                // Whoever waits may have given up.
                let _ = told.send(Err(NamespaceError::Process(error)));
                return;
            }
        };
        let outcome = self.set_up(set_up);
        let stands = outcome.is_ok();
        if told.send(outcome).is_ok() && stands {
            self.supply();
        }
        // It ends by itself when the channel is closed; after this it has ended, whatever it was doing.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn set_up(&self, request: &Request) -> Outcome {
        // A helper that died at once shows here or in the next line, either way without an answer.
        let sent = channel::send(&self.channel, &request.encode(), &[], SendFlags::empty());
        sent.map_err(|_| NamespaceError::NoAnswer)?;
        let (bytes, mut descriptors) =
            channel::receive(&self.channel).map_err(|_| NamespaceError::NoAnswer)?;
        match (Reply::decode(&bytes), descriptors.pop()) {
            (Ok(Reply::Ready { congestion }), Some(tun)) => Ok((tun, congestion)),
            (Ok(Reply::Failed { step, errno }), _) => Err(NamespaceError::Refused {
                step,
                source: io::Error::from_raw_os_error(errno),
            }),
            _ => Err(NamespaceError::NoAnswer),
        }
    }

    /// Passes sockets on until the channel is closed.
    fn supply(&self) {
        loop {
            match channel::receive(&self.channel) {
                Ok((bytes, _)) if bytes.is_empty() => return,
                Ok((bytes, sockets)) => match Reply::decode(&bytes) {
                    Ok(Reply::Sockets { kind }) => self.put(kind, sockets),
                    Ok(Reply::SocketFailed { kind, errno }) => {
                        self.supply_of(kind).fail(io::Error::from_raw_os_error(errno));
                    }
                    _ => return,
                },
                Err(_) => return,
            }
        }
    }

    fn put(&self, kind: SocketKind, sockets: Vec<OwnedFd>) {
        let supply = self.supply_of(kind);
        if sockets.is_empty() {
            // They were made and found no place here: this process has as many descriptors as it may have.
            supply.fail(io::Error::from_raw_os_error(libc::EMFILE));
            return;
        }
        supply.asked.store(false, Ordering::Release);
        for socket in sockets {
            // When there is no room the rest is closed.
            if supply.made.try_send(Ok(socket)).is_err() {
                break;
            }
        }
    }

    fn supply_of(&self, kind: SocketKind) -> &Supply {
        debug_assert_eq!(self.supplies[kind as usize].kind, kind);
        &self.supplies[kind as usize]
    }
}

impl Supply {
    fn fail(&self, error: io::Error) {
        self.asked.store(false, Ordering::Release);
        // With sockets enough that there is no room, nobody waits for an answer.
        let _ = self.made.try_send(Err(error));
    }
}

/// Starts the helper with the channel as its standard input, no environment, and nothing else of ours.
///
/// It stays in our session, which the reaper of orphans relies on, and has a process group of its own, so that a Ctrl-C in
/// a terminal reaches the daemon alone.
pub(super) fn start(program: &Path, channel: OwnedFd) -> io::Result<Child> {
    Command::new(program)
        .arg(ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(channel))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// Why a step was refused, as far as a person can do something about it.
pub(super) fn hint(step: Step, source: &io::Error) -> Option<&'static str> {
    let denied = matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    match (step, source.raw_os_error()) {
        (Step::Unshare, Some(libc::ENOSPC | libc::EUSERS)) => Some(
            "the kernel's limit on namespaces is reached: `sysctl user.max_user_namespaces user.max_net_namespaces` \
             must both be above 0",
        ),
        (Step::Unshare, Some(libc::EINVAL | libc::ENOSYS)) => {
            Some("this kernel was built without user or network namespaces")
        }
        (Step::Unshare, _) if denied => Some(
            "in a container its seccomp profile refuses this, in a systemd unit RestrictNamespaces= has to allow `user` \
             and `net`, and `sysctl kernel.unprivileged_userns_clone` has to be 1 where it exists",
        ),
        (Step::OpenTun, _) => Some(
            "/dev/net/tun has to exist and be open to this user: `modprobe tun`, `--device /dev/net/tun` for a container, \
             DeviceAllow=/dev/net/tun in a systemd unit",
        ),
        (
            Step::MapUsers | Step::Loopback | Step::MakeTun | Step::Configure | Step::Address | Step::Route,
            _,
        ) if denied => Some(
            "AppArmor lets programs make user namespaces without rights in them (Ubuntu 23.10 and later): give orfe a \
                 profile with `userns,`, or set `sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_can_do_depends_on_what_was_refused() {
        let hint = |step, errno| hint(step, &io::Error::from_raw_os_error(errno)).unwrap_or_default();
        assert!(hint(Step::Unshare, libc::ENOSPC).contains("max_user_namespaces"));
        assert!(hint(Step::Unshare, libc::EPERM).contains("seccomp"));
        assert!(hint(Step::Unshare, libc::EPERM).contains("RestrictNamespaces"));
        assert!(hint(Step::MapUsers, libc::EACCES).contains("AppArmor"));
        assert!(hint(Step::MakeTun, libc::EPERM).contains("AppArmor"));
        assert!(hint(Step::OpenTun, libc::ENOENT).contains("/dev/net/tun"));
        assert_eq!(hint(Step::Offload, libc::EINVAL), "");
    }
}
