//! Text as the system's calls want it.

use std::ffi::OsStr;
use std::os::windows::ffi::OsStrExt as _;

/// UTF-16 with a closing zero.
pub(crate) fn wide(text: &OsStr) -> Vec<u16> {
    text.encode_wide().chain([0]).collect()
}
