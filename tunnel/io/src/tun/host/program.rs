//! Programs of the system, run for what has no stabler interface.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// Runs a program with this input; what it says is the error when it fails.
pub(super) fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("`{program}`: {error}"));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(named)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why on its own.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(named)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("nothing");
    Err(io::Error::other(format!(
        "`{program}` failed ({}): {said}",
        output.status
    )))
}
