//! Ids by the registry.
#![expect(
    unsafe_code,
    reason = "the system's calls have no safe wrapper among our dependencies"
)]

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;
use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, REG_ROUTINE_FLAGS, RRF_RT_REG_DWORD, RRF_RT_REG_SZ, RRF_SUBKEY_WOW6464KEY,
    RegGetValueW,
};
use windows_sys::Win32::System::SystemInformation::{ComputerNamePhysicalDnsHostname, GetComputerNameExW};

use super::text::wide;

pub(crate) fn machine_id() -> io::Result<String> {
    let mut value = [0_u16; 64];
    let flags = RRF_RT_REG_SZ | RRF_SUBKEY_WOW6464KEY;
    let bytes = registry(
        r"SOFTWARE\Microsoft\Cryptography",
        "MachineGuid",
        flags,
        &mut value,
    )?;
    let text = String::from_utf16_lossy(&value[..bytes / 2]);
    Ok(text.trim_end_matches('\0').to_owned())
}

pub(crate) fn boot_id() -> io::Result<String> {
    // Counted up by the system at each start.
    let key = r"SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters";
    let mut value = [0_u16; 2];
    registry(key, "BootId", RRF_RT_REG_DWORD, &mut value)?;
    Ok(format!(
        "boot-{:08}",
        u32::from(value[0]) | u32::from(value[1]) << 16
    ))
}

/// Reads a value of the local machine's registry into `buffer`; returns how many bytes it has.
fn registry(key: &str, name: &str, flags: REG_ROUTINE_FLAGS, buffer: &mut [u16]) -> io::Result<usize> {
    let (key, name) = (wide(OsStr::new(key)), wide(OsStr::new(name)));
    let mut bytes = u32::try_from(size_of_val(buffer)).map_err(io::Error::other)?;
    // SAFETY: both names end with zero, `bytes` is the buffer's size, and all live through the call.
    let status = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            name.as_ptr(),
            flags,
            std::ptr::null_mut(),
            buffer.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if status != 0 {
        return Err(io::Error::from_raw_os_error(status.cast_signed()));
    }
    Ok(bytes as usize)
}

pub(crate) fn hostname() -> io::Result<String> {
    let mut name = [0_u16; 256];
    let mut length = name.len() as u32;
    // SAFETY: `length` is the buffer's size in characters, and both live through the call.
    let done = unsafe {
        GetComputerNameExW(
            ComputerNamePhysicalDnsHostname,
            name.as_mut_ptr(),
            &raw mut length,
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(String::from_utf16_lossy(&name[..length as usize]))
}

pub(crate) fn free_space(path: &Path) -> io::Result<u64> {
    let path = wide(path.as_os_str());
    let mut available = 0_u64;
    // SAFETY: the path ends with zero; the two totals that we do not ask for may be null.
    let done = unsafe {
        GetDiskFreeSpaceExW(
            path.as_ptr(),
            &raw mut available,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if done == 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(available)
    }
}
