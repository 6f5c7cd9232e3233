//! Ids by `gethostuuid` and sysctl.
#![expect(
    unsafe_code,
    reason = "the libc calls have no safe wrapper among our dependencies"
)]

use std::io;

pub(crate) use crate::imp::unix::machine::{free_space, hostname};

pub(crate) fn machine_id() -> io::Result<String> {
    use std::fmt::Write as _;

    let mut id = [0_u8; 16];
    let timeout = libc::timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    // SAFETY: `id` has the 16 bytes of a `uuid_t`, and both pointers live through the call.
    if unsafe { libc::gethostuuid(id.as_mut_ptr(), &raw const timeout) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut text = String::with_capacity(32);
    for byte in id {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

pub(crate) fn boot_id() -> io::Result<String> {
    let mut value = [0_u8; 64];
    let mut length = value.len();
    // SAFETY: the name is a C string, `length` is the buffer's size, and nothing is set.
    let failed = unsafe {
        libc::sysctlbyname(
            c"kern.bootsessionuuid".as_ptr(),
            value.as_mut_ptr().cast(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    let text = value[..length.min(value.len())]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}
