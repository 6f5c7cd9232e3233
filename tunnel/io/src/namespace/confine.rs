//! What the helper process may not do: see others, be seen by others, outlive the daemon, keep a right.
//!
//! As an ordinary user it makes a user namespace, in which it has every right until [`drop_rights`]. As root it needs none.
//! Afterwards it holds **no** capability in any namespace: making sockets takes none, and neither does asking for BBR, which
//! the kernel leaves to everyone.

use std::fs;
use std::io;

use rustix::process::{
    DumpableBehavior, Gid, Signal, Uid, geteuid, getgid, getuid, set_dumpable_behavior,
    set_parent_process_death_signal,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capabilities, clear_ambient_capability_set,
    set_capabilities, set_name, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    unshare_unsafe,
};

use super::message::Step;

/// `nobody` and `nogroup` on every distribution that has them, and the kernel's own overflow number elsewhere.
const NOBODY: u32 = 65534;

/// Ties the process to the daemon: it dies when the thread that started it ends, and keeps nothing open but its channel.
pub(super) fn confine() -> io::Result<()> {
    // What `ps` and `top` show; it would be `exe`.
    let _ = set_name(c"orfe-namespace");
    die_with_the_daemon()?;
    close_all_but_standard()
}

fn die_with_the_daemon() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

#[expect(unsafe_code, reason = "there is no safe wrapper for close_range(2)")]
fn close_all_but_standard() -> io::Result<()> {
    // SAFETY: nothing in this process owns a descriptor above 2 yet: this runs before anything was opened, so what is
    // closed was inherited.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Before Linux 5.9. What the daemon opens is closed when a program starts anyway.
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}

/// Moves the process into a network namespace of its own, and, unless it is root with the rights for that, into a user
/// namespace that owns it.
pub(super) fn enter_namespace() -> Result<(), (Step, io::Error)> {
    if may_administer_networks() && unshare(UnshareFlags::NEWNET).is_ok() {
        return Ok(());
    }
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET).map_err(|error| (Step::Unshare, error))?;
    // The order is the kernel's: a group map may be written only after setgroups(2) was given up (user_namespaces(7)).
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {user} 1")),
        ("/proc/self/gid_map", format!("0 {group} 1")),
    ];
    let mapped = maps.iter().try_for_each(|(path, map)| fs::write(path, map));
    // Root may be mapped only by who had CAP_SETFCAP (Linux 5.12), which a container that drops all rights has not. It needs no
    // map either: the rights in the namespace are there without one, and the files that it opens are root's or everyone's.
    mapped.or_else(|error| {
        if user == 0 {
            Ok(())
        } else {
            Err((Step::MapUsers, error))
        }
    })
}

/// Whether what is in a network namespace without a user namespace of ours could be set up at all: root of a container often
/// may make one and not do that.
fn may_administer_networks() -> bool {
    let sets = capabilities(None);
    geteuid().is_root() && sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

/// Moves the process into a further network namespace; the one that it leaves lives on by its descriptors.
pub(super) fn enter_another() -> Result<(), (Step, io::Error)> {
    unshare(UnshareFlags::NEWNET).map_err(|error| (Step::Unshare, error))
}

#[expect(
    unsafe_code,
    reason = "unshare(2) is unsafe for flags that take descriptors away"
)]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only `FILES` could take a descriptor from another thread. The flags are `NEWUSER` and `NEWNET`, and this
    // process has one thread.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Gives up every right that is left, for good.
///
/// Being non-dumpable comes last but for the death signal: the kernel gives the files of a non-dumpable process in /proc to
/// root, and the maps could not be written any more. Changing the user clears the death signal, so that is set again.
pub(super) fn drop_rights() -> io::Result<()> {
    if geteuid().is_root() {
        become_nobody();
    }
    // Without an ambient set (Linux before 4.3) there is nothing to clear.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    die_with_the_daemon()
}

/// Root without capabilities still owns root's files. In a user namespace of our own, and in containers without such a
/// user, there is no other user to become, and what is given up with the capabilities has to do.
fn become_nobody() {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let _ = set_thread_groups(&[]);
    let _ = set_thread_res_gid(group, group, group);
    let _ = set_thread_res_uid(user, user, user);
}
