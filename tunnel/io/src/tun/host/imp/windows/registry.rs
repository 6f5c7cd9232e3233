//! The few things that are done with the registry.
#![expect(
    unsafe_code,
    reason = "the registry has no safe wrapper among our dependencies"
)]

use std::io;
use std::ptr;

use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_SUCCESS, WIN32_ERROR};
use windows_sys::Win32::System::Registry::{
    HKEY, HKEY_LOCAL_MACHINE, KEY_READ, KEY_WRITE, REG_OPTION_NON_VOLATILE, RegCloseKey, RegCreateKeyExW,
    RegDeleteTreeW, RegOpenKeyExW, RegQueryInfoKeyW, RegSetValueExW,
};

use crate::tun::host::imp::name_rule::Value;

/// `HKEY_LOCAL_MACHINE`.
pub(super) const MACHINE: Root = Root(HKEY_LOCAL_MACHINE);

/// One of the keys that are always open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root(HKEY);

/// An open key.
struct Key(HKEY);

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: the key is open, and nobody else closes it.
        unsafe { RegCloseKey(self.0) };
    }
}

/// Makes a key with these values. One that is there already gets them.
pub(super) fn set(root: Root, path: &str, values: &[(&str, Value)]) -> io::Result<()> {
    let path = wide(path);
    let mut key = ptr::null_mut();
    // SAFETY: `path` ends with a zero and lives through the call, as `key` does; what is null may be.
    let code = unsafe {
        RegCreateKeyExW(
            root.0,
            path.as_ptr(),
            0,
            ptr::null(),
            REG_OPTION_NON_VOLATILE,
            KEY_WRITE,
            ptr::null(),
            &raw mut key,
            ptr::null_mut(),
        )
    };
    checked(code)?;
    let key = Key(key);
    for (name, value) in values {
        let (name, bytes) = (wide(name), value.bytes());
        // SAFETY: the key is open, `name` ends with a zero, `bytes` is as long as is said, and both live through the call.
        let code = unsafe {
            RegSetValueExW(
                key.0,
                name.as_ptr(),
                0,
                value.kind(),
                bytes.as_ptr(),
                bytes.len() as u32,
            )
        };
        checked(code)?;
    }
    Ok(())
}

/// Deletes a key with all that is in it. That there is none is no error.
pub(super) fn delete(root: Root, path: &str) -> io::Result<()> {
    let path = wide(path);
    // SAFETY: `path` ends with a zero and lives through the call.
    match unsafe { RegDeleteTreeW(root.0, path.as_ptr()) } {
        ERROR_FILE_NOT_FOUND => Ok(()),
        code => checked(code),
    }
}

/// Whether there are keys below this one. There are none when it is not there itself.
pub(super) fn has_keys(root: Root, path: &str) -> io::Result<bool> {
    let path = wide(path);
    let mut key = ptr::null_mut();
    // SAFETY: `path` ends with a zero and lives through the call, as `key` does.
    match unsafe { RegOpenKeyExW(root.0, path.as_ptr(), 0, KEY_READ, &raw mut key) } {
        ERROR_FILE_NOT_FOUND => return Ok(false),
        code => checked(code)?,
    }
    let key = Key(key);
    let mut keys = 0;
    // SAFETY: the key is open and `keys` lives through the call; what is null is not asked for.
    let code = unsafe {
        RegQueryInfoKeyW(
            key.0,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null(),
            &raw mut keys,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    checked(code)?;
    Ok(keys > 0)
}

fn checked(code: WIN32_ERROR) -> io::Result<()> {
    if code == ERROR_SUCCESS {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code.cast_signed()))
    }
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use windows_sys::Win32::System::Registry::HKEY_CURRENT_USER;

    use super::*;

    #[test]
    fn a_key_is_made_seen_and_deleted() {
        let user = Root(HKEY_CURRENT_USER);
        let folder = format!(r"Software\OrfeTest\{}", std::process::id());
        let rule = format!(r"{folder}\{{0}}");
        assert!(!has_keys(user, &folder).unwrap());
        let values = [
            ("Number", Value::Number(8)),
            ("Texts", Value::Texts(vec!["a".to_owned(), ".a".to_owned()])),
        ];
        for _ in 0..2 {
            set(user, &rule, &values).unwrap();
            assert!(has_keys(user, &folder).unwrap());
        }
        assert!(!has_keys(user, &rule).unwrap());
        for _ in 0..2 {
            delete(user, &rule).unwrap();
            assert!(!has_keys(user, &folder).unwrap());
        }
        delete(user, r"Software\OrfeTest").unwrap();
    }
}
